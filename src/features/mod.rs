//! The features: two lines each, here and nowhere else. `scripts/remove NAME` takes one out with all that is its own:
//! its Rust file, its templates, its section of schema.sql, its lines in the slots.

// What nothing uses is a mistake here; in core it waits for the next feature.
#![warn(dead_code)]

mod account;
mod delete_account;
mod health;
mod home;
mod login;
mod members;
mod notes;
mod signup;
mod theme;

use crate::access::Routes;
use crate::config::Env;
use anyhow::Result;

/// What a feature offers.
pub struct Feature {
    pub name: &'static str,
    pub routes: Routes,
}

/// Every feature. Each reads its own variables here, so that a wrong one does not start.
///
/// # Errors
/// One sentence that says what to set.
pub fn all(env: &Env) -> Result<Vec<Feature>> {
    Ok(vec![
        account::feature(env)?,
        delete_account::feature(env)?,
        health::feature(env)?,
        home::feature(env)?,
        login::feature(env)?,
        members::feature(env)?,
        notes::feature(env)?,
        signup::feature(env)?,
        theme::feature(env)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::test::TestApp;
    use axum::http::Method;

    #[tokio::test]
    async fn every_route_lets_in_whom_it_says_and_nobody_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for route in all(&Env::from_iter::<[(&str, &str); 0]>([]))
            .unwrap()
            .iter()
            .flat_map(|feature| feature.routes.iter())
        {
            let path = route.path.replace("{username}", "ada").replace("{id}", "1");
            let stranger = app.visitor().send(route.method.clone(), &path, &[], "").await;
            let to_log_in =
                stranger.headers.get("location").is_some_and(|to| to.as_bytes().starts_with(b"/login?next="));
            assert_eq!(to_log_in, route.access == Access::User, "{} {path}", route.method);
            if route.method == Method::GET {
                let user = ada.get(&path).await;
                let led_on = user.status == 303 && user.header("location") == "/";
                assert_eq!(led_on, route.access == Access::Guest, "{user}");
            }
        }
        ada.assert_is("ada").await;
    }
}
