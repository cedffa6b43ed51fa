//! Counts attempts at passwords before they are verified.
//!
//! An attempt is counted and recorded as failed in one transaction, so it is visible to the user even if the client
//! disconnects or the process ends. A right password takes both back, and so does an attempt that cannot be decided.

use crate::accounts::event::{self, Cause, Event};
use crate::accounts::{client::Client, user};
use crate::base::{Backoff, Result};
use crate::db::rate_limit::{self, AddressLimit, Key};
use crate::db::{Connection, Database, now_in_milliseconds, refusals::Refusals};
use std::sync::OnceLock;
use std::time::Duration;

pub const LOG_IN_FAILED: Event = Event::named("log_in_failed", "Wrong password").caused_by(Cause::Intruder);
pub const THROTTLED: Event = Event::named("throttled", "Too many wrong passwords: further attempts have to wait")
    .caused_by(Cause::Intruder)
    .with_notice(
        "Too many wrong passwords",
        "Someone entered several wrong passwords for your account. Further attempts have to wait a while. If it \
         was not you, you do not need to do anything: nobody got into your account.",
    );

/// The counters of an attempt. A device that the user has logged in with before has its own, so that guessing cannot
/// lock the owner out. All others share those of the account and of their network address.
pub struct AttemptBudget {
    backoff: Backoff,
    /// Only for unknown devices.
    address: Option<AddressLimit>,
    /// The name as typed on an unknown device. If there is one, only its counter can refuse an attempt as too early. A
    /// refusal by the account's counter would reveal which username and e-mail address belong together.
    typed: Option<Key>,
    /// That of the account or the device.
    own: Key,
    spent: OnceLock<Spent>,
}

/// What an attempt was counted as.
struct Spent {
    user_id: String,
    /// When, in milliseconds.
    at: i64,
    /// The number of this attempt in a row, by the typed name and by the account or device, if it counts there.
    typed: Option<i64>,
    own: Option<i64>,
    /// The ids of the events that record it as failed. It counts as long as they exist.
    events: Vec<String>,
}

/// Checks whether this process remembers that such an attempt has to be refused.
///
/// # Errors
/// [`crate::base::error::Error::TooMany`] when it does.
pub fn check_remembered(refusals: &Refusals, address: Option<&AddressLimit>, decides: &Key) -> Result<()> {
    address.map_or(Ok(()), |address| address.check_remembered(refusals))?;
    refusals.check(decides)
}

impl AttemptBudget {
    pub fn of_device(id: &str, backoff: Backoff) -> AttemptBudget {
        AttemptBudget { backoff, address: None, typed: None, own: Key::new("device", id), spent: OnceLock::new() }
    }

    pub fn of_account(account: Key, typed: Option<Key>, address: AddressLimit, backoff: Backoff) -> AttemptBudget {
        AttemptBudget { backoff, address: Some(address), typed, own: account, spent: OnceLock::new() }
    }

    /// Checks whether the attempt comes too early. This takes no locks, so a flood of refused attempts does not delay
    /// others, especially the user, whose row [`AttemptBudget::spend`] locks.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] when it would.
    pub async fn check(&self, db: &Database) -> Result<()> {
        let decides = self.typed.as_ref().unwrap_or(&self.own);
        check_remembered(&db.refusals, self.address.as_ref(), decides)?;
        let check = async |db: &mut Connection| {
            if let Some(address) = &self.address {
                address.check(db).await?;
            }
            rate_limit::check_attempt(db, decides, self.backoff).await
        };
        db.read(check).await
    }

    /// Counts the attempt, and records that it failed. It is decided `within` this time.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] when it comes too early.
    // All of these lock the user first, if there is one, then the address, and the account last, so that transactions
    // do not deadlock.
    pub async fn spend(
        &self,
        db: &mut Connection,
        user_id: Option<&str>,
        client: &Client,
        within: Duration,
    ) -> Result<()> {
        // A user who has just been deleted must not be named in an event.
        let locked = user_id.unwrap_or_default();
        let exists = user::lock(db, locked).await?.is_some();
        if let Some(address) = &self.address {
            address.take(db).await?;
        }
        // One time for both, so that the account's wait ends together with that of its name.
        let (backoff, at) = (self.backoff, now_in_milliseconds());
        let (typed, own) = match &self.typed {
            Some(typed) => (
                Some(rate_limit::attempt(db, typed, user_id, backoff, at).await?),
                rate_limit::count(db, &self.own, user_id, backoff, at).await?,
            ),
            None => (None, Some(rate_limit::attempt(db, &self.own, user_id, backoff, at).await?)),
        };
        let (throttles, mut events) = (own == Some(backoff.free), Vec::new());
        for event in [Some(LOG_IN_FAILED), throttles.then_some(THROTTLED)].into_iter().flatten() {
            let user_id = user_id.filter(|_| exists);
            events.push(event::record_provisionally(db, user_id, event.by(client), within).await?);
        }
        self.spent.get_or_init(|| Spent { user_id: locked.into(), at, typed, own, events });
        Ok(())
    }

    /// Whether the right password is accepted: not while the account has to wait, nor on an unknown device after `most`
    /// failures (NIST SP 800-63B-4, 3.2.2).
    pub fn accepts(&self, most: i64) -> bool {
        let own = self.spent.get().and_then(|spent| spent.own);
        own.is_some_and(|count| self.address.is_none() || count <= most)
    }

    /// After a right password: resets the counts, and takes back the event.
    pub async fn reset(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for key in self.typed.iter().chain([&self.own]) {
            rate_limit::reset(db, key).await?;
        }
        self.take_events_back(db).await?;
        Ok(())
    }

    /// After an attempt that was not decided: gives back its counts, once, and only if they were committed.
    pub async fn refund(&self, db: &mut Connection) -> Result<()> {
        let Some(spent) = self.spent.get() else { return Ok(()) };
        user::lock(db, &spent.user_id).await?;
        if !self.take_events_back(db).await? {
            return Ok(());
        }
        self.give_back_address(db).await?;
        for (key, count) in [(self.typed.as_ref(), spent.typed), (Some(&self.own), spent.own)] {
            if let (Some(key), Some(count)) = (key, count) {
                rate_limit::give_back_attempt(db, key, count, self.backoff, spent.at).await?;
            }
        }
        Ok(())
    }

    /// Returns whether they existed.
    async fn take_events_back(&self, db: &mut Connection) -> Result<bool> {
        let mut were_there = false;
        for id in self.spent.get().iter().flat_map(|spent| &spent.events) {
            were_there |= event::take_back(db, id).await?;
        }
        Ok(were_there)
    }

    async fn give_back_address(&self, db: &mut Connection) -> Result<()> {
        match &self.address {
            Some(address) => address.give_back(db).await,
            None => Ok(()),
        }
    }
}
