//! A [`TestApp`] has a database to itself, on SQLite or, when `TEST_DATABASE_URL` names a server, on Postgres.
//! `app.person("ada")` is a visitor with an account, logged in by core alone, so that a feature's tests need no other
//! feature.

use super::database::TestDatabase;
use super::visitor::{Answer, Visitor};
use crate::accounts::actor::Actor;
use crate::accounts::address;
use crate::accounts::auth_level::AuthLevel;
use crate::accounts::disabling;
use crate::accounts::event::Event;
use crate::accounts::group;
use crate::accounts::password::policy::NewPassword;
use crate::accounts::password::table as password_table;
use crate::accounts::pending_login::Choices;
use crate::accounts::permission::{ADMIN, Permissions};
use crate::accounts::session::Session;
use crate::accounts::session::lifecycle;
use crate::accounts::user::{self, User, Username};
use crate::base::config::{Config, is_sqlite};
use crate::base::env::Env;
use crate::base::error::{Error, Result};
use crate::db::clock;
use crate::db::connection::Connection;
use crate::features::{self, Feature};
use crate::mail::{Deliver, Mail, MailContent, Outbox, Outgoing, deliver_locally};
use crate::server::site::Site;
use crate::web::app::{AccountRow, App, Factor, FactorAttempt, RowContext, RowState};
use crate::web::factors::FactorCounts;
use crate::web::form::Form;
use crate::web::format::time_ago;
use crate::web::login::{Credentials, Login};
use crate::web::redirect::LocalPath;
use crate::web::routes::{Access, Routes};
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use serde::Deserialize;
use sqlx::Row;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The password of every [`TestApp::person`].
pub const PASSWORD: &str = "correct horse battery";

/// The least that a site in production must set.
pub const PRODUCTION: [(&str, &str); 4] = [
    ("BASE_URL", "https://example.com"),
    ("TRUSTED_PROXIES", "none"),
    ("SMTP_URL", "none"),
    // The default, in place of the 1 of other tests.
    ("PASSWORD_ITERATIONS", "600000"),
];

pub struct TestApp {
    pub app: App,
    site: Site,
    delivered: Arc<Mutex<Vec<Outgoing>>>,
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

    /// An app with a feature of the test's own. Where its paths of log-in, confirmation and account are not given, they are
    /// the usual ones, whether or not there is a page.
    pub async fn with_feature(settings: &[(&str, &str)], mut feature: Feature) -> TestApp {
        feature.login_path = feature.login_path.or(Some("/login"));
        feature.confirm_path = feature.confirm_path.or(Some("/confirm"));
        feature.account_path = feature.account_path.or(Some("/account"));
        TestApp::with_features(settings, |features| features.insert(0, feature)).await
    }

    /// An app whose features the test chooses.
    pub async fn with_features(settings: &[(&str, &str)], choose: impl FnOnce(&mut Vec<Feature>)) -> TestApp {
        let database = TestDatabase::new().await;
        let common = [
            ("DATABASE_URL", &*database.url),
            // Opening eight takes Postgres longer than most tests.
            ("DATABASE_POOL", "4"),
            ("PASSWORD_ITERATIONS", "1"),
            ("SECRET_KEY", "a key for tests alone with 32 bytes or more"),
            // All visitors have one address.
            ("PASSWORD_ATTEMPTS_PER_ADDRESS", "1000000/1h"),
            ("SIGNUPS_PER_ADDRESS", "1000000/1h"),
            ("MAILS_PER_ADDRESS", "1000000/1h"),
        ];
        let env: Env = common.iter().chain(settings).copied().collect();
        let mut features = features::all(&env).unwrap();
        choose(&mut features);
        let delivered = Arc::default();
        let first = features.iter().find_map(|feature| feature.deliver.clone());
        features.insert(0, test_feature(&delivered, first));
        let site = Site::open(Config::from_env(&env).unwrap(), features).await.unwrap();
        TestApp { app: site.app.clone(), site, delivered, _database: database }
    }

    /// A browser that has never been here.
    pub fn visitor(&self) -> Visitor {
        Visitor { site: self.site.clone(), cookies: Arc::default() }
    }

    /// Somebody with an account, [`PASSWORD`] and a browser that is logged in.
    pub async fn person(&self, name: &str) -> Visitor {
        let username = Username::parse(name).unwrap();
        let password = NewPassword::parse(PASSWORD, &self.app.config).unwrap();
        let hash = self.app.passwords.hash(password, Vec::new()).await.unwrap();
        let login = self.login().await;
        let created = self.app.db.write(async |db| {
            let id = user::create(db, &username, &login.client).await?.expect("nobody has this name yet");
            password_table::set(db, &id, &hash).await
        });
        created.await.unwrap();
        self.browser_of(name).await
    }

    /// Another browser in which somebody is logged in.
    pub async fn browser_of(&self, name: &str) -> Visitor {
        let (id, login) = (self.user(name).await, self.login().await);
        let choices = Choices { stay: false, next: "/".into() };
        let logged_in = self.app.db.write(async |db| login.log_in(db, &id, AuthLevel::TwoFactors, &choices).await);
        let redirect = logged_in.await.unwrap().expect("the user may log in");
        let cookies = redirect.cookies().iter();
        let cookies = cookies.map(|cookie| (cookie.name().to_string(), cookie.value().to_string()));
        Visitor { site: self.site.clone(), cookies: Arc::new(Mutex::new(cookies.collect())) }
    }

    /// The extractor of a browser that has never been here.
    pub async fn login(&self) -> Login {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        Login::from_request_parts(&mut parts, &self.app).await.unwrap()
    }

    /// How many statements this app has run.
    pub fn statements(&self) -> u64 {
        self.app.db.statements()
    }

    /// The number that a `select count(*) …` finds.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let count = async |db: &mut Connection| Ok(sqlx::query_scalar(sql).fetch_one(db).await?);
        self.app.db.read(count).await.unwrap()
    }

    /// Sends what is in the outbox, and returns all mails that were ever sent, newest first.
    pub async fn mails(&self) -> Vec<Outgoing> {
        self.site.outbox.send_all().await;
        self.delivered.lock().unwrap().iter().rev().cloned().collect()
    }

    /// The outbox, to send what is in it.
    pub fn outbox(&self) -> &Outbox {
        &self.site.outbox
    }

    /// The path of the link in the newest mail to this address.
    pub async fn link_to(&self, email: &str) -> String {
        let mails = self.mails().await;
        let mail = mails.iter().find(|mail| mail.email == email);
        let text = &mail.unwrap_or_else(|| panic!("no mail to {email}")).content.text;
        let origin = self.app.config.origin();
        let link = text.lines().find_map(|line| line.strip_prefix(&origin));
        link.unwrap_or_else(|| panic!("no link in {text}")).to_string()
    }

    /// Gives somebody a confirmed address.
    pub async fn confirm_address(&self, name: &str, email: &str) {
        let id = self.user(name).await;
        let confirmed = self.app.db.write(async |db| address::set_confirmed(db, &id, email).await).await;
        assert!(confirmed.unwrap(), "{email} is somebody else's");
    }

    /// Gives somebody a permission directly. With an own name, so that a test can ask for one that no feature has.
    pub async fn grant(&self, name: &str, permission: &str) {
        let (id, actor) = (self.user(name).await, Actor::command_line());
        self.app.db.write(async |db| group::grant(db, &id, permission, &actor).await).await.unwrap();
    }

    /// Makes somebody an administrator.
    pub async fn make_admin(&self, name: &str) {
        let (id, actor) = (self.user(name).await, Actor::command_line());
        self.app.db.write(async |db| group::enter(db, &id, ADMIN, &actor).await).await.unwrap();
    }

    /// Disables somebody's account.
    pub async fn disable(&self, name: &str) {
        let (id, actor) = (self.user(name).await, Actor::command_line());
        assert!(self.app.db.write(async |db| disabling::disable(db, &id, &actor).await).await.unwrap());
    }

    /// The id of somebody.
    pub async fn user(&self, name: &str) -> String {
        let username = Username::parse(name).unwrap();
        let user = self.app.db.read(async |db| user::find(db, &username).await).await;
        user.unwrap().expect("there is such a person").id
    }

    /// What a request is answered that was authorized just before somebody ended all their sessions, this one too.
    pub async fn ended_meanwhile(&self, name: &str, request: impl Future<Output = Answer>) -> Answer {
        let id = self.user(name).await;
        let (reached, end) = (Notify::new(), Notify::new());
        let ends = self.app.db.write(async |db| {
            assert!(user::lock(db, &id).await?.is_some());
            reached.notify_one();
            end.notified().await;
            lifecycle::revoke_all(db, &id).await
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
        self.app.db.write_at_length(execute).await.unwrap();
        // It may have changed limits behind the app's back.
        self.app.db.refusals.forget_all();
    }

    /// How SQLite finds the rows of a statement whose `$1` is a time. `None` on Postgres.
    pub async fn query_plan(&self, sql: &str) -> Option<String> {
        if !is_sqlite(&self.app.config.database_url) {
            return None;
        }
        let explain: &str = format!("explain query plan {sql}").leak();
        let read = async |db: &mut Connection| Ok(sqlx::query(explain).bind(0).fetch_all(db).await?);
        let rows = self.app.db.read(read).await.unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        Some(steps.join("\n"))
    }

    /// Whether somebody's password is this one, as a browser that has never been here finds out.
    pub async fn is_password_of(&self, name: &str, password: &str) -> bool {
        let login = self.login().await;
        self.app.passwords.verify(login.source(), name, password).await.unwrap().is_some()
    }

    /// Removes somebody's password.
    pub async fn remove_password(&self, name: &str) {
        let id = self.user(name).await;
        self.app.db.write(async |db| password_table::remove(db, &id).await).await.unwrap();
    }

    /// Lets so much time pass that a form that was sent before acts again.
    pub async fn end_repeats(&self) {
        self.execute("update idempotency_keys set expires_at = 0").await;
    }

    /// From now on the clock is so many seconds ahead of the right time.
    pub fn set_clock_ahead(&self, seconds: u64) {
        clock::tests::AHEAD.set(Duration::from_secs(seconds));
        // It was refused by another clock.
        self.app.db.refusals.forget_all();
    }

    pub async fn lose_database(&self) {
        self.app.db.close().await;
    }
}

/// The routes that tests of core need, and a mailbox that passes mails on to `first`, if a feature takes them.
fn test_feature(delivered: &Arc<Mutex<Vec<Outgoing>>>, first: Option<Deliver>) -> Feature {
    let routes = Routes::new()
        .get("/whoami", Access::Public, whoami)
        .get("/private", Access::User, whoami)
        .get("/test/account", Access::User, list_account_rows)
        .post("/test/log-in", Access::Public, log_in)
        .post("/test/reauthenticate", Access::User, reauthenticate);
    let delivered = delivered.clone();
    let deliver: Deliver = Arc::new(move |mail| {
        delivered.lock().unwrap().push(mail.clone());
        match &first {
            Some(deliver) => deliver(mail),
            None => deliver_locally(drop)(mail),
        }
    });
    let mails = &[("test", greet as _)];
    Feature { routes, mails, deliver: Some(deliver), ..Feature::named("test") }
}

/// What a mail of the kind `test` says.
fn greet<'a>(
    _: &'a App,
    _: &'a mut Connection,
    _: &'a Mail,
    _: Option<User>,
) -> BoxFuture<'a, Result<Option<MailContent>>> {
    let (text, html) = ("Hello.".into(), "<p>Hello.</p>".into());
    ready(Ok(Some(MailContent { subject: "Hello".into(), text, html, unsubscribe: None }))).boxed()
}

async fn whoami(user: Option<User>) -> Result<String> {
    Ok(user.map_or("nobody".into(), |user| user.username))
}

/// The rows of the account page, one a line: "Passkeys · None · Add".
async fn list_account_rows(State(app): State<App>, session: Session) -> Result<String> {
    let select = async |db: &mut Connection| {
        let factors = FactorCounts::of_user(&app, db, &session.user.id).await?;
        let permissions = Permissions::of_user(db, &session.user.id).await?;
        let context = RowContext { app: &app, session: &session, factors: &factors.0, permissions: &permissions };
        let mut lines = String::new();
        let is_shown = |row: &&AccountRow| row.needs.is_none_or(|needed| permissions.has(needed));
        for row in app.features.account_rows.iter().filter(is_shown) {
            let RowState { value, at, action, is_warning } = (row.state)(db, context).await?;
            let value = [Some(value), at.map(time_ago)].into_iter().flatten().collect::<Vec<_>>().join(" ");
            lines += &format!("{} · {value} · {action}{}\n", row.label, if is_warning { "!" } else { "" });
        }
        Ok(lines)
    };
    app.db.read(select).await
}

/// A factor that everybody who has authenticated with one is asked for at /second. Its value is the user's name.
pub const SECOND_FACTOR: Factor = Factor {
    name: "word",
    label: "Word",
    count: "select count(*) from recovery_codes where user_id = $1",
    suffices: false,
    verify: verify_word,
    next: ask_for_second,
    set_up_path: "/set-up",
    added: Event::named("word_added", "Word added"),
    undo: "delete from recovery_codes where user_id = $1 and $2 >= 0",
};

fn verify_word<'a>(_: &'a App, attempt: FactorAttempt<'a>) -> BoxFuture<'a, Result<()>> {
    let is_right = attempt.value == format!("{}'s word", attempt.session.user.username);
    ready(if is_right { Ok(()) } else { Err(Error::invalid("word", "Not the word.")) }).boxed()
}

fn ask_for_second<'a>(
    _: &'a App,
    _: &'a mut Connection,
    _: &'a str,
    level: AuthLevel,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    ready(Ok((level == AuthLevel::OneFactor).then_some("/second"))).boxed()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoginForm {
    username: String,
    password: String,
    next: Option<LocalPath>,
    stay: Option<String>,
}

/// Logs in with a password, as core does it.
async fn log_in(State(app): State<App>, login: Login, Form(form): Form<LoginForm>) -> Result<Response> {
    let verified = app.passwords.verify(login.source(), &form.username, &form.password).await?;
    let verified = verified.ok_or(Error::Refused(StatusCode::UNPROCESSABLE_ENTITY))?;
    let choices = Choices { stay: form.stay.is_some(), next: app.resolve(form.next.as_ref()).into() };
    let logged_in = app.db.write(async |db| {
        verified.recheck(db).await?;
        login.log_in(db, &verified.user.id, AuthLevel::OneFactor, &choices).await
    });
    Ok(logged_in.await?.ok_or(Error::NOT_FOUND)?.into_response())
}

/// Authenticates again, by any factor, as core does it.
async fn reauthenticate(
    State(app): State<App>,
    session: Session,
    login: Login,
    Form(credentials): Form<Credentials>,
) -> Result<Response> {
    let reauthenticated = login.reauthenticate(&session, &credentials).await?;
    let renewed = app.db.write(async |db| {
        reauthenticated.recheck(db).await?;
        login.renew(db, reauthenticated.level()).await
    });
    Ok((CookieJar::new().add(renewed.await?), "done").into_response())
}
