//! `latchkey backup FILE`: a copy of the SQLite database, which can be made while the site runs.

use super::confirm::confirm;
use super::output::say;
use super::partial::folder_of;
use super::wrong_use::WrongUse;
use super::{postgres_tools, snapshot};
use crate::base::files::with_suffix;
use crate::base::{Config, Env, config::is_sqlite};
use crate::db::connect::{self, Mode};
use crate::db::migrate;
use crate::db::patience::Patience;
use crate::db::unfinished_move;
use anyhow::{Result, bail, ensure};
use sqlx::Connection;
use std::path::Path;

pub async fn run(env: &Env, file: &Path, yes: bool) -> Result<()> {
    let config = Config::from_env(env)?;
    let mode = connect::prepare(&config, Mode::Write)?;
    if !is_sqlite(&config.database_url) {
        bail!(postgres_tools::how_to_dump(&config.database_direct_url, file)?);
    }
    check_place(file, &connect::sqlite_file(&config.database_url)?)?;
    let mut db = connect::first("DATABASE_URL", &config.database_url, mode, &Patience::new()).await?;
    ensure!(
        migrate::is_of_a_site(&mut db, true).await?,
        "the database in DATABASE_URL is not of a site: start the site once, or set DATABASE_URL to its file"
    );
    unfinished_move::refuse(&mut db, true, &Patience::new()).await?;
    if file.exists() {
        confirm(yes, &format!("{} exists. Replace it?", file.display()))?;
    }
    let copy = snapshot::copy(&mut db, file).await?;
    // Removes the files that SQLite keeps beside the database while it is open.
    db.close().await?;
    copy.keep(file)?;
    say(format!("{} has everything that was in the database when the command began.", file.display()))
}

/// The backup must not replace something else than an older one.
fn check_place(file: &Path, database: &Path) -> Result<()> {
    let (name, folder) = (file.display(), folder_of(file));
    if file.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        bail!(WrongUse(format!("{name} is not a regular file: name another")));
    }
    let Ok(place) = folder.canonicalize().map(|folder| folder.join(file.file_name().unwrap_or_default())) else {
        bail!(WrongUse(format!("there is no folder {}: create it, or name another", folder.display())))
    };
    let database = database.canonicalize()?;
    if ["", "-wal", "-shm", "-journal"].iter().any(|suffix| place == with_suffix(&database, suffix)) {
        bail!(WrongUse(format!("{name} belongs to the database itself: name another file")));
    }
    let left = ["-wal", "-journal"].map(|suffix| with_suffix(file, suffix));
    if let Some(left) = left.iter().find(|left| left.symlink_metadata().is_ok()) {
        let left = left.display();
        bail!(WrongUse(format!(
            "SQLite would apply {left}, which is of another copy, to this one: delete it, or name another file"
        )));
    }
    Ok(())
}
