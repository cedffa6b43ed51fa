//! Delete one's own account: asks the password, and everything that belongs to the account goes with it.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::factor::{self, Sent};
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::page::{Flash, Page, Template, templates};
use crate::session::Door;
use crate::user;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::Serialize;
use std::collections::BTreeMap;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/delete", Access::User, show).post("/delete", Access::User, destroy);
    Ok(Feature { routes, flashes: &[DELETED], ..Feature::named("delete_account") })
}

const DELETED: Flash = Flash { name: "deleted", words: "Your account and everything in it is gone." };

#[derive(Serialize)]
struct DeletePage {
    /// How many of each kind the user has.
    factors: BTreeMap<&'static str, i64>,
    errors: Errors,
}

impl DeletePage {
    async fn new(app: &App, user: &User, errors: Errors) -> Result<DeletePage> {
        let factors = app.db.read(async |db| factor::held(app, db, &user.id).await).await?;
        Ok(DeletePage { factors, errors })
    }
}

impl Template for DeletePage {
    const FILE: &'static str = templates::DELETE_ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.show(&DeletePage::new(&app, &user, Errors::default()).await?).await
}

async fn destroy(
    State(app): State<App>,
    user: User,
    door: Door,
    page: Page,
    Form(sent): Form<Sent>,
) -> Result<Response> {
    let shown = match factor::check(&app, &door, &user, &sent).await? {
        Ok(shown) => shown,
        Err((field, sentence)) => {
            let errors = Errors::from((field, sentence + " Nothing was deleted."));
            return page.refuse(&DeletePage::new(&app, &user, errors).await?).await;
        }
    };
    let rest = app.config.name_rest;
    let deleted = app.db.write(async |db| {
        if !shown.redeem(db).await? {
            return Err(Error::NOT_FOUND);
        }
        user::delete(db, &user.id, rest, &door.client).await
    });
    deleted.await?;
    Ok((door.farewell(), CookieJar::new().add(DELETED.cookie(&app.config)), see_other("/")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::{PASSWORD, TestApp};

    #[test]
    fn its_page_renders() {
        let factors = |password| BTreeMap::from([("password", password), ("code", 1), ("passkey", 1)]);
        check(&[
            DeletePage { factors: factors(1), errors: Errors::default() },
            DeletePage { factors: factors(1), errors: Errors::from(("password", "No.".to_string())) },
            DeletePage { factors: factors(0), errors: Errors::from(("code", "No.".to_string())) },
        ]);
    }

    #[tokio::test]
    async fn everything_goes_with_the_account_and_its_history_forgets_the_person() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let elsewhere = ada.copy();
        let answer = ada.post("/delete", &[("password", PASSWORD)]).await;
        answer
            .assert_redirect("/")
            .assert_cookie("session_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        elsewhere.assert_is("nobody").await;
        bob.assert_is("bob").await;
        for sql in
            ["select count(*) from users", "select count(*) from passwords", "select count(*) from sessions"]
        {
            assert_eq!(app.count(sql).await, 1, "{sql}");
        }
        assert_eq!(app.count("select count(*) from events where kind = 'deleted'").await, 1);
        let known =
            "select count(distinct user_id) from events where address is not null or device is not null";
        assert_eq!(app.count(known).await, 1);
    }

    #[tokio::test]
    async fn the_name_rests_before_anybody_can_have_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.post("/delete", &[("password", PASSWORD)]).await.assert_redirect("/");
        let name = user::Username::parse("ada").unwrap();
        let client = app.door().await.client;
        let make =
            async || app.app.db.write(async |db| user::create(db, &name, &client).await).await.unwrap();
        assert_eq!(make().await, None);
        assert_eq!(app.count("select count(*) from users").await, 0);
        app.execute("update limits set free_at = free_at - 7776000000").await;
        assert!(make().await.is_some());
    }

    #[tokio::test]
    async fn guesses_are_slowed_down() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            ada.post("/delete", &[("password", "not the password")]).await.assert_status(422);
        }
        ada.post("/delete", &[("password", PASSWORD)]).await.assert_status(429);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn without_the_password_nothing_goes() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for wrong in ["", "not the password"] {
            let answer = ada.post("/delete", &[("password", wrong)]).await;
            answer
                .assert_status(422)
                .assert_contains("This is not your password.")
                .assert_no_header("set-cookie");
        }
        app.visitor().post("/delete", &[("password", PASSWORD)]).await.assert_redirect("/login?next=%2F");
        ada.get("/delete").await.assert_status(200);
        ada.assert_is("ada").await;
    }
}
