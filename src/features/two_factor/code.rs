//! The table of authenticator apps, and the verification of codes.

use super::settings::TwoFactorSettings;
use crate::accounts::typed_code::normalize;
use crate::accounts::{AuthLevel, Client, Event, Session, event, recovery_code, user};
use crate::base::{FieldErrors, Rate, Result, Sealed, random};
use crate::db::clock::SKEW;
use crate::db::rate_limit::{self, Key};
use crate::db::{Connection, ago, now, now_in_milliseconds};
use crate::web::{AddedCredentials, App, format::date};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ring::hmac;
use serde::Deserialize;
use std::time::Duration;

pub const WRONG_CODE: Event = Event::named("wrong_code", "Wrong code");
pub const CODES_LOCKED: Event =
    Event::named("codes_locked", "Too many wrong codes: further attempts have to wait").with_notice(
        "Too many wrong codes",
        "Someone who is logged in as you, or who knows your password, entered several wrong codes. No code is accepted for a \
         while. If it was not you, log out the devices you do not recognise and change your password.",
    );

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct CodeForm {
    pub code: String,
}

/// What was typed, if it can be a code of an app or a recovery code.
pub struct TypedCode(String);

impl TypedCode {
    /// # Errors
    /// The sentence for the field. Such a mistake is no attempt, and counts nowhere.
    pub fn parse(typed: &str) -> Result<TypedCode, &'static str> {
        let code = normalize(typed);
        let is_of_app = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
        if is_of_app || recovery_code::is_well_formed(&code) { Ok(TypedCode(code)) } else { Err(NO_CODE) }
    }
}

const NO_CODE: &str = "Enter the six digits that your app shows, or a recovery code.";

/// Why a code is not accepted: the sentence for the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was counted.
    Wrong,
    /// A code of the user's app that was right, until it or a newer one was used. It was counted, too: nobody learns more
    /// from this sentence than that they have seen a code that is used up.
    Used,
    /// The secret of the user's app is sealed with a key that the site does not have, so no code of it can be verified.
    Unreadable,
}

impl Refusal {
    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::Wrong => "This code is wrong or has already been used.",
            Refusal::Used => "Wait for the next code.",
            Refusal::Unreadable => {
                "We cannot check codes from your app at the moment. Use a recovery code, or ask the people who run this \
                 site for help."
            }
        }
    }

    /// The mistake in this field of a form.
    pub fn in_field(self, field: &'static str) -> FieldErrors {
        FieldErrors::of(field, self.sentence())
    }
}

/// What the secrets are sealed for.
const TABLE: &str = "totp";

pub const COUNT: &str = "select count(*) from totp where user_id = $1 and confirmed_at is not null";

/// Deletes set-ups that were not finished within the hour; `$1` is the time. The condition is repeated outside for one that
/// is confirmed at this moment.
pub const PURGE: &str = "delete from totp where confirmed_at is null and user_id in \
     (select user_id from totp where confirmed_at is null and created_at <= $1 - 3600 limit 1000)";

/// A user has one at most, so its key is never needed.
pub const EXPORT: (&str, &str) = (
    "two_factor",
    "select created_at, confirmed_at from totp where user_id = $1 and user_id > $2 order by user_id limit $3",
);

pub const UNDO: &str = "delete from totp where user_id = $1 and confirmed_at >= $2";

/// An unfinished set-up goes too: the person who began it knows its secret, which a second one would show again.
pub const ADDED: AddedCredentials = AddedCredentials { list, remove: "delete from totp where user_id = $1" };

fn list<'a>(db: &'a mut Connection, user_id: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
    async move {
        let words = |since| format!("An authenticator app, set up on {}", date(since));
        Ok(on_since(db, user_id).await?.into_iter().map(words).collect())
    }
    .boxed()
}

pub const SEALED: Sealed = Sealed {
    table: TABLE,
    names: ["authenticator app", "authenticator apps"],
    if_unopened: "their owners cannot log in by an authenticator app, only by a recovery code",
    count_by_key: "select substr(secret, 1, 4) as key_id, count(*) as secrets from totp where confirmed_at is not null \
                   group by 1",
    select: "select user_id, secret from totp where user_id > $1 order by user_id limit 100",
    update: "update totp set secret = $1 where user_id = $2 and secret = $3",
};

/// Verifies a code of the user's app, or a recovery code, and uses it up. An attempt is counted before it is verified, and
/// the user's row is locked for both, so guesses follow one another, however many processes they are sent to. A wrong code
/// is no error of the transaction, because that would roll the count back.
///
/// # Errors
/// [`crate::base::error::Error::TooMany`] while wrong codes keep all codes waiting.
pub async fn verify(
    db: &mut Connection,
    app: &App,
    client: &Client,
    user_id: &str,
    TypedCode(code): &TypedCode,
) -> Result<Result<(), Refusal>> {
    if user::lock(db, user_id).await?.is_none() || !is_on(db, user_id).await? {
        return Ok(Err(Refusal::Wrong));
    }
    let sql = "select secret from totp where user_id = $1 and confirmed_at is not null";
    let secret = secret(db, app, sql, user_id).await?;
    if secret.is_none() && !recovery_code::is_well_formed(code) {
        return Ok(Err(Refusal::Unreadable));
    }
    let (key, backoff) = (Key::new("two_factor", user_id), app.settings::<TwoFactorSettings>().backoff);
    // Not counted as the user's, so that a new password does not reset it.
    let count = rate_limit::attempt(db, &key, None, backoff, now_in_milliseconds()).await?;
    let is_recovery_code = recovery_code::use_own(db, user_id, code).await?;
    if is_recovery_code {
        event::record(db, user_id, recovery_code::USED.by(client).at(AuthLevel::TwoFactors)).await?;
    }
    let used = match secret {
        _ if is_recovery_code => Ok(()),
        Some(secret) => use_code(db, &secret, user_id, code).await?,
        None => Err(Refusal::Wrong),
    };
    if used.is_ok() {
        rate_limit::reset(db, &key).await?;
        return Ok(used);
    }
    let event = if count < backoff.free { WRONG_CODE } else { CODES_LOCKED };
    event::record(db, user_id, event.by(client)).await?;
    Ok(used)
}

/// Uses a code of the user's app, if it is one and of a later step than the last one used.
async fn use_code(db: &mut Connection, secret: &[u8], user_id: &str, code: &str) -> Result<Result<(), Refusal>> {
    let Some(step) = step_of(secret, code, now()) else { return Ok(Err(Refusal::Wrong)) };
    // A step that is still to come was used while the clock was ahead.
    let sql = "update totp set last_step = $1 where user_id = $2 and (last_step < $1 or last_step > $1 + $3)";
    let ahead = SKEW.as_secs().cast_signed() / STEP + 1;
    let used = sqlx::query(sql).bind(step).bind(user_id).bind(ahead).execute(db).await?;
    Ok(if used.rows_affected() > 0 { Ok(()) } else { Err(Refusal::Used) })
}

/// Seconds for which an app shows a code.
const STEP: i64 = 30;

/// The step that this code belongs to: the current one or the one before, because people take a while to type.
fn step_of(secret: &[u8], code: &str, now: i64) -> Option<i64> {
    let is_code = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code: u32 = code.parse().ok().filter(|_| is_code)?;
    let step = now / STEP;
    [step, step - 1].into_iter().find(|&step| code_of(secret, step) == code)
}

/// The code that apps show during this step (RFC 6238 and 4226, with SHA-1, the only hash that all of them know).
fn code_of(secret: &[u8], step: i64) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let start = tag.as_ref().last().map_or(0, |last| usize::from(last & 0xf));
    let bytes = tag.as_ref().iter().skip(start).take(4);
    let number = bytes.fold(0, |number, byte| (number << 8) | u32::from(*byte));
    (number & 0x7fff_ffff) % 1_000_000
}

/// The secret that a query selects for this user, if it opens.
async fn secret(db: &mut Connection, app: &App, sql: &'static str, user_id: &str) -> Result<Option<Vec<u8>>> {
    let sealed: Option<Vec<u8>> = sqlx::query_scalar(sql).bind(user_id).fetch_optional(db).await?;
    Ok(sealed.and_then(|sealed| app.seals.try_open(TABLE, user_id, &sealed)))
}

pub async fn is_on(db: &mut Connection, user_id: &str) -> Result<bool> {
    Ok(on_since(db, user_id).await?.is_some())
}

/// When the user's app was confirmed, if there is one.
pub async fn on_since(db: &mut Connection, user_id: &str) -> Result<Option<i64>> {
    let sql = "select confirmed_at from totp where user_id = $1 and confirmed_at is not null";
    Ok(sqlx::query_scalar(sql).bind(user_id).fetch_optional(db).await?)
}

/// How long the secret of a set-up that is not finished stays the same, and may be looked at again.
const SET_UP_KEPT: Duration = Duration::from_secs(10 * 60);

/// Begins a set-up in this session: with the secret that it made a moment ago, if that opens, or with a new one, which
/// replaces that of another session. `false` when there is a confirmed app, which stays.
pub async fn start_set_up(db: &mut Connection, app: &App, session: &Session) -> Result<bool> {
    let user_id = &*session.user.id;
    if shown_secret(db, app, session).await?.is_some() {
        return Ok(true);
    }
    let sealed = app.seals.seal(TABLE, user_id, &random::<20>()?)?;
    let sql = "insert into totp (user_id, secret, created_at, last_step, session_id) values ($1, $2, $3, 0, $4) \
               on conflict (user_id) do update set secret = $2, created_at = $3, session_id = $4 \
               where totp.confirmed_at is null";
    let query = sqlx::query(sql).bind(user_id).bind(sealed).bind(now()).bind(&*session.id);
    Ok(query.execute(db).await?.rows_affected() > 0)
}

/// The secret of the set-up that this session has begun, while it may be looked at. No other session can finish it, so
/// nobody who has only the password learns the secret that the owner scans.
pub async fn shown_secret(db: &mut Connection, app: &App, session: &Session) -> Result<Option<Vec<u8>>> {
    let (user_id, since) = (&*session.user.id, ago(SET_UP_KEPT));
    let sql = "select secret from totp \
               where user_id = $1 and session_id = $2 and created_at > $3 and confirmed_at is null";
    let query = sqlx::query_scalar(sql).bind(user_id).bind(&*session.id).bind(since);
    let sealed: Option<Vec<u8>> = query.fetch_optional(db).await?;
    Ok(sealed.and_then(|sealed| app.seals.try_open(TABLE, user_id, &sealed)))
}

/// How often a user may finish a set-up. Its recovery codes turn it off again at once, so nothing else would limit that.
const SET_UPS: Rate = Rate { times: 10, per: Duration::from_secs(60 * 60) };

/// Finishes a set-up by a code of its secret, which is used up by that. The user's row is locked by [`user::lock`]. A wrong
/// code is `false`, as in [`verify`].
///
/// # Errors
/// As [`verify`]; [`crate::base::error::Error::TooMany`] after too many set-ups too.
pub async fn confirm(
    db: &mut Connection,
    app: &App,
    user_id: &str,
    secret: &[u8],
    TypedCode(code): &TypedCode,
) -> Result<bool> {
    // A count of its own: mistakes here lock nothing that the user logs in with, and a right code unlocks nothing.
    let (key, backoff) = (Key::new("two_factor_set_up", user_id), app.settings::<TwoFactorSettings>().backoff);
    rate_limit::attempt(db, &key, None, backoff, now_in_milliseconds()).await?;
    let Some(step) = step_of(secret, code, now()) else { return Ok(false) };
    rate_limit::reset(db, &key).await?;
    rate_limit::take(db, &Key::new("two_factor_on", user_id), SET_UPS).await?;
    let sql = "update totp set confirmed_at = $1, last_step = $2 where user_id = $3";
    sqlx::query(sql).bind(now()).bind(step).bind(user_id).execute(db).await?;
    Ok(true)
}

pub async fn remove(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from totp where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::phone::{early_in_a_step, later, turn_on};
    use super::*;
    use crate::base::Error;
    use crate::server::purge::purge;
    use crate::test::TestApp;
    use futures_util::future::join_all;

    /// RFC 6238, appendix B: the secret, times, and codes, of which six digits are the last of its eight.
    const SECRET: &[u8] = b"12345678901234567890";
    const VECTORS: [(i64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    #[test]
    fn codes_are_those_of_the_standard() {
        for (time, code) in VECTORS {
            assert_eq!(step_of(SECRET, code, time), Some(time / 30), "{code}");
        }
    }

    #[test]
    fn the_code_of_this_step_and_the_one_before_are_taken_and_no_other() {
        let (time, code) = VECTORS[3];
        let step = time / 30;
        for (now, expected) in [
            (step * 30, Some(step)),
            (step * 30 + 29, Some(step)),
            (step * 30 + 59, Some(step)),
            (step * 30 + 60, None),
            (step * 30 - 1, None),
            (0, None),
        ] {
            assert_eq!(step_of(SECRET, code, now), expected, "{}", now - step * 30);
        }
    }

    #[test]
    fn six_digits_or_a_recovery_code_can_be_a_code_and_nothing_else() {
        let (time, _) = VECTORS[0];
        for typed in ["287 082", " 287082\r\n", "2 8 7 0 8 2", "287\u{a0}082", "287-082", "２８７０８２"] {
            let TypedCode(code) = TypedCode::parse(typed).unwrap();
            assert_eq!(step_of(SECRET, &code, time), Some(1), "{typed:?}");
        }
        for typed in ["", " ", "28708", "2870820", "0287082", "+287082", "28708a", "287.082", "94287082"] {
            assert!(TypedCode::parse(typed).is_err(), "{typed:?}");
        }
    }

    /// Verifies a code of this user.
    async fn verified(app: &TestApp, name: &str, code: &str) -> Result<Result<(), Refusal>> {
        let (id, client) = (app.user(name).await, app.login().await.client);
        let code = TypedCode::parse(code).map_err(|sentence| Error::invalid("code", sentence))?;
        app.app.db.write(async |db| verify(db, &app.app, &client, &id, &code).await).await
    }

    async fn is_right(app: &TestApp, name: &str, code: &str) -> bool {
        verified(app, name, code).await.unwrap().is_ok()
    }

    /// The seconds that a code has to wait.
    async fn wait(app: &TestApp, name: &str, code: &str) -> u64 {
        match verified(app, name, code).await {
            Err(Error::TooMany(wait)) => wait.as_secs_f64().ceil() as u64,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_code_works_once_and_the_one_that_confirmed_the_app_not_at_all() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        let code = phone.code();
        assert_eq!(verified(&app, "ada", &code).await.unwrap(), Err(Refusal::Used));
        later(&app).await;
        let code = phone.code();
        assert!(is_right(&app, "ada", &code).await);
        assert_eq!(verified(&app, "ada", &code).await.unwrap(), Err(Refusal::Used));
        assert_eq!(verified(&app, "ada", &phone.wrong()).await.unwrap(), Err(Refusal::Wrong));
    }

    #[tokio::test]
    async fn a_code_that_was_used_while_the_clock_was_ahead_makes_no_later_one_wrong() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        for ahead in [3_600, 86_400, 50 * 365 * 86_400] {
            app.set_clock_ahead(ahead);
            assert!(is_right(&app, "ada", &phone.code()).await, "{ahead} s ahead");
            app.set_clock_ahead(0);
            let code = phone.code();
            assert!(is_right(&app, "ada", &code).await, "{ahead} s ahead");
            assert!(!is_right(&app, "ada", &code).await, "{ahead} s ahead");
        }
    }

    #[tokio::test]
    async fn after_a_newer_code_an_older_one_is_not_taken_nor_is_one_before_its_time() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        early_in_a_step().await;
        assert!(!is_right(&app, "ada", &phone.code_of(-1)).await);
        assert!(!is_right(&app, "ada", &phone.code_of(2)).await);
        assert!(is_right(&app, "ada", &phone.code_of(1)).await);
        assert!(is_right(&app, "ada", &phone.code()).await);
        assert!(!is_right(&app, "ada", &phone.code_of(1)).await);
        assert!(!is_right(&app, "ada", &phone.code()).await);
    }

    #[tokio::test]
    async fn of_fifty_who_send_one_code_one_gets_in() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        for code in [&phone.code(), &codes[0]] {
            let answers = join_all((0..50).map(|_| verified(&app, "ada", code))).await;
            assert_eq!(answers.iter().filter(|answer| matches!(answer, Ok(Ok(())))).count(), 1, "{answers:?}");
            app.execute("delete from limits").await;
        }
    }

    #[tokio::test]
    async fn a_recovery_code_stands_in_for_the_app_once_and_its_owner_hears_of_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, codes) = turn_on(&ada).await;
        let (_, eves) = turn_on(&app.person("eve").await).await;
        assert!(!is_right(&app, "ada", &eves[0]).await);
        assert!(is_right(&app, "ada", &codes[0].to_uppercase().replace('-', " ")).await);
        assert!(!is_right(&app, "ada", &codes[0]).await);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_code_used' and factors = 2").await, 1);

        let id = app.user("ada").await;
        let new = app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap();
        assert!(!is_right(&app, "ada", &codes[1]).await);
        assert!(is_right(&app, "ada", &new[0]).await);
    }

    #[tokio::test]
    async fn ten_wrong_codes_in_a_row_lock_every_code_of_the_account_and_of_no_other() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        let (eves, _) = turn_on(&app.person("eve").await).await;
        app.confirm_address("ada", "ada@example.com").await;
        later(&app).await;
        for _ in 0..10 {
            assert!(!is_right(&app, "ada", &phone.wrong()).await);
        }
        for code in [&phone.code(), &codes[0], &phone.wrong()] {
            assert_eq!(wait(&app, "ada", code).await, 900);
        }
        assert!(is_right(&app, "eve", &eves.code()).await);
        assert_eq!(app.count("select count(*) from events where kind = 'wrong_code'").await, 9);
        // She is notified of the last.
        let notices = "select count(*) from events e join mails m on m.about = e.id where e.kind = 'codes_locked'";
        assert_eq!(app.count(notices).await, 1);

        // A quarter of an hour later a wrong one locks for longer, and a right one ends it.
        app.execute("update limits set free_at = free_at - 900000").await;
        assert!(!is_right(&app, "ada", &phone.wrong()).await);
        assert_eq!(wait(&app, "ada", &codes[0]).await, 1800);
        app.execute("update limits set free_at = free_at - 1800000").await;
        assert!(is_right(&app, "ada", &codes[0]).await);
        for _ in 0..9 {
            assert!(!is_right(&app, "ada", &phone.wrong()).await);
        }
        assert!(is_right(&app, "ada", &phone.code()).await);
    }

    #[tokio::test]
    async fn a_new_password_does_not_forgive_wrong_codes() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        for _ in 0..10 {
            assert!(!is_right(&app, "ada", &phone.wrong()).await);
        }
        let id = app.user("ada").await;
        app.app.db.write(async |db| rate_limit::reset_user(db, &id).await).await.unwrap();
        assert_eq!(wait(&app, "ada", &codes[0]).await, 900);
    }

    #[tokio::test]
    async fn a_secret_is_kept_sealed_and_opens_for_nobody_else() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let (phone, _) = turn_on(&app.person("eve").await).await;
        later(&app).await;
        // Eve can write to the table, and gives Ada the secret of her own app.
        let copy = "update totp set secret = (select secret from totp t join users u on u.id = t.user_id \
                    where u.username = 'eve')";
        app.execute(copy).await;
        let code = phone.code();
        assert_eq!(verified(&app, "ada", &code).await.unwrap(), Err(Refusal::Unreadable));
        assert!(is_right(&app, "eve", &code).await);
        // Her recovery codes still work.
        assert!(is_right(&app, "ada", &codes[0]).await);
    }

    #[tokio::test]
    async fn a_set_up_that_nobody_finishes_is_gone_after_an_hour() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        turn_on(&ada).await;
        eve.post("/account/two-factor/start", &[]).await.assert_status(303);
        app.execute("update totp set created_at = created_at - 3500").await;
        assert_eq!(purge(&app.app).await.unwrap(), 0);
        app.execute("update totp set created_at = created_at - 100").await;
        assert_eq!(purge(&app.app).await.unwrap(), 1);
        assert_eq!(app.count("select count(*) from totp where confirmed_at is not null").await, 1);
    }
}
