//! Users change their own password: they enter the current one, and are logged out everywhere else.

use super::feature::Feature;
use crate::accounts::password::{self, VerifiedPassword};
use crate::accounts::{AuthLevel, Event, NewPassword, Session, User, address, event, personal_words, session};
use crate::base::{Env, Error, FieldErrors, Result};
use crate::db::Connection;
use crate::web::factors::{PASSWORD, lock_confirmed};
use crate::web::{
    Access, AccountGroup, AccountRow, App, Empty, FactorCounts, Flash, Form, Login, Page, Redirect, Routes, RowState,
    Template, files, redirect,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/password";

const REMOVE: &str = "/account/password/remove";

/// Where password managers look for it (W3C, A Well-Known URL for Changing Passwords).
const WELL_KNOWN: &str = "/.well-known/change-password";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, show)
        .post(PATH, Access::Recent, update)
        .once()
        .bounded_by("each change costs a hash")
        .get(REMOVE, Access::User, ask_to_remove)
        .post(REMOVE, Access::Recent, remove)
        .once()
        .get(WELL_KNOWN, Access::Public, to_page);
    let flashes = &[CHANGED, REMOVED];
    Ok(Feature {
        routes,
        events: &[PASSWORD_REMOVED],
        flashes,
        account_row: Some(ROW),
        ..Feature::named("change_password")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::SigningIn, 1, "Password", PATH, |db, context| {
    async move {
        if !context.has(PASSWORD) {
            return Ok(RowState::new("None", "Set"));
        }
        Ok(match password::table::changed_at(db, &context.session.user.id).await? {
            Some(at) => RowState::new("Changed", "Change").at(at),
            None => RowState::new("Set", "Change"),
        })
    }
    .boxed()
});

const PASSWORD_REMOVED: Event = Event::named("password_removed", "Password removed")
    .with_notice("Your password was removed", "You can still log in in the other ways you have set up.");

const CHANGED: Flash =
    Flash { name: "password_changed", words: "Password changed. You are logged out on all other devices." };

const REMOVED: Flash =
    Flash { name: "password_removed", words: "Password removed. You are logged out on all other devices." };

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
    errors: FieldErrors,
    min_length: usize,
}

impl PasswordPage {
    async fn new(app: &App, user: &User, errors: FieldErrors) -> Result<PasswordPage> {
        let factors = app.db.read(async |db| FactorCounts::of_user(app, db, &user.id).await).await?;
        let has_password = factors.has_password();
        let is_removable = has_password && factors.login_methods(app) > 1;
        Ok(PasswordPage { has_password, is_removable, errors, min_length: app.config.password_min_length })
    }
}

impl Template for PasswordPage {
    const FILE: &'static str = files::CHANGE_PASSWORD_EDIT;
}

#[derive(Serialize)]
struct RemovePage {
    /// Whether the user could not log in without it.
    is_last: bool,
}

impl Template for RemovePage {
    const FILE: &'static str = files::CHANGE_PASSWORD_REMOVE;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.render(&PasswordPage::new(&app, &user, FieldErrors::default()).await?).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(form): Form<PasswordForm>,
) -> Result<Response> {
    match change_password(&app, &session, &login, &form).await {
        Ok(redirect) => Ok(redirect.into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&PasswordPage::new(&app, &session.user, errors).await?).await
        }
    }
}

async fn ask_to_remove(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let factors = app.db.read(async |db| FactorCounts::of_user(&app, db, &user.id).await).await?;
    if !factors.has_password() {
        return Ok(redirect(PATH).into_response());
    }
    page.render(&RemovePage { is_last: factors.login_methods(&app) < 2 }).await
}

async fn remove(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    _: Form<Empty>,
) -> Result<Response> {
    match remove_password(&app, &session, &login).await? {
        Some(redirect) => Ok(redirect.into_response()),
        None => page.render_with(StatusCode::CONFLICT, &RemovePage { is_last: true }).await,
    }
}

async fn to_page() -> Redirect {
    redirect(PATH)
}

async fn change_password(app: &App, session: &Session, login: &Login, form: &PasswordForm) -> Result<Redirect> {
    let user = &session.user;
    let new = NewPassword::parse_twice(&form.password, &form.confirm_password, &app.config)?;
    let current = verify_current(app, login, user, form).await?;
    let addresses = app.db.read(async |db| address::of_user(db, &user.id).await).await?;
    let personal = personal_words(&app.config, &user.username, addresses.all());
    let hash = app.passwords.hash(new, personal).await?;
    let changed = app.db.write(async |db| {
        lock(db, session, current.as_ref()).await?;
        password::table::set(db, &user.id, &hash).await?;
        event::record(db, &*user.id, password::table::CHANGED.by(&login.client)).await?;
        login.credentials_changed(db, session, AuthLevel::OneFactor).await
    });
    Ok(redirect(PATH).cookie(changed.await?).flash(CHANGED))
}

/// `None` for an account without a password.
async fn verify_current(
    app: &App,
    login: &Login,
    user: &User,
    form: &PasswordForm,
) -> Result<Option<VerifiedPassword>> {
    if app.db.read(async |db| password::table::hash_of(db, &user.id).await).await?.is_none() {
        return Ok(None);
    }
    if form.password == form.current_password {
        return Err(Error::invalid("password", "This is already your password."));
    }
    match app.passwords.verify_own(login.source(), user, &form.current_password).await? {
        Some(verified) => Ok(Some(verified)),
        None => Err(Error::invalid("current_password", "This is not your current password.")),
    }
}

/// Locks the user's row, and checks that the password or, without one, the session is still the same.
async fn lock(db: &mut Connection, session: &Session, current: Option<&VerifiedPassword>) -> Result<()> {
    match current {
        Some(verified) if !verified.recheck(db).await? => Err(Error::NOT_FOUND),
        Some(_) => Ok(()),
        None => session::lifecycle::lock(db, session).await,
    }
}

/// `None` when the user could not log in any more.
async fn remove_password(app: &App, session: &Session, login: &Login) -> Result<Option<Redirect>> {
    let user_id = &*session.user.id;
    let removed = app.db.write(async |db| {
        lock_confirmed(app, db, session).await?;
        let factors = FactorCounts::of_user(app, db, user_id).await?;
        if !factors.has_password() {
            return Ok(Some(redirect(PATH)));
        }
        if factors.login_methods(app) < 2 {
            return Ok(None);
        }
        password::table::remove(db, user_id).await?;
        event::record(db, user_id, PASSWORD_REMOVED.by(&login.client)).await?;
        let cookie = login.credentials_changed(db, session, AuthLevel::OneFactor).await?;
        Ok(Some(redirect(PATH).cookie(cookie).flash(REMOVED)))
    });
    removed.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::recovery_code;
    use crate::test::{Answer, PASSWORD, SECOND_FACTOR, TestApp, Visitor, check};
    use crate::web::Factor;
    use futures_util::FutureExt;
    use std::future::ready;

    const NEW: &str = "quiet harbour lamp";

    async fn submit(visitor: &Visitor, current: &str, new: &str, again: &str) -> Answer {
        let fields = [("current_password", current), ("password", new), ("confirm_password", again)];
        visitor.post(PATH, &fields).await
    }

    #[test]
    fn its_page_renders() {
        let errors = || {
            let mut errors = FieldErrors::default();
            for field in ["current_password", "password", "confirm_password"] {
                errors.add(field, "No.");
            }
            errors
        };
        check(&[
            PasswordPage { has_password: true, is_removable: true, errors: FieldErrors::default(), min_length: 8 },
            PasswordPage { has_password: true, is_removable: false, errors: errors(), min_length: 8 },
            PasswordPage { has_password: false, is_removable: false, errors: errors(), min_length: 8 },
        ]);
        check(&[RemovePage { is_last: false }, RemovePage { is_last: true }]);
    }

    #[tokio::test]
    async fn a_new_password_works_at_once_and_ends_every_other_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (elsewhere, bob) = (app.browser_of("ada").await, app.person("bob").await);
        let before = ada.copy();
        let answer = submit(&ada, PASSWORD, NEW, NEW).await;
        answer.assert_redirect(PATH).assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        ada.get(PATH).await.assert_contains("Password changed.");
        ada.get(PATH).await.assert_lacks("Password changed.");
        ada.assert_is("ada").await;
        for gone in [before, elsewhere] {
            gone.assert_is("nobody").await;
        }
        bob.assert_is("bob").await;
        assert!(app.is_password_of("ada", NEW).await && !app.is_password_of("ada", PASSWORD).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_changed'").await, 1);
        assert_eq!(app.count("select count(*) from devices").await, 2);
    }

    #[tokio::test]
    async fn a_mistake_has_its_sentence_beside_its_field_and_changes_nothing() {
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
            // A right current password never counts as a failed attempt.
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
        assert!(app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn neither_an_old_log_in_nor_a_visitor_changes_the_password() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [PATH, REMOVE] {
            ada.get(path).await.assert_status(200);
            app.visitor().get(path).await.assert_status(303);
        }
        submit(&ada, PASSWORD, NEW, NEW).await.assert_redirect("/confirm?next=%2Faccount");
        ada.post(REMOVE, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        submit(&app.visitor(), PASSWORD, NEW, NEW).await.assert_redirect("/login?next=%2F");
        assert!(app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn password_managers_find_the_page_at_its_well_known_address() {
        let app = TestApp::new().await;
        for who in [app.visitor(), app.person("ada").await] {
            who.get(WELL_KNOWN).await.assert_redirect(PATH);
            // By which they can tell that the other address is not answered by chance.
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
        submit(&ada, PASSWORD, NEW, NEW).await.assert_status(429).assert_retry_after(30);
        assert!(app.is_password_of("ada", PASSWORD).await);
    }

    /// An app in which recovery codes, which core has, count as another login method.
    async fn with_another_login_method() -> TestApp {
        let factor = Factor { suffices: true, next: |_, _, _, _| ready(Ok(None)).boxed(), ..SECOND_FACTOR };
        TestApp::with_feature(&[], Feature { factor: Some(factor), ..Feature::named("test") }).await
    }

    async fn add_login_method(app: &TestApp) {
        let id = app.user("ada").await;
        app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap();
    }

    #[tokio::test]
    async fn people_with_another_login_method_can_remove_the_password_and_set_one_again() {
        let app = with_another_login_method().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.get(PATH).await.assert_lacks(REMOVE);
        add_login_method(&app).await;
        ada.get(PATH).await.assert_contains(REMOVE);
        ada.get(REMOVE).await.assert_status(200).assert_contains("Remove your password?").assert_contains("Keep it");
        ada.post(REMOVE, &[]).await.assert_redirect(PATH);
        let page = ada.get(PATH).await;
        page.assert_contains("Password removed.").assert_contains("Set a password");
        page.assert_lacks("Current password").assert_lacks(REMOVE);
        ada.get(REMOVE).await.assert_redirect(PATH);
        elsewhere.assert_is("nobody").await;
        assert!(!app.is_password_of("ada", PASSWORD).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_removed'").await, 1);
        // The password that was removed can be set again.
        submit(&ada, "", PASSWORD, PASSWORD).await.assert_redirect(PATH);
        assert!(app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn to_remove_a_password_that_is_not_there_changes_nothing() {
        let app = with_another_login_method().await;
        let ada = app.person("ada").await;
        add_login_method(&app).await;
        app.remove_password("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.post(REMOVE, &[]).await.assert_redirect(PATH).assert_no_header("set-cookie");
        elsewhere.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from events where kind = 'password_removed'").await, 0);
    }

    #[tokio::test]
    async fn the_last_login_method_cannot_be_removed() {
        let app = with_another_login_method().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.get(REMOVE)
            .await
            .assert_status(200)
            .assert_contains("your only way to log in")
            .assert_lacks("<button class=\"danger");
        let answer = ada.post(REMOVE, &[]).await;
        answer.assert_status(409).assert_contains("your only way to log in").assert_no_header("set-cookie");
        assert!(app.is_password_of("ada", PASSWORD).await);
        elsewhere.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_session_that_ends_meanwhile_neither_sets_nor_removes_a_password() {
        let app = with_another_login_method().await;
        let ada = app.person("ada").await;
        add_login_method(&app).await;
        app.ended_meanwhile("ada", ada.post(REMOVE, &[])).await.assert_status(404);
        assert!(app.is_password_of("ada", PASSWORD).await);
        app.remove_password("ada").await;
        let thief = app.browser_of("ada").await;
        app.ended_meanwhile("ada", submit(&thief, "", NEW, NEW)).await.assert_status(404);
        assert!(!app.is_password_of("ada", NEW).await);
    }

    #[tokio::test]
    async fn no_password_is_right_for_an_account_without_one() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.remove_password("ada").await;
        for password in ["", PASSWORD, "not the password"] {
            assert!(!app.is_password_of("ada", password).await);
        }
    }

    #[tokio::test]
    async fn the_account_page_says_when_the_password_was_changed_and_whether_there_is_one() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Password · Set · Change\n");
        submit(&ada, PASSWORD, "quiet harbour lamp", "quiet harbour lamp").await.assert_redirect(PATH);
        ada.get("/test/account").await.assert_contains("Password · Changed just now · Change\n");
        bob.get("/test/account").await.assert_contains("Password · Set · Change\n");
        app.remove_password("ada").await;
        ada.get("/test/account").await.assert_contains("Password · None · Set\n");
    }
}
