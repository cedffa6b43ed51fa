//! The commands that change an account: what it may do, whether its owner may log in, and whether it exists.

use super::account;
use crate::accounts::group::{self, Group};
use crate::accounts::user::{self, DELETED_BY_ADMIN};
use crate::accounts::{Actor, disabling};
use crate::base::{Config, Env, Error};
use crate::cli::confirm::confirm;
use crate::cli::output::say;
use crate::cli::wrong_use::WrongUse;
use crate::db::{Connection, Database};
use crate::features;
use anyhow::Result;

pub async fn grant(env: &Env, config: &Config, name: &str, what: &str) -> Result<()> {
    let known = known_permissions(env)?;
    let (db, actor) = (Database::open_existing(config).await?, Actor::command_line());
    let user = account::find(&db, name).await?;
    let grant = async |db: &mut Connection| {
        let group = lock_group(db, what).await?;
        disabling::lock_any(db, &user.id).await?.ok_or(Error::NOT_FOUND)?;
        match group {
            Some(group) => group::join(db, &user.id, &group, &actor).await.map(Some),
            None if known.contains(&what) => group::grant(db, &user.id, what, &actor).await.map(Some),
            None => Ok(None),
        }
    };
    let is_new = db.write(grant).await?.ok_or_else(|| unknown(what, &known))?;
    db.close().await;
    let had = if is_new { "was granted" } else { "had been granted before" };
    say(format!("{}: {what} {had}.", user.username))
}

/// A permission that this version of the site does not know can be taken too.
pub async fn revoke(env: &Env, config: &Config, name: &str, what: &str) -> Result<()> {
    let known = known_permissions(env)?;
    let (db, actor) = (Database::open_existing(config).await?, Actor::command_line());
    let user = account::find(&db, name).await?;
    let revoke = async |db: &mut Connection| {
        let group = lock_group(db, what).await?;
        disabling::lock_any(db, &user.id).await?.ok_or(Error::NOT_FOUND)?;
        if let Some(group) = group {
            return group::leave(db, &user.id, &group, &actor).await.map(Some);
        }
        let had = group::revoke(db, &user.id, what, &actor).await?;
        Ok((had || known.contains(&what)).then_some(had))
    };
    let had = db.write(revoke).await?.ok_or_else(|| unknown(what, &known))?;
    db.close().await;
    let revoked = if had { "was revoked" } else { "had not been granted directly" };
    say(format!("{}: {what} {revoked}.", user.username))
}

pub async fn disable(config: &Config, name: &str) -> Result<()> {
    let db = Database::open_existing(config).await?;
    let user = account::find(&db, name).await?;
    let disabled = db.write(async |db| disabling::disable(db, &user.id, &Actor::command_line()).await).await?;
    db.close().await;
    say(format!("{} {} disabled.", user.username, if disabled { "is now" } else { "was already" }))
}

pub async fn enable(config: &Config, name: &str) -> Result<()> {
    let db = Database::open_existing(config).await?;
    let user = account::find(&db, name).await?;
    let enabled = db.write(async |db| disabling::enable(db, &user.id, &Actor::command_line()).await).await?;
    db.close().await;
    say(format!("{} {} enabled.", user.username, if enabled { "is now" } else { "was already" }))
}

pub async fn delete(config: &Config, name: &str, yes: bool) -> Result<()> {
    let db = Database::open_existing(config).await?;
    let user = account::find(&db, name).await?;
    confirm(yes, &format!("This deletes {} with everything in the account.", user.username))?;
    let (actor, rest) = (Actor::command_line(), config.name_rest);
    db.write(async |db| user::delete(db, &user.id, rest, DELETED_BY_ADMIN.by_actor(&actor)).await).await?;
    db.close().await;
    say(format!("{} is deleted.", user.username))
}

fn known_permissions(env: &Env) -> Result<Vec<&'static str>> {
    let features = features::all(env)?;
    let permissions = features.iter().flat_map(|feature| feature.permissions);
    Ok(permissions.filter(|permission| !permission.is_for_everyone).map(|permission| permission.name).collect())
}

async fn lock_group(db: &mut Connection, name: &str) -> Result<Option<Group>, Error> {
    match group::find_by_name(db, name).await? {
        Some(group) => group::lock(db, &group.id).await,
        None => Ok(None),
    }
}

fn unknown(what: &str, known: &[&str]) -> WrongUse {
    let known = known.join(", ");
    WrongUse(format!("{what} is neither a group of this site nor one of the permissions {known}"))
}
