//! `latchkey reseal`: after a new key has been put before the old ones in `SECRET_KEY`, so that the old can go.

use super::say;
use crate::app::Site;
use crate::config::Config;
use crate::env::Env;
use crate::features;
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let site = Site::open(Config::from_env(env)?, features::all(env)?).await?;
    let app = &site.app;
    for column in app.features.iter().flat_map(|feature| feature.sealed) {
        let renewed = app.seals.reseal(&app.db, column).await?;
        say(format!("{}: {renewed} sealed anew", column.table))?;
    }
    app.db.close().await;
    say("Everything is sealed with the first key of SECRET_KEY; the others can go.")
}
