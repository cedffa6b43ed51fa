//! Prove it is you again: what asks for a recent log-in leads here and is led back to.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::{self, Sent};
use crate::features::Feature;
use crate::form::{Errors, Form, query_parameter};
use crate::guard::LocalPath;
use crate::page::{Page, Template, templates};
use crate::session::Door;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/confirm", Access::User, show).post("/confirm", Access::User, create);
    Ok(Feature { routes, ..Feature::named("confirm") })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfirmForm {
    /// Where to go afterwards.
    next: LocalPath,
    #[serde(flatten)]
    sent: Sent,
}

#[derive(Serialize)]
struct ConfirmPage {
    next: LocalPath,
    /// Whether the password is not enough.
    second: bool,
    /// How many of each kind the user has.
    factors: BTreeMap<&'static str, i64>,
    errors: Errors,
}

impl ConfirmPage {
    async fn new(
        app: &App,
        user: &User,
        next: LocalPath,
        second: bool,
        errors: Errors,
    ) -> Result<ConfirmPage> {
        let factors = app.db.read(async |db| factor::held(app, db, &user.id).await).await?;
        Ok(ConfirmPage { next, second, factors, errors })
    }
}

impl Template for ConfirmPage {
    const FILE: &'static str = templates::CONFIRM_NEW;
}

async fn show(State(app): State<App>, user: User, page: Page, RawQuery(query): RawQuery) -> Result<Response> {
    let next = LocalPath::from(query_parameter(query.as_deref(), "next"));
    let second = query_parameter(query.as_deref(), "second").is_some();
    page.show(&ConfirmPage::new(&app, &user, next, second, Errors::default()).await?).await
}

async fn create(
    State(app): State<App>,
    user: User,
    door: Door,
    page: Page,
    Form(form): Form<ConfirmForm>,
) -> Result<Response> {
    let shown = match factor::check(&app, &door, &user, &form.sent).await? {
        Ok(shown) => shown,
        Err(mistake) => {
            let errors = Errors::from(mistake);
            return page.refuse(&ConfirmPage::new(&app, &user, form.next, false, errors).await?).await;
        }
    };
    let confirmed = app.db.write(async |db| {
        if !shown.redeem(db).await? {
            return Err(Error::NOT_FOUND);
        }
        event::record(db, &*user.id, Event::Confirmed, &door.client).await?;
        door.renew(db, shown.proven()).await
    });
    Ok((confirmed.await?, see_other(&form.next)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor};

    async fn guarded() -> &'static str {
        "in"
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/safe", Access::Recent, guarded);
        TestApp::with(routes.post("/safe/open", Access::Recent, guarded)).await
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
            factors: BTreeMap::from([("password", password), ("code", 1), ("passkey", 1)]),
            errors,
        };
        check(&[
            page("/", 1, Errors::default()),
            page("/a?b", 1, Errors::from(("password", "No.".to_string()))),
            page("/a?b", 0, Errors::from(("code", "No.".to_string()))),
        ]);
    }

    #[tokio::test]
    async fn a_fresh_log_in_is_let_in_and_an_older_one_is_asked_first() {
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
    async fn the_password_leads_back_under_a_new_token_and_the_old_one_is_dead() {
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
    async fn a_session_that_outlives_the_browser_goes_on_doing_so() {
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
            answer
                .assert_status(422)
                .assert_contains("This is not your password.")
                .assert_no_header("set-cookie");
        }
        confirm(&thief, PASSWORD).await.assert_status(429).assert_header("retry-after", "30");
        thief.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        // The browser that logged in is not kept waiting by what others do.
        confirm(&ada, PASSWORD).await.assert_redirect("/safe?a=b");
        app.visitor().post("/confirm", &[("password", PASSWORD)]).await.assert_redirect("/login?next=%2F");
    }
}
