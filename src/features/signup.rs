//! Sign up: a username, a password typed twice, and an optional e-mail address. New users are logged in at once.

use super::feature::Feature;
use crate::accounts::{Admission, AuthLevel, Choices, Email, NewPassword, Username, password, personal_words};
use crate::base::{Config, Env, Error, FieldErrors, Result};
use crate::db::new_id;
use crate::web::app::SIGN_UP;
use crate::web::{
    Access, App, Flash, Form, LocalPath, Login, NextQuery, Page, Query, Redirect, Routes, Template, files, once,
};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/signup", Access::Guest, new).post("/signup", Access::Guest, create).once();
    Ok(Feature { routes, flashes: &[CONFIRM], sign_up: Some(show_with_link), ..Feature::named("signup") })
}

const CONFIRM: Flash =
    Flash { name: "signed_up", words: "Welcome. Open the link we mailed you to confirm your address." };

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct SignupForm {
    username: String,
    email: Option<String>,
    #[serde(skip_serializing)]
    password: String,
    #[serde(skip_serializing)]
    confirm_password: String,
    /// The token of an invitation.
    invite: Option<String>,
    /// Where to go afterwards.
    next: Option<LocalPath>,
}

/// A form without mistakes.
struct NewAccount {
    username: Username,
    email: Option<Email>,
    password: NewPassword,
}

impl SignupForm {
    fn validate(&self, config: &Config) -> Result<NewAccount, FieldErrors> {
        let mut errors = FieldErrors::default();
        let username = Username::parse(&self.username).and_then(|name| name.unreserved(&config.site_name));
        let username = errors.check("username", username);
        let email = errors.check("email", self.email.as_deref().map(Email::parse).transpose());
        let password = errors.merge(NewPassword::parse_twice(&self.password, &self.confirm_password, config));
        match (username, email, password) {
            (Some(username), Some(email), Some(password)) => Ok(NewAccount { username, email, password }),
            _ => Err(errors),
        }
    }
}

#[derive(Serialize)]
struct SignupPage {
    form: SignupForm,
    errors: FieldErrors,
    min_length: usize,
    once: String,
}

impl SignupPage {
    fn new(app: &App, form: SignupForm, errors: FieldErrors) -> Result<SignupPage> {
        Ok(SignupPage { form, errors, min_length: app.config.password_min_length, once: once::value()? })
    }
}

impl Template for SignupPage {
    const FILE: &'static str = files::SIGNUP_NEW;
}

/// In place of the form, while nobody can sign up without an invitation.
#[derive(Serialize)]
struct NotOpenPage {
    sentence: &'static str,
}

impl Template for NotOpenPage {
    const FILE: &'static str = files::SIGNUP_NOT_OPEN;
}

async fn new(State(app): State<App>, page: Page, Query(NextQuery { next, .. }): Query<NextQuery>) -> Result<Response> {
    if let Err(Error::Forbidden(sentence)) = Admission::without_link(&app.config) {
        return page.render(&NotOpenPage { sentence }).await;
    }
    let form = SignupForm { next, ..SignupForm::default() };
    page.render(&SignupPage::new(&app, form, FieldErrors::default())?).await
}

/// The form for somebody who has followed a link.
fn show_with_link<'a>(
    app: &'a App,
    mut parts: Parts,
    invite: &'a str,
    email: Option<&'a str>,
) -> BoxFuture<'a, Result<Response>> {
    Box::pin(async move {
        let Ok(page) = Page::from_request_parts(&mut parts, app).await;
        let (invite, email) = (Some(invite.to_string()), email.map(String::from));
        let form = SignupForm { invite, email, ..SignupForm::default() };
        page.render(&SignupPage::new(app, form, FieldErrors::default())?).await
    })
}

async fn create(State(app): State<App>, login: Login, page: Page, Form(form): Form<SignupForm>) -> Result<Response> {
    match sign_up(&app, &login, &form).await {
        Ok(redirect) => Ok(redirect.into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&SignupPage::new(&app, form, errors)?).await
        }
    }
}

async fn sign_up(app: &App, login: &Login, form: &SignupForm) -> Result<Redirect> {
    let admission = Admission::find(&app.config, &app.db, form.invite.as_deref()).await?;
    let NewAccount { username, email, password } = form.validate(&app.config)?;
    let counted = app.count_by_address(SIGN_UP, &login.client, app.config.signups_per_address).await?;
    let personal = personal_words(&app.config, username.as_str(), email.as_ref().map(Email::as_str));
    // A mistake does not count as a sign-up.
    let hash = app.passwords.hash(password, personal).await?;
    let choices = Choices { stay: false, next: app.resolve(form.next.as_ref()).into() };
    let signed_up = app.db.write(async |db| {
        let user_id = new_id();
        let admitted = admission.create_user(&app.config, db, &user_id, &username, &login.client).await?;
        let admitted = admitted.ok_or_else(|| Error::invalid("username", username.taken()))?;
        password::table::set(db, &user_id, &hash).await?;
        let has_to_confirm = match &email {
            Some(email) => admitted.set_address(db, &user_id, email, AuthLevel::OneFactor).await?,
            None => false,
        };
        let redirect = login.log_in(db, &user_id, AuthLevel::OneFactor, &choices).await?.ok_or(Error::NOT_FOUND)?;
        Ok(if has_to_confirm { redirect.flash(CONFIRM) } else { redirect })
    });
    counted.decide(signed_up).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::invitation::{self, NewInvitation};
    use crate::db::Connection;
    use crate::test::{Answer, TestApp, Visitor, assert_well_formed, check};
    use futures_util::future::join_all;
    use std::time::Duration;

    const GOOD: &str = "violet lantern";

    async fn sign_up(visitor: &Visitor, name: &str, password: &str) -> Answer {
        let fields = [("username", name), ("password", password), ("confirm_password", password)];
        visitor.post("/signup", &fields).await
    }

    #[test]
    fn its_page_renders() {
        let mut errors = FieldErrors::default();
        for field in ["username", "email", "password", "confirm_password"] {
            errors.add(field, "No.");
        }
        let typed = || SignupForm {
            email: Some("a\"b".into()),
            next: Some(LocalPath::from("/a?b".to_string())),
            ..SignupForm::default()
        };
        check(&[
            SignupPage {
                form: SignupForm::default(),
                errors: FieldErrors::default(),
                min_length: 8,
                once: "value".into(),
            },
            SignupPage { form: typed(), errors, min_length: 8, once: "value".into() },
        ]);
        check(&[NotOpenPage { sentence: "You need an invitation." }]);
    }

    #[tokio::test]
    async fn the_page_and_the_server_have_the_same_limits() {
        let page = TestApp::new().await.visitor().get("/signup").await;
        page.assert_contains(&format!("data-limit=\"{}\"", Username::MAX_LENGTH));
        page.assert_contains("minlength=\"8\"");
    }

    #[tokio::test]
    async fn people_who_sign_up_are_logged_in_and_no_table_has_their_password() {
        let app = TestApp::new().await;
        for (number, post) in ["urlencoded", "multipart"].into_iter().enumerate() {
            let (visitor, name) = (app.visitor(), format!("ada{number}"));
            let fields = [("username", &*name), ("password", GOOD), ("confirm_password", GOOD), ("next", "/private")];
            let answer = match post {
                "urlencoded" => visitor.post("/signup", &fields).await,
                _ => visitor.post_multipart("/signup", &fields).await,
            };
            answer.assert_redirect("/private").assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
            visitor.assert_is(&name).await;
        }
        assert_eq!(app.count("select count(*) from passwords where hash like '%violet%'").await, 0);
        assert_eq!(app.count("select count(*) from passwords where hash like '$pbkdf2-sha256$i=%'").await, 2);
        assert_eq!(app.count("select count(distinct hash) from passwords").await, 2);
    }

    #[tokio::test]
    async fn a_taken_name_gets_the_form_again_with_everything_but_the_passwords() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let fields =
            [("username", "Ada"), ("email", "ada@example.com"), ("password", GOOD), ("confirm_password", GOOD)];
        let answer = app.visitor().post("/signup", &fields).await;
        answer.assert_status(422).assert_contains("The name ada is taken.").assert_no_header("set-cookie");
        answer.assert_contains("value=\"Ada\"").assert_contains("value=\"ada@example.com\"").assert_lacks(GOOD);
        assert_well_formed(&answer.text());
        assert_eq!(app.count("select count(*) from users").await, 1);
        assert_eq!(app.count("select count(*) from addresses").await, 0);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn every_mistake_has_its_sentence_beside_its_field() {
        let app = TestApp::new().await;
        let long = "é".repeat(513);
        let long_address = format!("ada@{}example.com", "a.".repeat(120));
        for (name, email, password, again, field, sentence) in [
            ("", "", GOOD, GOOD, "username", "Please choose a username."),
            ("a b", "", GOOD, GOOD, "username", "without spaces"),
            ("ada\0", "", GOOD, GOOD, "username", "letters from a to z"),
            ("abcdefghijklmnopqrstu", "", GOOD, GOOD, "username", "at most 20"),
            ("admin", "", GOOD, GOOD, "username", "reserved for the people who run this site"),
            ("ada", "ada", GOOD, GOOD, "email", "does not look like"),
            ("christopherrobertson1985", "", GOOD, GOOD, "username", "at most 20"),
            ("ada", "a@b.c,d@e.f", GOOD, GOOD, "email", "does not look like"),
            ("ada", &long_address, GOOD, GOOD, "email", "at most 254 characters"),
            ("ada", "", "", "", "password", "Please choose a password."),
            ("ada", "", "1234567", "1234567", "password", "at least 8 characters"),
            ("ada", "", &long, &long, "password", "at most 1024 bytes"),
            ("ada", "", GOOD, "violet lanterm", "confirm_password", "differ"),
            ("ada", "", GOOD, "", "confirm_password", "differ"),
        ] {
            let fields = [("username", name), ("email", email), ("password", password), ("confirm_password", again)];
            let answer = app.visitor().post("/signup", &fields).await;
            answer.assert_status(422).assert_contains(sentence).assert_no_header("set-cookie");
            answer.assert_contains(&format!("id=\"{field}-error\""));
            if !name.is_empty() {
                answer.assert_contains(&format!("value=\"{name}\""));
            }
            answer.assert_contains(&format!("aria-invalid=\"true\" aria-describedby=\"{field}-error\""));
            assert_eq!(answer.text().matches("aria-invalid").count(), 1, "{answer}");
        }
        assert_eq!(app.count("select count(*) from users").await, 0);
    }

    #[tokio::test]
    async fn a_password_that_is_easy_to_guess_is_refused_with_the_reason() {
        let app = TestApp::with_env(&[("SITE_NAME", "Harbour Books")], Routes::new()).await;
        for (password, reason) in [
            ("password1", "most common"),
            ("trustno1!", "most common"),
            ("qwertyuiop", "most common"),
            ("asdfghjkl;'", "next to each other"),
            ("12345678", "most common"),
            ("aaaaaaaaaaaa", "Repetition"),
            ("abcdefghij", "Sequences"),
            ("1984-07-17", "Dates and years"),
            ("lovelace1815", "your own name"),
            ("Ada-Lovelace!", "your own name"),
            ("harbourbooks", "or this site"),
            ("Harbour Books 2026", "or this site"),
            ("ada.lovelace@example.com", "your own name"),
            ("Tr0ub4dour&3", "too easy"),
        ] {
            let fields = [
                ("username", "adalovelace"),
                ("email", "ada.lovelace@example.com"),
                ("password", password),
                ("confirm_password", password),
            ];
            let answer = app.visitor().post("/signup", &fields).await;
            answer.assert_status(422).assert_contains(reason).assert_contains("ada.lovelace@example.com");
            answer.assert_contains("aria-describedby=\"password-error\"");
        }
        for good in [GOOD, "ich mag keine igel", "x7#Qp2!mZ", "aaaa bbbb cccc dddd quiet", "ада любит числа"]
        {
            let name = format!("u{}", app.count("select count(*) from users").await);
            sign_up(&app.visitor(), &name, good).await.assert_redirect("/");
        }
    }

    #[tokio::test]
    async fn a_sign_up_that_cannot_be_done_now_does_not_count() {
        let app = TestApp::with_env(&[("SIGNUPS_PER_ADDRESS", "1/1h")], Routes::new()).await;
        app.execute("alter table passwords rename to gone").await;
        for _ in 0..3 {
            sign_up(&app.visitor(), "ada", GOOD).await.assert_status(500);
        }
        app.execute("alter table gone rename to passwords").await;
        sign_up(&app.visitor(), "ada", GOOD).await.assert_redirect("/");
        sign_up(&app.visitor(), "bob", GOOD).await.assert_status(429);
    }

    #[tokio::test]
    async fn sign_ups_from_one_address_are_limited_and_mistakes_do_not_count() {
        let app = TestApp::with_env(&[("SIGNUPS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        for _ in 0..5 {
            sign_up(&app.visitor(), "a b", GOOD).await.assert_status(422);
            sign_up(&app.visitor(), "ada", "password1").await.assert_status(422);
        }
        sign_up(&app.visitor(), "ada", GOOD).await.assert_redirect("/");
        sign_up(&app.visitor(), "ada", GOOD).await.assert_status(422).assert_contains("is taken");
        let refused = sign_up(&app.visitor(), "bob", GOOD).await;
        refused.assert_status(429).assert_retry_after(1800);
        refused.assert_contains("You can try again in 30 minutes.");
        let before = app.statements();
        sign_up(&app.visitor(), "eve", GOOD).await.assert_status(429);
        assert_eq!(app.statements(), before, "it is refused again without a statement");
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn an_address_that_another_user_has_confirmed_gets_the_same_answer_as_a_free_one() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.execute("insert into addresses (user_id, email, confirmed_at) select id, 'a@b.de', 1 from users").await;
        for (name, email) in [("eve", "a@b.de"), ("bob", "b@b.de")] {
            let fields = [("username", name), ("email", email), ("password", GOOD), ("confirm_password", GOOD)];
            app.visitor().post("/signup", &fields).await.assert_redirect("/").assert_body("");
        }
    }

    #[tokio::test]
    async fn while_sign_ups_are_not_open_the_page_says_so_and_nobody_gets_an_account() {
        for (sign_ups, sentence) in [
            ("invite", "You need an invitation to sign up here."),
            ("closed", "Nobody can sign up here at the moment."),
        ] {
            let app = TestApp::with_env(&[("SIGNUPS", sign_ups)], Routes::new()).await;
            let page = app.visitor().get("/signup").await;
            page.assert_status(200).assert_contains(sentence).assert_lacks("name=\"username\"");
            page.assert_lacks("href=\"/signup\"");
            sign_up(&app.visitor(), "ada", GOOD).await.assert_status(403).assert_contains(sentence);
            assert_eq!(app.count("select count(*) from users").await, 0);
        }
    }

    /// The token of an invitation of one use, for Bob's address.
    async fn invite(app: &TestApp) -> String {
        let new = NewInvitation {
            email: Some("bob@example.com"),
            group_id: None,
            uses: 1,
            lifetime: Duration::from_secs(60),
            created_by: None,
        };
        let create = async |db: &mut Connection| {
            let id = invitation::create(db, &new).await?;
            Ok(invitation::renew(db, &id).await?.unwrap().text())
        };
        app.app.db.write(create).await.unwrap()
    }

    #[tokio::test]
    async fn an_invitation_is_used_up_by_the_account_that_is_made_with_it_and_by_no_mistake() {
        let app = TestApp::with_env(&[("SIGNUPS", "invite")], Routes::new()).await;
        let token = invite(&app).await;
        let fields = |name, password| {
            [
                ("username", name),
                ("email", "bob@example.com"),
                ("password", password),
                ("confirm_password", password),
                ("invite", &*token),
            ]
        };
        let mistaken = app.visitor().post("/signup", &fields("bob", "password1")).await;
        mistaken.assert_status(422).assert_contains(&format!("name=\"invite\" value=\"{token}\""));
        let bob = app.visitor();
        bob.post("/signup", &fields("bob", GOOD)).await.assert_redirect("/");
        bob.assert_is("bob").await;
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, 1);
        assert!(
            app.mails().await.iter().all(|mail| !mail.content.text.contains("/email/")),
            "there is nothing to confirm"
        );
        for invite in [&*token, "x"] {
            let answer = app.visitor().post("/signup", &[("username", "eve"), ("invite", invite)]).await;
            answer.assert_status(404).assert_contains("This link no longer works");
        }
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn while_sign_ups_are_closed_no_invitation_makes_an_account() {
        let app = TestApp::with_env(&[("SIGNUPS", "closed")], Routes::new()).await;
        let token = invite(&app).await;
        let fields = [("username", "bob"), ("password", GOOD), ("confirm_password", GOOD), ("invite", &*token)];
        app.visitor().post("/signup", &fields).await.assert_status(404);
        assert_eq!(app.count("select count(*) from users").await, 0);
    }

    #[tokio::test]
    async fn a_page_shows_what_was_typed_as_text() {
        let app = TestApp::new().await;
        let answer = sign_up(&app.visitor(), "\"><script>alert(1)</script>{{ 12345 * 6789 }}", GOOD).await;
        answer.assert_status(422).assert_lacks("<script>").assert_contains("&lt;script&gt;").assert_lacks("83810205");
    }

    #[tokio::test]
    async fn the_same_password_from_another_keyboard_is_the_same() {
        let app = TestApp::new().await;
        let composed = "ca\u{66}\u{e9} noir";
        sign_up(&app.visitor(), "ada", composed).await.assert_status(303);
        for (typed, right) in
            [("caf\u{e9} noir", true), ("cafe\u{301} noir", true), ("cafe noir", false), ("CAF\u{c9} noir", false)]
        {
            assert_eq!(app.is_password_of("ada", typed).await, right, "{typed}");
        }
    }

    #[tokio::test]
    async fn every_character_of_a_long_password_counts() {
        let app = TestApp::new().await;
        let most = |last: &str| format!("violet lantern {}{last}", "🗝".repeat(251));
        let (long, other) = (most("🗝"), most("🔑"));
        sign_up(&app.visitor(), "ada", &long).await.assert_status(303);
        assert!(app.is_password_of("ada", &long).await && !app.is_password_of("ada", &other).await);
    }

    #[tokio::test]
    async fn an_address_is_kept_unconfirmed_and_taken_from_nobody() {
        let app = TestApp::new().await;
        for name in ["ada", "eve"] {
            let fields =
                [("username", name), ("email", "Ada@Example.com"), ("password", GOOD), ("confirm_password", GOOD)];
            app.visitor().post("/signup", &fields).await.assert_redirect("/");
        }
        let sql = "select count(*) from addresses where email = 'ada@example.com' and confirmed_at is null";
        assert_eq!(app.count(sql).await, 2);
    }

    #[tokio::test]
    async fn people_who_sign_up_while_logged_in_become_the_new_user() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let before = ada.copy();
        sign_up(&ada, "bob", GOOD).await.assert_redirect("/");
        ada.assert_is("bob").await;
        before.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn fields_that_the_form_does_not_have_change_nothing() {
        let app = TestApp::new().await;
        let fields = [
            ("username", "ada"),
            ("email", "ada@example.com"),
            ("password", GOOD),
            ("confirm_password", GOOD),
            ("id", "1"),
            ("disabled_at", "1"),
            ("confirmed_at", "1"),
        ];
        app.visitor().post("/signup", &fields).await.assert_redirect("/");
        assert_eq!(app.count("select count(*) from users where disabled_at is null and id <> '1'").await, 1);
        let sql = "select count(*) from addresses where email = 'ada@example.com' and confirmed_at is null";
        assert_eq!(app.count(sql).await, 1);
    }

    #[tokio::test]
    async fn of_many_who_want_a_name_at_once_one_gets_it() {
        let app = TestApp::new().await;
        let visitors: Vec<Visitor> = (0..40).map(|_| app.visitor()).collect();
        let answers = join_all(visitors.iter().map(|visitor| sign_up(visitor, "ada", GOOD))).await;
        let with = |status| answers.iter().filter(|answer| answer.status == status).count();
        assert_eq!(with(303), 1);
        // On a busy machine some may have waited too long; most have not.
        assert!(with(422) + with(503) == 39 && with(422) > 20, "{} × 422, {} × 503", with(422), with(503));
        assert_eq!(app.count("select count(*) from users").await, 1);
        assert_eq!(app.count("select count(*) from sessions").await, 1);
    }

    #[tokio::test]
    async fn whoever_presses_create_account_twice_has_one_account_and_is_logged_in() {
        let app = TestApp::new().await;
        let page = app.visitor().get("/signup").await.text();
        let once = page.split_once("name=\"once\" value=\"").unwrap().1.split('"').next().unwrap();
        assert_ne!(page, app.visitor().get("/signup").await.text(), "each page has a value of its own");
        let sent = async |visitor: &Visitor, password: &str| {
            let fields = [
                ("once", once),
                ("username", "ada"),
                ("email", "ada@example.com"),
                ("password", password),
                ("confirm_password", password),
            ];
            visitor.post("/signup", &fields).await
        };
        let visitors = [app.visitor(), app.visitor()];
        for answer in join_all(visitors.iter().map(|visitor| sent(visitor, GOOD))).await {
            answer.assert_redirect("/").assert_cookie("flash=signed_up; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        }
        for visitor in &visitors {
            visitor.assert_is("ada").await;
        }
        for (sql, number) in [
            ("select count(*) from users", 1),
            ("select count(*) from sessions", 2),
            ("select count(*) from events where kind = 'signed_up'", 1),
        ] {
            assert_eq!(app.count(sql).await, number, "{sql}");
        }
        // None if the site has no feature that writes it.
        assert!(app.mails().await.len() < 2);
        sent(&app.visitor(), "another lantern").await.assert_status(422).assert_contains("The name ada is taken.");
        app.end_repeats().await;
        sent(&app.visitor(), GOOD).await.assert_status(422).assert_contains("The name ada is taken.");
    }
}
