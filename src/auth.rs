//! Who is asking: [`AuthState`], and the extractors made of it.
//!
//! [`attach`] reads the cookie and asks the database nothing. Whoever first wants to know the user causes the one
//! look-up of the request; everybody after that, in whichever layer or handler, shares its answer.

use crate::app::App;
use crate::error::{Error, Result};
use crate::guard::Client;
use crate::session::{self, Session};
use crate::token::Token;
use axum::extract::{FromRequestParts, OptionalFromRequestParts, Request};
use axum::http::request::Parts;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The log-in state of one request. Clones share what has been looked up.
#[derive(Clone)]
pub struct AuthState(Option<Arc<Cookie>>);

/// A session cookie of the right form, whose session may or may not exist.
struct Cookie {
    app: App,
    token: Token,
    client: Client,
    session: OnceCell<Option<Session>>,
}

/// Puts an [`AuthState`] on the request.
pub fn attach(app: &App, request: &mut Request) {
    let token = session::token(&app.config, request.headers());
    let cookie = token.map(|token| {
        let client = Client::of(&app.config, request.extensions(), request.headers());
        Arc::new(Cookie { app: app.clone(), token, client, session: OnceCell::new() })
    });
    request.extensions_mut().insert(AuthState(cookie));
}

impl AuthState {
    pub fn of(parts: &Parts) -> AuthState {
        parts.extensions.get().cloned().unwrap_or(AuthState(None))
    }

    /// The token that came with the request, known or not.
    pub fn token(&self) -> Option<&Token> {
        self.0.as_ref().map(|cookie| &cookie.token)
    }

    /// The session that the request belongs to.
    ///
    /// # Errors
    /// When the database cannot say: that is never "nobody".
    pub async fn session(&self) -> Result<Option<&Session>> {
        let Some(cookie) = &self.0 else { return Ok(None) };
        let find = || session::find(&cookie.app, &cookie.token, &cookie.client);
        Ok(cookie.session.get_or_try_init(find).await?.as_ref())
    }

    pub async fn user(&self) -> Result<Option<&User>> {
        Ok(self.session().await?.map(|session| &session.user))
    }
}

impl FromRequestParts<App> for AuthState {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<AuthState, Self::Rejection> {
        Ok(AuthState::of(parts))
    }
}

/// Whoever is logged in. As an argument of a handler whose route is `Access::User` it is always there; on another
/// route take `Option<User>`.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub username: String,
}

impl FromRequestParts<App> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<User> {
        AuthState::of(parts).user().await?.cloned().ok_or(Error::NOT_FOUND)
    }
}

impl OptionalFromRequestParts<App> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Option<User>> {
        Ok(AuthState::of(parts).user().await?.cloned())
    }
}

/// The session that the request belongs to; as [`User`], for handlers that must know which of the user's sessions it is.
impl FromRequestParts<App> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Session> {
        AuthState::of(parts).session().await?.cloned().ok_or(Error::NOT_FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::test::TestApp;
    use crate::token::Token;
    use axum::http::Method;

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
    async fn whoever_shows_no_token_costs_no_statement_and_an_unknown_one_costs_one() {
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
    async fn the_cookie_is_found_wherever_it_stands() {
        let app = app().await;
        let token = app.person("ada").await.cookie("session_token").unwrap();
        let visitor = app.visitor();
        let beside = format!("a=b; session_token={token}; c");
        for headers in [
            vec![("cookie", "first=1"), ("cookie", &beside)],
            vec![("cookie", "theme=dark; =; ;;"), ("cookie", &beside)],
        ] {
            visitor.send(Method::GET, "/often", &headers, "").await.assert_body("ada ada ada");
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
