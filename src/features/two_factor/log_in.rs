//! The second step of a log-in.

use super::{CodeForm, code, mistake};
use crate::access::see_other;
use crate::app::App;
use crate::database::Connection;
use crate::error::Result;
use crate::form::{Errors, Form};
use crate::half_way::HalfWay;
use crate::page::{Flash, Page, Template, templates};
use crate::session::{Door, Entry};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::Serialize;

pub const OVER: Flash =
    Flash { name: "log_in_over", words: "That took too long, or too many tries. Please log in once more." };

#[derive(Serialize)]
struct LogInPage {
    username: String,
    errors: Errors,
}

impl Template for LogInPage {
    const FILE: &'static str = templates::TWO_FACTOR_LOG_IN;
}

pub async fn show(half_way: HalfWay, page: Page) -> Result<Response> {
    page.show(&LogInPage { username: half_way.user.username, errors: Errors::default() }).await
}

/// What a code makes of a log-in in progress.
enum Progress {
    Completed(Entry),
    GoesOn,
    Over,
}

pub async fn create(
    State(app): State<App>,
    half_way: HalfWay,
    door: Door,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    match app.db.write(async |db| go_on(db, &app, &half_way, &door, &form.code).await).await? {
        Progress::Completed(entry) => Ok(entry.into_response()),
        Progress::GoesOn => {
            let has_letters = form.code.contains(char::is_alphabetic);
            let errors = mistake(if has_letters { "recovery_code" } else { "code" });
            page.refuse(&LogInPage { username: half_way.user.username, errors }).await
        }
        Progress::Over => {
            Ok((CookieJar::new().add(OVER.cookie(&app.config)), see_other("/login")).into_response())
        }
    }
}

async fn go_on(
    db: &mut Connection,
    app: &App,
    half_way: &HalfWay,
    door: &Door,
    code: &str,
) -> Result<Progress> {
    if !half_way.hold(db).await? {
        return Ok(Progress::Over);
    }
    if code::judge(db, app, &door.client, &half_way.user.id, code).await? {
        return Ok(door.complete(db, half_way).await?.map_or(Progress::Over, Progress::Completed));
    }
    let goes_on = half_way.note_wrong(db, app.config.two_factor_attempts).await?;
    Ok(if goes_on { Progress::GoesOn } else { Progress::Over })
}

#[cfg(test)]
mod tests {
    use super::super::LOG_IN;
    use super::super::tests::{half_way, later, send, turn_on};
    use super::*;
    use crate::factor::Proven;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_page_renders() {
        let page = |errors| LogInPage { username: "ada".into(), errors };
        check(&[page(Errors::default()), page(mistake("code")), page(mistake("recovery_code"))]);
    }

    #[tokio::test]
    async fn a_code_completes_the_log_in_and_leads_where_one_wanted_to_go() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        let browser = half_way(&app, "ada").await;
        browser.get(LOG_IN).await.assert_status(200).assert_contains("log in as <strong>ada</strong>");
        let code = phone.code();
        let answer = send(&browser, LOG_IN, &format!("{} {}", &code[..3], &code[3..])).await;
        answer.assert_redirect("/private");
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        browser.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from sessions where factors = 2 and stay = 1").await, 1);
    }

    #[tokio::test]
    async fn a_recovery_code_completes_it_too() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let (browser, thief) = (half_way(&app, "ada").await, half_way(&app, "ada").await);
        send(&browser, LOG_IN, &codes[0]).await.assert_redirect("/private");
        browser.assert_is("ada").await;
        let again = send(&thief, LOG_IN, &codes[0]).await;
        again.assert_status(422).assert_contains("id=\"recovery-code-error\"").assert_lacks(&codes[0]);
        thief.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn half_way_one_is_nobody() {
        let app = TestApp::new().await;
        let (phone, _) = turn_on(&app.person("ada").await).await;
        let browser = half_way(&app, "ada").await;
        browser.assert_is("nobody").await;
        browser.get("/private").await.assert_redirect("/login?next=%2Fprivate");
        let wrong = send(&browser, LOG_IN, &phone.wrong()).await;
        wrong.assert_status(422).assert_contains("id=\"code-error\"").assert_no_header("set-cookie");
        browser.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from events where kind = 'logged_in'").await, 1);
    }

    #[tokio::test]
    async fn nobody_is_asked_who_has_not_begun_to_log_in_or_took_too_long() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        let (late, stranger) = (half_way(&app, "ada").await, app.visitor());
        app.execute("update logins set expires_at = expires_at - 300").await;
        for browser in [late, stranger] {
            browser.get(LOG_IN).await.assert_redirect("/login");
            for code in [&phone.code(), &codes[0]] {
                send(&browser, LOG_IN, code).await.assert_redirect("/login").assert_no_header("set-cookie");
            }
        }
    }

    #[tokio::test]
    async fn whoever_has_no_app_is_not_asked_for_a_code() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.post("/account/two-factor/start", &[]).await.assert_status(200);
        let (id, door) = (app.user("ada").await, app.door().await);
        let log_in =
            async |db: &mut Connection| door.log_in(db, &id, false, Proven::OneFactor, "/private").await;
        assert_eq!(app.app.db.write(log_in).await.unwrap().unwrap().to, "/private");
    }

    #[tokio::test]
    async fn five_wrong_codes_end_the_log_in_and_ten_keep_every_code_waiting() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        later(&app).await;
        for _ in 0..2 {
            let browser = half_way(&app, "ada").await;
            for _ in 0..4 {
                send(&browser, LOG_IN, &phone.wrong()).await.assert_status(422);
            }
            let fifth = send(&browser, LOG_IN, &phone.wrong()).await;
            fifth.assert_redirect("/login");
            fifth.assert_cookie("flash=log_in_over; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
            send(&browser, LOG_IN, &codes[0]).await.assert_redirect("/login");
            browser.assert_is("nobody").await;
        }
        let browser = half_way(&app, "ada").await;
        for code in [&phone.code(), &codes[0], &phone.wrong()] {
            let answer = send(&browser, LOG_IN, code).await;
            answer.assert_status(429).assert_header("retry-after", "900").assert_no_header("set-cookie");
        }
        app.execute("update limits set free_at = free_at - 900000").await;
        send(&browser, LOG_IN, &phone.code()).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn a_log_in_that_ended_while_the_code_came_begins_no_session() {
        let app = TestApp::new().await;
        let (_, codes) = turn_on(&app.person("ada").await).await;
        let browser = half_way(&app, "ada").await;
        let answer = app.ended_meanwhile("ada", send(&browser, LOG_IN, &codes[0])).await;
        answer.assert_redirect("/login");
        browser.assert_is("nobody").await;
    }
}
