//! Disables and enables accounts. Nothing that belongs to a disabled user works, and what was ended stays so afterwards.

use super::event::{self, Cause, Event};
use super::session::lifecycle;
use super::{actor::Actor, permission, user::User};
use crate::base::{Error, Result};
use crate::db::{Connection, now};
use crate::mail::outbox;

pub const DISABLED: Event = Event::named("disabled", "An administrator disabled your account")
    .caused_by(Cause::Administrator)
    .with_notice(
        "Your account was disabled",
        "An administrator disabled it. You have been logged out everywhere and cannot log in.",
    )
    .reaching_disabled_users();
pub const ENABLED: Event = Event::named("enabled", "An administrator enabled your account again")
    .caused_by(Cause::Administrator)
    .with_notice("Your account was enabled again", "An administrator enabled it. You can log in as before.");

/// A user, disabled or not. Locks the row as [`super::user::lock`] does.
pub async fn lock_any(db: &mut Connection, user_id: &str) -> Result<Option<User>> {
    let sql = "update users set id = id where id = $1 returning id as user_id, username";
    Ok(sqlx::query_as(sql).bind(user_id).fetch_optional(db).await?)
}

/// Shuts a user out: ends sessions, links and everything else that could let somebody in, and cancels mails that wait.
/// Returns whether the user was not disabled before.
///
/// # Errors
/// [`Error::LastAdmin`] when the site would be left without an administrator; [`Error::NOT_FOUND`] without such a user.
pub async fn disable(db: &mut Connection, user_id: &str, actor: &Actor) -> Result<bool> {
    permission::keep_another_admin(db, user_id).await?;
    lock_any(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "update users set disabled_at = $2 where id = $1 and disabled_at is null";
    if sqlx::query(sql).bind(user_id).bind(now()).execute(&mut *db).await?.rows_affected() == 0 {
        return Ok(false);
    }
    lifecycle::revoke_all(db, user_id).await?;
    sqlx::query("delete from tokens where user_id = $1").bind(user_id).execute(&mut *db).await?;
    outbox::cancel_all(db, user_id).await?;
    event::record(db, user_id, DISABLED.by_actor(actor)).await?;
    Ok(true)
}

/// Lets a user in again. Returns whether the user was disabled.
///
/// # Errors
/// [`Error::NOT_FOUND`] without such a user.
pub async fn enable(db: &mut Connection, user_id: &str, actor: &Actor) -> Result<bool> {
    lock_any(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "update users set disabled_at = null where id = $1 and disabled_at is not null";
    if sqlx::query(sql).bind(user_id).execute(&mut *db).await?.rows_affected() == 0 {
        return Ok(false);
    }
    event::record(db, user_id, ENABLED.by_actor(actor)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::link::{self, Purpose};
    use crate::test::{PASSWORD, TestApp};
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn nothing_of_a_disabled_user_works_and_what_was_ended_stays_ended() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let (id, actor) = (app.user("ada").await, Actor::command_line());
        let link = async |purpose| {
            let issue = app.app.db.write(async |db| link::issue(db, purpose, &id, "ada@example.com", "", DAY).await);
            issue.await.unwrap().text()
        };
        let tokens = [(Purpose::Reset, link(Purpose::Reset).await), (Purpose::Undo, link(Purpose::Undo).await)];
        let works = async |number: usize| {
            let (purpose, text) = &tokens[number];
            app.app.db.read(async |db| link::find(db, *purpose, text).await).await.is_ok()
        };
        assert!(works(0).await && works(1).await);
        app.disable("ada").await;
        ada.assert_is("nobody").await;
        assert!(!app.is_password_of("ada", PASSWORD).await && !works(0).await && !works(1).await);
        let again = app.app.db.write(async |db| disable(db, &id, &actor).await).await.unwrap();
        assert!(!again, "there is nothing more to disable");
        assert!(app.app.db.write(async |db| enable(db, &id, &actor).await).await.unwrap());
        assert!(!app.app.db.write(async |db| enable(db, &id, &actor).await).await.unwrap());
        ada.assert_is("nobody").await;
        assert!(!works(0).await && !works(1).await);
        assert!(app.is_password_of("ada", PASSWORD).await);
        app.browser_of("ada").await.assert_is("ada").await;
        let recorded = "select count(*) from events where kind in ('disabled', 'enabled') and actor_id is null";
        assert_eq!(app.count(recorded).await, 2);
    }

    #[tokio::test]
    async fn a_disabled_user_gets_no_mail_but_the_one_that_says_so() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let id = app.user("ada").await;
        let queue = async || {
            let queue = async |db: &mut Connection| outbox::queue(db, "test", Some(&*id), "ada@example.com", "").await;
            app.app.db.write(queue).await.unwrap();
        };
        queue().await;
        app.disable("ada").await;
        queue().await;
        app.mails().await.iter().for_each(|mail| assert_eq!(mail.content.subject, "Your account was disabled"));
        assert_eq!(app.count("select count(*) from mails where failed_at is null").await, 0);
        app.app.db.write(async |db| enable(db, &id, &Actor::command_line()).await).await.unwrap();
        assert!(app.mails().await.iter().all(|mail| mail.content.subject.starts_with("Your account was ")));
    }

    #[tokio::test]
    async fn an_account_that_does_not_exist_cannot_be_disabled() {
        let app = TestApp::new().await;
        let actor = Actor::command_line();
        for act in 0..2 {
            let result = app.app.db.write(async |db| match act {
                0 => disable(db, "1", &actor).await,
                _ => enable(db, "1", &actor).await,
            });
            assert!(matches!(result.await, Err(Error::Refused(_))));
        }
    }
}
