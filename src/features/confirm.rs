//! Authenticate again: pages that need a recent log-in lead here, and this page leads back to them.

use super::feature::Feature;
use crate::accounts::{Session, User};
use crate::base::{Env, FieldErrors, Result};
use crate::web::flash::TOO_LATE;
use crate::web::{
    Access, App, Credentials, Detour, FactorCounts, Form, Login, NextQuery, Page, Query, Redirect, Routes, Template,
    files,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

const PATH: &str = "/confirm";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, show)
        .post(PATH, Access::User, create)
        .once()
        .bounded_by("each confirmation costs a hash or a code that works once");
    Ok(Feature { routes, confirm_path: Some(PATH), ..Feature::named("confirm") })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfirmForm {
    #[serde(flatten)]
    detour: Detour,
    #[serde(flatten)]
    credentials: Credentials,
}

#[derive(Serialize)]
struct ConfirmPage {
    #[serde(flatten)]
    detour: Detour,
    /// Where to go without confirming.
    back: String,
    factors: FactorCounts,
    errors: FieldErrors,
}

impl ConfirmPage {
    async fn new(app: &App, user: &User, detour: Detour, errors: FieldErrors) -> Result<ConfirmPage> {
        let factors = app.db.read(async |db| FactorCounts::of_user(app, db, &user.id).await).await?;
        // Who confirms has been here.
        let is_here = app.find_page(detour.next.as_ref()).is_some_and(|next| next.split('?').next() == Some(PATH));
        let detour = if is_here { Detour { next: None, ..detour } } else { detour };
        let back = app.find_page(detour.next.as_ref()).filter(|next| app.features.map.opens_unconfirmed(next));
        let back = back.or(app.features.account_path).unwrap_or("/").into();
        Ok(ConfirmPage { detour, back, factors, errors })
    }
}

impl Template for ConfirmPage {
    const FILE: &'static str = files::CONFIRM_NEW;
}

async fn show(
    State(app): State<App>,
    user: User,
    page: Page,
    Query(NextQuery { next, second }): Query<NextQuery>,
) -> Result<Response> {
    let late = second.map(|_| "second").or(page.shows(TOO_LATE).then_some("yes"));
    let detour = Detour { next, late: late.map(String::from) };
    page.render(&ConfirmPage::new(&app, &user, detour, FieldErrors::default()).await?).await
}

async fn create(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(form): Form<ConfirmForm>,
) -> Result<Response> {
    match confirm(&app, &session, &login, &form).await {
        Ok(redirect) => Ok(redirect.into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&ConfirmPage::new(&app, &session.user, form.detour, errors).await?).await
        }
    }
}

async fn confirm(app: &App, session: &Session, login: &Login, form: &ConfirmForm) -> Result<Redirect> {
    let reauthenticated = login.reauthenticate(session, &form.credentials).await?;
    let confirmed = app.db.write(async |db| {
        reauthenticated.recheck(db).await?;
        login.confirm(db, session, reauthenticated.level(), &form.detour).await
    });
    confirmed.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor, check};
    use std::collections::BTreeMap;

    async fn page() -> &'static str {
        "a page"
    }

    /// A page with a form that needs a recent log-in.
    async fn settings(State(app): State<App>, user: User, page: Page) -> Result<Response> {
        page.render(&ConfirmPage::new(&app, &user, Detour::default(), FieldErrors::default()).await?).await
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/safe", Access::Recent, page).get("/settings", Access::User, settings);
        TestApp::with(routes.post("/safe/open", Access::Recent, page).post("/settings", Access::Recent, page)).await
    }

    async fn confirm(visitor: &Visitor, password: &str) -> Answer {
        visitor.post("/confirm", &[("password", password), ("next", "/safe?a=b")]).await
    }

    const SETTINGS: [(&str, &str); 1] = [("referer", "http://localhost/settings")];
    const LONG_AGO: &str = "update sessions set confirmed_at = confirmed_at - 600";

    #[test]
    fn its_page_renders() {
        let page = |next: Option<&str>, late: Option<&str>, password, errors| ConfirmPage {
            detour: Detour { next: next.map(|next| next.to_string().into()), late: late.map(String::from) },
            back: "/account".into(),
            factors: FactorCounts(BTreeMap::from([("password", password), ("code", 1), ("passkey", 1)])),
            errors,
        };
        check(&[
            page(None, None, 1, FieldErrors::default()),
            page(Some("/a?b"), Some("yes"), 1, FieldErrors::of("password", "No.")),
            page(Some("/a?b"), Some("second"), 1, FieldErrors::of("code", "No.")),
            page(Some("/a?b"), None, 0, FieldErrors::default()),
        ]);
    }

    #[tokio::test]
    async fn a_recent_log_in_is_enough_and_an_older_one_has_to_be_confirmed_first() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.get("/safe").await.assert_status(200);
        app.execute(LONG_AGO).await;
        ada.get("/safe?a=b").await.assert_redirect("/confirm?next=%2Fsafe%3Fa%3Db");
        ada.post_with("/safe/open", &[], &SETTINGS).await.assert_redirect("/confirm?next=%2Fsettings");
        ada.post("/safe/open", &[]).await.assert_redirect("/confirm?next=%2Faccount");
        // There is no page at /safe/open.
        let no_page = [("referer", "http://localhost/safe/open")];
        ada.post_with("/safe/open", &[], &no_page).await.assert_redirect("/confirm?next=%2Faccount");
        ada.assert_is("ada").await;
        app.visitor().get("/safe").await.assert_redirect("/login?next=%2Fsafe");
        app.visitor().get("/confirm").await.assert_redirect("/login?next=%2Fconfirm");
        ada.get("/confirm?next=%2Fsafe%3Fa%3Db").await.assert_contains("name=\"next\" value=\"/safe?a=b\"");
    }

    #[tokio::test]
    async fn the_password_leads_back_with_a_new_token_and_the_old_one_stops_working() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.execute(LONG_AGO).await;
        let before = ada.copy();
        let answer = confirm(&ada, PASSWORD).await;
        answer.assert_redirect("/safe?a=b").assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        ada.get("/safe").await.assert_status(200);
        before.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from sessions").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'confirmed'").await, 1);
    }

    #[tokio::test]
    async fn a_session_that_outlives_the_browser_still_does_afterwards() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set stay = 1").await;
        let answer = confirm(&ada, PASSWORD).await;
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
    }

    #[tokio::test]
    async fn without_the_password_nothing_is_confirmed_and_guesses_are_slowed_down() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.execute(LONG_AGO).await;
        let thief = app.visitor().with_cookie("session_token", &ada.cookie("session_token").unwrap());
        for wrong in ["", "not the password", "not it", "nor this", "nor that"] {
            let answer = confirm(&thief, wrong).await;
            answer.assert_status(422).assert_contains("This is not your password.").assert_no_header("set-cookie");
        }
        confirm(&thief, PASSWORD).await.assert_status(429).assert_retry_after(30);
        thief.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        // The browser that logged in is not kept waiting by what others do.
        confirm(&ada, PASSWORD).await.assert_redirect("/safe?a=b");
        app.visitor().post("/confirm", &[("password", PASSWORD)]).await.assert_redirect("/login?next=%2F");
    }
    #[tokio::test]
    async fn who_pressed_too_late_reads_that_nothing_was_done_and_presses_again() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.execute(LONG_AGO).await;
        let late = ada.post_with("/settings", &[], &SETTINGS).await;
        late.assert_redirect("/confirm?next=%2Fsettings");
        assert_eq!(late.headers.get_all("set-cookie").iter().count(), 1, "{late}");
        let page = ada.get(late.header("location")).await;
        page.assert_contains("Nothing has changed yet.").assert_contains("then press the button again");
        page.assert_contains("name=\"late\" value=\"yes\"");
        let fields = [("next", "/settings"), ("late", "yes")];
        let wrong = ada.post("/confirm", &[fields[0], fields[1], ("password", "not it")]).await;
        wrong.assert_status(422).assert_contains("name=\"late\" value=\"yes\"");
        let confirmed = ada.post("/confirm", &[fields[0], fields[1], ("password", PASSWORD)]).await;
        confirmed.assert_redirect("/settings");
        let back = ada.get("/settings").await;
        back.assert_contains("Confirmed. Nothing has changed yet: please press it once more.");
        ada.post_with("/settings", &[], &SETTINGS).await.assert_body("a page");
    }

    #[tokio::test]
    async fn who_confirms_by_choice_or_for_a_page_is_not_told_to_press_anything() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.execute(LONG_AGO).await;
        let detour = ada.get("/safe").await;
        detour.assert_redirect("/confirm?next=%2Fsafe").assert_no_header("set-cookie");
        let page = ada.get(detour.header("location")).await;
        page.assert_lacks("Nothing has changed").assert_lacks("press the button").assert_lacks("name=\"late\"");
        confirm(&ada, PASSWORD).await.assert_redirect("/safe?a=b");
        ada.get("/settings").await.assert_contains("Confirmed.").assert_lacks("press it once more");
    }

    #[tokio::test]
    async fn a_page_whose_form_needs_a_recent_log_in_says_so_when_it_is_not_any_more() {
        let app = app().await;
        let ada = app.person("ada").await;
        let banner = "href=\"/confirm?next=%2Fsettings%3Fa%3Db\"";
        ada.get("/settings?a=b").await.assert_status(200).assert_lacks(banner);
        app.execute(LONG_AGO).await;
        let before = app.statements();
        ada.get("/settings?a=b").await.assert_status(200).assert_contains(banner);
        // One for the session, and those of the page itself.
        let with_banner = app.statements() - before;
        confirm(&ada, PASSWORD).await;
        let before = app.statements();
        ada.get("/settings?a=b").await.assert_status(200).assert_lacks(banner);
        assert_eq!(app.statements() - before, with_banner);
        app.execute(LONG_AGO).await;
        ada.get("/").await.assert_lacks("/confirm?next=");
    }

    #[tokio::test]
    async fn not_now_leads_back_to_a_page_that_opens_without_confirming() {
        let app = app().await;
        let ada = app.person("ada").await;
        let account = app.app.features.account_path.unwrap_or("/");
        let home = if app.app.features.map.has("/") { "/" } else { account };
        for (next, back) in [
            ("%2Fsettings%3Fa%3Db", "/settings?a=b"),
            ("%2F", home),
            ("%2Fsafe", account),
            ("%2Fsafe%2Fopen", account),
            ("%2F%2Fevil.example", home),
            ("", account),
        ] {
            let page = ada.get(&format!("/confirm?next={next}")).await;
            page.assert_contains(&format!("<a href=\"{back}\">Not now</a>"));
        }
    }

    #[tokio::test]
    async fn the_confirmation_leads_to_pages_only() {
        let app = app().await;
        let ada = app.person("ada").await;
        for next in ["/safe/open", "/nowhere", "//evil.example"] {
            ada.post("/confirm", &[("password", PASSWORD), ("next", next)]).await.assert_redirect("/");
        }
    }
}
