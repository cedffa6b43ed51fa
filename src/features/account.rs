//! The account page: a user's settings. Features add theirs by a line in `slots/account.html`.

use super::feature::Feature;
use crate::accounts::User;
use crate::base::{Env, Result};
use crate::db::Connection;
use crate::web::{Access, App, FactorCounts, Page, Routes, Template, files};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, show);
    Ok(Feature { routes, account_path: Some(PATH), ..Feature::named("account") })
}

const PATH: &str = "/account";

#[derive(Serialize)]
struct AccountPage {
    /// Whether the user could still get in without the password.
    way_back: bool,
    factors: FactorCounts,
}

impl Template for AccountPage {
    const FILE: &'static str = files::ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let select = async |db: &mut Connection| {
        let factors = FactorCounts::of_user(&app, db, &user.id).await?;
        let has_other_factor = factors.login_methods(&app) > i64::from(factors.has_password());
        let way_back = has_other_factor || can_recover(db, &user.id).await?;
        Ok(AccountPage { way_back, factors })
    };
    page.render(&app.db.read(select).await?).await
}

/// Whether the user has a confirmed address or a recovery code.
async fn can_recover(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select (select count(*) from addresses where user_id = $1 and confirmed_at is not null) \
               + (select count(*) from recovery_codes where user_id = $1)";
    let ways: i64 = sqlx::query_scalar(sql).bind(user_id).fetch_one(db).await?;
    Ok(ways > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::recovery_code;
    use crate::test::{TestApp, check};
    use std::collections::BTreeMap;

    #[test]
    fn its_page_renders() {
        let factors = |number| {
            let counts = [("password", 1 - number), ("code", number), ("passkey", 2 * number)];
            FactorCounts(BTreeMap::from(counts))
        };
        check(&[
            AccountPage { way_back: true, factors: factors(1) },
            AccountPage { way_back: false, factors: factors(0) },
        ]);
    }

    #[tokio::test]
    async fn the_settings_are_for_users_and_say_whose_they_are() {
        let app = TestApp::new().await;
        app.visitor().get("/account").await.assert_redirect("/login?next=%2Faccount");
        app.person("ada").await.get("/account").await.assert_status(200).assert_contains("ada");
    }

    #[tokio::test]
    async fn a_confirmed_address_or_a_code_is_a_way_back_and_a_pending_address_is_none() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        let has = async || app.app.db.read(async |db| can_recover(db, &id).await).await.unwrap();
        assert!(!has().await);
        app.execute("insert into addresses (user_id, email) select id, 'ada@example.com' from users").await;
        assert!(!has().await);
        app.execute("update addresses set confirmed_at = 1").await;
        assert!(has().await);
        app.execute("delete from addresses").await;
        app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap();
        assert!(has().await);
    }
}
