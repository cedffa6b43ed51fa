//! The worker that sends the mails of the outbox, one per replica.

use super::daily_limit::DailyLimit;
use super::delivery::{Deliver, Failure, FailureKind, Transmit};
use super::message::{MailContent, Outgoing, quote};
use super::outbox::{self, LEASE, MOST_BUSY, Mail};
use super::pause::Pause;
use crate::base::{Result, explain};
use crate::db::Database;
use anyhow::{Error, anyhow};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How many mails a process sends at once, not counting slow ones.
const AT_ONCE: usize = 4;

/// A mail that takes longer than this is slow, and makes room for another.
const LONG: Duration = Duration::from_secs(3);

/// How many mails a process sends at once in all.
const MOST_AT_ONCE: usize = MOST_BUSY * AT_ONCE;

/// With this many slow mails, a domain is busy, and its other mails wait.
const MOST_LONG_TO_ONE_DOMAIN: usize = 4;

/// How long to keep trying to save the outcome of a mail, which would otherwise be sent again.
const SAVE_FOR: Duration = Duration::from_secs(10 * 60);

/// Writes a mail, or decides that none is needed.
pub type Write = Arc<dyn Fn(Mail) -> BoxFuture<'static, anyhow::Result<Option<MailContent>>> + Send + Sync>;

/// Sends what is in the outbox.
#[derive(Clone)]
pub struct Outbox {
    pub db: Database,
    pub write: Write,
    pub deliver: Deliver,
    /// For the whole site, over all processes.
    pub limit: Option<DailyLimit>,
    pub pause: Pause,
}

/// The outcome of a mail: sent or no longer needed, or a failure.
type Outcome = Result<(), Failure>;

impl Outbox {
    /// Sends due mails until `stop`, then finishes those in progress, for at most `drain_timeout`.
    pub async fn run(self, drain_timeout: Duration, mut stop: watch::Receiver<bool>) {
        let mut sending = Sending::default();
        while !*stop.borrow() {
            sending.remove_finished();
            let may_send = self.pause.is_over() && sending.has_room(self.pause.is_trying());
            let busy = sending.busy_domains();
            let is_restricted = !may_send || !busy.is_empty();
            let claimed = if may_send { outbox::claim(&self.db, &busy).await } else { Ok(None) };
            match claimed {
                Ok(Some(mail)) => {
                    sending.start(self.clone(), mail);
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("the outbox cannot be read: {}", explain(&Error::from(error))),
            }
            tokio::select! {
                () = self.db.commit_notified(), if may_send => {}
                Some(_) = sending.tasks.join_next(), if is_restricted => {}
                // For retries, and mails left by other processes.
                () = sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => {}
            }
        }
        let finish = async { while sending.tasks.join_next().await.is_some() {} };
        if timeout(drain_timeout, finish).await.is_err() {
            tracing::warn!("a mail was still being sent after DRAIN_TIMEOUT; it will be retried");
        }
    }

    /// Sends all due mails, one after the other.
    #[cfg(test)]
    pub async fn send_all(&self) {
        while let Some(mail) = outbox::claim(&self.db, &[]).await.unwrap() {
            self.send(mail).await;
        }
    }

    async fn send(&self, mail: Mail) {
        let outcome = self.try_to_send(&mail).await;
        let deadline = Instant::now() + SAVE_FOR;
        while let Err(error) = self.save(&mail, &outcome).await {
            if Instant::now() > deadline {
                tracing::warn!("the outcome of a mail could not be saved: {}", explain(&Error::from(error)));
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        if let Err(failure) = &outcome {
            log(&mail, failure);
        }
    }

    async fn try_to_send(&self, mail: &Mail) -> Outcome {
        if mail.is_used_up() {
            let cause = anyhow!("it was transmitted several times without a reply, so it may have arrived");
            return Err(Failure::new(FailureKind::Unknown, cause));
        }
        // Counted before it is written, because writing it can create a link.
        if let Some(limit) = &self.limit
            && !limit.take(&self.db, &mail.kind).await?
        {
            return Err(beyond_limit(mail));
        }
        let delivered = self.deliver(mail).await;
        let may_have_arrived = match &delivered {
            Ok(is_sent) => *is_sent,
            Err(failure) => failure.kind == FailureKind::Unknown,
        };
        if let Some(limit) = &self.limit
            && !may_have_arrived
            && let Err(error) = limit.give_back(&self.db).await
        {
            tracing::warn!("a mail that was not sent counts for MAILS_PER_DAY: {}", explain(&Error::from(error)));
        }
        delivered.map(drop)
    }

    /// Returns whether a mail was sent.
    async fn deliver(&self, mail: &Mail) -> Result<bool, Failure> {
        let prepared = tokio::select! {
            prepared = caught(FailureKind::Later, self.write_and_prepare(mail)) => prepared?,
            lost = self.keep_lease(mail) => return lost.map(|()| false),
        };
        let Some(transmit) = prepared else { return Ok(false) };
        // Otherwise it was cancelled, or another process has claimed it.
        if !outbox::begin_transmission(&self.db, mail).await? {
            return Ok(false);
        }
        caught(FailureKind::Unknown, transmit).await.map(|()| true)
    }

    async fn write_and_prepare(&self, mail: &Mail) -> Result<Option<Transmit>, Failure> {
        let Some(content) = (self.write)(mail.clone()).await? else { return Ok(None) };
        let outgoing = Outgoing { id: mail.id.clone(), email: mail.email.clone(), content };
        (self.deliver)(outgoing).await.map(Some)
    }

    /// Renews the lease; returns when that fails, because another process may have claimed the mail, or it is gone.
    async fn keep_lease(&self, mail: &Mail) -> Result<(), Failure> {
        loop {
            sleep(Duration::from_secs(LEASE as u64 / 4)).await;
            if !outbox::renew(&self.db, mail).await? {
                return Ok(());
            }
        }
    }

    async fn save(&self, mail: &Mail, outcome: &Outcome) -> Result<()> {
        match outcome {
            Ok(()) => outbox::delete(&self.db, mail).await,
            Err(failure) => outbox::postpone(&self.db, mail, failure.kind, &reason(mail, failure)).await,
        }
    }
}

/// A panic counts as a failure.
async fn caught<T>(kind: FailureKind, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let panicked = |_| Err(Failure::new(kind, anyhow!("writing or sending it panicked")));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}

fn beyond_limit(mail: &Mail) -> Failure {
    let cause = anyhow!("the site has sent as many mails as MAILS_PER_DAY allows");
    if mail.is_new() {
        tracing::info!(mail = mail.id, kind = mail.kind, "a mail waits: {cause}");
    }
    Failure::new(FailureKind::Paused, cause)
}

/// Servers repeat the address, which must not be in the log.
fn reason(mail: &Mail, failure: &Failure) -> String {
    explain(&failure.cause).replace(&quote(&mail.email), "…").replace(&mail.email, "…")
}

fn log(mail: &Mail, failure: &Failure) {
    let reason = reason(mail, failure);
    if mail.gives_up(failure.kind) {
        tracing::error!(mail = mail.id, kind = mail.kind, "a mail was given up: {reason}");
    } else if failure.kind != FailureKind::Paused && mail.is_new() {
        tracing::warn!(mail = mail.id, kind = mail.kind, "a mail will be retried: {reason}");
    }
}

/// The mails that a process is sending.
#[derive(Default)]
struct Sending {
    tasks: JoinSet<()>,
    mails: Vec<MailUnderWay>,
}

struct MailUnderWay {
    domain: String,
    begun: Instant,
    task: AbortHandle,
}

impl Sending {
    fn start(&mut self, outbox: Outbox, mail: Mail) {
        let domain = mail.domain().to_string();
        let task = self.tasks.spawn(async move { outbox.send(mail).await });
        self.mails.push(MailUnderWay { domain, begun: Instant::now(), task });
    }

    fn remove_finished(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.mails.retain(|mail| !mail.task.is_finished());
    }

    /// Whether another mail may be sent; while the server is being tried, only one at a time.
    fn has_room(&self, is_trying: bool) -> bool {
        let at_once = if is_trying { 1 } else { AT_ONCE };
        let recent = self.mails.iter().filter(|mail| mail.begun.elapsed() < LONG).count();
        recent < at_once && self.mails.len() < MOST_AT_ONCE
    }

    /// The domains to which no more mails are sent at present.
    fn busy_domains(&self) -> Vec<&str> {
        let long = self.mails.iter().filter(|mail| mail.begun.elapsed() >= LONG);
        let mut domains: Vec<&str> = long.map(|mail| &*mail.domain).collect();
        domains.sort_unstable();
        let busy = domains.chunk_by(|a, b| a == b).filter(|same| same.len() >= MOST_LONG_TO_ONE_DOMAIN);
        busy.map(|same| same[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Connection, now};
    use crate::test::TestApp;
    use futures_util::future::ready;
    use std::sync::Mutex;

    async fn queue_one(app: &TestApp) {
        let queue = async |db: &mut Connection| outbox::queue(db, "test", None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
    }

    async fn send_when_due(app: &TestApp, outbox: &Outbox) {
        app.execute("update mails set due_at = 0").await;
        outbox.send_all().await;
    }

    /// The outbox of this app with a server that fails like this before it consents to take a mail.
    fn failing(app: &TestApp, kind: FailureKind) -> Outbox {
        let fail = move |_| ready(Err(Failure::new(kind, anyhow!("the server said no")))).boxed();
        Outbox { deliver: Arc::new(fail), ..app.outbox().clone() }
    }

    /// As [`failing`], when it has the mail.
    fn failing_late(app: &TestApp, kind: FailureKind) -> Outbox {
        let transmit = move || async move { Err(Failure::new(kind, anyhow!("the server said no"))) }.boxed();
        Outbox { deliver: Arc::new(move |_| ready(Ok(transmit())).boxed()), ..app.outbox().clone() }
    }

    #[tokio::test]
    async fn a_mail_that_is_refused_waits_longer_each_time_and_is_given_up_after_a_day_of_it() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        // What was queued long ago has not been tried for longer.
        app.execute("update mails set created_at = created_at - 3 * 86400").await;
        let outbox = failing(&app, FailureKind::Later);
        for pause in [5, 10, 20, 40, 80, 160, 320, 640].into_iter().chain([900; 11]) {
            send_when_due(&app, &outbox).await;
            app.execute("update mails set refused_at = refused_at - 86400").await;
            let wait = app.count("select due_at from mails").await - now();
            // Some of it has passed already.
            assert!((pause - 4..=pause).contains(&wait), "{pause}: {wait}");
        }
        assert_eq!(app.count("select count(*) from mails where failed_at is null").await, 1);
        send_when_due(&app, &outbox).await;
        assert_eq!(app.count("select count(*) from mails where failed_at > 0 and error like '%said no%'").await, 1);
        assert_eq!(app.app.db.read(async |db| outbox::count(db).await).await.unwrap(), (0, 1));
        send_when_due(&app, &outbox).await;
        assert_eq!(app.count("select attempts from mails").await, 20);
    }

    #[tokio::test]
    async fn however_long_a_server_is_away_no_mail_is_given_up_for_it() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        for _ in 0..20 {
            send_when_due(&app, &failing(&app, FailureKind::Paused)).await;
            app.execute("update mails set created_at = created_at - 86400, refused_at = refused_at - 86400").await;
        }
        let wait = app.count("select due_at from mails").await - now();
        assert!((290..=300).contains(&wait), "{wait}");
        app.execute("update mails set due_at = 0").await;
        assert_eq!(app.mails().await.len(), 1);
    }

    #[tokio::test]
    async fn a_mail_whose_arrival_nobody_confirms_is_sent_three_times_at_most() {
        for kill in [false, true] {
            let app = TestApp::new().await;
            queue_one(&app).await;
            let unknown = failing_late(&app, FailureKind::Unknown);
            for _ in 0..3 {
                assert_eq!(app.count("select count(*) from mails where failed_at is null").await, 1);
                if kill {
                    app.execute("update mails set due_at = 0").await;
                    let mail = outbox::claim(&app.app.db, &[]).await.unwrap().unwrap();
                    assert!(outbox::begin_transmission(&app.app.db, &mail).await.unwrap());
                } else {
                    send_when_due(&app, &unknown).await;
                }
                // Refusals in between are certain, and do not count.
                if app.count("select count(*) from mails where unconfirmed < 3").await == 1 {
                    send_when_due(&app, &failing_late(&app, FailureKind::Later)).await;
                }
            }
            app.execute("update mails set due_at = 0").await;
            assert_eq!(app.mails().await.len(), 0);
            assert_eq!(app.count("select count(*) from mails where failed_at > 0 and unconfirmed >= 3").await, 1);
        }
    }

    #[tokio::test]
    async fn a_mail_is_refused_for_good_at_once() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        failing(&app, FailureKind::Final).send_all().await;
        assert_eq!(app.count("select count(*) from mails where failed_at > 0").await, 1);
    }

    #[tokio::test]
    async fn a_panic_of_whatever_sends_mails_is_a_failure_like_others() {
        let app = TestApp::new().await;
        queue_one(&app).await;
        let panics = |_| -> BoxFuture<'static, Result<Transmit, Failure>> { async { panic!("on purpose") }.boxed() };
        Outbox { deliver: Arc::new(panics), ..app.outbox().clone() }.send_all().await;
        assert_eq!(app.count("select count(*) from mails where failed_at is null and error like '%panicked'").await, 1);
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
        let limited = limited(&app);
        let sent = async |kind: &'static str, times| {
            for _ in 0..times {
                let queue = async |db: &mut Connection| outbox::queue(db, kind, None, "ada@example.com", "").await;
                app.app.db.write(queue).await.unwrap();
            }
            let waiting = app.count("select count(*) from mails").await;
            limited.send_all().await;
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
        let limited = Outbox { deliver: failing(&app, FailureKind::Later).deliver, ..limited(&app) };
        for _ in 0..25 {
            queue_one(&app).await;
        }
        limited.send_all().await;
        assert_eq!(app.count("select count(*) from mails where error like '%said no'").await, 25);
    }

    #[tokio::test]
    async fn a_mail_that_is_cancelled_while_it_is_being_sent_is_not_written_nor_one_to_a_disabled_user() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        for cancels in [true, false] {
            let to_ada = async |db: &mut Connection| outbox::queue(db, "test", Some(&id), "ada@example.com", "").await;
            app.app.db.write(to_ada).await.unwrap();
            let mail = outbox::claim(&app.app.db, &[]).await.unwrap().unwrap();
            if cancels {
                app.app.db.write(async |db| outbox::cancel(db, &id, "test").await).await.unwrap();
            } else {
                app.execute("update users set disabled_at = 1").await;
            }
            app.outbox().send(mail).await;
            assert_eq!(app.mails().await.len(), 0);
            assert_eq!(app.count("select count(*) from mails").await, 0);
        }
    }

    /// A mail that waits for its server can be cancelled until the moment it is transmitted.
    #[tokio::test]
    async fn a_mail_that_is_cancelled_while_its_server_hesitates_is_not_transmitted() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        let transmitted = Arc::new(Mutex::new(0));
        let (db, user_id, count) = (app.app.db.clone(), id.clone(), transmitted.clone());
        let deliver = move |_| {
            let (db, user_id, count) = (db.clone(), user_id.clone(), count.clone());
            async move {
                db.write(async |db| outbox::cancel(db, &user_id, "test").await).await?;
                let transmit = async move {
                    *count.lock().unwrap() += 1;
                    Ok(())
                };
                Ok(transmit.boxed())
            }
            .boxed()
        };
        let to_ada = async |db: &mut Connection| outbox::queue(db, "test", Some(&id), "ada@example.com", "").await;
        app.app.db.write(to_ada).await.unwrap();
        Outbox { deliver: Arc::new(deliver), ..app.outbox().clone() }.send_all().await;
        assert_eq!(*transmitted.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn mails_that_take_long_make_room_for_others_but_not_for_more_to_their_domain() {
        fn add(sending: &mut Sending, domain: &str, age: Duration) {
            let begun = Instant::now().checked_sub(age).unwrap();
            let task = sending.tasks.spawn(std::future::pending());
            sending.mails.push(MailUnderWay { domain: domain.into(), begun, task });
        }
        let mut sending = Sending::default();
        assert!(sending.has_room(true));
        for number in 0..4 {
            assert!(sending.has_room(false), "{number}");
            add(&mut sending, "slow.example", LONG - Duration::from_secs(1));
        }
        assert!(!sending.has_room(false) && !sending.has_room(true));
        assert_eq!(sending.busy_domains(), [""; 0]);
        sending.mails.iter_mut().for_each(|mail| mail.begun -= LONG);
        assert!(sending.has_room(false) && sending.has_room(true));
        assert_eq!(sending.busy_domains(), ["slow.example"]);
        add(&mut sending, "quick.example", Duration::ZERO);
        assert!(sending.has_room(false) && !sending.has_room(true));
        for number in 5..32 {
            assert!(sending.has_room(false), "{number}");
            add(&mut sending, &number.to_string(), LONG);
        }
        assert!(!sending.has_room(false));
    }
}
