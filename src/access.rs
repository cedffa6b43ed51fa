//! Routes: a path, a method, who may enter, and the handler. The only way to register one.
//!
//! Whoever may not enter is turned away here, before the body is read; handlers never check by hand.

use crate::app::App;
use crate::auth::{self, AuthState};
use crate::error::{self, Error, Result};
use crate::factor;
use crate::form::{query_parameter, query_value};
use crate::guard::{LocalPath, own_referer};
use crate::half_way;
use anyhow::anyhow;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use std::fmt;
use std::pin::Pin;
use tokio::time::timeout;

/// Who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Strangers; a user has no business there and is led on.
    Guest,
    /// Whoever has shown the first of two factors and not yet the second; others are led to the log-in.
    HalfWay,
    /// Whoever is logged in; a stranger is led to the log-in and back.
    User,
    /// Whoever proved lately, within `CONFIRM_LIFETIME`, who they are; other users are asked to do so, and led back.
    Recent,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Access::Public => "public",
            Access::Guest => "guest",
            Access::HalfWay => "half-way",
            Access::User => "user",
            Access::Recent => "recent",
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
    pub fn get<H: Handler<T, App>, T: 'static>(
        self,
        path: &'static str,
        access: Access,
        handler: H,
    ) -> Routes {
        let handler = on(MethodFilter::GET, Guarded { path, access, handler });
        self.add(Route { method: Method::GET, path, access, handler })
    }

    pub fn post<H: Handler<T, App>, T: 'static>(
        self,
        path: &'static str,
        access: Access,
        handler: H,
    ) -> Routes {
        let handler = on(MethodFilter::POST, Guarded { path, access, handler });
        self.add(Route { method: Method::POST, path, access, handler })
    }

    fn add(mut self, route: Route) -> Routes {
        self.0.push(route);
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    pub fn router(self) -> Router<App> {
        self.0.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
    }
}

/// A handler that answers only those who may enter.
#[derive(Clone)]
struct Guarded<H> {
    path: &'static str,
    access: Access,
    handler: H,
}

impl<H: Handler<T, App>, T: 'static> Handler<T, App> for Guarded<H> {
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, app: App) -> Self::Future {
        error::note_path(self.path);
        Box::pin(async move {
            let request = match admit(&app, self.access, request).await {
                Ok(Admission::Granted(request)) => request,
                Ok(Admission::Elsewhere(answer)) => return answer,
                Err(refusal) => return refusal.into_response(),
            };
            let limit = app.config.handler_timeout;
            timeout(limit, self.handler.call(request, app)).await.unwrap_or_else(|_| {
                Error::Unavailable(anyhow!("the handler took longer than HANDLER_TIMEOUT")).into_response()
            })
        })
    }
}

enum Admission {
    Granted(Request),
    Elsewhere(Response),
}

/// Declared size, access, body: in this order.
async fn admit(app: &App, access: Access, request: Request) -> Result<Admission> {
    let (parts, body) = request.into_parts();
    // Postgres cannot even compare text with a NUL in it; nothing has such an address.
    if parts.uri.path_and_query().is_some_and(|path| path.as_str().contains("%00")) {
        return Err(Error::NOT_FOUND);
    }
    if declared_size(&parts.headers) > app.config.body_limit as u64 {
        return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
    }
    if let Some(elsewhere) = turn_away(app, access, &parts).await? {
        return Ok(Admission::Elsewhere(elsewhere));
    }
    if body.is_end_stream() {
        return Ok(Admission::Granted(Request::from_parts(parts, body)));
    }
    let mut request = Request::from_parts(parts, Body::from(whole(app, body).await?));
    // Asked anew: while a body came slowly the session may have ended.
    auth::attach(app, &mut request);
    let (parts, body) = request.into_parts();
    Ok(match turn_away(app, access, &parts).await? {
        Some(elsewhere) => Admission::Elsewhere(elsewhere),
        None => Admission::Granted(Request::from_parts(parts, body)),
    })
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
    if access == Access::HalfWay {
        let begun = half_way::find(app, &parts.headers).await?;
        return Ok(if begun.is_none() { Some(see_other("/login")) } else { None });
    }
    let auth = AuthState::of(parts);
    let session = auth.session().await?;
    let here = || parts.uri.path_and_query().map(|path| path.as_str().to_string());
    // A form is not sent again after the detour, so the way back leads to the page it stood on.
    let origin = || if reads { here() } else { own_referer(&app.config, &parts.headers) };
    let detour = |to: &str, next: &LocalPath| Some(see_other(&format!("{to}?next={}", query_value(next))));
    Ok(match (access, session) {
        (Access::Guest, Some(_)) => {
            Some(see_other(&LocalPath::from(query_parameter(parts.uri.query(), "next"))))
        }
        (Access::User | Access::Recent, None) => detour("/login", &LocalPath::from(origin())),
        (Access::Recent, Some(session)) if !session.is_recent(&app.config) => {
            detour("/confirm", &LocalPath::from(origin().or(Some("/account".into()))))
        }
        (Access::User | Access::Recent, Some(session)) => {
            factor::set_up(app, session, parts.uri.path()).map(see_other)
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::Form;
    use crate::test::TestApp;
    use futures_util::StreamExt;
    use futures_util::stream::once;
    use serde::Deserialize;
    use std::convert::Infallible;
    use std::time::Duration;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Anything {
        next: String,
    }

    async fn echo(Form(form): Form<Anything>) -> String {
        format!("done {}", form.next)
    }

    async fn look() -> &'static str {
        "seen"
    }

    async fn dawdle() {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    async fn break_down() {
        panic!("the password is swordfish");
    }

    async fn app() -> TestApp {
        TestApp::with(
            Routes::new()
                .get("/public", Access::Public, look)
                .get("/guest", Access::Guest, look)
                .post("/guest", Access::Guest, echo)
                .get("/user", Access::User, look)
                .post("/user", Access::User, echo)
                .get("/dawdle", Access::Public, dawdle)
                .get("/break", Access::Public, break_down),
        )
        .await
    }

    #[tokio::test]
    async fn a_stranger_is_led_to_the_log_in_and_back_to_where_the_way_began() {
        let app = app().await;
        let stranger = app.visitor();
        stranger.get("/user").await.assert_redirect("/login?next=%2Fuser");
        stranger.get("/user?a=b&c=%2F").await.assert_redirect("/login?next=%2Fuser%3Fa%3Db%26c%3D%252F");
        stranger.send(Method::HEAD, "/user", &[], "").await.assert_redirect("/login?next=%2Fuser");
        // The path is one of ours, and browsers would read it as another site's.
        stranger.get("//evil.example/user").await.assert_status(404);

        let from = |referer: &'static str| [("referer", referer)];
        let posted =
            stranger.post_with("/user", &[("next", "x")], &from("http://localhost/form?page=2")).await;
        posted.assert_redirect("/login?next=%2Fform%3Fpage%3D2");
        let posted = stranger.post_with("/user", &[], &from("http://evil.example/form")).await;
        posted.assert_redirect("/login?next=%2F");
        stranger.post("/user", &[]).await.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn a_user_is_led_on_from_what_is_for_guests_but_may_post_there() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.get("/guest").await.assert_redirect("/");
        ada.get("/guest?next=%2Fuser%3Fa%3Db").await.assert_redirect("/user?a=b");
        for elsewhere in [
            "//evil.example",
            "/\\evil.example",
            "https:evil.example",
            "/\r\nSet-Cookie:a=b",
            "/\t/evil.example",
            "/\u{85}",
        ] {
            ada.get(&format!("/guest?next={}", query_value(elsewhere))).await.assert_redirect("/");
            ada.get("/guest?next=%2F%2Fevil.example").await.assert_redirect("/");
        }
        ada.post("/guest", &[("next", "here")]).await.assert_status(200).assert_body("done here");
        app.visitor().get("/guest").await.assert_status(200).assert_body("seen");
    }

    #[tokio::test]
    async fn the_unknown_is_404_and_the_wrong_method_405_which_names_the_right_ones() {
        let app = app().await;
        let ada = app.person("ada").await;
        for path in ["/nowhere", "/users/", "/user/a/b", "/styles.css/", "/user%2f1", "/;", "/public?a=%00"] {
            ada.get(path).await.assert_status(404).assert_contains("Nothing here");
            app.visitor().get(path).await.assert_status(404);
        }
        let answer = app.visitor().post("/public", &[]).await;
        answer.assert_status(405).assert_header("allow", "GET,HEAD").assert_contains("Not that way");
        let answer = app.visitor().send(Method::PUT, "/user", &[], "").await;
        answer.assert_status(405).assert_header("allow", "GET,HEAD,POST");
        app.visitor().send(Method::TRACE, "/public", &[], "").await.assert_status(405);
        let overridden = [("x-http-method-override", "POST")];
        app.visitor().get_with("/public", &overridden).await.assert_body("seen");
    }

    #[tokio::test]
    async fn a_head_is_a_get_without_a_body() {
        let app = app().await;
        for path in ["/public", "/styles.css", "/nowhere"] {
            let (get, head) =
                (app.visitor().get(path).await, app.visitor().send(Method::HEAD, path, &[], "").await);
            assert_eq!(
                (get.status, get.headers.get("content-type")),
                (head.status, head.headers.get("content-type"))
            );
            head.assert_body("");
        }
    }

    #[tokio::test]
    async fn too_large_a_body_is_413_before_anyone_is_asked_who_they_are() {
        let app = app().await;
        let large = "x".repeat(64 * 1024 + 1);
        let declared = large.len().to_string();
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("content-length", &*declared)];
        let before = app.statements();
        app.visitor().send(Method::POST, "/user", &headers, large.clone()).await.assert_status(413);
        assert_eq!(app.statements(), before);
        let answer = app.visitor().send(Method::POST, "/guest", &headers[..1], large.clone()).await;
        answer.assert_status(413).assert_header("connection", "close").assert_contains("too much");
        let fits = format!("next={}", "x".repeat(64 * 1024 - 5));
        app.visitor().send(Method::POST, "/guest", &headers[..1], fits).await.assert_status(200);
    }

    #[tokio::test]
    async fn the_order_of_refusals_is_host_origin_path_size_access_body() {
        let app = app().await;
        let large = (64 * 1024 + 1).to_string();
        let all = [
            ("host", "evil.example"),
            ("origin", "http://evil.example"),
            ("content-length", &large),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let send = async |method, path, headers: &[(&str, &str)]| {
            app.visitor().send(method, path, headers, "name=%FF").await.status
        };
        assert_eq!(send(Method::POST, "/nowhere", &all).await, 421);
        assert_eq!(send(Method::POST, "/nowhere", &all[1..]).await, 403);
        assert_eq!(send(Method::POST, "/nowhere", &all[2..]).await, 404);
        assert_eq!(send(Method::PUT, "/user", &all[2..]).await, 405);
        assert_eq!(send(Method::POST, "/user", &all[2..]).await, 413);
        assert_eq!(send(Method::POST, "/user", &all[3..]).await, 303);
        assert_eq!(send(Method::POST, "/guest", &all[3..]).await, 400);
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_a_page_without_its_words_and_the_site_lives() {
        let app = app().await;
        let answer = app.person("ada").await.get("/break").await;
        answer.assert_status(500).assert_contains("Something broke").assert_lacks("swordfish");
        answer.assert_contains(answer.header("x-request-id")).assert_header("cache-control", "no-store");
        app.visitor().get("/public").await.assert_body("seen");
    }

    #[tokio::test]
    async fn a_handler_that_takes_too_long_is_503() {
        let routes = Routes::new().get("/dawdle", Access::Public, dawdle);
        let app = TestApp::with_env(&[("HANDLER_TIMEOUT", "1s")], routes).await;
        app.visitor().get("/dawdle").await.assert_status(503).assert_header("retry-after", "2");
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_is_408() {
        let routes = Routes::new().post("/guest", Access::Guest, echo);
        let app = TestApp::with_env(&[("BODY_TIMEOUT", "1s")], routes).await;
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        app.visitor().send(Method::POST, "/guest", &[], never).await.assert_status(408);
    }

    #[tokio::test]
    async fn a_session_that_ends_while_its_body_comes_does_nothing_any_more() {
        let app = app().await;
        let ada = app.person("ada").await;
        let (finish, wait) = tokio::sync::oneshot::channel::<()>();
        let begin = once(async { Ok::<_, Infallible>(Bytes::from_static(b"next=he")) });
        let body = begin.chain(once(async {
            wait.await.unwrap();
            Ok(Bytes::from_static(b"re"))
        }));
        let slow = ada.send(
            Method::POST,
            "/user",
            &[("content-type", "application/x-www-form-urlencoded")],
            Body::from_stream(body),
        );
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            app.execute("delete from sessions").await;
            finish.send(()).unwrap();
        };
        let (answer, ()) = tokio::join!(slow, end);
        answer.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn programs_get_problems_as_json() {
        let app = app().await;
        let answer = app.visitor().get("/api/nowhere").await;
        answer.assert_status(404).assert_header("content-type", "application/problem+json");
        answer.assert_body(r#"{"status":404,"title":"Not Found","type":"about:blank"}"#);
    }

    #[tokio::test]
    async fn a_refusal_has_the_same_bytes_for_everyone() {
        let app = app().await;
        let ada = app.person("ada").await;
        assert_eq!(ada.get("/nowhere").await.text(), app.visitor().get("/elsewhere").await.text());
    }
}
