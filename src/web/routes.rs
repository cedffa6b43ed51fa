//! Routes: a path, a method, who may enter, and the handler. There is no other way to register one.
//!
//! Requests that may not enter are turned away here, before the body is read, and forms of another user after that.

use super::administration::Granted;
use super::auth::AuthState;
use super::{
    app::App,
    assets,
    error_pages::{ConfirmFirst, RoutePattern},
    factors,
    flash::TOO_LATE,
    form::parse_query,
    form_owner,
    format::url_encode,
    login,
    once::{self, Act, Once},
    page::ConfirmLink,
    redirect::{LocalPath, redirect},
    request_tasks,
    security::{is_for_programs, own_referer},
    site_map::SiteMap,
};
use crate::accounts::{Permission, Permissions, Session};
use crate::base::{Error, Result};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Deserialize;
use std::pin::Pin;
use tokio::time::timeout;

/// Who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Visitors who are not logged in. A user who opens the page is redirected to `next`.
    Guest,
    /// Visitors whose log-in waits for its second factor. Others are redirected to the log-in.
    PendingLogin,
    /// Users. Visitors are redirected to the log-in, and back.
    User,
    /// Users who have authenticated within `CONFIRM_LIFETIME`. Other users are asked to do so, and redirected back.
    Recent,
    /// Users with this permission, who must have authenticated within `CONFIRM_LIFETIME` to change anything. For other users
    /// there is no such page.
    Can(Permission),
}

impl Access {
    /// Whether only users may enter.
    pub fn is_for_users(self) -> bool {
        matches!(self, Access::User | Access::Recent | Access::Can(_))
    }

    /// Whether a POST needs a recent log-in.
    pub fn is_risky(self) -> bool {
        matches!(self, Access::Recent | Access::Can(_))
    }
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// See [`Routes::bounded_by`].
    pub bound: Option<&'static str>,
    handler: MethodRouter<App>,
}

#[cfg(test)]
impl Route {
    /// A path that this route answers.
    pub fn example_path(&self) -> String {
        let part = |part| match part {
            "{username}" => "ada",
            "{token}" => "x",
            part if part.starts_with('{') => "1",
            part => part,
        };
        self.path.split('/').map(part).collect::<Vec<_>>().join("/")
    }
}

/// A list of routes, one a line: `Routes::new().get("/account", Access::User, show)`.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    pub fn new() -> Routes {
        Routes::default()
    }

    /// The files of `public/`.
    pub fn assets() -> Routes {
        assets::ALL.iter().fold(Routes::new(), |routes, &asset| {
            routes.get(asset.path, Access::Public, async move |request: Request| asset.answer(&request))
        })
    }

    /// `GET`, and with it `HEAD`.
    pub fn get<H: Handler<T, App>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Routes {
        self.add(Method::GET, path, access, on(MethodFilter::GET, Authorized { path, access, handler }))
    }

    pub fn post<H: Handler<T, App>, T: 'static>(self, path: &'static str, access: Access, handler: H) -> Routes {
        self.add(Method::POST, path, access, on(MethodFilter::POST, Authorized { path, access, handler }))
    }

    fn add(mut self, method: Method, path: &'static str, access: Access, handler: MethodRouter<App>) -> Routes {
        self.0.push(Route { method, path, access, bound: None, handler });
        self
    }

    /// Says what keeps the route before it from filling the database, if it may add rows again and again: a quota, or what
    /// each costs. Any other POST must have a limit, which a test of `features` finds out.
    pub fn bounded_by(mut self, bound: &'static str) -> Routes {
        if let Some(route) = self.0.last_mut() {
            route.bound = Some(bound);
        }
        self
    }

    /// Has the route before it act once if its button is pressed twice: see [`super::once`].
    pub fn once(mut self) -> Routes {
        if let Some(route) = self.0.pop() {
            self.0.push(Route { handler: route.handler.route_layer(Extension(Once)), ..route });
        }
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// Enters them in the map.
    pub fn enter(&self, map: &mut SiteMap) {
        for &Route { ref method, path, access, .. } in &self.0 {
            match *method {
                Method::GET => map.add_page(path, access == Access::Recent),
                _ if access.is_risky() => map.add_risky(path),
                _ => {}
            }
            if let Access::Can(_) = access {
                map.add_hidden(path);
            }
        }
    }

    pub fn router(self) -> Router<App> {
        self.0.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
    }
}

/// A handler that answers only those who may enter.
#[derive(Clone)]
struct Authorized<H> {
    path: &'static str,
    access: Access,
    handler: H,
}

impl<H: Handler<T, App>, T: 'static> Handler<T, App> for Authorized<H> {
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, app: App) -> Self::Future {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (origin, pattern) = (origin(&app, &parts), Extension(RoutePattern(self.path)));
            let answer = self.answer(Request::from_parts(parts, body), app.clone()).await.into_response();
            (pattern, lead_back(&app, origin, answer)).into_response()
        })
    }
}

impl<H> Authorized<H> {
    async fn answer<T: 'static>(self, request: Request, app: App) -> Result<Response>
    where
        H: Handler<T, App>,
    {
        let (mut parts, body, refused) = admit(&app, self.access, request).await?;
        let for_users = self.access.is_for_users();
        let act = match parts.extensions.get() {
            Some(Once) => Act::of(&app, &parts, self.path, for_users, &body).await,
            None => None,
        };
        if let Some(refusal) = refused {
            let repeat = match act {
                Some(act) => act.answer_repeat(&app, &parts).await?,
                None => None,
            };
            return repeat.ok_or(refusal);
        }
        let limit = app.config.handler_timeout;
        if is_read(&parts.method) {
            parts.extensions.insert(confirm_link(&app, self.path, &parts));
            let answer = self.handler.call(Request::from_parts(parts, body.into()), app);
            return timeout(limit, answer).await.map_err(|_| request_tasks::too_slow());
        }
        if for_users && let Some(refusal) = form_owner::refuse_anothers(&app, &mut parts, &body).await? {
            return Ok(refusal);
        }
        if let Some(act) = act {
            let request = || Request::from_parts(parts.clone(), body.clone().into());
            return act.run(&app, &parts, || self.handler.clone().call(request(), app.clone())).await;
        }
        let request = Request::from_parts(parts, body.into());
        app.clone().tasks.run(limit, self.handler.call(request, app)).await
    }
}

/// The answer to something that was pressed too late: the confirm page, and from there back to the page of the form.
fn lead_back(app: &App, origin: Option<LocalPath>, mut answer: Response) -> Response {
    let Some(ConfirmFirst(path)) = answer.extensions_mut().remove() else { return answer };
    let next = app.find_page(origin.as_ref()).or(app.features.account_path).unwrap_or("/");
    let separator = if path.contains('?') { '&' } else { '?' };
    redirect(&format!("{path}{separator}next={}", url_encode(next))).flash(TOO_LATE).into_response()
}

/// Checks declared size and access and reads the body: in this order. Of a request that may be a repeat of one that has
/// replaced its session's token, it is said besides why it is refused unless it is one.
async fn admit(app: &App, access: Access, request: Request) -> Result<(Parts, Bytes, Option<Error>)> {
    let (mut parts, body) = request.into_parts();
    let needs_permission = matches!(access, Access::Can(_));
    if needs_permission {
        // Before everything else, so that the page does not differ from one that does not exist.
        check_access(app, access, &mut parts).await?;
    }
    // Postgres cannot even compare text with a NUL in it, so nothing has such an address.
    if parts.uri.path_and_query().is_some_and(|path| path.as_str().contains("%00")) {
        return Err(Error::NOT_FOUND);
    }
    if declared_size(&parts.headers) > app.config.body_limit as u64 {
        return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let refused = if needs_permission { None } else { check_unless_repeat(app, access, &mut parts).await? };
    if body.is_end_stream() {
        return Ok((parts, Bytes::new(), refused));
    }
    let body = read_body(app, body).await?;
    if refused.is_some() {
        return Ok((parts, body, refused));
    }
    // Checked again, because the session may have ended while a body arrived slowly.
    let auth = AuthState::new(app, &parts.extensions, &parts.headers);
    parts.extensions.insert(auth);
    let refused = check_unless_repeat(app, access, &mut parts).await?;
    Ok((parts, body, refused))
}

/// As [`check_access`], but the refusal of what may be a repeat is no error yet.
async fn check_unless_repeat(app: &App, access: Access, parts: &mut Parts) -> Result<Option<Error>> {
    match check_access(app, access, parts).await {
        Ok(()) => Ok(None),
        Err(refusal) if parts.extensions.get::<Once>().is_some() && once::may_have_been_renewed(parts).await? => {
            Ok(Some(refusal))
        }
        Err(refusal) => Err(refusal),
    }
}

fn declared_size(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// Reads the body whole, so that a handler's time begins when it has all it needs.
async fn read_body(app: &App, body: Body) -> Result<Bytes> {
    let read = timeout(app.config.body_timeout, collect(body, app.config.body_limit)).await;
    read.map_err(|_| Error::Refused(StatusCode::REQUEST_TIMEOUT))?
}

/// How many small pieces a body may come in. No client sends a form in so many, and each costs time.
const MOST_PIECES: usize = 4_096;

/// Copies the body into one buffer, because a body of many small pieces takes many times its size.
async fn collect(mut body: Body, limit: usize) -> Result<Bytes> {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        pieces += 1;
        if pieces > MOST_PIECES + limit / 1024 {
            return Err(Error::MALFORMED);
        }
        let Ok(data) = frame.map_err(|_| Error::MALFORMED)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// # Errors
/// [`Error::Redirect`] to the page that comes first; [`Error::NOT_FOUND`] when the site has no such page.
async fn check_access(app: &App, access: Access, parts: &mut Parts) -> Result<()> {
    match access {
        Access::Public => Ok(()),
        // By a pattern such as `/{section}/{id}`.
        _ if is_for_programs(parts.uri.path()) => Err(Error::Refused(StatusCode::UNAUTHORIZED)),
        Access::PendingLogin => match login::find_pending(app, &parts.headers).await? {
            Some(pending) => {
                parts.extensions.insert(pending);
                Ok(())
            }
            None => Err(Error::Redirect(app.features.login_path.ok_or(Error::NOT_FOUND)?.into())),
        },
        Access::Guest if !is_read(&parts.method) => Ok(()),
        Access::Guest => match AuthState::of(parts).session().await? {
            None => Ok(()),
            Some(session) => {
                let NextQuery { next, second } = parse_query(parts.uri.query());
                // If the site has no confirm page, a user may open the log-in page to confirm there.
                let confirms_here = app.features.confirm_path.is_none();
                let has_to_confirm = second.is_some() || !session.is_recent(&app.config);
                if confirms_here && has_to_confirm {
                    Ok(())
                } else {
                    Err(Error::Redirect(app.resolve(next.as_ref()).into()))
                }
            }
        },
        Access::User | Access::Recent => match AuthState::of(parts).session().await? {
            None => Err(Error::Redirect(detour(app.features.login_path, app.resolve(origin(app, parts).as_ref()))?)),
            Some(session) if access == Access::Recent => check_recent(app, session, parts),
            Some(session) => check_set_up(app, session, parts),
        },
        Access::Can(permission) => {
            let auth = AuthState::of(parts);
            let Some(session) = auth.session().await? else {
                return Err(Error::Redirect(detour(
                    app.features.login_path,
                    app.resolve(origin(app, parts).as_ref()),
                )?));
            };
            let permissions = app.db.read(async |db| Permissions::of_user(db, &session.user.id).await).await?;
            if !permissions.has(permission) {
                return Err(Error::Hidden);
            }
            if let Some(path) = factors::set_up_path_for_permission(app, session, permission) {
                return Err(Error::Redirect(path.into()));
            }
            parts.extensions.insert(Granted { permission, permissions });
            if is_read(&parts.method) { check_set_up(app, session, parts) } else { check_recent(app, session, parts) }
        }
    }
}

/// # Errors
/// [`Error::Redirect`] or [`Error::TooLate`] when the user has to confirm first.
fn check_recent(app: &App, session: &Session, parts: &Parts) -> Result<()> {
    if session.is_recent(&app.config) {
        return check_set_up(app, session, parts);
    }
    let path = app.features.confirm_path.or(app.features.login_path);
    Err(match is_read(&parts.method) {
        true => Error::Redirect(detour(path, app.resolve(origin(app, parts).as_ref()))?),
        false => Error::TooLate(path.ok_or(Error::NOT_FOUND)?.into()),
    })
}

/// # Errors
/// [`Error::Redirect`] when everybody has to set a second factor up, and this user has not.
fn check_set_up(app: &App, session: &Session, parts: &Parts) -> Result<()> {
    match factors::set_up_path(app, session, parts.uri.path()) {
        Some(path) => Err(Error::Redirect(path.into())),
        None => Ok(()),
    }
}

/// Whether a request of this method changes nothing.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The page to come back to. A form is not sent again after a detour, so the way back leads to the page it was on.
fn origin(app: &App, parts: &Parts) -> Option<LocalPath> {
    match is_read(&parts.method) {
        true => parts.uri.path_and_query().map(|path| path.as_str().to_string().into()),
        false => own_referer(&app.config, &parts.headers),
    }
}

/// The way over a page that leads on to `next`, or 404 when the site has no such page.
fn detour(path: Option<&str>, next: &str) -> Result<String> {
    Ok(format!("{}?next={}", path.ok_or(Error::NOT_FOUND)?, url_encode(next)))
}

/// For a page with forms that need a recent log-in: where to confirm it before they are filled in.
fn confirm_link(app: &App, pattern: &str, parts: &Parts) -> ConfirmLink {
    let path = app.features.confirm_path.filter(|_| app.features.map.has_risky_form(pattern));
    ConfirmLink(path.and_then(|path| detour(Some(path), app.resolve(origin(app, parts).as_ref())).ok()))
}

/// The query of pages that lead somewhere afterwards: `Query(NextQuery { next })`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NextQuery {
    pub next: Option<LocalPath>,
    /// Set if a password alone is not enough.
    pub second: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Feature;
    use crate::test::TestApp;
    use crate::web::Form;
    use futures_util::StreamExt;
    use futures_util::stream::once;
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

    async fn show() -> &'static str {
        "a page"
    }

    async fn dawdle() {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    async fn app() -> TestApp {
        TestApp::with(
            Routes::new()
                .get("/public", Access::Public, show)
                .get("/guest", Access::Guest, show)
                .post("/guest", Access::Guest, echo)
                .get("/user", Access::User, show)
                .post("/user", Access::User, echo)
                .get("/form", Access::Public, show)
                .post("/only-post", Access::User, echo)
                .get("/dawdle", Access::Public, dawdle),
        )
        .await
    }

    #[tokio::test]
    async fn a_visitor_is_redirected_to_the_log_in_and_back_to_the_page_they_were_on() {
        let app = app().await;
        let visitor = app.visitor();
        visitor.get("/user").await.assert_redirect("/login?next=%2Fuser");
        visitor.get("/user?a=b&c=%2F").await.assert_redirect("/login?next=%2Fuser%3Fa%3Db%26c%3D%252F");
        visitor.send(Method::HEAD, "/user", &[], "").await.assert_redirect("/login?next=%2Fuser");
        // The path is one of ours, and browsers would read it as another site's.
        visitor.get("//evil.example/user").await.assert_status(404);

        let from = |referer: &'static str| [("referer", referer)];
        let posted = visitor.post_with("/user", &[("next", "x")], &from("http://localhost/form?page=2")).await;
        posted.assert_redirect("/login?next=%2Fform%3Fpage%3D2");
        let posted = visitor.post_with("/user", &[], &from("http://evil.example/form")).await;
        posted.assert_redirect("/login?next=%2F");
        let posted = visitor.post_with("/user", &[], &from("http://localhost/only-post")).await;
        posted.assert_redirect("/login?next=%2F");
        visitor.post("/user", &[]).await.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn a_user_is_redirected_from_guest_pages_but_may_post_there() {
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
            "/only-post",
            "/nowhere?a=b",
        ] {
            ada.get(&format!("/guest?next={}", url_encode(elsewhere))).await.assert_redirect("/");
        }
        ada.get("/guest?next=%2F%2Fevil.example").await.assert_redirect("/");
        ada.post("/guest", &[("next", "here")]).await.assert_status(200).assert_body("done here");
        app.visitor().get("/guest").await.assert_status(200).assert_body("a page");
    }

    #[tokio::test]
    async fn an_unknown_path_is_404_and_a_wrong_method_405_which_names_the_right_ones() {
        let app = app().await;
        let ada = app.person("ada").await;
        for path in ["/nowhere", "/users/", "/user/a/b", "/styles.css/", "/user%2f1", "/;", "/public?a=%00"] {
            ada.get(path).await.assert_status(404).assert_contains("Page not found");
            app.visitor().get(path).await.assert_status(404);
        }
        let answer = app.visitor().post("/public", &[]).await;
        answer.assert_status(405).assert_header("allow", "GET,HEAD").assert_contains("cannot be opened like this");
        let answer = app.visitor().send(Method::PUT, "/user", &[], "").await;
        answer.assert_status(405).assert_header("allow", "GET,HEAD,POST");
        app.visitor().send(Method::TRACE, "/public", &[], "").await.assert_status(405);
        let overridden = [("x-http-method-override", "POST")];
        app.visitor().get_with("/public", &overridden).await.assert_body("a page");
    }

    #[tokio::test]
    async fn a_head_is_a_get_without_a_body() {
        let app = app().await;
        for path in ["/public", "/styles.css", "/nowhere"] {
            let (get, head) = (app.visitor().get(path).await, app.visitor().send(Method::HEAD, path, &[], "").await);
            assert_eq!((get.status, get.headers.get("content-type")), (head.status, head.headers.get("content-type")));
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
        answer.assert_status(413).assert_header("connection", "close").assert_contains("too large");
        let fits = format!("next={}", "x".repeat(64 * 1024 - 5));
        app.visitor().send(Method::POST, "/guest", &headers[..1], fits).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_body_may_come_in_many_pieces_but_not_in_tens_of_thousands() {
        let app = app().await;
        let send = async |length: usize| {
            let text = format!("next={}", "x".repeat(length));
            let bytes = text.into_bytes().into_iter().map(|byte| Ok::<_, std::io::Error>(Bytes::from(vec![byte])));
            let body = Body::from_stream(futures_util::stream::iter(bytes.collect::<Vec<_>>()));
            let headers = [("content-type", "application/x-www-form-urlencoded")];
            app.visitor().send(Method::POST, "/guest", &headers, body).await
        };
        send(4_000).await.assert_status(200);
        send(60_000).await.assert_status(400);
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
    async fn a_handler_that_takes_too_long_is_503() {
        let routes = Routes::new().get("/dawdle", Access::Public, dawdle);
        let app = TestApp::with_env(&[("HANDLER_TIMEOUT", "1s")], routes).await;
        app.visitor().get("/dawdle").await.assert_status(503).assert_header("retry-after", "2");
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_is_408_and_one_of_a_visitor_who_may_not_enter_is_not_waited_for() {
        let routes = Routes::new().post("/guest", Access::Guest, echo).post("/user", Access::User, echo);
        let app = TestApp::with_env(&[("BODY_TIMEOUT", "1s")], routes).await;
        let never = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        app.visitor().send(Method::POST, "/guest", &[], never()).await.assert_status(408);
        app.visitor().send(Method::POST, "/user", &[], never()).await.assert_redirect("/login?next=%2F");
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

    /// A site that has these pages to log in, to confirm and to change settings.
    async fn site_with(paths: [Option<&'static str>; 3]) -> TestApp {
        let [login_path, confirm_path, account_path] = paths;
        let routes = Routes::new()
            .get("/guest", Access::Guest, show)
            .get("/second", Access::PendingLogin, show)
            .get("/user", Access::User, show)
            .get("/form", Access::User, show)
            .get("/recent", Access::Recent, show)
            .post("/recent", Access::Recent, echo);
        let feature = Feature { routes, login_path, confirm_path, account_path, ..Feature::named("test") };
        TestApp::with_features(&[], |features| *features = vec![feature]).await
    }

    #[tokio::test]
    async fn a_user_whose_log_in_is_old_confirms_it_and_comes_back() {
        let app = site_with([Some("/enter"), Some("/again"), Some("/settings")]).await;
        let ada = app.person("ada").await;
        ada.get("/recent").await.assert_body("a page");
        ada.post("/recent", &[]).await.assert_status(200);
        app.execute("update sessions set confirmed_at = 0").await;
        ada.get("/recent?a=b").await.assert_redirect("/again?next=%2Frecent%3Fa%3Db");
        ada.post("/recent", &[]).await.assert_redirect("/again?next=%2Fsettings");
        let referer = [("referer", "http://localhost/form?page=2")];
        ada.post_with("/recent", &[], &referer).await.assert_redirect("/again?next=%2Fform%3Fpage%3D2");
        ada.get("/user").await.assert_body("a page");
        ada.get("/guest?next=%2Fuser").await.assert_redirect("/user");
        app.visitor().get("/recent").await.assert_redirect("/enter?next=%2Frecent");
    }

    #[tokio::test]
    async fn where_there_is_no_page_to_confirm_at_an_old_log_in_is_confirmed_by_another() {
        let app = site_with([Some("/enter"), None, None]).await;
        let ada = app.person("ada").await;
        ada.get("/guest").await.assert_redirect("/");
        app.execute("update sessions set confirmed_at = 0").await;
        ada.get("/recent").await.assert_redirect("/enter?next=%2Frecent");
        ada.post("/recent", &[]).await.assert_redirect("/enter?next=%2F");
        ada.get("/guest?next=%2Frecent").await.assert_status(200).assert_body("a page");
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn where_there_is_no_page_to_log_in_at_either_what_needs_it_is_404() {
        let app = site_with([None, None, Some("/settings")]).await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = 0").await;
        ada.get("/recent").await.assert_status(404);
        ada.post("/recent", &[]).await.assert_status(404).assert_no_header("set-cookie");
        ada.get("/user").await.assert_body("a page");
        for path in ["/user", "/recent", "/second"] {
            app.visitor().get(path).await.assert_status(404);
        }
        app.visitor().get("/guest").await.assert_body("a page");
    }
}
