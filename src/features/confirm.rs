//! Authenticate again: pages that need a recent log-in lead here, and this page leads back to them.

use super::feature::Feature;
use crate::accounts::{Session, User};
use crate::base::{Env, FieldErrors, Result};
use crate::web::{
    Access, App, Credentials, FactorCounts, Form, LocalPath, Login, NextQuery, Page, Query, Redirect, Routes, Template,
    files, redirect,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

const PATH: &str = "/confirm";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, show)
        .post(PATH, Access::User, create)
        .bounded_by("each confirmation costs a hash or a code that works once");
    Ok(Feature { routes, confirm_path: Some(PATH), ..Feature::named("confirm") })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfirmForm {
    /// Where to go afterwards.
    next: LocalPath,
    #[serde(flatten)]
    credentials: Credentials,
}

#[derive(Serialize)]
struct ConfirmPage {
    next: LocalPath,
    /// Whether the password is not enough.
    second: bool,
    factors: FactorCounts,
    errors: FieldErrors,
}

impl ConfirmPage {
    async fn new(app: &App, user: &User, next: LocalPath, second: bool, errors: FieldErrors) -> Result<ConfirmPage> {
        let factors = app.db.read(async |db| FactorCounts::of_user(app, db, &user.id).await).await?;
        Ok(ConfirmPage { next, second, factors, errors })
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
    page.render(&ConfirmPage::new(&app, &user, next, second.is_some(), FieldErrors::default()).await?).await
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
            page.render_errors(&ConfirmPage::new(&app, &session.user, form.next, false, errors).await?).await
        }
    }
}

async fn confirm(app: &App, session: &Session, login: &Login, form: &ConfirmForm) -> Result<Redirect> {
    let reauthenticated = login.reauthenticate(session, &form.credentials).await?;
    let confirmed = app.db.write(async |db| {
        reauthenticated.recheck(db).await?;
        login.confirm(db, session, reauthenticated.level()).await
    });
    Ok(redirect(&form.next).cookie(confirmed.await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor, check};
    use std::collections::BTreeMap;

    async fn page() -> &'static str {
        "a page"
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/safe", Access::Recent, page);
        TestApp::with(routes.post("/safe/open", Access::Recent, page)).await
    }

    async fn confirm(visitor: &Visitor, password: &str) -> Answer {
        visitor.post("/confirm", &[("password", password), ("next", "/safe?a=b")]).await
    }

    const LONG_AGO: &str = "update sessions set confirmed_at = confirmed_at - 600";

    #[test]
    fn its_page_renders() {
        let page = |next: &str, password, errors| ConfirmPage {
            next: LocalPath::from(next.to_string()),
            second: password == 0,
            factors: FactorCounts(BTreeMap::from([("password", password), ("code", 1), ("passkey", 1)])),
            errors,
        };
        check(&[
            page("/", 1, FieldErrors::default()),
            page("/a?b", 1, FieldErrors::of("password", "No.")),
            page("/a?b", 0, FieldErrors::of("code", "No.")),
        ]);
    }

    #[tokio::test]
    async fn a_recent_log_in_is_enough_and_an_older_one_has_to_be_confirmed_first() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.get("/safe").await.assert_status(200);
        app.execute(LONG_AGO).await;
        ada.get("/safe?a=b").await.assert_redirect("/confirm?next=%2Fsafe%3Fa%3Db");
        let here = [("referer", "http://localhost/settings")];
        ada.post_with("/safe/open", &[], &here).await.assert_redirect("/confirm?next=%2Fsettings");
        ada.post("/safe/open", &[]).await.assert_redirect("/confirm?next=%2Faccount");
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
        confirm(&thief, PASSWORD).await.assert_status(429).assert_header("retry-after", "30");
        thief.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        // The browser that logged in is not kept waiting by what others do.
        confirm(&ada, PASSWORD).await.assert_redirect("/safe?a=b");
        app.visitor().post("/confirm", &[("password", PASSWORD)]).await.assert_redirect("/login?next=%2F");
    }
}
