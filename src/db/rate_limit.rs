//! Rate limits, kept in the database: all replicas share them, and a restart keeps them. A check is one statement that
//! counts and decides at once, so requests that arrive together cannot all pass.
//!
//! [`take`] is for a number per duration (the generic cell rate algorithm, which needs one timestamp per key), [`attempt`]
//! for what may fail a few times and then has to wait longer and longer. Times here are milliseconds since 1970.

use super::{clock::now_in_milliseconds, database::Connection};
use crate::base::{Backoff, Error, Rate, Result, random};
use ring::hmac;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// What is limited. The table has a hash of it.
#[derive(Clone, Debug)]
pub struct Key([u8; 32]);

impl Key {
    pub fn new(kind: &str, of: &str) -> Key {
        Key(Sha256::digest(format!("{kind}:{of}")).into())
    }

    /// For text that can be anything, even a password typed into the wrong field: nobody can tell what it was without
    /// `secret`.
    pub fn keyed(secret: &[u8], kind: &str, of: &str) -> Key {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), format!("{kind}:{of}").as_bytes());
        Key(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    pub fn account(user_id: &str) -> Key {
        Key::new("account", user_id)
    }

    /// A network address; of IPv6 the first 64 bits, because a client that has one address has the whole /64.
    pub fn address(kind: &str, address: IpAddr) -> Key {
        let network = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        Key::new(kind, &network.to_string())
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Takes one of what the rate allows.
///
/// # Errors
/// [`Error::TooMany`] when none is left; then nothing is counted.
pub async fn take(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    let (now, interval) = (now_in_milliseconds(), interval(rate));
    // How far ahead of time the whole number may be used.
    let ahead = interval * (i64::from(rate.times) - 1);
    let sql = "insert into limits (key, count, free_at) values ($1, 0, $2 + $3) on conflict (key) do update \
               set free_at = $3 + case when limits.free_at > $2 then limits.free_at else $2 end \
               where limits.free_at <= $2 + $4";
    let query = sqlx::query(sql).bind(key.bytes()).bind(now).bind(interval).bind(ahead);
    if query.execute(&mut *db).await?.rows_affected() > 0 {
        return Ok(());
    }
    // The clock is read again, because the statement may have waited for the row.
    Err(too_many(free_at(db, key).await? - ahead - now_in_milliseconds()))
}

/// As [`take`], for what is skipped when none is left. Returns whether one was taken.
pub async fn try_take(db: &mut Connection, key: &Key, rate: Rate) -> Result<bool> {
    match take(db, key, rate).await {
        Err(Error::TooMany(_)) => Ok(false),
        taken => taken.map(|()| true),
    }
}

/// Returns what [`take`] took.
pub async fn give_back(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    let sql = "update limits set free_at = free_at - $2 where key = $1";
    sqlx::query(sql).bind(key.bytes()).bind(interval(rate)).execute(db).await?;
    Ok(())
}

/// Milliseconds until one more is free.
fn interval(rate: Rate) -> i64 {
    (rate.per.as_millis() as i64 / i64::from(rate.times)).max(1)
}

/// Counts an attempt made at the time `at`, and returns its number in a row, from 1. `user_id` is the user whom the key
/// belongs to, if any. `None` when it came too early; then it is not counted.
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
               where limits.count < $4 or limits.free_at <= $3 returning count";
    let query = sqlx::query_scalar(sql).bind(key.bytes()).bind(user_id).bind(at).bind(backoff.free);
    Ok(query.bind(first).bind(doublings).bind(longest).fetch_optional(db).await?)
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

/// As [`count`], but an attempt that came too early is an error.
///
/// # Errors
/// [`Error::TooMany`] when it came too early.
pub async fn attempt(db: &mut Connection, key: &Key, user_id: Option<&str>, backoff: Backoff, at: i64) -> Result<i64> {
    match count(db, key, user_id, backoff, at).await? {
        Some(count) => Ok(count),
        None => Err(too_many(free_at(db, key).await? - now_in_milliseconds())),
    }
}

/// Takes back the attempt with this number that was made at the time `at`, unless others have followed it.
pub async fn undo_attempt(db: &mut Connection, key: &Key, count: Option<i64>, at: i64) -> Result<()> {
    let sql = "update limits set count = count - 1, free_at = $3 where key = $1 and count = $2";
    sqlx::query(sql).bind(key.bytes()).bind(count).bind(at).execute(db).await?;
    Ok(())
}

/// Sets the count of this key to zero.
pub async fn reset(db: &mut Connection, key: &Key) -> Result<()> {
    sqlx::query("delete from limits where key = $1").bind(key.bytes()).execute(db).await?;
    Ok(())
}

/// Sets all counts of this user to zero.
pub async fn reset_user(db: &mut Connection, user_id: &str) -> Result<()> {
    // The account's own count last, in the order in which attempts take them, so that no two transactions deadlock.
    let (account, sql) = (Key::account(user_id), "delete from limits where user_id = $1 and key <> $2");
    sqlx::query(sql).bind(user_id).bind(account.bytes()).execute(&mut *db).await?;
    reset(db, &account).await
}

/// Blocks the key for a while.
pub async fn block(db: &mut Connection, key: &Key, duration: Duration) -> Result<()> {
    let sql = "insert into limits (key, count, free_at) values ($1, 0, $2) \
               on conflict (key) do update set free_at = $2";
    let until = now_in_milliseconds() + duration.as_millis() as i64;
    sqlx::query(sql).bind(key.bytes()).bind(until).execute(db).await?;
    Ok(())
}

pub async fn is_blocked(db: &mut Connection, key: &Key) -> Result<bool> {
    Ok(free_at(db, key).await? > now_in_milliseconds())
}

/// The random part of the secret for [`Key::keyed`], the same for all replicas.
pub async fn salt(db: &mut Connection) -> Result<Vec<u8>> {
    let sql = "insert into salts (name, value) values ('limits', $1) on conflict (name) do nothing";
    sqlx::query(sql).bind(random::<32>()?.to_vec()).execute(&mut *db).await?;
    Ok(sqlx::query_scalar("select value from salts where name = 'limits'").fetch_one(db).await?)
}

/// Deletes rows that limit nothing any more; `$1` is the time in seconds. Counts of unknown names are deleted after half a
/// year; an account's stay until a right password. The condition is repeated outside for a row that is counted at this moment.
pub const PURGE: &str = "delete from limits where \
     (count = 0 and free_at <= $1 * 1000 or free_at <= ($1 - 180 * 86400) * 1000) and key in \
     (select key from limits where (count = 0 and free_at <= $1 * 1000 or free_at <= ($1 - 180 * 86400) * 1000) \
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
    async fn an_attempt_that_was_not_verified_is_taken_back_unless_others_followed() {
        let app = TestApp::new().await;
        let (key, backoff) = (Key::new("test", "a"), Backoff { free: 2, delay: Duration::from_secs(30) });
        let undo = async |count| {
            let at = now_in_milliseconds();
            app.app.db.write(async |db| undo_attempt(db, &key, Some(count), at).await).await
        };
        attempted(&app, &key, backoff).await.unwrap();
        let last = attempted(&app, &key, backoff).await.unwrap();
        undo(last - 1).await.unwrap();
        assert_eq!(wait(attempted(&app, &key, backoff).await), 30);
        undo(last).await.unwrap();
        assert_eq!(attempted(&app, &key, backoff).await.unwrap(), last);
    }

    #[test]
    fn addresses_in_one_ipv6_network_count_as_one() {
        let key = |address: &str| Key::address("test", address.parse().unwrap()).0;
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    }

    #[test]
    fn nobody_can_tell_what_was_typed_without_the_secret() {
        let key = |secret: &str| Key::keyed(secret.as_bytes(), "typed", "swordfish").0;
        assert_eq!(key("one"), key("one"));
        assert_ne!(key("one"), key("another"));
        assert_ne!(key("one"), Key::new("typed", "swordfish").0);
    }
}
