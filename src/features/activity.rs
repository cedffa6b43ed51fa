//! Recent activity: what happened to a user's account, so that they notice what they did not do themselves.

use super::feature::Feature;
use crate::accounts::User;
use crate::accounts::event::{self, ShownEvent};
use crate::base::{Env, Result};
use crate::db::AFTER_ALL_IDS;
use crate::web::{
    Access, AccountGroup, AccountRow, App, List, ListQuery, ONE_MORE, Page, Query, Routes, RowState, Template, files,
};
use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt;
use serde::Serialize;

const PATH: &str = "/account/activity";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, index);
    Ok(Feature { routes, account_row: Some(ROW), ..Feature::named("activity") })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Devices, 2, "Recent activity", PATH, |db, context| {
    async move {
        let events = event::newest(db, &context.session.user.id, AFTER_ALL_IDS, 1).await?;
        let known = &context.app.features.events;
        let latest = events.first().map(|event| RowState::new(event.words(known), "View").at(event.created_at));
        Ok(latest.unwrap_or_else(|| RowState::new("Nothing yet", "View")))
    }
    .boxed()
});

#[derive(Serialize)]
struct ActivityPage {
    events: List<ShownEvent>,
}

impl Template for ActivityPage {
    const FILE: &'static str = files::ACTIVITY_INDEX;
}

async fn index(State(app): State<App>, user: User, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let events =
        app.db.read(async |db| event::newest(db, &user.id, query.after(AFTER_ALL_IDS), ONE_MORE).await).await?;
    let events = List::new(events, &query, |event| &event.id);
    let events = events.map(|event| ShownEvent::new(event, &app.features.events));
    page.render(&ActivityPage { events }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::event::Cause;
    use crate::accounts::{Client, Event};
    use crate::db::Connection;
    use crate::test::{TestApp, check};

    #[test]
    fn its_page_renders() {
        let own = ShownEvent {
            words: "Logged in".into(),
            at: 1_777_629_600,
            device: Some("<Firefox>".into()),
            address: Some("192.0.2.1".into()),
        };
        let by_another_user =
            ShownEvent { words: "You are an administrator now".into(), at: 1_777_629_600, device: None, address: None };
        check(&[
            ActivityPage {
                events: List {
                    rows: vec![own, by_another_user],
                    previous: Some("".into()),
                    next: Some("?after=0190".into()),
                },
            },
            ActivityPage { events: List { rows: vec![], previous: None, next: None } },
        ]);
    }

    #[tokio::test]
    async fn users_see_what_happened_to_their_account_newest_first_and_nothing_of_others() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update events set address = '192.0.2.7'").await;
        let _bob = app.person("bob").await;
        let page = ada.get("/account/activity").await;
        page.assert_status(200).assert_contains("Signed up").assert_contains("192.0.2.7");
        assert!(page.text().find("Logged in") < page.text().find("Signed up"), "{page}");
        assert_eq!(page.text().matches("<li>").count(), 2);
        app.visitor().get("/account/activity").await.assert_redirect("/login?next=%2Faccount%2Factivity");
    }

    #[tokio::test]
    async fn where_another_user_was_is_not_listed() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (id, client) = (app.user("ada").await, Client::local("curl/8"));
        let granted = Event::named("granted", "You may moderate").caused_by(Cause::OtherUser);
        let record = async |db: &mut Connection| event::record(db, &*id, granted.by(&client)).await;
        app.execute("delete from events").await;
        app.app.db.write(record).await.unwrap();
        let page = ada.get("/account/activity").await;
        page.assert_contains("granted").assert_lacks("127.0.0.1").assert_lacks("curl");
        page.assert_lacks("Something without a name");
    }

    #[tokio::test]
    async fn wrong_passwords_are_listed_and_that_the_next_have_to_wait() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let login = app.login().await;
        for _ in 0..5 {
            let guess = app.app.passwords.verify(login.source(), "ada", "not the password").await;
            assert!(guess.unwrap().is_none());
        }
        let page = ada.get("/account/activity").await.text();
        assert_eq!(page.matches("Wrong password").count(), 5);
        assert_eq!(page.matches("Too many wrong passwords").count(), 1);
    }

    #[tokio::test]
    async fn a_long_history_is_listed_fifty_to_a_page() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..49 {
            app.browser_of("ada").await;
        }
        let first = ada.get("/account/activity").await;
        first.assert_lacks("Signed up").assert_contains(">Older</a>").assert_lacks("rel=\"prev\"");
        let second = ada.get(&first.link("next")).await;
        second.assert_contains("Signed up").assert_contains(">Newer</a>").assert_lacks("rel=\"next\"");
        assert_eq!(second.link("prev"), "/account/activity");
    }

    #[tokio::test]
    async fn the_account_page_says_what_happened_last() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update events set created_at = created_at - 300").await;
        let _bob = app.person("bob").await;
        ada.get("/test/account").await.assert_contains("Recent activity · Logged in 5 minutes ago · View\n");
        app.execute("delete from events").await;
        ada.get("/test/account").await.assert_contains("Recent activity · Nothing yet · View\n");
    }
}
