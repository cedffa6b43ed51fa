//! Who is asking: [`AuthState`], and the extractors made of it.
//!
//! [`attach`] reads the cookie and asks the database nothing. Whoever first wants to know the user causes the one
//! look-up of the request; everybody after that, in whichever layer or handler, shares its answer.

use crate::app::App;
use crate::error::{Error, Result};
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
    session: OnceCell<Option<Session>>,
}

/// Puts an [`AuthState`] on the request.
pub fn attach(app: &App, request: &mut Request) {
    let token = session::token(&app.config, request.headers());
    let cookie = token.map(|token| Arc::new(Cookie { app: app.clone(), token, session: OnceCell::new() }));
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
        let found = cookie.session.get_or_try_init(|| session::find(&cookie.app, &cookie.token)).await?;
        Ok(found.as_ref())
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
