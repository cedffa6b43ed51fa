//! `MAILS_PER_DAY`: how many mails the whole site sends per day.

use crate::base::{Error, Rate, Result};
use crate::db::Database;
use crate::db::rate_limit::{self, Key};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A tenth of the mails is reserved for the `essential` kinds.
#[derive(Clone)]
pub struct DailyLimit {
    key: Key,
    rate: Rate,
    essential: &'static [&'static str],
}

impl DailyLimit {
    pub fn new(mails: u32, essential: &'static [&'static str]) -> DailyLimit {
        DailyLimit { key: Key::new("mails", "day"), rate: Rate { times: mails, per: DAY }, essential }
    }

    /// Counts a mail of this kind. Returns whether it may be sent; if not, it is not counted.
    pub async fn take(&self, db: &Database, kind: &str) -> Result<bool> {
        let kept = if self.essential.contains(&kind) { 0 } else { self.rate.times.div_ceil(10) };
        match db.write_relaxed(async |db| rate_limit::take_keeping(db, &self.key, self.rate, kept).await).await {
            Err(Error::TooMany(_)) => Ok(false),
            taken => taken.map(|()| true),
        }
    }

    /// For a mail that was not delivered.
    pub async fn give_back(&self, db: &Database) -> Result<()> {
        db.write_relaxed(async |db| rate_limit::give_back(db, &self.key, self.rate).await).await
    }
}
