//! The settings page. What can be set there is up to the features that put a line into `slots/account.html`.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::env::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::page::{Page, Template, templates};
use crate::recovery;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { routes: Routes::new().get("/account", Access::User, show), ..Feature::named("account") })
}

#[derive(Serialize)]
struct AccountPage {
    /// Whether there is one without the password.
    way_back: bool,
}

impl Template for AccountPage {
    const FILE: &'static str = templates::ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let way_back = app.db.read(async |db| recovery::has_way_back(db, &user.id).await).await?;
    page.show(&AccountPage { way_back }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_page_renders() {
        check(&[AccountPage { way_back: true }, AccountPage { way_back: false }]);
    }

    #[tokio::test]
    async fn the_settings_are_for_users_and_say_whose_they_are() {
        let app = TestApp::new().await;
        app.visitor().get("/account").await.assert_redirect("/login?next=%2Faccount");
        app.person("ada").await.get("/account").await.assert_status(200).assert_contains("ada");
    }
}
