//! Where the user is logged in: the list of sessions, and the buttons that end them.

use super::feature::Feature;
use crate::accounts::session::lifecycle;
use crate::accounts::session::listed::{self, ListedSession};
use crate::accounts::{Client, Event, Session, event};
use crate::base::{Env, Result};
use crate::web::{
    Access, AccountGroup, AccountRow, App, Empty, Flash, Form, Page, Redirect, Routes, RowState, Template, files,
    redirect,
};
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::FutureExt;
use serde::Serialize;

const PATH: &str = "/account/sessions";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, index)
        .post("/account/sessions/{id}/revoke", Access::Recent, revoke)
        .post("/account/sessions/revoke-others", Access::Recent, revoke_others);
    let flashes = &[SESSION_ENDED, OTHER_SESSIONS_ENDED];
    Ok(Feature {
        routes,
        events: &[ENDED, OTHERS_ENDED],
        flashes,
        account_row: Some(ROW),
        ..Feature::named("session_list")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Devices, 1, "Logged-in devices", PATH, |db, context| {
    async move {
        let own = context.session;
        let sessions = listed::of_user(db, &context.app.config, &own.user.id).await?;
        let others: Vec<&str> =
            sessions.iter().filter(|other| other.id != own.id).map(|other| &*other.device).collect();
        Ok(RowState::new(summary(&others), "Manage"))
    }
    .boxed()
});

/// Says where else the user is logged in, the device that was used last first.
fn summary(others: &[&str]) -> String {
    match others {
        [] => "Only this one".into(),
        [other] => format!("2: this one and {other}"),
        [last, rest @ ..] => format!("{}: this one, {last} and {} more", others.len() + 1, rest.len()),
    }
}

pub const ENDED: Event = Event::named("session_ended", "Logged out another device");
pub const OTHERS_ENDED: Event = Event::named("other_sessions_ended", "Logged out all other devices");

const SESSION_ENDED: Flash = Flash { name: "session_ended", words: "That device is logged out." };
const OTHER_SESSIONS_ENDED: Flash =
    Flash { name: "other_sessions_ended", words: "You are logged out on all other devices." };

#[derive(Serialize)]
struct SessionsPage {
    /// The id of the session in this browser.
    own: String,
    sessions: Vec<ListedSession>,
}

impl Template for SessionsPage {
    const FILE: &'static str = files::SESSION_LIST_INDEX;
}

async fn index(State(app): State<App>, own: Session, page: Page) -> Result<Response> {
    let mut sessions = app.db.read(async |db| listed::of_user(db, &app.config, &own.user.id).await).await?;
    sessions.sort_by_key(|session| session.id != own.id);
    page.render(&SessionsPage { own: own.id, sessions }).await
}

async fn revoke(
    State(app): State<App>,
    own: Session,
    client: Client,
    Path(id): Path<String>,
    _: Form<Empty>,
) -> Result<Redirect> {
    let revoked = app.db.write(async |db| {
        lifecycle::revoke(db, &own.user.id, &id).await?;
        event::record(db, &*own.user.id, ENDED.by(&client)).await
    });
    revoked.await?;
    Ok(redirect(PATH).flash(SESSION_ENDED))
}

async fn revoke_others(State(app): State<App>, own: Session, client: Client, _: Form<Empty>) -> Result<Redirect> {
    let revoked = app.db.write(async |db| match lifecycle::revoke_others(db, &own).await? {
        true => event::record(db, &*own.user.id, OTHERS_ENDED.by(&client)).await,
        false => Ok(()),
    });
    revoked.await?;
    Ok(redirect(PATH).flash(OTHER_SESSIONS_ENDED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, Visitor, check};

    const REVOKE_OTHERS: &str = "/account/sessions/revoke-others";

    /// The path that ends the only session other than the visitor's own.
    async fn path_to_end(ada: &Visitor) -> String {
        let page = ada.get(PATH).await.text();
        let (_, after) = page.split_once("action=\"/account/sessions/").expect("there is another session");
        format!("/account/sessions/{}", after.split('"').next().unwrap())
    }

    #[test]
    fn its_page_renders() {
        let session = |id: &str| ListedSession {
            id: id.into(),
            device: "<Firefox>".into(),
            address: "192.0.2.1".into(),
            began: 1_777_629_600,
            seen: 1_777_716_000,
        };
        let page = |sessions| SessionsPage { own: "0190".into(), sessions };
        check(&[page(vec![session("0190"), session("0191")]), page(vec![session("0190")])]);
    }

    #[tokio::test]
    async fn users_see_where_they_are_logged_in_and_which_session_is_this_one() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        app.execute("update sessions set device = 'Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0'").await;
        let page = app.browser_of("ada").await.get(PATH).await;
        page.assert_status(200).assert_contains("Firefox on Linux").assert_contains("127.0.0.1");
        assert_eq!(page.text().matches("<li>").count(), 2);
        assert_eq!(page.text().matches("This device").count(), 1);
        page.assert_lacks(&ada.cookie("session_token").unwrap());
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Faccount%2Fsessions");
    }

    #[tokio::test]
    async fn a_session_that_has_expired_by_inactivity_or_by_age_is_not_listed() {
        for (wait, a_minute_more) in [
            (
                "update sessions set seen_at = seen_at - 7 * 86400 + 60 where device = 'elsewhere'",
                "update sessions set seen_at = seen_at - 60 where device = 'elsewhere'",
            ),
            (
                "update sessions set created_at = created_at - 30 * 86400 + 60 where device = 'elsewhere'",
                "update sessions set created_at = created_at - 60 where device = 'elsewhere'",
            ),
        ] {
            let app = TestApp::new().await;
            app.person("ada").await;
            app.execute("update sessions set device = 'elsewhere'").await;
            let ada = app.browser_of("ada").await;
            for (later, sessions) in [(wait, 2), (a_minute_more, 1)] {
                app.execute(later).await;
                let page = ada.get(PATH).await;
                assert_eq!(page.text().matches("<li>").count(), sessions, "{page}");
                page.assert_contains("This device");
            }
        }
    }

    #[tokio::test]
    async fn a_revoked_session_is_invalid_and_its_device_is_forgotten() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.post(&path_to_end(&ada).await, &[]).await.assert_redirect(PATH);
        elsewhere.assert_is("nobody").await;
        ada.get(PATH).await.assert_contains("That device is logged out.").assert_lacks("revoke-others");
        ada.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from devices").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'session_ended'").await, 1);
    }

    #[tokio::test]
    async fn all_other_sessions_end_at_once_and_nobody_elses() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let others = [app.browser_of("ada").await, app.browser_of("ada").await];
        ada.post(REVOKE_OTHERS, &[]).await.assert_redirect(PATH);
        for other in others {
            other.assert_is("nobody").await;
        }
        ada.get(PATH).await.assert_contains("You are logged out on all other devices.");
        bob.assert_is("bob").await;
        assert_eq!(app.count("select count(*) from devices").await, 2);
    }

    #[tokio::test]
    async fn to_log_out_everywhere_else_where_nobody_is_leaves_no_event() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let _elsewhere = app.browser_of("ada").await;
        for _ in 0..3 {
            ada.post(REVOKE_OTHERS, &[]).await.assert_redirect(PATH);
            assert_eq!(app.count("select count(*) from events where kind = 'other_sessions_ended'").await, 1);
        }
    }

    #[tokio::test]
    async fn another_users_session_is_treated_as_if_it_did_not_exist() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let _elsewhere = app.browser_of("ada").await;
        let path = path_to_end(&ada).await;
        let nowhere = "/account/sessions/01a2008724d87527975f079966d7c97e/revoke";
        let refused = eve.post(&path, &[]).await;
        assert_eq!(refused.assert_status(404).text(), eve.post(nowhere, &[]).await.text());
        assert_eq!(app.count("select count(*) from sessions").await, 3);
    }

    #[tokio::test]
    async fn a_request_that_is_not_a_form_ends_no_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        for path in [&*path_to_end(&ada).await, REVOKE_OTHERS] {
            ada.post_body(path, Some("application/json"), b"{}").await.assert_status(415);
            let twice = Some("application/x-www-form-urlencoded");
            ada.post_body(path, twice, b"a=1&a=2").await.assert_status(400);
        }
        elsewhere.assert_is("ada").await;
    }

    #[tokio::test]
    async fn an_old_log_in_ends_no_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [&*path_to_end(&ada).await, REVOKE_OTHERS] {
            ada.post(path, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        elsewhere.assert_is("ada").await;
    }

    #[tokio::test]
    async fn the_account_page_says_where_else_one_is_logged_in() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Logged-in devices · Only this one · Manage\n");
        let _phone = app.browser_of("ada").await;
        app.execute("update sessions set device = 'iPhone Safari/1' where id = (select max(id) from sessions)").await;
        let two = "Logged-in devices · 2: this one and Safari on iPhone · Manage\n";
        ada.get("/test/account").await.assert_contains(two);
        assert_eq!(summary(&["Firefox on Linux", "curl", "Edge"]), "4: this one, Firefox on Linux and 2 more");
    }
}
