//! Delivery by SMTP.

use super::conversation::Conversation;
use super::delivery::{Failure, Transmit};
use super::message::{Outgoing, recipient};
use super::pause::Pause;
use super::stage::Stage;
use super::trust;
use crate::base::Config;
use crate::base::smtp::{SmtpServer, SmtpTls};
use anyhow::{Result, anyhow, bail};
use futures_util::FutureExt;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use rustls::ClientConfig;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::timeout;

/// How long a server may be silent before the log suggests a reason.
const SILENCE: Duration = Duration::from_secs(4);

/// How long [`Smtp::check`] waits for a greeting, and for the whole conversation.
const CHECK_SILENCE: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a server may take to reply to QUIT.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

const SILENT: &str = "the mail server says nothing: if its port expects TLS from the start, SMTP_URL must begin with \
                      smtps://";

pub struct Smtp {
    server: SmtpServer,
    tls: Arc<ClientConfig>,
    pause: Pause,
    has_warned: AtomicBool,
}

impl Smtp {
    /// # Errors
    /// When a certificate of `SMTP_CA` cannot be used.
    pub fn new(server: SmtpServer, pause: Pause) -> Result<Smtp> {
        let tls = trust::client(server.ca.as_deref())?;
        Ok(Smtp { server, tls, pause, has_warned: AtomicBool::default() })
    }

    /// Connects, logs in, and asks whether the server accepts mails from `MAIL_FROM`. No mail is sent.
    ///
    /// # Errors
    /// When it does not; one sentence.
    pub async fn check(&self, config: &Config) -> Result<()> {
        let mut logging_in = pin!(self.log_in(config));
        let done = match timeout(CHECK_SILENCE, logging_in.as_mut()).await {
            Err(_) if self.has_warned.load(Relaxed) => bail!(SILENT),
            Err(_) => timeout(CHECK_TIMEOUT - CHECK_SILENCE, logging_in).await,
            done => done,
        };
        match done {
            Ok(Ok(conversation)) => quit(conversation).await,
            Ok(Err(failure)) => return Err(failure.cause),
            Err(_) => bail!("the mail server has not agreed to accept mails within {CHECK_TIMEOUT:?}"),
        }
        Ok(())
    }

    /// Goes as far as the server's permission to send the mail.
    ///
    /// # Errors
    /// When it rejects something. A rejection before it knows the recipient pauses the delivery of all mails.
    pub async fn prepare(&self, config: &Config, mail: Outgoing) -> Result<Transmit, Failure> {
        let message = message(config, mail)?;
        let attempt = self.pause.attempt();
        let logged_in = self.log_in(config).await.map_err(|failure| self.hide_password(failure));
        let mut conversation = logged_in.inspect_err(|failure| attempt.fail(&failure.cause))?;
        attempt.succeed();
        let prepared = async {
            for recipient in message.envelope().to() {
                let command = format!("RCPT TO:<{recipient}>");
                Stage::Recipient.run(conversation.command(&command, 2)).await?;
            }
            Stage::Data.run(conversation.command("DATA", 3)).await?;
            Stage::Text.run(conversation.send(&message.formatted())).await
        };
        let prepared = prepared.await;
        if let Err(failure) = prepared {
            tokio::spawn(quit(conversation));
            return Err(failure);
        }
        let transmit = async move {
            let answer = Stage::End.run(conversation.finish()).await;
            tokio::spawn(quit(conversation));
            answer.map(drop)
        };
        Ok(transmit.boxed())
    }

    /// Does everything that is the same for all mails.
    async fn log_in(&self, config: &Config) -> Result<Conversation, Failure> {
        let SmtpServer { host, port, tls, helo, credentials, .. } = &self.server;
        let hello = format!("EHLO {helo}");
        let mut conversation = Conversation::new(Stage::Connection.run(Conversation::connect(host, *port)).await?);
        if *tls == SmtpTls::Implicit {
            conversation = Stage::Tls.run(conversation.encrypt(self.tls.clone(), host)).await?;
        }
        self.warn_of_silence(Stage::Greeting.run(conversation.reply(2))).await?;
        let mut server = Stage::Hello.run(conversation.command(&hello, 2)).await?;
        let offers_tls = server.extension("STARTTLS").is_some();
        if *tls == SmtpTls::Required && !offers_tls {
            return Err(Failure::paused(anyhow!("the mail server does not offer STARTTLS, which is required")));
        }
        if *tls == SmtpTls::Required || *tls == SmtpTls::Optional && offers_tls {
            Stage::StartTls.run(conversation.command("STARTTLS", 2)).await?;
            conversation = Stage::Tls.run(conversation.encrypt(self.tls.clone(), host)).await?;
            server = Stage::Hello.run(conversation.command(&hello, 2)).await?;
        }
        if let Some((name, password)) = credentials {
            let offered = server.extension("AUTH").unwrap_or_default();
            Stage::LogIn.run(conversation.log_in(&offered, name, password)).await?;
        }
        let sender = format!("MAIL FROM:<{}>", config.mail_from.email);
        Stage::Sender.run(conversation.command(&sender, 2)).await?;
        Ok(conversation)
    }

    /// A server may repeat what it received.
    fn hide_password(&self, failure: Failure) -> Failure {
        match &self.server.credentials {
            Some((_, password)) if !password.is_empty() => {
                let cause = failure.cause.to_string().replace(password, "…");
                Failure::new(failure.kind, anyhow!(cause))
            }
            _ => failure,
        }
    }

    /// A server that waits for TLS to start looks like a slow one.
    async fn warn_of_silence<T>(&self, greeting: impl Future<Output = T>) -> T {
        let mut greeting = pin!(greeting);
        if let Ok(greeted) = timeout(SILENCE, greeting.as_mut()).await {
            return greeted;
        }
        if self.server.tls != SmtpTls::Implicit && !self.has_warned.swap(true, Relaxed) {
            tracing::warn!("{SILENT}");
        }
        greeting.await
    }
}

async fn quit(mut conversation: Conversation) {
    let _ = timeout(QUIT_TIMEOUT, conversation.command("QUIT", 2)).await;
}

/// The message as it is transmitted. A retry has the same `Message-ID`, so that mail programs recognise duplicates.
fn message(config: &Config, mail: Outgoing) -> Result<Message> {
    let host = config.base_url.host_str().unwrap_or("localhost");
    let header = |name, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.into());
    let to = recipient(&mail.email)?;
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@{host}>", mail.id)))
        .from(config.mail_from.clone())
        .to(Mailbox::new(None, to.clone()))
        // The envelope made from the headers would not have quoted addresses.
        .envelope(Envelope::new(Some(config.mail_from.email.clone()), vec![to])?)
        .subject(mail.content.subject)
        .raw_header(header("Auto-Submitted", "auto-generated"));
    if let Some(url) = mail.content.unsubscribe {
        message = message
            .raw_header(header("List-Unsubscribe", &format!("<{url}>")))
            .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
    }
    Ok(message.multipart(MultiPart::alternative_plain_html(mail.content.text, mail.content.html))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Connection;
    use crate::mail::{MailContent, outbox};
    use crate::test::TestApp;
    use crate::web::Routes;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn mail(email: &str, subject: &str) -> Outgoing {
        let content = MailContent {
            subject: subject.into(),
            text: "Hello, Zoë.\n".into(),
            html: "<p>Hello, Zoë.</p>".into(),
            unsubscribe: Some("https://example.com/email/x".into()),
        };
        Outgoing { id: "0190".into(), email: email.into(), content }
    }

    fn written(settings: &[(&str, &str)], email: &str, subject: &str) -> String {
        let config = Config::from_env(&settings.iter().copied().collect()).unwrap();
        String::from_utf8(message(&config, mail(email, subject)).unwrap().formatted()).unwrap()
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
        assert!(written(&[("MAIL_FROM", "Ada <ada@b.example>")], "a@b.cd", "x").contains("From: Ada <ada@b.example>"));
        // Jürgen (RFC 2047).
        assert!(
            written(&[("MAIL_FROM", "Jürgen <ada@b.example>")], "a@b.cd", "x")
                .contains("From: =?utf-8?b?SsO8cmdlbg==?= <ada@b.example>")
        );
    }

    #[test]
    fn dots_that_may_not_stand_bare_are_quoted_in_the_envelope_and_in_the_head() {
        let config = Config::from_env(&[("PORT", "1")].into_iter().collect()).unwrap();
        for (email, quoted) in [
            ("a..b@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
            ("x.@docomo.ne.jp", "\"x.\"@docomo.ne.jp"),
            (".y@ezweb.ne.jp", "\".y\"@ezweb.ne.jp"),
            ("a.b@docomo.ne.jp", "a.b@docomo.ne.jp"),
        ] {
            let message = message(&config, mail(email, "Hello")).unwrap();
            assert_eq!(message.envelope().to()[0].to_string(), quoted);
            let text = String::from_utf8(message.formatted()).unwrap();
            assert!(text.contains(&format!("\r\nTo: {quoted}\r\n")), "{text}");
        }
    }

    #[test]
    fn nothing_that_people_choose_can_add_a_header_or_a_recipient() {
        let text = written(&[], "ada@example.com", "Hello\r\nBcc: eve@example.com\r\n\r\nBody");
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.contains("\nBcc"), "{head}");
        for tricky in ["a@b.example, eve@example.com", "a@b.example\r\nBcc: eve@example.com", "Ada <a@b.example>"] {
            let config = Config::from_env(&[("PORT", "1")].into_iter().collect()).unwrap();
            assert!(message(&config, mail(tricky, "Hello")).is_err(), "{tricky:?}");
        }
    }

    /// A server that answers lines that begin with `command` with `answer`, and accepts everything else; a command of no
    /// letters is the greeting, a dot the mail.
    async fn server(command: &'static str, answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            let greeting = if command.is_empty() { answer } else { "220 mail.example.com" };
            write.write_all(format!("{greeting}\r\n").as_bytes()).await.unwrap();
            let mut in_mail = false;
            while let Ok(Some(line)) = lines.next_line().await {
                let usual = match &*line {
                    "DATA" => "354 go on",
                    "." => "250 ok",
                    _ if in_mail => continue,
                    _ => "250-ok\r\n250 AUTH PLAIN",
                };
                let answer = if !command.is_empty() && line.starts_with(command) { answer } else { usual };
                in_mail = answer.starts_with("354");
                if write.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        format!("smtp://ada:swordfish@127.0.0.1:{port}")
    }

    #[tokio::test]
    async fn only_what_is_said_of_the_recipient_or_the_message_is_final_and_its_error_hides_the_address() {
        let (waits, given_up) = ((1, 0), (0, 1));
        for (command, answer, outcome) in [
            ("", "554 5.7.1 Your address is listed", waits),
            ("", "550 5.1.1 There is nobody here", waits),
            ("EHLO", "550 There is nobody here", waits),
            ("AUTH", "554 5.7.8 Wrong password", waits),
            ("AUTH", "550 5.1.1 There is nobody here", waits),
            ("MAIL", "550 5.4.5 Daily limit exceeded", waits),
            ("MAIL", "553 5.1.8 Bad sender", waits),
            ("MAIL", "550 5.1.1 There is nobody here", waits),
            ("RCPT", "550 5.1.1 <ada@example.com>: no such user", given_up),
            ("RCPT", "550-5.1.1 <ada@example.com>:\r\n550 5.1.1 no such user", given_up),
            ("RCPT", "554 5.1.10 Its domain takes no mail", given_up),
            ("RCPT", "553 #5.1.2 There is no such domain", given_up),
            ("RCPT", "550 5.2.1 The mailbox is closed", given_up),
            ("RCPT", "552 5.2.3 Too long for it", given_up),
            ("RCPT", "550 There is nobody here", given_up),
            ("RCPT", "551 There is nobody here", given_up),
            ("RCPT", "553 There is nobody here", given_up),
            ("RCPT", "552 5.2.2 The mailbox is full", waits),
            ("RCPT", "550 5.1.8 Your domain does not exist", waits),
            ("RCPT", "550 5.1.7 Your address cannot be read", waits),
            ("RCPT", "550 5.4.1 No route", waits),
            ("RCPT", "550 5.7.26 Neither SPF nor DKIM", waits),
            ("RCPT", "554 5.7.1 Relay access denied", waits),
            ("RCPT", "550 Blocked (5.7.606)", waits),
            ("RCPT", "554 Not today", waits),
            ("RCPT", "552 Too much", waits),
            ("RCPT", "501 5.1.3 Bad recipient", given_up),
            ("RCPT", "451 4.7.1 <ada@example.com>: try again later", waits),
            ("RCPT", "450 5.1.1 Perhaps", waits),
            ("RCPT", "421 4.3.2 Shutting down", waits),
            ("RCPT", "530 5.7.0 <ada@example.com>: log in first", waits),
            ("DATA", "554 5.5.1 No valid recipients", waits),
            ("DATA", "550 5.1.1 There is nobody here", given_up),
            (".", "550 5.1.1 There is nobody here", given_up),
            (".", "554 5.2.0 It cannot be stored", given_up),
            (".", "550 5.7.26 Neither SPF nor DKIM", waits),
            (".", "554 5.7.1 Looks like spam", waits),
            (".", "550 It looks bad", waits),
            (".", "451 4.3.0 Later", waits),
            (".", "what?", waits),
        ] {
            let app = TestApp::with_env(&[("SMTP_URL", &server(command, answer).await)], Routes::new()).await;
            let queue = async |db: &mut Connection| outbox::queue(db, "test", None, "ada@example.com", "").await;
            app.app.db.write(queue).await.unwrap();
            app.outbox().send_all().await;
            let count = app.app.db.read(async |db| outbox::count(db).await).await.unwrap();
            assert_eq!(count, outcome, "{command} {answer}");
            let leaks =
                "select count(*) from mails where error is null or error like '%ada@%' or error like '%swordfish%'";
            assert_eq!(app.count(leaks).await, 0, "{command} {answer}");
            let unconfirmed = i64::from(answer == "what?");
            assert_eq!(app.count("select unconfirmed from mails").await, unconfirmed, "{command} {answer}");
        }
    }
}
