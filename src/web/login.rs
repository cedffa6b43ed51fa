//! [`Login`]: logs users in, renews sessions, and logs out.

use super::app::{App, FactorAttempt, SessionStart};
use super::auth::{AuthState, SESSION_COOKIE};
use super::factors::{self, FactorCounts, PASSWORD};
use super::redirect::{LocalPath, Redirect, redirect};
use super::{client::client, cookie, error_pages::Words, flash};
use crate::accounts::session::lifecycle::{self, CONFIRMED, NewSession};
use crate::accounts::{
    AuthLevel, Choices, Client, PendingLogin, Session, device, event, link, password::VerifiedPassword,
    password::verify::Source, pending_login, user,
};
use crate::base::{Config, Error, Result, Token, Tokens};
use crate::db::Connection;
use ::cookie::Cookie;
use axum::Extension;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;

const DEVICE_COOKIE: &str = "device";
const PENDING_COOKIE: &str = "login";

/// As an argument of a handler that starts, renews or ends a session.
pub struct Login {
    app: App,
    auth: AuthState,
    pub headers: HeaderMap,
    pub client: Client,
    devices: Tokens,
}

impl FromRequestParts<App> for Login {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Login, Infallible> {
        Ok(Login {
            app: app.clone(),
            auth: AuthState::of(parts),
            headers: parts.headers.clone(),
            client: client(&app.config, &parts.extensions, &parts.headers),
            devices: cookie::tokens(&app.config, &parts.headers, DEVICE_COOKIE),
        })
    }
}

impl Login {
    /// Who tries a password.
    pub fn source(&self) -> Source<'_> {
        Source { client: &self.client, devices: &self.devices }
    }

    /// Logs in a user who has authenticated at `level`. If a feature requires another factor, the log-in waits for that;
    /// else a session starts in place of those that came with the request. `None` when the user has been disabled or
    /// deleted in the meantime.
    pub async fn log_in(
        &self,
        db: &mut Connection,
        user_id: &str,
        level: AuthLevel,
        choices: &Choices,
    ) -> Result<Option<Redirect>> {
        if user::lock(db, user_id).await?.is_none() {
            return Ok(None);
        }
        if let Some(path) = factors::next(&self.app, db, user_id, level).await? {
            let lifetime = self.app.config.login_lifetime;
            let token = pending_login::start(db, user_id, choices, lifetime).await?;
            let cookie = cookie::build(&self.app.config, PENDING_COOKIE, token.text(), Some(lifetime));
            return Ok(Some(redirect(path).cookie(cookie)));
        }
        self.start_session(db, user_id, level, choices).await.map(Some)
    }

    /// Logs in a user who has authenticated by the second factor too. `None` when the pending log-in has ended in the
    /// meantime.
    pub async fn complete(&self, db: &mut Connection, pending: &PendingLogin) -> Result<Option<Redirect>> {
        let user_id = &*pending.user.id;
        if user::lock(db, user_id).await?.is_none() || !pending.consume(db).await? {
            return Ok(None);
        }
        self.start_session(db, user_id, AuthLevel::TwoFactors, &pending.choices).await.map(Some)
    }

    async fn start_session(
        &self,
        db: &mut Connection,
        user_id: &str,
        level: AuthLevel,
        choices: &Choices,
    ) -> Result<Redirect> {
        let config = &self.app.config;
        let (client, devices, stay) = (&self.client, &self.devices, choices.stay);
        let new = NewSession { user_id, level, stay, client, devices, kept: config.sessions_per_user };
        let started = lifecycle::start(db, &new).await?;
        let (session_id, replaced) = (&*started.id, &self.auth.tokens());
        let start = SessionStart { config, headers: &self.headers, user_id, session_id, replaced };
        let mut redirect = redirect(&choices.next);
        for on_session_start in &self.app.features.on_session_start {
            redirect = on_session_start(db, start, redirect).await?;
        }
        lifecycle::finish_login(db, &new, &started, replaced).await?;
        let pending = cookie::tokens(config, &self.headers, PENDING_COOKIE);
        if !pending.is_empty() {
            pending_login::delete(db, &pending).await?;
            redirect = redirect.cookie(cookie::delete(config, PENDING_COOKIE));
        }
        Ok(redirect.cookie(device_cookie(config, &started.device.token)).cookie(session_cookie(
            config,
            &started.token,
            stay,
        )))
    }

    /// Records that the user has confirmed who they are, renews the session and leads to `next`, where what was pressed too
    /// `late` can be pressed again.
    ///
    /// # Errors
    /// As [`Login::renew`].
    pub async fn confirm(
        &self,
        db: &mut Connection,
        session: &Session,
        level: AuthLevel,
        Detour { next, late }: &Detour,
    ) -> Result<Redirect> {
        event::record(db, &*session.user.id, CONFIRMED.by(&self.client)).await?;
        let cookie = self.renew(db, level).await?;
        let flash = if late.is_some() { flash::PRESS_AGAIN } else { flash::CONFIRMED };
        Ok(redirect(self.app.resolve(next.as_ref())).cookie(cookie).flash(flash))
    }

    /// Gives the session that came with the request a new token, because its user has just authenticated at `level`.
    ///
    /// # Errors
    /// [`Error::NOT_FOUND`] when the session has ended in the meantime.
    pub async fn renew(&self, db: &mut Connection, level: AuthLevel) -> Result<Cookie<'static>> {
        let old = self.auth.session().await?.ok_or(Error::NOT_FOUND)?;
        let (token, stay) = lifecycle::renew(db, old, level).await?;
        Ok(session_cookie(&self.app.config, &token, stay))
    }

    /// Ends what a changed credential must end: the user's other sessions and pending log-ins, the trust in other devices,
    /// and pending links to reset and to confirm. This session continues with a new token, and has one factor if the last
    /// second factor was removed.
    ///
    /// # Errors
    /// As [`Login::renew`].
    pub async fn credentials_changed(
        &self,
        db: &mut Connection,
        session: &Session,
        level: AuthLevel,
    ) -> Result<Cookie<'static>> {
        lifecycle::revoke_others(db, session).await?;
        link::revoke_pending(db, &session.user.id).await?;
        let cookie = self.renew(db, level).await?;
        if !FactorCounts::of_user(&self.app, db, &session.user.id).await?.has_second_factor(&self.app) {
            lifecycle::lower(db, session).await?;
        }
        Ok(cookie)
    }

    /// Answers a request that repeats one which set the token of this session: with the same token if that request
    /// `renewed` the session, else with that of another session like it. If the session has ended or has a newer token,
    /// no token is given.
    pub async fn repeat(
        &self,
        db: &mut Connection,
        token: Token,
        renewed: bool,
        redirect: Redirect,
    ) -> Result<Redirect> {
        let config = &self.app.config;
        if self.auth.tokens().iter().any(|own| own.hash() == token.hash()) {
            return Ok(redirect);
        }
        if renewed {
            let stay = lifecycle::find_stay(db, &token).await?;
            return Ok(stay
                .map(|stay| session_cookie(config, &token, stay))
                .into_iter()
                .fold(redirect, Redirect::cookie));
        }
        let started = lifecycle::start_another(db, &token, &self.devices, config.sessions_per_user).await?;
        let cookies =
            started.map(|(token, device, stay)| [device_cookie(config, &device), session_cookie(config, &token, stay)]);
        Ok(cookies.into_iter().flatten().fold(redirect, Redirect::cookie))
    }

    /// Ends the sessions that came with the request, and the pending log-ins, and redirects. The browser forgets
    /// them in any case: where the database cannot end a session now, the answer says so, and this process ends it as soon
    /// as it can.
    pub async fn log_out(&self, redirect: Redirect) -> Response {
        let answer = match self.end_sessions().await {
            Ok(()) => redirect.into_response(),
            Err(error) => {
                self.app.sessions.end_later(&self.auth.tokens(), &self.client);
                (Extension(LOGGED_OUT_HERE), error).into_response()
            }
        };
        (self.clear_cookies(), answer).into_response()
    }

    async fn end_sessions(&self) -> Result<()> {
        let pending = cookie::tokens(&self.app.config, &self.headers, PENDING_COOKIE);
        let sessions = self.auth.tokens();
        // Unknown cookies cost no turn to write.
        let is_known = async |db: &mut Connection| {
            Ok(!sessions.is_empty() && lifecycle::exists(db, &sessions).await?
                || !pending.is_empty() && pending_login::find(db, &pending).await?.is_some())
        };
        if sessions.is_empty() && pending.is_empty() || !self.app.db.read(is_known).await? {
            return Ok(());
        }
        let end = async |db: &mut Connection| {
            pending_login::delete(db, &pending).await?;
            lifecycle::log_out(db, &sessions.hashes(), &self.client).await
        };
        self.app.db.write(end).await
    }

    /// Makes the browser forget the session, everything that pages have stored, and the pages behind the back button.
    pub fn clear_cookies(&self) -> (AppendHeaders<[(HeaderName, &'static str); 2]>, CookieJar) {
        let cookie = cookie::delete(&self.app.config, SESSION_COOKIE);
        let clear = [(CLEAR_SITE_DATA, "\"storage\""), (CLEAR_SITE_DATA, "\"cache\"")];
        (AppendHeaders(clear), CookieJar::new().add(cookie))
    }

    /// Verifies the factor that a logged-in user has sent to authenticate again.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a sentence for the field that was wrong; [`Error::TooMany`] after too many attempts.
    pub async fn reauthenticate(&self, session: &Session, credentials: &Credentials) -> Result<Reauthenticated> {
        for factor in &self.app.features.factors {
            if let Some(value) = credentials.0.get(factor.name) {
                let attempt = FactorAttempt { session, client: &self.client, headers: &self.headers, value };
                (factor.verify)(&self.app, attempt).await?;
                return Ok(Reauthenticated(None));
            }
        }
        let password = credentials.0.get(PASSWORD).map_or("", String::as_str);
        let verified = self.app.passwords.verify_own(self.source(), &session.user, password).await?;
        let verified = verified.ok_or_else(|| Error::invalid(PASSWORD, "This is not your password."))?;
        Ok(Reauthenticated(Some(verified)))
    }
}

// Not "cookies": that would delete the cookies of all sites below the same registered domain.
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

const LOGGED_OUT_HERE: Words = Words(
    "You are logged out in this browser",
    "We could not save that yet, because our database does not accept changes at the moment. We will keep trying. If someone \
     else may have used your session, check your devices when you log in again.",
);

fn session_cookie(config: &Config, token: &Token, stay: bool) -> Cookie<'static> {
    cookie::build(config, SESSION_COOKIE, token.text(), stay.then_some(config.session_lifetime))
}

/// What the page to confirm was opened for, in each of its forms.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Detour {
    /// Where to go afterwards.
    pub next: Option<LocalPath>,
    /// Set if something was pressed too late: `second` if a password alone is not enough for it, else `yes`.
    pub late: Option<String>,
}

fn device_cookie(config: &Config, token: &Token) -> Cookie<'static> {
    cookie::build(config, DEVICE_COOKIE, token.text(), Some(device::LIFETIME))
}

/// What a user sends to authenticate again: any of the factors, each in the field of its name.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub struct Credentials(pub BTreeMap<String, String>);

/// A user who has authenticated again, for the transaction that acts on it: by the password, or by a factor that is used
/// up already.
pub struct Reauthenticated(Option<VerifiedPassword>);

impl Reauthenticated {
    /// As [`VerifiedPassword::recheck`].
    ///
    /// # Errors
    /// [`Error::NOT_FOUND`] when the password has changed in the meantime.
    pub async fn recheck(&self, db: &mut Connection) -> Result<()> {
        match &self.0 {
            Some(password) if !password.recheck(db).await? => Err(Error::NOT_FOUND),
            _ => Ok(()),
        }
    }

    /// The level that this proves. Any factor but the password counts as a second one, because the session began with a first.
    pub fn level(&self) -> AuthLevel {
        if self.0.is_some() { AuthLevel::OneFactor } else { AuthLevel::TwoFactors }
    }
}

/// The pending log-in that this browser has begun, if it still exists.
pub async fn find_pending(app: &App, headers: &HeaderMap) -> Result<Option<PendingLogin>> {
    let tokens = cookie::tokens(&app.config, headers, PENDING_COOKIE);
    if tokens.is_empty() {
        return Ok(None);
    }
    app.db.read(async |db| pending_login::find(db, &tokens).await).await
}

impl FromRequestParts<App> for PendingLogin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<PendingLogin> {
        parts.extensions.get().cloned().ok_or(Error::NOT_FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::User;
    use crate::features::{self, Feature};
    use crate::test::{Answer, PASSWORD, PRODUCTION, SECOND_FACTOR, TestApp, Visitor};
    use crate::web::{Access, Routes};
    use axum::extract::State;
    use axum::http::Method;

    async fn first(State(app): State<App>, login: Login) -> Result<Redirect> {
        let log_in = async |db: &mut Connection| {
            let sql = "select id from users order by id limit 1";
            let id: String = sqlx::query_scalar(sql).fetch_one(&mut *db).await?;
            let choices = Choices { stay: true, next: "/private?a=b".into() };
            login.log_in(db, &id, AuthLevel::OneFactor, &choices).await
        };
        app.db.write(log_in).await?.ok_or(Error::NOT_FOUND)
    }

    async fn ask(pending: PendingLogin) -> String {
        format!("{} is asked for a second factor", pending.user.username)
    }

    async fn second(State(app): State<App>, login: Login, pending: PendingLogin) -> Result<Redirect> {
        let completed = app.db.write(async |db| login.complete(db, &pending).await).await?;
        completed.ok_or(Error::NOT_FOUND)
    }

    async fn wrong(State(app): State<App>, pending: PendingLogin) -> Result<String> {
        Ok(app.db.write(async |db| pending.count_wrong(db, 5).await).await?.to_string())
    }

    async fn log_out(login: Login) -> Response {
        login.log_out(redirect("/")).await
    }

    async fn app() -> TestApp {
        let routes = Routes::new()
            .post("/log-out", Access::Public, log_out)
            .post("/first", Access::Public, first)
            .get("/second", Access::PendingLogin, ask)
            .post("/second", Access::PendingLogin, second)
            .post("/second/wrong", Access::PendingLogin, wrong);
        let feature = Feature { routes, factor: Some(SECOND_FACTOR), ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        app.person("ada").await;
        app
    }

    /// A browser in which ada has authenticated with the first factor.
    async fn pending_login(app: &TestApp) -> Visitor {
        let browser = app.visitor();
        let answer = browser.post("/first", &[]).await;
        answer.assert_redirect("/second");
        answer.assert_cookie("login=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=300");
        assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 1, "{answer}");
        browser
    }

    #[tokio::test]
    async fn who_removes_the_last_second_factor_has_authenticated_with_one() {
        async fn change(session: Session, login: Login, State(app): State<App>) -> Result<CookieJar> {
            let change =
                async |db: &mut Connection| login.credentials_changed(db, &session, AuthLevel::TwoFactors).await;
            Ok(CookieJar::new().add(app.db.write(change).await?))
        }
        let routes = Routes::new().post("/change", Access::User, change);
        let feature = Feature { routes, factor: Some(SECOND_FACTOR), ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let ada = app.person("ada").await;
        app.execute("insert into recovery_codes (code_hash, user_id) values ('x', (select id from users))").await;
        const LEVELS: &str = "select min(factors) + min(confirmed_factors) from sessions";
        ada.post("/change", &[]).await.assert_status(200);
        assert_eq!(app.count(LEVELS).await, 4);
        app.execute("delete from recovery_codes").await;
        ada.post("/change", &[]).await.assert_status(200);
        assert_eq!(app.count(LEVELS).await, 2);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn with_one_factor_there_is_no_session_and_the_second_leads_where_the_user_wanted_to_go() {
        let app = app().await;
        let browser = pending_login(&app).await;
        browser.assert_is("nobody").await;
        browser.get("/second").await.assert_body("ada is asked for a second factor");
        let answer = browser.post("/second", &[]).await;
        answer.assert_redirect("/private?a=b");
        // As was chosen with the first.
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        answer.assert_cookie("login=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        browser.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from tokens").await, 0);
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 2);
    }

    #[tokio::test]
    async fn a_user_whose_log_in_is_pending_is_nobody_on_every_route() {
        let app = app().await;
        let browser = pending_login(&app).await;
        let env = [("BASE_URL", "http://localhost")].into_iter().collect();
        for route in features::all(&env).unwrap().iter().flat_map(|feature| feature.routes.iter()) {
            let path = route.example_path();
            let (pending, visitor) = (browser.copy(), app.visitor());
            let as_pending = pending.send(route.method.clone(), &path, &[], "").await;
            let as_visitor = visitor.send(route.method.clone(), &path, &[], "").await;
            if route.access != Access::PendingLogin {
                assert_eq!(as_pending.status, as_visitor.status, "{as_pending}");
                let to = |answer: &Answer| answer.headers.get("location").cloned();
                assert_eq!(to(&as_pending), to(&as_visitor), "{as_pending}");
            }
            pending.assert_is("nobody").await;
            as_pending.assert_lacks("Logged in: ada");
        }
        for method in [Method::GET, Method::POST] {
            let answer = browser.send(method, "/private", &[], "").await;
            assert!(answer.status == 405 || answer.header("location").starts_with("/login"), "{answer}");
        }
        assert_eq!(app.count("select count(*) from sessions").await, 1);
    }

    #[tokio::test]
    async fn without_a_first_factor_there_is_no_second() {
        let app = app().await;
        let made_up = app.visitor().with_cookie("login", &Token::random().unwrap().text());
        let of_a_session = app.browser_of("ada").await;
        let session = of_a_session.cookie("session_token").unwrap();
        for browser in [app.visitor(), made_up, of_a_session, app.visitor().with_cookie("login", &session)] {
            browser.get("/second").await.assert_redirect("/login");
            browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
        }
    }

    #[tokio::test]
    async fn a_pending_log_in_ends_after_a_while_and_with_whatever_ends_sessions() {
        let app = app().await;
        for end in ["expire", "disable", "log out everywhere"] {
            let browser = pending_login(&app).await;
            match end {
                "expire" => app.execute("update tokens set expires_at = expires_at - 300").await,
                "disable" => app.execute("update users set disabled_at = 1").await,
                _ => {
                    let id = app.user("ada").await;
                    app.app.db.write(async |db| lifecycle::revoke_all(db, &id).await).await.unwrap();
                }
            }
            browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
            app.execute("update users set disabled_at = null").await;
        }
    }

    #[tokio::test]
    async fn after_five_wrong_factors_a_pending_log_in_is_over() {
        let app = app().await;
        let browser = pending_login(&app).await;
        let another = pending_login(&app).await;
        for goes_on in [true, true, true, true, false] {
            browser.post("/second/wrong", &[]).await.assert_body(&goes_on.to_string());
        }
        browser.post("/second", &[]).await.assert_redirect("/login");
        another.post("/second", &[]).await.assert_redirect("/private?a=b");
    }

    #[tokio::test]
    async fn of_twenty_who_complete_a_log_in_at_once_one_is_logged_in() {
        let app = app().await;
        let browser = pending_login(&app).await;
        let copies: Vec<Visitor> = (0..20).map(|_| browser.copy()).collect();
        let answers = futures_util::future::join_all(copies.iter().map(|copy| copy.post("/second", &[]))).await;
        let logged_in = answers.iter().filter(|answer| answer.headers.contains_key("location"));
        assert_eq!(logged_in.filter(|answer| answer.header("location") == "/private?a=b").count(), 1);
        assert_eq!(app.count("select count(*) from sessions").await, 2);
    }

    #[tokio::test]
    async fn users_who_log_out_while_a_log_in_is_pending_start_over() {
        let app = app().await;
        let browser = pending_login(&app).await;
        let another = pending_login(&app).await;
        browser.post("/log-out", &[]).await.assert_redirect("/");
        browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
        another.post("/second", &[]).await.assert_redirect("/private?a=b");
    }

    #[tokio::test]
    async fn users_authenticate_again_by_any_factor_in_its_own_field_and_no_other() {
        let app = app().await;
        let (login, id) = (app.login().await, app.user("ada").await);
        let session = Session {
            id: "1".into(),
            token_hash: [0; 32],
            user: User { id, username: "ada".into() },
            confirmed_at: 0,
            confirmed: AuthLevel::OneFactor,
            level: AuthLevel::OneFactor,
        };
        let authenticate = async |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|&(field, value)| (field.to_string(), value.to_string()));
            match login.reauthenticate(&session, &Credentials(fields.collect())).await {
                Ok(reauthenticated) => Ok(reauthenticated.level()),
                Err(error) => {
                    let errors = error.field_errors().unwrap();
                    Err(errors.iter().map(|(field, sentence)| format!("{field}: {sentence}")).collect::<String>())
                }
            }
        };
        assert_eq!(authenticate(&[("password", PASSWORD)]).await, Ok(AuthLevel::OneFactor));
        assert_eq!(authenticate(&[("word", "ada's word")]).await, Ok(AuthLevel::TwoFactors));
        for wrong in ["bob's word", PASSWORD] {
            assert_eq!(authenticate(&[("word", wrong)]).await, Err("word: Not the word.".into()));
        }
        for nothing in [&[("password", "ada's word")][..], &[("user", "ada")], &[]] {
            assert_eq!(authenticate(nothing).await, Err("password: This is not your password.".into()));
        }
    }

    fn log_out_route() -> Routes {
        Routes::new().post("/log-out", Access::Public, log_out)
    }

    const ADA: [(&str, &str); 2] = [("username", "ada"), ("password", PASSWORD)];

    #[tokio::test]
    async fn the_cookie_ends_with_the_browser_unless_the_user_asks_to_stay() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let brief = app.visitor().post("/test/log-in", &ADA).await;
        brief.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        let staying = app.visitor().post("/test/log-in", &[ADA[0], ADA[1], ("stay", "on")]).await;
        staying.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
    }

    #[tokio::test]
    async fn on_https_the_cookie_is_bound_to_this_host() {
        let settings = [&PRODUCTION[..], &[("HASH_WAIT", "60s")]].concat();
        let app = TestApp::with_env(&settings, Routes::new()).await;
        let ada = app.person("ada").await;
        ada.assert_is("ada").await;
        let answer = ada.post("/test/log-in", &ADA).await;
        answer.assert_cookie("__Host-session_token=…; HttpOnly; SameSite=Lax; Secure; Path=/");
        answer.assert_header("strict-transport-security", "max-age=63072000");
        let with_subdomains = [&settings[..], &[("HSTS_SUBDOMAINS", "yes")]].concat();
        let answer = TestApp::with_env(&with_subdomains, Routes::new()).await.visitor().get("/").await;
        answer.assert_header("strict-transport-security", "max-age=63072000; includeSubDomains");
        let unprefixed = app.visitor().with_cookie("session_token", &ada.cookie("__Host-session_token").unwrap());
        unprefixed.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn after_log_out_the_old_cookie_is_nobodys_and_its_row_is_gone() {
        let app = TestApp::with(log_out_route()).await;
        let ada = app.person("ada").await;
        let thief = ada.copy();
        thief.assert_is("ada").await;
        let answer = ada.post("/log-out", &[]).await;
        answer.assert_cookie("session_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        answer.assert_headers("clear-site-data", &["\"storage\"", "\"cache\""]);
        thief.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from sessions").await, 0);
        app.visitor().post("/log-out", &[]).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn who_has_a_stale_cookie_of_the_name_logs_in_and_out_all_the_same() {
        let app = TestApp::with(log_out_route()).await;
        app.person("ada").await;
        for stale in ["stale", "", &"A".repeat(43), "Ω"] {
            let browser = app.visitor().with_foreign_cookie("session_token", stale);
            browser.post("/test/log-in", &ADA).await.assert_redirect("/");
            browser.assert_is("ada").await;
            let thief = browser.copy();
            browser.post("/log-out", &[]).await.assert_redirect("/");
            thief.assert_is("nobody").await;
        }
    }

    #[tokio::test]
    async fn a_log_out_ends_and_a_log_in_replaces_every_session_that_came_with_it() {
        let app = TestApp::with(log_out_route()).await;
        app.person("ada").await;
        for path in ["/log-out", "/test/log-in"] {
            let sessions = [app.browser_of("ada").await, app.browser_of("ada").await];
            let other = app.browser_of("ada").await;
            let both = sessions.each_ref().map(|browser| browser.cookie("session_token").unwrap());
            let browser = app.visitor().with_cookie("session_token", &both.join("; session_token="));
            browser.post(path, &ADA).await;
            for ended in sessions {
                ended.assert_is("nobody").await;
            }
            other.assert_is("ada").await;
        }
    }

    #[tokio::test]
    async fn a_stale_cookie_hides_neither_a_pending_log_in_nor_a_known_device() {
        let app = app().await;
        let stale = [&"A".repeat(43), "stale", ""];
        for stale in stale {
            let browser = pending_login(&app).await.with_foreign_cookie("login", stale);
            browser.get("/second").await.assert_body("ada is asked for a second factor");
            browser.post("/second", &[]).await.assert_redirect("/private?a=b");
            browser.assert_is("ada").await;
        }
        assert_eq!(app.count("select count(*) from tokens").await, 0);

        let app = TestApp::new().await;
        let browser = app.person("ada").await;
        for stale in stale {
            let browser = browser.clone().with_foreign_cookie("device", stale);
            browser.post("/test/log-in", &ADA).await.assert_redirect("/");
        }
        assert_eq!(app.count("select count(*) from devices").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'new_browser'").await, 0);
    }

    #[tokio::test]
    async fn two_devices_of_one_user_in_one_browser_are_no_fault() {
        let app = TestApp::new().await;
        let (one, two) = (app.person("ada").await, app.browser_of("ada").await);
        let browser = one.with_foreign_cookie("device", &two.cookie("device").unwrap());
        for _ in 0..2 {
            browser.post("/test/log-in", &ADA).await.assert_redirect("/");
            browser.assert_is("ada").await;
        }
    }

    #[tokio::test]
    async fn a_log_in_replaces_the_session_of_any_user_in_this_browser() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let browser = app.person("eve").await;
        let before = browser.copy();
        browser.post("/test/log-in", &ADA).await.assert_redirect("/");
        browser.assert_is("ada").await;
        before.assert_is("nobody").await;
        assert_ne!(browser.cookie("session_token"), before.cookie("session_token"));
    }
}
