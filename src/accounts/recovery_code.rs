//! Recovery codes, for when other factors are lost. A user has a set of ten; each works once.
//!
//! A code is 128 random bits, so its plain SHA-256 can be stored, and it cannot be guessed with any number of attempts.

use super::{event::Event, session::Session, typed_code::normalize, user::Username};
use crate::base::{Result, Seals, random};
use crate::db::{Connection, DbRow, ago, is_in_the_future, now};
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use sqlx::{FromRow, Row};
use std::time::Duration;

pub const USED: Event = Event::named("recovery_code_used", "Recovery code used")
    .with_notice("A recovery code was used", "It cannot be used again.");

/// How many codes a new set has.
pub const SET_SIZE: usize = 10;

/// Replaces the user's codes with new ones, and returns them. The user's row is locked by [`super::user::lock`].
pub async fn replace(db: &mut Connection, user_id: &str) -> Result<Vec<String>> {
    delete_all(db, user_id).await?;
    let mut codes = Vec::with_capacity(SET_SIZE);
    for _ in 0..SET_SIZE {
        let code: [u8; 16] = random()?;
        let sql = "insert into recovery_codes (code_hash, user_id) values ($1, $2)";
        sqlx::query(sql).bind(hash(&code)).bind(user_id).execute(&mut *db).await?;
        codes.push(text(&code));
    }
    Ok(codes)
}

pub async fn delete_all(db: &mut Connection, user_id: &str) -> Result<()> {
    for sql in ["delete from shown_codes where user_id = $1", "delete from recovery_codes where user_id = $1"] {
        sqlx::query(sql).bind(user_id).execute(&mut *db).await?;
    }
    Ok(())
}

/// How long the session that has made new codes may see them.
pub const SHOWN_FOR: Duration = Duration::from_secs(10 * 60);

/// What they are sealed for.
const SHOWN: &str = "shown_codes";

/// Deletes codes that were made at `$1` or before from what is shown.
pub const PURGE_SHOWN: &str = "delete from shown_codes where user_id in \
     (select user_id from shown_codes where created_at <= $1 limit 1000)";

/// Codes that their user may still look at.
pub struct ShownCodes {
    pub codes: Vec<String>,
    /// When they were made, in seconds since 1970.
    pub made_at: i64,
}

/// Replaces the user's codes as [`replace`], and keeps them for [`shown`] for a while.
pub async fn replace_and_show(db: &mut Connection, seals: &Seals, session: &Session) -> Result<()> {
    let user_id = &*session.user.id;
    let codes = replace(db, user_id).await?.join("\n");
    let sql = "insert into shown_codes (user_id, session_id, codes, created_at) values ($1, $2, $3, $4)";
    let query = sqlx::query(sql).bind(user_id).bind(&*session.id);
    query.bind(seals.seal(SHOWN, user_id, codes.as_bytes())?).bind(now()).execute(db).await?;
    Ok(())
}

/// The codes that this session has made a moment ago, until [`hide`].
pub async fn shown(db: &mut Connection, seals: &Seals, session: &Session) -> Result<Option<ShownCodes>> {
    let (user_id, since) = (&*session.user.id, ago(SHOWN_FOR));
    let sql = "select codes, created_at from shown_codes where user_id = $1 and session_id = $2 and created_at > $3";
    let query = sqlx::query_as(sql).bind(user_id).bind(&*session.id).bind(since);
    let found: Option<SealedCodes> = query.fetch_optional(db).await?;
    let Some(SealedCodes { codes, made_at }) = found.filter(|row| !is_in_the_future(row.made_at)) else {
        return Ok(None);
    };
    let text = seals.try_open(SHOWN, user_id, &codes).and_then(|codes| String::from_utf8(codes).ok());
    Ok(text.map(|text| ShownCodes { codes: text.lines().map(String::from).collect(), made_at }))
}

struct SealedCodes {
    codes: Vec<u8>,
    made_at: i64,
}

impl FromRow<'_, DbRow> for SealedCodes {
    fn from_row(row: &DbRow) -> sqlx::Result<SealedCodes> {
        Ok(SealedCodes { codes: row.try_get("codes")?, made_at: row.try_get("created_at")? })
    }
}

/// Shows this session's codes no more. They go on working.
pub async fn hide(db: &mut Connection, session: &Session) -> Result<()> {
    sqlx::query("delete from shown_codes where session_id = $1").bind(&*session.id).execute(db).await?;
    Ok(())
}

/// Uses a code of the user with this name: deletes it, locks the user's row and returns the user's id. For any other
/// name and any other well-formed code, it runs the same single statement and changes nothing.
pub async fn use_by_name(db: &mut Connection, username: &Username, code: &str) -> Result<Option<String>> {
    let Some(code_hash) = parse(code).map(|code| hash(&code)) else { return Ok(None) };
    // The user's row is locked first here too, so that transactions do not deadlock.
    let sql = "update users set id = id where username = $1 and disabled_at is null and exists \
               (select 1 from recovery_codes c where c.user_id = users.id and c.code_hash = $2) returning id";
    let query = sqlx::query_scalar(sql).bind(username.as_str()).bind(code_hash);
    let Some(user_id): Option<String> = query.fetch_optional(&mut *db).await? else { return Ok(None) };
    // The request that this one waited for may have used the same code.
    Ok(use_own(db, &user_id, code).await?.then_some(user_id))
}

/// Uses a code of this user, whose row is locked by [`super::user::lock`]. Returns whether it was valid.
pub async fn use_own(db: &mut Connection, user_id: &str, code: &str) -> Result<bool> {
    let Some(code) = parse(code) else { return Ok(false) };
    let sql = "delete from recovery_codes where code_hash = $1 and user_id = $2";
    let used = sqlx::query(sql).bind(hash(&code)).bind(user_id).execute(db).await?;
    Ok(used.rows_affected() > 0)
}

/// How many codes the user has left.
pub async fn count(db: &mut Connection, user_id: &str) -> Result<i64> {
    let sql = "select count(*) from recovery_codes where user_id = $1";
    Ok(sqlx::query_scalar(sql).bind(user_id).fetch_one(db).await?)
}

/// Base32 (RFC 4648, section 6) in lower case and groups of four, which is easy to copy.
fn text(code: &[u8; 16]) -> String {
    let code = BASE32_NOPAD.encode(code).to_ascii_lowercase();
    let groups: Vec<&str> = (0..code.len()).step_by(4).map(|at| &code[at..code.len().min(at + 4)]).collect();
    groups.join("-")
}

/// A code as typed: [`normalize`], and capitals make no difference.
fn parse(typed: &str) -> Option<[u8; 16]> {
    BASE32_NOPAD.decode(normalize(typed).to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

/// Whether it can be a code. Anything else is a typing mistake, and does not count as an attempt.
pub fn is_well_formed(typed: &str) -> bool {
    parse(typed).is_some()
}

fn hash(code: &[u8; 16]) -> Vec<u8> {
    Sha256::digest(code).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::session::row::SessionRow;
    use crate::server::purge::purge;
    use crate::test::TestApp;
    use futures_util::future::join_all;

    async fn new_codes(app: &TestApp, name: &str) -> Vec<String> {
        let id = app.user(name).await;
        app.app.db.write(async |db| replace(db, &id).await).await.unwrap()
    }

    async fn use_code(app: &TestApp, name: &str, code: &str) -> Option<String> {
        let username = Username::parse(name).unwrap();
        app.app.db.write(async |db| use_by_name(db, &username, code).await).await.unwrap()
    }

    /// As Python's `base64.b32encode` writes them.
    #[test]
    fn a_code_is_base32_as_other_programs_write_it() {
        let counted = std::array::from_fn(|at| at as u8);
        assert_eq!(text(&counted), "aaaq-eaye-auda-ocaj-bifq-ydio-b4");
        assert_eq!(text(&[0xff; 16]), "7777-7777-7777-7777-7777-7777-74");
    }

    #[test]
    fn capitals_spaces_and_hyphens_are_forgiven_and_nothing_else() {
        let code = std::array::from_fn(|at| at as u8);
        for typed in [
            "aaaqeayeaudaocajbifqydiob4",
            "aaaq-eaye-auda-ocaj-bifq-ydio-b4",
            " AAAQ EAYE AUDA OCAJ BIFQ YDIO B4\r\n",
            "AaAqEaYeAuDaOcAjBiFqYdIoB4",
            "aaaqe\u{a0}ayeaudaocajbifqydiob4----",
        ] {
            assert_eq!(parse(typed), Some(code), "{typed:?}");
        }
        for wrong in [
            "",
            "-",
            "aaaqeayeaudaocajbifqydiob",
            "aaaqeayeaudaocajbifqydiob44",
            "aaaqeayeaudaocajbifqydiob0",
            "ааaqeayeaudaocajbifqydiob4",
            "aaaqeayeaudaocajbifqydiob\0",
            "aaaqeayeaudaocajbifqydiob4======",
            // Bits after the last byte.
            "aaaqeayeaudaocajbifqydiob5",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_set_has_ten_codes_and_the_table_has_only_their_hashes() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let mut codes = new_codes(&app, "ada").await;
        let read = async |db: &mut Connection| {
            Ok(sqlx::query_scalar("select code_hash from recovery_codes").fetch_all(db).await?)
        };
        let mut stored: Vec<Vec<u8>> = app.app.db.read(read).await.unwrap();
        let mut hashes: Vec<_> = codes.iter().map(|code| hash(&parse(code).unwrap())).collect();
        stored.sort();
        hashes.sort();
        assert_eq!(stored, hashes);
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), 10);
    }

    /// A session of this user.
    async fn session_of(app: &TestApp, name: &str) -> Session {
        let sql = "select s.*, u.username from sessions s join users u on u.id = s.user_id where u.username = $1";
        let select = async |db: &mut Connection| Ok(sqlx::query_as(sql).bind(name).fetch_one(db).await?);
        let row: SessionRow = app.app.db.read(select).await.unwrap();
        row.session
    }

    #[tokio::test]
    async fn codes_that_are_shown_are_sealed_and_open_in_no_other_row() {
        let app = TestApp::new().await;
        for name in ["ada", "eve"] {
            app.person(name).await;
        }
        let (ada, eve) = (session_of(&app, "ada").await, session_of(&app, "eve").await);
        let (db, seals) = (&app.app.db, &app.app.seals);
        let read = async |session: &Session| db.read(async |db| shown(db, seals, session).await).await.unwrap();
        assert!(read(&ada).await.is_none());
        for session in [&ada, &eve] {
            db.write(async |db| replace_and_show(db, seals, session).await).await.unwrap();
        }
        let codes = read(&ada).await.unwrap().codes;
        assert_eq!(codes.len(), 10);
        let select =
            async |db: &mut Connection| Ok(sqlx::query_scalar("select codes from shown_codes").fetch_all(db).await?);
        let stored: Vec<Vec<u8>> = db.read(select).await.unwrap();
        let is_readable = |sealed: &Vec<u8>| sealed.windows(10).any(|bytes| codes[0].as_bytes().starts_with(bytes));
        assert!(stored.len() == 2 && !stored.iter().any(is_readable));
        // Eve can write to the table, and gives herself the codes of Ada, or Ada hers.
        app.execute("update shown_codes set codes = (select codes from shown_codes order by user_id limit 1)").await;
        assert_eq!([read(&ada).await, read(&eve).await].iter().flatten().count(), 1);
    }

    #[tokio::test]
    async fn codes_are_shown_no_more_once_they_are_replaced_deleted_or_purged() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let session = session_of(&app, "ada").await;
        let (db, seals, id) = (&app.app.db, &app.app.seals, &*session.user.id);
        for act in ["replace", "delete", "purge"] {
            db.write(async |db| replace_and_show(db, seals, &session).await).await.unwrap();
            assert_eq!(purge(&app.app).await.unwrap(), 0);
            match act {
                "replace" => drop(new_codes(&app, "ada").await),
                "delete" => db.write(async |db| delete_all(db, id).await).await.unwrap(),
                _ => {
                    app.execute("update shown_codes set created_at = created_at - 600").await;
                    assert_eq!(purge(&app.app).await.unwrap(), 1);
                }
            }
            assert_eq!(app.count("select count(*) from shown_codes").await, 0, "{act}");
        }
    }

    #[tokio::test]
    async fn each_code_works_once_and_only_for_its_owner() {
        let app = TestApp::new().await;
        for name in ["ada", "eve"] {
            app.person(name).await;
        }
        let (codes, eves) = (new_codes(&app, "ada").await, new_codes(&app, "eve").await);
        let ada = app.user("ada").await;
        for (name, code) in [("eve", &codes[0]), ("ada", &eves[0]), ("nobody", &codes[0]), ("ada", &"a".repeat(26))] {
            assert_eq!(use_code(&app, name, code).await, None, "{name} {code}");
        }
        assert_eq!(app.count("select count(*) from recovery_codes").await, 20);
        for code in &codes {
            assert_eq!(use_code(&app, "Ada", code).await.as_ref(), Some(&ada));
            assert_eq!(use_code(&app, "ada", code).await, None);
        }
        assert_eq!(app.app.db.read(async |db| count(db, &ada).await).await.unwrap(), 0);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
    }

    #[tokio::test]
    async fn new_codes_replace_the_old_ones_and_leave_those_of_other_users() {
        let app = TestApp::new().await;
        for name in ["ada", "eve"] {
            app.person(name).await;
        }
        let (eves, old) = (new_codes(&app, "eve").await, new_codes(&app, "ada").await);
        let new = new_codes(&app, "ada").await;
        assert_eq!(app.count("select count(*) from recovery_codes").await, 20);
        assert_eq!(use_code(&app, "ada", &old[0]).await, None);
        assert!(use_code(&app, "ada", &new[0]).await.is_some());
        assert!(use_code(&app, "eve", &eves[0]).await.is_some());
    }

    #[tokio::test]
    async fn of_fifty_people_who_use_one_code_at_once_one_gets_in() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = new_codes(&app, "ada").await;
        let all = join_all((0..50).map(|_| use_code(&app, "ada", &codes[0]))).await;
        assert_eq!(all.iter().flatten().count(), 1);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn a_code_of_a_disabled_user_stays_unused() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = new_codes(&app, "ada").await;
        app.execute("update users set disabled_at = 1").await;
        assert_eq!(use_code(&app, "ada", &codes[0]).await, None);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
    }
}
