//! [`Connection`]: a connection of the pool in use.

use super::availability::Availability;
use super::connect::DEADLINE;
use super::engine::{Db, DbConnection, DbRow};
use super::fair_semaphore::Permit;
use super::limit_key::Key;
use super::refusals::Refusals;
use super::request::add_statements;
use crate::base::Result;
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

/// A connection in use. If it is dropped before its work is finished, because the deadline passed or the client
/// disconnected, it may be in the middle of a response or a transaction. It is reset in the background and then
/// returned to the pool.
pub struct Connection {
    inner: Option<PoolConnection<Db>>,
    acquired: Instant,
    in_transaction: bool,
    /// For a connection of the pool, and for the writer of SQLite.
    permits: Vec<Permit>,
    on_commit: Vec<Box<dyn FnOnce() + Send + Sync>>,
    pub refusals: Refusals,
    shared: Shared,
}

/// What the connections to one database share.
#[derive(Clone, Default)]
pub struct Shared {
    pub availability: Availability,
    pub refusals: Refusals,
    pub committed: Arc<Notify>,
    #[cfg(test)]
    pub statements: Arc<AtomicU64>,
}

impl Connection {
    pub fn new(inner: PoolConnection<Db>, shared: Shared) -> Connection {
        Connection {
            inner: Some(inner),
            acquired: Instant::now(),
            in_transaction: false,
            permits: Vec::new(),
            on_commit: Vec::new(),
            refusals: shared.refusals.clone(),
            shared,
        }
    }

    /// Holds the permit until the connection is back in the pool.
    pub fn hold(&mut self, permit: Permit) {
        self.permits.push(permit);
    }

    fn inner(&mut self) -> &mut DbConnection {
        self.inner.as_mut().expect("only release and drop take it")
    }

    /// Wakes the task that waits in [`super::database::Database::commit_notified`] when this transaction is committed.
    pub fn notify_on_commit(&mut self) {
        let committed = self.shared.committed.clone();
        self.on_commit(move || committed.notify_one());
    }

    /// Runs this when the transaction is committed.
    pub fn on_commit(&mut self, then: impl FnOnce() + Send + Sync + 'static) {
        self.on_commit.push(Box::new(then));
    }

    /// Runs what was registered for the commit of this transaction.
    pub fn act_on_commit(&mut self) {
        self.on_commit.drain(..).for_each(|then| then());
    }

    /// Forgets remembered refusals by this limit when the transaction is committed.
    pub fn forget_refusal(&mut self, key: Key) {
        let refusals = self.refusals.clone();
        self.on_commit(move || refusals.forget(&key));
    }

    /// Runs `work` in a transaction: committed if it returns `Ok`, rolled back if it returns `Err`.
    ///
    /// # Errors
    /// The error of `work`, or of the commit.
    pub async fn run_transaction<T>(
        &mut self,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        self.in_transaction = true;
        self.inner().execute(begin).await?;
        let answer = work(self).await;
        let ended = self.inner().execute(if answer.is_ok() { "commit" } else { "rollback" }).await;
        self.in_transaction = ended.is_err();
        // The error of the work matters more than the fate of the transaction: SQLite ends it by itself when the disk
        // is full.
        let value = answer?;
        ended?;
        Ok(value)
    }

    /// Whether a transaction was started and may not have ended.
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether it may be lost or lead to a server that has been replaced. Code that holds a connection for long
    /// releases it then and takes another.
    pub fn is_doubtful(&self) -> bool {
        let (availability, acquired) = (&self.shared.availability, self.acquired);
        availability.is_outdated(acquired) || availability.may_be_lost(acquired) || availability.check_file().is_err()
    }

    /// Closes the connection. The pool opens another.
    pub fn close(mut self) {
        drop(self.inner.take().map(PoolConnection::detach));
    }

    /// Returns the connection to the pool.
    pub fn release(mut self) {
        drop(self.inner.take());
    }

    fn counted(&mut self) -> &mut DbConnection {
        #[cfg(test)]
        self.shared.statements.fetch_add(1, Relaxed);
        add_statements(1);
        self.inner()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            runtime.spawn(reset(inner, self.in_transaction, std::mem::take(&mut self.permits)));
        }
    }
}

/// Waits until the connection has finished its work, rolls back, and returns it to the pool; closes it if that fails or
/// takes too long.
async fn reset(mut connection: PoolConnection<Db>, in_transaction: bool, _permits: Vec<Permit>) {
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

/// Queries run on a [`Connection`] as on sqlx's own, and are counted.
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
