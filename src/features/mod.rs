//! The features: two lines each, here and nowhere else. `scripts/remove NAME` removes one with everything that is its own:
//! its Rust file, its templates, its tests, its section of schema.sql, its lines in the slots.

// Unused code is a mistake in a feature. In core it is there for the next feature.
#![warn(dead_code)]

pub mod feature;

mod account;
mod activity;
mod admin;
mod admin_audit;
mod admin_groups;
mod admin_mails;
mod admin_users;
mod change_password;
mod change_username;
mod confirm;
mod delete_account;
mod dev_docs;
mod email;
mod export;
mod health;
mod home;
mod invitations;
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
mod setup;
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
        admin::feature(env)?,
        admin_audit::feature(env)?,
        admin_groups::feature(env)?,
        admin_mails::feature(env)?,
        admin_users::feature(env)?,
        change_password::feature(env)?,
        change_username::feature(env)?,
        confirm::feature(env)?,
        delete_account::feature(env)?,
        dev_docs::feature(env)?,
        email::feature(env)?,
        export::feature(env)?,
        health::feature(env)?,
        home::feature(env)?,
        invitations::feature(env)?,
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
        setup::feature(env)?,
        signup::feature(env)?,
        theme::feature(env)?,
        two_factor::feature(env)?,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::EVENTS;
    use crate::test::{PASSWORD, TestApp, Visitor};
    use crate::web::{Access, Routes, routes::Route};
    use axum::http::Method;
    use std::collections::{BTreeMap, BTreeSet};

    #[tokio::test]
    async fn every_route_lets_in_whom_it_says_and_nobody_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for route in all(&Env::default()).unwrap().iter().flat_map(|feature| feature.routes.iter()) {
            let path = route.example_path();
            let visitor = app.visitor().send(route.method.clone(), &path, &[], "").await;
            let to_log_in =
                visitor.headers.get("location").is_some_and(|to| to.as_bytes().starts_with(b"/login?next="));
            let for_users = route.access.is_for_users();
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
                answer.assert_redirect("/confirm?next=%2Faccount");
                answer.assert_headers("set-cookie", &["flash=too_late; HttpOnly; SameSite=Lax; Path=/; Max-Age=60"]);
                asked += 1;
            }
        }
        // One each, to know who asks.
        assert_eq!(app.statements() - statements, asked);
        ada.assert_is("ada").await;
        elsewhere.assert_is("ada").await;
    }

    /// A value for every field of the forms here. Every second time the name and the password are the person's own.
    fn fields(own_name: &str, number: u32) -> Vec<(&'static str, String)> {
        let username = if number.is_multiple_of(2) { own_name.to_string() } else { format!("name{number}") };
        let (new, code) = ("quiet harbour lamp".to_string(), format!("{number:06}"));
        Vec::from([
            ("username", username),
            ("email", format!("name{number}@example.com")),
            ("current_password", PASSWORD.into()),
            ("password", if number.is_multiple_of(2) { PASSWORD.into() } else { new.clone() }),
            ("confirm_password", new),
            ("code", code),
            ("name", "A name".into()),
            ("theme", "dark".into()),
            ("text", "A note".into()),
        ])
    }

    /// Sends all of them as the form or the JSON that the route takes.
    async fn post(visitor: &Visitor, path: &str, fields: &[(&'static str, String)]) {
        let form: Vec<_> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
        if visitor.post(path, &form).await.status == 415 {
            let json: BTreeMap<_, _> = form.into_iter().collect();
            visitor.post_body(path, Some("application/json"), &serde_json::to_vec(&json).unwrap()).await;
        }
    }

    /// Posts three hundred times, or until twenty requests have added less than ten rows: a rate limit lets one through now
    /// and then. Returns whether they still add more.
    async fn grows(app: &TestApp, rows: &'static str, visitor: &Visitor, own_name: &str, path: &str) -> bool {
        let mut before = app.count(rows).await;
        for number in 0..300 {
            post(visitor, path, &fields(own_name, number)).await;
            if number % 20 == 19 {
                let now = app.count(rows).await;
                if now < before + 10 {
                    return false;
                }
                before = now;
            }
        }
        true
    }

    #[tokio::test]
    async fn no_post_fills_the_database_unless_it_says_what_bounds_it() {
        let limits = ["PASSWORD_ATTEMPTS_PER_ADDRESS", "SIGNUPS_PER_ADDRESS", "MAILS_PER_ADDRESS"];
        let app = TestApp::with_env(&limits.map(|name| (name, "10/1h")), Routes::new()).await;
        let tables = include_str!("../../schema.sql").lines().filter_map(|line| line.strip_prefix("create table "));
        // Rows that last ten seconds fill nothing.
        let tables = tables.filter(|line| !line.starts_with("idempotency_keys"));
        let counts = tables.map(|line| format!("(select count(*) from {})", line.trim_end_matches(" (")));
        let rows: &str = format!("select {}", counts.collect::<Vec<_>>().join(" + ")).leak();
        let features = all(&Env::default()).unwrap();
        let routes = features.iter().flat_map(|feature| feature.routes.iter());
        let posts = routes.filter(|route| route.method == Method::POST && route.bound.is_none());
        let mut growing = Vec::new();
        for (number, path) in posts.map(Route::example_path).enumerate() {
            app.execute("delete from limits").await;
            let name = format!("person{number}");
            let (visitor, user) = (app.visitor(), app.person(&name).await);
            if grows(&app, rows, &visitor, &name, &path).await || grows(&app, rows, &user, &name, &path).await {
                growing.push(path);
            }
        }
        let advice = "give each a rate limit, or a quota that it names by `bounded_by`";
        assert!(growing.is_empty(), "these can fill the database: {growing:?}; {advice}");
    }

    #[tokio::test]
    async fn while_sign_ups_are_not_open_no_route_makes_an_account() {
        for sign_ups in ["invite", "closed"] {
            let app = TestApp::with_env(&[("SIGNUPS", sign_ups)], Routes::new()).await;
            for route in all(&Env::default()).unwrap().iter().flat_map(|feature| feature.routes.iter()) {
                if route.method == Method::POST {
                    post(&app.visitor(), &route.example_path(), &fields("ada", 1)).await;
                }
            }
            assert_eq!(app.count("select count(*) from users").await, 0, "{sign_ups}");
        }
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
