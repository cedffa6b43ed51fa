//! Recent activity: what happened to one's own account, so that a person can see what they did not do.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::device;
use crate::env::Env;
use crate::error::Result;
use crate::event::{self, Told};
use crate::features::Feature;
use crate::form::query_parameter;
use crate::page::{ONE_MORE, Page, Template, date_time, next_page, templates};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/account/activity", Access::User, index);
    Ok(Feature { routes, ..Feature::named("activity") })
}

#[derive(Serialize)]
struct Row {
    words: String,
    at: String,
    device: String,
    address: String,
}

impl From<Told> for Row {
    fn from(event: Told) -> Row {
        let device = device::words(&event.device);
        Row { words: event.words, at: date_time(event.created_at), device, address: event.address }
    }
}

#[derive(Serialize)]
struct ActivityPage {
    events: Vec<Row>,
    /// The id after which the next page begins.
    next: Option<String>,
}

impl Template for ActivityPage {
    const FILE: &'static str = templates::ACTIVITY_INDEX;
}

async fn index(
    State(app): State<App>,
    user: User,
    page: Page,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let after = query_parameter(query.as_deref(), "after");
    let read = app.db.read(async |db| event::history(db, &user.id, after.as_deref(), ONE_MORE).await);
    let mut events = read.await?;
    let next = next_page(&mut events, |event| &event.id);
    page.show(&ActivityPage { events: events.into_iter().map(Row::from).collect(), next }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_page_renders() {
        let row = || Row {
            words: "Logged in".into(),
            at: "1 May 2026, 10:00 UTC".into(),
            device: "<Firefox>".into(),
            address: "192.0.2.1".into(),
        };
        check(&[
            ActivityPage { events: vec![row(), row()], next: Some("0190".into()) },
            ActivityPage { events: vec![], next: None },
        ]);
    }

    #[tokio::test]
    async fn one_sees_what_happened_to_oneself_newest_first_and_nothing_of_others() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update events set address = '192.0.2.7'").await;
        let _bob = app.person("bob").await;
        let page = ada.get("/account/activity").await;
        page.assert_status(200).assert_contains("You signed up").assert_contains("192.0.2.7");
        assert!(page.text().find("Logged in") < page.text().find("You signed up"), "{page}");
        assert_eq!(page.text().matches("<li>").count(), 2);
        app.visitor().get("/account/activity").await.assert_redirect("/login?next=%2Faccount%2Factivity");
    }

    #[tokio::test]
    async fn wrong_passwords_are_told_and_that_the_next_have_to_wait() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            let guess = crate::password::check(&app.app, &app.door().await, "ada", "not the password").await;
            assert!(guess.unwrap().is_none());
        }
        let page = ada.get("/account/activity").await.text();
        assert_eq!(page.matches("A password was wrong").count(), 5);
        assert_eq!(page.matches("Too many wrong passwords").count(), 1);
    }

    #[tokio::test]
    async fn a_long_history_is_read_fifty_a_page() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..49 {
            app.browser_of("ada").await;
        }
        let first = ada.get("/account/activity").await;
        first.assert_lacks("You signed up");
        ada.get(&first.link("next")).await.assert_contains("You signed up").assert_lacks("rel=\"next\"");
    }
}
