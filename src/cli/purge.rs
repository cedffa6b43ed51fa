//! `latchkey purge`: deletes what has expired, as the running site does by itself.

use super::output::say;
use crate::base::{Config, Env};
use crate::features;
use crate::server::{purge, site::Site};
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let site = Site::open(Config::from_env(env)?, features::all(env)?).await?;
    let purged = purge::purge(&site.app).await;
    site.app.db.close().await;
    say(format!("{} rows had expired and are gone.", purged?))
}
