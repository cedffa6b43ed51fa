//! Limits, kept in the database: all replicas share them and a restart forgets none. A check is one statement that
//! counts and decides at once, so attempts that arrive together cannot all see the same room.
//!
//! [`take`] is for so many in a time (the generic cell rate algorithm: one date a row says all), [`attempt`] for what
//! may fail a few times and then has to wait longer and longer. Times here are milliseconds since 1970.

use crate::database::Connection;
use crate::error::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many in a time, all at once or spread over it; written `10/3m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub times: u32,
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Rate, ()> {
        let (times, per) = text.split_once('/').ok_or(())?;
        let times = times.parse().ok().filter(|times| (1..=1_000_000_000).contains(times)).ok_or(())?;
        Ok(Rate { times, per: crate::env::parse_duration(per).ok_or(())? })
    }
}

impl Rate {
    /// Milliseconds until one more is free.
    fn interval(self) -> i64 {
        (self.per.as_millis() as i64 / i64::from(self.times)).max(1)
    }

    /// How far ahead of time the whole number may be used.
    fn ahead(self) -> i64 {
        self.interval() * (i64::from(self.times) - 1)
    }
}

/// A few attempts for nothing, then a wait that doubles with each, up to [`LONGEST`].
#[derive(Clone, Copy, Debug)]
pub struct Slowdown {
    pub free: i64,
    pub delay: Duration,
}

/// The longest that attempts are kept waiting (NIST SP 800-63B-4, 3.2.2).
const LONGEST: Duration = Duration::from_secs(60 * 60);

impl Slowdown {
    /// The first wait, the longest, and how many doublings lead from one to the other.
    fn milliseconds(self) -> (i64, i64, i64) {
        let first = self.delay.as_millis() as i64;
        let longest = first.max(LONGEST.as_millis() as i64);
        let doublings = (0..).find(|&doublings| first << doublings >= longest).unwrap_or(0);
        (first, longest, doublings)
    }
}

/// What is limited. The table has a hash of it.
#[derive(Clone, Debug)]
pub struct Key([u8; 32]);

impl Key {
    pub fn new(kind: &str, of: &str) -> Key {
        Key(Sha256::digest(format!("{kind}:{of}")).into())
    }

    /// For text that may be anything, a password in the wrong field too: without `secret` nobody can tell what it was.
    pub fn hidden(secret: &[u8], kind: &str, of: &str) -> Key {
        let mut hash = Hmac::<Sha256>::new_from_slice(secret).expect("any length will do");
        hash.update(format!("{kind}:{of}").as_bytes());
        Key(hash.finalize().into_bytes().into())
    }

    pub fn account(user_id: &str) -> Key {
        Key::new("account", user_id)
    }

    /// A network address; of IPv6 the first 64 bits, because whoever has one address has all that begin so.
    pub fn address(kind: &str, address: IpAddr) -> Key {
        let network = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        Key::new(kind, &network.to_string())
    }
}

/// Takes one of what the rate allows.
///
/// # Errors
/// [`Error::TooMany`] when there is none left; then nothing has been counted.
pub async fn take(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    let now = milliseconds();
    let sql = "insert into limits (key, count, free_at) values ($1, 0, $2 + $3) on conflict (key) do update \
               set free_at = $3 + case when limits.free_at > $2 then limits.free_at else $2 end \
               where limits.free_at <= $2 + $4";
    let query = sqlx::query(sql).bind(key.0.to_vec()).bind(now).bind(rate.interval()).bind(rate.ahead());
    if query.execute(&mut *db).await?.rows_affected() > 0 {
        return Ok(());
    }
    // By the clock as it is now: the row may have been waited for.
    Err(too_many(free_at(db, key).await? - rate.ahead() - milliseconds()))
}

/// Gives back what [`take`] took.
pub async fn give_back(db: &mut Connection, key: &Key, rate: Rate) -> Result<()> {
    let sql = "update limits set free_at = free_at - $2 where key = $1";
    sqlx::query(sql).bind(key.0.to_vec()).bind(rate.interval()).execute(db).await?;
    Ok(())
}

/// Counts an attempt that came `at` this time and answers which one in a row it is, from 1. `user_id` names whose row it is,
/// if it is anybody's. `None` when it came too early; then it has not been counted.
pub async fn count(
    db: &mut Connection,
    key: &Key,
    user_id: Option<&str>,
    slow: Slowdown,
    at: i64,
) -> Result<Option<i64>> {
    let (first, longest, doublings) = slow.milliseconds();
    let sql = "insert into limits (key, user_id, count, free_at) \
               values ($1, $2, 1, $3 + case when $4 > 1 then 0 else $5 end) on conflict (key) do update \
               set user_id = $2, count = limits.count + 1, free_at = $3 + case \
               when limits.count + 1 < $4 then 0 \
               when limits.count + 1 >= $4 + $6 then $7 \
               else $5 << cast(limits.count + 1 - $4 as integer) end \
               where limits.count < $4 or limits.free_at <= $3 returning count";
    let query = sqlx::query_as(sql).bind(key.0.to_vec()).bind(user_id).bind(at).bind(slow.free);
    let counted: Option<(i64,)> =
        query.bind(first).bind(doublings).bind(longest).fetch_optional(&mut *db).await?;
    Ok(counted.map(|(count,)| count))
}

/// As [`count`], for whoever is told to wait.
///
/// # Errors
/// [`Error::TooMany`] when it came too early.
pub async fn attempt(
    db: &mut Connection,
    key: &Key,
    user_id: Option<&str>,
    slow: Slowdown,
    at: i64,
) -> Result<i64> {
    match count(db, key, user_id, slow, at).await? {
        Some(count) => Ok(count),
        None => Err(too_many(free_at(db, key).await? - milliseconds())),
    }
}

/// Takes back an attempt that came to no verdict, unless others have followed it. It is as free again as it was `at` that time.
pub async fn undo_attempt(db: &mut Connection, key: &Key, count: Option<i64>, at: i64) -> Result<()> {
    let sql = "update limits set count = count - 1, free_at = $3 where key = $1 and count = $2";
    sqlx::query(sql).bind(key.0.to_vec()).bind(count).bind(at).execute(db).await?;
    Ok(())
}

/// The attempts under this key are as if they had never been.
pub async fn forget(db: &mut Connection, key: &Key) -> Result<()> {
    sqlx::query("delete from limits where key = $1").bind(key.0.to_vec()).execute(db).await?;
    Ok(())
}

/// Nothing is counted for this user any more.
pub async fn forget_user(db: &mut Connection, user_id: &str) -> Result<()> {
    // The account's own count last, as attempts take it, so that no two transactions wait for each other.
    let (account, sql) = (Key::account(user_id), "delete from limits where user_id = $1 and key <> $2");
    sqlx::query(sql).bind(user_id).bind(account.0.to_vec()).execute(&mut *db).await?;
    forget(db, &account).await
}

/// Blocks the key for a while.
pub async fn block(db: &mut Connection, key: &Key, rest: Duration) -> Result<()> {
    let sql = "insert into limits (key, count, free_at) values ($1, 0, $2) \
               on conflict (key) do update set free_at = $2";
    let until = milliseconds() + rest.as_millis() as i64;
    sqlx::query(sql).bind(key.0.to_vec()).bind(until).execute(db).await?;
    Ok(())
}

pub async fn is_blocked(db: &mut Connection, key: &Key) -> Result<bool> {
    Ok(free_at(db, key).await? > milliseconds())
}

/// The random half of what [`Key::hidden`] is made with, the same for all replicas.
pub async fn salt(db: &mut Connection) -> Result<Vec<u8>> {
    let sql = "insert into salts (name, value) values ('limits', $1) on conflict (name) do nothing";
    sqlx::query(sql).bind(crate::token::random::<32>()?.to_vec()).execute(&mut *db).await?;
    let sql = "select value from salts where name = 'limits'";
    let (salt,): (Vec<u8>,) = sqlx::query_as(sql).fetch_one(db).await?;
    Ok(salt)
}

/// Rows that limit nothing any more; `$1` is the time. What strangers tried on a name that nobody has is kept half a year, as
/// if it were an account's. The condition stands outside too, for a row that comes alive at this moment.
pub const PURGE: &str = "delete from limits where \
     (count = 0 and free_at <= $1 * 1000 or free_at <= ($1 - 180 * 86400) * 1000) and key in \
     (select key from limits where (count = 0 and free_at <= $1 * 1000 or free_at <= ($1 - 180 * 86400) * 1000) \
     and not exists (select 1 from users where users.id = limits.user_id) limit 1000)";

async fn free_at(db: &mut Connection, key: &Key) -> Result<i64> {
    let sql = "select free_at from limits where key = $1";
    let row: Option<(i64,)> = sqlx::query_as(sql).bind(key.0.to_vec()).fetch_optional(db).await?;
    Ok(row.map_or(0, |(free_at,)| free_at))
}

fn too_many(wait: i64) -> Error {
    Error::TooMany(Duration::from_millis(wait.max(1) as u64))
}

/// The time, as it is kept here.
pub fn milliseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
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

    async fn attempted(app: &TestApp, key: &Key, slow: Slowdown) -> Result<i64> {
        app.app.db.write(async |db| attempt(db, key, None, slow, milliseconds()).await).await
    }

    fn wait<T: std::fmt::Debug>(answer: Result<T>) -> u64 {
        match answer {
            Err(Error::TooMany(wait)) => wait.as_millis().div_ceil(1000) as u64,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// As if so much time had passed.
    async fn pass(app: &TestApp, sql: &'static str) {
        app.execute(sql).await;
    }

    #[tokio::test]
    async fn so_many_are_free_at_once_and_then_one_after_the_other() {
        let app = TestApp::new().await;
        let (key, ten) = (Key::new("test", "a"), rate("10/3m"));
        for _ in 0..10 {
            taken(&app, &key, ten).await.unwrap();
        }
        assert_eq!(wait(taken(&app, &key, ten).await), 18);
        taken(&app, &Key::new("test", "b"), ten).await.unwrap();
        pass(&app, "update limits set free_at = free_at - 18000").await;
        taken(&app, &key, ten).await.unwrap();
        assert_eq!(wait(taken(&app, &key, ten).await), 18);
        app.app.db.write(async |db| give_back(db, &key, ten).await).await.unwrap();
        taken(&app, &key, ten).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_that_come_at_once_no_more_than_allowed_are_let_through() {
        let app = TestApp::new().await;
        let (key, ten) = (Key::new("test", "a"), rate("10/1h"));
        let answers = join_all((0..50).map(|_| taken(&app, &key, ten))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    }

    #[tokio::test]
    async fn after_the_free_attempts_each_waits_twice_as_long_as_the_one_before() {
        let app = TestApp::new().await;
        let (key, slow) = (Key::new("test", "a"), Slowdown { free: 5, delay: Duration::from_secs(30) });
        for count in 1..=5 {
            assert_eq!(attempted(&app, &key, slow).await.unwrap(), count);
        }
        for (count, seconds) in (6..).zip([30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]) {
            assert_eq!(wait(attempted(&app, &key, slow).await), seconds);
            pass(&app, "update limits set free_at = 0").await;
            assert_eq!(attempted(&app, &key, slow).await.unwrap(), count);
        }
        app.app.db.write(async |db| forget(db, &key).await).await.unwrap();
        assert_eq!(attempted(&app, &key, slow).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_attempt_without_a_verdict_is_taken_back_unless_others_followed() {
        let app = TestApp::new().await;
        let (key, slow) = (Key::new("test", "a"), Slowdown { free: 2, delay: Duration::from_secs(30) });
        let undo = async |count| {
            app.app.db.write(async |db| undo_attempt(db, &key, Some(count), milliseconds()).await).await
        };
        attempted(&app, &key, slow).await.unwrap();
        let last = attempted(&app, &key, slow).await.unwrap();
        undo(last - 1).await.unwrap();
        assert_eq!(wait(attempted(&app, &key, slow).await), 30);
        undo(last).await.unwrap();
        assert_eq!(attempted(&app, &key, slow).await.unwrap(), last);
    }

    #[test]
    fn neighbours_in_one_network_of_ipv6_are_one() {
        let key = |address: &str| Key::address("test", address.parse().unwrap()).0;
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    }

    #[test]
    fn what_was_typed_is_not_to_be_told_without_the_secret() {
        let key = |secret: &str| Key::hidden(secret.as_bytes(), "typed", "swordfish").0;
        assert_eq!(key("one"), key("one"));
        assert_ne!(key("one"), key("another"));
        assert_ne!(key("one"), Key::new("typed", "swordfish").0);
    }
}
