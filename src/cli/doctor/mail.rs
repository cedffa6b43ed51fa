//! Checks the mail server, and the mails that wait for it.

use super::report::Report;
use crate::base::{Config, MailDelivery, explain};
use crate::db::engine::DbConnection;
use crate::db::now;
use crate::mail::{Pause, smtp::Smtp};
use anyhow::Result;
use sqlx::Row;

/// Asks the mail server, if there is one.
pub async fn ask_server(config: &Config) -> Result<()> {
    match &config.mail {
        MailDelivery::Smtp(server) => Smtp::new(server.clone(), Pause::default())?.check(config).await,
        MailDelivery::Off | MailDelivery::Development => Ok(()),
    }
}

pub fn say_answer(report: &mut Report, config: &Config, answer: Result<()>) -> Result<()> {
    match (&config.mail, answer) {
        (MailDelivery::Off, _) => report.ok("mail server", "there is none, and everything that needs mail is disabled"),
        (MailDelivery::Development, _) => report.ok("mail server", "there is none, so mails are not sent"),
        (_, Ok(())) => report.ok("mail server", format!("it accepts mails from {}", config.mail_from.email)),
        (_, Err(error)) => report.wrong("mail server", with_cure(explain(&error))),
    }
}

fn with_cure(sentence: String) -> String {
    // A rejection begins with its code.
    let class = sentence.split_once(" with ").and_then(|(_, answer)| answer.chars().next());
    let cure = match class {
        // It already says what to set.
        _ if sentence.contains("SMTP_URL") => return sentence,
        Some('4') => "try again later, and ask its operator if that does not help",
        Some('5') if sentence.contains("MAIL FROM") => {
            "do what it asks for, or set MAIL_FROM to an address that it accepts"
        }
        Some('5') if sentence.contains("log-in") => "set SMTP_URL to a name and a password that it accepts",
        Some('5') => "do what it asks for",
        _ if sentence.contains("certificate") => {
            "set SMTP_CA to the file of its certificate, or SMTP_URL to the host that the certificate names"
        }
        _ => "check that SMTP_URL is right, and its server is running",
    };
    format!("{sentence}: {cure}")
}

/// How many seconds a mail may wait: longer than the pause between two attempts.
const LONG: i64 = 20 * 60;

pub async fn look_at_outbox(report: &mut Report, db: &mut DbConnection) -> Result<()> {
    let sql = "select count(*) - count(failed_at) as waiting, count(failed_at) as given_up, \
               min(case when failed_at is null then created_at end) as oldest, \
               (select error from mails where failed_at is not null order by failed_at desc limit 1) as reason, \
               (select error from mails where failed_at is null and error is not null order by id limit 1) as trouble \
               from mails";
    let row = sqlx::query(sql).fetch_one(db).await?;
    let (waiting, given_up): (i64, i64) = (row.try_get("waiting")?, row.try_get("given_up")?);
    let oldest: Option<i64> = row.try_get("oldest")?;
    let age = oldest.map_or(0, |oldest| now() - oldest);
    let because = |column: &str| {
        let reason: Option<String> = row.try_get(column).unwrap_or_default();
        reason.map_or(String::new(), |reason| format!(" ({reason})"))
    };
    if age > LONG {
        let (trouble, minutes) = (because("trouble"), age / 60);
        let sentence = format!(
            "{waiting} wait, the oldest for {minutes} minutes{trouble}: check that the site is running and its mail \
             server answers"
        );
        report.warning("mails", sentence)?;
    } else {
        report.ok("mails", format!("{waiting} wait"))?;
    }
    if given_up > 0 {
        let sentence = format!(
            "{given_up} were given up{}: docs/operations.md says how to send them when the problem is solved",
            because("reason")
        );
        report.warning("mails", sentence)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_fits_what_the_mail_server_has_said() {
        for (said, cure) in [
            ("the mail server answered MAIL FROM with 550 5.7.1 not yours", "or set MAIL_FROM to"),
            ("the mail server answered MAIL FROM with 451 4.7.1 greylisted", ": try again later"),
            ("the mail server answered the connection to the mail server with 554 no", ": do what it asks for"),
            ("the mail server answered the log-in at the mail server with 535 no", ": set SMTP_URL to a name"),
            ("the log-in at the mail server failed: disconnected", ": check that SMTP_URL is right"),
            ("the connection to the mail server failed: invalid peer certificate: UnknownIssuer", ": set SMTP_CA"),
        ] {
            let sentence = with_cure(said.to_string());
            let names_sender = sentence.contains("MAIL_FROM");
            assert!(sentence.contains(cure) && names_sender == cure.contains("MAIL_FROM"), "{sentence}");
        }
    }
}
