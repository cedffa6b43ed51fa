//! Change one's own password: asks the current one, and logs out everywhere else.

use crate::access::{Access, Routes, see_other};
use crate::address;
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::{self, Proven};
use crate::features::Feature;
use crate::form::{Errors, Form, NoFields};
use crate::page::{Flash, Page, Template, templates};
use crate::password::{self, Proof};
use crate::policy::{NewPassword, own_words};
use crate::session::{self, Door, Session};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/password";

const REMOVE: &str = "/account/password/remove";

/// Where password managers look for it (W3C, A Well-Known URL for Changing Passwords).
const WELL_KNOWN: &str = "/.well-known/change-password";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::Recent, show)
        .post(PATH, Access::Recent, update)
        .post(REMOVE, Access::Recent, remove)
        .get(WELL_KNOWN, Access::Public, lead);
    Ok(Feature { routes, flashes: &[CHANGED, REMOVED], ..Feature::named("change_password") })
}

const CHANGED: Flash = Flash {
    name: "password_changed",
    words: "Your password was changed. You are logged out everywhere else.",
};

const REMOVED: Flash = Flash {
    name: "password_removed",
    words: "Your account has no password any more. You are logged out everywhere else.",
};

#[derive(Deserialize, Default)]
#[serde(default)]
struct PasswordForm {
    current_password: String,
    password: String,
    confirm_password: String,
}

#[derive(Serialize)]
struct PasswordPage {
    has_password: bool,
    /// Whether the user could log in without it.
    is_removable: bool,
    errors: Errors,
    min_length: usize,
}

impl PasswordPage {
    async fn new(app: &App, user: &User, errors: Errors) -> Result<PasswordPage> {
        let held = app.db.read(async |db| factor::held(app, db, &user.id).await).await?;
        let has_password = held[factor::PASSWORD] > 0;
        let is_removable = has_password && factor::ways_in(app, &held) > 1;
        Ok(PasswordPage { has_password, is_removable, errors, min_length: app.config.password_min_length })
    }
}

impl Template for PasswordPage {
    const FILE: &'static str = templates::CHANGE_PASSWORD_EDIT;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.show(&PasswordPage::new(&app, &user, Errors::default()).await?).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    Form(form): Form<PasswordForm>,
) -> Result<Response> {
    match change(&app, &session, &door, &form).await? {
        Ok(cookies) => Ok((cookies, see_other(PATH)).into_response()),
        Err(mistake) => {
            let errors = Errors::from(mistake);
            page.refuse(&PasswordPage::new(&app, &session.user, errors).await?).await
        }
    }
}

/// Makes the account one without a password, if there is another way in.
async fn remove(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    _: Form<NoFields>,
) -> Result<Response> {
    let user_id = &*session.user.id;
    let removed = app.db.write(async |db| {
        factor::hold(&app, db, &session).await?;
        let held = factor::held(&app, db, user_id).await?;
        if held[factor::PASSWORD] > 0 && factor::ways_in(&app, &held) < 2 {
            return Ok(None);
        }
        password::disable(db, user_id).await?;
        event::record(db, user_id, Event::PasswordRemoved, &door.client).await?;
        door.credentials_changed(db, &session, Proven::OneFactor).await.map(Some)
    });
    match removed.await? {
        Some(cookies) => Ok((cookies.add(REMOVED.cookie(&app.config)), see_other(PATH)).into_response()),
        None => {
            let sentence =
                "The password is the only way into your account. Add another before you remove it.";
            let errors = Errors::from(("remove", sentence.to_string()));
            let page = page.show(&PasswordPage::new(&app, &session.user, errors).await?).await?;
            Ok((StatusCode::CONFLICT, page).into_response())
        }
    }
}

async fn lead() -> Response {
    see_other(PATH)
}

/// Answers the cookies of the renewed session, or the field with a mistake and its sentence.
async fn change(
    app: &App,
    session: &Session,
    door: &Door,
    form: &PasswordForm,
) -> Result<Result<CookieJar, (&'static str, String)>> {
    let user = &session.user;
    let new = match NewPassword::parse_twice(&form.password, &form.confirm_password, &app.config) {
        Ok(new) => new,
        Err(mistake) => return Ok(Err(mistake)),
    };
    let proof = match show_current(app, door, user, form).await? {
        Ok(proof) => proof,
        Err(mistake) => return Ok(Err(mistake)),
    };
    let addresses = app.db.read(async |db| address::of_user(db, &user.id).await).await?;
    let own = own_words(&app.config, &user.username, addresses.all());
    let hash = match app.gate.hash(new, own).await? {
        Ok(hash) => hash,
        Err(sentence) => {
            app.db.write(async |db| redeem(db, session, proof.as_ref()).await).await?;
            return Ok(Err(("password", sentence.into())));
        }
    };
    let changed = app.db.write(async |db| {
        redeem(db, session, proof.as_ref()).await?;
        password::set(db, &user.id, &hash).await?;
        event::record(db, &*user.id, Event::PasswordChanged, &door.client).await?;
        door.credentials_changed(db, session, Proven::OneFactor).await
    });
    Ok(Ok(changed.await?.add(CHANGED.cookie(&app.config))))
}

/// That the user knows the current password, which an account may do without. Or the field with a mistake and its sentence.
async fn show_current(
    app: &App,
    door: &Door,
    user: &User,
    form: &PasswordForm,
) -> Result<Result<Option<Proof>, (&'static str, String)>> {
    let held = app.db.read(async |db| factor::held(app, db, &user.id).await).await?;
    if held[factor::PASSWORD] == 0 {
        return Ok(Ok(None));
    }
    if form.password == form.current_password {
        return Ok(Err(("password", "This is your password already.".into())));
    }
    let proof = password::check_own(app, door, user, &form.current_password).await?;
    Ok(proof.map(Some).ok_or(("current_password", "This is not your current password.".into())))
}

/// Takes the user's row, for the transaction that acts on it.
async fn redeem(db: &mut Connection, session: &Session, proof: Option<&Proof>) -> Result<()> {
    match proof {
        Some(proof) if !proof.redeem(db).await? => Err(Error::NOT_FOUND),
        Some(_) => Ok(()),
        None => session::hold(db, session).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factor::Factor;
    use crate::page::tests::check;
    use crate::recovery;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor};

    use futures_util::FutureExt;

    const NEW: &str = "quiet harbour lamp";

    async fn submit(visitor: &Visitor, current: &str, new: &str, again: &str) -> Answer {
        let fields = [("current_password", current), ("password", new), ("confirm_password", again)];
        visitor.post(PATH, &fields).await
    }

    async fn knows(app: &TestApp, password: &str) -> bool {
        password::check(&app.app, &app.door().await, "ada", password).await.unwrap().is_some()
    }

    #[test]
    fn its_page_renders() {
        let errors = || {
            let mut errors = Errors::default();
            for field in ["current_password", "password", "confirm_password", "remove"] {
                errors.add(field, "No.");
            }
            errors
        };
        check(&[
            PasswordPage { has_password: true, is_removable: true, errors: Errors::default(), min_length: 8 },
            PasswordPage { has_password: true, is_removable: false, errors: errors(), min_length: 8 },
            PasswordPage { has_password: false, is_removable: false, errors: errors(), min_length: 8 },
        ]);
    }

    #[tokio::test]
    async fn a_new_password_holds_at_once_and_ends_every_other_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (elsewhere, bob) = (app.browser_of("ada").await, app.person("bob").await);
        let before = ada.copy();
        let answer = submit(&ada, PASSWORD, NEW, NEW).await;
        answer.assert_redirect(PATH).assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        ada.get(PATH).await.assert_contains("Your password was changed.");
        ada.get(PATH).await.assert_lacks("Your password was changed.");
        ada.assert_is("ada").await;
        for gone in [before, elsewhere] {
            gone.assert_is("nobody").await;
        }
        bob.assert_is("bob").await;
        assert!(knows(&app, NEW).await && !knows(&app, PASSWORD).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_changed'").await, 1);
        assert_eq!(app.count("select count(*) from devices").await, 2);
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_beside_its_field_and_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        for (current, new, again, sentence) in [
            ("", NEW, NEW, "not your current password"),
            ("not the password", NEW, NEW, "not your current password"),
            (PASSWORD, "short", "short", "at least 8 characters"),
            (PASSWORD, NEW, "quiet harbour lamb", "differ"),
            (PASSWORD, "password1", "password1", "most common"),
            (PASSWORD, "ada+latchkey+2026", "ada+latchkey+2026", "your own name"),
            (PASSWORD, PASSWORD, PASSWORD, "already"),
            // A right current password uses nothing up.
            (PASSWORD, "password2", "password2", "most common"),
            (PASSWORD, "password3", "password3", "most common"),
            (PASSWORD, "password4", "password4", "most common"),
            (PASSWORD, "password5", "password5", "most common"),
        ] {
            let answer = submit(&ada, current, new, again).await;
            answer.assert_status(422).assert_contains(sentence).assert_no_header("set-cookie");
            answer.assert_lacks("not the password").assert_lacks(NEW);
        }
        ada.assert_is("ada").await;
        elsewhere.assert_is("ada").await;
        assert!(knows(&app, PASSWORD).await);
    }

    #[tokio::test]
    async fn a_log_in_of_some_time_ago_and_a_stranger_change_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        submit(&ada, PASSWORD, NEW, NEW).await.assert_redirect("/confirm?next=%2Faccount");
        submit(&app.visitor(), PASSWORD, NEW, NEW).await.assert_redirect("/login?next=%2F");
        assert!(knows(&app, PASSWORD).await);
    }

    #[tokio::test]
    async fn password_managers_are_led_to_it_and_can_tell_that_they_are() {
        let app = TestApp::new().await;
        for who in [app.visitor(), app.person("ada").await] {
            who.get(WELL_KNOWN).await.assert_redirect(PATH);
            // That whatever is asked for below is not simply there.
            let nothing = "/.well-known/resource-that-should-not-exist-whose-status-code-should-not-be-200";
            who.get(nothing).await.assert_status(404);
        }
    }

    #[tokio::test]
    async fn guesses_at_the_current_password_are_slowed_down() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            submit(&ada, "not the password", NEW, NEW).await.assert_status(422);
        }
        submit(&ada, PASSWORD, NEW, NEW).await.assert_status(429).assert_header("retry-after", "30");
        assert!(knows(&app, PASSWORD).await);
    }

    /// An app in which recovery codes, which core has, are a way in and the word "open" proves it.
    async fn with_another_way_in() -> TestApp {
        let check: factor::Check = |_, _, _, typed| std::future::ready(Ok(typed == "open")).boxed();
        let factor = Factor {
            name: "test",
            count: "select count(*) from recovery_codes where user_id = $1",
            suffices: true,
            check,
            refusal: "No.",
        };
        TestApp::with_feature(&[], Feature { factor: Some(factor), ..Feature::named("test") }).await
    }

    async fn add_way_in(app: &TestApp) {
        let id = app.user("ada").await;
        app.app.db.write(async |db| recovery::make(db, &id).await).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_another_way_in_can_do_without_a_password_and_set_one_again() {
        let app = with_another_way_in().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.get(PATH).await.assert_lacks(REMOVE);
        add_way_in(&app).await;
        ada.get(PATH).await.assert_contains(REMOVE);
        ada.post(REMOVE, &[]).await.assert_redirect(PATH);
        let page = ada.get(PATH).await;
        page.assert_contains("has no password any more").assert_contains("Set a password");
        page.assert_lacks("Current password").assert_lacks(REMOVE);
        elsewhere.assert_is("nobody").await;
        assert!(!knows(&app, PASSWORD).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_removed'").await, 1);
        // What was the password is as good as another now.
        submit(&ada, "", PASSWORD, PASSWORD).await.assert_redirect(PATH);
        assert!(knows(&app, PASSWORD).await);
    }

    #[tokio::test]
    async fn the_last_way_in_is_not_removed() {
        let app = with_another_way_in().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        let answer = ada.post(REMOVE, &[]).await;
        answer
            .assert_status(409)
            .assert_contains("the only way into your account")
            .assert_no_header("set-cookie");
        assert!(knows(&app, PASSWORD).await);
        elsewhere.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_session_that_ends_meanwhile_neither_sets_nor_removes_a_password() {
        let app = with_another_way_in().await;
        let ada = app.person("ada").await;
        add_way_in(&app).await;
        app.ended_meanwhile("ada", ada.post(REMOVE, &[])).await.assert_status(404);
        assert!(knows(&app, PASSWORD).await);
        app.take_password("ada").await;
        let thief = app.browser_of("ada").await;
        app.ended_meanwhile("ada", submit(&thief, "", NEW, NEW)).await.assert_status(404);
        assert!(!knows(&app, NEW).await);
    }

    #[tokio::test]
    async fn whoever_has_no_password_is_told_at_the_log_in_what_everybody_is_told() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.take_password("ada").await;
        for password in ["", PASSWORD, "not the password"] {
            assert!(!knows(&app, password).await);
        }
    }
}
