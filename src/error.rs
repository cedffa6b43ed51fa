//! What can go wrong with a request, and the layer that turns it into a page.
//!
//! A mistake that people are expected to make is no error: its form is shown again with a sentence. What stands
//! here ends the request. A handler answers `Err`, the answer travels up without a body, and [`face`] gives it
//! one, whoever made it: a handler, a guard, or the router for an unknown path.

use crate::access::see_other;
use crate::app::App;
use crate::form::Json;
use crate::page;
use crate::token::random;
use anyhow::anyhow;
use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde_json::json;
use std::cell::Cell;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tracing::Instrument;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The request was wrong: the status says how, and the page says what to do.
    Refused(StatusCode),
    /// The link does not work any more, or never did: 404, with a page of its own.
    StaleLink,
    /// The user has to show more of who they are before: 303 to where they do.
    Unproven,
    /// What a script sent was not good, in a way that people are expected to meet: 422, and the sentence as JSON.
    Mistake(String),
    /// It came too soon after many like it: 429, and when to come back.
    TooMany(Duration),
    /// Too busy, or the database is away: worth trying again.
    Unavailable(anyhow::Error),
    /// A fault of ours. Only the log sees it.
    Fault(anyhow::Error),
}

impl Error {
    pub const NOT_FOUND: Error = Error::Refused(StatusCode::NOT_FOUND);
}

/// That the answer is about a link, for the page.
#[derive(Clone)]
struct Stale;

/// What went wrong, on its way from the answer to the log.
#[derive(Clone)]
struct Cause(Arc<anyhow::Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, cause) = match self {
            Error::Refused(status) => (status, None),
            Error::StaleLink => return (Extension(Stale), StatusCode::NOT_FOUND).into_response(),
            Error::Unproven => return see_other("/confirm?second=yes&next=%2Faccount"),
            Error::Mistake(sentence) => {
                let answer = Json(json!({ "error": sentence }));
                return (StatusCode::UNPROCESSABLE_ENTITY, answer).into_response();
            }
            Error::TooMany(wait) => {
                let seconds = wait.as_millis().div_ceil(1000).to_string();
                return (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)]).into_response();
            }
            Error::Unavailable(cause) => (StatusCode::SERVICE_UNAVAILABLE, Some(cause)),
            Error::Fault(cause) => (StatusCode::INTERNAL_SERVER_ERROR, Some(cause)),
        };
        let mut response = status.into_response();
        if let Some(cause) = cause {
            response.extensions_mut().insert(Cause(Arc::new(cause)));
        }
        response
    }
}

impl From<anyhow::Error> for Error {
    fn from(cause: anyhow::Error) -> Error {
        Error::Fault(cause)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match &error {
            // The row it belongs to has just been deleted.
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => Error::NOT_FOUND,
            _ if is_away(&error) => Error::Unavailable(error.into()),
            _ => Error::Fault(error.into()),
        }
    }
}

/// So that commands, which answer with one sentence, can use what handlers use.
impl From<Error> for anyhow::Error {
    fn from(error: Error) -> anyhow::Error {
        match error {
            Error::Refused(status) => anyhow::anyhow!("refused: {status}"),
            Error::StaleLink => anyhow::anyhow!("the link does not work any more"),
            Error::Unproven => anyhow::anyhow!("a second factor is asked for"),
            Error::Mistake(sentence) => anyhow::anyhow!(sentence),
            Error::TooMany(wait) => anyhow::anyhow!("too many attempts; the next is free in {wait:?}"),
            Error::Unavailable(cause) | Error::Fault(cause) => cause,
        }
    }
}

/// Whether the database could not be reached or is too busy, rather than asked something wrong.
pub fn is_away(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    match error {
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | Protocol(_) | WorkerCrashed => true,
        sqlx::Error::Database(error) => match error.code().as_deref() {
            // Postgres (Appendix A of its manual): connection, resources, operator intervention, deadlock.
            Some(code) if code.len() == 5 => {
                ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class))
            }
            // SQLite: SQLITE_BUSY and SQLITE_LOCKED, which also stand in the low byte of extended codes.
            Some(code) => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)),
            None => false,
        },
        _ => false,
    }
}

/// Runs the rest of a request: names it for the log, catches panics, logs faults, and puts a page on every answer
/// that has none.
pub async fn face(app: &App, about: About, rest: impl Future<Output = Response>) -> Response {
    let span = tracing::error_span!("request", id = %about.id);
    let begun = Instant::now();
    let rest = async { (AssertUnwindSafe(rest).catch_unwind().await, NOTED.with(Noted::clone)) };
    let (handled, noted) = NOTED.scope(Noted::default(), rest).instrument(span.clone()).await;
    let mut response = handled.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
        Error::Fault(anyhow!("a handler panicked: {words}")).into_response()
    });

    let status = response.status();
    let _entered = span.enter();
    if let Some(Cause(cause)) = response.extensions_mut().remove() {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => tracing::warn!(status = 503, "{cause:#}"),
            _ => tracing::error!(status = status.as_u16(), "{cause:#}"),
        }
    }
    let (path, statements) = (noted.path.get(), noted.statements.get());
    let milliseconds = begun.elapsed().as_micros() as f64 / 1000.0;
    tracing::debug!(method = %about.method, path, status = status.as_u16(), statements, milliseconds);
    if cfg!(debug_assertions) && app.config.development() {
        let timing = format!("db;desc=\"{statements} statements\", total;dur={milliseconds}");
        response.headers_mut().insert("server-timing", timing.parse().expect("it is visible ASCII"));
    }
    // The router and axum's extractors answer without words, or with words for programmers.
    let has_page =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind != "text/plain; charset=utf-8");
    if (status.is_client_error() || status.is_server_error()) && !has_page {
        put_page(app, about, &mut response);
    }
    response
}

/// What is noted about the request at hand while it is answered, for the log and `Server-Timing`.
#[derive(Clone, Default)]
struct Noted {
    /// The pattern of the route: the path that was asked for may hold a secret.
    path: Cell<&'static str>,
    statements: Cell<u32>,
}

tokio::task_local! {
    static NOTED: Noted;
}

pub fn note_path(pattern: &'static str) {
    let _ = NOTED.try_with(|noted| noted.path.set(pattern));
}

pub fn note_statement() {
    let _ = NOTED.try_with(|noted| noted.statements.set(noted.statements.get() + 1));
}

/// What the page of an error needs to know of the request, which is gone by then.
pub struct About {
    id: RequestId,
    method: Method,
    look: page::Look,
    api: bool,
}

impl About {
    pub fn new(app: &App, request: &Request) -> About {
        About {
            id: RequestId(NEXT_REQUEST.fetch_add(1, Relaxed)),
            method: request.method().clone(),
            look: page::Look::of(app, request.headers()),
            api: request.uri().path().starts_with("/api/"),
        }
    }
}

/// Tells the lines of one request from those of others, also of other replicas: a random start, and one more each.
struct RequestId(u64);

static NEXT_REQUEST: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(u64::from_ne_bytes(random().unwrap_or_default())));

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn put_page(app: &App, about: About, response: &mut Response) {
    let status = response.status();
    // Faults only: a refusal has the same bytes for everyone.
    let id = status.is_server_error().then(|| about.id.to_string());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    if let Some(id) = &id {
        headers
            .insert("x-request-id", HeaderValue::from_str(id).expect("hexadecimal digits are visible ASCII"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static("2"));
    }
    if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
        // The rest of the body is not wanted.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let wait = headers.get(RETRY_AFTER).filter(|_| status == StatusCode::TOO_MANY_REQUESTS);
    let wait = wait.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let words = match response.extensions_mut().remove() {
        Some(Stale) => page::STALE_LINK,
        None => page::words(status),
    };
    let (kind, text) =
        if about.api { problem(status) } else { page::error(&app.pages, about.look, words, id, wait) };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = if about.method == Method::HEAD { Body::empty() } else { text.into() };
}

/// Problem details for programs (RFC 9457).
fn problem(status: StatusCode) -> (&'static str, String) {
    let title = status.canonical_reason().unwrap_or("Error");
    let json = serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16() });
    ("application/problem+json", json.to_string())
}
