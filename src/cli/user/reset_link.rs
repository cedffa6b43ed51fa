//! `latchkey user reset-link`: a link to set a password, for a user who cannot get back in otherwise.

use crate::accounts::link::{self, Purpose};
use crate::accounts::{Username, user};
use crate::base::{Config, Env};
use crate::cli::output::say;
use crate::db::Database;
use crate::features;
use anyhow::{Context, Result, anyhow};

pub async fn print(env: &Env, config: &Config, name: &str) -> Result<()> {
    let path = features::all(env)?.iter().find_map(|feature| feature.reset_path);
    let path = path.context("this site has no page to reset a password")?;
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let db = Database::open_existing(config).await?;
    let token = db.write(async |db| {
        let Some(user) = user::find(db, &username).await? else { return Ok(None) };
        user::lock(db, &user.id).await?;
        link::issue(db, Purpose::Reset, &user.id, "", "", config.reset_lifetime).await.map(Some)
    });
    let token = token.await?.with_context(|| format!("No user who can log in is called {username}."))?;
    db.close().await;
    say(config.link(path, &token))
}
