//! Turns errors into answers, and puts a page on every error that has none.
//!
//! An error travels up without a body. [`run`] gives it one, wherever it comes from: a handler, a check, or the router for an
//! unknown path.

use super::security::is_for_programs;
use super::templates::{PageContext, Template, Theme, files};
use super::{app::App, auth::AuthState, client::requester, flash, format, page::theme, redirect::redirect};
use crate::accounts::User;
use crate::base::{Error, explain, random};
use crate::db::request::{self, Requester};
use anyhow::anyhow;
use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Instant;
use tracing::Instrument;

/// The title and the sentence of an error page, in place of those of the status.
#[derive(Clone, Copy)]
pub struct Words(pub &'static str, pub &'static str);

/// What went wrong, for the log.
#[derive(Clone)]
struct Cause(Arc<anyhow::Error>);

/// The pattern of the route that answered, for the log: the path itself may hold a secret.
#[derive(Clone)]
pub struct RoutePattern(pub &'static str);

/// The page to confirm on, of an answer whose redirect is completed by the route, which knows where to go afterwards.
#[derive(Clone)]
pub struct ConfirmFirst(pub String);

/// Marks an answer whose page names nobody, although the user is known.
#[derive(Clone)]
struct Nobody;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, cause) = match self {
            Error::Refused(status) => return status.into_response(),
            // Pages render their mistakes themselves; this is for scripts.
            Error::Invalid(errors) => {
                let sentence = errors.iter().next().map_or("", |(_, sentence)| sentence);
                let json = json!({ "error": sentence }).to_string();
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return (status, [(CONTENT_TYPE, "application/json")], json).into_response();
            }
            Error::Hidden => return (Extension(Nobody), StatusCode::NOT_FOUND).into_response(),
            Error::Forbidden(sentence) => {
                let words = Words("You are not allowed to do that", sentence);
                return (Extension(words), StatusCode::FORBIDDEN).into_response();
            }
            Error::LastAdmin => return (Extension(LAST_ADMIN), StatusCode::CONFLICT).into_response(),
            Error::StaleLink => return (Extension(STALE_LINK), StatusCode::NOT_FOUND).into_response(),
            Error::Redirect(path) => return redirect(&path).into_response(),
            Error::TooLate(path) => return (Extension(ConfirmFirst(path)), StatusCode::SEE_OTHER).into_response(),
            Error::Repeated => return StatusCode::CONFLICT.into_response(),
            Error::TooMany(wait) => {
                let seconds = wait.as_millis().div_ceil(1000).to_string();
                return (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)]).into_response();
            }
            Error::Unavailable(cause) => (StatusCode::SERVICE_UNAVAILABLE, cause),
            Error::Fault(cause) => (StatusCode::INTERNAL_SERVER_ERROR, cause),
        };
        (Extension(Cause(Arc::new(cause))), status).into_response()
    }
}

/// What is known of a request before it is answered, and what an error page needs of it.
pub struct ErrorContext {
    id: String,
    sender: Requester,
    method: Method,
    path: String,
    theme: Theme,
    is_api: bool,
    /// Whether a script asks, which has sent JSON.
    is_script: bool,
}

impl ErrorContext {
    pub fn new(app: &App, request: &Request) -> ErrorContext {
        ErrorContext {
            id: next_request_id(),
            sender: requester(&app.config, request),
            method: request.method().clone(),
            path: request.uri().path().to_string(),
            theme: theme(&app.config, request.headers()),
            is_api: is_for_programs(request.uri().path()),
            is_script: has_json(request),
        }
    }
}

fn has_json(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// An id for the log lines of one request: a counter with a random start, so that replicas do not use the same ones.
fn next_request_id() -> String {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(u64::from_ne_bytes(random().unwrap_or_default())));
    format!("{:016x}", NEXT.fetch_add(1, Relaxed))
}

/// Runs the rest of a request: gives it an id in the log, catches panics, logs faults, sets the cookie of a flash, and
/// puts a page on an error that has none.
pub async fn run(app: &App, context: ErrorContext, rest: impl Future<Output = Response>) -> Response {
    let span = tracing::error_span!("request", id = %context.id);
    let started = Instant::now();
    let rest = async {
        let response = AssertUnwindSafe(rest).catch_unwind().await.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Error::Fault(anyhow!("a handler panicked: {words}")).into_response()
        });
        let user = if context.is_api { None } else { find_user(&response).await };
        (response, user)
    };
    let ((mut response, user), statements) = request::run(context.sender, rest).instrument(span.clone()).await;
    if let Err(error) = flash::set_cookie(&app.config, &app.features.flashes, &mut response) {
        response = Error::Fault(error).into_response();
    }

    let _entered = span.enter();
    log(&context, &mut response, statements, started);
    if cfg!(debug_assertions) && app.config.development() {
        let timing = format!("db;desc=\"{statements} statements\", total;dur={}", milliseconds(started));
        response.headers_mut().insert("server-timing", timing.parse().expect("it is visible ASCII"));
    }
    if lacks_page(&response) {
        put_page(app, context, user.as_ref(), &mut response);
    }
    response
}

/// Whether it is an error without words, or with words for programmers, as the router and axum's extractors answer.
fn lacks_page(response: &Response) -> bool {
    let has_page = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind != "text/plain; charset=utf-8");
    let status = response.status();
    (status.is_client_error() || status.is_server_error()) && !has_page
}

/// The user whom an error page names. A path that does not exist costs no look-up, and a site that is busy or without its
/// database makes none.
fn find_user(response: &Response) -> impl Future<Output = Option<User>> + use<> {
    let is_named = lacks_page(response)
        && response.status() != StatusCode::SERVICE_UNAVAILABLE
        && response.extensions().get::<Nobody>().is_none();
    let auth = response.extensions().get::<AuthState>().filter(|_| is_named).cloned();
    let has_route = response.extensions().get::<RoutePattern>().is_some() || response.headers().contains_key(ALLOW);
    async move {
        let auth = auth?;
        let user = if has_route { auth.user().await.ok()? } else { auth.known_user() };
        user.cloned()
    }
}

fn milliseconds(started: Instant) -> f64 {
    started.elapsed().as_micros() as f64 / 1000.0
}

fn log(context: &ErrorContext, response: &mut Response, statements: u32, started: Instant) {
    let status = response.status();
    if let Some(Cause(cause)) = response.extensions_mut().remove() {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => tracing::warn!(status = 503, "{}", explain(&cause)),
            _ => tracing::error!(status = status.as_u16(), "{}", explain(&cause)),
        }
    }
    let path = response.extensions_mut().remove().map_or("", |RoutePattern(path)| path);
    let (method, milliseconds) = (&context.method, milliseconds(started));
    tracing::debug!(%method, path, status = status.as_u16(), statements, milliseconds);
}

fn put_page(app: &App, context: ErrorContext, user: Option<&User>, response: &mut Response) {
    let status = response.status();
    // Faults only: a refusal has the same bytes for everybody.
    let is_fault = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    let request_id = is_fault.then(|| context.id.clone());
    let Words(title, words) = response.extensions_mut().remove().unwrap_or_else(|| words(status));
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    if let Some(id) = &request_id {
        headers.insert("x-request-id", HeaderValue::from_str(id).expect("hexadecimal digits are visible ASCII"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static("2"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::NOT_IMPLEMENTED) {
        // The rest of the body is not wanted.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let wait = headers.get(RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok()).map(format::from_now);
    let (kind, text) = if context.is_api {
        problem(status)
    } else if context.is_script {
        ("application/json", json!({ "error": words }).to_string())
    } else {
        let page = ErrorPage { title, words, request_id, wait };
        html(app, &page, PageContext { user, path: &context.path, ..PageContext::for_visitors(context.theme) })
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = if context.method == Method::HEAD { Body::empty() } else { text.into() };
}

/// Problem details for programs (RFC 9457).
fn problem(status: StatusCode) -> (&'static str, String) {
    let title = status.canonical_reason().unwrap_or("Error");
    let json = json!({ "type": "about:blank", "title": title, "status": status.as_u16() });
    ("application/problem+json", json.to_string())
}

#[derive(Serialize)]
struct ErrorPage {
    title: &'static str,
    words: &'static str,
    /// Faults only: what to quote when asking for help.
    request_id: Option<String>,
    /// How long to wait, in words.
    wait: Option<String>,
}

impl Template for ErrorPage {
    const FILE: &'static str = files::ERROR;
}

/// The page leaves a flash to the next one.
fn html(app: &App, page: &ErrorPage, context: PageContext<'_>) -> (&'static str, String) {
    let html = app.templates.render(page, context).unwrap_or_else(|cause| {
        tracing::error!("{}", explain(&cause));
        format!("<!doctype html><title>{}</title><p>{}", page.title, page.words)
    });
    ("text/html; charset=utf-8", html)
}

const LAST_ADMIN: Words = Words(
    "The site needs an administrator",
    "This would leave the site without one. Make somebody else an administrator first.",
);

/// For a link that was used, replaced by a newer one, or has expired; the page does not say which.
const STALE_LINK: Words = Words(
    "This link no longer works",
    "It has expired, was already used, or was replaced by a newer one. If you still need it, ask for a new one.",
);

/// The title and the sentence of an error page.
fn words(status: StatusCode) -> Words {
    let (title, words) = match status.as_u16() {
        400 => ("We could not read that form", "It did not arrive in a format we understand. Go back and try again."),
        403 => (
            "We could not accept that form",
            "For your safety, forms only work when they are sent from this site's own pages. Open the page here and try again.",
        ),
        404 => {
            ("Page not found", "There is no such page, or you do not have access to it. Check the address for typos.")
        }
        405 => ("This page cannot be opened like this", "Go back, and use the buttons and links on the page."),
        408 => ("That took too long", "Your form did not arrive in time. Check your connection and try again."),
        413 => ("That is too large", "What you sent is larger than we accept. Go back, shorten it and try again."),
        415 => ("We cannot read that format", "This address accepts forms as browsers send them, and nothing else."),
        421 => ("Wrong address", "This server does not host the site that you asked for."),
        431 => (
            "Your browser sent too much",
            "The request was larger than we accept. Deleting this site's cookies may help.",
        ),
        429 => ("Too many attempts", "There were too many in a short time, by you or by someone else."),
        501 => ("We cannot read that format", "The request was encoded in a way that we do not accept."),
        503 => (
            "The site is busy",
            "We could not finish your request. If you were changing something, check whether it worked before you try again.",
        ),
        500.. => (
            "Something went wrong",
            "This is our fault, not yours, and we have a record of it. Try again in a few minutes.",
        ),
        _ => ("That did not work", "We could not handle your request. Go back and try again."),
    };
    Words(title, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FieldErrors, Result};
    use crate::test::{TestApp, check};
    use crate::web::{Access, Routes};

    async fn show() -> &'static str {
        "a page"
    }

    async fn panic() {
        panic!("the password is swordfish");
    }

    async fn refuse() -> Result<()> {
        let mut errors = FieldErrors::of("name", "Please type a name.");
        errors.add("name", "This is too long.");
        Err(errors.into())
    }

    async fn follow() -> Result<()> {
        Err(Error::StaleLink)
    }

    async fn forbid() -> Result<()> {
        Err(Error::Forbidden("You need an invitation."))
    }

    async fn wait(user: User) -> Result<()> {
        Err(Error::Unavailable(anyhow!("{} has to wait", user.username)))
    }

    fn routes() -> Routes {
        Routes::new()
            .get("/public", Access::Public, show)
            .get("/break", Access::Public, panic)
            .get("/link", Access::Public, follow)
            .get("/busy", Access::User, wait)
            .post("/refuse", Access::Public, refuse)
            .post("/forbid", Access::Public, forbid)
    }

    async fn app() -> TestApp {
        TestApp::with(routes()).await
    }

    #[test]
    fn the_error_page_renders_with_and_without_a_fault() {
        let request_id = || Some("0190".to_string());
        for (request_id, wait) in [(None, None), (request_id(), None), (None, Some(format::from_now(61)))] {
            check(&[ErrorPage { title: "Busy", words: "Try again.", request_id, wait }]);
        }
    }

    #[tokio::test]
    async fn a_panic_shows_a_page_without_its_message_and_the_site_goes_on() {
        let app = app().await;
        let answer = app.person("ada").await.get("/break").await;
        answer.assert_status(500).assert_contains("Something went wrong").assert_lacks("swordfish");
        answer.assert_contains(answer.header("x-request-id")).assert_header("cache-control", "no-store");
        app.visitor().get("/public").await.assert_body("a page");
    }

    #[tokio::test]
    async fn programs_get_problems_as_json() {
        let app = app().await;
        let answer = app.visitor().get("/api/nowhere").await;
        answer.assert_status(404).assert_header("content-type", "application/problem+json");
        answer.assert_body(r#"{"status":404,"title":"Not Found","type":"about:blank"}"#);
    }

    #[tokio::test]
    async fn a_script_that_has_sent_json_gets_the_sentence_as_json_and_people_get_a_page() {
        let app = app().await;
        for kind in ["application/json", "application/json; charset=utf-8"] {
            let answer = app.visitor().post_body("/forbid", Some(kind), b"{}").await;
            answer.assert_status(403).assert_header("content-type", "application/json");
            answer.assert_body(r#"{"error":"You need an invitation."}"#);
        }
        let page = app.visitor().post("/forbid", &[]).await;
        page.assert_status(403).assert_contains("<h1>You are not allowed to do that</h1>");
        page.assert_contains("You need an invitation.");
    }

    #[tokio::test]
    async fn a_refusal_has_the_same_bytes_for_the_same_person() {
        let app = app().await;
        for person in [app.person("ada").await, app.visitor()] {
            assert_eq!(person.get("/nowhere").await.text(), person.get("/elsewhere").await.text());
            assert_eq!(person.get("/link").await.text(), person.get("/link?token=x").await.text());
        }
    }

    #[tokio::test]
    async fn the_header_of_an_error_page_names_the_user_where_the_path_exists_and_nobody_when_the_site_is_busy() {
        let app = app().await;
        let ada = app.person("ada").await;
        let named = &*format!("data-user=\"{}\"", app.user("ada").await);
        ada.get("/link").await.assert_status(404).assert_contains(named);
        ada.post("/public", &[]).await.assert_status(405).assert_contains(named);
        ada.get("/busy").await.assert_status(503).assert_lacks(named);
        let statements = app.statements();
        ada.get("/nowhere").await.assert_status(404).assert_lacks(named).assert_lacks("<nav");
        app.visitor().get("/link").await.assert_status(404).assert_lacks("<nav");
        assert_eq!(app.statements(), statements);
        app.lose_database().await;
        ada.get("/link").await.assert_status(404).assert_lacks(named);
    }

    #[tokio::test]
    async fn a_mistake_that_no_page_shows_is_422_with_its_sentence_as_json() {
        let answer = app().await.visitor().post("/refuse", &[]).await;
        answer.assert_status(422).assert_header("content-type", "application/json");
        answer.assert_body(r#"{"error":"Please type a name."}"#);
    }

    #[tokio::test]
    async fn a_link_that_does_not_work_any_more_has_a_page_of_its_own() {
        let app = app().await;
        app.visitor().get("/link").await.assert_status(404).assert_contains("no longer works");
        app.visitor().get("/nowhere").await.assert_status(404).assert_contains("Page not found");
    }
}
