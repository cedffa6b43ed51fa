//! The settings page. What can be set there is up to the features that put a line into `slots/account.html`.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::env::Env;
use crate::error::Result;
use crate::factor;
use crate::features::Feature;
use crate::page::{Page, Template, templates};
use crate::recovery;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { routes: Routes::new().get("/account", Access::User, show), ..Feature::named("account") })
}

#[derive(Serialize)]
struct AccountPage {
    /// Whether there is one without the password.
    way_back: bool,
    /// How many of each kind the user has.
    factors: BTreeMap<&'static str, i64>,
}

impl Template for AccountPage {
    const FILE: &'static str = templates::ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let show = async |db: &mut Connection| {
        let factors = factor::held(&app, db, &user.id).await?;
        let others = factor::ways_in(&app, &factors) - factors[factor::PASSWORD];
        let way_back = others > 0 || recovery::has_way_back(db, &user.id).await?;
        Ok(AccountPage { way_back, factors })
    };
    page.show(&app.db.read(show).await?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_page_renders() {
        let factors =
            |number| BTreeMap::from([("password", 1 - number), ("code", number), ("passkey", 2 * number)]);
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
}
