//! `latchkey restore FILE`: puts a backup in the place of the SQLite database.

use super::confirm::confirm;
use super::output::{say, say_error};
use super::partial::folder_of;
use super::wrong_use::WrongUse;
use super::{postgres_tools, snapshot};
use crate::base::error::is_damaged;
use crate::base::files::{private_folder, with_suffix};
use crate::base::{Config, Env, Seals, config::is_sqlite, explain};
use crate::db::connect::{self, Mode};
use crate::db::engine::DbConnection;
use crate::db::exclusive::connect_alone;
use crate::db::migrate::{self, Seen};
use crate::db::{database::SCHEMA, now, unfinished_move};
use crate::features::{self, Feature};
use crate::web::format::rfc3339;
use anyhow::{Context, Result, anyhow, bail, ensure};
use sqlx::migrate::Migration;
use sqlx::{Connection, Executor};
use std::fs::{File, copy, hard_link, rename};
use std::io::{self, ErrorKind::AlreadyExists, Read};
use std::path::{Path, PathBuf};

pub async fn run(env: &Env, file: &Path, yes: bool) -> Result<()> {
    let config = Config::from_env(env)?;
    let features = features::all(env)?;
    connect::prepare_engine(&config)?;
    if !is_sqlite(&config.database_url) {
        bail!(postgres_tools::how_to_restore(&config.database_direct_url, file)?);
    }
    let database = connect::sqlite_file(&config.database_url)?;
    // Otherwise a link would be replaced.
    let database = database.canonicalize().unwrap_or(database);
    let name = file.display();
    check_file(file, &database)?;
    let sections = migrate::sections(SCHEMA)?;
    let present = present_sections(&database, &sections).await?;
    let mut backup = connect::connect(&connect::url_of(file), Mode::Read).await?;
    check_backup(&mut backup, &sections, &present).await.with_context(|| format!("{name} was not restored"))?;
    warn_of_missing_keys(&mut backup, &config, &features).await;
    if database.exists() {
        confirm(yes, &format!("Replace {} with {name}?", database.display()))?;
    }
    private_folder(folder_of(&database))?;
    let copy = snapshot::copy(&mut backup, &database).await?;
    backup.close().await?;
    let kept = set_aside(&database).await?;
    copy.keep(&database)?;
    let old = kept.map(|kept| format!(" The old database is {}.", kept.display())).unwrap_or_default();
    say(format!("{} was restored from {name}.{old}", database.display()))
}

/// Whether the file may be a backup.
fn check_file(file: &Path, database: &Path) -> Result<()> {
    let name = file.display();
    let found = file.metadata().with_context(|| format!("{name} cannot be read"))?;
    if !found.is_file() {
        bail!(WrongUse(format!("{name} is not a regular file: name a backup")));
    }
    if file.canonicalize()? == database {
        bail!(WrongUse(format!("{name} is the database itself: name a backup")));
    }
    let mut start = [0; HEADER.len()];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut start));
    ensure!(read.is_ok() && start == *HEADER, "{name} is not a SQLite database, or cannot be read");
    Ok(())
}

/// How every SQLite file begins.
const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// The sections of schema.sql that were applied to the present database, which nobody may use.
async fn present_sections(database: &Path, sections: &[Migration]) -> Result<Vec<Seen>> {
    if !database.exists() {
        return Ok(Vec::new());
    }
    let reading = async {
        let mut alone = connect_alone(&connect::url_of(database)).await?;
        let applied = migrate::applied(&mut alone, true, sections).await;
        alone.close().await?;
        applied
    };
    // A damaged one is what a backup is for.
    reading.await.or_else(|error| if is_damaged(&error) { Ok(Vec::new()) } else { Err(error) })
}

/// Whether this program can serve the backup.
async fn check_backup(backup: &mut DbConnection, sections: &[Migration], present: &[Seen]) -> Result<()> {
    let found: Result<String, _> = sqlx::query_scalar("pragma integrity_check(1)").fetch_one(&mut *backup).await;
    let found = found.unwrap_or_else(|error| error.to_string());
    ensure!(found == "ok", "the file is damaged ({found}): restore another");
    let is_marked = unfinished_move::is_marked(backup, true).await?;
    ensure!(!is_marked, "the file is the target of a latchkey move that has not finished: restore another");
    let applied = migrate::applied(backup, true, sections).await?;
    ensure!(!applied.is_empty(), "the file is not the database of a site: name a backup");
    for seen in &applied {
        let number = seen.0;
        match sections.iter().find(|section| section.version == number) {
            Some(section) => ensure!(*section.checksum == *seen.1, migrate::edited(number)),
            // The present database has sections of features that were removed, too.
            None => ensure!(
                present.contains(seen),
                "the file has section {number} of schema.sql, which this program does not know: restore it with the \
                 program that made it"
            ),
        }
    }
    Ok(())
}

async fn warn_of_missing_keys(backup: &mut DbConnection, config: &Config, features: &[Feature]) {
    let seals = match Seals::load_if_made(config, features.iter().any(Feature::seals)) {
        Ok(seals) => seals,
        Err(error) => return say_error(format!("latchkey: warning: {}", explain(&error))),
    };
    for column in features.iter().flat_map(|feature| feature.sealed) {
        // An older backup may not have the table.
        let counts = sqlx::query_as(column.count_by_key).fetch_all(&mut *backup).await.unwrap_or_default();
        let count = seals.count_unopened(&counts);
        if count > 0 {
            say_error(format!("latchkey: warning: {}", seals.describe_unopened(column, count)));
        }
    }
}

/// Gives the present database, if there is one, a second name, which it keeps when a backup takes the first.
async fn set_aside(database: &Path) -> Result<Option<PathBuf>> {
    let time = rfc3339(now()).replace(['-', ':', 'Z'], "").replace('T', "-");
    let kept = with_suffix(database, &format!(".before-restore-{time}"));
    let exists = database.exists();
    if exists {
        fold(database).await?;
        link_or_copy(database, &kept).map_err(|error| anyhow!("{} cannot be made: {error}", kept.display()))?;
    }
    // Those of a database that is damaged or gone. SQLite would apply them to the backup.
    for suffix in ["-wal", "-shm", "-journal"] {
        let beside = with_suffix(database, suffix);
        if beside.exists() {
            rename(beside, with_suffix(&kept, suffix))?;
        }
    }
    Ok(exists.then_some(kept))
}

/// Puts everything into the one file, if it is not damaged.
async fn fold(database: &Path) -> Result<()> {
    let folding = async {
        let mut alone = connect_alone(&connect::url_of(database)).await?;
        alone.execute("pragma journal_mode = delete").await?;
        Ok(alone.close().await?)
    };
    folding.await.or_else(|error| if is_damaged(&error) { Ok(()) } else { Err(error) })
}

/// Some file systems have no links.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match hard_link(from, to) {
        Err(error) if error.kind() != AlreadyExists => copy(from, to).map(drop),
        linked => linked,
    }
}
