//! The features: two lines each, here and nowhere else. `scripts/remove NAME` takes one out with all that is its own:
//! its Rust file, its templates, its section of schema.sql, its lines in the slots.

// What nothing uses is a mistake here; in core it waits for the next feature.
#![warn(dead_code)]

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

use crate::access::Routes;
use crate::database::Connection;
use crate::env::Env;
use crate::factor::{Factor, NextFactor};
use crate::mail::Compose;
use crate::page::Flash;
use crate::seal::Sealed;
use crate::session::Door;
use anyhow::Result;
use axum_extra::extract::CookieJar;
use futures_util::future::BoxFuture;

/// What a feature offers: `Feature { routes, ..Feature::named("notes") }`.
#[derive(Default)]
pub struct Feature {
    pub name: &'static str,
    pub routes: Routes,
    /// The sentences that its handlers leave for the next page.
    pub flashes: &'static [Flash],
    /// The kinds of mail it writes.
    pub letters: &'static [(&'static str, Compose)],
    /// Statements that each delete some rows that have expired; `$1` is the time in seconds since 1970.
    pub purge: &'static [&'static str],
    /// What it keeps of a user, for whoever wants a copy of their data: a name, and a query for the user with the id `$1`.
    #[allow(dead_code)] // A feature reads it, which may have been removed.
    pub export: &'static [(&'static str, &'static str)],
    /// By what people can show who they are.
    pub factor: Option<Factor>,
    pub next_factor: Option<NextFactor>,
    /// The page below which a second factor is set up.
    pub set_up: Option<&'static str>,
    /// Statements that each end something by which somebody could come in, if it was added to the account `$1` at the time
    /// `$2` or later.
    pub undo: &'static [&'static str],
    /// What it keeps sealed.
    pub sealed: &'static [Sealed],
    /// Told, in the transaction and before the session that came with the request ends, that one begins: for whom and its
    /// id. It may add cookies.
    pub session_begins: Option<SessionBegins>,
}

pub type SessionBegins = for<'a> fn(
    &'a mut Connection,
    &'a Door,
    user_id: &'a str,
    id: &'a str,
    CookieJar,
) -> BoxFuture<'a, crate::error::Result<CookieJar>>;

impl Feature {
    pub fn named(name: &'static str) -> Feature {
        Feature { name, ..Feature::default() }
    }
}

/// Every feature. Each reads its own variables here, so that a wrong one does not start.
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
    use crate::access::Access;
    use crate::test::{PASSWORD, TestApp};
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
            let for_users = matches!(route.access, Access::User | Access::Recent);
            assert_eq!(to_log_in, for_users, "{} {path}", route.method);
            if route.method == Method::GET {
                let user = ada.get(&path).await;
                let led_on = user.status == 303 && user.header("location") == "/";
                assert_eq!(led_on, route.access == Access::Guest, "{user}");
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
        for route in
            all(&Env::from_iter::<[(&str, &str); 0]>([])).unwrap().iter().flat_map(|f| f.routes.iter())
        {
            if route.access == Access::Recent && route.method == Method::POST {
                let everything = [
                    ("current_password", PASSWORD),
                    ("password", "quiet harbour lamp"),
                    ("confirm_password", "quiet harbour lamp"),
                    ("username", "lovelace"),
                ];
                let answer = ada.post(&route.path.replace("{id}", "1"), &everything).await;
                answer.assert_redirect("/confirm?next=%2Faccount").assert_no_header("set-cookie");
                asked += 1;
            }
        }
        // One each, to know who asks.
        assert_eq!(app.statements() - statements, asked);
        ada.assert_is("ada").await;
        elsewhere.assert_is("ada").await;
    }
}
