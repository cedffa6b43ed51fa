//! The features: two lines each, here and nowhere else. `scripts/remove NAME` removes one with everything that is its own:
//! its Rust file, its templates, its tests, its section of schema.sql, its lines in the slots.

// Unused code is a mistake in a feature. In core it is there for the next feature.
#![warn(dead_code)]

pub mod feature;

mod account;
mod activity;
mod change_password;
mod change_username;
mod confirm;
mod delete_account;
mod email;
mod export;
mod health;
mod home;
mod login;
mod mailbox;
mod members;
mod notes;
mod notices;
#[cfg(feature = "passkeys")]
mod passkeys;
mod password_reset;
mod recovery_codes;
mod security_txt;
mod session_data;
mod session_list;
mod signup;
mod theme;
mod two_factor;

use crate::base::env::Env;
use anyhow::Result;

pub use feature::Feature;

/// Every feature. Each reads its own variables here, so that the site does not start with a wrong one.
///
/// # Errors
/// One sentence that says what to set.
pub fn all(env: &Env) -> Result<Vec<Feature>> {
    Ok(Vec::from([
        account::feature(env)?,
        activity::feature(env)?,
        change_password::feature(env)?,
        change_username::feature(env)?,
        confirm::feature(env)?,
        delete_account::feature(env)?,
        email::feature(env)?,
        export::feature(env)?,
        health::feature(env)?,
        home::feature(env)?,
        login::feature(env)?,
        mailbox::feature(env)?,
        members::feature(env)?,
        notes::feature(env)?,
        notices::feature(env)?,
        #[cfg(feature = "passkeys")]
        passkeys::feature(env)?,
        password_reset::feature(env)?,
        recovery_codes::feature(env)?,
        security_txt::feature(env)?,
        session_data::feature(env)?,
        session_list::feature(env)?,
        signup::feature(env)?,
        theme::feature(env)?,
        two_factor::feature(env)?,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::EVENTS;
    use crate::test::{PASSWORD, TestApp};
    use crate::web::Access;
    use axum::http::Method;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn every_route_lets_in_whom_it_says_and_nobody_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for route in all(&Env::default()).unwrap().iter().flat_map(|feature| feature.routes.iter()) {
            let path = route.example_path();
            let visitor = app.visitor().send(route.method.clone(), &path, &[], "").await;
            let to_log_in =
                visitor.headers.get("location").is_some_and(|to| to.as_bytes().starts_with(b"/login?next="));
            let for_users = matches!(route.access, Access::User | Access::Recent);
            assert_eq!(to_log_in, for_users, "{} {path}", route.method);
            if route.method == Method::GET {
                let user = ada.get(&path).await;
                let redirected = user.status == 303 && user.header("location") == "/";
                assert_eq!(redirected, route.access == Access::Guest, "{user}");
            }
        }
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn what_asks_for_a_recent_log_in_does_nothing_for_an_older_one() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        let statements = app.statements();
        let mut asked = 0;
        for route in all(&Env::default()).unwrap().iter().flat_map(|f| f.routes.iter()) {
            if route.access == Access::Recent && route.method == Method::POST {
                let everything = [
                    ("current_password", PASSWORD),
                    ("password", "quiet harbour lamp"),
                    ("confirm_password", "quiet harbour lamp"),
                    ("username", "lovelace"),
                ];
                let answer = ada.post(&route.example_path(), &everything).await;
                answer.assert_redirect("/confirm?next=%2Faccount").assert_no_header("set-cookie");
                asked += 1;
            }
        }
        // One each, to know who asks.
        assert_eq!(app.statements() - statements, asked);
        ada.assert_is("ada").await;
        elsewhere.assert_is("ada").await;
    }

    #[test]
    fn docs_operations_lists_every_kind_of_event_and_no_other() {
        let docs = include_str!("../../docs/operations.md");
        let section = docs.split("## Events").nth(1).unwrap().split("\n## ").next().unwrap();
        let features = all(&Env::default()).unwrap();
        let is_built = |mark: &str| features.iter().any(|feature| mark.split(' ').any(|name| name == feature.name));
        let lines = section.lines().filter(|line| line.split_once("<!-- ").is_none_or(|(_, mark)| is_built(mark)));
        let cells = lines.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let listed: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let events = EVENTS.iter().chain(features.iter().flat_map(|feature| feature.events));
        let recorded = events.map(|event| event.kind).collect();
        let advice = "the table under \"Events\" in docs/operations.md (left) must list these kinds (right)";
        assert_eq!(listed, recorded, "{advice}");
    }
}
