//! What tests are written with: an app of one's own, and people who visit it.
//!
//! A [`TestApp`] has a database to itself, on SQLite or, when `TEST_DATABASE_URL` names a server, on Postgres. A
//! [`Visitor`] is a browser: it keeps cookies, but follows no redirect by itself. `app.person("ada")` is a visitor with
//! an account, logged in by core alone, so that a feature's tests need no other feature.

use crate::access::{Access, Routes};
use crate::address;
use crate::app::{App, Site};
use crate::auth::User;
use crate::config::Config;
use crate::database::Connection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::factor::{self, Proven, Sent};
use crate::features::{self, Feature};
use crate::form::Form;
use crate::guard::LocalPath;
use crate::mail::{self, Delivered};
use crate::page::Letter;
use crate::password;
use crate::policy::NewPassword;
use crate::session::{self, Door};
use crate::user::{self, Username};
use ::cookie::Cookie;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http_body_util::BodyExt;
use serde::Deserialize;
use sqlx::{AssertSqlSafe, ConnectOptions};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The password of every [`TestApp::person`].
pub const PASSWORD: &str = "correct horse battery";

pub struct TestApp {
    pub app: App,
    site: Site,
    _database: TestDatabase,
}

impl TestApp {
    pub async fn new() -> TestApp {
        TestApp::with(Routes::new()).await
    }

    /// An app with routes of the test's own.
    pub async fn with(routes: Routes) -> TestApp {
        TestApp::with_env(&[], routes).await
    }

    /// An app with other settings.
    pub async fn with_env(settings: &[(&str, &str)], routes: Routes) -> TestApp {
        TestApp::with_feature(settings, Feature { routes, ..Feature::named("test") }).await
    }

    /// An app with a feature of the test's own.
    pub async fn with_feature(settings: &[(&str, &str)], mut feature: Feature) -> TestApp {
        let database = TestDatabase::new().await;
        let common = [
            ("DATABASE_URL", &*database.url),
            ("PASSWORD_ITERATIONS", "1"),
            ("SECRET_KEY", "a key for tests alone with 32 bytes or more"),
            // All visitors have one address.
            ("PASSWORD_ATTEMPTS_PER_ADDRESS", "1000000/1h"),
            ("SIGNUPS_PER_ADDRESS", "1000000/1h"),
            ("MAILS_PER_ADDRESS", "1000000/1h"),
        ];
        let env: Env = common.iter().chain(settings).copied().collect();
        let mut features = features::all(&env).unwrap();
        let routes = feature.routes.get("/whoami", Access::Public, whoami);
        feature.routes = routes
            .get("/private", Access::User, whoami)
            .post("/test/enter", Access::Public, enter)
            .post("/test/prove", Access::User, prove);
        feature.letters = &[("test", greeting)];
        features.push(feature);
        let site = Site::open(Config::from_env(&env).unwrap(), features).await.unwrap();
        TestApp { app: site.app.clone(), site, _database: database }
    }

    /// A browser that has never been here.
    pub fn visitor(&self) -> Visitor {
        Visitor { site: self.site.clone(), cookies: Arc::default() }
    }

    /// Somebody with an account, [`PASSWORD`] and a browser that is logged in.
    pub async fn person(&self, name: &str) -> Visitor {
        let username = Username::parse(name).unwrap();
        let password = NewPassword::parse(PASSWORD, &self.app.config).unwrap();
        let hash = self.app.gate.hash(password, Vec::new()).await.unwrap().unwrap();
        let door = self.door().await;
        let made = self.app.db.write(async |db| {
            let id = user::create(db, &username, &door.client).await?.expect("nobody has this name yet");
            password::set(db, &id, &hash).await
        });
        made.await.unwrap();
        self.browser_of(name).await
    }

    /// Another browser in which somebody is logged in.
    pub async fn browser_of(&self, name: &str) -> Visitor {
        let username = Username::parse(name).unwrap();
        let door = self.door().await;
        let begun = self.app.db.write(async |db| {
            let user = user::member(&mut *db, &username).await?.expect("there is such a person");
            door.log_in(db, &user.id, false, Proven::TwoFactors, "/").await
        });
        let cookies = begun.await.unwrap().expect("the user may log in").cookies;
        let cookies = cookies.iter().map(|cookie| (cookie.name().to_string(), cookie.value().to_string()));
        Visitor { site: self.site.clone(), cookies: Arc::new(Mutex::new(cookies.collect())) }
    }

    /// The door as a browser that has never been here finds it.
    pub async fn door(&self) -> Door {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        Door::from_request_parts(&mut parts, &self.app).await.unwrap()
    }

    /// How many statements this app has run.
    pub fn statements(&self) -> u64 {
        self.app.db.statements()
    }

    /// The number that a `select count(*) …` finds.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let count = async |db: &mut Connection| Ok(sqlx::query_as(sql).fetch_one(db).await?);
        let (count,): (i64,) = self.app.db.read(count).await.unwrap();
        count
    }

    /// Sends what is in the outbox, and answers all mails that were ever sent, newest first.
    pub async fn mails(&self) -> Vec<Delivered> {
        mail::send_all(&self.app).await;
        self.app.mailbox.mails()
    }

    /// The path of the link in the newest mail to this address.
    pub async fn link_to(&self, email: &str) -> String {
        let mails = self.mails().await;
        let mail = mails.iter().find(|mail| mail.email == email);
        let text = &mail.unwrap_or_else(|| panic!("no mail to {email}")).letter.text;
        let origin = self.app.config.origin();
        let link = text.lines().find_map(|line| line.strip_prefix(&origin));
        link.unwrap_or_else(|| panic!("no link in {text}")).to_string()
    }

    /// Gives somebody a confirmed address.
    pub async fn confirm_address(&self, name: &str, email: &str) {
        let id = self.user(name).await;
        let made = self.app.db.write(async |db| address::make_own(db, &id, email).await).await;
        assert!(made.unwrap(), "{email} is somebody else's");
    }

    /// The id of somebody.
    pub async fn user(&self, name: &str) -> String {
        let username = Username::parse(name).unwrap();
        let user = self.app.db.read(async |db| user::member(db, &username).await).await;
        user.unwrap().expect("there is such a person").id
    }

    /// What a request is answered that is let in when somebody is just ending all their sessions, this one too.
    pub async fn ended_meanwhile(&self, name: &str, request: impl Future<Output = Answer>) -> Answer {
        let id = self.user(name).await;
        let (reached, end) = (Notify::new(), Notify::new());
        let ends = self.app.db.write(async |db| {
            assert!(user::lock(db, &id).await?);
            reached.notify_one();
            end.notified().await;
            session::end_all(db, &id).await
        });
        let go_on = async {
            sleep(Duration::from_millis(300)).await;
            end.notify_one();
        };
        let request = async {
            reached.notified().await;
            tokio::join!(request, go_on).0
        };
        let (ended, answer) = tokio::join!(ends, request);
        ended.unwrap();
        answer
    }

    /// Changes rows as no page would.
    pub async fn execute(&self, sql: &'static str) {
        let execute = async |db: &mut Connection| Ok(sqlx::query(sql).execute(db).await?);
        self.app.db.write(execute).await.unwrap();
    }

    /// Takes somebody's password away.
    pub async fn take_password(&self, name: &str) {
        let id = self.user(name).await;
        self.app.db.write(async |db| password::disable(db, &id).await).await.unwrap();
    }

    pub async fn lose_database(&self) {
        self.app.db.close().await;
    }
}

/// What a mail of the kind `test` says.
fn greeting<'a>(_: &'a App, _: &'a mut Connection, _: &'a mail::Mail, _: Option<User>) -> mail::Writing<'a> {
    let (text, html) = ("Hello.".into(), "<p>Hello.</p>".into());
    ready(Ok(Some(Letter { subject: "Hello".into(), text, html, unsubscribe: None }))).boxed()
}

async fn whoami(user: Option<User>) -> Result<String> {
    Ok(user.map_or("nobody".into(), |user| user.username))
}

/// What a feature asks that wants another factor of everybody who has shown one, at /second.
pub fn ask_for_second<'a>(
    _: &'a App,
    _: &'a mut Connection,
    _: &'a str,
    proven: Proven,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    ready(Ok((proven == Proven::OneFactor).then_some("/second"))).boxed()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entering {
    username: String,
    password: String,
    next: LocalPath,
    stay: Option<String>,
}

/// Logs in with a password, as core does it.
async fn enter(State(app): State<App>, door: Door, Form(form): Form<Entering>) -> Result<Response> {
    let proof = password::check(&app, &door, &form.username, &form.password).await?;
    let proof = proof.ok_or(Error::Refused(StatusCode::UNPROCESSABLE_ENTITY))?;
    let entered = app.db.write(async |db| {
        proof.redeem(db).await?;
        door.log_in(db, &proof.user.id, form.stay.is_some(), Proven::OneFactor, &form.next).await
    });
    Ok(entered.await?.ok_or(Error::NOT_FOUND)?.into_response())
}

/// Shows once more who somebody is, by any factor, as core does it.
async fn prove(State(app): State<App>, user: User, door: Door, Form(sent): Form<Sent>) -> Result<Response> {
    let Ok(shown) = factor::check(&app, &door, &user, &sent).await? else {
        return Err(Error::Refused(StatusCode::UNPROCESSABLE_ENTITY));
    };
    let renewed = app.db.write(async |db| {
        shown.redeem(db).await?;
        door.renew(db, shown.proven()).await
    });
    Ok((renewed.await?, "proven").into_response())
}

/// A database for one test, which goes with it.
pub struct TestDatabase {
    pub url: String,
    _folder: Option<tempfile::TempDir>,
    server: Option<String>,
}

impl TestDatabase {
    pub async fn new() -> TestDatabase {
        sqlx::any::install_default_drivers();
        match std::env::var("TEST_DATABASE_URL") {
            Ok(server) => {
                let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
                run_on(&server, format!("create database {name}")).await;
                let mut url = url::Url::parse(&server).unwrap();
                url.set_path(&name);
                TestDatabase { url: url.to_string(), _folder: None, server: Some(server) }
            }
            Err(_) if cfg!(feature = "sqlite") => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite://{}/test.db", folder.path().display());
                TestDatabase { url, _folder: Some(folder), server: None }
            }
            Err(_) => panic!("set TEST_DATABASE_URL to a Postgres server: this build has no other engine"),
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let name = url::Url::parse(&self.url).unwrap().path()[1..].to_string();
        let drop_it = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, format!("drop database if exists {name} with (force)")));
        };
        let _ = std::thread::spawn(drop_it).join();
    }
}

async fn run_on(server: &str, sql: String) {
    let options: sqlx::any::AnyConnectOptions = server.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

/// A browser.
#[derive(Clone)]
pub struct Visitor {
    site: Site,
    cookies: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Visitor {
    pub fn with_cookie(self, name: &str, value: &str) -> Visitor {
        self.cookies.lock().unwrap().insert(name.into(), value.into());
        self
    }

    pub fn without_cookie(self, name: &str) -> Visitor {
        self.cookies.lock().unwrap().remove(name);
        self
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().unwrap().get(name).cloned()
    }

    /// Another browser with the same cookies, as a thief's is.
    pub fn copy(&self) -> Visitor {
        Visitor { cookies: Arc::new(Mutex::new(self.cookies.lock().unwrap().clone())), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, "").await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.post_with(path, fields, &[]).await
    }

    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, path, &[&kind, headers].concat(), body).await
    }

    pub async fn post_multipart(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let part = |(name, value): &(&str, &str)| {
            format!("--boundary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let body = fields.iter().map(part).collect::<String>() + "--boundary--\r\n";
        self.send(Method::POST, path, &[("content-type", "multipart/form-data; boundary=boundary")], body)
            .await
    }

    pub async fn post_body(&self, path: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
        let headers: Vec<_> = content_type.map(|kind| (CONTENT_TYPE.as_str(), kind)).into_iter().collect();
        self.send(Method::POST, path, &headers, body.to_vec()).await
    }

    /// Any request at all. Its cookies and its `Host`, unless one is given, are the visitor's.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(path.replace(' ', "%20"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !headers.iter().any(|(name, _)| HOST == *name) {
            request = request.header(HOST, self.site.app.config.base_url.host_str().unwrap());
        }
        let cookies: Vec<String> =
            self.cookies.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        let mut request = request.body(body.into()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 4000))));
        let response = self.site.answer(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        self.keep(&parts.headers);
        Answer {
            request: format!("{method} {path}"),
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes,
        }
    }

    fn keep(&self, headers: &HeaderMap) {
        let mut cookies = self.cookies.lock().unwrap();
        for cookie in
            headers.get_all(SET_COOKIE).iter().map(|value| Cookie::parse(value.to_str().unwrap()).unwrap())
        {
            if cookie.max_age().is_some_and(|age| age.is_zero()) {
                cookies.remove(cookie.name());
            } else {
                cookies.insert(cookie.name().into(), cookie.value().into());
            }
        }
    }

    /// Asks the app whom it takes this browser for.
    #[track_caller]
    pub fn assert_is(&self, name: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.get("/whoami").await.assert_status(200).text();
            assert_eq!(answer, name, "at {caller}");
        }
    }
}

/// What came back. Every assertion that fails prints it whole.
pub struct Answer {
    request: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A header that must be there.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self}")).to_str().unwrap()
    }

    /// The address of the link with this `rel`.
    #[track_caller]
    pub fn link(&self, rel: &str) -> String {
        let text = self.text();
        let after = text
            .split_once(&format!("rel=\"{rel}\" href=\""))
            .unwrap_or_else(|| panic!("no {rel}: {self}"))
            .1;
        after.split('"').next().unwrap().replace("&amp;", "&")
    }

    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    #[track_caller]
    pub fn assert_redirect(&self, path: &str) -> &Answer {
        assert_eq!((self.status, self.header(LOCATION.as_str())), (303, path), "{self}");
        self
    }

    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) -> &Answer {
        assert_eq!(self.header(name), value, "{self}");
        self
    }

    #[track_caller]
    pub fn assert_no_header(&self, name: &str) -> &Answer {
        assert!(!self.headers.contains_key(name), "{name} is there: {self}");
        self
    }

    /// A whole `Set-Cookie`; `…` in the expected text stands for 43 characters of a token.
    #[track_caller]
    pub fn assert_cookie(&self, expected: &str) -> &Answer {
        let is_it = |found: &str| match expected.split_once('…') {
            None => found == expected,
            Some((before, after)) => {
                let token = found.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                token.is_some_and(|token| crate::token::Token::parse(token).is_some())
            }
        };
        let mut found = self.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap());
        assert!(found.any(is_it), "expected the cookie {expected}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_contains(&self, words: &str) -> &Answer {
        assert!(self.text().contains(words), "expected {words:?}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_lacks(&self, words: &str) -> &Answer {
        assert!(!self.text().contains(words), "did not expect {words:?}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_body(&self, body: &str) -> &Answer {
        assert_eq!(self.text(), body, "{self}");
        self
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.request, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(f, "\n{}", self.text())
    }
}
