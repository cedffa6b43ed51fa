//! Delivery by SMTP.

use super::message::{Outgoing, recipient};
use crate::base::Config;
use anyhow::{Context, Result, ensure};
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::response::Category;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::time::Duration;
use tokio::time::timeout;
use url::Url;

/// How long a server may take for one mail.
const TIMEOUT: Duration = Duration::from_secs(40);

pub struct Smtp(AsyncSmtpTransport<Tokio1Executor>);

impl Smtp {
    /// # Errors
    /// When name and password are not percent-encoded UTF-8, or the certificates that this system trusts cannot be read.
    pub fn new(url: &Url) -> Result<Smtp> {
        let transport =
            AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str()).context("SMTP_URL cannot be used")?;
        Ok(Smtp(transport.timeout(Some(TIMEOUT)).build()))
    }

    /// Connects and authenticates.
    ///
    /// # Errors
    /// When the server does not accept that.
    pub async fn check(&self) -> Result<()> {
        let connected = timeout(TIMEOUT, self.0.test_connection()).await;
        let connected = connected.context("the server that SMTP_URL names took too long")?;
        let ready = connected.context("the server that SMTP_URL names does not let us in")?;
        ensure!(ready, "the server that SMTP_URL names is not ready");
        Ok(())
    }

    /// # Errors
    /// When the server has not accepted the mail.
    pub async fn send(&self, config: &Config, mail: Outgoing) -> Result<()> {
        let sent = timeout(TIMEOUT, self.0.send(message(config, mail)?)).await;
        sent.context("the server took too long")?.context("SMTP")?;
        Ok(())
    }
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
        // The one that would be made of the headers knows no quoted addresses.
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

/// Whether the server has said that it will never take this mail, rather than that something is wrong with the server
/// (RFC 5321, 4.2.1).
pub fn is_final(error: &anyhow::Error) -> bool {
    let answer = error.downcast_ref::<lettre::transport::smtp::Error>();
    let status = answer.filter(|error| error.is_permanent()).and_then(|error| error.status());
    status.is_some_and(|code| code.category == Category::MailSystem)
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

    /// A server that answers `RCPT` with `answer`, and accepts everything else.
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
    async fn a_mail_that_the_server_will_never_accept_is_given_up_at_once_and_its_error_hides_the_address() {
        for (answer, given_up) in [
            ("550 5.1.1 <ada@example.com>: no such user", (0, 1)),
            ("451 4.7.1 <ada@example.com>: try again later", (1, 0)),
            ("530 5.7.0 <ada@example.com>: log in first", (1, 0)),
        ] {
            let app = TestApp::with_env(&[("SMTP_URL", &server(answer).await)], Routes::new()).await;
            let queue = async |db: &mut Connection| outbox::queue(db, "test", None, "ada@example.com", "").await;
            app.app.db.write(queue).await.unwrap();
            app.outbox().send_all().await;
            assert_eq!(app.app.db.read(async |db| outbox::count(db).await).await.unwrap(), given_up, "{answer}");
            let saved = "select count(*) from mails where error like '%<…>: %'";
            assert_eq!(app.count(saved).await, 1, "{answer}");
        }
    }
}
