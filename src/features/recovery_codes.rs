//! Recovery codes: how many the user has left, and new ones, which are shown once.

use super::feature::Feature;
use crate::accounts::{Client, Event, Session, User, event, recovery_code};
use crate::base::{Env, Rate, Result};
use crate::db::rate_limit::{self, Key};
use crate::web::{Access, App, Empty, Form, Page, Routes, Template, factors, files};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use std::time::Duration;

const PATH: &str = "/account/recovery-codes";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Recent, show).post(PATH, Access::Recent, create);
    Ok(Feature { routes, events: &[MADE], ..Feature::named("recovery_codes") })
}

pub const MADE: Event = Event::named("recovery_codes_made", "New recovery codes were made")
    .with_notice("New recovery codes were made", "Those that were made before do not work any more.");

/// How often a user may make new ones, so that nobody fills the list of what happened.
const MADE_PER_USER: Rate = Rate { times: 10, per: Duration::from_secs(60 * 60) };

#[derive(Serialize)]
struct CodesPage {
    left: i64,
}

impl Template for CodesPage {
    const FILE: &'static str = files::RECOVERY_CODES_SHOW;
}

#[derive(Serialize)]
struct NewCodesPage {
    codes: Vec<String>,
}

impl Template for NewCodesPage {
    const FILE: &'static str = files::RECOVERY_CODES_NEW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let left = app.db.read(async |db| recovery_code::count(db, &user.id).await).await?;
    page.render(&CodesPage { left }).await
}

async fn create(
    State(app): State<App>,
    session: Session,
    client: Client,
    page: Page,
    _: Form<Empty>,
) -> Result<Response> {
    let user_id = &*session.user.id;
    let replaced = app.db.write(async |db| {
        factors::lock_confirmed(&app, db, &session).await?;
        rate_limit::take(db, &Key::new("recovery_codes", user_id), MADE_PER_USER).await?;
        event::record(db, user_id, MADE.by(&client)).await?;
        recovery_code::replace(db, user_id).await
    });
    page.render(&NewCodesPage { codes: replaced.await? }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Username;
    use crate::test::{TestApp, Visitor, check};
    use axum::http::Method;
    use std::collections::BTreeSet;

    /// Makes new codes and reads them off the page.
    async fn make(visitor: &Visitor) -> BTreeSet<String> {
        let page = visitor.post(PATH, &[]).await.assert_status(200).text();
        let codes = page.split("<code class=\"recovery-code\">").skip(1);
        codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect()
    }

    async fn works(app: &TestApp, name: &str, code: &str) -> bool {
        let username = Username::parse(name).unwrap();
        app.app.db.write(async |db| recovery_code::use_by_name(db, &username, code).await).await.unwrap().is_some()
    }

    #[test]
    fn its_pages_render() {
        check(&[CodesPage { left: 0 }, CodesPage { left: 1 }, CodesPage { left: 10 }]);
        check(&[NewCodesPage { codes: vec!["aaaq-eaye".into(), "auda-ocaj".into()] }]);
    }

    #[tokio::test]
    async fn ten_codes_are_shown_once_and_counted_down() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_status(200).assert_contains("You have none at the moment.");
        let codes = make(&ada).await;
        assert_eq!(codes.len(), 10);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_codes_made'").await, 1);
        for (left, code) in codes.iter().enumerate().rev() {
            assert!(code.len() == 32 && works(&app, "ada", code).await, "{code}");
            let words =
                if left > 0 { format!("You have <strong>{left}</strong> left.") } else { "You have none".into() };
            ada.get(PATH).await.assert_contains(&words).assert_lacks(code);
        }
        assert_eq!(make(&ada).await.len(), 10);
        ada.get(PATH).await.assert_contains("You have <strong>10</strong> left.");
    }

    #[tokio::test]
    async fn new_codes_replace_the_users_old_ones_and_nobody_elses() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (adas, eves) = (make(&ada).await, make(&eve).await);
        ada.post(PATH, &[("user_id", "eve"), ("username", "eve")]).await.assert_status(200);
        assert!(!works(&app, "ada", adas.first().unwrap()).await);
        assert!(!works(&app, "ada", eves.first().unwrap()).await);
        assert!(works(&app, "eve", eves.first().unwrap()).await);
    }

    #[tokio::test]
    async fn the_eleventh_set_in_an_hour_is_refused_and_the_tenth_still_works() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut codes = BTreeSet::new();
        for _ in 0..10 {
            codes = make(&ada).await;
        }
        ada.post(PATH, &[]).await.assert_status(429).assert_contains("in 6 minutes");
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_codes_made'").await, 10);
        assert!(works(&app, "ada", codes.first().unwrap()).await);
        let eve = app.person("eve").await;
        assert_eq!(make(&eve).await.len(), 10);
    }

    #[tokio::test]
    async fn visitors_and_old_log_ins_make_no_codes_and_viewing_the_page_makes_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.send(Method::HEAD, PATH, &[], "").await.assert_status(200);
        app.visitor().post(PATH, &[]).await.assert_redirect("/login?next=%2F");
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(PATH).await.assert_redirect("/confirm?next=%2Faccount%2Frecovery-codes");
        ada.post(PATH, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
    }

    #[tokio::test]
    async fn a_session_that_has_ended_in_the_meantime_makes_no_codes() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let thief = app.browser_of("ada").await;
        let answer = app.ended_meanwhile("ada", thief.post(PATH, &[])).await;
        answer.assert_status(404).assert_lacks("recovery-code\"");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
        ada.assert_is("nobody").await;
    }
}
