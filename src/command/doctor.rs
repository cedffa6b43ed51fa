//! `latchkey doctor`: would the site start here?

use crate::config::{Config, Env};
use crate::database::{Database, sqlite_file};
use crate::features;
use crate::page::Pages;
use anyhow::Result;

/// Goes through what starting needs, in its order, and ends with the first thing that is wrong.
pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let kind = if config.development() { "development" } else { "production" };
    println!("configuration  ok: {kind}, at {}", config.origin());
    if config.insecure_http && !config.development() {
        println!("               warning: INSECURE_HTTP=yes, passwords cross the network in the clear");
    }
    let features = features::all(env)?;
    println!(
        "features       ok: {}",
        features.iter().map(|feature| feature.name).collect::<Vec<_>>().join(", ")
    );
    Pages::load(&config.site_name)?;
    println!("templates      ok");
    let db = Database::open(&config).await?;
    let users = db.read(async |db| crate::user::count(db).await).await?;
    let engine = if sqlite_file(&config.database_url).is_some() { "SQLite" } else { "Postgres" };
    println!("database       ok: {engine}, {users} users, every section of schema.sql applied");
    db.close().await;
    Ok(())
}
