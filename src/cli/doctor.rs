//! `latchkey doctor`: checks configuration, database and mail server, and reports the first problem.

use super::{output::say, reseal::count_outdated};
use crate::base::{Config, Env, MailDelivery, Seals, config::is_sqlite};
use crate::db::{Connection, Database};
use crate::features;
use crate::features::Feature;
use crate::mail::{outbox, smtp::Smtp};
use crate::web::{factors, templates::Templates};
use anyhow::Result;

/// Goes through what starting needs, in the same order.
pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let kind = if config.development() { "development" } else { "production" };
    say(format!("configuration  ok: {kind}, at {}", config.origin()))?;
    if config.insecure_http && !config.development() {
        say("               warning: INSECURE_HTTP=yes, passwords cross the network in the clear")?;
    }
    let features = features::all(env)?;
    let on = features.iter().map(|feature| feature.name).filter(|name| !name.is_empty());
    let names: Vec<&str> = on.collect();
    say(format!("features       ok: {}", names.join(", ")))?;
    Templates::load(&config, names.into_iter())?;
    say("templates      ok")?;
    let factors: Vec<_> = features.iter().filter_map(|feature| feature.factor).collect();
    factors::check_policy(&config, &factors)?;
    let db = check_database(&config, &features).await?;
    let (waiting, given_up) = db.read(async |db| outbox::count(db).await).await?;
    db.close().await;
    let delivery = check_mail(&config).await?;
    say(format!("mail           ok: {delivery}; {waiting} waiting, {given_up} given up"))
}

async fn check_database(config: &Config, features: &[Feature]) -> Result<Database> {
    let sealed: Vec<_> = features.iter().flat_map(|feature| feature.sealed).collect();
    let seals = Seals::load(config, !sealed.is_empty())?;
    let db = Database::open(config).await?;
    let count = async |db: &mut Connection| Ok(sqlx::query_scalar("select count(*) from users").fetch_one(db).await?);
    let users: i64 = db.read(count).await?;
    let engine = if is_sqlite(&config.database_url) { "SQLite" } else { "Postgres" };
    say(format!("database       ok: {engine}, {users} users, every section of schema.sql applied"))?;
    for column in sealed {
        say(match count_outdated(&seals, &db, column).await? {
            0 => format!("secrets        ok: all of {} are sealed with the newest key", column.table),
            outdated => format!(
                "secrets        {outdated} of {} are sealed with an older key: run latchkey reseal",
                column.table
            ),
        })?;
    }
    Ok(db)
}

/// Says where mails go, once the server has let us in.
async fn check_mail(config: &Config) -> Result<&'static str> {
    match &config.mail {
        MailDelivery::Off => Ok("there is none, and what needs it is hidden"),
        MailDelivery::Development => Ok("there is no mail server, so mails stay in this process"),
        MailDelivery::Smtp(url) => {
            Smtp::new(url)?.check().await?;
            Ok("the server lets us in")
        }
    }
}
