//! Sessions: the table, the cookie, and the one door through which they begin and end.
//!
//! The cookie holds a random token, the table only its SHA-256, so a stolen copy of the database opens nothing and
//! there is no key to keep. A session ends by absolute age, by rest, by log-out, by a change of its user's password, or
//! with its user.

use crate::access::see_other;
use crate::app::App;
use crate::auth::{AuthState, User};
use crate::config::Config;
use crate::database::{Connection, new_id, now};
use crate::device;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::{self, Proven};
use crate::guard::{self, Client};
use crate::half_way::{self, HalfWay};
use crate::seen;
use crate::token::{self, Token, TokenHash};
use crate::user;
use ::cookie::Cookie;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
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
    /// When its user last proved who they are, in seconds since 1970.
    pub confirmed_at: i64,
    /// How much they showed then.
    pub confirmed: Proven,
    /// How much they have shown at all.
    pub proven: Proven,
}

impl Session {
    /// Whether its user proved lately who they are.
    pub fn is_recent(&self, config: &Config) -> bool {
        now() - self.confirmed_at < config.confirm_lifetime.as_secs() as i64
    }
}

/// A session as the table has it.
#[derive(Clone)]
pub struct Row {
    pub token_hash: TokenHash,
    pub id: String,
    pub user: User,
    created_at: i64,
    seen_at: i64,
    confirmed_at: i64,
    pub device: String,
    confirmed: Proven,
    proven: Proven,
}

/// The live session with this token; that `client` has used it is noted.
///
/// # Errors
/// When the database cannot say.
pub async fn find(app: &App, token: &Token, client: &Client) -> Result<Option<Session>> {
    let Some(row) = app.lookup.find(token.hash()).await? else { return Ok(None) };
    let now = now();
    let fresh = |since: i64, limit: Duration| now - since < limit.as_secs() as i64;
    if !fresh(row.created_at, app.config.session_lifetime) || !fresh(row.seen_at, app.config.session_idle) {
        return Ok(None);
    }
    let elsewhere = !client.is(&row.device) && device::words(&row.device) != device::words(&client.device());
    if elsewhere || !fresh(row.seen_at, seen::every(&app.config)) {
        seen::note(app, &row, client, elsewhere, now);
    }
    Ok(Some(Session {
        id: row.id,
        user: row.user,
        confirmed_at: row.confirmed_at,
        confirmed: row.confirmed,
        proven: row.proven,
    }))
}

/// What a log-in leads to: the cookies, and where the browser goes with them.
pub struct Entry {
    pub cookies: CookieJar,
    pub to: String,
}

impl IntoResponse for Entry {
    fn into_response(self) -> Response {
        (self.cookies, see_other(&self.to)).into_response()
    }
}

/// Who stands at the door: an extractor for handlers that begin, renew or end a session.
pub struct Door {
    app: App,
    auth: AuthState,
    headers: HeaderMap,
    pub client: Client,
}

impl FromRequestParts<App> for Door {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Door, Self::Rejection> {
        let client = Client::of(&app.config, &parts.extensions, &parts.headers);
        Ok(Door { app: app.clone(), auth: AuthState::of(parts), headers: parts.headers.clone(), client })
    }
}

impl Door {
    /// Logs this user in, who has `proven` so much. Every feature is asked whether it wants another factor first; else a
    /// session begins in place of the one that came with the request. It outlives the browser if the user chose to `stay`.
    /// `None` when the user has been disabled or deleted meanwhile.
    pub async fn log_in(
        &self,
        db: &mut Connection,
        user_id: &str,
        stay: bool,
        proven: Proven,
        next: &str,
    ) -> Result<Option<Entry>> {
        if !user::lock(db, user_id).await? {
            return Ok(None);
        }
        if let Some(path) = factor::next(&self.app, db, user_id, proven).await? {
            let cookie = half_way::begin(db, &self.app.config, user_id, stay, next).await?;
            return Ok(Some(Entry { cookies: CookieJar::new().add(cookie), to: path.into() }));
        }
        self.begin(db, user_id, stay, proven, next).await.map(Some)
    }

    /// Logs in whoever has shown the second factor too. `None` when their log-in has ended meanwhile.
    pub async fn complete(&self, db: &mut Connection, half_way: &HalfWay) -> Result<Option<Entry>> {
        let HalfWay { user, stay, next, .. } = half_way;
        if !user::lock(db, &user.id).await? || !half_way.spend(db).await? {
            return Ok(None);
        }
        self.begin(db, &user.id, *stay, Proven::TwoFactors, next).await.map(Some)
    }

    /// Begins a session. The user's row is locked.
    async fn begin(
        &self,
        db: &mut Connection,
        user_id: &str,
        stay: bool,
        proven: Proven,
        next: &str,
    ) -> Result<Entry> {
        let (token, device) = (Token::random()?, Token::random()?);
        let most = self.app.config.sessions_per_user;
        let old = self.device();
        let (device_id, is_new) = device::remember(db, old.as_ref(), &device, user_id, most).await?;
        let id = self.insert(db, &token, user_id, stay, proven, &device_id).await?;
        let mut cookies = CookieJar::new();
        for begins in self.app.features.iter().filter_map(|feature| feature.session_begins) {
            cookies = begins(db, self, user_id, &id, cookies).await?;
        }
        if let Some(token) = self.auth.token() {
            delete(db, token).await?;
        }
        cookies = half_way::end_begun(db, &self.app.config, &self.headers, cookies).await?;
        delete_all_but_newest(db, user_id, most).await?;
        event::record(db, user_id, Event::LoggedIn, &self.client).await?;
        if is_new {
            event::record(db, user_id, Event::NewBrowser, &self.client).await?;
        }
        let cookies = cookies.add(device::cookie(&self.app.config, &device)).add(self.cookie(&token, stay));
        Ok(Entry { cookies, to: next.into() })
    }

    /// Answers the id of the new session.
    async fn insert(
        &self,
        db: &mut Connection,
        token: &Token,
        user_id: &str,
        stay: bool,
        proven: Proven,
        device_id: &str,
    ) -> Result<String> {
        let (id, now) = (new_id(), now());
        let sql = "insert into sessions \
                   (id, token_hash, user_id, created_at, seen_at, confirmed_at, stay, address, device, device_id, factors, confirmed_factors) \
                   values ($1, $2, $3, $4, $4, $4, $5, $6, $7, $8, $9, $9)";
        let query = sqlx::query(sql).bind(&*id).bind(token.hash().to_vec()).bind(user_id).bind(now);
        let query =
            query.bind(i64::from(stay)).bind(self.client.address.to_string()).bind(self.client.device());
        query.bind(device_id).bind(proven.count()).execute(db).await?;
        Ok(id)
    }

    /// Gives the session that came with the request a new token, because its user has just proved who they are. It keeps
    /// what was proven before, if that is more.
    ///
    /// # Errors
    /// [`Error::NOT_FOUND`] when the session has ended meanwhile.
    pub async fn renew(&self, db: &mut Connection, proven: Proven) -> Result<CookieJar> {
        let token = Token::random()?;
        let sql = "update sessions set token_hash = $1, confirmed_at = $2, seen_at = $2, confirmed_factors = $4, \
                   factors = case when factors > $4 then factors else $4 end where token_hash = $3 returning stay";
        let old = self.auth.token().ok_or(Error::NOT_FOUND)?.hash().to_vec();
        let query =
            sqlx::query_as(sql).bind(token.hash().to_vec()).bind(now()).bind(old).bind(proven.count());
        let (stay,): (i64,) = query.fetch_optional(db).await?.ok_or(Error::NOT_FOUND)?;
        Ok(CookieJar::new().add(self.cookie(&token, stay != 0)))
    }

    /// What a changed credential ends: the user's other sessions and log-ins in progress, what other browsers were trusted
    /// with, and links to reset and confirm that are on their way. This session goes on under a new token.
    ///
    /// # Errors
    /// As [`Door::renew`].
    pub async fn credentials_changed(
        &self,
        db: &mut Connection,
        session: &Session,
        proven: Proven,
    ) -> Result<CookieJar> {
        end_others(db, session).await?;
        token::end_begun(db, &session.user.id).await?;
        self.renew(db, proven).await
    }

    /// The device token that came with the request, known or not.
    pub fn device(&self) -> Option<Token> {
        device::token(&self.app.config, &self.headers)
    }

    /// The value of a cookie that came with the request.
    pub fn request_cookie(&self, name: &str) -> Option<String> {
        guard::cookie(&self.app.config, &self.headers, name)
    }

    pub fn config(&self) -> &Config {
        &self.app.config
    }

    /// The session that came with the request, if it lives.
    pub async fn session(&self) -> Result<Option<&Session>> {
        self.auth.session().await
    }

    /// The token of the session that came with the request, known or not.
    pub fn token(&self) -> Option<&Token> {
        self.auth.token()
    }

    fn cookie(&self, token: &Token, stay: bool) -> Cookie<'static> {
        let mut cookie = guard::set_cookie(&self.app.config, COOKIE, token.text()).build();
        let lifetime = self.app.config.session_lifetime.as_secs() as i64;
        cookie.set_max_age(stay.then(|| ::cookie::time::Duration::seconds(lifetime)));
        cookie
    }

    /// Ends the session that came with the request, and the log-in in progress, if there are any.
    pub async fn log_out(&self) -> Result<()> {
        let begun = half_way::token(&self.app.config, &self.headers);
        let end = async |db: &mut Connection| {
            if let Some(token) = &begun {
                half_way::end(db, token).await?;
            }
            let Some(token) = self.auth.token() else { return Ok(()) };
            if let Some(user_id) = delete(db, token).await? {
                event::record(db, &*user_id, Event::LoggedOut, &self.client).await?;
            }
            Ok(())
        };
        if self.auth.token().is_some() || begun.is_some() { self.app.db.write(end).await } else { Ok(()) }
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

const ONE: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, s.confirmed_at, s.device, s.confirmed_factors, s.factors, u.id, u.username \
     from sessions s join users u on u.id = s.user_id where u.disabled_at is null and s.token_hash in ($1)";

const MANY: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, s.confirmed_at, s.device, s.confirmed_factors, s.factors, u.id, u.username \
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
    let found: Vec<Columns> = query.fetch_all(db).await?;
    let row = |(
        hash,
        id,
        created_at,
        seen_at,
        confirmed_at,
        device,
        confirmed,
        factors,
        user_id,
        username,
    ): Columns| {
        let (token_hash, confirmed, proven) =
            (hash.try_into().ok()?, Proven::of(confirmed), Proven::of(factors));
        let user = User { id: user_id, username };
        Some(Row { token_hash, id, user, created_at, seen_at, confirmed_at, device, confirmed, proven })
    };
    Ok(found.into_iter().filter_map(row).collect())
}

/// What [`ONE`] and [`MANY`] select.
type Columns = (Vec<u8>, String, i64, i64, i64, String, i64, i64, String, String);

/// Ends one of the user's sessions, and what its browser was trusted with.
///
/// # Errors
/// [`Error::NOT_FOUND`] when the user has no such session.
pub async fn end(db: &mut Connection, user_id: &str, id: &str) -> Result<()> {
    user::lock(db, user_id).await?;
    let sql = "delete from sessions where id = $1 and user_id = $2 returning device_id";
    let ended: Option<(Option<String>,)> =
        sqlx::query_as(sql).bind(id).bind(user_id).fetch_optional(&mut *db).await?;
    let (device_id,) = ended.ok_or(Error::NOT_FOUND)?;
    device::forget(db, device_id.as_deref()).await
}

/// Ends whatever anybody is logged in with or has begun as this user, whose row is [`user::lock`]ed.
pub async fn end_all(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from sessions where user_id = $1").bind(user_id).execute(&mut *db).await?;
    half_way::end_all(db, user_id).await?;
    device::forget_others(db, user_id).await?;
    token::end_begun(db, user_id).await
}

/// Takes the user's row, and with it sees to it that the session cannot end before the transaction does.
///
/// # Errors
/// [`Error::NOT_FOUND`] when it has ended since the request was let in: its user may have ended it because it is not theirs.
pub async fn hold(db: &mut Connection, session: &Session) -> Result<()> {
    let sql = "select 1 from sessions where id = $1";
    let lives = user::lock(db, &session.user.id).await?
        && sqlx::query(sql).bind(&*session.id).fetch_optional(db).await?.is_some();
    if lives { Ok(()) } else { Err(Error::NOT_FOUND) }
}

/// Ends all of the user's sessions but this one, log-ins in progress, and what other browsers were trusted with.
///
/// # Errors
/// As [`hold`].
pub async fn end_others(db: &mut Connection, session: &Session) -> Result<()> {
    hold(db, session).await?;
    let sql = "delete from sessions where user_id = $1 and id <> $2";
    sqlx::query(sql).bind(&*session.user.id).bind(&*session.id).execute(&mut *db).await?;
    half_way::end_all(db, &session.user.id).await?;
    device::forget_others(db, &session.user.id).await
}

/// Sessions that began at `$1` or before, and those that were last seen at `$1` or before.
pub const PURGE_OLD: &str =
    "delete from sessions where id in (select id from sessions where created_at <= $1 limit 1000)";
pub const PURGE_IDLE: &str = "delete from sessions where seen_at <= $1 and id in (select id from sessions where seen_at <= $1 limit 1000)";

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
            door.log_in(db, &id, stay, Proven::OneFactor, "/").await
        };
        Ok((app.db.write(begin).await?.map(|entry| entry.cookies), ()).into_response())
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
            ("SMTP_URL", "none"),
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

    #[tokio::test]
    async fn two_browsers_that_take_turns_are_told_of_now_and_then() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let browsers = [
            ("curl/8", "select count(*) from sessions where device = 'curl/8'"),
            ("Firefox/145", "select count(*) from sessions where device = 'Firefox/145'"),
        ];
        for (browser, noted) in browsers.iter().cycle().take(12) {
            // It is written after the answer.
            while app.count(noted).await == 0 {
                ada.get_with("/whoami", &[("user-agent", browser)]).await.assert_body("ada");
            }
        }
        assert_eq!(app.count("select count(*) from events where kind = 'other_browser'").await, 5);
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
