//! The state of the database and its connections: whether its file is there, whether it accepts writes, and which
//! connections are too old to be trusted.

use crate::base::error::is_lost_connection;
use crate::base::{Error, Result};
use anyhow::anyhow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Default)]
pub struct Availability(Arc<State>);

#[derive(Default)]
struct State {
    refuses_writes: AtomicBool,
    has_lost_file: AtomicBool,
    /// When writes began to succeed again, or the file was back.
    writable_since: Moment,
    /// When a connection was last lost.
    lost_at: Moment,
}

type Moment = Mutex<Option<Instant>>;

impl Availability {
    /// Whether the last write, or the last probe, succeeded.
    pub fn can_write(&self) -> bool {
        !self.0.refuses_writes.load(Relaxed)
    }

    /// The database rejects writes. Returns whether that is new.
    pub fn refuse_writes(&self) -> bool {
        !self.0.refuses_writes.swap(true, Relaxed)
    }

    /// The database accepts writes again.
    pub fn accept_writes(&self) {
        *lock(&self.0.writable_since) = Some(Instant::now());
        self.0.refuses_writes.store(false, Relaxed);
    }

    /// The file is not the one that was opened. Returns whether that is new.
    pub fn lose_file(&self) -> bool {
        !self.0.has_lost_file.swap(true, Relaxed)
    }

    /// The file is the one that was opened. Returns whether that is new. Connections that were opened in between may
    /// lead to another file.
    pub fn find_file(&self) -> bool {
        if !self.0.has_lost_file.load(Relaxed) {
            return false;
        }
        *lock(&self.0.writable_since) = Some(Instant::now());
        self.0.has_lost_file.swap(false, Relaxed)
    }

    /// # Errors
    /// [`Error::Unavailable`] while the file is not the one that was opened.
    pub fn check_file(&self) -> Result<()> {
        match self.0.has_lost_file.load(Relaxed) {
            true => Err(Error::Unavailable(anyhow!("the database file is not the one that was opened"))),
            false => Ok(()),
        }
    }

    /// Whether a connection opened at that time may lead to a server or file that has been replaced.
    pub fn is_outdated(&self, opened: Instant) -> bool {
        is_before(opened, &self.0.writable_since)
    }

    /// Work on a connection failed with this error.
    pub fn observe(&self, error: &Error) {
        if let Error::Unavailable(cause) = error
            && cause.downcast_ref().is_some_and(is_lost_connection)
        {
            *lock(&self.0.lost_at) = Some(Instant::now());
        }
    }

    /// Whether a connection opened at that time may be lost, as another one was.
    pub fn may_be_lost(&self, opened: Instant) -> bool {
        is_before(opened, &self.0.lost_at)
    }
}

fn lock(moment: &Moment) -> MutexGuard<'_, Option<Instant>> {
    moment.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_before(opened: Instant, moment: &Moment) -> bool {
    lock(moment).is_some_and(|moment| opened < moment)
}
