//! Buttons that are pressed twice: `.post("/notes", Access::User, create).once()`.
//!
//! The second request waits for the first and gets the same answer, and nothing is done again. It is a repeat if it comes
//! within 10 s to the same path, with the same fields, from the same person: that is shown by the session's token where the
//! route is for users, else by a secret in the path, else by the field `once`, into which the page has written something
//! random. Without any of these a route acts each time.
//!
//! A row of the first transaction decides, so it holds for all replicas, and what is rolled back may be tried again. The
//! answer is kept if it is a redirect, and sealed, because it may lead to a secret.

use super::auth::{AuthState, SESSION_COOKIE};
use super::flash::Flash;
use super::form::{fields, find_field};
use super::redirect::redirect;
use super::security::own_referer;
use super::{app::App, client::client, cookie, login::Login};
use crate::base::{Result, Token, TokenHash, explain, random, seal};
use crate::db::Connection;
use crate::db::idempotency::{self, DoneAct, Outcome};
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Marks the requests of a route.
#[derive(Clone)]
pub struct Once;

/// A value for the field `once`: `{{ <once_field value={once} /> }}`.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn value() -> Result<String> {
    Ok(BASE64URL_NOPAD.encode(&random::<16>()?))
}

/// What a request asks for, and who.
#[derive(Clone)]
pub struct Act {
    /// Known only to the sender of the request: it seals the answer.
    secret: [u8; 32],
    /// The path, the fields, and where they come from.
    request: [u8; 32],
    for_users: bool,
    /// With a new token, a user who confirms again means it.
    is_confirmation: bool,
}

/// What a repeat is answered.
#[derive(Deserialize, Serialize)]
struct StoredAnswer {
    location: String,
    flash: Option<String>,
    /// The token of the session that the act has started or renewed.
    session: Option<String>,
}

impl StoredAnswer {
    /// `None` for any answer but a redirect, such as the same form with a mistake: it means that nothing was done.
    fn of(app: &App, answer: &Response) -> Option<StoredAnswer> {
        let location = answer.headers().get(LOCATION).filter(|_| answer.status() == StatusCode::SEE_OTHER)?;
        let flash = answer.extensions().get().map(|flash: &Flash| flash.name.to_string());
        let session = cookie::token_set(&app.config, answer.headers(), SESSION_COOKIE).map(|token| token.text());
        Some(StoredAnswer { location: location.to_str().ok()?.to_string(), flash, session })
    }

    fn seal(&self, act: &Act) -> Result<Vec<u8>> {
        seal::seal_for(&act.secret, &serde_json::to_vec(self).map_err(anyhow::Error::from)?)
    }
}

/// Between one look for the answer and the next.
const PAUSE: Duration = Duration::from_millis(50);

impl Act {
    /// `None` if nothing shows that two such requests come from one person.
    pub async fn of(app: &App, parts: &Parts, pattern: &str, for_users: bool, body: &Bytes) -> Option<Act> {
        let tokens = AuthState::of(parts).tokens();
        let is_known = if for_users {
            !tokens.is_empty()
        } else {
            pattern.contains("{token}") || find_field(&parts.headers, body, "once").await.is_some()
        };
        if !is_known {
            return None;
        }
        // A stolen token is of no use from elsewhere.
        let sender = client(&app.config, &parts.extensions, &parts.headers).address.to_string();
        let session = tokens.iter().map(|token| token.text()).filter(|_| for_users).collect::<String>();
        // Of a form only its fields are compared: what stands between them is different each time.
        let fields = fields(&parts.headers, body.clone()).await.ok();
        let body = fields.and_then(|fields| serde_json::to_vec(&fields).ok()).unwrap_or_else(|| body.to_vec());
        let sender = if for_users { &*sender } else { "" };
        let request = digest(&[parts.uri.path_and_query()?.as_str().as_bytes(), sender.as_bytes(), &body]);
        let is_confirmation = Some(pattern) == app.features.confirm_path;
        Some(Act { secret: digest(&[session.as_bytes(), &request]), request, for_users, is_confirmation })
    }

    /// The same act, asked for by a browser that has already taken the cookie of the first answer.
    fn with_token(&self, token: &str) -> Act {
        Act { secret: digest(&[token.as_bytes(), &self.request]), ..self.clone() }
    }

    /// As the table has it.
    fn hash(&self) -> TokenHash {
        Sha256::digest(self.secret).into()
    }

    /// Answers by the handler, unless another request has done the same.
    pub async fn run<F>(&self, app: &App, parts: &Parts, handler: impl Fn() -> F) -> Result<Response>
    where
        F: Future<Output = Response> + Send + 'static,
    {
        loop {
            if let Some(answer) = self.answer_repeat(app, parts).await? {
                return Ok(answer);
            }
            let Some(running) = Running::begin(self.hash()) else { continue };
            let work = self.clone().act(app.clone(), running, handler());
            match app.tasks.run(app.config.handler_timeout, work).await? {
                (_, Outcome::Repeated) => {}
                (answer, _) => return Ok(answer),
            }
        }
    }

    async fn act(self, app: App, _running: Running, handler: impl Future<Output = Response>) -> (Response, Outcome) {
        let (answer, outcome) = idempotency::run(self.hash(), handler).await;
        if outcome == Outcome::Done {
            let kept = self.keep(&app, StoredAnswer::of(&app, &answer)).await;
            if let Err(error) = kept {
                tracing::warn!("an answer could not be kept for a repeat: {}", explain(&anyhow::Error::from(error)));
            }
        }
        (answer, outcome)
    }

    /// Keeps the answer for repeats. Without one, nothing was done.
    async fn keep(&self, app: &App, answer: Option<StoredAnswer>) -> Result<()> {
        let hash = self.hash();
        let Some(answer) = answer else {
            return app.db.write_relaxed(async |db| idempotency::forget(db, &hash).await).await;
        };
        let token = answer.session.as_deref().filter(|_| self.for_users && !self.is_confirmation);
        let renewed = token.map(|token| self.with_token(token));
        let sealed = answer.seal(self)?;
        let renewed = renewed.map(|act| answer.seal(&act).map(|sealed| (act.hash(), sealed))).transpose()?;
        let keep = async |db: &mut Connection| {
            idempotency::set_answer(db, &hash, &sealed).await?;
            match &renewed {
                Some((hash, sealed)) => idempotency::add_answer(db, hash, sealed).await,
                None => Ok(()),
            }
        };
        app.db.write_relaxed(keep).await
    }

    /// Waits until the first request is answered, and answers alike. `None` when there was none, or nothing has come of it.
    /// If the process was killed that did the act, there is no answer, and the form's page shows what has become of it.
    pub async fn answer_repeat(&self, app: &App, parts: &Parts) -> Result<Option<Response>> {
        let (hash, until, mut is_repeat) = (self.hash(), Instant::now() + app.config.handler_timeout, false);
        loop {
            if !Running::all().contains(&hash) {
                let done = app.db.read(async |db| idempotency::find(db, &hash).await).await?;
                match done.filter(|done| is_repeat || !done.has_expired()) {
                    None => return Ok(None),
                    Some(DoneAct { answer: Some(answer), .. }) => {
                        return self.answer_again(app, parts, &answer).await.map(Some);
                    }
                    Some(_) => is_repeat = true,
                }
            }
            if Instant::now() >= until {
                let page = own_referer(&app.config, &parts.headers);
                return Ok(Some(redirect(app.resolve(page.as_ref())).into_response()));
            }
            sleep(PAUSE).await;
        }
    }

    async fn answer_again(&self, app: &App, parts: &Parts, answer: &[u8]) -> Result<Response> {
        let stored = seal::open_for(&self.secret, answer)?;
        let StoredAnswer { location, flash, session } = serde_json::from_slice(&stored).map_err(anyhow::Error::from)?;
        let flash = app.features.flashes.iter().find(|known| Some(known.name) == flash.as_deref());
        let redirect = flash.into_iter().fold(redirect(&location), |redirect, flash| redirect.flash(*flash));
        let Some(token) = session.as_deref().and_then(Token::parse) else { return Ok(redirect.into_response()) };
        let Ok(login) = Login::from_request_parts(&mut parts.clone(), app).await;
        let repeat = app.db.write(async |db| login.repeat(db, token, self.for_users, redirect).await);
        Ok(repeat.await?.into_response())
    }
}

/// One hash of several parts.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Whether the request carries a token that belongs to no session: the first request may have replaced it.
pub async fn may_have_been_renewed(parts: &Parts) -> Result<bool> {
    let auth = AuthState::of(parts);
    Ok(!auth.tokens().is_empty() && auth.session().await?.is_none())
}

/// An act that this process is doing. Repeats wait for it here, so that they cost no work.
struct Running(TokenHash);

impl Running {
    fn all() -> MutexGuard<'static, BTreeSet<TokenHash>> {
        static RUNNING: Mutex<BTreeSet<TokenHash>> = Mutex::new(BTreeSet::new());
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when another request is doing it.
    fn begin(hash: TokenHash) -> Option<Running> {
        Running::all().insert(hash).then(|| Running(hash))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        Running::all().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AuthLevel, Choices};
    use crate::base::{Error, Token};
    use crate::db::new_id;
    use crate::features::Feature;
    use crate::test::{Answer, TestApp, Visitor};
    use crate::web::{Access, Form, Redirect, Routes};
    use axum::extract::State;
    use futures_util::future::join_all;

    const SAVED: Flash = Flash { name: "saved", words: "Saved." };

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Act {
        text: String,
        /// What becomes of it: `rolled back`, `refused` after it was committed, or `fault`.
        fails: Option<String>,
    }

    async fn add_row(db: &mut Connection) -> Result<()> {
        sqlx::query("insert into salts (name, value) values ($1, $2)").bind(new_id()).bind(vec![0]).execute(db).await?;
        Ok(())
    }

    /// Adds a row, and leads to a path that ends in what was typed.
    async fn act(State(app): State<App>, Form(form): Form<Act>) -> Result<Response> {
        let fails = form.fails.as_deref();
        let acted = app.db.write(async |db| {
            add_row(db).await?;
            if fails == Some("rolled back") { Err(Error::invalid("text", "No.")) } else { Ok(()) }
        });
        acted.await?;
        match fails {
            Some("refused") => Ok(StatusCode::UNPROCESSABLE_ENTITY.into_response()),
            Some(_) => Err(Error::Fault(anyhow::anyhow!("a fault"))),
            None => Ok(redirect(&format!("/acted/{}", form.text)).flash(SAVED).into_response()),
        }
    }

    async fn enter(State(app): State<App>, login: Login) -> Result<Redirect> {
        let log_in = async |db: &mut Connection| {
            let id: String = sqlx::query_scalar("select id from users").fetch_one(&mut *db).await?;
            let choices = Choices { stay: true, next: "/private".into() };
            login.log_in(db, &id, AuthLevel::OneFactor, &choices).await
        };
        app.db.write(log_in).await?.ok_or(Error::NOT_FOUND)
    }

    async fn renew(State(app): State<App>, login: Login) -> Result<Redirect> {
        let cookie = app.db.write(async |db| login.renew(db, AuthLevel::OneFactor).await).await?;
        Ok(redirect("/private").cookie(cookie))
    }

    async fn app_with(settings: &[(&str, &str)]) -> TestApp {
        let routes = Routes::new()
            .post("/act", Access::User, act)
            .once()
            .post("/act/{token}", Access::Public, act)
            .once()
            .post("/visitors", Access::Guest, act)
            .once()
            .post("/enter/{token}", Access::Guest, enter)
            .once()
            .post("/renew", Access::Recent, renew)
            .once();
        TestApp::with_feature(settings, Feature { routes, flashes: &[SAVED], ..Feature::named("test") }).await
    }

    async fn app() -> TestApp {
        app_with(&[]).await
    }

    async fn rows(app: &TestApp) -> i64 {
        app.count("select count(*) from salts where length(name) > 30").await
    }

    async fn press_twice(visitor: &Visitor, path: &str, fields: &[(&str, &str)]) -> [Answer; 2] {
        let (first, second) = (visitor.copy(), visitor.copy());
        futures_util::future::join(first.post(path, fields), second.post(path, fields)).await.into()
    }

    #[tokio::test]
    async fn a_form_that_is_sent_twice_at_once_acts_once_and_both_see_the_same() {
        let app = app().await;
        let ada = app.person("ada").await;
        for answer in press_twice(&ada, "/act", &[("text", "milk")]).await {
            answer
                .assert_redirect("/acted/milk")
                .assert_cookie("flash=saved; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        }
        ada.post("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        // However it is encoded, and in whichever order its fields come.
        ada.post_multipart("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        assert_eq!(rows(&app).await, 1);
        let answers = join_all((0..20).map(|_| ada.post("/act", &[("text", "eggs")]))).await;
        for answer in answers {
            answer.assert_redirect("/acted/eggs");
        }
        assert_eq!(rows(&app).await, 2);
    }

    #[tokio::test]
    async fn another_text_another_session_and_another_path_are_other_acts() {
        let app = app().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let elsewhere = app.browser_of("ada").await;
        for (number, (visitor, path, text)) in [
            (&ada, "/act", "milk"),
            (&ada, "/act", "Milk"),
            (&ada, "/act?a=b", "milk"),
            (&elsewhere, "/act", "milk"),
            (&bob, "/act", "milk"),
            (&bob, "/act/x", "milk"),
            (&ada, "/act/y", "milk"),
        ]
        .into_iter()
        .enumerate()
        {
            visitor.post(path, &[("text", text)]).await.assert_status(303);
            assert_eq!(rows(&app).await, number as i64 + 1, "{path} {text}");
        }
    }

    #[tokio::test]
    async fn what_came_to_nothing_can_be_tried_again_at_once_and_leaves_nothing() {
        let app = app().await;
        let ada = app.person("ada").await;
        for (fails, status, added) in [("rolled back", 422, 0), ("refused", 422, 2), ("fault", 500, 2)] {
            let before = rows(&app).await;
            for answer in press_twice(&ada, "/act", &[("fails", fails)]).await {
                answer.assert_status(status);
            }
            assert_eq!(rows(&app).await - before, added, "{fails}");
            assert_eq!(app.count("select count(*) from idempotency_keys").await, 0, "{fails}");
        }
    }

    #[tokio::test]
    async fn ten_seconds_later_the_same_form_acts_again_and_then_the_row_is_deleted() {
        let app = app().await;
        let ada = app.person("ada").await;
        for seconds in [0, 5, 11] {
            app.set_clock_ahead(seconds);
            ada.post("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        }
        assert_eq!(rows(&app).await, 2);
        app.set_clock_ahead(30);
        crate::server::purge::purge(&app.app).await.unwrap();
        assert_eq!(app.count("select count(*) from idempotency_keys").await, 0);
    }

    #[tokio::test]
    async fn a_row_of_a_clock_that_was_ahead_keeps_nobody_from_acting() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.set_clock_ahead(86_400);
        ada.post("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        app.set_clock_ahead(0);
        ada.post("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        assert_eq!(rows(&app).await, 2);
    }

    #[tokio::test]
    async fn a_visitor_is_known_by_a_secret_in_the_path_or_a_random_field_and_else_acts_each_time() {
        let app = app().await;
        let random = value().unwrap();
        for (path, once, added) in [("/act/x", "", 1), ("/visitors", &*random, 1), ("/visitors", "", 2)] {
            let before = rows(&app).await;
            for answer in press_twice(&app.visitor(), path, &[("text", "milk"), ("once", once)]).await {
                answer.assert_redirect("/acted/milk");
            }
            assert_eq!(rows(&app).await - before, added, "{path} {once}");
        }
        assert_ne!(random, value().unwrap());
    }

    #[tokio::test]
    async fn whoever_logs_in_twice_at_once_has_two_sessions_and_one_log_in_on_record() {
        let app = app().await;
        app.person("ada").await;
        let logged_in = "select count(*) from events where kind in ('logged_in', 'new_browser')";
        let before = app.count(logged_in).await;
        let (first, second) = (app.visitor(), app.visitor());
        let answers = futures_util::future::join(first.post("/enter/x", &[]), second.post("/enter/x", &[])).await;
        for answer in <[Answer; 2]>::from(answers) {
            answer.assert_redirect("/private");
            answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
            answer.assert_cookie("device=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000");
        }
        first.assert_is("ada").await;
        second.assert_is("ada").await;
        assert_ne!(first.cookie("session_token"), second.cookie("session_token"));
        assert_eq!(app.count("select count(*) from sessions").await, 3);
        assert_eq!(app.count(logged_in).await - before, 2, "one log-in, with a new browser");
        let same = "select count(distinct created_at || device || factors || confirmed_factors || stay) from sessions \
                    where stay = 1";
        assert_eq!(app.count(same).await, 1);
    }

    #[tokio::test]
    async fn no_more_sessions_come_of_repeats_than_a_user_may_have() {
        let app = app_with(&[("SESSIONS_PER_USER", "3")]).await;
        app.person("ada").await;
        for _ in 0..5 {
            app.visitor().post("/enter/x", &[]).await.assert_redirect("/private");
        }
        assert_eq!(app.count("select count(*) from sessions").await, 3);
        assert_eq!(app.count("select count(*) from devices").await, 3);
    }

    #[tokio::test]
    async fn a_second_press_with_the_token_that_the_first_has_replaced_is_logged_in_too() {
        let app = app().await;
        let ada = app.person("ada").await;
        for again in [false, true] {
            let (first, second) = (ada.copy(), ada.copy());
            first.post("/renew", &[]).await.assert_redirect("/private");
            if again {
                second.assert_is("nobody").await;
                second.post("/renew", &[]).await.assert_redirect("/private");
                second.assert_is("ada").await;
                first.assert_is("ada").await;
                assert_eq!(first.cookie("session_token"), second.cookie("session_token"));
                assert_eq!(app.count("select count(*) from sessions").await, 1);
                app.end_repeats().await;
            } else {
                // The same path with another body, or another path, is no repeat.
                second.post("/renew", &[("a", "b")]).await.assert_redirect("/login?next=%2F");
                second.post("/act", &[]).await.assert_redirect("/login?next=%2F");
                first.assert_is("ada").await;
                ada.cookies.lock().unwrap().clone_from(&first.cookies.lock().unwrap());
                app.end_repeats().await;
            }
        }
        ada.post("/renew", &[]).await.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn a_second_press_with_the_token_that_the_first_has_set_renews_nothing_again() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.post("/renew", &[]).await.assert_redirect("/private");
        ada.post("/renew", &[]).await.assert_redirect("/private").assert_no_header("set-cookie");
        ada.assert_is("ada").await;
        ada.post("/renew", &[("a", "b")]).await.assert_redirect("/private");
        app.end_repeats().await;
        let token = ada.cookie("session_token");
        ada.post("/renew", &[]).await.assert_redirect("/private");
        assert_ne!(ada.cookie("session_token"), token);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_after_the_first_press_stays_so() {
        let app = app().await;
        let ada = app.person("ada").await;
        let (first, second) = (ada.copy(), ada.copy());
        first.post("/renew", &[]).await.assert_redirect("/private");
        app.execute("delete from sessions").await;
        second.post("/renew", &[]).await.assert_redirect("/private").assert_no_header("set-cookie");
        second.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn a_repeat_gives_no_session_once_the_first_has_a_newer_token_or_its_user_is_disabled() {
        let app = app().await;
        app.person("ada").await;
        let enter = async |visitor: &Visitor, path: &str| visitor.post(path, &[]).await;
        let first = app.visitor();
        enter(&first, "/enter/x").await.assert_redirect("/private");
        first.post("/renew", &[]).await.assert_redirect("/private");
        let second = app.visitor();
        enter(&second, "/enter/x").await.assert_redirect("/private").assert_no_header("set-cookie");
        enter(&app.visitor(), "/enter/y").await.assert_redirect("/private");
        app.execute("update users set disabled_at = 1").await;
        enter(&second, "/enter/y").await.assert_redirect("/private").assert_no_header("set-cookie");
    }

    #[tokio::test]
    async fn whoever_has_the_first_answers_session_keeps_it() {
        let app = app().await;
        app.person("ada").await;
        let browser = app.visitor();
        browser.post("/enter/x", &[]).await.assert_redirect("/private");
        let sessions = app.count("select count(*) from sessions").await;
        browser.post("/enter/x", &[]).await.assert_redirect("/private").assert_no_header("set-cookie");
        browser.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from sessions").await, sessions);
    }

    #[tokio::test]
    async fn an_unknown_token_costs_one_statement_more_and_none_where_nothing_is_protected() {
        let app = app().await;
        let stranger = app.visitor().with_cookie("session_token", &Token::random().unwrap().text());
        for (visitor, path, cost) in
            [(&stranger, "/act", 2), (&stranger, "/test/reauthenticate", 1), (&app.visitor(), "/act", 0)]
        {
            let before = app.statements();
            visitor.post(path, &[("text", "milk")]).await.assert_redirect("/login?next=%2F");
            assert_eq!(app.statements() - before, cost, "{path}");
        }
    }

    #[tokio::test]
    async fn where_the_first_was_cut_off_the_second_does_nothing_and_leads_back_to_the_form() {
        let app = app_with(&[("HANDLER_TIMEOUT", "1s")]).await;
        let ada = app.person("ada").await;
        ada.post("/act", &[("text", "milk")]).await.assert_redirect("/acted/milk");
        app.execute("update idempotency_keys set answer = null").await;
        let from = [("referer", "http://localhost/private")];
        ada.post_with("/act", &[("text", "milk")], &from).await.assert_redirect("/private");
        assert_eq!(rows(&app).await, 1);
    }

    #[tokio::test]
    async fn a_copy_of_the_table_does_not_tell_where_an_answer_leads() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.post("/act", &[("text", "secret")]).await.assert_redirect("/acted/secret");
        let read = async |db: &mut Connection| {
            Ok(sqlx::query_scalar("select answer from idempotency_keys").fetch_one(db).await?)
        };
        let stored: Vec<u8> = app.app.db.read(read).await.unwrap();
        assert!(!String::from_utf8_lossy(&stored).contains("secret"));
    }
}
