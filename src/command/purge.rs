//! `latchkey purge`: deletes what has expired, as the running site does now and then by itself.

use super::say;
use crate::app::Site;
use crate::config::Config;
use crate::env::Env;
use crate::{features, purge};
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let site = Site::open(Config::from_env(env)?, features::all(env)?).await?;
    let rows = purge::purge(&site.app).await?;
    site.app.db.close().await;
    say(format!("{rows} rows had expired and are gone."))
}
