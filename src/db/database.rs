//! [`Database`] and the ways to use it: `read`, `write` and `write_relaxed`.
//!
//! Each takes a closure, gives it one connection, and allows [`DEADLINE`] in all, including waiting. A write is a
//! transaction that is committed when the closure returns `Ok`.

use super::availability::Availability;
use super::connect::{self, DEADLINE, Mode};
use super::connection::{Connection, Shared};
use super::engine::{Db, DbConnection};
use super::fair_semaphore::FairSemaphore;
use super::file_watch::FileWatch;
use super::idempotency;
use super::migrate;
use super::patience::Patience;
use super::probe::Probe;
use super::refusals::Refusals;
use super::request::{OpenTransaction, Requester, is_late};
use super::unfinished_move;
use crate::base::{Config, Error, Result, config::is_sqlite};
use anyhow::{anyhow, ensure};
use sqlx::Executor;
use std::ops::AsyncFnOnce;
#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::timeout;

/// The text of `schema.sql`.
pub const SCHEMA: &str = include_str!(concat!(env!("OUT_DIR"), "/schema.sql"));

#[derive(Clone)]
pub struct Database {
    pool: sqlx::Pool<Db>,
    mode: Mode,
    /// For the connections of the pool, except those in reserve.
    connections: FairSemaphore,
    /// SQLite has one writer at a time, and its own lock is not fair.
    writer: Option<FairSemaphore>,
    /// Only one relaxed write at a time waits for `writer`, so that many of them do not delay other writes.
    relaxed: FairSemaphore,
    availability: Availability,
    /// For the site, on SQLite.
    file_watch: Option<FileWatch>,
    probe: Probe,
    pub refusals: Refusals,
    shared: Shared,
}

impl Database {
    /// For the site: applies new sections of `schema.sql` through `config.database_direct_url`, then connects to
    /// `config.database_url`. A SQLite file is created.
    ///
    /// # Errors
    /// One sentence: the database cannot be reached, or a section cannot be applied.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        let mut db = Database::open_in(Mode::Create, config).await?;
        db.file_watch = FileWatch::start(&config.database_url, db.mode, &db.availability).await?;
        Ok(db)
    }

    /// For commands that write: nothing is created, and no section is applied.
    ///
    /// # Errors
    /// One sentence: the database cannot be reached, or lacks sections that this program has.
    pub async fn open_existing(config: &Config) -> anyhow::Result<Database> {
        Database::open_in(Mode::Write, config).await
    }

    /// For commands that only read: [`Database::write`] fails, and no file is created. The other two also open a file
    /// like this if it cannot be written to.
    ///
    /// # Errors
    /// As [`Database::open_existing`].
    pub async fn open_read_only(config: &Config) -> anyhow::Result<Database> {
        Database::open_in(Mode::Read, config).await
    }

    async fn open_in(mode: Mode, config: &Config) -> anyhow::Result<Database> {
        let mode = connect::prepare(config, mode)?;
        let (url, direct_url, patience) = (&config.database_url, &config.database_direct_url, Patience::new());
        // Kept open until the pool is open: while the last connection to a SQLite file closes, opening it can fail.
        let mut first = connect::first("DATABASE_URL", url, mode, &patience).await?;
        let prepared = if direct_url == url {
            prepare_schema(&mut first, mode, config, &patience).await
        } else {
            let mut direct = connect::first("DATABASE_DIRECT_URL", direct_url, mode, &patience).await?;
            let prepared = prepare_schema(&mut direct, mode, config, &patience).await;
            close(direct).await;
            match prepared {
                Ok(()) => same_database(&mut first, config).await,
                Err(error) => Err(error),
            }
        };
        let opened = match prepared {
            Ok(()) => Database::open_beside(&mut first, mode, config).await,
            Err(error) => Err(error),
        };
        close(first).await;
        opened.map_err(|error| connect::explained("the database in DATABASE_URL cannot be used", error))
    }

    async fn open_beside(first: &mut DbConnection, mode: Mode, config: &Config) -> anyhow::Result<Database> {
        // A section that fills a table may have taken long.
        let (url, patience) = (&config.database_url, Patience::new());
        let shared = Shared::default();
        let probe = Probe::new(url, &shared.availability);
        let is_read_only = async || Ok(connect::is_read_only(first).await?);
        if mode == Mode::Create && !is_sqlite(url) && patience.wait_for("the database", is_read_only).await? {
            probe.refuse_writes("it is a standby, or read-only by default");
        }
        let pool = connect::pool(url, config.database_pool, mode, shared.availability.clone(), &patience).await?;
        Ok(Database {
            pool,
            mode,
            connections: FairSemaphore::new(config.database_pool as usize - RESERVED),
            writer: is_sqlite(&config.database_url).then(|| FairSemaphore::new(1)),
            relaxed: FairSemaphore::new(1),
            probe,
            availability: shared.availability.clone(),
            file_watch: None,
            refusals: shared.refusals.clone(),
            shared,
        })
    }

    /// Runs `work` on one connection, for queries that change nothing.
    ///
    /// # Errors
    /// The error of `work`; [`Error::Unavailable`] when the database cannot be reached or [`DEADLINE`] has passed.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        within_deadline(async {
            let mut connection = self.connection().await?;
            let answer = work(&mut connection).await;
            connection.release();
            answer.inspect_err(|error| self.observe(error))
        })
        .await
    }

    /// Runs `work` in a transaction that survives a power failure: committed if it returns `Ok`, rolled back if it
    /// returns `Err`. In a request that acts once, the first such transaction is the act.
    ///
    /// # Errors
    /// As for [`Database::read`]. If the deadline passes during the commit, the outcome is unknown.
    /// [`Error::Repeated`] if another request has acted already; then nothing was run.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let begin = if self.writer.is_some() { SQLITE_WRITE } else { POSTGRES_WRITE };
        let work = async |db: &mut Connection| {
            idempotency::take(db).await?;
            work(db).await
        };
        let answer = within_deadline(self.transaction(begin, work)).await;
        answer.inspect(|_| idempotency::set_done())
    }

    /// Like [`Database::write`], for a command whose transaction takes as long as it needs. Meanwhile nobody else can write
    /// to a SQLite file.
    ///
    /// # Errors
    /// The error of `work`; [`Error::Unavailable`] when the database cannot be reached.
    pub async fn write_at_length<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let begin = if self.writer.is_some() { SQLITE_WRITE } else { POSTGRES_WRITE };
        self.transaction(begin, work).await
    }

    /// Like [`Database::write`], without waiting for the disk: for counts and times that a power failure may lose.
    /// Nothing is lost if the process is killed. It is never the act of a request that acts once.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn write_relaxed<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        if self.writer.is_none() {
            return within_deadline(self.transaction(POSTGRES_RELAXED, work)).await;
        }
        within_deadline(async {
            let _permit = self.relaxed.acquire(Requester::current()).await?;
            self.transaction(SQLITE_RELAXED, work).await
        })
        .await
    }

    async fn transaction<T>(
        &self,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        if self.mode == Mode::Read {
            return Err(Error::Unavailable(anyhow!("the database was opened read-only")));
        }
        let permit = match &self.writer {
            Some(writer) => Some(writer.acquire(Requester::current()).await?),
            None => None,
        };
        let mut connection = self.connection().await?;
        if is_late() {
            connection.release();
            return Err(Error::Unavailable(anyhow!("the request took too long")));
        }
        let _open = OpenTransaction::new();
        permit.into_iter().for_each(|permit| connection.hold(permit));
        let answer = connection.run_transaction(begin, work).await;
        // A write to a file that has been removed does not count as done.
        let answer = answer.and_then(|value| self.availability.check_file().map(|()| value));
        if answer.is_ok() {
            connection.act_on_commit();
        }
        match &answer {
            Err(error) if self.probe.write_refused(error) => connection.close(),
            _ if connection.is_in_transaction() => drop(connection),
            _ => connection.release(),
        }
        answer.inspect_err(|error| self.observe(error))
    }

    async fn connection(&self) -> Result<Connection> {
        let permit = self.connections.acquire(Requester::current()).await?;
        let mut connection = self.reserved_connection().await?;
        connection.hold(permit);
        Ok(connection)
    }

    /// One of [`RESERVED`] connections, for work that sets its own deadline. It never waits for the others.
    ///
    /// # Errors
    /// When it cannot be opened in time.
    pub async fn reserved_connection(&self) -> Result<Connection> {
        self.availability.check_file()?;
        let (pool, probe) = (self.pool.clone(), self.probe.clone());
        // The pool itself keeps trying when a server refuses connections.
        let connecting = async move {
            tokio::select! {
                acquired = pool.acquire() => acquired.map_err(|cause| Error::Unavailable(cause.into())),
                refused = probe.connection_refused() => Err(refused),
            }
        };
        let inner = if self.pool.num_idle() > 0 {
            connecting.await?
        } else {
            // If the client disconnects, connecting continues, and the next request gets the connection.
            tokio::spawn(connecting).await.map_err(anyhow::Error::from)??
        };
        Ok(Connection::new(inner, self.shared.clone()))
    }

    /// Waits until this process commits a transaction that called [`Connection::notify_on_commit`].
    pub async fn commit_notified(&self) {
        self.shared.committed.notified().await;
    }

    /// Work on a [`Database::reserved_connection`] failed with this error.
    pub fn observe(&self, error: &Error) {
        self.availability.observe(error);
    }

    /// Whether the last write, or the last probe, succeeded. While writes fail, probes are made in the background.
    pub fn can_write(&self) -> bool {
        self.mode != Mode::Read && self.availability.can_write()
    }

    /// How many statements this process has run on this database.
    #[cfg(test)]
    pub fn statements(&self) -> u64 {
        self.shared.statements.load(Relaxed)
    }

    pub async fn close(&self) {
        // Without its server, the pool is busy connecting and would finish that first.
        let _ = timeout(DEADLINE, self.pool.close()).await;
        if let Some(file_watch) = &self.file_watch {
            file_watch.close().await;
        }
    }
}

/// Brings the schema up to date, or checks that it is.
async fn prepare_schema(
    direct: &mut DbConnection,
    mode: Mode,
    config: &Config,
    patience: &Patience,
) -> anyhow::Result<()> {
    let sqlite = is_sqlite(&config.database_url);
    unfinished_move::refuse(direct, sqlite, patience).await?;
    match mode {
        Mode::Read | Mode::Write => migrate::check(direct, sqlite, SCHEMA, patience).await?,
        Mode::Create => migrate::apply(direct, sqlite, SCHEMA, patience).await?,
    }
    let last = match mode {
        Mode::Write if sqlite => connect::TRY_TO_WRITE,
        Mode::Create if sqlite => connect::USE_WAL,
        _ => return Ok(()),
    };
    let patience = Patience::new();
    patience.wait_for(migrate::holder(sqlite), async || Ok(direct.execute(last).await.map(drop)?)).await
}

/// Sections are applied on the direct connection, and everything else uses connections like this one.
async fn same_database(first: &mut DbConnection, config: &Config) -> anyhow::Result<()> {
    let (sqlite, patience) = (is_sqlite(&config.database_url), Patience::new());
    let looking = async || Ok(migrate::is_of_a_site(first, sqlite).await?);
    ensure!(
        patience.wait_for(migrate::holder(sqlite), looking).await?,
        "schema.sql was applied to the database in DATABASE_DIRECT_URL, but not to the one in DATABASE_URL: set both \
         to the same database and schema"
    );
    Ok(())
}

/// Waits only briefly, because the connection may be waiting for a lock.
async fn close(connection: DbConnection) {
    let _ = timeout(Duration::from_secs(1), sqlx::Connection::close(connection)).await;
}

/// How many connections of the pool are not shared by requests.
pub const RESERVED: usize = 2;

/// How a transaction begins, with and without waiting for the disk at its commit.
const SQLITE_WRITE: &str = "pragma synchronous = full; begin immediate";
const SQLITE_RELAXED: &str = "pragma synchronous = normal; begin immediate";
/// The default of a database or role may be another isolation level, in which concurrent transactions fail.
const POSTGRES_WRITE: &str = "begin isolation level read committed";
const POSTGRES_RELAXED: &str = "begin isolation level read committed; set local synchronous_commit = off";

/// Limits work with the database to [`DEADLINE`].
///
/// # Errors
/// [`Error::Unavailable`] when the deadline has passed.
pub async fn within_deadline<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::Unavailable(anyhow!("the database did not answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::test::{TestApp, TestDatabase};
    use std::time::Instant;

    #[tokio::test]
    async fn replicas_may_start_together() {
        let database = TestDatabase::new().await;
        let env: Env = [("DATABASE_URL", &*database.url)].into_iter().collect();
        let config = Config::from_env(&env).unwrap();
        for opened in futures_util::future::join_all((0..3).map(|_| Database::open(&config))).await {
            let db = opened.unwrap();
            let count = async |db: &mut Connection| {
                Ok(sqlx::query_scalar::<_, i64>("select count(*) from users").fetch_one(db).await?)
            };
            assert_eq!(db.read(count).await.unwrap(), 0);
            db.close().await;
        }
    }

    #[tokio::test]
    async fn what_a_command_writes_may_take_longer_than_a_request_may() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let write = async |db: &mut Connection| {
            tokio::time::sleep(DEADLINE + Duration::from_millis(100)).await;
            Ok(sqlx::query("update users set username = 'lovelace'").execute(db).await?.rows_affected())
        };
        assert!(app.app.db.write(write).await.is_err());
        assert_eq!(app.app.db.write_at_length(write).await.unwrap(), 1);
        assert_eq!(app.count("select count(*) from users where username = 'lovelace'").await, 1);
    }

    #[tokio::test]
    async fn work_that_answers_an_error_is_rolled_back() {
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
    async fn work_that_is_dropped_is_rolled_back_and_its_connection_is_not_used_again() {
        let app = TestApp::new().await;
        app.person("ada").await;
        for _ in 0..20 {
            let stuck = app.app.db.write(async |db| {
                sqlx::query("delete from users").execute(db).await?;
                std::future::pending::<Result<()>>().await
            });
            // The client disconnects.
            assert!(tokio::time::timeout(Duration::from_millis(20), stuck).await.is_err());
        }
        assert_eq!(app.count("select count(*) from users").await, 1);
        app.execute("update users set created_at = 1").await;
    }

    #[tokio::test]
    async fn work_that_takes_too_long_is_unavailable_and_delays_nobody() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let started = Instant::now();
        let late = app.app.db.write(async |_| std::future::pending::<Result<()>>().await).await;
        assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
        assert!(started.elapsed() < 5 * DEADLINE);
        app.execute("update users set created_at = 1").await;
    }

    #[tokio::test]
    async fn a_server_in_trouble_is_unavailable_and_a_wrong_statement_is_a_fault() {
        let app = TestApp::new().await;
        if crate::base::config::is_sqlite(&app.app.config.database_url) {
            return;
        }
        let answer_to = async |code: &str| {
            let sql = format!("do $$ begin raise exception using errcode = '{code}'; end $$");
            let work = async |db: &mut Connection| {
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db).await?;
                Ok(())
            };
            app.app.db.write(work).await.expect_err("the statement raises an exception")
        };
        // Too many connections, out of memory, shutting down, starting up, a deadlock, a lost connection, a lock or a
        // transaction that has taken too long.
        for code in ["53300", "53200", "53400", "57P01", "57P03", "40P01", "08006", "55P03", "25P03"] {
            assert!(matches!(answer_to(code).await, Error::Unavailable(_)), "{code}");
            assert!(app.app.db.can_write(), "{code}");
        }
        // Read-only, a full disk, a disk that fails, a file that is gone.
        for code in ["25006", "53100", "58030", "58P01"] {
            assert!(matches!(answer_to(code).await, Error::Unavailable(_)), "{code}");
            assert!(!app.app.db.can_write(), "{code}");
            tokio::time::timeout(Duration::from_secs(5), async {
                while !app.app.db.can_write() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{code} lasts"));
        }
        for code in ["42601", "22P02", "23505"] {
            assert!(matches!(answer_to(code).await, Error::Fault(_)), "{code}");
        }
    }
}
