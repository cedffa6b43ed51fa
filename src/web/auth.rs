//! Who is asking: [`AuthState`], and the extractors made of it.
//!
//! [`AuthState::new`] reads the cookie and asks the database nothing. The first to ask for the user causes the
//! look-up; everybody after that, in whichever layer or handler, shares its answer.

use super::{app::App, client::client, cookie, security::is_for_programs};
use crate::accounts::{Client, Session, User};
use crate::base::{Error, Result, Tokens};
use crate::db::request::Requester;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The name of the cookie that holds a session's token. Of several, the first counts whose session is valid.
pub const SESSION_COOKIE: &str = "session_token";

/// Who sent a request, as far as it has been looked up. Clones share the answer.
#[derive(Clone)]
pub struct AuthState(Option<Arc<Lookup>>);

/// Session cookies of the right form, whose sessions may or may not exist.
struct Lookup {
    app: App,
    tokens: Tokens,
    client: Client,
    session: OnceCell<Option<Session>>,
}

impl AuthState {
    pub fn new(app: &App, extensions: &Extensions, headers: &HeaderMap) -> AuthState {
        let tokens = cookie::tokens(&app.config, headers, SESSION_COOKIE);
        if tokens.is_empty() {
            return AuthState(None);
        }
        let client = client(&app.config, extensions, headers);
        AuthState(Some(Arc::new(Lookup { app: app.clone(), tokens, client, session: OnceCell::new() })))
    }

    pub fn of(parts: &Parts) -> AuthState {
        parts.extensions.get().cloned().unwrap_or(AuthState(None))
    }

    /// The session tokens that came with the request. Their sessions may not exist.
    pub fn tokens(&self) -> Tokens {
        self.0.as_ref().map(|lookup| lookup.tokens.clone()).unwrap_or_default()
    }

    /// The session that the request belongs to.
    ///
    /// # Errors
    /// When the database cannot be reached: that never means that nobody is logged in.
    pub async fn session(&self) -> Result<Option<&Session>> {
        let Some(lookup) = &self.0 else { return Ok(None) };
        let find = || lookup.app.sessions.find(&lookup.tokens, &lookup.client);
        let session = lookup.session.get_or_try_init(find).await?.as_ref();
        if let Some(session) = session {
            Requester::new(&session.user.id).set();
        }
        Ok(session)
    }

    /// # Errors
    /// As [`AuthState::session`].
    pub async fn user(&self) -> Result<Option<&User>> {
        Ok(self.session().await?.map(|session| &session.user))
    }

    /// The user, if they have been looked up already.
    pub fn known_user(&self) -> Option<&User> {
        Some(&self.0.as_ref()?.session.get()?.as_ref()?.user)
    }
}

impl FromRequestParts<App> for AuthState {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<AuthState, Infallible> {
        Ok(AuthState::of(parts))
    }
}

/// The user who is logged in. On a route with `Access::User` there always is one; on others take `Option<User>`.
impl FromRequestParts<App> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<User> {
        AuthState::of(parts).user().await?.cloned().ok_or_else(|| nobody(parts))
    }
}

impl OptionalFromRequestParts<App> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Option<User>> {
        Ok(AuthState::of(parts).user().await?.cloned())
    }
}

/// For a route that needs a user, and whose access does not say so.
fn nobody(parts: &Parts) -> Error {
    if is_for_programs(parts.uri.path()) { Error::Refused(StatusCode::UNAUTHORIZED) } else { Error::NOT_FOUND }
}

/// The session that the request belongs to, as [`User`].
impl FromRequestParts<App> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Session> {
        AuthState::of(parts).session().await?.cloned().ok_or_else(|| nobody(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Token;
    use crate::test::{PRODUCTION, TestApp};
    use crate::web::{Access, Routes};

    /// Asks three times: by itself, as an extractor and as a clone in another task.
    async fn ask_often(auth: AuthState, user: Option<User>) -> Result<String> {
        let elsewhere = auth.clone();
        let again = tokio::spawn(async move { elsewhere.user().await.map(|user| user.cloned()) });
        let again = again.await.map_err(anyhow::Error::from)??;
        let name = |user: Option<&User>| user.map_or("nobody".to_string(), |user| user.username.clone());
        Ok([name(auth.user().await?), name(user.as_ref()), name(again.as_ref())].join(" "))
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/often", Access::Public, ask_often);
        TestApp::with(routes.get("/for-users", Access::User, ask_often)).await
    }

    #[tokio::test]
    async fn however_many_ask_for_the_user_the_database_is_asked_once() {
        let app = app().await;
        let ada = app.person("ada").await;
        let before = app.statements();
        ada.get("/for-users").await.assert_status(200).assert_body("ada ada ada");
        assert_eq!(app.statements() - before, 1);
    }

    #[tokio::test]
    async fn a_visitor_without_a_token_costs_no_statement_and_an_unknown_token_costs_one() {
        let app = app().await;
        let ada = app.person("ada").await;
        let before = app.statements();
        app.visitor().get("/often").await.assert_body("nobody nobody nobody");
        for no_token in ["", "1", "ada", &"A".repeat(42), &"A".repeat(44), &"=".repeat(43), "Ω"] {
            app.visitor()
                .with_cookie("session_token", no_token)
                .get("/often")
                .await
                .assert_body("nobody nobody nobody");
        }
        app.visitor().get("/styles.css").await.assert_status(200);
        ada.get("/styles.css").await.assert_status(200);
        assert_eq!(app.statements() - before, 0);

        let unknown = app.visitor().with_cookie("session_token", &Token::random().unwrap().text());
        let before = app.statements();
        unknown.get("/often").await.assert_body("nobody nobody nobody").assert_no_header("set-cookie");
        assert_eq!(app.statements() - before, 1);
    }

    #[tokio::test]
    async fn of_several_cookies_of_its_name_the_first_whose_session_is_valid_counts_in_one_statement() {
        let app = app().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let (old, disabled) = (app.browser_of("ada").await, app.person("carol").await);
        app.execute(
            "update sessions set created_at = 0 where id = (select max(id) from sessions where user_id = \
                     (select id from users where username = 'ada'))",
        )
        .await;
        app.execute("update users set disabled_at = 1 where username = 'carol'").await;
        let [ada, bob, old, disabled] =
            [&ada, &bob, &old, &disabled].map(|person| person.cookie("session_token").unwrap());
        let unknown = || Token::random().unwrap().text();
        let ask = async |values: &[&str]| {
            let cookies: Vec<String> = values.iter().map(|value| format!("session_token={value}")).collect();
            let before = app.statements();
            let answer = app.visitor().get_with("/often", &[("cookie", &cookies.join("; "))]).await;
            assert_eq!(app.statements() - before, 1, "{values:?}");
            answer.assert_status(200).text().split(' ').next().unwrap().to_string()
        };
        for stale in ["stale", "", "\"", &"A".repeat(42), &unknown(), &old, &disabled, "=", "Ω"] {
            assert_eq!(ask(&[stale, &ada]).await, "ada", "{stale}");
            assert_eq!(ask(&[&ada, stale]).await, "ada", "{stale}");
            assert_eq!(ask(&[stale, stale, stale, &ada, &bob]).await, "ada", "{stale}");
            assert_eq!(ask(&[stale, &bob, stale, &ada]).await, "bob", "{stale}");
        }
        assert_eq!(ask(&[&unknown(), &unknown(), &old, &ada]).await, "ada");
        assert_eq!(ask(&[&unknown(), &unknown(), &old, &disabled, &ada]).await, "nobody", "four are asked for");
        let headers =
            [("cookie", &*format!("session_token={}", unknown())), ("cookie", &format!("session_token={ada}"))];
        app.visitor().get_with("/for-users", &headers).await.assert_body("ada ada ada");
    }

    #[tokio::test]
    async fn many_who_bring_several_cookies_at_once_each_get_their_own_name() {
        let app = app().await;
        let people = (0..20).map(async |number| (number, app.person(&format!("p{number}")).await));
        let people = futures_util::future::join_all(people).await;
        let asked = people.into_iter().map(async |(number, person)| {
            let stale = [(); 3].map(|()| format!("session_token={}", Token::random().unwrap().text()));
            person
                .with_foreign_cookie("session_token", &format!("stale; {}", stale.join("; ")))
                .assert_is(&format!("p{number}"))
                .await;
        });
        futures_util::future::join_all(asked).await;
    }

    #[tokio::test]
    async fn on_https_only_the_first_cookie_of_the_name_is_read() {
        let app = TestApp::with_env(&PRODUCTION, Routes::new()).await;
        let ada = app.person("ada").await.cookie("__Host-session_token").unwrap();
        for (cookies, name) in [
            (format!("__Host-session_token={ada}; __Host-session_token=stale"), "ada"),
            (format!("__Host-session_token=stale; __Host-session_token={ada}"), "nobody"),
            (format!("session_token=stale; __Host-session_token={ada}"), "ada"),
        ] {
            app.visitor().get_with("/whoami", &[("cookie", &cookies)]).await.assert_body(name);
        }
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_503_and_logs_nobody_out() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.lose_database().await;
        for path in ["/often", "/for-users"] {
            let answer = ada.get(path).await;
            answer.assert_status(503).assert_header("retry-after", "2").assert_no_header("set-cookie");
        }
        app.visitor().get("/often").await.assert_status(200);
    }
}
