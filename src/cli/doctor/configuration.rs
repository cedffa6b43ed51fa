//! Checks the settings as the site would read them.

use super::report::Report;
use crate::base::{Config, Env, MailDelivery, explain};
use crate::cli::log::check_filter;
use crate::db::now;
use crate::features::Feature;
use crate::web::format::date_time;
use crate::web::{factors, templates::Templates};
use anyhow::Result;

pub fn look(report: &mut Report, env: &Env, config: &Result<Config>, features: &Result<Vec<Feature>>) -> Result<()> {
    match config {
        Ok(config) => look_at(report, config)?,
        Err(error) => report.wrong("configuration", explain(error))?,
    }
    match features {
        Ok(features) => {
            let on = features.iter().map(|feature| feature.name).filter(|name| !name.is_empty());
            report.ok("features", on.collect::<Vec<_>>().join(", "))?;
        }
        // Features read the configuration too.
        Err(_) if config.is_err() => {}
        Err(error) => report.wrong("features", explain(error))?,
    }
    for sentence in env.misspelt() {
        report.warning("configuration", sentence)?;
    }
    if let (Ok(config), Ok(features)) = (config, features) {
        look_at_pages(report, config, features)?;
    }
    look_at_clock(report)
}

fn look_at(report: &mut Report, config: &Config) -> Result<()> {
    let kind = if config.development() { "development" } else { "production" };
    report.ok("configuration", format!("{kind}, at {}", config.origin()))?;
    if config.is_forwarded() {
        let sentence = "anyone who can open DEVELOPMENT_URL can use everything that is meant for development: keep that address \
             private";
        report.warning("configuration", sentence)?;
    }
    if config.development() {
        return Ok(());
    }
    if config.insecure_http {
        let sentence = "passwords cross the network unencrypted: use https, and remove INSECURE_HTTP";
        report.warning("configuration", sentence)?;
    }
    if config.https() && config.trusted_proxies.is_empty() {
        let sentence = "BASE_URL is https, so there is a proxy in front, but with TRUSTED_PROXIES=none all clients \
                        count as one address: set it to the addresses of the proxy";
        report.warning("configuration", sentence)?;
    }
    let sends = matches!(config.mail, MailDelivery::Smtp(_));
    if sends && config.mail_from.email.domain() == "localhost" {
        report.warning("configuration", "mails come from an address at localhost: set MAIL_FROM")?;
    }
    Ok(())
}

fn look_at_pages(report: &mut Report, config: &Config, features: &[Feature]) -> Result<()> {
    match Templates::load(config, features.iter().map(|feature| feature.name)) {
        Ok(_) => report.ok("templates", "all of them can be read")?,
        Err(error) => report.wrong("templates", explain(&error))?,
    }
    if let Err(error) = check_filter(config, features) {
        report.wrong("log", explain(&error))?;
    }
    let factors: Vec<_> = features.iter().filter_map(|feature| feature.factor).collect();
    match factors::check_policy(config, &factors) {
        Ok(()) => Ok(()),
        Err(error) => report.wrong("factors", explain(&error)),
    }
}

/// The first second of 2026; this program is not older.
const EARLIEST: i64 = 1_767_225_600;

fn look_at_clock(report: &mut Report) -> Result<()> {
    if now() < EARLIEST {
        return report.wrong(
            "clock",
            "this machine's clock is before 2026: set it, and let chrony or systemd-timesyncd keep it",
        );
    }
    report.ok("clock", format!("it is {} here", date_time(now())))
}
