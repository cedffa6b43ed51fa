//! Checks whether the database can be reached, and is what the site needs. It is only read, on one connection.

use super::report::Report;
use super::{files, mail, postgres, schema, secrets};
use crate::base::{Config, config::is_sqlite, error::is_unavailable, explain};
use crate::db::connect::{self, Mode, database_file};
use crate::db::engine::DbConnection;
use crate::db::now;
use crate::db::patience::Patience;
use crate::db::unfinished_move::{UNFINISHED, is_marked};
use crate::features::Feature;
use anyhow::Result;
use sqlx::Executor;
use std::time::Duration;
use tokio::time::timeout;

/// How long all checks except the last may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the check of every page of a SQLite file may take.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);

pub async fn look(report: &mut Report, config: &Config, features: &[Feature]) -> Result<()> {
    if let Ok(Some(file)) = database_file(&config.database_direct_url)
        && !file.exists()
    {
        return match files::why_not_made(&config.database_direct_url, &file) {
            Some(sentence) => report.wrong("database", sentence),
            None => {
                let cure = "start the site, which creates it, or set DATABASE_URL to another file";
                report.warning("database", format!("there is no file {} yet: {cure}", file.display()))
            }
        };
    }
    let (direct, db) = connect(config).await;
    let direct = match direct.map(|direct| say_connected(report, "DATABASE_DIRECT_URL", config, direct)) {
        Some(direct) => direct?,
        None => None,
    };
    let Some(mut db) = say_connected(report, "DATABASE_URL", config, db)? else { return Ok(()) };
    let error = match timeout(PATIENCE, look_inside(report, &mut db, direct, config, features)).await {
        Ok(Ok(())) if is_sqlite(&config.database_url) => return look_at_pages(report, &mut db).await,
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            return report
                .wrong("database", format!("it has not answered within {PATIENCE:?}: find out what keeps it busy"));
        }
    };
    match error.downcast_ref() {
        Some(error) => say_failure(report, "database", is_sqlite(&config.database_url), error),
        None => report.wrong("database", explain(&error)),
    }
}

/// A file only counts as damaged if SQLite itself says that it is corrupt or not a database.
fn say_failure(report: &mut Report, about: &'static str, sqlite: bool, error: &sqlx::Error) -> Result<()> {
    let (code, reason) = match error {
        sqlx::Error::Database(cause) => (cause.code().unwrap_or_default(), cause.message().to_string()),
        other => ("".into(), other.to_string()),
    };
    // The low byte of an extended code is the primary code.
    let cure = match code.parse().unwrap_or(0) & 0xff_u32 {
        _ if !sqlite && is_unavailable(error) => "find out what keeps it busy",
        _ if !sqlite => "see the log of the server",
        11 | 26 => {
            let cure = "restore the last backup, or set DATABASE_URL to the right file";
            return report.wrong(about, format!("the file is damaged ({reason}): {cure}"));
        }
        5 | 6 | 15 => "find out which other program has locked the file, and stop it",
        3 | 8 | 14 => "give this user permission to read and write its folder, and the files that begin with its name",
        10 | 13 => "check that its disk works and has space",
        _ => "run pragma quick_check on a copy",
    };
    report.wrong(about, format!("it could not be checked ({reason}): {cure}"))
}

/// Both at once, because each may have to be waited for.
async fn connect(config: &Config) -> (Option<Result<DbConnection>>, Result<DbConnection>) {
    let patience = Patience::new();
    let connect = async |variable, url| {
        connect::prepare(config, Mode::Read)?;
        connect::first(variable, url, Mode::Read, &patience).await
    };
    let direct = async {
        if config.database_direct_url == config.database_url {
            return None;
        }
        Some(connect("DATABASE_DIRECT_URL", &*config.database_direct_url).await)
    };
    tokio::join!(direct, connect("DATABASE_URL", &*config.database_url))
}

/// `None` when the database cannot be reached, which is reported.
fn say_connected(
    report: &mut Report,
    variable: &str,
    config: &Config,
    connected: Result<DbConnection>,
) -> Result<Option<DbConnection>> {
    let cure = if is_sqlite(&config.database_url) {
        "is right, this user may read and write in its folder, and no other program has locked it"
    } else {
        "is right, and its server is running"
    };
    match connected {
        Ok(db) => Ok(Some(db)),
        Err(error) => {
            let mut says = explain(&error);
            // Other sentences already say what to do.
            if says.contains("cannot") || says.starts_with("gave up") {
                says = format!("{says}: check that {variable} {cure}");
            }
            report.wrong("database", says).map(|()| None)
        }
    }
}

async fn look_inside(
    report: &mut Report,
    db: &mut DbConnection,
    direct: Option<DbConnection>,
    config: &Config,
    features: &[Feature],
) -> Result<()> {
    if is_sqlite(&config.database_url) {
        let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(&mut *db).await?;
        report.ok("database", format!("SQLite {version}"))?;
    } else {
        db.execute("set statement_timeout = '10s'").await?;
        look_at_clock(report, db).await?;
        if !postgres::look(report, db, config).await? {
            return Ok(());
        }
    }
    if let Some(mut direct) = direct
        && !schema::is_same(db, &mut direct, is_sqlite(&config.database_url)).await?
    {
        let sentence = "DATABASE_DIRECT_URL and DATABASE_URL are different databases, so the site would not find its \
                        tables: set both to the same database";
        return report.wrong("database", sentence);
    }
    if is_marked(db, is_sqlite(&config.database_url)).await? {
        return report.wrong("database", UNFINISHED);
    }
    if schema::look(report, db, config).await? {
        mail::look_at_outbox(report, db).await?;
        secrets::look(report, db, config, features).await?;
    }
    Ok(())
}

/// How many seconds the clock of another machine may differ.
const SKEW: i64 = 5;

async fn look_at_clock(report: &mut Report, db: &mut DbConnection) -> Result<()> {
    let before = now();
    let sql = "select cast(extract(epoch from clock_timestamp()) as bigint)";
    let theirs: i64 = sqlx::query_scalar(sql).fetch_one(db).await?;
    let difference = if theirs < before { before - theirs } else { (theirs - now()).max(0) };
    if difference > SKEW {
        let sentence = format!(
            "the clocks of this machine and of the database differ by {difference} s: set the one that is wrong"
        );
        return report.warning("clock", sentence);
    }
    report.ok("clock", "this machine and the database agree")
}

async fn look_at_pages(report: &mut Report, db: &mut DbConnection) -> Result<()> {
    let check = sqlx::query_scalar("pragma quick_check(1)").fetch_one(db);
    let found: Result<String, _> = match timeout(CHECK_PATIENCE, check).await {
        Ok(found) => found,
        Err(_) => {
            let sentence =
                format!("checking every page takes longer than {CHECK_PATIENCE:?}: run pragma quick_check on a copy");
            return report.warning("pages", sentence);
        }
    };
    match found {
        Ok(found) if found == "ok" => report.ok("pages", "the file is in order (quick_check)"),
        Ok(found) => report.wrong("pages", format!("the file is damaged ({found}): restore the last backup")),
        Err(error) => say_failure(report, "pages", true, &error),
    }
}
