//! The home page: your app starts here.

use super::feature::Feature;
use crate::base::{Env, Result};
use crate::web::{Access, Page, Routes, Template, files};
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { routes: Routes::new().get("/", Access::Public, show), ..Feature::named("home") })
}

#[derive(Serialize)]
struct HomePage {}

impl Template for HomePage {
    const FILE: &'static str = files::HOME_SHOW;
}

async fn show(page: Page) -> Result<Response> {
    page.render(&HomePage {}).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, check};

    #[test]
    fn its_page_renders() {
        check(&[HomePage {}]);
    }

    #[tokio::test]
    async fn it_greets_visitors_without_asking_the_database_and_users_by_name() {
        let app = TestApp::new().await;
        let before = app.statements();
        app.visitor().get("/").await.assert_status(200).assert_lacks("Logged in");
        app.visitor().with_cookie("session_token", "no token").get("/").await.assert_status(200);
        assert_eq!(app.statements() - before, 0);

        let ada = app.person("ada").await;
        let before = app.statements();
        ada.get("/").await.assert_status(200).assert_contains("Logged in: ada");
        assert_eq!(app.statements() - before, 1);
    }

    #[tokio::test]
    async fn it_is_small() {
        let app = TestApp::new().await;
        let page = app.person("ada").await.get("/").await;
        assert!(page.bytes.len() <= 6 * 1024, "{} bytes", page.bytes.len());
    }
}
