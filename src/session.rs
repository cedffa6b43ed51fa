//! Sessions: the table, the cookie, and the one door through which they begin and end.
//!
//! The cookie holds a random token, the table only its SHA-256, so a stolen copy of the database opens nothing and
//! there is no key to keep. A session ends by absolute age, by rest, by log-out, or with its user.

use crate::app::App;
use crate::auth::{AuthState, User};
use crate::config::Config;
use crate::database::{Connection, new_id, now};
use crate::error::Result;
use crate::event::{self, Event};
use crate::guard::{self, Client};
use crate::token::{Token, TokenHash};
use ::cookie::Cookie;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum_extra::extract::CookieJar;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const COOKIE: &str = "session_token";

/// The token in a request's cookie.
pub fn token(config: &Config, headers: &HeaderMap) -> Option<Token> {
    Token::parse(&guard::cookie(config, headers, COOKIE)?)
}

/// A live session and its user.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: String,
    pub user: User,
}

/// A session as the table has it.
#[derive(Clone)]
pub struct Row {
    pub token_hash: TokenHash,
    id: String,
    user: User,
    created_at: i64,
    seen_at: i64,
}

/// The live session with this token.
///
/// # Errors
/// When the database cannot say.
pub async fn find(app: &App, token: &Token) -> Result<Option<Session>> {
    let Some(row) = app.lookup.find(token.hash()).await? else { return Ok(None) };
    let now = now();
    let fresh = |since: i64, limit: Duration| now - since < limit.as_secs() as i64;
    if !fresh(row.created_at, app.config.session_lifetime) || !fresh(row.seen_at, app.config.session_idle) {
        return Ok(None);
    }
    if !fresh(row.seen_at, seen_every(&app.config)) {
        note_seen(app, row.id.clone(), now);
    }
    Ok(Some(Session { id: row.id, user: row.user }))
}

/// How stale `seen_at` may grow: little beside the idle time, and not a write for every page.
fn seen_every(config: &Config) -> Duration {
    (config.session_idle / 4).clamp(Duration::from_secs(1), Duration::from_secs(60))
}

/// The sessions whose `seen_at` is being written.
#[derive(Clone, Default)]
pub struct BeingSeen(Arc<Mutex<HashSet<String>>>);

impl BeingSeen {
    /// Whether nobody else is at it.
    fn begin(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_string())
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Writes `seen_at` off the request's path, once for all requests that find it stale at the same time.
fn note_seen(app: &App, id: String, now: i64) {
    if !app.being_seen.begin(&id) {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        let noted = app.db.write(async |db| {
            let sql = "update sessions set seen_at = $1 where id = $2 and seen_at < $1";
            sqlx::query(sql).bind(now).bind(&*id).execute(db).await?;
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(
                "when a session was last seen could not be written: {:#}",
                anyhow::Error::from(error)
            );
        }
        app.being_seen.end(&id);
    });
}

/// Who stands at the door: an extractor for handlers that begin or end a session.
pub struct Door {
    app: App,
    auth: AuthState,
    pub client: Client,
}

impl FromRequestParts<App> for Door {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Door, Self::Rejection> {
        let client = Client::from_request_parts(parts, app).await?;
        Ok(Door { app: app.clone(), auth: AuthState::of(parts), client })
    }
}

impl Door {
    /// Begins a session for this user in place of the one that came with the request, and answers its cookie, which
    /// outlives the browser if the user chose to `stay`. `None` when the user has been disabled or deleted meanwhile.
    pub async fn log_in(
        &self,
        db: &mut Connection,
        user_id: &str,
        stay: bool,
    ) -> Result<Option<Cookie<'static>>> {
        // Taking the row first makes a log-in and a disabling or deletion of its user follow one another.
        let sql = "update users set id = id where id = $1 and disabled_at is null returning id";
        if sqlx::query(sql).bind(user_id).fetch_optional(&mut *db).await?.is_none() {
            return Ok(None);
        }
        if let Some(token) = self.auth.token() {
            delete(db, token).await?;
        }
        let token = Token::random()?;
        insert(db, &token, user_id, stay, &self.client).await?;
        delete_all_but_newest(db, user_id, self.app.config.sessions_per_user).await?;
        event::record(db, user_id, Event::LoggedIn, &self.client).await?;

        let mut cookie = guard::set_cookie(&self.app.config, COOKIE, token.text()).build();
        let lifetime = self.app.config.session_lifetime.as_secs() as i64;
        cookie.set_max_age(stay.then(|| ::cookie::time::Duration::seconds(lifetime)));
        Ok(Some(cookie))
    }

    /// Ends the session that came with the request, if there is one.
    pub async fn log_out(&self) -> Result<()> {
        let Some(token) = self.auth.token() else { return Ok(()) };
        let end = async |db: &mut Connection| {
            if let Some(user_id) = delete(db, token).await? {
                event::record(db, &user_id, Event::LoggedOut, &self.client).await?;
            }
            Ok(())
        };
        self.app.db.write(end).await
    }

    /// What makes the browser forget the session and all that pages stored.
    pub fn farewell(&self) -> ([(HeaderName, &'static str); 1], CookieJar) {
        let cookie = guard::clear_cookie(&self.app.config, COOKIE);
        ([(CLEAR_SITE_DATA, "\"storage\"")], CookieJar::new().add(cookie))
    }
}

// Not "cookies": that would reach the cookies of all sites below the same registered domain.
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// How many sessions [`rows`] finds at once.
pub const MOST_AT_ONCE: usize = 32;

const ONE: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, u.id, u.username \
     from sessions s join users u on u.id = s.user_id where u.disabled_at is null and s.token_hash in ($1)";

const MANY: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, u.id, u.username \
     from sessions s join users u on u.id = s.user_id where u.disabled_at is null and s.token_hash in \
     ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
     $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)";

/// The sessions with these tokens, at most [`MOST_AT_ONCE`], joined to their users. A short list is filled up by
/// repeating its first hash, so that two statements, each prepared once, serve every length.
pub async fn rows(db: &mut Connection, hashes: &[&TokenHash]) -> Result<Vec<Row>> {
    let Some(&first) = hashes.first() else { return Ok(Vec::new()) };
    let (sql, length) = if hashes.len() == 1 { (ONE, 1) } else { (MANY, MOST_AT_ONCE) };
    let padded = hashes.iter().copied().chain(std::iter::repeat(first)).take(length);
    let query = padded.fold(sqlx::query_as(sql), |query, hash| query.bind(&hash[..]));
    let found: Vec<(Vec<u8>, String, i64, i64, String, String)> = query.fetch_all(db).await?;
    let row = |(token_hash, id, created_at, seen_at, user_id, username): (Vec<u8>, _, _, _, _, _)| {
        let token_hash = token_hash.try_into().ok()?;
        Some(Row { token_hash, id, user: User { id: user_id, username }, created_at, seen_at })
    };
    Ok(found.into_iter().filter_map(row).collect())
}

async fn insert(
    db: &mut Connection,
    token: &Token,
    user_id: &str,
    stay: bool,
    client: &Client,
) -> Result<()> {
    let now = now();
    let sql = "insert into sessions (id, token_hash, user_id, created_at, seen_at, stay, address, device) \
               values ($1, $2, $3, $4, $4, $5, $6, $7)";
    let query = sqlx::query(sql).bind(new_id()).bind(token.hash().to_vec()).bind(user_id).bind(now);
    query.bind(i64::from(stay)).bind(client.address.to_string()).bind(&*client.device).execute(db).await?;
    Ok(())
}

/// Answers whose session it was.
async fn delete(db: &mut Connection, token: &Token) -> Result<Option<String>> {
    let sql = "delete from sessions where token_hash = $1 returning user_id";
    let ended: Option<(String,)> = sqlx::query_as(sql).bind(token.hash().to_vec()).fetch_optional(db).await?;
    Ok(ended.map(|(user_id,)| user_id))
}

async fn delete_all_but_newest(db: &mut Connection, user_id: &str, kept: i64) -> Result<()> {
    let sql = "delete from sessions where user_id = $1 and id not in \
               (select id from sessions where user_id = $1 order by id desc limit $2)";
    sqlx::query(sql).bind(user_id).bind(kept).execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::app::App;
    use crate::test::{TestApp, Visitor};
    use axum::extract::{Path, State};
    use axum::response::{IntoResponse, Response};
    use std::time::Instant;

    async fn enter(State(app): State<App>, door: Door, Path(stay): Path<bool>) -> Result<Response> {
        let begin = async |db: &mut Connection| {
            let (id,): (String,) =
                sqlx::query_as("select id from users order by id limit 1").fetch_one(&mut *db).await?;
            door.log_in(db, &id, stay).await
        };
        let cookie = app.db.write(begin).await?;
        Ok((cookie.map(|cookie| CookieJar::new().add(cookie)), ()).into_response())
    }

    async fn leave(door: Door) -> Result<Response> {
        door.log_out().await?;
        Ok(door.farewell().into_response())
    }

    fn routes() -> Routes {
        Routes::new().post("/enter/{stay}", Access::Public, enter).post("/leave", Access::Public, leave)
    }

    async fn enter_as_first(visitor: &Visitor) {
        visitor.post("/enter/false", &[]).await.assert_status(200);
    }

    #[tokio::test]
    async fn the_cookie_ends_with_the_browser_unless_one_asks_to_stay() {
        let app = TestApp::with(routes()).await;
        app.person("ada").await;
        let brief = app.visitor().post("/enter/false", &[]).await;
        brief.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        let staying = app.visitor().post("/enter/true", &[]).await;
        staying.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
    }

    #[tokio::test]
    async fn on_https_the_cookie_is_bound_to_this_host() {
        let settings = [
            ("BASE_URL", "https://example.com"),
            ("TRUSTED_PROXIES", "none"),
            ("PASSWORD_ITERATIONS", "600000"),
        ];
        let app = TestApp::with_env(&settings, routes()).await;
        let ada = app.person("ada").await;
        ada.assert_is("ada").await;
        let answer = ada.post("/enter/false", &[]).await;
        answer.assert_cookie("__Host-session_token=…; HttpOnly; SameSite=Lax; Secure; Path=/");
        answer.assert_header("strict-transport-security", "max-age=63072000; includeSubDomains");
        let unprefixed =
            app.visitor().with_cookie("session_token", &ada.cookie("__Host-session_token").unwrap());
        unprefixed.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn after_log_out_the_old_cookie_is_nobody_and_its_row_is_gone() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        let thief = ada.copy();
        thief.assert_is("ada").await;
        let answer = ada.post("/leave", &[]).await;
        answer.assert_cookie("session_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        answer.assert_header("clear-site-data", "\"storage\"");
        thief.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from sessions").await, 0);
        app.visitor().post("/leave", &[]).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_log_in_over_a_session_replaces_it_whoever_it_was() {
        let app = TestApp::with(routes()).await;
        app.person("ada").await;
        let browser = app.person("eve").await;
        let before = browser.copy();
        enter_as_first(&browser).await;
        browser.assert_is("ada").await;
        before.assert_is("nobody").await;
        assert_ne!(browser.cookie("session_token"), before.cookie("session_token"));
    }

    #[tokio::test]
    async fn a_copy_of_the_table_opens_nothing() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        let token = Token::parse(&ada.cookie("session_token").unwrap()).unwrap();
        let (stored,): (Vec<u8>,) = app
            .app
            .db
            .read(async |db| Ok(sqlx::query_as("select token_hash from sessions").fetch_one(db).await?))
            .await
            .unwrap();
        assert_eq!(stored, token.hash());
        let from_dump = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &stored);
        app.visitor().with_cookie("session_token", &from_dump).assert_is("nobody").await;
    }

    #[tokio::test]
    async fn a_session_ends_by_age_and_by_rest() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        ada.assert_is("ada").await;
        app.execute("update sessions set seen_at = seen_at - 7 * 86400 + 60").await;
        ada.assert_is("ada").await;
        until_noted(&app).await;
        app.execute("update sessions set seen_at = created_at - 7 * 86400").await;
        ada.assert_is("nobody").await;
        app.execute(
            "update sessions set seen_at = seen_at + 7 * 86400, created_at = created_at - 30 * 86400",
        )
        .await;
        ada.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn use_is_noted_when_the_note_is_old_and_not_for_every_page() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        let before = app.statements();
        ada.assert_is("ada").await;
        ada.assert_is("ada").await;
        assert_eq!(app.statements() - before, 2);
        app.execute("update sessions set seen_at = seen_at - 61").await;
        ada.assert_is("ada").await;
        until_noted(&app).await;
    }

    /// `seen_at` is written after the answer.
    async fn until_noted(app: &TestApp) {
        let begun = Instant::now();
        while app.count("select count(*) from sessions where seen_at < created_at").await > 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "seen_at was never written");
        }
    }

    #[tokio::test]
    async fn the_oldest_sessions_of_somebody_with_too_many_end() {
        let app = TestApp::with_env(&[("SESSIONS_PER_USER", "3")], routes()).await;
        let first = app.person("ada").await;
        let browsers: Vec<Visitor> = (0..3).map(|_| app.visitor()).collect();
        for browser in &browsers {
            enter_as_first(browser).await;
        }
        first.assert_is("nobody").await;
        for browser in &browsers {
            browser.assert_is("ada").await;
        }
        let bob = app.person("bob").await;
        enter_as_first(&app.visitor()).await;
        bob.assert_is("bob").await;
    }

    #[tokio::test]
    async fn somebody_disabled_is_out_at_once_and_cannot_come_in() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        app.execute("update users set disabled_at = 1").await;
        ada.assert_is("nobody").await;
        app.visitor().post("/enter/false", &[]).await.assert_no_header("set-cookie");
        assert_eq!(app.count("select count(*) from sessions").await, 1);
    }

    #[tokio::test]
    async fn a_session_is_noted_with_where_it_came_from() {
        let app = TestApp::with(routes()).await;
        app.person("ada").await;
        let agent = format!("Browser\u{9} {}", "x".repeat(300));
        app.visitor().post_with("/enter/false", &[], &[("user-agent", &agent)]).await.assert_status(200);
        let sql = "select count(*) from sessions where address = '127.0.0.1' and length(device) = 200";
        assert_eq!(app.count(sql).await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'logged_in'").await, 2);
    }
}
