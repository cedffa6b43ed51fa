//! The second step of a log-in.

use super::code::{self, CodeForm, Refusal, TypedCode};
use super::settings::TwoFactorSettings;
use crate::accounts::PendingLogin;
use crate::base::{FieldErrors, Result};
use crate::db::Connection;
use crate::web::{App, FactorCounts, Flash, Form, Login, Page, Redirect, Template, files, redirect};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

pub const PATH: &str = "/login/two-factor";

pub const OVER: Flash = Flash {
    name: "log_in_over",
    words: "That took too long, or there were too many wrong codes. Please log in again.",
};

#[derive(Serialize)]
struct LogInPage {
    username: String,
    factors: FactorCounts,
    errors: FieldErrors,
}

impl LogInPage {
    async fn new(app: &App, PendingLogin { user, .. }: PendingLogin, errors: FieldErrors) -> Result<LogInPage> {
        let factors = app.db.read(async |db| FactorCounts::of_user(app, db, &user.id).await).await?;
        Ok(LogInPage { username: user.username, factors, errors })
    }
}

impl Template for LogInPage {
    const FILE: &'static str = files::TWO_FACTOR_LOG_IN;
}

pub async fn show(State(app): State<App>, pending: PendingLogin, page: Page) -> Result<Response> {
    page.render(&LogInPage::new(&app, pending, FieldErrors::default()).await?).await
}

pub async fn create(
    State(app): State<App>,
    pending: PendingLogin,
    login: Login,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    let has_letters = form.code.contains(char::is_alphabetic);
    let field = if has_letters { "recovery_code" } else { "code" };
    let errors = match TypedCode::parse(&form.code) {
        Ok(code) => match app.db.write(async |db| complete(db, &app, &pending, &login, &code).await).await? {
            Ok(redirect) => return Ok(redirect.into_response()),
            Err(refusal) => refusal.in_field(field),
        },
        Err(sentence) => FieldErrors::of(field, sentence),
    };
    page.render_errors(&LogInPage::new(&app, pending, errors).await?).await
}

/// A refusal while another code can be sent. It is no error of the transaction, because it was counted.
async fn complete(
    db: &mut Connection,
    app: &App,
    pending: &PendingLogin,
    login: &Login,
    code: &TypedCode,
) -> Result<Result<Redirect, Refusal>> {
    let over = redirect(app.login_path()).flash(OVER);
    if !pending.lock(db).await? {
        return Ok(Ok(over));
    }
    let Err(refusal) = code::verify(db, app, &login.client, &pending.user.id, code).await? else {
        return Ok(Ok(login.complete(db, pending).await?.unwrap_or(over)));
    };
    let goes_on =
        refusal == Refusal::Unreadable || pending.count_wrong(db, app.settings::<TwoFactorSettings>().attempts).await?;
    Ok(if goes_on { Err(refusal) } else { Ok(over) })
}

#[cfg(test)]
mod tests {
    use super::super::phone::{later, send, start_log_in, turn_on};
    use super::*;
    use crate::test::{PASSWORD, TestApp, check};
    use std::collections::BTreeMap;

    #[test]
    fn its_page_renders() {
        let page = |errors| {
            let factors = FactorCounts(BTreeMap::from([("passkey", 1)]));
            LogInPage { username: "ada".into(), factors, errors }
        };
        check(&[
            page(FieldErrors::default()),
            page(Refusal::Wrong.in_field("code")),
            page(Refusal::Wrong.in_field("recovery_code")),
        ]);
    }

    #[tokio::test]
    async fn a_code_completes_the_log_in_and_leads_where_one_wanted_to_go() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        let browser = start_log_in(&app, "ada").await;
        browser
            .get(PATH)
            .await
            .assert_status(200)
            .assert_contains("log in as <strong>ada</strong>")
            .assert_lacks("passkey");
        let code = phone.code();
        let answer = send(&browser, PATH, &format!("{} {}", &code[..3], &code[3..])).await;
        answer.assert_redirect("/private");
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        browser.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from sessions where factors = 2 and stay = 1").await, 1);
        let again = send(&start_log_in(&app, "ada").await, PATH, &code).await;
        again.assert_status(422).assert_contains("Wait for the next code.");
    }

    #[tokio::test]
    async fn what_cannot_be_a_code_is_a_mistake_that_counts_nowhere() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let browser = start_log_in(&app, "ada").await;
        for mistyped in ["", "12345", "1234567", "123.456", "swordfish", &codes[0][1..]].repeat(3) {
            let answer = send(&browser, PATH, mistyped).await;
            answer.assert_status(422).assert_contains("Enter the six digits").assert_lacks("swordfish");
        }
        assert_eq!(app.count("select count(*) from events where kind = 'wrong_code'").await, 0);
        assert_eq!(app.count("select count(*) from limits where count > 0").await, 0);
        send(&browser, PATH, &codes[0]).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn a_code_is_taken_from_every_keyboard_and_with_what_was_copied_along() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        let from = |zero: u32| {
            let digit = move |c: char| char::from_u32(zero + c.to_digit(10).unwrap()).unwrap();
            phone.code().chars().map(digit).collect::<String>()
        };
        let code = phone.code();
        for typed in [
            from(0x660),
            from(0x966),
            from(0xff10),
            format!("{}-{}", &code[..3], &code[3..]),
            format!("\u{200e}{}\u{a0}{}\u{200b}", &code[..3], &code[3..]),
        ] {
            later(&app).await;
            let browser = start_log_in(&app, "ada").await;
            send(&browser, PATH, &typed).await.assert_redirect("/private");
        }
        let browser = start_log_in(&app, "ada").await;
        let code = codes[0].to_uppercase().replace('-', " \u{2013} ");
        send(&browser, PATH, &code).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn a_recovery_code_completes_it_too() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let (browser, thief) = (start_log_in(&app, "ada").await, start_log_in(&app, "ada").await);
        send(&browser, PATH, &codes[0]).await.assert_redirect("/private");
        browser.assert_is("ada").await;
        let again = send(&thief, PATH, &codes[0]).await;
        again.assert_status(422).assert_contains("id=\"recovery-code-error\"").assert_lacks(&codes[0]);
        thief.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn during_a_pending_log_in_the_browser_is_nobody() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        let browser = start_log_in(&app, "ada").await;
        browser.assert_is("nobody").await;
        browser.get("/private").await.assert_redirect("/login?next=%2Fprivate");
        let wrong = send(&browser, PATH, &phone.wrong()).await;
        wrong.assert_status(422).assert_contains("id=\"code-error\"").assert_no_header("set-cookie");
        browser.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from events where kind = 'logged_in'").await, 1);
    }

    #[tokio::test]
    async fn nobody_is_asked_who_has_not_started_to_log_in_or_took_too_long() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        let (late, visitor) = (start_log_in(&app, "ada").await, app.visitor());
        app.execute("update tokens set expires_at = expires_at - 300").await;
        for browser in [late, visitor] {
            browser.get(PATH).await.assert_redirect("/login");
            for code in [&phone.code(), &codes[0]] {
                send(&browser, PATH, code).await.assert_redirect("/login").assert_no_header("set-cookie");
            }
        }
    }

    #[tokio::test]
    async fn a_user_without_an_app_is_not_asked_for_a_code() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.post("/account/two-factor/start", &[]).await.assert_status(303);
        let fields = [("username", "ada"), ("password", PASSWORD), ("next", "/private")];
        app.visitor().post("/test/log-in", &fields).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn five_wrong_codes_end_the_log_in_and_ten_keep_every_code_waiting() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        for _ in 0..2 {
            let browser = start_log_in(&app, "ada").await;
            for _ in 0..4 {
                send(&browser, PATH, &phone.wrong()).await.assert_status(422);
            }
            let fifth = send(&browser, PATH, &phone.wrong()).await;
            fifth.assert_redirect("/login");
            fifth.assert_cookie("flash=log_in_over; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
            send(&browser, PATH, &codes[0]).await.assert_redirect("/login");
            browser.assert_is("nobody").await;
        }
        let browser = start_log_in(&app, "ada").await;
        for code in [&phone.code(), &codes[0], &phone.wrong()] {
            let answer = send(&browser, PATH, code).await;
            answer.assert_status(429).assert_retry_after(900).assert_no_header("set-cookie");
        }
        app.execute("update limits set free_at = free_at - 900000").await;
        send(&browser, PATH, &phone.code()).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn a_log_in_that_ended_while_the_code_came_begins_no_session() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let browser = start_log_in(&app, "ada").await;
        let answer = app.ended_meanwhile("ada", send(&browser, PATH, &codes[0])).await;
        answer.assert_redirect("/login");
        browser.assert_is("nobody").await;
    }
}
