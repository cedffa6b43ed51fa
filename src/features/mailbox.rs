//! The development mailbox: what the site would have mailed. In production, or with a mail server, there is none.

use super::feature::Feature;
use crate::base::{Config, Env, Result};
use crate::db::now;
use crate::mail::{Outgoing, deliver_locally, outbox};
use crate::web::{Access, App, Page, Routes, Template, files};
use axum::extract::State;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    if env.text("SMTP_URL")?.is_some() || !Config::from_env(env)?.development() {
        return Ok(Feature::default());
    }
    let mailbox = Mailbox::default();
    let settings = Box::new(mailbox.clone());
    let deliver = deliver_locally(move |mail| mailbox.add(mail));
    Ok(Feature {
        routes: Routes::new().get(PATH, Access::Public, index),
        settings: Some(settings),
        deliver: Some(deliver),
        ..Feature::named("mailbox")
    })
}

const PATH: &str = "/dev/mailbox";

/// The newest mails, kept in memory as long as the process runs.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<VecDeque<MailRow>>>);

const CAPACITY: usize = 100;

impl Mailbox {
    fn add(&self, mail: Outgoing) {
        tracing::info!("a mail to {}: {}; it is at {PATH}", mail.email, mail.content.subject);
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.push_front(MailRow::from(mail));
        mails.truncate(CAPACITY);
    }

    /// Newest first.
    fn mails(&self) -> Vec<MailRow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[derive(Clone, Serialize)]
struct MailRow {
    subject: String,
    email: String,
    at: i64,
    lines: Vec<String>,
    html: String,
}

impl From<Outgoing> for MailRow {
    fn from(Outgoing { email, content, .. }: Outgoing) -> MailRow {
        let lines = content.text.lines().map(String::from).collect();
        // Links open in the whole window instead of the frame.
        let html = format!("<base target=\"_top\">{}", content.html);
        MailRow { subject: content.subject, email, at: now(), lines, html }
    }
}

#[derive(Serialize)]
struct MailboxPage {
    mails: Vec<MailRow>,
}

impl Template for MailboxPage {
    const FILE: &'static str = files::MAILBOX_INDEX;
}

/// Mails contain their style, which no other page may.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

async fn index(State(app): State<App>, page: Page) -> Result<Response> {
    // A mail that has just been asked for may still be in the outbox.
    for _ in 0..100 {
        let (waiting, _) = app.db.read(async |db| outbox::count(db).await).await?;
        if waiting == 0 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mails = app.settings::<Mailbox>().mails();
    let page = page.render(&MailboxPage { mails }).await?;
    Ok(([(CONTENT_SECURITY_POLICY, POLICY)], page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::User;
    use crate::db::Connection;
    use crate::mail::{Mail, MailContent};
    use crate::test::{PRODUCTION, TestApp, check};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use futures_util::future::ready;

    #[test]
    fn its_page_renders() {
        let mail = || MailRow {
            subject: "Hello".into(),
            email: "ada@example.com".into(),
            at: 0,
            lines: vec!["Hello.".into(), "http://localhost:8000/".into()],
            html: "<p>Hello.</p>".into(),
        };
        check(&[MailboxPage { mails: vec![] }, MailboxPage { mails: vec![mail(), mail()] }]);
    }

    /// What a mail of the kind `link` says.
    fn link<'a>(
        app: &'a App,
        _: &'a mut Connection,
        _: &'a Mail,
        _: Option<User>,
    ) -> BoxFuture<'a, Result<Option<MailContent>>> {
        let (subject, text) = ("Hello".into(), format!("Open this:\n{}/link", app.config.origin()));
        let html = "<!doctype html><title>Hello</title>".into();
        ready(Ok(Some(MailContent { subject, text, html, unsubscribe: None }))).boxed()
    }

    #[tokio::test]
    async fn a_mail_is_there_with_both_parts_and_its_link_and_runs_nothing() {
        let feature = Feature { mails: &[("link", link as _)], ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        app.visitor().get("/dev/mailbox").await.assert_contains("No mail yet");
        let queue = async |db: &mut Connection| outbox::queue(db, "link", None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
        assert_eq!(app.mails().await.len(), 1);
        let page = app.visitor().get("/dev/mailbox").await;
        let link = format!("http://localhost:8000{}", app.link_to("ada@example.com").await);
        page.assert_contains(&format!("<a href=\"{link}\">{link}</a>")).assert_contains("ada@example.com");
        page.assert_contains("srcdoc=\"&lt;base target=&quot;_top&quot;&gt;&lt;!doctype html&gt;");
        page.assert_contains("sandbox=\"allow-top-navigation-by-user-activation allow-popups\"");
        assert!(page.header("content-security-policy").contains("script-src 'self';"), "the page's own scripts alone");
    }

    #[tokio::test]
    async fn a_mail_that_is_on_its_way_is_waited_for() {
        let app = TestApp::new().await;
        let queue = async |db: &mut Connection| outbox::queue(db, "test", None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
        let sent = async {
            sleep(Duration::from_millis(100)).await;
            app.mails().await.len()
        };
        let visitor = app.visitor();
        let (page, sent) = tokio::join!(visitor.get(PATH), sent);
        assert_eq!(sent, 1);
        page.assert_contains("ada@example.com").assert_lacks("No mail yet");
    }

    #[tokio::test]
    async fn the_newest_mail_is_open_and_the_others_are_folded() {
        let app = TestApp::new().await;
        for name in ["ada", "bob"] {
            let email = format!("{name}@example.com");
            app.app.db.write(async |db| outbox::queue(db, "test", None, &email, "").await).await.unwrap();
            app.mails().await;
        }
        let page = app.visitor().get(PATH).await.text();
        let (open, folded) = page.split_once("<details class=\"mail\">").expect("one is folded");
        assert!(open.contains("<details class=\"mail\" open>") && open.contains("To bob@example.com, <time"), "{page}");
        assert!(folded.contains("To ada@example.com, <time") && !folded.contains(" open>"), "{page}");
    }

    #[tokio::test]
    async fn every_page_leads_to_it_while_there_is_one() {
        let link = "<a href=\"/dev/mailbox\">";
        TestApp::new().await.visitor().get("/nowhere").await.assert_contains(link);
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        app.visitor().get("/nowhere").await.assert_lacks(link);
    }

    #[test]
    fn the_newest_hundred_mails_are_kept_newest_first() {
        let mailbox = Mailbox::default();
        for number in 0..=CAPACITY {
            let (subject, text) = (number.to_string(), String::new());
            let content = MailContent { subject, text, html: String::new(), unsubscribe: None };
            mailbox.add(Outgoing { id: String::new(), email: "ada@example.com".into(), content });
        }
        let kept: Vec<String> = mailbox.mails().into_iter().map(|mail| mail.subject).collect();
        let newest: Vec<String> = (1..=CAPACITY).rev().map(|number| number.to_string()).collect();
        assert_eq!(kept, newest);
    }

    #[tokio::test]
    async fn neither_in_production_nor_beside_a_mail_server_is_there_one() {
        for smtp in ["none", "smtps://mail.example.com"] {
            let smtp = [("SMTP_URL", smtp)];
            for settings in [[&PRODUCTION[..], &smtp].concat(), smtp.to_vec()] {
                let app = TestApp::with_env(&settings, Routes::new()).await;
                app.visitor().get("/dev/mailbox").await.assert_status(404).assert_lacks("ailbox");
            }
        }
    }

    #[tokio::test]
    async fn it_is_answered_only_on_this_machine() {
        let app = TestApp::new().await;
        let elsewhere = [("host", "evil.example")];
        app.visitor().get_with("/dev/mailbox", &elsewhere).await.assert_status(421);
    }
}
