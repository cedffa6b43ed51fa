//! The development mailbox: what the site would have mailed. Neither in production nor beside a real mail server is there one.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::config::Config;
use crate::env::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::mail::{self, Delivered};
use crate::page::{Page, Template, date_time, templates};
use axum::extract::State;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use tokio::time::sleep;

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new();
    if env.text("SMTP_URL").is_none() && Config::from_env(env)?.development() {
        routes = routes.get("/dev/mailbox", Access::Public, index);
    }
    Ok(Feature { routes, ..Feature::named("mailbox") })
}

#[derive(Serialize)]
struct Row {
    subject: String,
    email: String,
    at: String,
    lines: Vec<String>,
    html: String,
}

impl From<Delivered> for Row {
    fn from(mail: Delivered) -> Row {
        let letter = mail.letter;
        let lines = letter.text.lines().map(String::from).collect();
        // Its links lead out of the frame.
        let html = format!("<base target=\"_top\">{}", letter.html);
        Row { subject: letter.subject, email: mail.email, at: date_time(mail.at), lines, html }
    }
}

#[derive(Serialize)]
struct MailboxPage {
    mails: Vec<Row>,
}

impl Template for MailboxPage {
    const FILE: &'static str = templates::MAILBOX_INDEX;
}

/// Mails have their style inside, which pages of ours never have.
const POLICY: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

async fn index(State(app): State<App>, page: Page) -> Result<Response> {
    // Whoever has just pressed a button expects the mail to be here.
    for _ in 0..100 {
        if app.db.read(async |db| mail::count(db).await).await?.0 == 0 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mails = app.mailbox.mails().into_iter().map(Row::from).collect();
    let shown = page.show(&MailboxPage { mails }).await?;
    Ok(([(CONTENT_SECURITY_POLICY, POLICY)], shown).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_page_renders() {
        let row = || Row {
            subject: "Hello".into(),
            email: "ada@example.com".into(),
            at: "today".into(),
            lines: vec!["Hello.".into(), "http://localhost:8000/".into()],
            html: "<p>Hello.</p>".into(),
        };
        check(&[MailboxPage { mails: vec![] }, MailboxPage { mails: vec![row()] }]);
    }

    #[tokio::test]
    async fn a_mail_is_there_with_both_parts_and_its_link_and_runs_nothing() {
        let app = TestApp::new().await;
        app.visitor().get("/dev/mailbox").await.assert_contains("No mail yet");
        app.person("ada").await;
        let id = app.user("ada").await;
        let email = crate::address::Email::parse("ada@example.com").unwrap();
        let begun = app
            .app
            .db
            .write(async |db| crate::address::begin(db, &id, &email, crate::factor::Proven::OneFactor).await);
        begun.await.unwrap();
        if app.mails().await.is_empty() {
            return; // The feature that writes it was removed.
        }
        let page = app.visitor().get("/dev/mailbox").await;
        let link = format!("http://localhost:8000{}", app.link_to("ada@example.com").await);
        page.assert_contains(&format!("<a href=\"{link}\">{link}</a>")).assert_contains("ada@example.com");
        page.assert_contains("srcdoc=\"&lt;base target=&quot;_top&quot;&gt;&lt;!doctype html&gt;");
        page.assert_contains("sandbox=\"allow-top-navigation-by-user-activation");
        assert!(!page.header("content-security-policy").contains("script-src"));
    }

    #[tokio::test]
    async fn neither_in_production_nor_beside_a_mail_server_is_there_one() {
        let production = [
            ("BASE_URL", "https://example.com"),
            ("TRUSTED_PROXIES", "none"),
            ("PASSWORD_ITERATIONS", "600000"),
        ];
        for smtp in ["none", "smtps://mail.example.com"] {
            let smtp = [("SMTP_URL", smtp)];
            for settings in [[&production[..], &smtp].concat(), smtp.to_vec()] {
                let app = TestApp::with_env(&settings, Routes::new()).await;
                app.visitor().get("/dev/mailbox").await.assert_status(404).assert_lacks("ailbox");
            }
        }
    }

    #[tokio::test]
    async fn it_is_shown_to_this_machine_alone() {
        let app = TestApp::new().await;
        let elsewhere = [("host", "evil.example")];
        app.visitor().get_with("/dev/mailbox", &elsewhere).await.assert_status(421);
    }
}
