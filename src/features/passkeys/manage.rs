//! One's passkeys: see them, add one, give one another name, remove one.

use super::ceremony::{self, Kind};
use super::credential::{self, Listed};
use super::{PATH, lead_to};
use crate::access::see_other;
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::{self, Proven};
use crate::form::{Form, Json, NoFields};
use crate::page::{Flash, Page, Template, templates};
use crate::session::{Door, Session};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::RegisterPublicKeyCredential;

pub const ADDED: Flash =
    Flash { name: "passkey_added", words: "The passkey is ready. Log in with it next time." };
pub const RENAMED: Flash = Flash { name: "passkey_renamed", words: "The passkey has its new name." };
pub const REMOVED: Flash = Flash {
    name: "passkey_removed",
    words: "That passkey opens nothing any more. Delete it on its device, too.",
};

#[derive(Serialize)]
pub struct PasskeysPage {
    passkeys: Vec<Listed>,
    /// Whether nothing else is open to the user before there is a second factor.
    required: bool,
    /// Why something was not done.
    refusal: Option<&'static str>,
}

impl Template for PasskeysPage {
    const FILE: &'static str = templates::PASSKEYS_INDEX;
}

impl PasskeysPage {
    async fn of(app: &App, session: &Session) -> Result<PasskeysPage> {
        let passkeys = app.db.read(async |db| credential::of_user(db, &session.user.id).await).await?;
        let required = app.config.require_two_factor.of_everybody() && session.proven == Proven::OneFactor;
        Ok(PasskeysPage { passkeys, required, refusal: None })
    }
}

pub async fn index(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    // Here rather than in answer to a script, which could not lead anybody on.
    app.db.read(async |db| factor::confirmed(&app, db, &session).await).await?;
    page.show(&PasskeysPage::of(&app, &session).await?).await
}

pub async fn start(State(app): State<App>, user: User, door: Door, _: Json<NoFields>) -> Result<Response> {
    let known = app.db.read(async |db| credential::known(db, &user.id).await).await?;
    let user = (&*user.id, &*user.username);
    ceremony::ask_to_make(&app, &door, Kind::Register, user, known, |state| state).await
}

pub async fn finish(
    State(app): State<App>,
    session: Session,
    door: Door,
    Json(answer): Json<RegisterPublicKeyCredential>,
) -> Result<Response> {
    let state = ceremony::end(&app, &door, Kind::Register, &answer.response.client_data_json).await?;
    let passkey = credential::made(&app.config, &answer, &state)?;
    let added = app.db.write(async |db| {
        let (user_id, proven) = (&*session.user.id, session.proven);
        factor::hold(&app, db, &session).await?;
        credential::add(db, user_id, &passkey, &door.client).await?;
        event::record_proven(db, user_id, Event::PasskeyAdded, proven, &door.client).await?;
        // It has just verified who made it, which is as much as a log-in with it.
        door.renew(db, Proven::TwoFactors).await
    });
    Ok(lead_to(PATH, added.await?.add(ADDED.cookie(&app.config))))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct NameForm {
    name: String,
}

const MAX_LENGTH: usize = 50;

fn judge(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        Err("A passkey needs a name.")
    } else if name.chars().count() > MAX_LENGTH {
        Err("A name has at most 50 characters.")
    } else if name.contains(char::is_control) {
        Err("There is an invisible control character in this name. Please type it again.")
    } else {
        Ok(())
    }
}

pub async fn rename(
    State(app): State<App>,
    session: Session,
    page: Page,
    Path(id): Path<String>,
    Form(form): Form<NameForm>,
) -> Result<Response> {
    if let Err(sentence) = judge(&form.name) {
        let mut listed = PasskeysPage::of(&app, &session).await?;
        let passkey = listed.passkeys.iter_mut().find(|passkey| passkey.id == id).ok_or(Error::NOT_FOUND)?;
        (passkey.typed, passkey.mistake) = (form.name, Some(sentence));
        return page.refuse(&listed).await;
    }
    let (user_id, name) = (&session.user.id, form.name.trim());
    app.db.write(async |db| credential::rename(db, user_id, &id, name).await).await?;
    Ok((CookieJar::new().add(RENAMED.cookie(&app.config)), see_other(PATH)).into_response())
}

const LAST: &str = "You could not log in without this one. Please add another passkey or a password first.";

pub async fn remove(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    (Path(id), _): (Path<String>, Form<NoFields>),
) -> Result<Response> {
    match app.db.write(async |db| take_away(&app, db, &session, &door, &id).await).await {
        Ok(cookies) => Ok((cookies.add(REMOVED.cookie(&app.config)), see_other(PATH)).into_response()),
        Err(Error::Refused(StatusCode::CONFLICT)) => {
            let listed = PasskeysPage::of(&app, &session).await?;
            let shown = page.show(&PasskeysPage { refusal: Some(LAST), ..listed }).await?;
            Ok((StatusCode::CONFLICT, shown).into_response())
        }
        Err(error) => Err(error),
    }
}

/// Answers the cookie with which this session goes on.
///
/// # Errors
/// 409 when there would be no way in left.
async fn take_away(
    app: &App,
    db: &mut Connection,
    session: &Session,
    door: &Door,
    id: &str,
) -> Result<CookieJar> {
    factor::hold(app, db, session).await?;
    credential::remove(db, &session.user.id, id).await?;
    if factor::ways_in(app, &factor::held(app, db, &session.user.id).await?) == 0 {
        return Err(Error::Refused(StatusCode::CONFLICT));
    }
    event::record_proven(db, &*session.user.id, Event::PasskeyRemoved, session.proven, &door.client).await?;
    door.credentials_changed(db, session, Proven::OneFactor).await
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, begin, damaged, post};
    use super::*;
    use crate::page::tests::{assert_well_formed, check};
    use crate::test::{TestApp, Visitor};
    use serde_json::json;

    const START: &str = "/account/passkeys/start";
    const FINISH: &str = "/account/passkeys/finish";

    /// Where the button of this user's newest passkey leads.
    async fn path(visitor: &Visitor, act: &str) -> String {
        let page = visitor.get(PATH).await.assert_status(200).text();
        let (_, after) = page.rsplit_once("action=\"/account/passkeys/").expect("there is one");
        format!("{PATH}/{}/{act}", after.split('/').next().unwrap())
    }

    #[test]
    fn its_page_renders() {
        let row = |used: Option<&str>, mistake| Listed {
            id: "0190".into(),
            name: "<Chrome>".into(),
            added: "1 May 2026".into(),
            used: used.map(String::from),
            typed: "\"".into(),
            mistake,
        };
        check(&[
            PasskeysPage { passkeys: vec![], required: true, refusal: None },
            PasskeysPage { passkeys: vec![row(None, None)], required: false, refusal: Some(LAST) },
            PasskeysPage {
                passkeys: vec![row(Some("2 May 2026"), Some("No."))],
                required: false,
                refusal: None,
            },
        ]);
    }

    #[tokio::test]
    async fn a_passkey_is_added_and_named_after_the_device() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_contains("Your passkeys will appear here.");
        let phone =
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1";
        let headers = [("user-agent", phone), ("content-type", "application/json")];
        for _ in 0..2 {
            let made = Authenticator::new().create(&begin(&ada, START, json!({})).await);
            let answer = ada.send(axum::http::Method::POST, FINISH, &headers, made.to_string()).await;
            answer.assert_status(200).assert_body(r#"{"next":"/account/passkeys"}"#);
        }
        let page = ada.get(PATH).await;
        page.assert_contains("Safari on iPhone<").assert_contains("Safari on iPhone 2<");
        page.assert_contains(ADDED.words).assert_contains("not used yet");
        assert_eq!(app.count("select count(*) from events where kind = 'passkey_added'").await, 2);
    }

    #[tokio::test]
    async fn whoever_adds_a_passkey_has_shown_two_factors_and_stays_logged_in_elsewhere() {
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
    async fn an_authenticator_is_told_what_it_made_before() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        let options = begin(&ada, START, json!({})).await;
        assert_eq!(options["publicKey"]["excludeCredentials"].as_array().unwrap().len(), 1);
        assert_eq!(options["publicKey"]["authenticatorSelection"]["requireResidentKey"], true);
    }

    #[tokio::test]
    async fn a_passkey_that_is_somebody_elses_cannot_be_added() {
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
        let made = Authenticator::new().create(&begin(&ada, START, json!({})).await);
        let other = app.browser_of("ada").await.with_cookie("passkey", &ada.cookie("passkey").unwrap());
        post(&other, FINISH, &made).await.assert_not_good();
        let made_for_sign_up = begin(&ada, "/signup/passkey/start", json!({ "username": "bob" })).await;
        post(&ada, FINISH, &Authenticator::new().create(&made_for_sign_up)).await.assert_not_good();
        assert_eq!(app.count("select count(*) from passkeys").await, 0);
    }

    #[tokio::test]
    async fn whatever_an_authenticator_says_is_no_fault() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let parts = ["attestationObject", "clientDataJSON"];
        let made = Authenticator::new().create(&begin(&ada, START, json!({})).await);
        for place in 0..damaged(&made, &parts).len() {
            app.execute("delete from limits").await;
            let made = Authenticator::new().create(&begin(&ada, START, json!({})).await);
            let answer = post(&ada, FINISH, &damaged(&made, &parts)[place]).await;
            assert!(matches!(answer.status, 200 | 422), "{answer}");
            app.execute("delete from passkeys").await;
        }
    }

    #[tokio::test]
    async fn twenty_are_enough() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let waiting = begin(&ada, START, json!({})).await;
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
        ada.post(&path, &[("name", " Blue <key> ")]).await.assert_redirect(PATH);
        ada.get(PATH)
            .await
            .assert_contains("<strong>Blue &lt;key&gt;</strong>")
            .assert_contains(RENAMED.words);
        let long = "é".repeat(51);
        for (name, sentence) in [
            ("", "needs a name"),
            (" ", "needs a name"),
            (&long, "at most 50 characters"),
            ("a\u{0}b", "invisible control character"),
        ] {
            let answer = ada.post(&path, &[("name", name)]).await;
            answer.assert_status(422).assert_contains(sentence).assert_contains("<details open>");
            assert_well_formed(&answer.text());
        }
        ada.post(&path, &[("name", &long[2..])]).await.assert_redirect(PATH);
    }

    #[tokio::test]
    async fn a_removed_passkey_opens_nothing_and_ends_the_other_sessions() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut key = Authenticator::new().registered(&ada).await;
        let thief = app.visitor();
        key.log_in(&thief).await.assert_status(200);
        ada.post(&path(&ada, "remove").await, &[]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains(REMOVED.words);
        thief.assert_is("nobody").await;
        key.log_in(&thief).await.assert_not_good();
        ada.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from events where kind = 'passkey_removed'").await, 1);
    }

    #[tokio::test]
    async fn the_last_way_in_cannot_be_removed_by_one_or_by_many_at_once() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut keys =
            [Authenticator::new().registered(&ada).await, Authenticator::new().registered(&ada).await];
        app.take_password("ada").await;
        let last = path(&ada, "remove").await;
        let page = ada.get(PATH).await.text();
        let (_, first) = page.split_once("action=\"/account/passkeys/").unwrap();
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
        refused.assert_status(409).assert_contains(LAST).assert_no_header("set-cookie");
        assert_well_formed(&refused.text());
        assert_eq!(app.count("select count(*) from passkeys").await, 1);
    }

    #[tokio::test]
    async fn somebody_elses_passkey_is_as_if_it_were_not_there() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        Authenticator::new().registered(&ada).await;
        for act in ["rename", "remove"] {
            let theirs = eve.post(&path(&ada, act).await, &[("name", "mine")]).await;
            let nobodys = eve.post(&format!("{PATH}/0190/{act}"), &[("name", "mine")]).await;
            assert_eq!(theirs.assert_status(404).text(), nobodys.text());
        }
        eve.post(&path(&ada, "rename").await, &[("name", "")]).await.assert_status(404);
        eve.get(PATH).await.assert_contains("Your passkeys will appear here.");
        assert_eq!(app.count("select count(*) from passkeys where name <> 'mine'").await, 1);
    }

    #[tokio::test]
    async fn a_log_in_of_some_time_ago_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        Authenticator::new().registered(&ada).await;
        let paths = [path(&ada, "rename").await, path(&ada, "remove").await, START.into(), FINISH.into()];
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(PATH).await.assert_redirect("/confirm?next=%2Faccount%2Fpasskeys");
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
            let made = Authenticator::new().create(&begin(&thief, START, json!({})).await);
            let act =
                async { if adds { post(&thief, FINISH, &made).await } else { thief.post(&path, &[]).await } };
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
        let (id, since) = (app.user("ada").await, crate::database::now() - 50);
        let undone = app.app.db.write(async |db| {
            Ok(sqlx::query(credential::UNDO).bind(&*id).bind(since).execute(db).await?.rows_affected())
        });
        assert_eq!(undone.await.unwrap(), 1);
        theirs.log_in(&app.visitor()).await.assert_not_good();
        mine.log_in(&app.visitor()).await.assert_status(200);
    }
}
