//! The outbox of the app: features write the mails, and SMTP or a feature delivers them.

use crate::accounts::event::{NOTICE, NOTICE_TO_DISABLED};
use crate::accounts::{disabling, link::RESET_MAIL, user};
use crate::base::MailDelivery;
use crate::db::Connection;
use crate::mail::{
    DailyLimit, Deliver, Mail, MailContent, Outbox, Outgoing, Pause, deliver_locally, outbox, smtp::Smtp,
};
use crate::web::App;
use anyhow::Result;
use futures_util::FutureExt;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Mails by which users get their account back, so they must be sent every day.
const ESSENTIAL: &[&str] = &[RESET_MAIL, NOTICE, NOTICE_TO_DISABLED];

/// `in_development` delivers mails if no mail server is configured.
///
/// # Errors
/// When the certificates of `SMTP_CA` cannot be used.
pub fn outbox(app: &App, in_development: Option<Deliver>) -> Result<Outbox> {
    let (deliver, pause) = match (&app.config.mail, in_development) {
        (MailDelivery::Smtp(server), _) => {
            let pause = Pause::before_first_try();
            let (smtp, app) = (Arc::new(Smtp::new(server.clone(), pause.clone())?), app.clone());
            let deliver: Deliver = Arc::new(move |mail| {
                let (smtp, app) = (smtp.clone(), app.clone());
                async move { smtp.prepare(&app.config, mail).await }.boxed()
            });
            (deliver, pause)
        }
        (_, Some(deliver)) => (deliver, Pause::default()),
        (_, None) => (deliver_locally(log), Pause::default()),
    };
    let writer = app.clone();
    let write = Arc::new(move |mail| {
        let app = writer.clone();
        async move { write(&app, &mail).await }.boxed()
    });
    let limit = app.config.mails_per_day.map(|mails| DailyLimit::new(mails, ESSENTIAL));
    Ok(Outbox { db: app.db.clone(), write, deliver, limit, pause })
}

/// Without a mail server and a mailbox, the log says what would have been sent.
fn log(mail: Outgoing) {
    tracing::info!("a mail to {}: {}", mail.email, mail.content.subject);
}

/// Warns about a kind of mail that no feature writes, once.
fn warn_once(kind: &str) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.to_string()) {
        tracing::warn!(kind, "no feature writes mails of this kind; they are dropped");
    }
}

/// Lets the feature that knows its kind write a mail. `None` if it must not be sent: it was cancelled, or its user is
/// disabled. The user's row is locked, as when a mail is cancelled; otherwise a link could be created just after others
/// of its kind were revoked.
async fn write(app: &App, mail: &Mail) -> Result<Option<MailContent>> {
    if matches!(app.config.mail, MailDelivery::Off) {
        return Ok(None);
    }
    let Some((_, write)) = app.features.mails.iter().find(|(kind, _)| *kind == mail.kind) else {
        warn_once(&mail.kind);
        return Ok(None);
    };
    let write = async |db: &mut Connection| {
        let user = match &mail.user_id {
            Some(id) => {
                let reaches_disabled = mail.kind == NOTICE_TO_DISABLED;
                let user =
                    if reaches_disabled { disabling::lock_any(db, id).await? } else { user::lock(db, id).await? };
                if user.is_none() {
                    return Ok(None);
                }
                user
            }
            None => None,
        };
        if !outbox::is_claimed(db, mail).await? {
            return Ok(None);
        }
        write(app, db, mail, user).await
    };
    Ok(app.db.write(write).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, logged};
    use crate::web::Routes;

    async fn queue_one(app: &TestApp, kind: &'static str) {
        let queue = async |db: &mut Connection| outbox::queue(db, kind, None, "ada@example.com", "").await;
        app.app.db.write(queue).await.unwrap();
    }

    #[tokio::test]
    async fn a_mail_that_no_feature_writes_is_dropped_with_a_warning() {
        let app = TestApp::new().await;
        queue_one(&app, "of another version").await;
        let (mails, log) = logged(app.mails()).await;
        assert_eq!(mails.len(), 0);
        assert_eq!(app.count("select count(*) from mails").await, 0);
        assert!(log.contains("WARN") && log.contains("of another version"), "{log}");
    }

    #[tokio::test]
    async fn a_site_without_mail_drops_every_mail() {
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        queue_one(&app, "test").await;
        app.outbox().send_all().await;
        assert_eq!(app.mails().await.len(), 0);
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }
}
