//! Mail. A mail is a row of the outbox, written in the transaction of what it tells; a worker in every replica sends it,
//! again and again for a day if need be.
//!
//! The row says what the mail is about, not what it says: the feature that knows its kind writes it when it is sent. So
//! whoever asks for a mail learns nothing from the time it takes, and no link waits in the database to be stolen.

use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::{Connection, new_id, now};
use crate::error::{Error, Result};
use crate::page::Letter;
use crate::throttle::{self, Key};
use crate::user;
use anyhow::{Context, anyhow, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::response::Category;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Where mails go.
pub enum Delivery {
    /// There is no mail: what needs it is hidden.
    Nowhere,
    /// They stay in this process, for whoever develops the site.
    Mailbox,
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

impl Delivery {
    /// By SMTP as `url` says: `smtps://` speaks TLS from the start, `smtp://` after STARTTLS. Only a server that is `near`
    /// may do without, unless the URL says `?tls=required`. Certificates are those that the system trusts.
    ///
    /// # Errors
    /// One sentence that says what to set.
    pub fn by_smtp(url: &url::Url, near: bool) -> anyhow::Result<Delivery> {
        let host = url.host_str().context("SMTP_URL names no server")?;
        let host = host.trim_matches(['[', ']']);
        let required = url.query() == Some("tls=required");
        // Half a password that was not encoded may stand here too, and what comes before it is no server then.
        ensure!(
            (required || url.query().is_none()) && matches!(url.path(), "" | "/") && url.fragment().is_none(),
            "SMTP_URL: after the server only ?tls=required can follow, and name and password must be percent-encoded"
        );
        let parameters = TlsParameters::new_rustls(host.to_string())
            .context("the certificates that this system trusts cannot be read")?;
        let (tls, port) = match url.scheme() {
            "smtps" => (Tls::Wrapper(parameters), 465),
            "smtp" if near && !required => (Tls::Opportunistic(parameters), 587),
            "smtp" => (Tls::Required(parameters), 587),
            _ => bail!("SMTP_URL must begin with smtps:// or smtp://, or be none"),
        };
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(String::from).context("SMTP_URL: write name and password percent-encoded")
        };
        let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(url.port().unwrap_or(port))
            .tls(tls)
            .timeout(Some(PATIENCE));
        if !url.username().is_empty() {
            let (name, password) = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
            server = server.credentials(Credentials::new(name, password));
        }
        Ok(Delivery::Smtp(Box::new(server.build())))
    }

    /// Says where mails go, once the server has let us in.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check(&self) -> anyhow::Result<&'static str> {
        match self {
            Delivery::Nowhere => Ok("there is none, and what needs it is hidden"),
            Delivery::Mailbox => Ok("it stays at /dev/mailbox"),
            Delivery::Smtp(server) => {
                let connected = timeout(PATIENCE, server.test_connection()).await;
                let connected = connected.context("the server that SMTP_URL names took too long")?;
                let let_in = connected.context("the server that SMTP_URL names does not let us in")?;
                ensure!(let_in, "the server that SMTP_URL names is not ready");
                Ok("the server lets us in")
            }
        }
    }
}

/// How long a server may take for one mail.
const PATIENCE: Duration = Duration::from_secs(40);

/// How many mails a process sends at once.
const AT_ONCE: usize = 4;

/// A mail that is being sent belongs to its process for so many seconds, again and again until it is sent: when the process
/// dies, another takes it over.
const LEASE: i64 = 20;

/// The first pause before a mail is tried again, each further one twice as long; the longest; and when it is given up.
const FIRST_PAUSE: i64 = 5;
const LONGEST_PAUSE: i64 = 15 * 60;
const GIVEN_UP_AFTER: i64 = 24 * 60 * 60;

/// A row of the outbox.
pub struct Mail {
    pub id: String,
    kind: String,
    user_id: Option<String>,
    /// Whom it is for.
    pub email: String,
    /// What it is about, as the feature that sends it understands it.
    pub subject: String,
    created_at: i64,
    attempts: i64,
}

/// Writes a mail, or decides that there is none to send. If it was queued for a user, they are there, and their row is taken.
pub type Compose = for<'a> fn(&'a App, &'a mut Connection, &'a Mail, Option<User>) -> Writing<'a>;

pub type Writing<'a> = BoxFuture<'a, Result<Option<Letter>>>;

/// Puts a mail into the outbox. One whose kind no feature knows is dropped.
pub async fn queue(
    db: &mut Connection,
    kind: &'static str,
    user_id: Option<&str>,
    email: &str,
) -> Result<()> {
    let sql = "insert into mails (id, kind, user_id, email, subject, created_at, due_at, attempts) \
               values ($1, $2, $3, $4, '', $5, $5, 0)";
    let query = sqlx::query(sql).bind(new_id()).bind(kind).bind(user_id).bind(email).bind(now());
    query.execute(&mut *db).await?;
    // What a stranger asks for waits until the worker looks by itself. It does more for an address that somebody has, and
    // at once the asker's next request would take longer by that.
    if user_id.is_some() {
        db.wake_outbox();
    }
    Ok(())
}

/// Takes the user's mails of this kind back, as far as they have not been sent.
pub async fn drop_unsent(db: &mut Connection, user_id: &str, kind: &str) -> Result<()> {
    let sql = "delete from mails where user_id = $1 and kind = $2";
    sqlx::query(sql).bind(user_id).bind(kind).execute(db).await?;
    Ok(())
}

/// Takes back what the user was to be told of this event and of later ones.
pub async fn drop_untold_since(db: &mut Connection, user_id: &str, event_id: &str) -> Result<()> {
    let sql = "delete from mails where user_id = $1 and kind = $2 and subject >= $3";
    sqlx::query(sql).bind(user_id).bind(NOTICE).bind(event_id).execute(db).await?;
    Ok(())
}

/// The kind of the mails that tell people what happened to their accounts.
pub const NOTICE: &str = "notice";

/// Tells a user of an event, at the address that is confirmed at this moment, if there is one.
pub async fn tell(db: &mut Connection, user_id: Option<&str>, event_id: &str) -> Result<()> {
    let sql = "insert into mails (id, kind, user_id, email, subject, created_at, due_at, attempts) \
               select $1, $2, user_id, email, $3, $4, $4, 0 from addresses \
               where user_id = $5 and confirmed_at is not null";
    let query = sqlx::query(sql).bind(new_id()).bind(NOTICE).bind(event_id).bind(now());
    query.bind(user_id).execute(&mut *db).await?;
    db.wake_outbox();
    Ok(())
}

impl Mail {
    pub fn is_tried_again(&self) -> bool {
        self.attempts > 1
    }

    /// Whether one more mail of this kind may go to this user, by `MAILS_PER_ACCOUNT`; to an address that proves nothing not
    /// more than `MAILS_PER_ADDRESS` go, whoever asks. A mail that is tried again has been counted.
    pub async fn is_within_limits(&self, app: &App, db: &mut Connection, user_id: &str) -> Result<bool> {
        if self.is_tried_again() {
            return Ok(true);
        }
        let account = Key::new(&self.kind, user_id);
        let address = Key::new(&self.kind, &self.email);
        for (key, rate) in [(account, app.config.mails_per_account), (address, app.config.mails_per_address)]
        {
            match throttle::take(db, &key, rate).await {
                Err(Error::TooMany(_)) => return Ok(false),
                taken => taken?,
            }
        }
        Ok(true)
    }
}

/// Sends what is due until `stop`, and then what it has begun, for at most `DRAIN_TIMEOUT`.
pub async fn forever(app: App, mut stop: watch::Receiver<bool>) {
    let mut sending = JoinSet::new();
    while !*stop.borrow() {
        while sending.try_join_next().is_some() {}
        let room = sending.len() < AT_ONCE;
        let claimed = if room { claim(&app).await } else { Ok(None) };
        match claimed {
            Ok(Some(mail)) => {
                sending.spawn(send(app.clone(), mail));
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("the outbox cannot be read: {:#}", anyhow::Error::from(error)),
        }
        tokio::select! {
            () = app.db.outbox_woken(), if room => {}
            Some(_) = sending.join_next(), if !room => {}
            // What is due again, and what other processes have left.
            () = sleep(Duration::from_secs(1)) => {}
            _ = stop.changed() => {}
        }
    }
    let rest = async { while sending.join_next().await.is_some() {} };
    if timeout(app.config.drain_timeout, rest).await.is_err() {
        tracing::warn!("a mail was still under way after DRAIN_TIMEOUT; it will be tried again");
    }
}

/// Takes the mail that has been due longest.
async fn claim(app: &App) -> Result<Option<Mail>> {
    loop {
        let due = async |db: &mut Connection| {
            let sql = "select id from mails where due_at <= $1 and failed_at is null order by due_at limit 1";
            Ok(sqlx::query_as(sql).bind(now()).fetch_optional(db).await?)
        };
        let Some((id,)): Option<(String,)> = app.db.read(due).await? else { return Ok(None) };
        let claim = async |db: &mut Connection| {
            let sql = "update mails set due_at = $1 + $2, attempts = attempts + 1 where id = $3 and due_at <= $1 \
                       returning kind, user_id, email, subject, created_at, attempts";
            Ok(sqlx::query_as(sql).bind(now()).bind(LEASE).bind(&*id).fetch_optional(db).await?)
        };
        let claimed: Option<(String, Option<String>, String, String, i64, i64)> = app.db.write(claim).await?;
        // Without an answer another process was quicker, and there may be more.
        if let Some((kind, user_id, email, subject, created_at, attempts)) = claimed {
            return Ok(Some(Mail { id, kind, user_id, email, subject, created_at, attempts }));
        }
    }
}

/// Sends what is due, one after the other.
#[cfg(test)]
pub async fn send_all(app: &App) {
    while let Some(mail) = claim(app).await.unwrap() {
        send(app.clone(), mail).await;
    }
}

async fn send(app: App, mail: Mail) {
    // One that panics is put off like any other, and given up in the end.
    let sent = AssertUnwindSafe(compose_and_deliver(&app, &mail)).catch_unwind();
    let outcome = tokio::select! {
        outcome = sent => outcome.unwrap_or_else(|_| Err(anyhow!("writing or sending it panicked"))),
        lost = keep(&app, &mail) => Err(lost),
    };
    let noted = match outcome {
        Ok(()) => forget(&app, &mail).await,
        Err(error) => put_off(&app, &mail, &error).await,
    };
    if let Err(error) = noted {
        tracing::warn!("what became of a mail could not be written: {:#}", anyhow::Error::from(error));
    }
}

/// Renews the lease; ends when that fails, because then another process may take the mail.
async fn keep(app: &App, mail: &Mail) -> anyhow::Error {
    loop {
        sleep(Duration::from_secs(LEASE as u64 / 4)).await;
        let renew = async |db: &mut Connection| {
            let sql = "update mails set due_at = $1 where id = $2 and attempts = $3";
            let query = sqlx::query(sql).bind(now() + LEASE).bind(&*mail.id).bind(mail.attempts);
            Ok(query.execute(db).await?.rows_affected() > 0)
        };
        match app.db.note(renew).await {
            Ok(true) => {}
            Ok(false) => return anyhow!("another process has taken it"),
            Err(error) => return anyhow::Error::from(error).context("the database is away"),
        }
    }
}

async fn compose_and_deliver(app: &App, mail: &Mail) -> anyhow::Result<()> {
    let mut known = app.features.iter().flat_map(|feature| feature.letters);
    let compose = known.find(|(kind, _)| *kind == mail.kind);
    let (Some((_, compose)), false) = (compose, matches!(app.config.mail, Delivery::Nowhere)) else {
        return Ok(());
    };
    let write = async |db: &mut Connection| match addressee(db, mail).await? {
        Some(user) => compose(app, db, mail, user).await,
        None => Ok(None),
    };
    let Some(letter) = app.db.write(write).await? else { return Ok(()) };
    match &app.config.mail {
        Delivery::Nowhere => Ok(()),
        Delivery::Mailbox => {
            tracing::info!(
                "a mail to {}: {}; it is at {}/dev/mailbox",
                mail.email,
                letter.subject,
                app.config.origin()
            );
            app.mailbox.add(mail, letter);
            Ok(())
        }
        Delivery::Smtp(server) => {
            let message = message(&app.config, mail, letter)?;
            let sent = timeout(PATIENCE, server.send(message)).await;
            sent.context("the server took too long")?.context("SMTP")?;
            Ok(())
        }
    }
}

/// The user whom a mail was queued for, if it was for one; nothing at all if it is not to be written any more, by this process
/// and to a user who may log in. The user's row is taken, as by whoever takes a mail back: otherwise a link could be made just
/// after those of its kind were ended.
async fn addressee(db: &mut Connection, mail: &Mail) -> Result<Option<Option<User>>> {
    let user = match &mail.user_id {
        Some(id) => match user::lock_named(db, id).await? {
            Some(username) => Some(User { id: id.clone(), username }),
            None => return Ok(None),
        },
        None => None,
    };
    let sql = "select 1 from mails where id = $1 and attempts = $2";
    let stands = sqlx::query(sql).bind(&*mail.id).bind(mail.attempts).fetch_optional(db).await?;
    Ok(stands.map(|_| user))
}

/// The mail as it goes over the wire. Tried again it has the same `Message-ID`, so that doubles can be known.
fn message(config: &Config, mail: &Mail, letter: Letter) -> anyhow::Result<Message> {
    let host = config.base_url.host_str().unwrap_or("localhost");
    let header = |name, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.into());
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@{host}>", mail.id)))
        .from(config.mail_from.clone())
        .to(Mailbox::new(None, mail.email.parse()?))
        .subject(letter.subject)
        .raw_header(header("Auto-Submitted", "auto-generated"));
    if let Some(url) = letter.unsubscribe {
        message = message
            .raw_header(header("List-Unsubscribe", &format!("<{url}>")))
            .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
    }
    Ok(message.multipart(MultiPart::alternative_plain_html(letter.text, letter.html))?)
}

/// Whether the server has said of this mail, rather than of itself, that it will never take it (RFC 5321, 4.2.1).
fn is_final(error: &anyhow::Error) -> bool {
    let answer = error.downcast_ref::<lettre::transport::smtp::Error>();
    let status = answer.filter(|error| error.is_permanent()).and_then(|error| error.status());
    status.is_some_and(|code| code.category == Category::MailSystem)
}

async fn forget(app: &App, mail: &Mail) -> Result<()> {
    let forget = async |db: &mut Connection| {
        let sql = "delete from mails where id = $1 and attempts = $2";
        sqlx::query(sql).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
        Ok(())
    };
    app.db.write(forget).await
}

/// Has the mail tried again later, or gives it up.
async fn put_off(app: &App, mail: &Mail, error: &anyhow::Error) -> Result<()> {
    let gives_up = now() - mail.created_at >= GIVEN_UP_AFTER || is_final(error);
    // Servers repeat the address, which the log is not to have.
    let words = format!("{error:#}").replace(&mail.email, "…");
    if gives_up {
        tracing::error!(mail = mail.id, kind = mail.kind, "a mail is given up: {words}");
    } else {
        tracing::warn!(mail = mail.id, kind = mail.kind, "a mail has to wait: {words}");
    }
    let pause = (FIRST_PAUSE << (mail.attempts - 1).min(10)).min(LONGEST_PAUSE);
    let put_off = async |db: &mut Connection| {
        let sql = "update mails set due_at = $1, error = $2, failed_at = $3 where id = $4 and attempts = $5";
        let query = sqlx::query(sql).bind(now() + pause).bind(&*words);
        query.bind(gives_up.then(now)).bind(&*mail.id).bind(mail.attempts).execute(db).await?;
        Ok(())
    };
    app.db.write(put_off).await
}

/// How many mails wait, and how many were given up.
pub async fn count(db: &mut Connection) -> Result<(i64, i64)> {
    let sql = "select count(*) - count(failed_at), count(failed_at) from mails";
    Ok(sqlx::query_as(sql).fetch_one(db).await?)
}

/// Mails that were given up 30 days ago; `$1` is the time.
pub const PURGE: &str =
    "delete from mails where id in (select id from mails where failed_at <= $1 - 30 * 86400 limit 1000)";

/// The mails of a site in development: they stay in memory, as long as it runs.
#[derive(Clone, Default)]
pub struct DevMailbox(Arc<Mutex<VecDeque<Delivered>>>);

/// A mail as somebody has got it.
#[derive(Clone)]
pub struct Delivered {
    pub id: String,
    pub email: String,
    pub letter: Letter,
    pub at: i64,
}

/// How many mails the mailbox holds.
const KEPT: usize = 100;

impl DevMailbox {
    fn add(&self, mail: &Mail, letter: Letter) {
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.push_front(Delivered { id: mail.id.clone(), email: mail.email.clone(), letter, at: now() });
        mails.truncate(KEPT);
    }

    /// Newest first.
    pub fn mails(&self) -> Vec<Delivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Routes;
    use crate::test::TestApp;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn mail(email: &str) -> Mail {
        Mail {
            id: "0190".into(),
            kind: "test".into(),
            user_id: None,
            email: email.into(),
            subject: String::new(),
            created_at: 0,
            attempts: 1,
        }
    }

    fn letter(subject: &str) -> Letter {
        let (text, html) = ("Hello, Zoë.\n".into(), "<p>Hello, Zoë.</p>".into());
        Letter {
            subject: subject.into(),
            text,
            html,
            unsubscribe: Some("https://example.com/email/x".into()),
        }
    }

    fn written(settings: &[(&str, &str)], email: &str, subject: &str) -> String {
        let config = Config::from_env(&settings.iter().copied().collect()).unwrap();
        String::from_utf8(message(&config, &mail(email), letter(subject)).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_has_both_parts_and_the_headers_of_one_that_nobody_answers() {
        let text = written(&[("SITE_NAME", "Acme")], "ada@example.com", "Hello");
        for line in [
            "Message-ID: <0190@localhost>\r\n",
            "From: Acme <no-reply@localhost>\r\n",
            "To: ada@example.com\r\n",
            "Subject: Hello\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "List-Unsubscribe: <https://example.com/email/x>\r\n",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
            "MIME-Version: 1.0\r\n",
            "multipart/alternative",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Type: text/html; charset=utf-8\r\n",
            "\r\nDate: ",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(
            written(&[("MAIL_FROM", "Ada <ada@b.example>")], "a@b.cd", "x")
                .contains("From: Ada <ada@b.example>")
        );
    }

    #[test]
    fn nothing_that_people_choose_can_add_a_header_or_a_recipient() {
        let text = written(&[], "ada@example.com", "Hello\r\nBcc: eve@example.com\r\n\r\nBody");
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.contains("\nBcc"), "{head}");
        for tricky in
            ["a@b.example, eve@example.com", "a@b.example\r\nBcc: eve@example.com", "Ada <a@b.example>"]
        {
            let config = Config::from_env(&[("PORT", "1")].into_iter().collect()).unwrap();
            assert!(message(&config, &mail(tricky), letter("Hello")).is_err(), "{tricky:?}");
        }
    }

    async fn queued(app: &TestApp, kind: &'static str) {
        app.app.db.write(async |db| queue(db, kind, None, "ada@example.com").await).await.unwrap();
    }

    #[tokio::test]
    async fn a_mail_that_cannot_be_sent_waits_longer_each_time_and_is_given_up_after_a_day() {
        // Nobody listens there.
        let smtp = [("SMTP_URL", "smtp://127.0.0.1:1")];
        let app = TestApp::with_env(&smtp, Routes::new()).await;
        queued(&app, "test").await;
        for pause in [5, 10, 20, 40, 80, 160, 320, 640, 900, 900] {
            send_all(&app.app).await;
            let wait = app.count("select due_at from mails").await - now();
            // Some of it has passed already.
            assert!((pause - 4..=pause).contains(&wait), "{pause}: {wait}");
            app.execute("update mails set due_at = 0").await;
        }
        assert_eq!(app.count("select count(*) from mails where failed_at is null").await, 1);
        app.execute("update mails set created_at = created_at - 86400").await;
        send_all(&app.app).await;
        assert_eq!(
            app.count("select count(*) from mails where failed_at > 0 and error like '%SMTP%'").await,
            1
        );
        assert_eq!(app.app.db.read(async |db| count(db).await).await.unwrap(), (0, 1));
        send_all(&app.app).await;
        assert_eq!(app.count("select attempts from mails").await, 11);
    }

    /// A server that answers `RCPT` with `answer`, and everything else kindly.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 mail.example.com\r\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = if line.starts_with("RCPT") { answer } else { "250 ok" };
                write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
        });
        format!("smtp://127.0.0.1:{port}")
    }

    #[tokio::test]
    async fn what_the_server_will_never_take_is_given_up_at_once_and_noted_without_the_address() {
        for (answer, given_up) in [
            ("550 5.1.1 <ada@example.com>: no such user", (0, 1)),
            ("451 4.7.1 <ada@example.com>: try again later", (1, 0)),
            ("530 5.7.0 <ada@example.com>: log in first", (1, 0)),
        ] {
            let app = TestApp::with_env(&[("SMTP_URL", &server(answer).await)], Routes::new()).await;
            queued(&app, "test").await;
            send_all(&app.app).await;
            assert_eq!(app.app.db.read(async |db| count(db).await).await.unwrap(), given_up, "{answer}");
            let noted = "select count(*) from mails where error like '%<…>: %'";
            assert_eq!(app.count(noted).await, 1, "{answer}");
        }
    }

    #[tokio::test]
    async fn what_nobody_knows_how_to_write_is_dropped_and_without_mail_everything_is() {
        let app = TestApp::new().await;
        queued(&app, "of another version").await;
        assert_eq!(app.mails().await.len(), 0);
        assert_eq!(app.count("select count(*) from mails").await, 0);
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        queued(&app, crate::address::CONFIRM).await;
        send_all(&app.app).await;
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }

    #[tokio::test]
    async fn a_mail_is_sent_by_one_process_and_taken_over_when_that_is_gone() {
        let app = TestApp::new().await;
        queued(&app, "test").await;
        let claims = futures_util::future::join_all((0..8).map(|_| claim(&app.app))).await;
        assert_eq!(claims.iter().filter(|claim| matches!(claim, Ok(Some(_)))).count(), 1);
        assert!(claim(&app.app).await.unwrap().is_none());
        app.execute("update mails set due_at = due_at - 20").await;
        let taken = claim(&app.app).await.unwrap().unwrap();
        assert_eq!(taken.attempts, 2);
        // Whoever had it before has no say any more.
        forget(&app.app, &Mail { attempts: 1, id: taken.id, ..mail("ada@example.com") }).await.unwrap();
        assert_eq!(app.count("select count(*) from mails").await, 1);
    }

    #[tokio::test]
    async fn a_mail_that_is_taken_back_while_it_is_being_sent_is_not_written_nor_one_to_somebody_disabled() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        for ends in [true, false] {
            let to_ada = async |db: &mut Connection| queue(db, "test", Some(&id), "ada@example.com").await;
            app.app.db.write(to_ada).await.unwrap();
            let mail = claim(&app.app).await.unwrap().unwrap();
            if ends {
                app.app.db.write(async |db| drop_unsent(db, &id, "test").await).await.unwrap();
            } else {
                app.execute("update users set disabled_at = 1").await;
            }
            send(app.app.clone(), mail).await;
            assert_eq!(app.mails().await.len(), 0);
            assert_eq!(app.count("select count(*) from mails").await, 0);
        }
    }

    #[tokio::test]
    async fn of_what_is_rolled_back_nobody_is_told() {
        let app = TestApp::new().await;
        let undone: Result<()> = app
            .app
            .db
            .write(async |db| {
                queue(db, "test", None, "ada@example.com").await?;
                Err(Error::NOT_FOUND)
            })
            .await;
        assert!(undone.is_err());
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }
}
