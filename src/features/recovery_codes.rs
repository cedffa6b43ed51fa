//! Recovery codes: how many are left, and new ones, which are shown once.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::env::Env;
use crate::error::Result;
use crate::event::{self, Event};
use crate::factor;
use crate::features::Feature;
use crate::form::{Form, NoFields};
use crate::guard::Client;
use crate::page::{Page, Template, templates};
use crate::recovery;
use crate::session::Session;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

const PATH: &str = "/account/recovery-codes";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Recent, show).post(PATH, Access::Recent, create);
    Ok(Feature { routes, ..Feature::named("recovery_codes") })
}

#[derive(Serialize)]
struct CodesPage {
    left: i64,
}

impl Template for CodesPage {
    const FILE: &'static str = templates::RECOVERY_CODES_SHOW;
}

#[derive(Serialize)]
struct NewCodesPage {
    codes: Vec<String>,
}

impl Template for NewCodesPage {
    const FILE: &'static str = templates::RECOVERY_CODES_NEW;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let left = app.db.read(async |db| recovery::left(db, &user.id).await).await?;
    page.show(&CodesPage { left }).await
}

async fn create(
    State(app): State<App>,
    session: Session,
    client: Client,
    page: Page,
    _: Form<NoFields>,
) -> Result<Response> {
    let user_id = &*session.user.id;
    let codes = app.db.write(async |db| {
        factor::hold(&app, db, &session).await?;
        event::record(db, user_id, Event::RecoveryCodesMade, &client).await?;
        recovery::make(db, user_id).await
    });
    page.show(&NewCodesPage { codes: codes.await? }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::{TestApp, Visitor};
    use crate::user::Username;
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
        app.app.db.write(async |db| recovery::spend(db, &username, code).await).await.unwrap().is_some()
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
            let words = if left > 0 {
                format!("You have <strong>{left}</strong> left.")
            } else {
                "You have none".into()
            };
            ada.get(PATH).await.assert_contains(&words).assert_lacks(code);
        }
        assert_eq!(make(&ada).await.len(), 10);
        ada.get(PATH).await.assert_contains("You have <strong>10</strong> left.");
    }

    #[tokio::test]
    async fn new_codes_end_the_old_ones_and_nobody_elses() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (adas, eves) = (make(&ada).await, make(&eve).await);
        ada.post(PATH, &[("user_id", "eve"), ("username", "eve")]).await.assert_status(200);
        assert!(!works(&app, "ada", adas.first().unwrap()).await);
        assert!(!works(&app, "ada", eves.first().unwrap()).await);
        assert!(works(&app, "eve", eves.first().unwrap()).await);
    }

    #[tokio::test]
    async fn a_stranger_and_a_log_in_of_some_time_ago_make_none_and_looking_makes_none() {
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
    async fn a_session_that_was_ended_meanwhile_makes_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let thief = app.browser_of("ada").await;
        let answer = app.ended_meanwhile("ada", thief.post(PATH, &[])).await;
        answer.assert_status(404).assert_lacks("recovery-code\"");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
        ada.assert_is("nobody").await;
    }
}
