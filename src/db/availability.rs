//! What is known of the database and of the connections to it: whether it takes writes, and which connections are too old
//! to be trusted.

use crate::base::Error;
use crate::base::error::is_lost_connection;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Default)]
pub struct Availability(Arc<State>);

#[derive(Default)]
struct State {
    refuses_writes: AtomicBool,
    /// When writes began to succeed again.
    writable_since: Moment,
    /// When a connection was last lost.
    lost_at: Moment,
}

type Moment = Mutex<Option<Instant>>;

impl Availability {
    /// Whether the last write, or the last try of one, succeeded.
    pub fn can_write(&self) -> bool {
        !self.0.refuses_writes.load(Relaxed)
    }

    /// The database refuses writes. Returns whether that is new.
    pub fn refuse_writes(&self) -> bool {
        !self.0.refuses_writes.swap(true, Relaxed)
    }

    /// The database takes writes again.
    pub fn accept_writes(&self) {
        *lock(&self.0.writable_since) = Some(Instant::now());
        self.0.refuses_writes.store(false, Relaxed);
    }

    /// Whether a connection opened at this moment may lead to a server that has been replaced.
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

    /// Whether a connection opened at this moment may be lost as another was.
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
