//! Where one is logged in: the list of one's sessions, and the buttons that end them.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::config::Config;
use crate::database::{Connection, now};
use crate::device;
use crate::env::Env;
use crate::error::Result;
use crate::event::{self, Event};
use crate::features::Feature;
use crate::form::{Form, NoFields};
use crate::guard::Client;
use crate::page::{Flash, Page, Template, date_time, templates};
use crate::session::{self, Session};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::Serialize;
use std::time::Duration;

const PATH: &str = "/account/sessions";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, index)
        .post("/account/sessions/{id}/revoke", Access::Recent, revoke)
        .post("/account/sessions/revoke-others", Access::Recent, revoke_others);
    Ok(Feature { routes, flashes: &[ENDED, OTHERS_ENDED], ..Feature::named("session_list") })
}

const ENDED: Flash = Flash { name: "session_ended", words: "That session was ended." };
const OTHERS_ENDED: Flash =
    Flash { name: "other_sessions_ended", words: "You are logged out everywhere else." };

/// A session in words.
#[derive(Serialize)]
struct Row {
    id: String,
    device: String,
    address: String,
    began: String,
    seen: String,
    this: bool,
}

#[derive(Serialize)]
struct SessionsPage {
    sessions: Vec<Row>,
}

impl Template for SessionsPage {
    const FILE: &'static str = templates::SESSION_LIST_INDEX;
}

async fn index(State(app): State<App>, own: Session, page: Page) -> Result<Response> {
    let listed = app.db.read(async |db| of_user(db, &app.config, &own.user.id).await).await?;
    let row = |listed: Listed| Row {
        device: device::words(&listed.device),
        began: date_time(listed.created_at),
        seen: date_time(listed.seen_at),
        this: listed.id == own.id,
        id: listed.id,
        address: listed.address,
    };
    let mut sessions: Vec<Row> = listed.into_iter().map(row).collect();
    sessions.sort_by_key(|row| !row.this);
    page.show(&SessionsPage { sessions }).await
}

async fn revoke(
    State(app): State<App>,
    own: Session,
    client: Client,
    Path(id): Path<String>,
    _: Form<NoFields>,
) -> Result<Response> {
    let end = app.db.write(async |db| {
        session::end(db, &own.user.id, &id).await?;
        event::record(db, &*own.user.id, Event::SessionEnded, &client).await
    });
    end.await?;
    Ok((CookieJar::new().add(ENDED.cookie(&app.config)), see_other(PATH)).into_response())
}

async fn revoke_others(
    State(app): State<App>,
    own: Session,
    client: Client,
    _: Form<NoFields>,
) -> Result<Response> {
    let end = app.db.write(async |db| {
        session::end_others(db, &own).await?;
        event::record(db, &*own.user.id, Event::OtherSessionsEnded, &client).await
    });
    end.await?;
    Ok((CookieJar::new().add(OTHERS_ENDED.cookie(&app.config)), see_other(PATH)).into_response())
}

/// A session as its user sees it in a list.
struct Listed {
    id: String,
    /// The `User-Agent` it was last seen with.
    device: String,
    address: String,
    created_at: i64,
    seen_at: i64,
}

/// The user's sessions that have not expired, the one seen last first.
async fn of_user(db: &mut Connection, config: &Config, user_id: &str) -> Result<Vec<Listed>> {
    let sql = "select id, device, address, created_at, seen_at from sessions \
               where user_id = $1 and created_at > $2 and seen_at > $3 order by seen_at desc, id desc";
    let since = |limit: Duration| now() - limit.as_secs() as i64;
    let query = sqlx::query_as(sql)
        .bind(user_id)
        .bind(since(config.session_lifetime))
        .bind(since(config.session_idle));
    let rows: Vec<(String, String, String, i64, i64)> = query.fetch_all(db).await?;
    let listed =
        |(id, device, address, created_at, seen_at)| Listed { id, device, address, created_at, seen_at };
    Ok(rows.into_iter().map(listed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    const REVOKE_OTHERS: &str = "/account/sessions/revoke-others";

    /// The path that ends the only session beside one's own.
    async fn path_to_end(ada: &crate::test::Visitor) -> String {
        let page = ada.get(PATH).await.text();
        let (_, after) = page.split_once("action=\"/account/sessions/").expect("there is another session");
        format!("/account/sessions/{}", after.split('"').next().unwrap())
    }

    #[test]
    fn its_page_renders() {
        let row = |this| Row {
            id: "0190".into(),
            device: "<Firefox>".into(),
            address: "192.0.2.1".into(),
            began: "1 May 2026, 10:00 UTC".into(),
            seen: "2 May 2026, 10:00 UTC".into(),
            this,
        };
        check(&[
            SessionsPage { sessions: vec![row(true), row(false)] },
            SessionsPage { sessions: vec![row(true)] },
        ]);
    }

    #[tokio::test]
    async fn one_sees_where_one_is_logged_in_and_which_of_it_is_here() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        app.execute("update sessions set device = 'Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0'").await;
        let page = app.browser_of("ada").await.get(PATH).await;
        page.assert_status(200).assert_contains("Firefox on Linux").assert_contains("127.0.0.1");
        assert_eq!(page.text().matches("<li>").count(), 2);
        assert_eq!(page.text().matches("This browser").count(), 1);
        page.assert_lacks(&ada.cookie("session_token").unwrap());
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Faccount%2Fsessions");
    }

    #[tokio::test]
    async fn a_session_that_is_ended_is_dead_and_so_is_what_its_browser_was_trusted_with() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        ada.post(&path_to_end(&ada).await, &[]).await.assert_redirect(PATH);
        elsewhere.assert_is("nobody").await;
        ada.get(PATH).await.assert_contains("That session was ended.").assert_lacks("revoke-others");
        ada.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from devices").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'session_ended'").await, 1);
    }

    #[tokio::test]
    async fn all_others_end_at_once_and_nobody_elses() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let others = [app.browser_of("ada").await, app.browser_of("ada").await];
        ada.post(REVOKE_OTHERS, &[]).await.assert_redirect(PATH);
        for other in others {
            other.assert_is("nobody").await;
        }
        ada.get(PATH).await.assert_contains("You are logged out everywhere else.");
        bob.assert_is("bob").await;
        assert_eq!(app.count("select count(*) from devices").await, 2);
    }

    #[tokio::test]
    async fn somebody_elses_session_is_as_if_it_were_not_there() {
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
    async fn what_is_no_form_ends_nothing() {
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
    async fn a_log_in_of_some_time_ago_ends_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [&*path_to_end(&ada).await, REVOKE_OTHERS] {
            ada.post(path, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        elsewhere.assert_is("ada").await;
    }
}
