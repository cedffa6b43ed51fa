//! The user's own passkeys: see them, add, rename and remove one.

use super::ceremony::{self, Purpose};
use super::credential::{self, ListedPasskey, RemovedPasskey};
use crate::accounts::{AuthLevel, Event, Session, event};
use crate::base::{FieldErrors, Result};
use crate::db::Connection;
use crate::web::factors::{lacks_required_factor, lock_confirmed, require_confirmed};
use crate::web::{
    App, Empty, FactorCounts, Flash, Form, Json, Login, Page, Redirect, Template, cookie, files, redirect,
};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use webauthn_rs::prelude::RegisterPublicKeyCredential;

pub const PATH: &str = "/account/passkeys";

pub const PASSKEY_ADDED: Event = Event::named("passkey_added", "Passkey added")
    .with_notice("A passkey was added", "Anyone who can unlock the device it is on can log in to your account.");
pub const PASSKEY_REMOVED: Event = Event::named("passkey_removed", "Passkey removed")
    .with_notice("A passkey was removed", "It can no longer be used to log in. All other devices were logged out.");

pub const ADDED: Flash = Flash { name: "passkey_added", words: "Passkey added. You can log in with it next time." };
pub const RENAMED: Flash = Flash { name: "passkey_renamed", words: "Passkey renamed." };
pub const REMOVED: Flash =
    Flash { name: "passkey_removed", words: "Passkey removed. You can delete it on your device too." };

/// Holds the id of a passkey that was just removed, so that the next page can tell its authenticator.
const REMOVED_COOKIE: &str = "removed_passkey";

#[derive(Serialize)]
struct PasskeysPage {
    passkeys: Vec<ListedPasskey>,
    /// Whether the user must add a second factor before doing anything else.
    required: bool,
    /// The id of the passkey that was just removed, and the site that it was for.
    removed: Option<String>,
    site: String,
}

impl Template for PasskeysPage {
    const FILE: &'static str = files::PASSKEYS_INDEX;
}

pub async fn index(State(app): State<App>, session: Session, headers: HeaderMap, page: Page) -> Result<Response> {
    let passkeys = app.db.read(async |db| credential::of_user(db, &session.user.id).await).await?;
    let is_credential_id = |id: &String| BASE64URL_NOPAD.decode(id.as_bytes()).is_ok_and(|bytes| bytes.len() < 1024);
    let removed = cookie::values(&app.config, &headers, REMOVED_COOKIE).into_iter().find(is_credential_id);
    let cookies = removed.iter().map(|_| cookie::delete(&app.config, REMOVED_COOKIE));
    let cookies = cookies.fold(CookieJar::new(), CookieJar::add);
    let required = lacks_required_factor(&app.config, &session);
    let site = app.config.base_url.domain().unwrap_or_default().to_string();
    Ok((cookies, page.render(&PasskeysPage { passkeys, required, removed, site }).await?).into_response())
}

/// Where the script goes when it is refused because the log-in is not recent.
pub async fn prepare_to_add(State(app): State<App>, session: Session) -> Result<Redirect> {
    app.db.read(async |db| require_confirmed(&app, db, &session).await).await?;
    Ok(redirect(PATH))
}

pub async fn start(State(app): State<App>, session: Session, login: Login, _: Json<Empty>) -> Result<Response> {
    let known = async |db: &mut Connection| {
        require_confirmed(&app, db, &session).await?;
        credential::known_ids(db, &session.user.id).await
    };
    let (known, purpose) = (app.db.read(known).await?, Purpose::Register(&session));
    ceremony::ask_to_create(&app, &login, purpose, &session.user, known, |registration| registration).await
}

pub async fn finish(
    State(app): State<App>,
    session: Session,
    login: Login,
    Json(answer): Json<RegisterPublicKeyCredential>,
) -> Result<Response> {
    let (purpose, client_data) = (Purpose::Register(&session), &answer.response.client_data_json);
    let registration = ceremony::take(&app, &login.headers, purpose, client_data).await?;
    let passkey = credential::created(&app.config, &answer, &registration)?;
    let added = app.db.write(async |db| {
        lock_confirmed(&app, db, &session).await?;
        let name = credential::add(db, &session.user.id, &passkey, &login.client).await?;
        let event = PASSKEY_ADDED.by(&login.client).at(session.level).about(&name);
        event::record(db, &*session.user.id, event).await?;
        // It has just verified its user, as at a log-in with it.
        login.renew(db, AuthLevel::TwoFactors).await
    });
    Ok(redirect(PATH).cookie(added.await?).flash(ADDED).into_json())
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct NameForm {
    name: String,
}

const MAX_LENGTH: usize = 50;

impl NameForm {
    /// # Errors
    /// The sentence to show beside the field.
    fn validate(&self) -> Result<&str, &'static str> {
        let name = self.name.trim();
        if name.is_empty() {
            Err("Enter a name.")
        } else if self.name.chars().count() > MAX_LENGTH {
            Err("A name can have at most 50 characters.")
        } else if self.name.contains(char::is_control) {
            Err("This name contains an invisible control character. Please type it again.")
        } else {
            Ok(name)
        }
    }
}

#[derive(Serialize)]
struct RenamePage {
    id: String,
    name: String,
    typed: String,
    errors: FieldErrors,
}

impl Template for RenamePage {
    const FILE: &'static str = files::PASSKEYS_RENAME;
}

pub async fn ask_for_name(
    State(app): State<App>,
    session: Session,
    page: Page,
    Path(id): Path<String>,
) -> Result<Response> {
    let found = app.db.read(async |db| credential::find(db, &session.user.id, &id).await).await?;
    let ListedPasskey { id, name, .. } = found;
    page.render(&RenamePage { id, typed: name.clone(), name, errors: FieldErrors::default() }).await
}

pub async fn rename(
    State(app): State<App>,
    session: Session,
    page: Page,
    Path(id): Path<String>,
    Form(form): Form<NameForm>,
) -> Result<Response> {
    match form.validate() {
        Ok(name) => {
            app.db.write(async |db| credential::rename(db, &session.user.id, &id, name).await).await?;
            Ok(redirect(PATH).flash(RENAMED).into_response())
        }
        Err(sentence) => {
            let found = app.db.read(async |db| credential::find(db, &session.user.id, &id).await).await?;
            let ListedPasskey { id, name, .. } = found;
            let errors = FieldErrors::of("name", sentence);
            page.render_errors(&RenamePage { id, name, typed: form.name, errors }).await
        }
    }
}

#[derive(Serialize)]
struct RemovePage {
    id: String,
    name: String,
    /// Whether the user could not log in without it.
    is_last: bool,
}

impl Template for RemovePage {
    const FILE: &'static str = files::PASSKEYS_REMOVE;
}

impl RemovePage {
    async fn new(app: &App, session: &Session, id: &str) -> Result<RemovePage> {
        let read = async |db: &mut Connection| {
            let ListedPasskey { id, name, .. } = credential::find(db, &session.user.id, id).await?;
            let factors = FactorCounts::of_user(app, db, &session.user.id).await?;
            Ok(RemovePage { id, name, is_last: factors.login_methods(app) == 1 })
        };
        app.db.read(read).await
    }
}

pub async fn ask_to_remove(
    State(app): State<App>,
    session: Session,
    page: Page,
    Path(id): Path<String>,
) -> Result<Response> {
    page.render(&RemovePage::new(&app, &session, &id).await?).await
}

pub async fn remove(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    (Path(id), _): (Path<String>, Form<Empty>),
) -> Result<Response> {
    match app.db.write(async |db| remove_unless_last(db, &app, &session, &login, &id).await).await? {
        Some(redirect) => Ok(redirect.into_response()),
        None => page.render_with(StatusCode::CONFLICT, &RemovePage::new(&app, &session, &id).await?).await,
    }
}

/// `None` when the user could not log in any more.
async fn remove_unless_last(
    db: &mut Connection,
    app: &App,
    session: &Session,
    login: &Login,
    id: &str,
) -> Result<Option<Redirect>> {
    let user_id = &*session.user.id;
    lock_confirmed(app, db, session).await?;
    credential::find(db, user_id, id).await?;
    if FactorCounts::of_user(app, db, user_id).await?.login_methods(app) == 1 {
        return Ok(None);
    }
    let RemovedPasskey { name, credential_id } = credential::remove(db, user_id, id).await?;
    event::record(db, user_id, PASSKEY_REMOVED.by(&login.client).at(session.level).about(&name)).await?;
    let session_cookie = login.credentials_changed(db, session, AuthLevel::OneFactor).await?;
    let removed = BASE64URL_NOPAD.encode(&credential_id);
    let removed = cookie::build(&app.config, REMOVED_COOKIE, removed, Some(Duration::from_secs(60)));
    Ok(Some(redirect(PATH).cookie(session_cookie).cookie(removed).flash(REMOVED)))
}

/// Where password managers send people who want a passkey here (W3C, "Passkey endpoints").
pub async fn endpoints(State(app): State<App>) -> Json<Value> {
    let here = app.config.origin() + PATH;
    Json(json!({ "enroll": here, "manage": here }))
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, ask, damaged, post};
    use super::*;
    use crate::test::{TestApp, Visitor, assert_well_formed, check};
    use serde_json::json;

    const START: &str = "/account/passkeys/start";
    const FINISH: &str = "/account/passkeys/finish";

    /// Where the button of this user's newest passkey leads.
    async fn path(visitor: &Visitor, act: &str) -> String {
        let page = visitor.get(PATH).await.assert_status(200).text();
        let (_, after) = page.rsplit_once("href=\"/account/passkeys/").expect("there is one");
        format!("{PATH}/{}/{act}", after.split('/').next().unwrap())
    }

    #[test]
    fn its_page_renders() {
        let (id, name) = (|| "0190".to_string(), || "<Chrome>".to_string());
        let row = |used| ListedPasskey { id: id(), name: name(), added: 1_777_629_600, used };
        let page = |passkeys, required, removed: Option<&str>| {
            let removed = removed.map(String::from);
            PasskeysPage { passkeys, required, removed, site: "localhost".into() }
        };
        check(&[
            page(vec![], true, Some("AAEC")),
            page(vec![row(None)], false, None),
            page(vec![row(Some(1_777_629_600))], false, None),
        ]);
        let rename = |errors| RenamePage { id: id(), name: name(), typed: "\"".into(), errors };
        check(&[rename(FieldErrors::default()), rename(FieldErrors::of("name", "No."))]);
        let removal = |is_last| RemovePage { id: id(), name: name(), is_last };
        check(&[removal(true), removal(false)]);
    }

    #[tokio::test]
    async fn a_passkey_is_added_and_named_after_the_device() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_contains("You have no passkeys yet.");
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1";
        let headers = [("user-agent", phone), ("content-type", "application/json")];
        for _ in 0..2 {
            let made = Authenticator::new().create(&ask(&ada, START, json!({})).await);
            let answer = ada.send(axum::http::Method::POST, FINISH, &headers, made.to_string()).await;
            answer.assert_status(200).assert_body(r#"{"next":"/account/passkeys"}"#);
        }
        let page = ada.get(PATH).await;
        page.assert_contains("Safari on iPhone<").assert_contains("Safari on iPhone 2<");
        page.assert_contains(ADDED.words).assert_contains("not used yet");
        assert_eq!(app.count("select count(*) from events where kind = 'passkey_added'").await, 2);
        let second = "select count(*) from events where kind = 'passkey_added' and about = 'Safari on iPhone 2'";
        assert_eq!(app.count(second).await, 1);
    }

    #[tokio::test]
    async fn a_passkey_of_a_well_known_make_is_named_after_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let aaguid = *uuid::uuid!("d548826e-79b4-db40-a3d8-11116f7e8349").as_bytes();
        for _ in 0..2 {
            let mut key = Authenticator::new();
            key.aaguid = aaguid;
            key.registered(&ada).await;
        }
        ada.get(PATH)
            .await
            .assert_contains("<strong>Bitwarden</strong>")
            .assert_contains("<strong>Bitwarden 2</strong>");
    }

    #[tokio::test]
    async fn adding_a_passkey_authenticates_by_two_factors_and_logs_out_nowhere_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        app.execute("update sessions set factors = 1").await;
        let before = ada.copy();
        Authenticator::new().registered(&ada).await;
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        before.assert_is("nobody").await;
        elsewhere.assert_is("ada").await;
    }

    #[tokio::test]
    async fn an_authenticator_learns_what_it_created_before() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        let options = ask(&ada, START, json!({})).await;
        assert_eq!(options["publicKey"]["excludeCredentials"].as_array().unwrap().len(), 1);
        assert_eq!(options["publicKey"]["authenticatorSelection"]["requireResidentKey"], true);
    }

    #[tokio::test]
    async fn another_users_passkey_cannot_be_added() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let mut key = Authenticator::new().registered(&ada).await;
        key.register(&eve).await.assert_not_good();
        let adas = "select count(*) from passkeys p join users u on u.id = p.user_id where username = 'ada'";
        assert_eq!((app.count(adas).await, app.count("select count(*) from passkeys").await), (1, 1));
    }

    #[tokio::test]
    async fn nothing_is_added_of_an_answer_that_is_not_good() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let wrong: [fn(&mut Authenticator); 3] = [
            |key| key.origin = "https://evil.example".into(),
            |key| key.site = "evil.example".into(),
            |key| key.verifies = false,
        ];
        for spoil in wrong {
            let mut key = Authenticator::new();
            spoil(&mut key);
            key.register(&ada).await.assert_not_good();
        }
        let made = Authenticator::new().create(&ask(&ada, START, json!({})).await);
        let other = app.browser_of("ada").await.with_cookie("passkey", &ada.cookie("passkey").unwrap());
        post(&other, FINISH, &made).await.assert_not_good();
        let made_for_sign_up = ask(&ada, "/signup/passkey/start", json!({ "username": "bob" })).await;
        post(&ada, FINISH, &Authenticator::new().create(&made_for_sign_up)).await.assert_not_good();
        assert_eq!(app.count("select count(*) from passkeys").await, 0);
    }

    #[tokio::test]
    async fn whatever_an_authenticator_says_is_no_fault() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let parts = ["attestationObject", "clientDataJSON"];
        let made = Authenticator::new().create(&ask(&ada, START, json!({})).await);
        for place in 0..damaged(&made, &parts).len() {
            app.execute("delete from limits").await;
            let made = Authenticator::new().create(&ask(&ada, START, json!({})).await);
            let answer = post(&ada, FINISH, &damaged(&made, &parts)[place]).await;
            assert!(matches!(answer.status, 200 | 422), "{answer}");
            app.execute("delete from passkeys").await;
        }
    }

    #[tokio::test]
    async fn twenty_are_enough() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let waiting = ask(&ada, START, json!({})).await;
        for _ in 0..20 {
            Authenticator::new().registered(&ada).await;
        }
        post(&ada, START, &json!({})).await.assert_status(422).assert_contains("Please remove one first.");
        let late = post(&ada, FINISH, &Authenticator::new().create(&waiting)).await;
        late.assert_status(422).assert_contains("Please remove one first.");
        assert_eq!(app.count("select count(*) from passkeys").await, 20);
    }

    #[tokio::test]
    async fn a_passkey_has_the_name_that_its_user_gives_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        let path = path(&ada, "rename").await;
        ada.get(&path).await.assert_status(200).assert_contains("value=\"Something without a name\"");
        ada.post(&path, &[("name", " Blue <key> ")]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("<strong>Blue &lt;key&gt;</strong>").assert_contains(RENAMED.words);
        let long = "é".repeat(51);
        for (name, sentence) in [
            ("", "Enter a name."),
            (" ", "Enter a name."),
            (&long, "at most 50 characters"),
            ("a\u{0}b", "invisible control character"),
        ] {
            let answer = ada.post(&path, &[("name", name)]).await;
            answer.assert_status(422).assert_contains(sentence).assert_contains("Blue &lt;key&gt;");
            assert_well_formed(&answer.text());
        }
        ada.post(&path, &[("name", &long[2..])]).await.assert_redirect(PATH);
    }

    #[tokio::test]
    async fn a_removed_passkey_logs_nobody_in_and_ends_the_other_sessions() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut key = Authenticator::new();
        let made = key.create(&ask(&ada, START, json!({})).await);
        post(&ada, FINISH, &made).await.assert_status(200);
        let thief = app.visitor();
        key.log_in(&thief).await.assert_status(200);
        let path = path(&ada, "remove").await;
        let asks = ada.get(&path).await;
        asks.assert_status(200).assert_contains("Remove “Something without a name”?").assert_contains("Keep it");
        assert_eq!(app.count("select count(*) from passkeys").await, 1);
        ada.post(&path, &[]).await.assert_redirect(PATH);
        // The page that follows, and no other, has the authenticator forget it.
        let id = made["id"].as_str().unwrap();
        let page = ada.get(PATH).await;
        page.assert_contains(REMOVED.words).assert_contains(&format!("data-site=\"localhost\" data-removed=\"{id}\""));
        ada.get(PATH).await.assert_lacks("data-removed");
        ada.get(&path).await.assert_status(404);
        thief.assert_is("nobody").await;
        key.log_in(&thief).await.assert_not_good();
        ada.assert_is("ada").await;
        let removed =
            "select count(*) from events where kind = 'passkey_removed' and about = 'Something without a name'";
        assert_eq!(app.count(removed).await, 1);
    }

    #[tokio::test]
    async fn the_last_way_in_cannot_be_removed_by_one_or_by_many_at_once() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut keys = [Authenticator::new().registered(&ada).await, Authenticator::new().registered(&ada).await];
        app.remove_password("ada").await;
        let last = path(&ada, "remove").await;
        let page = ada.get(PATH).await.text();
        let (_, first) = page.split_once("href=\"/account/passkeys/").unwrap();
        let first = format!("{PATH}/{}/remove", first.split('/').next().unwrap());
        let browsers = [ada.copy(), ada.copy()];
        let answers = tokio::join!(browsers[0].post(&first, &[]), browsers[1].post(&last, &[]));
        assert_eq!(app.count("select count(*) from passkeys").await, 1, "{}{}", answers.0, answers.1);
        let visitor = app.visitor();
        for key in &mut keys {
            key.log_in(&visitor).await;
        }
        visitor.assert_is("ada").await;
        let refused = visitor.post(&path(&visitor, "remove").await, &[]).await;
        refused.assert_status(409).assert_contains("your only way to log in").assert_no_header("set-cookie");
        assert_well_formed(&refused.text());
        visitor.get(&path(&visitor, "remove").await).await.assert_contains("your only way to log in");
        assert_eq!(app.count("select count(*) from passkeys").await, 1);
    }

    #[tokio::test]
    async fn another_users_passkey_is_not_found() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        Authenticator::new().registered(&ada).await;
        for act in ["rename", "remove"] {
            let theirs = eve.post(&path(&ada, act).await, &[("name", "mine")]).await;
            let nobodys = eve.post(&format!("{PATH}/0190/{act}"), &[("name", "mine")]).await;
            assert_eq!(theirs.assert_status(404).text(), nobodys.text());
            let theirs = eve.get(&path(&ada, act).await).await;
            let nobodys = eve.get(&format!("{PATH}/0190/{act}")).await;
            assert_eq!(theirs.assert_status(404).text(), nobodys.text());
        }
        eve.post(&path(&ada, "rename").await, &[("name", "")]).await.assert_status(404);
        eve.get(PATH).await.assert_contains("You have no passkeys yet.");
        assert_eq!(app.count("select count(*) from passkeys where name <> 'mine'").await, 1);
    }

    #[tokio::test]
    async fn a_log_in_of_some_time_ago_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        let paths = [path(&ada, "rename").await, path(&ada, "remove").await, START.into(), FINISH.into()];
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [PATH, &paths[0], &paths[1]] {
            ada.get(path).await.assert_status(200);
            app.visitor().get(path).await.assert_status(303);
        }
        // Where the script leads that was not let in.
        ada.get("/account/passkeys/add").await.assert_redirect("/confirm?next=%2Faccount%2Fpasskeys%2Fadd");
        for path in paths {
            ada.post(&path, &[("name", "new")]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        assert_eq!(app.count("select count(*) from passkeys where name <> 'new'").await, 1);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_adds_and_removes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        for adds in [true, false] {
            let thief = app.browser_of("ada").await;
            let path = path(&thief, "remove").await;
            let made = Authenticator::new().create(&ask(&thief, START, json!({})).await);
            let act = async { if adds { post(&thief, FINISH, &made).await } else { thief.post(&path, &[]).await } };
            app.ended_meanwhile("ada", act).await.assert_status(404).assert_no_header("set-cookie");
        }
        assert_eq!(app.count("select count(*) from passkeys").await, 1);
    }

    #[tokio::test]
    async fn what_a_thief_added_goes_when_the_owner_takes_the_account_back() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut mine = Authenticator::new().registered(&ada).await;
        app.execute("update passkeys set created_at = created_at - 100").await;
        let mut theirs = Authenticator::new().registered(&app.browser_of("ada").await).await;
        let (id, since) = (app.user("ada").await, crate::db::now() - 50);
        let undone = app.app.db.write(async |db| {
            Ok(sqlx::query(credential::UNDO).bind(&*id).bind(since).execute(db).await?.rows_affected())
        });
        assert_eq!(undone.await.unwrap(), 1);
        theirs.log_in(&app.visitor()).await.assert_not_good();
        mine.log_in(&app.visitor()).await.assert_status(200);
    }

    #[tokio::test]
    async fn password_managers_find_where_passkeys_are_added_and_managed() {
        let app = TestApp::new().await;
        let answer = app.visitor().get("/.well-known/passkey-endpoints").await;
        answer.assert_status(200).assert_header("content-type", "application/json");
        let here = "http://localhost:8000/account/passkeys";
        answer.assert_body(&format!(r#"{{"enroll":"{here}","manage":"{here}"}}"#));
    }
}
