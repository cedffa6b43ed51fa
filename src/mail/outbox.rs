//! The outbox. A mail is a row, added in the transaction that it reports; a worker in every replica sends it, and retries
//! for a day.
//!
//! The row says what the mail is about, not what it says: that is written when it is sent. So a request that asks for a
//! mail takes the same time no matter whose address it is, and no link waits in the database to be stolen.

use super::daily_limit::DailyLimit;
use super::message::{MailContent, Outgoing, quote};
use super::smtp;
use crate::base::Result;
use crate::db::clock::SKEW;
use crate::db::{Connection, Database, DbRow, new_id, now};
use anyhow::{anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::{FromRow, Row};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How many mails a process sends at once.
const AT_ONCE: usize = 4;

/// For how many seconds a process owns a mail that it is sending. It renews the lease until it is done; if the process
/// dies, another takes the mail over.
const LEASE: i64 = 20;

/// Seconds until the first retry; each further delay is twice as long, up to the longest.
const FIRST_DELAY: i64 = 5;
const LONGEST_DELAY: i64 = 15 * 60;

/// Seconds after which a mail is given up.
const GIVE_UP_AFTER: i64 = 24 * 60 * 60;

/// A mail in the outbox.
#[derive(Clone)]
pub struct Mail {
    pub id: String,
    pub kind: String,
    pub user_id: Option<String>,
    /// The address it goes to.
    pub email: String,
    /// What it is about, in whatever form its kind uses: an event's id, a bookmark's.
    pub about: String,
    created_at: i64,
    attempts: i64,
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
        })
    }
}

impl Mail {
    /// Whether an earlier attempt to send it has failed. Limits have counted it then.
    pub fn is_retry(&self) -> bool {
        self.attempts > 1
    }
}

/// Writes a mail, or decides that there is none to send.
pub type Write = Arc<dyn Fn(Mail) -> BoxFuture<'static, anyhow::Result<Option<MailContent>>> + Send + Sync>;

/// Delivers a mail.
pub type Deliver = Arc<dyn Fn(Outgoing) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

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
    // A mail that anybody can ask for waits until the worker looks by itself. Writing it takes longer if somebody has the
    // address, and done at once that would slow down the next request of the same visitor.
    if user_id.is_some() {
        db.notify_on_commit();
    }
    Ok(())
}

/// As [`queue`], to the address that the user has confirmed at this moment, if there is one.
pub async fn queue_to_user(db: &mut Connection, kind: &'static str, user_id: &str, about: &str) -> Result<()> {
    queue_to_user_after(db, Duration::ZERO, kind, user_id, about).await?;
    db.notify_on_commit();
    Ok(())
}

/// As [`queue_to_user`], not to be sent before so much time has passed.
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

/// As [`cancel`], of those about this id and later ones.
pub async fn cancel_since(db: &mut Connection, user_id: &str, kind: &str, about: &str) -> Result<()> {
    let sql = "delete from mails where user_id = $1 and kind = $2 and about >= $3";
    sqlx::query(sql).bind(user_id).bind(kind).bind(about).execute(db).await?;
    Ok(())
}

/// Whether the mail still waits, and is still this process's to send. Asked in the transaction that writes it.
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

/// Finds the mail that has been due longest. One to a user comes before one that anybody can ask for, because a crowd of
/// those must not delay a notice. The last is due later than any can be, at `$2`: it was queued while a clock was ahead.
const DUE: &str = "select id from mails where id = coalesce(\
     (select id from mails where due_at <= $1 and failed_at is null and user_id is not null order by due_at limit 1), \
     (select id from mails where due_at <= $1 and failed_at is null order by due_at limit 1), \
     (select id from mails where due_at > $2 and failed_at is null order by due_at desc limit 1))";

/// The latest time at which a mail can be due.
fn latest(now: i64) -> i64 {
    now + LONGEST_DELAY + SKEW.as_secs() as i64
}

/// Sends what is in the outbox.
#[derive(Clone)]
pub struct Outbox {
    pub db: Database,
    pub write: Write,
    pub deliver: Deliver,
    /// For the whole site, whichever process sends.
    pub limit: Option<DailyLimit>,
}

impl Outbox {
    /// Sends due mails until `stop`, and then finishes those under way, for at most `drain_timeout`.
    pub async fn run(self, drain_timeout: Duration, mut stop: watch::Receiver<bool>) {
        let mut sending = JoinSet::new();
        while !*stop.borrow() {
            while sending.try_join_next().is_some() {}
            let has_room = sending.len() < AT_ONCE;
            let claimed = if has_room { self.claim().await } else { Ok(None) };
            match claimed {
                Ok(Some(mail)) => {
                    let outbox = self.clone();
                    sending.spawn(async move { outbox.send(mail).await });
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("the outbox cannot be read: {:#}", anyhow::Error::from(error)),
            }
            tokio::select! {
                () = self.db.commit_notified(), if has_room => {}
                Some(_) = sending.join_next(), if !has_room => {}
                // For retries, and mails that other processes have left.
                () = sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => {}
            }
        }
        let finish = async { while sending.join_next().await.is_some() {} };
        if timeout(drain_timeout, finish).await.is_err() {
            tracing::warn!("a mail was still being sent after DRAIN_TIMEOUT; it will be retried");
        }
    }

    /// Sends what is due, one after the other.
    #[cfg(test)]
    pub async fn send_all(&self) {
        while let Some(mail) = self.claim().await.unwrap() {
            self.send(mail).await;
        }
    }

    /// Takes the mail that is to be sent next.
    async fn claim(&self) -> Result<Option<Mail>> {
        loop {
            let now = now();
            let due = async |db: &mut Connection| {
                Ok(sqlx::query_scalar(DUE).bind(now).bind(latest(now)).fetch_optional(db).await?)
            };
            let Some(id): Option<String> = self.db.read(due).await? else { return Ok(None) };
            let claim = async |db: &mut Connection| {
                let sql = "update mails set due_at = $1 + $2, attempts = attempts + 1 \
                           where id = $3 and (due_at <= $1 or due_at > $4) \
                           returning id, kind, user_id, email, about, created_at, attempts";
                let query = sqlx::query_as(sql).bind(now).bind(LEASE).bind(&*id).bind(latest(now));
                Ok(query.fetch_optional(db).await?)
            };
            // Without an answer another process was faster, and there may be more.
            if let Some(mail) = self.db.write(claim).await? {
                return Ok(Some(mail));
            }
        }
    }

    async fn send(&self, mail: Mail) {
        // A panic is treated like any other failure.
        let sent = AssertUnwindSafe(self.write_and_deliver(&mail)).catch_unwind();
        let outcome = tokio::select! {
            outcome = sent => outcome.unwrap_or_else(|_| Err(anyhow!("writing or sending it panicked"))),
            lost = self.keep_lease(&mail) => Err(lost),
        };
        let recorded = match outcome {
            Ok(()) => self.delete(&mail).await,
            Err(error) => self.postpone(&mail, &error).await,
        };
        if let Err(error) = recorded {
            tracing::warn!("the outcome of a mail could not be saved: {:#}", anyhow::Error::from(error));
        }
    }

    async fn write_and_deliver(&self, mail: &Mail) -> anyhow::Result<()> {
        // Counted before it is written, because writing it can make a link.
        if let Some(limit) = &self.limit
            && !limit.take(&self.db, &mail.kind).await?
        {
            bail!("the site has sent as many mails as MAILS_PER_DAY allows");
        }
        let delivered = match (self.write)(mail.clone()).await {
            Ok(Some(content)) => {
                let outgoing = Outgoing { id: mail.id.clone(), email: mail.email.clone(), content };
                (self.deliver)(outgoing).await.map(|()| true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        if let Some(limit) = &self.limit
            && !matches!(delivered, Ok(true))
            && let Err(error) = limit.give_back(&self.db).await
        {
            tracing::warn!("a mail that was not sent counts for MAILS_PER_DAY: {:#}", anyhow::Error::from(error));
        }
        delivered.map(drop)
    }

    /// Renews the lease; ends when that fails, because another process may take the mail then.
    async fn keep_lease(&self, mail: &Mail) -> anyhow::Error {
        loop {
            sleep(Duration::from_secs(LEASE as u64 / 4)).await;
            let renew = async |db: &mut Connection| {
                let sql = "update mails set due_at = $1 where id = $2 and attempts = $3";
                let query = sqlx::query(sql).bind(now() + LEASE).bind(&*mail.id).bind(mail.attempts);
                Ok(query.execute(db).await?.rows_affected() > 0)
            };
            match self.db.write_relaxed(renew).await {
                Ok(true) => {}
                Ok(false) => return anyhow!("another process has taken it"),
                Err(error) => return anyhow::Error::from(error).context("the database cannot be reached"),
            }
        }
    }

    async fn delete(&self, mail: &Mail) -> Result<()> {
        let delete = async |db: &mut Connection| {
            let sql = "delete from mails where id = $1 and attempts = $2";
            sqlx::query(sql).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
            Ok(())
        };
        self.db.write(delete).await
    }

    /// Schedules a retry, or gives the mail up.
    async fn postpone(&self, mail: &Mail, error: &anyhow::Error) -> Result<()> {
        let gives_up = now() - mail.created_at >= GIVE_UP_AFTER || smtp::is_final(error);
        // Servers repeat the address, which does not belong in the log.
        let reason = format!("{error:#}").replace(&quote(&mail.email), "…").replace(&mail.email, "…");
        if gives_up {
            tracing::error!(mail = mail.id, kind = mail.kind, "a mail was given up: {reason}");
        } else {
            tracing::warn!(mail = mail.id, kind = mail.kind, "a mail will be retried: {reason}");
        }
        let delay = (FIRST_DELAY << (mail.attempts - 1).min(10)).min(LONGEST_DELAY);
        let postpone = async |db: &mut Connection| {
            let sql = "update mails set due_at = $1, error = $2, failed_at = $3 where id = $4 and attempts = $5";
            let query = sqlx::query(sql).bind(now() + delay).bind(&*reason);
            query.bind(gives_up.then(now)).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
            Ok(())
        };
        self.db.write(postpone).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::test::TestApp;
    use crate::web::Routes;
    use futures_util::future::join_all;

    async fn queue_one(app: &TestApp) {
        let queue = async |db: &mut Connection| queue(db, "test", None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
    }

    #[tokio::test]
    async fn a_mail_that_cannot_be_sent_waits_longer_each_time_and_is_given_up_after_a_day() {
        // Nothing listens there.
        let smtp = [("SMTP_URL", "smtp://127.0.0.1:1")];
        let app = TestApp::with_env(&smtp, Routes::new()).await;
        queue_one(&app).await;
        for pause in [5, 10, 20, 40, 80, 160, 320, 640, 900, 900] {
            app.outbox().send_all().await;
            let wait = app.count("select due_at from mails").await - now();
            // Some of it has passed already.
            assert!((pause - 4..=pause).contains(&wait), "{pause}: {wait}");
            app.execute("update mails set due_at = 0").await;
        }
        assert_eq!(app.count("select count(*) from mails where failed_at is null").await, 1);
        app.execute("update mails set created_at = created_at - 86400").await;
        app.outbox().send_all().await;
        assert_eq!(app.count("select count(*) from mails where failed_at > 0 and error like '%SMTP%'").await, 1);
        assert_eq!(app.app.db.read(async |db| count(db).await).await.unwrap(), (0, 1));
        app.outbox().send_all().await;
        assert_eq!(app.count("select attempts from mails").await, 11);
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
            assert_eq!(app.outbox().claim().await.unwrap().unwrap().about, about);
        }
        assert!(app.outbox().claim().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_mail_that_was_queued_while_the_clock_was_ahead_is_sent_at_once() {
        let app = TestApp::new().await;
        for ahead in [3_600, 86_400, 50 * 365 * 86_400] {
            app.set_clock_ahead(ahead);
            let queue = async |db: &mut Connection| queue(db, "test", None, "ada@example.com", "about").await;
            app.app.db.write(queue).await.unwrap();
            app.set_clock_ahead(0);
            assert!(app.outbox().claim().await.unwrap().is_some(), "{ahead} s ahead");
            assert!(app.outbox().claim().await.unwrap().is_none(), "{ahead} s ahead");
        }
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

    /// The outbox of this app, on a site that sends 20 mails a day, and where every mail says the same.
    fn limited(app: &TestApp) -> Outbox {
        let content = || MailContent { subject: "Hello".into(), text: "".into(), html: "".into(), unsubscribe: None };
        let write: Write = Arc::new(move |_: Mail| async move { Ok(Some(content())) }.boxed());
        Outbox { write, limit: Some(DailyLimit::new(20, &["essential"])), ..app.outbox().clone() }
    }

    #[tokio::test]
    async fn a_site_sends_no_more_mails_a_day_than_it_may_and_keeps_a_tenth_for_what_people_need() {
        let app = TestApp::new().await;
        let outbox = limited(&app);
        let sent = async |kind: &'static str, times| {
            for _ in 0..times {
                let queue = async |db: &mut Connection| queue(db, kind, None, "ada@example.com", "").await;
                app.app.db.write(queue).await.unwrap();
            }
            let waiting = app.count("select count(*) from mails").await;
            outbox.send_all().await;
            waiting - app.count("select count(*) from mails").await
        };
        assert_eq!(sent("test", 30).await, 18);
        assert_eq!(sent("essential", 5).await, 2);
        assert_eq!(app.count("select count(*) from mails where error like '%MAILS_PER_DAY%'").await, 15);
        // One more is allowed every 72 minutes, and goes to what is essential first.
        app.execute("update limits set free_at = free_at - 72 * 60 * 1000").await;
        app.execute("update mails set due_at = 0").await;
        assert_eq!(sent("test", 0).await, 1);
        assert_eq!(app.count("select count(*) from mails where kind = 'essential'").await, 2);
    }

    #[tokio::test]
    async fn a_mail_that_was_not_delivered_does_not_count_as_one_of_the_day() {
        let app = TestApp::new().await;
        let fail: Deliver = Arc::new(|_: Outgoing| async { Err(anyhow!("the mail server is away")) }.boxed());
        let outbox = Outbox { deliver: fail, ..limited(&app) };
        for _ in 0..25 {
            queue_one(&app).await;
        }
        outbox.send_all().await;
        assert_eq!(app.count("select count(*) from mails where error like '%is away'").await, 25);
    }

    #[tokio::test]
    async fn a_mail_is_sent_by_one_process_and_taken_over_when_that_is_gone() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        let outbox = app.outbox();
        let claims = join_all((0..8).map(|_| outbox.claim())).await;
        assert_eq!(claims.iter().filter(|claim| matches!(claim, Ok(Some(_)))).count(), 1);
        assert!(outbox.claim().await.unwrap().is_none());
        app.execute("update mails set due_at = due_at - 20").await;
        let taken = outbox.claim().await.unwrap().unwrap();
        assert_eq!(taken.attempts, 2);
        // The process that had it before has no say any more.
        outbox.delete(&Mail { attempts: 1, ..taken }).await.unwrap();
        assert_eq!(app.count("select count(*) from mails").await, 1);
    }

    #[tokio::test]
    async fn a_mail_that_is_cancelled_while_it_is_being_sent_is_not_written_nor_one_to_a_disabled_user() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        for cancels in [true, false] {
            let to_ada = async |db: &mut Connection| queue(db, "test", Some(&id), "ada@example.com", "").await;
            app.app.db.write(to_ada).await.unwrap();
            let mail = app.outbox().claim().await.unwrap().unwrap();
            if cancels {
                app.app.db.write(async |db| cancel(db, &id, "test").await).await.unwrap();
            } else {
                app.execute("update users set disabled_at = 1").await;
            }
            app.outbox().send(mail).await;
            assert_eq!(app.mails().await.len(), 0);
            assert_eq!(app.count("select count(*) from mails").await, 0);
        }
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
