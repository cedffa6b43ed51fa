//! `latchkey purge`: deletes expired rows, as the running site does by itself.

use super::output::say;
use crate::base::{Config, Env};
use crate::db::Database;
use crate::features;
use crate::server::purge::purge_database;
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let features: Vec<_> = features::all(env)?.iter().flat_map(|feature| feature.purge).copied().collect();
    let db = Database::open_existing(&config).await?;
    let purged = purge_database(&db, &config, &features).await;
    db.close().await;
    say(format!("{} expired rows were deleted.", purged?))
}
