//! The two databases: which may be read from, and which may be written to.

use crate::base::config::is_sqlite;
use crate::base::{Config, random};
use crate::db::connect::{self, Mode, database_file};
use crate::db::database::SCHEMA;
use crate::db::engine::DbConnection;
use crate::db::exclusive::ensure_alone;
use crate::db::migrate;
use crate::db::patience::Patience;
use crate::db::unfinished_move::{self, MARK};
use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Executor};
use std::path::{Path, PathBuf};

/// One of the databases. No other program uses it.
pub struct End {
    pub db: DbConnection,
    pub sqlite: bool,
}

/// Whole tables take long, and what a value looks like as text does not depend on the server.
const SETTINGS: &str = "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; \
    set lock_timeout = '30s'; set bytea_output = 'hex'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; \
    set timezone = 'UTC'; set extra_float_digits = 1";

impl End {
    /// # Errors
    /// One sentence: it cannot be reached, lacks a section of `schema.sql`, is the target of an unfinished move, or is
    /// in use.
    pub async fn source(config: &Config) -> Result<End> {
        ensure!(
            connect::prepare(config, Mode::Write)? == Mode::Write,
            "the file in DATABASE_URL can only be read, so it is not known whether the site is using it: let this user \
             write to it"
        );
        let is_direct = config.database_direct_url != config.database_url;
        let variable = if is_direct { "DATABASE_DIRECT_URL" } else { "DATABASE_URL" };
        let mut end = End::connect(variable, &config.database_direct_url, Mode::Write).await?;
        let patience = Patience::new();
        unfinished_move::refuse(&mut end.db, end.sqlite, &patience).await?;
        migrate::check(&mut end.db, end.sqlite, SCHEMA, &patience).await?;
        ensure_alone(variable, &mut end.db, end.sqlite).await?;
        Ok(end)
    }

    /// It is created, its schema is brought up to date, and it is marked as unfinished.
    ///
    /// # Errors
    /// One sentence: it cannot be reached, is the source, is in use, or has users and no mark.
    pub async fn target(config: &Config, source: &Config, from: &mut End) -> Result<End> {
        const SAME: &str = "DATABASE_URL is the database that the site already uses: name another one";
        let url = &config.database_url;
        let file = |url: &str| Ok::<_, anyhow::Error>(database_file(url)?.as_deref().and_then(real_path));
        ensure!(file(url)?.is_none() || file(url)? != file(&source.database_url)?, SAME);
        let mode = connect::prepare(config, Mode::Create)?;
        ensure!(mode == Mode::Create, "the file in DATABASE_URL can only be read: let this user write to it");
        let mut end = End::connect("DATABASE_URL", url, mode).await?;
        ensure!(from.sqlite || end.sqlite || !is_same(from, &mut end).await?, SAME);
        ensure_alone("DATABASE_URL", &mut end.db, end.sqlite).await?;
        if !unfinished_move::is_marked(&mut end.db, end.sqlite).await? {
            ensure!(
                !migrate::is_of_a_site(&mut end.db, end.sqlite).await? || end.count("users").await? == 0,
                "the database in DATABASE_URL has users already, and they would be lost: name an empty database"
            );
        }
        migrate::apply(&mut end.db, end.sqlite, SCHEMA, &Patience::new()).await?;
        end.db.execute(MARK).await?;
        Ok(end)
    }

    /// # Errors
    /// When it cannot be reached in time.
    pub async fn connect(variable: &str, url: &str, mode: Mode) -> Result<End> {
        let mut db = connect::first(variable, url, mode, &Patience::new()).await?;
        let sqlite = is_sqlite(url);
        if !sqlite {
            db.execute(SETTINGS).await?;
        }
        Ok(End { db, sqlite })
    }

    /// How many rows this table has. Its name is quoted if it needs to be.
    pub async fn count(&mut self, table: &str) -> Result<i64> {
        let count = AssertSqlSafe(format!("select count(*) from {table}"));
        Ok(sqlx::query_scalar(count).fetch_one(&mut self.db).await?)
    }
}

fn real_path(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok()
}

/// Whether both connections lead to one database of one server, whatever its address is: then one is kept waiting by a lock
/// that the other holds.
async fn is_same(one: &mut End, other: &mut End) -> Result<bool> {
    let key = i64::from_be_bytes(random()?);
    sqlx::query("select pg_advisory_lock($1)").bind(key).execute(&mut one.db).await?;
    let free = sqlx::query_scalar("select count(*) where pg_try_advisory_lock($1)").bind(key);
    let free: i64 = free.fetch_one(&mut other.db).await?;
    Ok(free == 0)
}
