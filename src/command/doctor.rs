//! `latchkey doctor`: would the site start here?

use super::say;
use crate::config::Config;
use crate::database::{Database, is_sqlite};
use crate::env::Env;
use crate::page::Pages;
use crate::seal::Seals;
use crate::{factor, features, mail};
use anyhow::Result;

/// Goes through what starting needs, in its order, and ends with the first thing that is wrong.
pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let kind = if config.development() { "development" } else { "production" };
    say(format!("configuration  ok: {kind}, at {}", config.origin()))?;
    if config.insecure_http && !config.development() {
        say("               warning: INSECURE_HTTP=yes, passwords cross the network in the clear")?;
    }
    let features = features::all(env)?;
    say(format!(
        "features       ok: {}",
        features.iter().map(|feature| feature.name).collect::<Vec<_>>().join(", ")
    ))?;
    Pages::load(&config, &features)?;
    say("templates      ok")?;
    factor::check_requirement(&config, &features)?;
    let seals = Seals::load(&config, &features)?;
    let db = Database::open(&config).await?;
    let users = db.read(async |db| crate::user::count(db).await).await?;
    let engine = if is_sqlite(&config.database_url) { "SQLite" } else { "Postgres" };
    say(format!("database       ok: {engine}, {users} users, every section of schema.sql applied"))?;
    for column in features.iter().flat_map(|feature| feature.sealed) {
        say(match seals.count_old(&db, column).await? {
            0 => format!("secrets        ok: all of {} are sealed with the newest key", column.table),
            old => format!(
                "secrets        {old} of {} are sealed with an older key: say latchkey reseal",
                column.table
            ),
        })?;
    }
    let (waiting, given_up) = db.read(async |db| mail::count(db).await).await?;
    db.close().await;
    let goes = config.mail.check().await?;
    say(format!("mail           ok: {goes}; {waiting} waiting, {given_up} given up"))
}
