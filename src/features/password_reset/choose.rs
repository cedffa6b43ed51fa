//! Chooses a new password by a link. Looking at the page changes nothing, so whatever opens links before people do, may.

use crate::access::see_other;
use crate::address;
use crate::app::App;
use crate::database::Connection;
use crate::error::Result;
use crate::event::{self, Event};
use crate::form::{Errors, Form};
use crate::guard::Client;
use crate::page::{Flash, Page, Template, templates};
use crate::password;
use crate::policy::{NewPassword, own_words};
use crate::session::{self, Door};
use crate::throttle;
use crate::token::{self, Link, Purpose};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub const CHOSEN: Flash =
    Flash { name: "password_reset", words: "Your new password is set. Log in with it." };

pub const LOOK_THROUGH: Flash = Flash {
    name: "look_through",
    words: "You have a new password. Your account page shows what else opens your account: please look it through.",
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
    errors: Errors,
    min_length: usize,
}

impl ChoosePage {
    fn new(app: &App, link: Link, errors: Errors) -> ChoosePage {
        ChoosePage { username: link.username, errors, min_length: app.config.password_min_length }
    }
}

impl Template for ChoosePage {
    const FILE: &'static str = templates::PASSWORD_RESET_CHOOSE;
}

pub async fn show(State(app): State<App>, page: Page, Path(token): Path<String>) -> Result<Response> {
    let link = app.db.read(async |db| token::find(db, Purpose::Reset, &token).await).await?;
    page.show(&ChoosePage::new(&app, link, Errors::default())).await
}

pub async fn create(
    State(app): State<App>,
    client: Client,
    page: Page,
    Path(token): Path<String>,
    Form(form): Form<ChooseForm>,
) -> Result<Response> {
    let link = app.db.read(async |db| token::find(db, Purpose::Reset, &token).await).await?;
    match choose(&app, &client, &token, &link, &form).await? {
        Ok(()) => Ok((CookieJar::new().add(CHOSEN.cookie(&app.config)), see_other("/login")).into_response()),
        Err(mistake) => page.refuse(&ChoosePage::new(&app, link, Errors::from(mistake))).await,
    }
}

/// Answers the field with a mistake and its sentence, if there is one; then the link can be used again.
async fn choose(
    app: &App,
    client: &Client,
    token: &str,
    link: &Link,
    form: &ChooseForm,
) -> Result<Result<(), (&'static str, String)>> {
    let password = match NewPassword::parse_twice(&form.password, &form.confirm_password, &app.config) {
        Ok(password) => password,
        Err(mistake) => return Ok(Err(mistake)),
    };
    let addresses = app.db.read(async |db| address::of_user(db, &link.user_id).await).await?;
    let own = own_words(&app.config, &link.username, addresses.all());
    let hash = match app.gate.hash(password, own).await? {
        Ok(hash) => hash,
        Err(sentence) => return Ok(Err(("password", sentence.into()))),
    };
    let chosen = app.db.write(async |db| {
        let user_id = token::spend(db, Purpose::Reset, token).await?.user_id;
        password::set(db, &user_id, &hash).await?;
        session::end_all(db, &user_id).await?;
        throttle::forget_user(db, &user_id).await?;
        event::record(db, &*user_id, Event::PasswordReset, client).await
    });
    chosen.await.map(Ok)
}

/// At the first log-in after a reset: whoever had the account before may have left themselves another way in.
pub fn welcome_back<'a>(
    db: &'a mut Connection,
    door: &'a Door,
    user_id: &'a str,
    _: &'a str,
    cookies: CookieJar,
) -> BoxFuture<'a, Result<CookieJar>> {
    async move {
        let sql = "select kind from events where user_id = $1 and kind in ($2, $3) order by id desc limit 1";
        let query =
            sqlx::query_as(sql).bind(user_id).bind(Event::LoggedIn.kind()).bind(Event::PasswordReset.kind());
        let last: Option<(String,)> = query.fetch_optional(db).await?;
        let is_first = last.is_some_and(|(kind,)| kind == Event::PasswordReset.kind());
        Ok(if is_first { cookies.add(LOOK_THROUGH.cookie(door.config())) } else { cookies })
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::super::path;
    use super::*;
    use crate::access::{Access, Routes};
    use crate::factor::Proven;
    use crate::page::tests::check;
    use crate::session::Session;
    use crate::test::{Answer, PASSWORD, TestApp};
    use axum::http::Method;
    use futures_util::future::join_all;

    const NEW: &str = "quiet harbour lamp";

    /// A link of this user's, mailed to nobody.
    async fn link_of(app: &TestApp, name: &str) -> String {
        let (id, lifetime) = (app.user(name).await, app.app.config.reset_lifetime);
        let issue = async |db: &mut Connection| token::issue(db, Purpose::Reset, &id, "", "", lifetime).await;
        path(&app.app.db.write(issue).await.unwrap())
    }

    async fn submit(app: &TestApp, link: &str, new: &str) -> Answer {
        app.visitor().post(link, &[("password", new), ("confirm_password", new)]).await
    }

    async fn knows(app: &TestApp, name: &str, password: &str) -> bool {
        password::check(&app.app, &app.door().await, name, password).await.unwrap().is_some()
    }

    async fn refuses(app: &TestApp, link: &str) {
        for answer in
            [app.visitor().get(link).await, submit(app, link, NEW).await, submit(app, link, "short").await]
        {
            answer.assert_status(404).assert_contains("This link does not work any more");
        }
        assert!(!knows(app, "ada", NEW).await);
    }

    #[test]
    fn its_page_renders() {
        let mut errors = Errors::default();
        for field in ["password", "confirm_password"] {
            errors.add(field, "No.");
        }
        check(&[
            ChoosePage { username: "ada".into(), errors: Errors::default(), min_length: 8 },
            ChoosePage { username: "ada".into(), errors, min_length: 8 },
        ]);
    }

    #[tokio::test]
    async fn a_new_password_holds_at_once_ends_every_session_and_begins_none() {
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
            .assert_redirect("/login")
            .assert_cookie("flash=password_reset; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        for gone in [&ada, &elsewhere, &browser] {
            gone.assert_is("nobody").await;
        }
        bob.assert_is("bob").await;
        assert!(knows(&app, "ada", NEW).await && !knows(&app, "ada", PASSWORD).await);
        assert!(knows(&app, "bob", PASSWORD).await);
        assert_eq!(app.count("select count(*) from sessions").await, 1);
        assert_eq!(app.count("select count(*) from devices").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'password_reset'").await, 1);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn looking_at_a_link_uses_nothing_up_and_using_it_does() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let link = link_of(&app, "ada").await;
        for _ in 0..5 {
            app.visitor().get(&link).await.assert_status(200);
            app.visitor().send(Method::HEAD, &link, &[], "").await.assert_status(200);
            app.visitor().send(Method::OPTIONS, &link, &[], "").await.assert_status(405);
        }
        submit(&app, &link, NEW).await.assert_redirect("/login");
        for answer in [app.visitor().get(&link).await, submit(&app, &link, PASSWORD).await] {
            answer.assert_status(404).assert_contains("This link does not work any more");
        }
        assert!(knows(&app, "ada", NEW).await);
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_beside_its_field_and_the_link_goes_on_working() {
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
        assert!(knows(&app, "ada", PASSWORD).await);
        submit(&app, &link, NEW).await.assert_redirect("/login");
    }

    #[tokio::test]
    async fn a_link_that_is_unknown_or_too_old_or_of_another_kind_or_of_somebody_disabled_changes_nothing() {
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
        submit(&app, &link, NEW).await.assert_redirect("/login");
    }

    #[tokio::test]
    async fn a_link_changes_its_own_users_password_whoever_is_logged_in() {
        let app = TestApp::new().await;
        let (eve, ada) = (app.person("eve").await, app.person("ada").await);
        let link = link_of(&app, "eve").await;
        ada.get(&link).await.assert_contains("<strong>eve</strong>");
        let fields = [("password", NEW), ("confirm_password", NEW), ("username", "ada"), ("user_id", "ada")];
        ada.post(&link, &fields).await.assert_redirect("/login");
        ada.assert_is("ada").await;
        eve.assert_is("nobody").await;
        assert!(knows(&app, "eve", NEW).await && knows(&app, "ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn a_changed_password_ends_a_link_that_is_on_its_way() {
        async fn change(session: Session, door: Door, State(app): State<App>) -> Result<Response> {
            let cookies = app
                .db
                .write(async |db| door.credentials_changed(db, &session, Proven::OneFactor).await)
                .await?;
            Ok(cookies.into_response())
        }
        let app = TestApp::with(Routes::new().post("/change", Access::User, change)).await;
        let ada = app.person("ada").await;
        let link = link_of(&app, "ada").await;
        ada.post("/change", &[]).await.assert_status(200);
        refuses(&app, &link).await;
    }

    #[tokio::test]
    async fn whatever_strangers_have_tried_is_forgiven() {
        let settings = [("PASSWORD_DISABLE_AFTER", "3"), ("PASSWORD_FREE_ATTEMPTS", "4")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        for _ in 0..4 {
            assert!(!knows(&app, "ada", "not the password").await);
        }
        let door = app.door().await;
        assert!(password::check(&app.app, &door, "ada", PASSWORD).await.is_err());
        app.execute("update limits set free_at = 0").await;
        assert!(!knows(&app, "ada", PASSWORD).await);
        submit(&app, &link_of(&app, "ada").await, NEW).await.assert_redirect("/login");
        assert!(knows(&app, "ada", NEW).await);
        for _ in 0..3 {
            assert!(!knows(&app, "ada", PASSWORD).await);
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
        // On a busy machine some may have waited too long and been told so; most have not.
        assert!(with(303) == 1 && with(404) > 20, "{} × 303, {} × 404", with(303), with(404));
        assert_eq!(with(404) + with(503), 49);
        let winner = answers.iter().position(|answer| answer.status == 303).unwrap();
        assert!(knows(&app, "ada", &passwords[winner]).await);
        assert_eq!(app.count("select count(*) from events where kind = 'password_reset'").await, 1);
    }

    #[tokio::test]
    async fn a_link_is_told_to_no_other_site_and_kept_by_no_cache() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let link = link_of(&app, "ada").await;
        let answers = [
            app.visitor().get(&link).await,
            submit(&app, &link, "short").await,
            submit(&app, &link, NEW).await,
        ];
        for answer in answers.iter().chain([&app.visitor().get(&link).await]) {
            answer.assert_header("referrer-policy", "same-origin").assert_header("cache-control", "no-store");
            answer.assert_lacks(&link);
        }
        // Nothing is loaded from elsewhere, so there is nobody else to tell.
        answers[0].assert_lacks("src=\"http").assert_lacks("href=\"http");
    }

    #[tokio::test]
    async fn the_first_log_in_afterwards_is_told_to_look_through_what_else_opens_the_account() {
        let app = TestApp::new().await;
        app.person("ada").await;
        submit(&app, &link_of(&app, "ada").await, NEW).await.assert_redirect("/login");
        for told in [true, false] {
            let browser = app.browser_of("ada").await;
            assert_eq!(browser.cookie("flash").as_deref() == Some(LOOK_THROUGH.name), told);
        }
    }
}
