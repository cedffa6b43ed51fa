//! Recovery codes: on paper, for whoever has lost the other ways in. A user has a set of ten; each works once.
//!
//! A code is 128 random bits, so its SHA-256 alone can be kept, and nobody guesses one however often they try.

use crate::database::Connection;
use crate::error::Result;
use crate::token::random;
use crate::user::Username;
use sha2::{Digest, Sha256};

const SET: usize = 10;

/// RFC 4648, section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 128 bits, five a character.
const LENGTH: usize = 26;

/// Replaces the user's codes by new ones, and answers them: they are never to be seen again. The user's row is
/// [`crate::user::lock`]ed.
pub async fn make(db: &mut Connection, user_id: &str) -> Result<Vec<String>> {
    end(db, user_id).await?;
    let mut codes = Vec::with_capacity(SET);
    for _ in 0..SET {
        let code = encode(random()?);
        let sql = "insert into recovery_codes (code_hash, user_id) values ($1, $2)";
        sqlx::query(sql).bind(hash(&code)).bind(user_id).execute(&mut *db).await?;
        codes.push(grouped(&code));
    }
    Ok(codes)
}

/// The user's codes do not work any more.
pub async fn end(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from recovery_codes where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

/// Takes the row of the user who has this name and this code, and answers their id; the code is no more. For any other
/// name and any other code it is the same one statement, and changes nothing.
pub async fn spend(db: &mut Connection, username: &Username, code: &str) -> Result<Option<String>> {
    let Some(code) = parse(code) else { return Ok(None) };
    // The user's row comes first here too, so that no two transactions wait for each other.
    let sql = "update users set id = id where username = $1 and disabled_at is null and exists \
               (select 1 from recovery_codes c where c.user_id = users.id and c.code_hash = $2) returning id";
    let query = sqlx::query_as(sql).bind(username.as_str()).bind(hash(&code));
    let Some((user_id,)): Option<(String,)> = query.fetch_optional(&mut *db).await? else { return Ok(None) };
    // Whoever waited for the row may have waited for somebody who used the same code.
    Ok(spend_own(db, &user_id, &code).await?.then_some(user_id))
}

/// Whether this is a code of the user, whose row is [`crate::user::lock`]ed; it is no more.
pub async fn spend_own(db: &mut Connection, user_id: &str, code: &str) -> Result<bool> {
    let Some(code) = parse(code) else { return Ok(false) };
    let sql = "delete from recovery_codes where code_hash = $1 and user_id = $2";
    let spent = sqlx::query(sql).bind(hash(&code)).bind(user_id).execute(db).await?;
    Ok(spent.rows_affected() > 0)
}

/// How many codes the user has left.
pub async fn left(db: &mut Connection, user_id: &str) -> Result<i64> {
    let sql = "select count(*) from recovery_codes where user_id = $1";
    let (left,): (i64,) = sqlx::query_as(sql).bind(user_id).fetch_one(db).await?;
    Ok(left)
}

/// Whether the user can come back without the password: by a confirmed address or by a code.
pub async fn has_way_back(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select (select count(*) from addresses where user_id = $1 and confirmed_at is not null) \
               + (select count(*) from recovery_codes where user_id = $1)";
    let (ways,): (i64,) = sqlx::query_as(sql).bind(user_id).fetch_one(db).await?;
    Ok(ways > 0)
}

/// Base32, without the padding.
fn encode(bytes: [u8; 16]) -> String {
    let bits = u128::from_be_bytes(bytes);
    // The last character has three bits, and two that are zero.
    let five = |at: usize| if at < LENGTH - 1 { bits >> (123 - 5 * at) } else { bits << 2 };
    (0..LENGTH).map(|at| ALPHABET[five(at) as usize & 31] as char).collect()
}

/// Four by four, as people copy it.
fn grouped(code: &str) -> String {
    let groups: Vec<&str> = (0..LENGTH).step_by(4).map(|at| &code[at..LENGTH.min(at + 4)]).collect();
    groups.join("-")
}

/// A code as somebody has typed it: in capitals, with other spaces, without hyphens.
fn parse(typed: &str) -> Option<String> {
    let code = typed.replace(|c: char| c.is_whitespace() || c == '-', "").to_ascii_lowercase();
    let is_code = code.len() == LENGTH && code.bytes().all(|byte| ALPHABET.contains(&byte));
    is_code.then_some(code)
}

fn hash(code: &str) -> Vec<u8> {
    Sha256::digest(code).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use futures_util::future::join_all;

    async fn made(app: &TestApp, name: &str) -> Vec<String> {
        let id = app.user(name).await;
        app.app.db.write(async |db| make(db, &id).await).await.unwrap()
    }

    async fn spent(app: &TestApp, name: &str, code: &str) -> Option<String> {
        let username = Username::parse(name).unwrap();
        app.app.db.write(async |db| spend(db, &username, code).await).await.unwrap()
    }

    /// As Python's `base64.b32encode` writes them.
    #[test]
    fn a_code_is_base32_as_everybody_writes_it() {
        let counted = std::array::from_fn(|at| at as u8);
        assert_eq!(encode(counted), "aaaqeayeaudaocajbifqydiob4");
        assert_eq!(encode([0xff; 16]), "77777777777777777777777774");
        assert_eq!(grouped(&encode(counted)), "aaaq-eaye-auda-ocaj-bifq-ydio-b4");
    }

    #[test]
    fn capitals_spaces_and_hyphens_are_forgiven_and_nothing_else() {
        let code = "aaaqeayeaudaocajbifqydiob4";
        for typed in [
            "aaaq-eaye-auda-ocaj-bifq-ydio-b4",
            " AAAQ EAYE AUDA OCAJ BIFQ YDIO B4\r\n",
            "AaAqEaYeAuDaOcAjBiFqYdIoB4",
            "aaaqe\u{a0}ayeaudaocajbifqydiob4----",
        ] {
            assert_eq!(parse(typed).as_deref(), Some(code), "{typed:?}");
        }
        for wrong in [
            "",
            "-",
            "aaaqeayeaudaocajbifqydiob",
            "aaaqeayeaudaocajbifqydiob44",
            "aaaqeayeaudaocajbifqydiob0",
            "ааaqeayeaudaocajbifqydiob4",
            "aaaqeayeaudaocajbifqydiob\0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_set_has_ten_codes_that_no_table_can_be_read_for() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let mut codes = made(&app, "ada").await;
        let read = async |db: &mut Connection| {
            Ok(sqlx::query_as("select code_hash from recovery_codes").fetch_all(db).await?)
        };
        let rows: Vec<(Vec<u8>,)> = app.app.db.read(read).await.unwrap();
        let mut stored: Vec<_> = rows.into_iter().map(|(hash,)| hash).collect();
        let mut hashes: Vec<_> = codes.iter().map(|code| hash(&code.replace('-', ""))).collect();
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
        let (codes, eves) = (made(&app, "ada").await, made(&app, "eve").await);
        let ada = app.user("ada").await;
        for (name, code) in
            [("eve", &codes[0]), ("ada", &eves[0]), ("nobody", &codes[0]), ("ada", &"a".repeat(26))]
        {
            assert_eq!(spent(&app, name, code).await, None, "{name} {code}");
        }
        assert_eq!(app.count("select count(*) from recovery_codes").await, 20);
        for code in &codes {
            assert_eq!(spent(&app, "Ada", code).await.as_ref(), Some(&ada));
            assert_eq!(spent(&app, "ada", code).await, None);
        }
        assert_eq!(app.app.db.read(async |db| left(db, &ada).await).await.unwrap(), 0);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
    }

    #[tokio::test]
    async fn new_codes_make_the_old_ones_worthless_and_leave_those_of_others() {
        let app = TestApp::new().await;
        for name in ["ada", "eve"] {
            app.person(name).await;
        }
        let (eves, old) = (made(&app, "eve").await, made(&app, "ada").await);
        let new = made(&app, "ada").await;
        assert_eq!(app.count("select count(*) from recovery_codes").await, 20);
        assert_eq!(spent(&app, "ada", &old[0]).await, None);
        assert!(spent(&app, "ada", &new[0]).await.is_some());
        assert!(spent(&app, "eve", &eves[0]).await.is_some());
    }

    #[tokio::test]
    async fn of_fifty_who_have_one_code_one_gets_in() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = made(&app, "ada").await;
        let all = join_all((0..50).map(|_| spent(&app, "ada", &codes[0]))).await;
        assert_eq!(all.iter().flatten().count(), 1);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn a_code_of_somebody_disabled_stays_unused() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = made(&app, "ada").await;
        app.execute("update users set disabled_at = 1").await;
        assert_eq!(spent(&app, "ada", &codes[0]).await, None);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
    }

    #[tokio::test]
    async fn a_confirmed_address_or_a_code_is_a_way_back_and_an_address_that_waits_is_none() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        let has = async || app.app.db.read(async |db| has_way_back(db, &id).await).await.unwrap();
        assert!(!has().await);
        app.execute("insert into addresses (user_id, email) select id, 'ada@example.com' from users").await;
        assert!(!has().await);
        app.execute("update addresses set confirmed_at = 1").await;
        assert!(has().await);
        app.execute("delete from addresses").await;
        made(&app, "ada").await;
        assert!(has().await);
    }
}
