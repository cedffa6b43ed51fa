//! Log in with a username (or a confirmed e-mail address) and a password; log out.
//!
//! Every failure has the same sentence, status and cost, so that nobody learns here who has an account.

use super::feature::Feature;
use crate::accounts::{AuthLevel, Choices, Username};
use crate::base::{Env, FieldErrors, Result};
use crate::web::{
    Access, App, Empty, Flash, Form, LocalPath, Login, Page, Query, Redirect, Routes, Template, files, redirect,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

const PATH: &str = "/login";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::Guest, new)
        .post(PATH, Access::Guest, create)
        .bounded_by("each log-in with the right password costs a hash")
        .post("/logout", Access::Public, destroy);
    Ok(Feature { routes, flashes: &[LOGGED_OUT], login_path: Some(PATH), ..Feature::named("login") })
}

const LOGGED_OUT: Flash = Flash { name: "logged_out", words: "You are logged out." };

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct LoginForm {
    username: String,
    #[serde(skip_serializing)]
    password: String,
    /// Where to go afterwards.
    next: Option<LocalPath>,
    /// With any value, the session outlives the browser.
    stay: Option<String>,
}

#[derive(Serialize)]
struct LoginPage {
    form: LoginForm,
    errors: FieldErrors,
}

impl Template for LoginPage {
    const FILE: &'static str = files::LOGIN_NEW;
}

/// After a reset, the link to this page names the user.
async fn new(page: Page, Query(LoginForm { username, next, .. }): Query<LoginForm>) -> Result<Response> {
    // Only what can be a username: the address may come from anywhere.
    let username = Username::parse(&username).map_or_else(|_| String::new(), |_| username);
    let form = LoginForm { username, next, ..LoginForm::default() };
    page.render(&LoginPage { form, errors: FieldErrors::default() }).await
}

async fn create(State(app): State<App>, login: Login, page: Page, Form(form): Form<LoginForm>) -> Result<Response> {
    match log_in(&app, &login, &form).await? {
        Some(redirect) => Ok(redirect.into_response()),
        None => {
            let errors = FieldErrors::of("password", "Wrong username or password.");
            page.render_errors(&LoginPage { form, errors }).await
        }
    }
}

async fn log_in(app: &App, login: &Login, form: &LoginForm) -> Result<Option<Redirect>> {
    let verified = app.passwords.verify(login.source(), &form.username, &form.password).await?;
    let Some(verified) = verified else { return Ok(None) };
    let choices = Choices { stay: form.stay.is_some(), next: app.resolve(form.next.as_ref()).into() };
    let logged_in = app.db.write(async |db| {
        if !verified.recheck(db).await? {
            return Ok(None);
        }
        login.log_in(db, &verified.user.id, AuthLevel::OneFactor, &choices).await
    });
    logged_in.await
}

async fn destroy(login: Login, _: Form<Empty>) -> Response {
    login.log_out(redirect("/").flash(LOGGED_OUT)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Token;
    use crate::db::Connection;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor, assert_well_formed, check};
    use std::time::Duration;
    use tokio::time::sleep;

    async fn log_in(visitor: &Visitor, name: &str, password: &str) -> Answer {
        visitor.post("/login", &[("username", name), ("password", password)]).await
    }

    #[test]
    fn its_page_renders() {
        let typed = || LoginForm {
            username: "ada".into(),
            next: Some(LocalPath::from("/a?b".to_string())),
            stay: Some("1".into()),
            ..LoginForm::default()
        };
        let wrong = FieldErrors::of("password", "No.");
        check(&[
            LoginPage { form: LoginForm::default(), errors: FieldErrors::default() },
            LoginPage { form: typed(), errors: FieldErrors::default() },
            LoginPage { form: typed(), errors: wrong },
        ]);
    }

    #[tokio::test]
    async fn the_right_password_logs_in_and_leads_home() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let browser = app.visitor();
        let answer = log_in(&browser, "ada", PASSWORD).await;
        answer.assert_redirect("/").assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        browser.assert_is("ada").await;
        log_in(&app.visitor(), "ADA", PASSWORD).await.assert_redirect("/");
        let fields = [("username", "ada"), ("password", PASSWORD), ("stay", "on")];
        let answer = app.visitor().post_multipart("/login", &fields).await;
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
    }

    #[tokio::test]
    async fn after_the_log_in_people_return_to_the_page_they_wanted_and_never_to_another_site() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let page = app.visitor().get("/login?next=%2Fprivate%3Fa%3Db").await;
        page.assert_contains("name=\"next\" value=\"/private?a=b\"").assert_no_header("set-cookie");
        for (next, path) in [
            ("/private?a=b", "/private?a=b"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/\r\nSet-Cookie: a=b", "/"),
        ] {
            let fields = [("username", "ada"), ("password", PASSWORD), ("next", next)];
            app.visitor().post("/login", &fields).await.assert_redirect(path);
        }
    }

    #[tokio::test]
    async fn a_wrong_password_and_an_unknown_name_get_the_same_answer() {
        let app = TestApp::new().await;
        app.person("known").await;
        let wrong = log_in(&app.visitor(), "known", "not the password").await;
        let unknown = log_in(&app.visitor(), "nobod", "not the password").await;
        wrong.assert_status(422).assert_contains("Wrong username or").assert_no_header("set-cookie");
        wrong.assert_contains("value=\"known\"").assert_lacks("not the password");
        assert_eq!(wrong.text().replace("known", "nobod"), unknown.text());
        assert_well_formed(&wrong.text());
    }

    #[tokio::test]
    async fn a_password_that_is_too_long_for_anybody_leaves_nothing_behind_and_tells_nothing() {
        let app = TestApp::new().await;
        app.person("known").await;
        let wrong = log_in(&app.visitor(), "known", "not the password").await;
        let (rows, long) = ("select (select count(*) from events) + (select count(*) from limits)", "x".repeat(1025));
        let before = (app.count(rows).await, app.statements());
        for _ in 0..20 {
            for name in ["known", "nobod"] {
                let answer = log_in(&app.visitor(), name, &long).await;
                assert_eq!((answer.status, answer.text().replace("nobod", "known")), (422, wrong.text()));
            }
        }
        let statements = app.statements();
        assert_eq!((app.count(rows).await, statements), before);
        log_in(&app.visitor(), "known", PASSWORD).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn every_failed_log_in_has_the_same_sentence() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let long = "x".repeat(1025);
        for (name, password) in [
            ("ada", ""),
            ("", PASSWORD),
            ("", ""),
            ("ada ", PASSWORD),
            ("ada\0", PASSWORD),
            ("' or 1=1 --", PASSWORD),
            ("ada", "correct horse batterY"),
            ("ada", "correct horse battery "),
            ("ada", &long),
            ("ada@example.com", PASSWORD),
        ] {
            let answer = log_in(&app.visitor(), name, password).await;
            answer.assert_status(422).assert_contains("Wrong username or").assert_no_header("set-cookie");
        }
        app.visitor().post_body("/login", None, b"").await.assert_status(422);
    }

    #[tokio::test]
    async fn people_log_in_by_a_confirmed_address_and_not_by_an_unconfirmed_one() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.execute("insert into addresses (user_id, email) select id, 'ada@example.com' from users").await;
        log_in(&app.visitor(), "ada@example.com", PASSWORD).await.assert_status(422);
        app.execute("update addresses set confirmed_at = 1").await;
        let browser = app.visitor();
        log_in(&browser, "Ada@Example.com", PASSWORD).await.assert_redirect("/");
        browser.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_disabled_user_gets_the_same_answer_as_everybody() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.execute("update users set disabled_at = 1").await;
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(422).assert_contains("Wrong username or");
    }

    #[tokio::test]
    async fn after_five_wrong_passwords_the_next_waits_for_known_and_unknown_names_alike() {
        let app = TestApp::new().await;
        app.person("known").await;
        for name in ["known", "nobod"] {
            for _ in 0..5 {
                log_in(&app.visitor(), name, "not the password").await.assert_status(422);
            }
        }
        let known = log_in(&app.visitor(), "known", PASSWORD).await;
        let unknown = log_in(&app.visitor(), "NOBOD", "not the password").await;
        known.assert_status(429).assert_header("retry-after", "30").assert_no_header("set-cookie");
        known.assert_contains("You can try again in a minute.");
        assert_eq!((known.status, known.text()), (unknown.status, unknown.text()));
        assert_eq!(app.count("select count(*) from events where kind = 'log_in_failed'").await, 10);
        assert_eq!(app.count("select count(*) from events where kind = 'throttled'").await, 2);
        // Half a minute later.
        app.execute("update limits set free_at = free_at - 30000").await;
        log_in(&app.visitor(), "known", PASSWORD).await.assert_redirect("/");
        for _ in 0..5 {
            log_in(&app.visitor(), "known", "not the password").await.assert_status(422);
        }
    }

    #[tokio::test]
    async fn every_wrong_password_costs_a_known_and_an_unknown_name_the_same_statements() {
        let app = TestApp::new().await;
        app.person("known").await;
        for attempt in 1..=6 {
            let cost = async |name| {
                let before = app.statements();
                log_in(&app.visitor(), name, "not the password").await;
                app.statements() - before
            };
            assert_eq!(cost("known").await, cost("unknown").await, "attempt {attempt}");
        }
    }

    /// What another replica may do, of which this process knows nothing.
    async fn delete_all_limits(app: &TestApp) {
        let delete = async |db: &mut Connection| Ok(sqlx::query("delete from limits").execute(db).await?);
        app.app.db.write(delete).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_log_in_is_refused_again_without_a_statement_for_at_most_two_seconds() {
        let app = TestApp::new().await;
        app.person("ada").await;
        for name in ["ada", "nobody"] {
            for _ in 0..5 {
                log_in(&app.visitor(), name, "not the password").await.assert_status(422);
            }
            let first = log_in(&app.visitor(), name, PASSWORD).await;
            first.assert_status(429).assert_header("retry-after", "30");
            let before = app.statements();
            let again = log_in(&app.visitor(), name, PASSWORD).await;
            assert_eq!((again.status, again.text()), (first.status, first.text()));
            assert_eq!(app.statements(), before, "{name}");
        }
        delete_all_limits(&app).await;
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429);
        sleep(Duration::from_millis(2100)).await;
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn a_refused_network_is_refused_without_a_statement_until_it_may_try_again_and_a_known_browser_gets_in() {
        let settings = [("PASSWORD_ATTEMPTS_PER_ADDRESS", "1/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        let home = app.person("ada").await.without_cookie("session_token");
        log_in(&app.visitor(), "eve", "not the password").await.assert_status(422);
        log_in(&app.visitor(), "eve", "not the password").await.assert_status(429);
        delete_all_limits(&app).await;
        sleep(Duration::from_millis(2100)).await;
        let before = app.statements();
        for name in ["eve", "ada"] {
            log_in(&app.visitor(), name, PASSWORD).await.assert_status(429);
        }
        assert_eq!(app.statements(), before);
        let unknown = app.visitor().with_cookie("device", &Token::random().unwrap().text());
        log_in(&unknown, "ada", PASSWORD).await.assert_status(429);
        log_in(&home, "ada", PASSWORD).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn a_right_password_on_a_known_browser_does_not_lift_what_strangers_are_refused() {
        let app = TestApp::new().await;
        let home = app.person("ada").await.without_cookie("session_token");
        for _ in 0..5 {
            log_in(&app.visitor(), "ada", "not the password").await.assert_status(422);
        }
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429);
        log_in(&home, "ada", PASSWORD).await.assert_redirect("/");
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429);
    }

    const CONFIRM_ADDRESSES: &str = "insert into addresses (user_id, email, confirmed_at) \
         select id, username || '@example.com', 1 from users";

    #[tokio::test]
    async fn guesses_at_one_name_of_an_account_do_not_show_at_its_other() {
        for [guessed, other] in [["ada", "ada@example.com"], ["ada@example.com", "ada"]] {
            let app = TestApp::new().await;
            app.person("ada").await;
            app.execute(CONFIRM_ADDRESSES).await;
            let answer_to = async |name, password| {
                let before = app.statements();
                let mut answer = log_in(&app.visitor(), name, password).await;
                // It has the time; the statements are counted here.
                answer.headers.remove("server-timing");
                (answer.status, answer.headers.clone(), answer.text(), app.statements() - before)
            };
            let usual = answer_to(other, "not the password").await;
            log_in(&app.visitor(), other, PASSWORD).await.assert_redirect("/");

            for _ in 0..5 {
                log_in(&app.visitor(), guessed, "not the password").await.assert_status(422);
            }
            log_in(&app.visitor(), guessed, PASSWORD).await.assert_status(429);
            assert_eq!(answer_to(other, "not the password").await, usual);
            assert_eq!(answer_to(other, PASSWORD).await, usual, "after guesses at {guessed}");
            // Half a minute later.
            app.execute("update limits set free_at = free_at - 30000").await;
            log_in(&app.visitor(), other, PASSWORD).await.assert_redirect("/");
            // Nothing is left of what was counted, neither for this name nor for the account.
            for _ in 0..4 {
                log_in(&app.visitor(), other, "not the password").await.assert_status(422);
            }
            log_in(&app.visitor(), other, PASSWORD).await.assert_redirect("/");
        }
    }

    #[tokio::test]
    async fn an_address_has_no_more_guesses_for_being_written_in_other_ways() {
        for has_it in [true, false] {
            let app = TestApp::new().await;
            app.person("ada").await;
            if has_it {
                app.confirm_address("ada", "ada@xn--mnchen-3ya.de").await;
                for own in ["ada@münchen.de", "Ada@XN--MNCHEN-3YA.DE"] {
                    log_in(&app.visitor(), own, PASSWORD).await.assert_redirect("/");
                }
            }
            for guessed in
                ["ada@münchen.de", "ADA@MÜNCHEN.DE", "ada@xn--mnchen-3ya.de", "ada@mün\u{ad}chen.de", "ada@münchen。de"]
            {
                log_in(&app.visitor(), guessed, "not the password").await.assert_status(422).assert_contains(guessed);
            }
            for guessed in ["ada@münchen.de", "ada@xn--mnchen-3ya.de", "ada@mu\u{308}nchen.de "] {
                log_in(&app.visitor(), guessed, "not the password").await.assert_status(429);
            }
        }
    }

    #[tokio::test]
    async fn an_address_gets_the_same_answers_whether_or_not_anybody_has_it() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.person("bob").await;
        app.execute(CONFIRM_ADDRESSES).await;
        for _ in 0..5 {
            log_in(&app.visitor(), "ada", "not the password").await.assert_status(422);
        }
        let mut statuses = Vec::new();
        for _ in 0..12 {
            let mut answers = Vec::new();
            for name in ["ada", "bob", "eve"] {
                let answer = log_in(&app.visitor(), &format!("{name}@example.com"), "not the password").await;
                answers.push((answer.status, answer.text().replace(name, "NAME")));
            }
            assert_eq!(answers[0], answers[2]);
            assert_eq!(answers[1], answers[2]);
            statuses.push(answers[0].0);
            // Some time later.
            app.execute("update limits set free_at = free_at - 20000").await;
        }
        assert_eq!(statuses, [422, 422, 422, 422, 422, 429, 422, 429, 429, 422, 429, 429]);
    }

    #[tokio::test]
    async fn failures_at_both_names_of_an_account_disable_its_password_together() {
        let settings = [("PASSWORD_DISABLE_AFTER", "3"), ("PASSWORD_FREE_ATTEMPTS", "50")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        app.execute(CONFIRM_ADDRESSES).await;
        for name in ["ada", "ada@example.com", "ada"] {
            log_in(&app.visitor(), name, "not the password").await.assert_status(422);
        }
        for name in ["ada", "ada@example.com"] {
            log_in(&app.visitor(), name, PASSWORD).await.assert_status(422);
        }
    }

    #[tokio::test]
    async fn an_owner_can_log_in_again_when_the_rows_of_their_limits_are_deleted() {
        let app = TestApp::new().await;
        // An attacker has been guessing before anybody had this name.
        log_in(&app.visitor(), "ada", "not the password").await.assert_status(422);
        app.person("ada").await;
        for _ in 0..4 {
            log_in(&app.visitor(), "ada", "not the password").await.assert_status(422);
        }
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429);
        app.execute("delete from limits where user_id = (select id from users where username = 'ada')").await;
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn a_browser_that_logged_in_before_is_not_locked_out_by_guesses() {
        let app = TestApp::new().await;
        let home = app.person("ada").await;
        let device = home.cookie("device").unwrap();
        let home = home.without_cookie("session_token");
        for _ in 0..6 {
            log_in(&app.visitor(), "ada", "not the password").await;
        }
        let answer = log_in(&home, "ada", PASSWORD).await;
        answer.assert_redirect("/").assert_cookie("device=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000");
        assert_ne!(home.cookie("device"), Some(device.clone()));
        // The strangers' count is as it was, and the cookie that was renewed is not valid any more.
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429);
        log_in(&app.visitor().with_cookie("device", &device), "ada", PASSWORD).await.assert_status(429);
        // The device has a budget of its own, for its own user.
        app.person("bob").await;
        for _ in 0..5 {
            log_in(&home, "ada", "not the password").await.assert_status(422);
            log_in(&home, "bob", "not the password").await.assert_status(422);
        }
        log_in(&home, "ada", PASSWORD).await.assert_status(429);
        log_in(&app.visitor(), "bob", PASSWORD).await.assert_status(429);
    }

    #[tokio::test]
    async fn after_too_many_failures_the_password_works_only_in_browsers_that_used_it_before() {
        let settings = [("PASSWORD_DISABLE_AFTER", "3"), ("PASSWORD_FREE_ATTEMPTS", "50")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        let home = app.person("ada").await;
        for _ in 0..3 {
            log_in(&app.visitor(), "ada", "not the password").await.assert_status(422);
        }
        let wrong = log_in(&app.visitor(), "ada", "not the password").await;
        let right = log_in(&app.visitor(), "ada", PASSWORD).await;
        assert_eq!((right.status, right.text()), (wrong.status, wrong.text()));
        log_in(&home, "ada", PASSWORD).await.assert_redirect("/");
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(422);
    }

    #[tokio::test]
    async fn passwords_tried_from_one_address_are_limited_whatever_the_names() {
        let settings = [("PASSWORD_ATTEMPTS_PER_ADDRESS", "3/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        for _ in 0..5 {
            log_in(&app.visitor(), "ada", PASSWORD).await.assert_redirect("/");
        }
        for name in ["bob", "eve", "mallory"] {
            log_in(&app.visitor(), name, "not the password").await.assert_status(422);
        }
        log_in(&app.visitor(), "ada", PASSWORD).await.assert_status(429).assert_header("retry-after", "1200");
    }

    #[tokio::test]
    async fn logging_out_ends_the_session_and_needs_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let thief = ada.copy();
        let answer = ada.post("/logout", &[]).await;
        answer.assert_redirect("/").assert_headers("clear-site-data", &["\"storage\"", "\"cache\""]);
        ada.assert_is("nobody").await;
        thief.assert_is("nobody").await;
        ada.get(PATH).await.assert_contains("You are logged out.");
        ada.post("/logout", &[]).await.assert_redirect("/");
        ada.get("/logout").await.assert_status(405);
    }
}
