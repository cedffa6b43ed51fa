//! Finds the session of a request.

use super::last_seen::{self, LastSeen};
use super::late_log_outs::LateLogOuts;
use super::{lookup::Lookup, row::Session, row::SessionRow};
use crate::accounts::client::{Client, device_name};
use crate::base::{Config, Result, Tokens};
use crate::db::{Database, ago, is_in_the_future, now};
use std::time::Duration;

pub struct Sessions {
    lookup: Lookup,
    last_seen: LastSeen,
    late_log_outs: LateLogOuts,
    lifetime: Duration,
    idle: Duration,
}

impl Sessions {
    /// Starts the workers that look up sessions.
    pub fn start(config: &Config, db: &Database) -> Sessions {
        Sessions {
            lookup: Lookup::start(db),
            last_seen: LastSeen::new(db),
            late_log_outs: LateLogOuts::new(db),
            lifetime: config.session_lifetime,
            idle: config.session_idle,
        }
    }

    /// The first valid session of these tokens. Records that `client` has used it.
    ///
    /// # Errors
    /// [`crate::base::error::Error::Unavailable`] when the database cannot be reached.
    pub async fn find(&self, tokens: &Tokens, client: &Client) -> Result<Option<Session>> {
        let rows = self.lookup.find(tokens).await?;
        let is_valid = |row: &SessionRow| {
            row.created_at > ago(self.lifetime)
                && row.seen_at > ago(self.idle)
                && !self.late_log_outs.contains(&row.session.token_hash)
        };
        let Some(row) = rows.into_iter().find(is_valid) else { return Ok(None) };
        let other_browser =
            client.user_agent != row.device && device_name(&row.device) != device_name(&client.user_agent);
        let is_outdated = row.seen_at <= ago(last_seen::interval(self.idle)) || is_in_the_future(row.seen_at);
        if other_browser || is_outdated {
            self.last_seen.update(&row, client, other_browser, now());
        }
        Ok(Some(row.session))
    }

    /// Ends sessions as soon as the database accepts writes.
    pub fn end_later(&self, tokens: &Tokens, client: &Client) {
        if !tokens.is_empty() {
            self.late_log_outs.add(tokens.hashes(), client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AuthLevel, Choices};
    use crate::base::Token;
    use crate::db::Connection;
    use crate::test::{PASSWORD, TestApp, Visitor};
    use data_encoding::BASE64URL_NOPAD;
    use tokio::time::{sleep, timeout};

    fn token_of(visitor: &Visitor) -> Token {
        Token::parse(&visitor.cookie("session_token").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_copy_of_the_table_grants_no_access() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let token = token_of(&ada);
        let read =
            async |db: &mut Connection| Ok(sqlx::query_scalar("select token_hash from sessions").fetch_one(db).await?);
        let stored: Vec<u8> = app.app.db.read(read).await.unwrap();
        assert_eq!(stored, token.hash());
        let stolen = BASE64URL_NOPAD.encode(&stored);
        app.visitor().with_cookie("session_token", &stolen).assert_is("nobody").await;
    }

    #[tokio::test]
    async fn a_session_ends_by_age_and_by_inactivity() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.assert_is("ada").await;
        app.execute("update sessions set seen_at = seen_at - 7 * 86400 + 60").await;
        ada.assert_is("ada").await;
        last_seen::tests::until_saved(&app).await;
        app.execute("update sessions set seen_at = created_at - 7 * 86400").await;
        ada.assert_is("nobody").await;
        app.execute("update sessions set seen_at = seen_at + 7 * 86400, created_at = created_at - 30 * 86400").await;
        ada.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn a_session_that_began_while_the_clock_was_ahead_is_not_recent_and_lives_no_longer_than_others() {
        let app = TestApp::new().await;
        for (ahead, name) in [(86_400, "ada"), (365 * 86_400, "bob"), (50 * 365 * 86_400, "eve")] {
            app.set_clock_ahead(ahead);
            let person = app.person(name).await;
            app.set_clock_ahead(0);
            person.assert_is(name).await;
            let corrected = async {
                while app.count("select max(seen_at) from sessions").await > now() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(5), corrected).await.expect("it was never corrected");
            let session =
                app.app.sessions.find(&[token_of(&person)].into_iter().collect(), &Client::local("")).await.unwrap();
            assert!(!session.unwrap().is_recent(&app.app.config), "{ahead} s ahead");
            let later = "select count(*) from sessions where created_at > seen_at";
            assert_eq!(app.count(later).await, 0, "{ahead} s ahead");
            app.set_clock_ahead(8 * 86_400);
            person.assert_is("nobody").await;
            app.set_clock_ahead(0);
        }
    }

    #[tokio::test]
    async fn a_disabled_user_is_logged_out_at_once_and_cannot_log_in() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (id, login) = (app.user("ada").await, app.login().await);
        app.execute("update users set disabled_at = 1").await;
        ada.assert_is("nobody").await;
        let choices = Choices { stay: false, next: "/".into() };
        let logged_in = app.app.db.write(async |db| login.log_in(db, &id, AuthLevel::OneFactor, &choices).await);
        assert!(logged_in.await.unwrap().is_none());
        let answer = app.visitor().post("/test/log-in", &[("username", "ada"), ("password", PASSWORD)]).await;
        answer.assert_status(422).assert_no_header("set-cookie");
        assert_eq!(app.count("select count(*) from sessions").await, 1);
    }
}
