//! The database: one embedded SQLite file, or Postgres with many replicas.
//!
//! [`Db`] is the line to change when an app has settled on one engine. `read` and `write` are the two ways
//! in: each takes a closure, holds one connection for it and gives the whole of it, waiting included,
//! [`DEADLINE`]. `write` is a transaction that is committed when the closure answers `Ok`.

use crate::config::Config;
use crate::error::{self, Error, Result};
#[cfg(feature = "sqlite")]
use crate::file::{private_file, private_folder};
use crate::migrate;
use anyhow::{Context, anyhow, ensure};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{ConnectOptions, Either, Execute, Executor, SqlStr};
use std::ops::AsyncFnOnce;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore};

/// The engine. `sqlx::Any` decides by `DATABASE_URL`; `sqlx::Postgres` or `sqlx::Sqlite` here gives an app
/// that has chosen all the types of its engine.
pub type Db = sqlx::Any;

pub type DbConnection = <Db as sqlx::Database>::Connection;
type DbOptions = <DbConnection as sqlx::Connection>::Options;

/// How long a request waits for the database, all in all.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A connection that has rested longer than this is asked whether it still lives before it is used.
const RESTED: Duration = Duration::from_secs(10);

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("choose an engine: --features sqlite, --features postgres, or both");

const COMPILED_IN: &[&str] = &[
    #[cfg(feature = "sqlite")]
    "sqlite",
    #[cfg(feature = "postgres")]
    "postgres",
];

/// How long the start waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

const SCHEMA: &str = include_str!("../schema.sql");

#[derive(Clone)]
pub struct Database {
    pool: sqlx::Pool<Db>,
    /// SQLite has one writer at a time. Waiting here is first come, first served; its own lock is not.
    writer: Option<Arc<Semaphore>>,
    /// Of the notes only one waits there, so that a crowd of them does not stand before a write.
    notes: Arc<Semaphore>,
    /// Told when a transaction that has put a mail into the outbox is committed.
    outbox: Arc<Notify>,
    statements: Arc<AtomicU64>,
}

impl Database {
    /// Connects with `config.database_url`, after the sections of `schema.sql` that are new have been applied
    /// by `config.database_direct_url`.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        sqlx::any::install_default_drivers();
        let engine = if is_sqlite(&config.database_url) { "sqlite" } else { "postgres" };
        ensure!(
            COMPILED_IN.contains(&engine),
            "this binary was built without the engine of DATABASE_URL: set another, or build with --features {engine}"
        );
        #[cfg(feature = "sqlite")]
        for url in [&config.database_url, &config.database_direct_url] {
            if is_sqlite(url) {
                create_file(
                    sqlx::sqlite::SqliteConnectOptions::from_str(url)?.get_filename(),
                    !config.development(),
                )?;
            }
        }
        // Kept until the pool stands: when the last connection to a SQLite file closes, opening it can fail.
        let mut direct = connect_directly(&config.database_direct_url).await?;
        migrate::apply(&mut direct, is_sqlite(&config.database_direct_url), SCHEMA).await?;
        let pool = connect(&config.database_url, config.database_pool).await?;
        sqlx::Connection::close(direct).await?;
        Ok(Database {
            pool,
            writer: is_sqlite(&config.database_url).then(|| Arc::new(Semaphore::new(1))),
            notes: Arc::new(Semaphore::new(1)),
            outbox: Arc::default(),
            statements: Arc::default(),
        })
    }

    /// Runs `work` on one connection, for queries that change nothing.
    ///
    /// # Errors
    /// What `work` answers; [`Error::Unavailable`] when the database is away or [`DEADLINE`] has passed.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        within_deadline(async {
            let mut connection = self.connection().await?;
            let answer = work(&mut connection).await;
            connection.release();
            answer
        })
        .await
    }

    /// Runs `work` in a transaction that outlives a power cut: committed when it answers `Ok`, rolled back when it answers `Err`.
    ///
    /// # Errors
    /// As [`Database::read`]. After a deadline that struck during the commit nobody knows the outcome.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let begin = if self.writer.is_some() { SQLITE_WRITE } else { "begin" };
        within_deadline(self.transaction(begin, work)).await
    }

    /// As [`Database::write`], without waiting for the disk: for what may be forgotten in a power cut, though not by a
    /// process that is killed.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn note<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        if self.writer.is_none() {
            return within_deadline(self.transaction(POSTGRES_NOTE, work)).await;
        }
        within_deadline(async {
            let _turn = self.notes.acquire().await.expect("the semaphore is never closed");
            self.transaction(SQLITE_NOTE, work).await
        })
        .await
    }

    async fn transaction<T>(
        &self,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let _turn = match &self.writer {
            Some(writer) => Some(writer.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        let mut connection = self.connection().await?;
        connection.inner().execute(begin).await?;
        let answer = work(&mut connection).await;
        connection.inner().execute(if answer.is_ok() { "commit" } else { "rollback" }).await?;
        if connection.wakes_outbox && answer.is_ok() {
            self.outbox.notify_one();
        }
        connection.release();
        answer
    }

    /// One connection, for work that sets its own deadline.
    pub async fn connection(&self) -> Result<Connection> {
        let inner = Some(self.pool.acquire().await?);
        Ok(Connection { inner, wakes_outbox: false, statements: self.statements.clone() })
    }

    /// Ends when this process has put something into the outbox.
    pub async fn outbox_woken(&self) {
        self.outbox.notified().await;
    }

    /// How many statements have been run on this database by this process.
    pub fn statements(&self) -> u64 {
        self.statements.load(Relaxed)
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Gives work with the database as long as a request waits for it.
///
/// # Errors
/// [`Error::Unavailable`] when [`DEADLINE`] has passed.
pub async fn within_deadline<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::Unavailable(anyhow!("the database did not answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}

/// A connection in use. It goes back to the pool only when its work came to an end: one that is dropped
/// before, because a deadline struck or a client hung up, may have an answer or a transaction under way,
/// and is closed instead.
pub struct Connection {
    inner: Option<PoolConnection<Db>>,
    wakes_outbox: bool,
    statements: Arc<AtomicU64>,
}

impl Connection {
    fn inner(&mut self) -> &mut DbConnection {
        self.inner.as_mut().expect("only release and drop take it")
    }

    /// Once the transaction is committed, what it has put into the outbox is looked for.
    pub fn wake_outbox(&mut self) {
        self.wakes_outbox = true;
    }

    pub fn release(mut self) {
        drop(self.inner.take());
    }

    fn count(&mut self) -> &mut DbConnection {
        self.statements.fetch_add(1, Relaxed);
        error::note_statement();
        self.inner()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            drop(inner.detach());
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

type Answer = Either<<Db as sqlx::Database>::QueryResult, <Db as sqlx::Database>::Row>;

/// So that queries run on a [`Connection`] as on any of sqlx's own, and are counted.
impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Db;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Answer>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Db>,
    {
        self.count().fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, sqlx::Result<Option<<Db as sqlx::Database>::Row>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Db>,
    {
        self.count().fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [<Db as sqlx::Database>::TypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<<Db as sqlx::Database>::Statement>>
    where
        'c: 'e,
    {
        self.inner().prepare_with(sql, parameters)
    }
}

fn options(url: &str) -> anyhow::Result<DbOptions> {
    let url = if is_sqlite(url) && !url.contains("mode=") {
        format!("{url}{}mode=rwc", if url.contains('?') { '&' } else { '?' })
    } else {
        url.to_string()
    };
    DbOptions::from_str(&url).context("DATABASE_URL cannot be read as an address of a database")
}

async fn connect(url: &str, most: u32) -> anyhow::Result<sqlx::Pool<Db>> {
    let prepare = if is_sqlite(url) { PRAGMAS } else { TIMEOUT };
    let pool = PoolOptions::<Db>::new()
        .max_connections(most)
        .acquire_timeout(DEADLINE)
        // A ping before every use is half of a signed-in page's cost; after a rest it is worth it.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > RESTED {
                    sqlx::Connection::ping(connection).await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(prepare).await?;
                Ok(())
            })
        });
    pool.connect_with(options(url)?).await.context(UNREACHABLE)
}

const UNREACHABLE: &str = "the database that DATABASE_URL names cannot be reached";

const PRAGMAS: &str = "pragma busy_timeout = 5000; pragma journal_mode = wal; \
                       pragma foreign_keys = on;";

/// How a transaction begins that waits for the disk when it is committed, and how one that does not.
const SQLITE_WRITE: &str = "pragma synchronous = full; begin immediate";
const SQLITE_NOTE: &str = "pragma synchronous = normal; begin immediate";
const POSTGRES_NOTE: &str = "begin; set local synchronous_commit = off";

/// A server that still works for somebody who has stopped waiting would end up working for nobody else.
const TIMEOUT: &str = "set statement_timeout = '3s'";

pub fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

/// The file holds password hashes and addresses: it is its owner's alone, its folder too when made here.
/// SQLite gives the files it puts beside it the same mode. In production one that others can read does not start.
#[cfg(feature = "sqlite")]
fn create_file(file: &Path, production: bool) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        private_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let opened = private_file(file);
    let opened = opened.with_context(|| format!("cannot open the database file {}", file.display()))?;
    #[cfg(unix)]
    if production && std::os::unix::fs::PermissionsExt::mode(&opened.metadata()?.permissions()) & 0o077 != 0 {
        anyhow::bail!("others can read the database file {0}: say chmod 600 {0}", file.display());
    }
    Ok(())
}

/// A connection for the migrations, which may lead around a pooler.
pub async fn connect_directly(url: &str) -> anyhow::Result<DbConnection> {
    let connecting = tokio::time::timeout(PATIENCE, options(url)?.connect()).await;
    let mut connection = connecting.context(UNREACHABLE)?.context(UNREACHABLE)?;
    if !is_sqlite(url) {
        return Ok(connection);
    }
    // Of several that switch a new file to WAL at once, all but one are told "locked" without being made to wait.
    let begun = Instant::now();
    while let Err(error) = connection.execute(PRAGMAS).await {
        if !error::is_away(&error) || begun.elapsed() > PATIENCE {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(connection)
}

/// Seconds since 1970. The one clock of the app.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Stands behind every id of [`new_id`] in the order of text: where a list that shows the newest first begins.
pub const BEHIND_ALL_IDS: &str = "g";

/// A UUIDv7 (RFC 9562): grows with time, so that order of id is order of making. It names a row and opens nothing.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::test::{TestApp, TestDatabase};

    #[tokio::test]
    async fn replicas_may_start_together() {
        let database = TestDatabase::new().await;
        let env: Env = [("DATABASE_URL", &*database.url)].into_iter().collect();
        let config = Config::from_env(&env).unwrap();
        for opened in futures_util::future::join_all((0..3).map(|_| Database::open(&config))).await {
            let db = opened.unwrap();
            db.read(async |db| crate::user::count(db).await).await.unwrap();
            db.close().await;
        }
    }

    #[tokio::test]
    async fn what_answers_with_an_error_is_rolled_back() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let refused = app.app.db.write(async |db| {
            sqlx::query("delete from users").execute(db).await?;
            Err::<(), _>(Error::NOT_FOUND)
        });
        assert!(refused.await.is_err());
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn work_that_is_given_up_is_undone_and_its_connection_is_not_used_again() {
        let app = TestApp::new().await;
        app.person("ada").await;
        for _ in 0..20 {
            let stuck = app.app.db.write(async |db| {
                sqlx::query("delete from users").execute(db).await?;
                std::future::pending::<Result<()>>().await
            });
            // The client hangs up.
            assert!(tokio::time::timeout(Duration::from_millis(20), stuck).await.is_err());
        }
        assert_eq!(app.count("select count(*) from users").await, 1);
        app.execute("update users set created_at = 1").await;
    }

    #[tokio::test]
    async fn work_that_takes_too_long_is_unavailable_and_in_nobodys_way() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let begun = Instant::now();
        let late = app.app.db.write(async |_| std::future::pending::<Result<()>>().await).await;
        assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
        assert!(begun.elapsed() < DEADLINE + Duration::from_secs(1));
        app.execute("update users set created_at = 1").await;
    }

    #[test]
    fn order_of_id_is_order_of_making() {
        let ids: Vec<String> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.as_str() < BEHIND_ALL_IDS));
    }

    /// Before 3.51.3 two connections could spoil the file when one of them began the WAL anew.
    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn sqlite_is_a_version_whose_wal_does_not_spoil_the_file() {
        let app = TestApp::new().await;
        if !is_sqlite(&app.app.config.database_url) {
            return;
        }
        let version = sqlx::query_scalar("select sqlite_version()");
        let version: String = app.app.db.read(async |db| Ok(version.fetch_one(db).await?)).await.unwrap();
        let number: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(number >= vec![3, 51, 3], "{version}");
    }

    #[cfg(all(unix, feature = "sqlite"))]
    #[test]
    fn a_file_that_others_can_read_does_not_start_in_production() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("made/here.db");
        create_file(&file, true).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(create_file(&file, true).unwrap_err().to_string().contains("chmod 600"));
        create_file(&file, false).unwrap();
    }
}
