//! Rate limits, stored in the database: all replicas share them, and a restart keeps them. A check is one statement
//! that counts and decides, so simultaneous requests cannot all pass.
//!
//! [`take`] is for a number per duration (the generic cell rate algorithm, which needs one timestamp per key),
//! [`AddressLimit`] is the same per network address, and [`attempt`] is for attempts that have to wait longer after
//! each failure. Times here are milliseconds since 1970.

use super::clock::{SKEW, now_in_milliseconds};
use super::connection::Connection;
use super::database::Database;
pub use super::limit_key::Key;
use super::refusals::{Refusals, SHORT};
use crate::base::{Backoff, Error, Rate, Result, random};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The network of an IPv6 address, with a prefix of this length. An IPv4 address is returned unchanged.
pub fn network(address: IpAddr, length: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> (128 - length) << (128 - length)).into(),
        v4 => v4,
    }
}

/// The limit of a network address. A client with one IPv6 address controls its whole /64, and often a /56 or /48, so
/// these have limits too, which are higher.
pub struct AddressLimit(Vec<(Key, Rate)>);

/// The networks of an IPv6 address, and how many times the limit of a single address each has.
const NETWORKS: [(u32, u32); 3] = [(64, 1), (56, 4), (48, 16)];

impl AddressLimit {
    pub fn new(kind: &str, address: IpAddr, rate: Rate) -> AddressLimit {
        let address = address.to_canonical();
        if address.is_ipv4() {
            return AddressLimit(vec![(Key::new(kind, &address.to_string()), rate)]);
        }
        let limits = NETWORKS.map(|(length, factor)| {
            let key = Key::new(kind, &format!("{}/{length}", network(address, length)));
            (key, Rate { times: rate.times.saturating_mul(factor), ..rate })
        });
        AddressLimit(limits.to_vec())
    }

    /// Checks whether this process remembers that [`AddressLimit::take`] has to be refused.
    ///
    /// # Errors
    /// [`Error::TooMany`] when it would.
    pub fn check_remembered(&self, refusals: &Refusals) -> Result<()> {
        self.0.iter().try_for_each(|(key, _)| refusals.check(key))
    }

    /// Checks whether [`AddressLimit::take`] would be refused.
    ///
    /// # Errors
    /// [`Error::TooMany`] when it would.
    pub async fn check(&self, db: &mut Connection) -> Result<()> {
        for (key, rate) in &self.0 {
            let checked = check(db, key, *rate).await;
            db.refusals.remember(key, Duration::MAX, checked)?;
        }
        Ok(())
    }

    /// Like [`AddressLimit::take`], in its own transaction.
    ///
    /// # Errors
    /// As [`AddressLimit::take`].
    pub async fn take_alone(&self, db: &Database) -> Result<()> {
        self.check_remembered(&db.refusals)?;
        db.write_relaxed(async |db| self.take(db).await).await
    }

    /// Takes one from the allowance of each of its networks.
    ///
    /// # Errors
    /// [`Error::TooMany`] when one of them has none left. The counts of the others are rolled back with the
    /// transaction.
    // The smallest network first: it is used up most often, and the rows of large networks are shared by many.
    pub async fn take(&self, db: &mut Connection) -> Result<()> {
        for (key, rate) in &self.0 {
            let taken = take(db, key, *rate).await;
            db.refusals.remember(key, Duration::MAX, taken)?;
        }
        Ok(())
    }

    /// Returns what [`AddressLimit::take`] took.
    pub async fn give_back(&self, db: &mut Connection) -> Result<()> {
        for (key, rate) in &self.0 {
            give_back(db, key, *rate).await?;
        }
        Ok(())
    }
}

/// Takes one from the allowance.
///
/// # Errors
/// [`Error::TooMany`] when none is left; then nothing is counted.
pub async fn take(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    take_keeping(db, key, rate, 0).await
}

/// Like [`take`], but the last `kept` are reserved for others.
///
/// # Errors
/// As [`take`].
pub async fn take_keeping(db: &mut Connection, key: &Key, rate: Rate, kept: u32) -> Result<()> {
    let (now, interval, ahead) = (now_in_milliseconds(), interval(rate), ahead(rate, kept));
    // A time further ahead than the whole allowance was written while a clock was wrong. It counts as used up.
    let sql = "insert into limits (key, count, free_at) values ($1, 0, $2 + $3) on conflict (key) do update \
               set free_at = $3 + case when limits.free_at > $5 then $2 + $4 \
               when limits.free_at > $2 then limits.free_at else $2 end \
               where limits.free_at <= $2 + $4 or limits.free_at > $5";
    let query = sqlx::query(sql).bind(key.bytes()).bind(now).bind(interval).bind(ahead).bind(furthest(rate, now));
    if query.execute(&mut *db).await?.rows_affected() > 0 {
        return Ok(());
    }
    // The clock is read again, because the statement may have waited for a lock.
    Err(too_many(free_at(db, key).await? - ahead - now_in_milliseconds()))
}

/// Checks whether [`take`] would be refused.
async fn check(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    let (free_at, now) = (free_at(db, key).await?, now_in_milliseconds());
    if free_at > furthest(rate, now) { Ok(()) } else { refuse_if_positive(free_at - ahead(rate, 0) - now) }
}

fn refuse_if_positive(wait: i64) -> Result<()> {
    if wait > 0 { Err(too_many(wait)) } else { Ok(()) }
}

/// Like [`take`], but returns whether one was left.
pub async fn try_take(db: &mut Connection, key: &Key, rate: Rate) -> Result<bool> {
    match take(db, key, rate).await {
        Err(Error::TooMany(_)) => Ok(false),
        taken => taken.map(|()| true),
    }
}

/// Returns what [`take`] took.
pub async fn give_back(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    db.forget_refusal(key.clone());
    let sql = "update limits set free_at = free_at - $2 where key = $1";
    sqlx::query(sql).bind(key.bytes()).bind(interval(rate)).execute(db).await?;
    Ok(())
}

/// Milliseconds until one more is free.
fn interval(rate: Rate) -> i64 {
    (rate.per.as_millis() as i64 / i64::from(rate.times)).max(1)
}

/// How far ahead of time the allowance can be used, without the reserved ones.
fn ahead(rate: Rate, kept: u32) -> i64 {
    interval(rate) * (i64::from(rate.times) - i64::from(kept) - 1)
}

/// The latest time in a row of this rate, unless a clock was wrong.
fn furthest(rate: Rate, now: i64) -> i64 {
    now + ahead(rate, 0) + interval(rate) + SKEW.as_millis() as i64
}

/// Counts an attempt made at the time `at`, and returns its number in a row, from 1. `user_id` is the user that the key
/// belongs to, if any. Returns `None`, and does not count, if the attempt comes too soon.
pub async fn count(
    db: &mut Connection,
    key: &Key,
    user_id: Option<&str>,
    backoff: Backoff,
    at: i64,
) -> Result<Option<i64>> {
    let (first, longest, doublings) = delays(backoff);
    let sql = "insert into limits (key, user_id, count, free_at) \
               values ($1, $2, 1, $3 + case when $4 > 1 then 0 else $5 end) on conflict (key) do update \
               set user_id = $2, count = limits.count + 1, free_at = $3 + case \
               when limits.count + 1 < $4 then 0 \
               when limits.count + 1 >= $4 + $6 then $7 \
               else $5 << cast(limits.count + 1 - $4 as integer) end \
               where limits.count < $4 or limits.free_at <= $3 or limits.free_at > $3 + $7 + $8 returning count";
    let query = sqlx::query_scalar(sql).bind(key.bytes()).bind(user_id).bind(at).bind(backoff.free);
    let query = query.bind(first).bind(doublings).bind(longest).bind(SKEW.as_millis() as i64);
    Ok(query.fetch_optional(db).await?)
}

/// The first delay, the longest, and the number of doublings from one to the other.
fn delays(backoff: Backoff) -> (i64, i64, i64) {
    let first = backoff.delay.as_millis() as i64;
    let longest = first.max(LONGEST_DELAY.as_millis() as i64);
    let doublings = (0..).find(|&doublings| first << doublings >= longest).unwrap_or(0);
    (first, longest, doublings)
}

/// NIST SP 800-63B-4, 3.2.2.
const LONGEST_DELAY: Duration = Duration::from_secs(60 * 60);

/// Like [`count`], but an attempt that comes too soon is an error.
///
/// # Errors
/// [`Error::TooMany`] when it comes too soon.
pub async fn attempt(db: &mut Connection, key: &Key, user_id: Option<&str>, backoff: Backoff, at: i64) -> Result<i64> {
    match count(db, key, user_id, backoff, at).await? {
        Some(count) => Ok(count),
        None => Err(too_many(free_at(db, key).await? - now_in_milliseconds())),
    }
}

/// Checks whether [`attempt`] would be refused.
///
/// # Errors
/// [`Error::TooMany`] when it would.
pub async fn check_attempt(db: &mut Connection, key: &Key, backoff: Backoff) -> Result<()> {
    let sql = "select free_at from limits where key = $1 and count >= $2";
    let query = sqlx::query_scalar(sql).bind(key.bytes()).bind(backoff.free);
    let free_at: Option<i64> = query.fetch_optional(&mut *db).await?;
    let (wait, (_, longest, _)) = (free_at.unwrap_or(0) - now_in_milliseconds(), delays(backoff));
    let checked = if wait > longest + SKEW.as_millis() as i64 { Ok(()) } else { refuse_if_positive(wait) };
    db.refusals.remember(key, SHORT, checked)
}

/// Gives back the attempt with this number, made at the time `at`. The next one can follow at once, unless so many
/// others have followed that it has to wait.
pub async fn give_back_attempt(db: &mut Connection, key: &Key, count: i64, backoff: Backoff, at: i64) -> Result<()> {
    db.forget_refusal(key.clone());
    let sql = "update limits set count = count - 1, \
               free_at = case when count = $2 or count <= $3 then $4 else free_at end where key = $1 and count > 0";
    sqlx::query(sql).bind(key.bytes()).bind(count).bind(backoff.free).bind(at).execute(db).await?;
    Ok(())
}

/// Sets the count of this key to zero.
pub async fn reset(db: &mut Connection, key: &Key) -> Result<()> {
    db.forget_refusal(key.clone());
    sqlx::query("delete from limits where key = $1").bind(key.bytes()).execute(db).await?;
    Ok(())
}

/// Sets all counts of this user to zero. Blocked keys stay blocked.
pub async fn reset_user(db: &mut Connection, user_id: &str) -> Result<()> {
    // The account's own count comes last, in the order in which attempts lock rows, so that transactions do not
    // deadlock.
    let account = Key::account(user_id);
    let sql = "delete from limits where user_id = $1 and key <> $2 and count > 0 returning key";
    let query = sqlx::query_scalar(sql).bind(user_id).bind(account.bytes());
    let keys: Vec<Vec<u8>> = query.fetch_all(&mut *db).await?;
    keys.iter().filter_map(|key| Key::from_bytes(key)).for_each(|key| db.forget_refusal(key));
    reset(db, &account).await
}

/// Blocks the key for a while for everyone except this user.
pub async fn block(db: &mut Connection, key: &Key, user_id: &str, duration: Duration) -> Result<()> {
    let sql = "insert into limits (key, user_id, count, free_at) values ($1, $2, 0, $3) \
               on conflict (key) do update set user_id = $2, free_at = $3";
    let until = now_in_milliseconds() + duration.as_millis() as i64;
    sqlx::query(sql).bind(key.bytes()).bind(user_id).bind(until).execute(db).await?;
    Ok(())
}

/// Whether the key is blocked for this user.
pub async fn is_blocked(db: &mut Connection, key: &Key, user_id: &str) -> Result<bool> {
    let sql = "select count(*) from limits where key = $1 and free_at > $2 and user_id <> $3";
    let query = sqlx::query_scalar(sql).bind(key.bytes()).bind(now_in_milliseconds()).bind(user_id);
    Ok(query.fetch_one(db).await.map(|count: i64| count > 0)?)
}

/// The random part of the secret for [`Key::keyed`], the same for all replicas.
pub async fn salt(db: &Database) -> Result<Vec<u8>> {
    let find = "select value from salts where name = 'limits'";
    let found = db.read(async |db| Ok(sqlx::query_scalar(find).fetch_optional(db).await?)).await?;
    if let Some(salt) = found {
        return Ok(salt);
    }
    let sql = "insert into salts (name, value) values ('limits', $1) on conflict (name) do nothing";
    db.write(async |db| {
        sqlx::query(sql).bind(random::<32>()?.to_vec()).execute(&mut *db).await?;
        Ok(sqlx::query_scalar(find).fetch_one(db).await?)
    })
    .await
}

/// Deletes rows that no longer limit anything; `$1` is the time in seconds. The condition is repeated outside for rows
/// that are counted at the same moment.
pub const PURGE: &str = "delete from limits where count = 0 and free_at <= $1 * 1000 and key in \
     (select key from limits where count = 0 and free_at <= $1 * 1000 limit 1000)";

/// Deletes counts of attempts that belong to no account, half a year after the last. Those of an account stay until the
/// right password.
pub const PURGE_ATTEMPTS: &str = "delete from limits where count > 0 and free_at <= ($1 - 180 * 86400) * 1000 \
     and key in (select key from limits where count > 0 and free_at <= ($1 - 180 * 86400) * 1000 \
     and not exists (select 1 from users where users.id = limits.user_id) limit 1000)";

async fn free_at(db: &mut Connection, key: &Key) -> Result<i64> {
    let sql = "select free_at from limits where key = $1";
    let free_at: Option<i64> = sqlx::query_scalar(sql).bind(key.bytes()).fetch_optional(db).await?;
    Ok(free_at.unwrap_or(0))
}

fn too_many(wait: i64) -> Error {
    Error::TooMany(Duration::from_millis(wait.max(1) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use futures_util::future::join_all;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    async fn taken(app: &TestApp, key: &Key, rate: Rate) -> Result<()> {
        app.app.db.write(async |db| take(db, key, rate).await).await
    }

    async fn attempted(app: &TestApp, key: &Key, backoff: Backoff) -> Result<i64> {
        app.app.db.write(async |db| attempt(db, key, None, backoff, now_in_milliseconds()).await).await
    }

    fn wait<T: std::fmt::Debug>(answer: Result<T>) -> u64 {
        match answer {
            Err(Error::TooMany(wait)) => wait.as_millis().div_ceil(1000) as u64,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_whole_number_is_free_at_once_and_then_one_at_a_time() {
        let app = TestApp::new().await;
        let (key, ten) = (Key::new("test", "a"), rate("10/3m"));
        for _ in 0..10 {
            taken(&app, &key, ten).await.unwrap();
        }
        assert_eq!(wait(taken(&app, &key, ten).await), 18);
        taken(&app, &Key::new("test", "b"), ten).await.unwrap();
        app.execute("update limits set free_at = free_at - 18000").await;
        taken(&app, &key, ten).await.unwrap();
        assert_eq!(wait(taken(&app, &key, ten).await), 18);
        app.app.db.write(async |db| give_back(db, &key, ten).await).await.unwrap();
        taken(&app, &key, ten).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_counted_while_the_clock_was_ahead_locks_nobody_out_for_longer_than_usual() {
        let app = TestApp::new().await;
        let backoff = Backoff { free: 2, delay: Duration::from_secs(30) };
        let rates = [rate("10/3m"), rate("1/1h"), rate("100/7d")];
        let (key, tried) = (|rate: &Rate| Key::new("test", &format!("{rate:?}")), Key::new("tried", "a"));
        for ahead in [60 * 60 * 24, 60 * 60 * 24 * 30, 60 * 60 * 24 * 365 * 50] {
            app.set_clock_ahead(ahead);
            for rate in rates {
                while taken(&app, &key(&rate), rate).await.is_ok() {}
            }
            while attempted(&app, &tried, backoff).await.is_ok() {}
            app.set_clock_ahead(0);
            for rate in rates {
                // One is let through, and then all are used up.
                taken(&app, &key(&rate), rate).await.unwrap();
                let interval = rate.per.as_secs() / u64::from(rate.times);
                assert_eq!(wait(taken(&app, &key(&rate), rate).await), interval, "{rate:?}, {ahead} s ahead");
            }
            attempted(&app, &tried, backoff).await.unwrap();
            assert!(wait(attempted(&app, &tried, backoff).await) <= 60 * 60, "{ahead} s ahead");
            app.execute("delete from limits").await;
        }
    }

    #[tokio::test]
    async fn replicas_whose_clocks_differ_a_little_allow_no_more_together() {
        let app = TestApp::new().await;
        let (key, ten) = (Key::new("test", "a"), rate("10/3m"));
        let mut allowed = 0;
        for replica in 0..40 {
            app.set_clock_ahead(replica % 2 * 30);
            allowed += u32::from(taken(&app, &key, ten).await.is_ok());
        }
        assert!(allowed <= 12, "{allowed}");
    }

    #[tokio::test]
    async fn of_many_requests_at_once_no_more_than_allowed_pass() {
        let app = TestApp::new().await;
        let (key, ten) = (Key::new("test", "a"), rate("10/1h"));
        let answers = join_all((0..50).map(|_| taken(&app, &key, ten))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    }

    #[tokio::test]
    async fn after_the_free_attempts_each_waits_twice_as_long_as_the_one_before() {
        let app = TestApp::new().await;
        let (key, backoff) = (Key::new("test", "a"), Backoff { free: 5, delay: Duration::from_secs(30) });
        for count in 1..=5 {
            assert_eq!(attempted(&app, &key, backoff).await.unwrap(), count);
        }
        for (count, seconds) in (6..).zip([30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]) {
            assert_eq!(wait(attempted(&app, &key, backoff).await), seconds);
            app.execute("update limits set free_at = 0").await;
            assert_eq!(attempted(&app, &key, backoff).await.unwrap(), count);
        }
        app.app.db.write(async |db| reset(db, &key).await).await.unwrap();
        assert_eq!(attempted(&app, &key, backoff).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_attempt_that_was_not_decided_is_given_back_whoever_has_followed() {
        let app = TestApp::new().await;
        let (key, backoff) = (Key::new("test", "a"), Backoff { free: 3, delay: Duration::from_secs(30) });
        let give_back = async |count| {
            let at = now_in_milliseconds();
            app.app.db.write(async |db| give_back_attempt(db, &key, count, backoff, at).await).await.unwrap();
        };
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            for count in 1..=3 {
                assert_eq!(attempted(&app, &key, backoff).await.unwrap(), count);
            }
            assert_eq!(wait(attempted(&app, &key, backoff).await), 30);
            for count in order {
                give_back(count).await;
            }
        }
        // What others have counted stays, and so does their waiting.
        for count in 1..=3 {
            assert_eq!(attempted(&app, &key, backoff).await.unwrap(), count);
        }
        app.execute("update limits set free_at = 0").await;
        assert_eq!(attempted(&app, &key, backoff).await.unwrap(), 4);
        give_back(2).await;
        assert_eq!(wait(attempted(&app, &key, backoff).await), 60);
        app.execute("update limits set free_at = 0").await;
        assert_eq!(attempted(&app, &key, backoff).await.unwrap(), 4);
        give_back(4).await;
        assert_eq!(attempted(&app, &key, backoff).await.unwrap(), 4);
    }

    /// Takes one of ten a week from each of these addresses, and returns how many were not refused.
    async fn taken_from(app: &TestApp, addresses: impl Iterator<Item = String>) -> usize {
        let mut taken = 0;
        for address in addresses {
            let limit = AddressLimit::new("test", address.parse().unwrap(), rate("10/7d"));
            match app.app.db.write(async |db| limit.take(db).await).await {
                Err(Error::TooMany(_)) => {}
                answer => taken += answer.map(|()| 1).unwrap(),
            }
        }
        taken
    }

    #[tokio::test]
    async fn addresses_in_one_ipv6_network_count_as_one() {
        let app = TestApp::new().await;
        let one = |prefix: &'static str| (0..20).map(move |host| format!("{prefix}{host}"));
        assert_eq!(taken_from(&app, one("2001:db8:1:2::")).await, 10);
        assert_eq!(taken_from(&app, one("2001:db8:1:2:ffff::")).await, 0);
        assert_eq!(taken_from(&app, one("2001:db8:1:3::")).await, 10);
        assert_eq!(taken_from(&app, one("::ffff:192.0.2.")).await, 20);
        assert_eq!(taken_from(&app, std::iter::repeat_n("192.0.2.1".to_string(), 20)).await, 9);
    }

    #[tokio::test]
    async fn who_has_many_ipv6_networks_has_four_times_as_much_in_a_56_and_sixteen_times_in_a_48() {
        let app = TestApp::new().await;
        // One from each of 256 networks of 64 bits.
        let in_a_56 = |prefix: &'static str| (0..256).map(move |subnet| format!("{prefix}{subnet:02x}::1"));
        assert_eq!(taken_from(&app, in_a_56("2001:db8:1:ab")).await, 40);
        assert_eq!(taken_from(&app, in_a_56("2001:db8:1:ac")).await, 40);
        let in_a_48 = |prefix: &'static str| (0..256).map(move |subnet| format!("{prefix}{subnet:02x}00::1"));
        assert_eq!(taken_from(&app, in_a_48("2001:db8:1:")).await, 80);
        assert_eq!(taken_from(&app, in_a_48("2001:db8:2:")).await, 160);
    }

    #[tokio::test]
    async fn what_one_ipv6_network_is_refused_counts_for_none_and_what_is_given_back_is_back_in_all() {
        let app = TestApp::new().await;
        let same = |address: &'static str, times| std::iter::repeat_n(address.to_string(), times);
        assert_eq!(taken_from(&app, same("2001:db8:1:1::1", 500)).await, 10);
        assert_eq!(taken_from(&app, same("2001:db8:1:2::1", 10)).await, 10);
        assert_eq!(taken_from(&app, same("2001:db8:1:3::1", 10)).await, 10);
        assert_eq!(taken_from(&app, same("2001:db8:1:4::1", 9)).await, 9);
        // One is left in the /56, and one in this /64, which those do not use up that the /56 refuses.
        assert_eq!(taken_from(&app, same("2001:db8:1:5::1", 1)).await, 1);
        assert_eq!(taken_from(&app, same("2001:db8:1:4::1", 5)).await, 0);
        let limit = AddressLimit::new("test", "2001:db8:1:5::1".parse().unwrap(), rate("10/7d"));
        app.app.db.write(async |db| limit.give_back(db).await).await.unwrap();
        assert_eq!(taken_from(&app, same("2001:db8:1:4::1", 5)).await, 1);
        // 40 of 160 are used up.
        assert_eq!(taken_from(&app, (1..=255).map(|subnet| format!("2001:db8:1:{subnet:02x}00::1"))).await, 120);
    }

    #[test]
    fn nobody_can_tell_what_was_typed_without_the_secret() {
        let key = |secret: &str| Key::keyed(secret.as_bytes(), "typed", "swordfish");
        assert_eq!(key("one"), key("one"));
        assert_ne!(key("one"), key("another"));
        assert_ne!(key("one"), Key::new("typed", "swordfish"));
    }
}
