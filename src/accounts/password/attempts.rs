//! Counts attempts at passwords, before they are verified.

use crate::accounts::event::{self, Cause, Event};
use crate::accounts::{client::Client, user};
use crate::base::{Backoff, Rate, Result};
use crate::db::rate_limit::{self, Key};
use crate::db::{Connection, now_in_milliseconds};

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
    address: Option<(Key, Rate)>,
    /// The name as it was typed on an unknown device. If there is one, only this counter
    /// can refuse an attempt as too early. Refusing by the account's counter would reveal which username and which e-mail
    /// address belong together.
    typed: Option<Counter>,
    /// The account's or the device's.
    own: Counter,
    /// When the attempt was counted, in milliseconds.
    at: i64,
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

impl AttemptBudget {
    pub fn of_device(id: &str, backoff: Backoff) -> AttemptBudget {
        let own = Counter::new(Key::new("device", id));
        AttemptBudget { backoff, address: None, typed: None, own, at: 0 }
    }

    pub fn of_account(account: Key, typed: Option<Key>, address: (Key, Rate), backoff: Backoff) -> AttemptBudget {
        AttemptBudget {
            backoff,
            address: Some(address),
            typed: typed.map(Counter::new),
            own: Counter::new(account),
            at: 0,
        }
    }

    /// Counts the attempt.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] when it comes too early.
    // In all of these the address comes first and the account last, so that no two transactions deadlock.
    pub async fn spend(&mut self, db: &mut Connection, user_id: Option<&str>) -> Result<()> {
        if let Some((key, rate)) = &self.address {
            rate_limit::take(db, key, *rate).await?;
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
        Ok(())
    }

    /// Whether the right password is accepted: not while the account has to wait, nor on an unknown device after `most`
    /// failures (NIST SP 800-63B-4, 3.2.2).
    pub fn accepts(&self, most: i64) -> bool {
        self.own.count.is_some_and(|count| self.address.is_none() || count <= most)
    }

    pub async fn record_failure(&self, db: &mut Connection, user_id: Option<&str>, client: &Client) -> Result<()> {
        // A user who has just been deleted is not named in an event any more.
        let exists = user::lock(db, user_id.unwrap_or_default()).await?.is_some();
        let user_id = user_id.filter(|_| exists);
        event::record(db, user_id, LOG_IN_FAILED.by(client)).await?;
        if self.own.count == Some(self.backoff.free) {
            event::record(db, user_id, THROTTLED.by(client)).await?;
        }
        Ok(())
    }

    /// After a right password: sets the counts to zero.
    pub async fn reset(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for counter in self.counters() {
            rate_limit::reset(db, &counter.key).await?;
        }
        Ok(())
    }

    /// After an attempt that was not verified: takes it back.
    pub async fn refund(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for counter in self.counters() {
            rate_limit::undo_attempt(db, &counter.key, counter.count, self.at).await?;
        }
        Ok(())
    }

    fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.typed.iter().chain([&self.own])
    }

    async fn give_back_address(&self, db: &mut Connection) -> Result<()> {
        match &self.address {
            Some((key, rate)) => rate_limit::give_back(db, key, *rate).await,
            None => Ok(()),
        }
    }
}
