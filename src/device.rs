//! Devices: the browsers that somebody has logged in with before, and what a browser calls itself, in words.
//!
//! A completed log-in leaves a token in the cookie `device`. It opens nothing; it only shows, at the next log-in, that
//! this browser is no stranger, so that strangers who guess cannot keep the owner out.

use crate::config::Config;
use crate::database::{Connection, new_id, now};
use crate::error::Result;
use crate::guard;
use crate::token::Token;
use ::cookie::{Cookie, time::Duration};
use axum::http::HeaderMap;

const COOKIE: &str = "device";

/// How long a device is remembered after its last log-in.
const KEPT: Duration = Duration::days(365);

pub fn token(config: &Config, headers: &HeaderMap) -> Option<Token> {
    Token::parse(&guard::cookie(config, headers, COOKIE)?)
}

pub fn cookie(config: &Config, token: &Token) -> Cookie<'static> {
    guard::set_cookie(config, COOKIE, token.text()).max_age(KEPT).build()
}

/// The id of the device with this token, if this user has logged in with it.
pub async fn find(db: &mut Connection, token: &Token, user_id: &str) -> Result<Option<String>> {
    let sql = "select id from devices where token_hash = $1 and user_id = $2";
    let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(user_id);
    let found: Option<(String,)> = query.fetch_optional(db).await?;
    Ok(found.map(|(id,)| id))
}

/// Whether the user has logged in before, and never with this browser.
async fn is_new(db: &mut Connection, token: Option<&Token>, user_id: &str) -> Result<bool> {
    let sql = "select token_hash from devices where user_id = $1";
    let known: Vec<(Vec<u8>,)> = sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    let hash = token.map(Token::hash);
    Ok(!known.is_empty() && !known.iter().any(|(known,)| hash.is_some_and(|hash| hash[..] == known[..])))
}

/// Notes that a user has logged in with a device, and gives it a new token in place of `old`, so that nobody can plant
/// one in another's browser. Answers the id of the device, and whether it [`is_new`]. Of a user's devices the `most` last used are kept.
pub async fn remember(
    db: &mut Connection,
    old: Option<&Token>,
    new: &Token,
    user_id: &str,
    most: i64,
) -> Result<(String, bool)> {
    let is_new = is_new(db, old, user_id).await?;
    if let Some(old) = old {
        let sql = "update devices set token_hash = $2 where token_hash = $1";
        sqlx::query(sql).bind(old.hash().to_vec()).bind(new.hash().to_vec()).execute(&mut *db).await?;
    }
    let sql = "insert into devices (id, token_hash, user_id, seen_at) values ($1, $2, $3, $4) \
               on conflict (token_hash, user_id) do update set seen_at = $4 returning id";
    let query = sqlx::query_as(sql).bind(new_id()).bind(new.hash().to_vec()).bind(user_id).bind(now());
    let (id,): (String,) = query.fetch_one(&mut *db).await?;
    let sql = "delete from devices where user_id = $1 and id not in \
               (select id from devices where user_id = $1 order by seen_at desc, id desc limit $2)";
    sqlx::query(sql).bind(user_id).bind(most).execute(db).await?;
    Ok((id, is_new))
}

/// Forgets the user's devices that have no session, so that after all other sessions have ended one is left at most.
pub async fn forget_others(db: &mut Connection, user_id: &str) -> Result<()> {
    let sql = "delete from devices where user_id = $1 and not exists \
               (select 1 from sessions s where s.device_id = devices.id and s.user_id = $1)";
    sqlx::query(sql).bind(user_id).execute(db).await?;
    Ok(())
}

pub async fn forget(db: &mut Connection, id: Option<&str>) -> Result<()> {
    sqlx::query("delete from devices where id = $1").bind(id).execute(db).await?;
    Ok(())
}

/// Devices whose cookie has expired; `$1` is the time.
pub const PURGE: &str = "delete from devices where seen_at <= $1 - 365 * 86400 and id in \
     (select id from devices where seen_at <= $1 - 365 * 86400 limit 1000)";

/// What browsers put into `User-Agent`, the more telling first: most name others beside themselves.
const BROWSERS: [(&str, &str); 11] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Vivaldi", "Vivaldi"),
    ("FxiOS", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("command line", "The command line"),
];

const SYSTEMS: [(&str, &str); 7] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
];

/// A `User-Agent` in words, such as `Firefox on Linux`; alike for all versions of a browser.
pub fn words(user_agent: &str) -> String {
    let named = |names: &[(&str, &'static str)]| {
        names.iter().find(|(mark, _)| user_agent.contains(mark)).map(|&(_, name)| name)
    };
    match (named(&BROWSERS), named(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_string(),
        (None, Some(system)) => format!("A browser on {system}"),
        // No more than a name: whoever guesses at an account could write its owner a letter here.
        (None, None) => {
            let name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            match user_agent.chars().take_while(name).take(20).collect::<String>() {
                name if name.is_empty() => "Something without a name".to_string(),
                name => format!("A program named {name}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_in_words_that_outlive_its_updates() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                    Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0";
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 \
                     (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1";
        assert_eq!(words(firefox), "Firefox on Linux");
        assert_eq!(words(&firefox.replace("145", "146")), words(firefox));
        assert_eq!(words(edge), "Edge on Windows");
        assert_eq!(words(phone), "Safari on iPhone");
        assert_eq!(words("curl/8.5.0"), "curl");
        assert_eq!(words(""), "Something without a name");
        assert_eq!(words("python-requests/2.32"), "A program named python-requests");
        assert_eq!(words("Your account is at risk: call +1 555 0100"), "A program named Your");
        assert_eq!(words("\u{202e}evil"), "Something without a name");
    }
}
