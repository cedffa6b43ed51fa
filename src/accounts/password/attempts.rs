//! Counts attempts at passwords, before they are verified.
//!
//! An attempt counts and is recorded as failed in one transaction, so whoever disconnects in the middle, and whatever
//! becomes of the process, what counts is there for its user to see. A right password takes both back.

use crate::accounts::event::{self, Cause, Event};
use crate::accounts::{client::Client, user};
use crate::base::{Backoff, Result};
use crate::db::rate_limit::{self, AddressLimit, Key};
use crate::db::{Connection, Database, now_in_milliseconds, refusals::Refusals};
use std::time::Duration;

pub const LOG_IN_FAILED: Event = Event::named("log_in_failed", "A password was wrong").caused_by(Cause::Intruder);
pub const THROTTLED: Event = Event::named("throttled", "Too many wrong passwords: the next attempts have to wait")
    .caused_by(Cause::Intruder)
    .with_notice(
        "Too many wrong passwords",
        "Somebody tried several passwords for your account, and none was right. The next attempts have to wait a while. \
         If it was not you, you need not do anything: nobody has come in that way.",
    );

/// What an attempt is counted under. A device that the user has logged in with before has a budget of its own, so that
/// guessing cannot lock the owner out. Everybody else shares the account's, and that of their network address.
pub struct AttemptBudget {
    backoff: Backoff,
    /// Of unknown devices only.
    address: Option<AddressLimit>,
    /// The name as it was typed on an unknown device. If there is one, only this counter
    /// can refuse an attempt as too early. Refusing by the account's counter would reveal which username and which e-mail
    /// address belong together.
    typed: Option<Counter>,
    /// The account's or the device's.
    own: Counter,
    /// When the attempt was counted, in milliseconds.
    at: i64,
    /// The ids of the events that say that it failed.
    events: Vec<String>,
}

struct Counter {
    key: Key,
    /// The number of this attempt in a row, if it has been counted.
    count: Option<i64>,
}

impl Counter {
    fn new(key: Key) -> Counter {
        Counter { key, count: None }
    }
}

/// Looks whether this process has refused such an attempt, and remembers it.
///
/// # Errors
/// [`crate::base::error::Error::TooMany`] when it does.
pub fn check_remembered(refusals: &Refusals, address: Option<&AddressLimit>, decides: &Key) -> Result<()> {
    address.map_or(Ok(()), |address| address.check_remembered(refusals))?;
    refusals.check(decides)
}

impl AttemptBudget {
    pub fn of_device(id: &str, backoff: Backoff) -> AttemptBudget {
        let own = Counter::new(Key::new("device", id));
        AttemptBudget { backoff, address: None, typed: None, own, at: 0, events: Vec::new() }
    }

    pub fn of_account(account: Key, typed: Option<Key>, address: AddressLimit, backoff: Backoff) -> AttemptBudget {
        AttemptBudget {
            backoff,
            address: Some(address),
            typed: typed.map(Counter::new),
            own: Counter::new(account),
            at: 0,
            events: Vec::new(),
        }
    }

    /// Looks whether the attempt would come too early. This waits for nobody, so a crowd that is refused keeps nobody waiting,
    /// least of all the user, whose row [`AttemptBudget::spend`] locks.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] when it would.
    pub async fn check(&self, db: &Database) -> Result<()> {
        let decides = &self.typed.as_ref().unwrap_or(&self.own).key;
        check_remembered(&db.refusals, self.address.as_ref(), decides)?;
        let check = async |db: &mut Connection| {
            if let Some(address) = &self.address {
                address.check(db).await?;
            }
            rate_limit::check_attempt(db, decides, self.backoff).await
        };
        db.read(check).await
    }

    /// Counts the attempt, and records that it failed. Whether it did turns out `within` this time.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] when it comes too early.
    // In all of these the user comes first, if any, then the address, and the account last, so that no two transactions
    // deadlock.
    pub async fn spend(
        &mut self,
        db: &mut Connection,
        user_id: Option<&str>,
        client: &Client,
        within: Duration,
    ) -> Result<()> {
        // A user who has just been deleted is not named in an event any more.
        let exists = user::lock(db, user_id.unwrap_or_default()).await?.is_some();
        if let Some(address) = &self.address {
            address.take(db).await?;
        }
        // One time for both, so that the account has waited long enough as soon as its only name has.
        self.at = now_in_milliseconds();
        let (own, backoff, at) = (&mut self.own, self.backoff, self.at);
        match &mut self.typed {
            Some(typed) => {
                typed.count = Some(rate_limit::attempt(db, &typed.key, user_id, backoff, at).await?);
                own.count = rate_limit::count(db, &own.key, user_id, backoff, at).await?;
            }
            None => own.count = Some(rate_limit::attempt(db, &own.key, user_id, backoff, at).await?),
        }
        let throttles = own.count == Some(backoff.free);
        for event in [Some(LOG_IN_FAILED), throttles.then_some(THROTTLED)].into_iter().flatten() {
            let user_id = user_id.filter(|_| exists);
            self.events.push(event::record_provisionally(db, user_id, event.by(client), within).await?);
        }
        Ok(())
    }

    /// Whether the right password is accepted: not while the account has to wait, nor on an unknown device after `most`
    /// failures (NIST SP 800-63B-4, 3.2.2).
    pub fn accepts(&self, most: i64) -> bool {
        self.own.count.is_some_and(|count| self.address.is_none() || count <= most)
    }

    /// After a right password: sets the counts to zero, and takes back that it failed.
    pub async fn reset(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for counter in self.counters() {
            rate_limit::reset(db, &counter.key).await?;
        }
        self.take_events_back(db).await
    }

    /// After an attempt that was not verified: takes it back. If others have followed it, it still counts, and is still
    /// recorded.
    pub async fn refund(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        let mut still_counts = false;
        for counter in self.counters() {
            let is_undone = rate_limit::undo_attempt(db, &counter.key, counter.count, self.at).await?;
            still_counts |= counter.count.is_some() && !is_undone;
        }
        if still_counts { Ok(()) } else { self.take_events_back(db).await }
    }

    async fn take_events_back(&self, db: &mut Connection) -> Result<()> {
        for id in &self.events {
            event::take_back(db, id).await?;
        }
        Ok(())
    }

    fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.typed.iter().chain([&self.own])
    }

    async fn give_back_address(&self, db: &mut Connection) -> Result<()> {
        match &self.address {
            Some(address) => address.give_back(db).await,
            None => Ok(()),
        }
    }
}
