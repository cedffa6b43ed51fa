//! Recovery codes, to be kept on paper for when other factors are lost. A user has a set of ten; each works once.
//!
//! A code is 128 random bits, so its plain SHA-256 can be stored, and nobody guesses one however often they try.

use super::{event::Event, typed_code::normalize, user::Username};
use crate::base::{Result, random};
use crate::db::Connection;
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

pub const USED: Event = Event::named("recovery_code_used", "A recovery code was used")
    .with_notice("A recovery code was used", "It does not work a second time.");

const SET_SIZE: usize = 10;

/// Replaces the user's codes with new ones, and returns them; they cannot be shown again. The user's row is locked by
/// [`super::user::lock`].
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
    sqlx::query("delete from recovery_codes where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

/// Uses a code of the user with this name: deletes it, locks the user's row and returns the user's id. For any other name
/// and any other well-formed code it runs the same single statement, and changes nothing.
pub async fn use_by_name(db: &mut Connection, username: &Username, code: &str) -> Result<Option<String>> {
    let Some(code_hash) = parse(code).map(|code| hash(&code)) else { return Ok(None) };
    // The user's row comes first here too, so that no two transactions deadlock.
    let sql = "update users set id = id where username = $1 and disabled_at is null and exists \
               (select 1 from recovery_codes c where c.user_id = users.id and c.code_hash = $2) returning id";
    let query = sqlx::query_scalar(sql).bind(username.as_str()).bind(code_hash);
    let Some(user_id): Option<String> = query.fetch_optional(&mut *db).await? else { return Ok(None) };
    // The request that this one waited for may have used the same code.
    Ok(use_own(db, &user_id, code).await?.then_some(user_id))
}

/// Uses a code of this user, whose row is locked by [`super::user::lock`]. Returns whether it was one.
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

/// Base32 (RFC 4648, section 6) in lower case, in groups of four, which people copy most easily.
fn text(code: &[u8; 16]) -> String {
    let code = BASE32_NOPAD.encode(code).to_ascii_lowercase();
    let groups: Vec<&str> = (0..code.len()).step_by(4).map(|at| &code[at..code.len().min(at + 4)]).collect();
    groups.join("-")
}

/// A code as somebody has typed it: besides what [`normalize`] drops, capitals make no difference.
fn parse(typed: &str) -> Option<[u8; 16]> {
    BASE32_NOPAD.decode(normalize(typed).to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

/// Whether it can be a code. What cannot is a typing mistake, and no attempt at one.
pub fn is_well_formed(typed: &str) -> bool {
    parse(typed).is_some()
}

fn hash(code: &[u8; 16]) -> Vec<u8> {
    Sha256::digest(code).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
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
