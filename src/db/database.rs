//! [`Database`] and the ways to use it: `read`, `write` and `write_relaxed`.
//!
//! Each takes a closure, holds one connection for it, and allows [`DEADLINE`] for all of it, waiting included. A write is
//! a transaction that is committed when the closure returns `Ok`.

use super::availability::Availability;
use super::connect::{self, DEADLINE};
use super::engine::{Db, DbConnection, DbRow};
use super::fair_semaphore::{FairSemaphore, Permit};
use super::limit_key::Key;
use super::migrate;
use super::probe::Probe;
use super::refusals::Refusals;
use super::request::{OpenTransaction, Requester, add_statements, is_late};
use crate::base::{Config, Error, Result, config::is_sqlite};
use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::{Either, Execute, Executor, SqlStr};
use std::ops::AsyncFnOnce;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

const SCHEMA: &str = include_str!(concat!(env!("OUT_DIR"), "/schema.sql"));

#[derive(Clone)]
pub struct Database {
    pool: sqlx::Pool<Db>,
    /// For the connections of the pool, except those in reserve.
    connections: FairSemaphore,
    /// SQLite has one writer at a time, and its own lock is not fair.
    writer: Option<FairSemaphore>,
    /// Only one relaxed write waits for `writer`, so that a crowd of them does not delay the others.
    relaxed: FairSemaphore,
    committed: Arc<Notify>,
    availability: Availability,
    probe: Probe,
    pub refusals: Refusals,
    #[cfg(test)]
    statements: Arc<AtomicU64>,
}

impl Database {
    /// Applies new sections of `schema.sql` by `config.database_direct_url`, then connects to `config.database_url`.
    ///
    /// # Errors
    /// When the database cannot be reached, or a section cannot be applied.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        connect::prepare(config)?;
        // Kept until the pool is open: while the last connection to a SQLite file closes, opening it can fail.
        let mut direct = connect::direct(&config.database_direct_url).await?;
        migrate::apply(&mut direct, is_sqlite(&config.database_direct_url), SCHEMA).await?;
        let availability = Availability::default();
        let pool = connect::pool(&config.database_url, config.database_pool, availability.clone()).await?;
        sqlx::Connection::close(direct).await?;
        Ok(Database {
            pool,
            connections: FairSemaphore::new(config.database_pool as usize - RESERVED),
            writer: is_sqlite(&config.database_url).then(|| FairSemaphore::new(1)),
            relaxed: FairSemaphore::new(1),
            committed: Arc::default(),
            probe: Probe::new(&config.database_url, &availability),
            availability,
            refusals: Refusals::default(),
            #[cfg(test)]
            statements: Arc::default(),
        })
    }

    /// Runs `work` on one connection, for queries that change nothing.
    ///
    /// # Errors
    /// What `work` answers; [`Error::Unavailable`] when the database cannot be reached or [`DEADLINE`] has passed.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        within_deadline(async {
            let mut connection = self.connection().await?;
            let answer = work(&mut connection).await;
            connection.release();
            answer.inspect_err(|error| self.observe(error))
        })
        .await
    }

    /// Runs `work` in a transaction that survives a power cut: committed when it returns `Ok`, rolled back when it answers
    /// `Err`.
    ///
    /// # Errors
    /// As [`Database::read`]. If the deadline passes during the commit, the outcome is unknown.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let begin = if self.writer.is_some() { SQLITE_WRITE } else { "begin" };
        within_deadline(self.transaction(begin, work)).await
    }

    /// As [`Database::write`], without waiting for the disk: for counts and times that a power cut may lose. A process that
    /// is killed loses nothing.
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
        (connection.in_transaction, connection.write_permit) = (true, permit);
        let answer = connection.run_transaction(begin, work).await;
        if answer.is_ok() {
            connection.lifted.iter().for_each(|key| self.refusals.forget(key));
            if connection.notifies {
                self.committed.notify_one();
            }
        }
        match &answer {
            Err(error) if self.probe.write_refused(error) => connection.close(),
            _ if connection.in_transaction => drop(connection),
            _ => connection.release(),
        }
        answer.inspect_err(|error| self.observe(error))
    }

    async fn connection(&self) -> Result<Connection> {
        let permit = self.connections.acquire(Requester::current()).await?;
        let mut connection = self.reserved_connection().await?;
        connection.permit = Some(permit);
        Ok(connection)
    }

    /// One of [`RESERVED`] connections, for work that sets its own deadline and waits for nobody.
    ///
    /// # Errors
    /// When it cannot be opened in time.
    pub async fn reserved_connection(&self) -> Result<Connection> {
        let (pool, probe) = (self.pool.clone(), self.probe.clone());
        // The pool itself goes on trying where a server refuses.
        let connecting = async move {
            tokio::select! {
                acquired = pool.acquire() => acquired.map_err(|cause| Error::Unavailable(cause.into())),
                refused = probe.connection_refused() => Err(refused),
            }
        };
        let inner = if self.pool.num_idle() > 0 {
            connecting.await?
        } else {
            // Connecting goes on if the client disconnects, and the connection is there for the next one.
            tokio::spawn(connecting).await.map_err(anyhow::Error::from)??
        };
        Ok(Connection {
            inner: Some(inner),
            acquired: Instant::now(),
            availability: self.availability.clone(),
            in_transaction: false,
            permit: None,
            write_permit: None,
            notifies: false,
            refusals: self.refusals.clone(),
            lifted: Vec::new(),
            #[cfg(test)]
            statements: self.statements.clone(),
        })
    }

    /// Waits until this process commits a transaction that called [`Connection::notify_on_commit`].
    pub async fn commit_notified(&self) {
        self.committed.notified().await;
    }

    /// Work on a [`Database::reserved_connection`] failed with this error.
    pub fn observe(&self, error: &Error) {
        self.availability.observe(error);
    }

    /// Whether the last write, or the last try of one, succeeded. While none does, tries are made in the background.
    pub fn can_write(&self) -> bool {
        self.availability.can_write()
    }

    /// How many statements this process has run on this database.
    #[cfg(test)]
    pub fn statements(&self) -> u64 {
        self.statements.load(Relaxed)
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// How many connections of the pool are not shared by requests.
pub const RESERVED: usize = 2;

/// How a transaction begins, with and without waiting for the disk at its commit.
const SQLITE_WRITE: &str = "pragma synchronous = full; begin immediate";
const SQLITE_RELAXED: &str = "pragma synchronous = normal; begin immediate";
const POSTGRES_RELAXED: &str = "begin; set local synchronous_commit = off";

/// Limits work with the database to [`DEADLINE`].
///
/// # Errors
/// [`Error::Unavailable`] when the deadline has passed.
pub async fn within_deadline<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::Unavailable(anyhow!("the database did not answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}

/// A connection in use. One that is dropped before its work has come to an end, because the deadline passed or the client
/// disconnected, may be in the middle of an answer or a transaction. It is reset in the background and then returned to
/// the pool.
pub struct Connection {
    inner: Option<PoolConnection<Db>>,
    acquired: Instant,
    availability: Availability,
    in_transaction: bool,
    /// For a connection of the pool.
    permit: Option<Permit>,
    /// For the writer of SQLite.
    write_permit: Option<Permit>,
    notifies: bool,
    pub refusals: Refusals,
    /// Limits that refuse less after this transaction.
    lifted: Vec<Key>,
    #[cfg(test)]
    statements: Arc<AtomicU64>,
}

impl Connection {
    fn inner(&mut self) -> &mut DbConnection {
        self.inner.as_mut().expect("only release and drop take it")
    }

    /// Wakes the task that waits in [`Database::commit_notified`], once this transaction is committed.
    pub fn notify_on_commit(&mut self) {
        self.notifies = true;
    }

    /// What this process remembers of refusals by this limit is forgotten once this transaction is committed.
    pub fn forget_refusal(&mut self, key: Key) {
        self.lifted.push(key);
    }

    /// Begins a transaction, and commits what `work` has done, or rolls it back if it answers `Err`.
    async fn run_transaction<T>(
        &mut self,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        self.inner().execute(begin).await?;
        let answer = work(self).await;
        let ended = self.inner().execute(if answer.is_ok() { "commit" } else { "rollback" }).await;
        self.in_transaction = ended.is_err();
        // Why the work failed matters more than what became of the transaction: SQLite ends it by itself on a full disk.
        let value = answer?;
        ended?;
        Ok(value)
    }

    /// Whether it may be lost or lead to a server that has been replaced. Whoever has had it for long releases it then and
    /// takes another.
    pub fn is_doubtful(&self) -> bool {
        self.availability.is_outdated(self.acquired) || self.availability.may_be_lost(self.acquired)
    }

    /// Closes the connection to the database. The pool opens another.
    fn close(mut self) {
        drop(self.inner.take().map(PoolConnection::detach));
    }

    /// Returns the connection to the pool.
    pub fn release(mut self) {
        drop(self.inner.take());
    }

    fn counted(&mut self) -> &mut DbConnection {
        #[cfg(test)]
        self.statements.fetch_add(1, Relaxed);
        add_statements(1);
        self.inner()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            runtime.spawn(reset(inner, self.in_transaction, [self.permit.take(), self.write_permit.take()]));
        }
    }
}

/// Waits for the end of what the connection is doing, rolls it back, and returns the connection to the pool; closes it if
/// that takes too long or fails.
async fn reset(mut connection: PoolConnection<Db>, in_transaction: bool, _permits: [Option<Permit>; 2]) {
    let statement = if in_transaction { "rollback" } else { "select 1" };
    if !matches!(timeout(DEADLINE, connection.execute(statement)).await, Ok(Ok(_))) {
        drop(connection.detach());
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

type QueryAnswer = Either<<Db as sqlx::Database>::QueryResult, DbRow>;

/// Queries run on a [`Connection`] as on any of sqlx's own, and are counted.
impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Db;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<QueryAnswer>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Db>,
    {
        self.counted().fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<DbRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Db>,
    {
        self.counted().fetch_optional(query)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::test::{TestApp, TestDatabase};
    use std::time::{Duration, Instant};

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
        assert!(started.elapsed() < DEADLINE + Duration::from_secs(1));
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
