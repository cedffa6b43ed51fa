//! Routes: a path, a method, who may enter, and the handler. The only way to register one.
//!
//! Whoever may not enter is turned away here, before the body is read; handlers never check by hand.

use crate::app::App;
use crate::auth::AuthState;
use crate::error::{Error, Result};
use crate::form::{query_parameter, query_value};
use crate::guard::{local_path, own_referer};
use anyhow::anyhow;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use std::fmt;
use tokio::time::timeout;

/// Who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Strangers; a user has no business there and is led on.
    Guest,
    /// Whoever is logged in; a stranger is led to the log-in and back.
    User,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Access::Public => "public",
            Access::Guest => "guest",
            Access::User => "user",
        })
    }
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    handler: MethodRouter<App>,
}

/// A list of routes, written one line each: `Routes::new().get("/account", Access::User, show)`.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    pub fn new() -> Routes {
        Routes::default()
    }

    /// `GET`, and with it `HEAD`.
    pub fn get<H, T>(self, path: &'static str, access: Access, handler: H) -> Routes
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.add(Method::GET, path, access, on(MethodFilter::GET, handler))
    }

    pub fn post<H, T>(self, path: &'static str, access: Access, handler: H) -> Routes
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.add(Method::POST, path, access, on(MethodFilter::POST, handler))
    }

    fn add(
        mut self,
        method: Method,
        path: &'static str,
        access: Access,
        handler: MethodRouter<App>,
    ) -> Routes {
        self.0.push(Route { method, path, access, handler });
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// A router in which every handler stands behind [`enter`].
    pub fn router(self, app: &App) -> Router<App> {
        self.0.into_iter().fold(Router::new(), |router, route| {
            let door = from_fn_with_state((app.clone(), route.path, route.access), enter);
            router.route(route.path, route.handler.layer(door))
        })
    }
}

/// Declared size, access, body, handler: in this order, each with its limit.
async fn enter(
    State((app, path, access)): State<(App, &'static str, Access)>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = enter_unless_refused(&app, access, request, next).await.into_response();
    response.extensions_mut().insert(Pattern(path));
    response
}

/// The path of the route that answered, for the log: the one that was asked for may hold a secret.
#[derive(Clone, Copy)]
pub struct Pattern(pub &'static str);

async fn enter_unless_refused(app: &App, access: Access, request: Request, next: Next) -> Result<Response> {
    let (parts, body) = request.into_parts();
    // Postgres cannot even compare text with a NUL in it; nothing has such an address.
    if parts.uri.path_and_query().is_some_and(|path| path.as_str().contains("%00")) {
        return Err(Error::NOT_FOUND);
    }
    if declared_size(&parts.headers) > app.config.body_limit as u64 {
        return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
    }
    if let Some(elsewhere) = turn_away(app, access, &parts).await? {
        return Ok(elsewhere);
    }
    let body = if body.is_end_stream() { body } else { Body::from(whole(app, body).await?) };
    let request = Request::from_parts(parts, body);
    let handled = timeout(app.config.handler_timeout, next.run(request)).await;
    handled.map_err(|_| Error::Unavailable(anyhow!("the handler took longer than HANDLER_TIMEOUT")))
}

fn declared_size(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

async fn turn_away(app: &App, access: Access, parts: &Parts) -> Result<Option<Response>> {
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if access == Access::Public || (access == Access::Guest && !reads) {
        return Ok(None);
    }
    let known = AuthState::of(parts).user().await?.is_some();
    Ok(match access {
        Access::Guest if known => {
            let next = query_parameter(parts.uri.query(), "next");
            Some(see_other(local_path(next.as_deref())))
        }
        Access::User if !known => {
            let here = parts.uri.path_and_query().map(|path| path.as_str().to_string());
            let next = if reads { here } else { own_referer(&app.config, &parts.headers) };
            Some(see_other(&format!("/login?next={}", query_value(local_path(next.as_deref())))))
        }
        Access::Public | Access::Guest | Access::User => None,
    })
}

/// 303: what answers a form that did its work.
pub fn see_other(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response()
}

/// Reads the body whole, so that a handler's time begins when it has all it needs.
async fn whole(app: &App, body: Body) -> Result<Bytes> {
    let limited = Limited::new(body, app.config.body_limit).collect();
    let read = timeout(app.config.body_timeout, limited).await;
    let read = read.map_err(|_| Error::Refused(StatusCode::REQUEST_TIMEOUT))?;
    let read = read.map_err(|error| {
        let too_large = error.is::<LengthLimitError>();
        Error::Refused(if too_large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST })
    })?;
    Ok(read.to_bytes())
}
