//! Chooses a new password by a link. Opening the page changes nothing, because mail scanners open links before people do.

use super::request;
use crate::accounts::link::{self, Link, Purpose};
use crate::accounts::password::table::RESET;
use crate::accounts::session::lifecycle::LOGGED_IN;
use crate::accounts::{Client, NewPassword, address, event, password, personal_words, session};
use crate::base::{FieldErrors, Result};
use crate::db::{Connection, rate_limit};
use crate::web::app::SessionStart;
use crate::web::{App, Flash, Form, Page, Redirect, Template, files, redirect};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub const CHOSEN: Flash = Flash { name: "password_reset", words: "Your new password is set. Log in with it." };

pub const LOOK_THROUGH: Flash = Flash {
    name: "look_through",
    words: "You have a new password. Please check your account page for other ways to log in that you do not recognise.",
};

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct ChooseForm {
    password: String,
    confirm_password: String,
}

#[derive(Serialize)]
struct ChoosePage {
    username: String,
    errors: FieldErrors,
    min_length: usize,
}

impl ChoosePage {
    fn new(app: &App, link: Link, errors: FieldErrors) -> ChoosePage {
        ChoosePage { username: link.username, errors, min_length: app.config.password_min_length }
    }
}

impl Template for ChoosePage {
    const FILE: &'static str = files::PASSWORD_RESET_CHOOSE;
}

pub async fn show(State(app): State<App>, page: Page, Path(token): Path<String>) -> Result<Response> {
    let link = app.db.read(async |db| link::find(db, Purpose::Reset, &token).await).await?;
    page.render(&ChoosePage::new(&app, link, FieldErrors::default())).await
}

pub async fn create(
    State(app): State<App>,
    client: Client,
    page: Page,
    Path(token): Path<String>,
    Form(form): Form<ChooseForm>,
) -> Result<Response> {
    let link = app.db.read(async |db| link::find(db, Purpose::Reset, &token).await).await?;
    match choose(&app, &client, &token, &link, &form).await {
        Ok(()) => {
            let path = log_in_path(&app, &link.username);
            Ok(redirect(&path).cookie(request::forget(&app.config)).flash(CHOSEN).into_response())
        }
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&ChoosePage::new(&app, link, errors)).await
        }
    }
}

/// The page to log in, with the username filled in.
fn log_in_path(app: &App, username: &str) -> String {
    app.features.login_path.map_or("/".into(), |path| format!("{path}?username={username}"))
}

/// After a mistake the link can be used again.
async fn choose(app: &App, client: &Client, token: &str, link: &Link, form: &ChooseForm) -> Result<()> {
    let password = NewPassword::parse_twice(&form.password, &form.confirm_password, &app.config)?;
    let addresses = app.db.read(async |db| address::of_user(db, &link.user_id).await).await?;
    let personal = personal_words(&app.config, &link.username, addresses.all());
    let hash = app.passwords.hash(password, personal).await?;
    let chosen = app.db.write(async |db| {
        let user_id = link::consume(db, Purpose::Reset, token).await?.user_id;
        password::table::set(db, &user_id, &hash).await?;
        session::lifecycle::revoke_all(db, &user_id).await?;
        rate_limit::reset_user(db, &user_id).await?;
        event::record(db, &*user_id, RESET.by(client)).await
    });
    chosen.await
}

/// At the first log-in after a reset, because somebody who had got into the account may have added another login method.
pub fn on_session_start<'a>(
    db: &'a mut Connection,
    start: SessionStart<'a>,
    redirect: Redirect,
) -> BoxFuture<'a, Result<Redirect>> {
    async move {
        let sql = "select kind from events where user_id = $1 and kind in ($2, $3) order by id desc limit 1";
        let query = sqlx::query_scalar(sql).bind(start.user_id).bind(LOGGED_IN.kind).bind(RESET.kind);
        let last: Option<String> = query.fetch_optional(db).await?;
        let is_first = last.as_deref() == Some(RESET.kind);
        let redirect = if is_first { redirect.flash(LOOK_THROUGH) } else { redirect };
        // The next person at this browser is not to read it.
        let asked = request::find_sent(start.config, start.headers).is_some();
        Ok(if asked { redirect.cookie(request::forget(start.config)) } else { redirect })
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::super::paths::choose_path;
    use super::*;
    use crate::accounts::{AuthLevel, Session};
    use crate::test::{Answer, PASSWORD, TestApp, check};
    use crate::web::{Access, Login, Routes};
    use axum::http::Method;
    use axum_extra::extract::CookieJar;
    use futures_util::future::join_all;

    const NEW: &str = "quiet harbour lamp";

    /// A link of this user's that was not mailed.
    async fn link_of(app: &TestApp, name: &str) -> String {
        let (id, lifetime) = (app.user(name).await, app.app.config.reset_lifetime);
        let issue = async |db: &mut Connection| link::issue(db, Purpose::Reset, &id, "", "", lifetime).await;
        choose_path(&app.app.db.write(issue).await.unwrap())
    }

    async fn submit(app: &TestApp, link: &str, new: &str) -> Answer {
        app.visitor().post(link, &[("password", new), ("confirm_password", new)]).await
    }

    async fn refuses(app: &TestApp, link: &str) {
        for answer in [app.visitor().get(link).await, submit(app, link, NEW).await, submit(app, link, "short").await] {
            answer.assert_status(404).assert_contains("This link no longer works");
        }
        assert!(!app.is_password_of("ada", NEW).await);
    }

    #[test]
    fn its_page_renders() {
        let mut errors = FieldErrors::default();
        for field in ["password", "confirm_password"] {
            errors.add(field, "No.");
        }
        check(&[
            ChoosePage { username: "ada".into(), errors: FieldErrors::default(), min_length: 8 },
            ChoosePage { username: "ada".into(), errors, min_length: 8 },
        ]);
    }

    #[tokio::test]
    async fn a_new_password_works_at_once_ends_every_session_and_starts_none() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let elsewhere = app.browser_of("ada").await;
        let link = link_of(&app, "ada").await;
        let browser = app.visitor();
        let page = browser.get(&link).await;
        page.assert_status(200).assert_contains("<strong>ada</strong>");
        page.assert_contains("<input type=\"text\" value=\"ada\" autocomplete=\"username\" hidden>");
        let answer = browser.post(&link, &[("password", NEW), ("confirm_password", NEW)]).await;
        answer
            .assert_redirect("/login?username=ada")
            .assert_cookie("flash=password_reset; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        for gone in [&ada, &elsewhere, &browser] {
            gone.assert_is("nobody").await;
        }
        bob.assert_is("bob").await;
        assert!(app.is_password_of("ada", NEW).await && !app.is_password_of("ada", PASSWORD).await);
        assert!(app.is_password_of("bob", PASSWORD).await);
        assert_eq!(app.count("select count(*) from sessions").await, 1);
        assert_eq!(app.count("select count(*) from devices").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'password_reset'").await, 1);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn opening_a_link_does_not_use_it_up_and_choosing_a_password_does() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let link = link_of(&app, "ada").await;
        for _ in 0..5 {
            app.visitor().get(&link).await.assert_status(200);
            app.visitor().send(Method::HEAD, &link, &[], "").await.assert_status(200);
            app.visitor().send(Method::OPTIONS, &link, &[], "").await.assert_status(204);
        }
        submit(&app, &link, NEW).await.assert_redirect("/login?username=ada");
        for answer in [app.visitor().get(&link).await, submit(&app, &link, PASSWORD).await] {
            answer.assert_status(404).assert_contains("This link no longer works");
        }
        assert!(app.is_password_of("ada", NEW).await);
    }

    #[tokio::test]
    async fn a_mistake_has_its_sentence_beside_its_field_and_the_link_still_works() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", "countess@example.com").await;
        let link = link_of(&app, "ada").await;
        for (new, again, field, sentence) in [
            ("", "", "password", "Please choose a password."),
            ("short", "short", "password", "at least 8 characters"),
            (NEW, "quiet harbour lamb", "confirm_password", "differ"),
            ("password1", "password1", "password", "most common"),
            ("ada+latchkey+2026", "ada+latchkey+2026", "password", "your own name"),
            ("countess2026", "countess2026", "password", "your own name"),
        ] {
            let answer = app.visitor().post(&link, &[("password", new), ("confirm_password", again)]).await;
            answer.assert_status(422).assert_contains(sentence).assert_no_header("set-cookie");
            answer.assert_contains(&format!("id=\"{field}-error\"")).assert_contains("<strong>ada</strong>");
            answer.assert_lacks(NEW).assert_lacks("quiet harbour lamb");
        }
        ada.assert_is("ada").await;
        assert!(app.is_password_of("ada", PASSWORD).await);
        submit(&app, &link, NEW).await.assert_redirect("/login?username=ada");
    }

    #[tokio::test]
    async fn a_link_that_is_unknown_or_too_old_or_of_another_kind_or_of_a_disabled_user_changes_nothing() {
        let app = TestApp::new().await;
        app.person("ada").await;
        for unknown in ["x", &"A".repeat(43), &"A".repeat(44), "%00", "%C3%A9", "..%2f"] {
            let path = format!("/password-reset/{unknown}");
            app.visitor().get(&path).await.assert_status(404);
            submit(&app, &path, NEW).await.assert_status(404);
        }
        let link = link_of(&app, "ada").await;
        app.execute("update tokens set expires_at = expires_at - 900").await;
        refuses(&app, &link).await;
        app.execute("update tokens set expires_at = expires_at + 900, purpose = 'confirm'").await;
        refuses(&app, &link).await;
        app.execute("update tokens set purpose = 'reset'").await;
        app.execute("update users set disabled_at = 1").await;
        refuses(&app, &link).await;
        app.execute("update users set disabled_at = null").await;
        submit(&app, &link, NEW).await.assert_redirect("/login?username=ada");
    }

    #[tokio::test]
    async fn a_link_changes_its_own_users_password_even_if_another_user_is_logged_in() {
        let app = TestApp::new().await;
        let (eve, ada) = (app.person("eve").await, app.person("ada").await);
        let link = link_of(&app, "eve").await;
        ada.get(&link).await.assert_contains("<strong>eve</strong>");
        let fields = [("password", NEW), ("confirm_password", NEW), ("username", "ada"), ("user_id", "ada")];
        ada.post(&link, &fields).await.assert_redirect("/login?username=eve");
        ada.assert_is("ada").await;
        eve.assert_is("nobody").await;
        assert!(app.is_password_of("eve", NEW).await && app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn a_changed_password_revokes_a_link_that_is_on_its_way() {
        async fn change(session: Session, login: Login, State(app): State<App>) -> Result<CookieJar> {
            let level = AuthLevel::OneFactor;
            let changed = app.db.write(async |db| login.credentials_changed(db, &session, level).await);
            Ok(CookieJar::new().add(changed.await?))
        }
        let app = TestApp::with(Routes::new().post("/change", Access::User, change)).await;
        let ada = app.person("ada").await;
        let link = link_of(&app, "ada").await;
        ada.post("/change", &[]).await.assert_status(200);
        refuses(&app, &link).await;
    }

    #[tokio::test]
    async fn a_new_password_sets_the_counts_of_failed_attempts_to_zero() {
        let settings = [("PASSWORD_DISABLE_AFTER", "3"), ("PASSWORD_FREE_ATTEMPTS", "4")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        for _ in 0..4 {
            assert!(!app.is_password_of("ada", "not the password").await);
        }
        let login = app.login().await;
        assert!(app.app.passwords.verify(login.source(), "ada", PASSWORD).await.is_err());
        app.execute("update limits set free_at = 0").await;
        assert!(!app.is_password_of("ada", PASSWORD).await);
        submit(&app, &link_of(&app, "ada").await, NEW).await.assert_redirect("/login?username=ada");
        assert!(app.is_password_of("ada", NEW).await);
        for _ in 0..3 {
            assert!(!app.is_password_of("ada", PASSWORD).await);
        }
    }

    #[tokio::test]
    async fn of_fifty_who_use_a_link_at_once_one_chooses_the_password() {
        let app = TestApp::with_env(&[("HASH_WAIT", "9s")], Routes::new()).await;
        app.person("ada").await;
        let link = link_of(&app, "ada").await;
        let passwords: Vec<String> = (0..50).map(|number| format!("quiet harbour lamp {number}")).collect();
        let answers = join_all(passwords.iter().map(|password| submit(&app, &link, password))).await;
        let with = |status| answers.iter().filter(|answer| answer.status == status).count();
        // On a busy machine some may have waited too long; most have not.
        assert!(with(303) == 1 && with(404) > 20, "{} × 303, {} × 404", with(303), with(404));
        assert_eq!(with(404) + with(503), 49);
        let winner = answers.iter().position(|answer| answer.status == 303).unwrap();
        assert!(app.is_password_of("ada", &passwords[winner]).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_reset'").await, 1);
    }

    #[tokio::test]
    async fn a_link_is_passed_to_no_other_site_and_kept_by_no_cache() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let link = link_of(&app, "ada").await;
        let answers =
            [app.visitor().get(&link).await, submit(&app, &link, "short").await, submit(&app, &link, NEW).await];
        for answer in answers.iter().chain([&app.visitor().get(&link).await]) {
            answer.assert_header("referrer-policy", "same-origin").assert_header("cache-control", "no-store");
            answer.assert_lacks(&link);
        }
        // Nothing is loaded from elsewhere, so no other site sees the address.
        answers[0].assert_lacks("src=\"http").assert_lacks("href=\"http");
    }

    #[tokio::test]
    async fn the_first_log_in_afterwards_asks_the_user_to_review_the_account() {
        let app = TestApp::new().await;
        app.person("ada").await;
        submit(&app, &link_of(&app, "ada").await, NEW).await.assert_redirect("/login?username=ada");
        for is_first in [true, false] {
            let browser = app.visitor();
            let fields = [("username", "ada"), ("password", NEW)];
            browser.post("/test/log-in", &fields).await.assert_redirect("/");
            assert_eq!(browser.cookie("flash").as_deref() == Some(LOOK_THROUGH.name), is_first);
        }
    }
}
