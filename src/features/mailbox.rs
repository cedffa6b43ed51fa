//! The development mailbox: what the site would have mailed. Neither in production nor beside a real mail server is there one.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::config::{Config, Env};
use crate::error::Result;
use crate::features::Feature;
use crate::mail::{self, Delivered, Delivery};
use crate::page::{Page, Template, date_time, templates};
use axum::extract::State;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use tokio::time::sleep;

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let config = Config::from_env(env)?;
    let mut routes = Routes::new();
    if config.development() && matches!(config.mail, Delivery::Mailbox) {
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
    for _ in 0..50 {
        if app.db.read(async |db| mail::count(db).await).await?.0 == 0 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mails = app.mailbox.mails().into_iter().map(Row::from).collect();
    let shown = page.show(&MailboxPage { mails }).await?;
    Ok(([(CONTENT_SECURITY_POLICY, POLICY)], shown).into_response())
}
