//! The table of mails. A mail is a row, added in the transaction that it is about.
//!
//! The row says what the mail is about, not what it contains: that is written when the mail is sent. So a request for a
//! mail takes the same time whoever owns the address, and the database contains no links that could be stolen.

use super::delivery::FailureKind;
use crate::base::Result;
use crate::db::clock::SKEW;
use crate::db::{Connection, Database, DbRow, new_id, now};
use sqlx::{FromRow, Row};
use std::iter::repeat_n;
use std::time::Duration;

/// How many seconds a process owns a mail that it prepares to send. It renews the lease; if the process dies, another
/// takes over.
pub const LEASE: i64 = 20;

/// How many seconds it owns a mail that it transmits. This is longer than the server may take to reply, because a
/// process that takes over sends a second copy.
const TRANSMISSION_LEASE: i64 = 15 * 60;

/// Seconds until the first retry; each further delay is twice as long, up to the longest.
const FIRST_DELAY: i64 = 5;
const LONGEST_DELAY: i64 = 15 * 60;

/// The same for a mail that may have arrived: a server takes more than a few seconds to restart.
const FIRST_DELAY_UNKNOWN: i64 = 30;

/// The longest delay, in seconds, for a mail that could not be sent for a general reason.
const LONGEST_PAUSE: i64 = 5 * 60;

/// Seconds from the first rejection until a mail is given up, and the least number of attempts, because no process may
/// have run for most of that time.
const GIVE_UP_AFTER: i64 = 24 * 60 * 60;
const LEAST_ATTEMPTS: i64 = 20;

/// After this many transmissions without a reply a mail is given up. Each may have arrived.
const MOST_UNCONFIRMED: i64 = 3;

/// A mail in the outbox.
#[derive(Clone)]
pub struct Mail {
    pub id: String,
    pub kind: String,
    pub user_id: Option<String>,
    /// The recipient.
    pub email: String,
    /// What it is about, in a form that depends on its kind: the id of an event, or of a bookmark.
    pub about: String,
    created_at: i64,
    attempts: i64,
    /// When it was first rejected for a reason of its own.
    refused_at: Option<i64>,
    /// How often it was transmitted without a reply.
    unconfirmed: i64,
}

impl FromRow<'_, DbRow> for Mail {
    fn from_row(row: &DbRow) -> sqlx::Result<Mail> {
        Ok(Mail {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            user_id: row.try_get("user_id")?,
            email: row.try_get("email")?,
            about: row.try_get("about")?,
            created_at: row.try_get("created_at")?,
            attempts: row.try_get("attempts")?,
            refused_at: row.try_get("refused_at")?,
            unconfirmed: row.try_get("unconfirmed")?,
        })
    }
}

impl Mail {
    /// Whether an earlier attempt to send it failed. Rate limits counted it then.
    pub fn is_retry(&self) -> bool {
        self.attempts > 1
    }

    /// Whether this is the first attempt.
    pub fn is_new(&self) -> bool {
        self.attempts == 1
    }

    /// Whether more time than this has passed since it was queued.
    pub fn is_older_than(&self, lifetime: Duration) -> bool {
        now() - self.created_at > lifetime.as_secs() as i64
    }

    pub fn domain(&self) -> &str {
        self.email.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Whether it was transmitted so often without a reply that it must not be sent again.
    pub fn is_used_up(&self) -> bool {
        self.unconfirmed >= MOST_UNCONFIRMED
    }

    /// Whether it is given up after this failure.
    pub fn gives_up(&self, kind: FailureKind) -> bool {
        match kind {
            FailureKind::Paused => false,
            FailureKind::Later => {
                self.attempts >= LEAST_ATTEMPTS && self.refused_at.is_some_and(|at| now() - at >= GIVE_UP_AFTER)
            }
            FailureKind::Final => true,
            FailureKind::Unknown => self.unconfirmed + 1 >= MOST_UNCONFIRMED,
        }
    }
}

/// Adds a mail to the outbox. `about` is for the feature that writes mails of this kind.
pub async fn queue(
    db: &mut Connection,
    kind: &'static str,
    user_id: Option<&str>,
    email: &str,
    about: &str,
) -> Result<()> {
    let sql = "insert into mails (id, kind, user_id, email, about, created_at, due_at, attempts) \
               values ($1, $2, $3, $4, $5, $6, $6, 0)";
    let query = sqlx::query(sql).bind(new_id()).bind(kind).bind(user_id).bind(email);
    query.bind(about).bind(now()).execute(&mut *db).await?;
    // A mail that anyone can request waits until the worker next looks. Writing it takes longer if the address is
    // known, and if it were written at once, the visitor's next request would be slower.
    if user_id.is_some() {
        db.notify_on_commit();
    }
    Ok(())
}

/// Like [`queue`], to the user's confirmed address, if there is one.
pub async fn queue_to_user(db: &mut Connection, kind: &'static str, user_id: &str, about: &str) -> Result<()> {
    queue_to_user_after(db, Duration::ZERO, kind, user_id, about).await?;
    db.notify_on_commit();
    Ok(())
}

/// Like [`queue_to_user`], not to be sent before this much time has passed.
pub async fn queue_to_user_after(
    db: &mut Connection,
    delay: Duration,
    kind: &'static str,
    user_id: &str,
    about: &str,
) -> Result<()> {
    let sql = "insert into mails (id, kind, user_id, email, about, created_at, due_at, attempts) \
               select $1, $2, user_id, email, $3, $4, $4 + $5, 0 from addresses \
               where user_id = $6 and confirmed_at is not null";
    let query = sqlx::query(sql).bind(new_id()).bind(kind).bind(about).bind(now());
    query.bind(delay.as_secs() as i64).bind(user_id).execute(db).await?;
    Ok(())
}

/// Removes the user's mails of this kind that have not been sent.
pub async fn cancel(db: &mut Connection, user_id: &str, kind: &str) -> Result<()> {
    let sql = "delete from mails where user_id = $1 and kind = $2";
    sqlx::query(sql).bind(user_id).bind(kind).execute(db).await?;
    Ok(())
}

/// Like [`cancel`], for mails of all kinds.
pub async fn cancel_all(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from mails where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

/// Like [`cancel`], for mails about this id and later ones.
pub async fn cancel_since(db: &mut Connection, user_id: &str, kind: &str, about: &str) -> Result<()> {
    let sql = "delete from mails where user_id = $1 and kind = $2 and about >= $3";
    sqlx::query(sql).bind(user_id).bind(kind).bind(about).execute(db).await?;
    Ok(())
}

/// Removes one mail. Returns whether it was there.
pub async fn cancel_one(db: &mut Connection, id: &str) -> Result<bool> {
    Ok(sqlx::query("delete from mails where id = $1").bind(id).execute(db).await?.rows_affected() > 0)
}

/// Makes a mail due now that was given up, or waits because it could not be sent. Returns whether it was such a mail: one that
/// was transmitted without a reply may be on its way, and is left to wait.
///
/// Its attempts are counted on, because a process that may be preparing it knows by their number whether it is still its to
/// send.
pub async fn retry(db: &mut Connection, id: &str) -> Result<bool> {
    let sql = "update mails set due_at = $2, attempts = attempts + 1, failed_at = null, refused_at = null, unconfirmed = 0 \
               where id = $1 and (failed_at is not null or (error is not null and unconfirmed = 0 and due_at > $2))";
    let is_due = sqlx::query(sql).bind(id).bind(now()).execute(&mut *db).await?.rows_affected() > 0;
    if is_due {
        db.notify_on_commit();
    }
    Ok(is_due)
}

/// Whether the mail is still waiting and still this process's to send. To be called in the transaction that writes it.
pub async fn is_claimed(db: &mut Connection, mail: &Mail) -> Result<bool> {
    let sql = "select 1 from mails where id = $1 and attempts = $2";
    Ok(sqlx::query(sql).bind(&*mail.id).bind(mail.attempts).fetch_optional(db).await?.is_some())
}

/// How many mails wait, and how many were given up.
pub async fn count(db: &mut Connection) -> Result<(i64, i64)> {
    let sql = "select count(*) - count(failed_at), count(failed_at) from mails";
    Ok(sqlx::query_as(sql).fetch_one(db).await?)
}

/// Deletes mails that were given up 30 days ago; `$1` is the time.
pub const PURGE: &str =
    "delete from mails where id in (select id from mails where failed_at <= $1 - 30 * 86400 limit 1000)";

/// Maximum number of domains that can be left out when a mail is claimed.
pub const MOST_BUSY: usize = 8;

/// Finds the mail that has been due longest, except to the domains from `$3` on. Mails to users come before mails that
/// anyone can request, because a flood of those must not delay notices. Last come mails that are due later than
/// possible, at `$2`: they were queued while a clock was ahead.
const DUE: &str = "with waiting as not materialized (select id, due_at, user_id from mails where failed_at is null \
     and email not like $3 and email not like $4 and email not like $5 and email not like $6 \
     and email not like $7 and email not like $8 and email not like $9 and email not like $10) \
     select id from mails where id = coalesce(\
     (select id from waiting where due_at <= $1 and user_id is not null order by due_at limit 1), \
     (select id from waiting where due_at <= $1 order by due_at limit 1), \
     (select id from waiting where due_at > $2 order by due_at desc limit 1))";

/// The latest time at which a mail can be due.
fn latest(now: i64) -> i64 {
    now + LONGEST_DELAY + SKEW.as_secs() as i64
}

/// Claims the mail to send next, except to these domains, of which at most [`MOST_BUSY`] count.
pub async fn claim(db: &Database, busy: &[&str]) -> Result<Option<Mail>> {
    loop {
        let now = now();
        let due = async |db: &mut Connection| {
            let patterns = busy.iter().map(|domain| format!("%@{domain}")).chain(repeat_n(String::new(), MOST_BUSY));
            let query = sqlx::query_scalar(DUE).bind(now).bind(latest(now));
            let query = patterns.take(MOST_BUSY).fold(query, |query, pattern| query.bind(pattern));
            Ok(query.fetch_optional(db).await?)
        };
        let Some(id): Option<String> = db.read(due).await? else { return Ok(None) };
        let claim = async |db: &mut Connection| {
            let sql = "update mails set due_at = $1 + $2, attempts = attempts + 1 \
                       where id = $3 and (due_at <= $1 or due_at > $4) \
                       returning id, kind, user_id, email, about, created_at, attempts, refused_at, unconfirmed";
            let query = sqlx::query_as(sql).bind(now).bind(LEASE).bind(&*id).bind(latest(now));
            Ok(query.fetch_optional(db).await?)
        };
        // If there is none, another process was faster, and there may be more.
        if let Some(mail) = db.write(claim).await? {
            return Ok(Some(mail));
        }
    }
}

/// Renews the lease. Returns whether the mail is still this process's to send.
pub async fn renew(db: &Database, mail: &Mail) -> Result<bool> {
    let renew = async |db: &mut Connection| {
        let sql = "update mails set due_at = $1 where id = $2 and attempts = $3";
        let query = sqlx::query(sql).bind(now() + LEASE).bind(&*mail.id).bind(mail.attempts);
        Ok(query.execute(db).await?.rows_affected() > 0)
    };
    db.write_relaxed(renew).await
}

/// Marks the mail as transmitted without a reply, which is how it stays if the process dies. Returns whether it is
/// still waiting and this process's to send.
pub async fn begin_transmission(db: &Database, mail: &Mail) -> Result<bool> {
    let begin = async |db: &mut Connection| {
        let sql = "update mails set due_at = $1, unconfirmed = unconfirmed + 1 where id = $2 and attempts = $3";
        let query = sqlx::query(sql).bind(now() + TRANSMISSION_LEASE).bind(&*mail.id).bind(mail.attempts);
        Ok(query.execute(db).await?.rows_affected() > 0)
    };
    db.write_relaxed(begin).await
}

/// Deletes a mail that was sent or is no longer needed.
pub async fn delete(db: &Database, mail: &Mail) -> Result<()> {
    let delete = async |db: &mut Connection| {
        let sql = "delete from mails where id = $1 and attempts = $2";
        sqlx::query(sql).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
        Ok(())
    };
    db.write(delete).await
}

/// Schedules a retry, or gives the mail up.
pub async fn postpone(db: &Database, mail: &Mail, kind: FailureKind, reason: &str) -> Result<()> {
    let longest = if kind == FailureKind::Paused { LONGEST_PAUSE } else { LONGEST_DELAY };
    let first = if kind == FailureKind::Unknown { FIRST_DELAY_UNKNOWN } else { FIRST_DELAY };
    let delay = (first << (mail.attempts - 1).min(10)).min(longest);
    let refused_at = mail.refused_at.or((kind == FailureKind::Later).then(now));
    let unconfirmed = mail.unconfirmed + i64::from(kind == FailureKind::Unknown);
    let failed_at = mail.gives_up(kind).then(now);
    let postpone = async |db: &mut Connection| {
        let sql = "update mails set due_at = $1, error = $2, failed_at = $3, refused_at = $4, unconfirmed = $5 \
                   where id = $6 and attempts = $7";
        let query = sqlx::query(sql).bind(now() + delay).bind(reason).bind(failed_at).bind(refused_at);
        query.bind(unconfirmed).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
        Ok(())
    };
    db.write(postpone).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::test::TestApp;
    use futures_util::future::join_all;

    async fn queue_one(app: &TestApp) {
        let queue = async |db: &mut Connection| queue(db, "test", None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
    }

    #[tokio::test]
    async fn mails_to_users_are_sent_before_those_that_anybody_can_ask_for() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        let queue = async |user_id, about| {
            let queue = async |db: &mut Connection| queue(db, "test", user_id, "ada@example.com", about).await;
            app.app.db.write(queue).await.unwrap();
            app.execute("update mails set due_at = due_at - 1").await;
        };
        for (user_id, about) in [(None, "first"), (None, "second"), (Some(&*id), "third"), (Some(&*id), "fourth")] {
            queue(user_id, about).await;
        }
        for about in ["third", "fourth", "first", "second"] {
            assert_eq!(claim(&app.app.db, &[]).await.unwrap().unwrap().about, about);
        }
        assert!(claim(&app.app.db, &[]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_mail_that_was_queued_while_the_clock_was_ahead_is_sent_at_once() {
        let app = TestApp::new().await;
        for ahead in [3_600, 86_400, 50 * 365 * 86_400] {
            app.set_clock_ahead(ahead);
            let queue = async |db: &mut Connection| queue(db, "test", None, "ada@example.com", "about").await;
            app.app.db.write(queue).await.unwrap();
            app.set_clock_ahead(0);
            assert!(claim(&app.app.db, &[]).await.unwrap().is_some(), "{ahead} s ahead");
            assert!(claim(&app.app.db, &[]).await.unwrap().is_none(), "{ahead} s ahead");
        }
    }

    #[tokio::test]
    async fn domains_that_are_busy_are_left_out() {
        let app = TestApp::new().await;
        for email in ["ada@slow.example", "bob@quick.example", "\"a@slow.example\"@other.example"] {
            let queue = async |db: &mut Connection| queue(db, "test", None, email, "").await;
            app.app.db.write(queue).await.unwrap();
            app.execute("update mails set due_at = due_at - 1").await;
        }
        for (busy, email) in [
            (&["slow.example", "other.example"][..], Some("bob@quick.example")),
            (&["slow.example"], Some("\"a@slow.example\"@other.example")),
            (&["slow.example"], None),
            (&["low.example"], Some("ada@slow.example")),
        ] {
            let claimed = claim(&app.app.db, busy).await.unwrap();
            assert_eq!(claimed.map(|mail| mail.email).as_deref(), email, "without {busy:?}");
        }
    }

    #[tokio::test]
    async fn a_process_that_dies_after_a_transmission_leaves_the_mail_alone_for_longer_than_servers_take() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        let mail = claim(&app.app.db, &[]).await.unwrap().unwrap();
        assert!(renew(&app.app.db, &mail).await.unwrap());
        assert!(begin_transmission(&app.app.db, &mail).await.unwrap());
        app.execute("update mails set due_at = due_at - 13 * 60").await;
        assert!(claim(&app.app.db, &[]).await.unwrap().is_none());
        app.execute("update mails set due_at = due_at - 2 * 60").await;
        let again = claim(&app.app.db, &[]).await.unwrap().unwrap();
        assert_eq!(again.unconfirmed, 1);
        // The first may not go on.
        assert!(!renew(&app.app.db, &mail).await.unwrap());
        assert!(!begin_transmission(&app.app.db, &mail).await.unwrap());
    }

    #[tokio::test]
    async fn the_next_mail_is_found_by_an_index_however_many_wait() {
        let app = TestApp::new().await;
        let Some(plan) = app.query_plan(DUE).await else { return };
        for search in ["mails_due_to_users (due_at<?)", "mails_due (due_at<?)", "mails_due (due_at>?)"] {
            assert!(plan.contains(search), "{plan}");
        }
        assert!(!plan.contains("ORDER BY"), "{plan}");
    }

    #[tokio::test]
    async fn a_mail_is_sent_by_one_process_and_taken_over_when_that_is_gone() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        let claims = join_all((0..8).map(|_| claim(&app.app.db, &[]))).await;
        assert_eq!(claims.iter().filter(|claim| matches!(claim, Ok(Some(_)))).count(), 1);
        assert!(claim(&app.app.db, &[]).await.unwrap().is_none());
        app.execute("update mails set due_at = due_at - 20").await;
        let taken = claim(&app.app.db, &[]).await.unwrap().unwrap();
        assert_eq!(taken.attempts, 2);
        // The process that had it before has no say any more.
        delete(&app.app.db, &Mail { attempts: 1, ..taken }).await.unwrap();
        assert_eq!(app.count("select count(*) from mails").await, 1);
    }

    #[tokio::test]
    async fn a_transaction_that_is_rolled_back_sends_no_mail() {
        let app = TestApp::new().await;
        let undone: Result<()> = app
            .app
            .db
            .write(async |db| {
                queue(db, "test", None, "ada@example.com", "").await?;
                Err(Error::NOT_FOUND)
            })
            .await;
        assert!(undone.is_err());
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }
}
