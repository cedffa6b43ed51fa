//! Change one's own password: asks the current one, and logs out everywhere else.

use crate::access::{Access, Routes, see_other};
use crate::address;
use crate::app::App;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::Proven;
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::page::{Flash, Page, Template, templates};
use crate::password;
use crate::policy::{NewPassword, own_words};
use crate::session::{Door, Session};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/password";

/// Where password managers look for it (W3C, A Well-Known URL for Changing Passwords).
const WELL_KNOWN: &str = "/.well-known/change-password";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Recent, show).post(PATH, Access::Recent, update).get(
        WELL_KNOWN,
        Access::Public,
        lead,
    );
    Ok(Feature { routes, flashes: &[CHANGED], ..Feature::named("change_password") })
}

const CHANGED: Flash = Flash {
    name: "password_changed",
    words: "Your password was changed. You are logged out everywhere else.",
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
    errors: Errors,
    min_length: usize,
}

impl Template for PasswordPage {
    const FILE: &'static str = templates::CHANGE_PASSWORD_EDIT;
}

async fn show(State(app): State<App>, page: Page) -> Result<Response> {
    page.show(&PasswordPage { errors: Errors::default(), min_length: app.config.password_min_length }).await
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
        Err((field, sentence)) => {
            let errors = Errors::from((field, sentence));
            page.refuse(&PasswordPage { errors, min_length: app.config.password_min_length }).await
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
    if form.password == form.current_password {
        return Ok(Err(("password", "This is your password already.".into())));
    }
    let Some(proof) = password::check_own(app, door, user, &form.current_password).await? else {
        return Ok(Err(("current_password", "This is not your current password.".into())));
    };
    let addresses = app.db.read(async |db| address::of_user(db, &user.id).await).await?;
    let own = own_words(&app.config, &user.username, addresses.all());
    let hash = match app.gate.hash(new, own).await? {
        Ok(hash) => hash,
        Err(sentence) => {
            app.db.write(async |db| proof.redeem(db).await).await?;
            return Ok(Err(("password", sentence.into())));
        }
    };
    let changed = app.db.write(async |db| {
        if !proof.redeem(db).await? {
            return Err(Error::NOT_FOUND);
        }
        password::set(db, &user.id, &hash).await?;
        event::record(db, &*user.id, Event::PasswordChanged, &door.client).await?;
        door.credentials_changed(db, session, Proven::OneFactor).await
    });
    Ok(Ok(changed.await?.add(CHANGED.cookie(&app.config))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor};

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
        let mut errors = Errors::default();
        for field in ["current_password", "password", "confirm_password"] {
            errors.add(field, "No.");
        }
        check(&[
            PasswordPage { errors: Errors::default(), min_length: 8 },
            PasswordPage { errors, min_length: 8 },
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
}
