//! Users delete their own account: they authenticate again, and everything that belongs to the account is deleted with it.

use super::feature::Feature;
use crate::accounts::{Session, User, permission, user};
use crate::base::{Env, FieldErrors, Result};
use crate::db::Connection;
use crate::web::{
    Access, AccountGroup, AccountRow, App, Credentials, FactorCounts, Flash, Form, Login, Page, Routes, RowState,
    Template, files, redirect,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/delete", Access::User, show).post("/delete", Access::User, destroy);
    Ok(Feature { routes, flashes: &[DELETED], account_row: Some(ROW), ..Feature::named("delete_account") })
}

const ROW: AccountRow =
    AccountRow::new(AccountGroup::Data, 2, "Delete account", "/delete", |_, _| RowState::fixed("Permanent", "Delete"))
        .dangerous();

const DELETED: Flash = Flash { name: "deleted", words: "Your account is deleted." };

#[derive(Serialize)]
struct DeletePage {
    factors: FactorCounts,
    /// What will be gone, such as "4 notes".
    owned: Vec<String>,
    errors: FieldErrors,
}

impl DeletePage {
    async fn new(app: &App, user: &User, errors: FieldErrors) -> Result<DeletePage> {
        let select = async |db: &mut Connection| {
            let factors = FactorCounts::of_user(app, db, &user.id).await?;
            Ok(DeletePage { factors, owned: app.owned_by(db, &user.id).await?, errors })
        };
        app.db.read(select).await
    }
}

impl Template for DeletePage {
    const FILE: &'static str = files::DELETE_ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.render(&DeletePage::new(&app, &user, FieldErrors::default()).await?).await
}

async fn destroy(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(credentials): Form<Credentials>,
) -> Result<Response> {
    match delete(&app, &session, &login, &credentials).await {
        Ok(()) => Ok((login.clear_cookies(), redirect("/").flash(DELETED)).into_response()),
        Err(error) => {
            let mut errors = FieldErrors::default();
            for (field, sentence) in error.field_errors()?.iter() {
                errors.add(field, format!("{sentence} Nothing was deleted."));
            }
            page.render_errors(&DeletePage::new(&app, &session.user, errors).await?).await
        }
    }
}

async fn delete(app: &App, session: &Session, login: &Login, credentials: &Credentials) -> Result<()> {
    let reauthenticated = login.reauthenticate(session, credentials).await?;
    let deleted = app.db.write(async |db| {
        permission::lock_admins(db).await?;
        reauthenticated.recheck(db).await?;
        user::delete(db, &session.user.id, app.config.name_rest, user::DELETED.by(&login.client)).await
    });
    deleted.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{Actor, Username, disabling};
    use crate::test::{PASSWORD, TestApp, check};
    use crate::web::app::Owned;
    use std::collections::BTreeMap;
    use std::time::Duration;
    use tokio::join;

    #[test]
    fn its_page_renders() {
        let factors = |password| FactorCounts(BTreeMap::from([("password", password), ("code", 1), ("passkey", 1)]));
        let owned = || ["1 note".to_string(), "2 keys".to_string()].into();
        check(&[
            DeletePage { factors: factors(1), owned: Vec::new(), errors: FieldErrors::default() },
            DeletePage { factors: factors(1), owned: owned(), errors: FieldErrors::of("password", "No.") },
            DeletePage { factors: factors(0), owned: owned(), errors: FieldErrors::of("code", "No.") },
        ]);
    }

    #[tokio::test]
    async fn an_account_is_deleted_with_everything_in_it_and_its_events_become_anonymous() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let elsewhere = ada.copy();
        let answer = ada.post("/delete", &[("password", PASSWORD)]).await;
        answer.assert_redirect("/").assert_cookie("session_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        answer.assert_cookie("flash=deleted; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        elsewhere.assert_is("nobody").await;
        bob.assert_is("bob").await;
        for sql in ["select count(*) from users", "select count(*) from passwords", "select count(*) from sessions"] {
            assert_eq!(app.count(sql).await, 1, "{sql}");
        }
        assert_eq!(app.count("select count(*) from events where kind = 'deleted'").await, 1);
        let known = "select count(distinct user_id) from events where address is not null or device is not null";
        assert_eq!(app.count(known).await, 1);
    }

    #[tokio::test]
    async fn the_name_of_a_deleted_account_is_reserved_for_a_while() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.post("/delete", &[("password", PASSWORD)]).await.assert_redirect("/");
        let name = Username::parse("ada").unwrap();
        let client = app.login().await.client;
        let create = async || app.app.db.write(async |db| user::create(db, &name, &client).await).await.unwrap();
        assert_eq!(create().await, None);
        assert_eq!(app.count("select count(*) from users").await, 0);
        app.execute("update limits set free_at = free_at - 7776000000").await;
        assert!(create().await.is_some());
    }

    #[tokio::test]
    async fn the_page_names_what_goes_and_nothing_of_others_in_one_form() {
        const SESSIONS: Owned =
            Owned { one: "door", many: "doors", count: "select count(*) from sessions where user_id = $1" };
        const NONE: Owned =
            Owned { one: "code", many: "codes", count: "select count(*) from recovery_codes where user_id = $1" };
        let feature = Feature { owned: &[SESSIONS, NONE], ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let _elsewhere = app.browser_of("bob").await;
        let page = ada.get("/delete").await;
        page.assert_contains("everything in it: 1 door. It cannot be undone.");
        assert_eq!(page.text().matches("action=\"/delete\"").count(), 1, "{page}");
        bob.get("/delete").await.assert_contains(": 2 doors.");
        ada.get("/test/account").await.assert_contains("Delete account · Permanent · Delete\n");
    }

    #[tokio::test]
    async fn who_deletes_the_account_while_an_administrator_disables_it_waits_and_never_fails() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (id, actor) = (app.user("ada").await, Actor::command_line());
        let hold = async |db: &mut Connection| {
            permission::lock_admins(db).await?;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            Ok(())
        };
        let disable = async |db: &mut Connection| disabling::disable(db, &id, &actor).await;
        let second = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            app.app.db.write(disable).await
        };
        let third = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ada.post("/delete", &[("password", PASSWORD)]).await
        };
        let (held, disabled, answer) = join!(app.app.db.write(hold), second, third);
        assert!(!matches!(disabled, Err(crate::base::Error::Unavailable(_))));
        held.unwrap();
        assert_ne!(answer.status, 503, "{answer}");
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
    async fn without_the_password_nothing_is_deleted() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for wrong in ["", "not the password"] {
            let answer = ada.post("/delete", &[("password", wrong)]).await;
            answer.assert_status(422).assert_contains("This is not your password.").assert_no_header("set-cookie");
        }
        app.visitor().post("/delete", &[("password", PASSWORD)]).await.assert_redirect("/login?next=%2F");
        ada.get("/delete").await.assert_status(200);
        ada.assert_is("ada").await;
    }
}
