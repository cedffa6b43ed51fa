//! Half-way: a log-in in progress. The first factor is shown and the second is not, so there is no session, and no page
//! takes the browser for anybody; only routes with [`crate::access::Access::HalfWay`] know who is about to come in.

use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::{Connection, now};
use crate::error::{Error, Result};
use crate::guard;
use crate::token::Token;
use ::cookie::Cookie;
use ::cookie::time::Duration;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

pub const COOKIE: &str = "login";

/// A log-in in progress: an extractor, for handlers whose route is `Access::HalfWay`.
pub struct HalfWay {
    token: Token,
    pub user: User,
    /// Whether the session is to outlive the browser.
    pub stay: bool,
    /// Where to go afterwards.
    pub next: String,
}

impl FromRequestParts<App> for HalfWay {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<HalfWay> {
        find(app, &parts.headers).await?.ok_or(Error::NOT_FOUND)
    }
}

/// The log-in that this browser is about to complete.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<HalfWay>> {
    let Some(token) = token(&app.config, headers) else { return Ok(None) };
    let find = async |db: &mut Connection| {
        let sql = "select u.id, u.username, l.stay, l.next from logins l join users u on u.id = l.user_id \
                   where l.token_hash = $1 and l.expires_at > $2 and u.disabled_at is null";
        let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(now());
        let found: Option<(String, String, i64, String)> = query.fetch_optional(db).await?;
        Ok(found)
    };
    let Some((id, username, stay, next)) = app.db.read(find).await? else { return Ok(None) };
    Ok(Some(HalfWay { user: User { id, username }, stay: stay != 0, next, token }))
}

pub fn token(config: &Config, headers: &HeaderMap) -> Option<Token> {
    Token::parse(&guard::cookie(config, headers, COOKIE)?)
}

/// Begins one, and answers the cookie by which the browser goes on with it.
pub async fn begin(
    db: &mut Connection,
    config: &Config,
    user_id: &str,
    stay: bool,
    next: &str,
) -> Result<Cookie<'static>> {
    let (token, lifetime) = (Token::random()?, config.login_lifetime.as_secs() as i64);
    let sql = "insert into logins (token_hash, user_id, stay, next, wrong, expires_at) values ($1, $2, $3, $4, 0, $5)";
    let query = sqlx::query(sql).bind(token.hash().to_vec()).bind(user_id).bind(i64::from(stay));
    query.bind(next).bind(now() + lifetime).execute(db).await?;
    Ok(guard::set_cookie(config, COOKIE, token.text()).max_age(Duration::seconds(lifetime)).build())
}

impl HalfWay {
    /// Answers whether it was still there: of those who complete one at the same time one does.
    pub async fn spend(&self, db: &mut Connection) -> Result<bool> {
        end(db, &self.token).await
    }

    /// Counts a wrong factor, and answers whether it goes on: after `most` of them it does not.
    pub async fn note_wrong(&self, db: &mut Connection, most: i64) -> Result<bool> {
        let sql = "update logins set wrong = wrong + 1 where token_hash = $1 returning wrong";
        let query = sqlx::query_as(sql).bind(self.token.hash().to_vec());
        let counted: Option<(i64,)> = query.fetch_optional(&mut *db).await?;
        let goes_on = counted.is_some_and(|(wrong,)| wrong < most);
        if !goes_on {
            self.spend(db).await?;
        }
        Ok(goes_on)
    }
}

/// Answers whether there was one.
pub async fn end(db: &mut Connection, token: &Token) -> Result<bool> {
    let sql = "delete from logins where token_hash = $1 and expires_at > $2";
    let ended = sqlx::query(sql).bind(token.hash().to_vec()).bind(now()).execute(db).await?;
    Ok(ended.rows_affected() > 0)
}

/// Whatever anybody has begun as this user ends.
pub async fn end_all(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from logins where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

/// Those that have expired; `$1` is the time.
pub const PURGE: &str = "delete from logins where token_hash in (select token_hash from logins where expires_at <= $1 limit 1000)";
