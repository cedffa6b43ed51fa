//! The request that a task works on: who sent it, how many statements it ran, and whether it has a transaction open.

use std::cell::Cell;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash, RandomState};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

#[derive(Default)]
struct Request {
    sender: Cell<Requester>,
    statements: Cell<u32>,
    in_transaction: Cell<bool>,
    is_late: Cell<bool>,
}

tokio::task_local! {
    static REQUEST: Request;
}

/// A user, a network, or by default the app itself; see [`super::fair_semaphore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requester(u64);

impl Requester {
    pub fn new(of: impl Hash) -> Requester {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Requester(HASHER.hash_one(of))
    }

    /// The requester of this task.
    pub fn current() -> Requester {
        REQUEST.try_with(|request| request.sender.get()).unwrap_or_default()
    }

    /// From now on the request counts as this requester's.
    pub fn set(self) {
        let _ = REQUEST.try_with(|request| request.sender.set(self));
    }
}

/// Runs the work of a request. Returns its result and the number of statements.
pub async fn run<T>(sender: Requester, work: impl Future<Output = T>) -> (T, u32) {
    let request = Request { sender: Cell::new(sender), ..Request::default() };
    let counted = async { (work.await, REQUEST.with(|request| request.statements.get())) };
    REQUEST.scope(request, counted).await
}

/// Counts statements that were run for this request.
pub fn add_statements(number: u32) {
    let _ = REQUEST.try_with(|request| request.statements.set(request.statements.get() + number));
}

/// Runs `work`, which is part of a request, for at most this long. A transaction that is open then is finished, but no
/// other is started.
pub async fn run_until<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Ok(answer) = timeout(limit, work.as_mut()).await {
        return Some(answer);
    }
    let _ = REQUEST.try_with(|request| request.is_late.set(true));
    let in_transaction = || REQUEST.try_with(|request| request.in_transaction.get()).unwrap_or_default();
    poll_fn(|context| match in_transaction() {
        true => match work.as_mut().poll(context) {
            Poll::Pending if !in_transaction() => Poll::Ready(None),
            answer => answer.map(Some),
        },
        false => Poll::Ready(None),
    })
    .await
}

/// Whether the request's time is over, so that it must not start anything else.
pub fn is_late() -> bool {
    REQUEST.try_with(|request| request.is_late.get()).unwrap_or_default()
}

/// Exists while the request has a transaction open.
pub struct OpenTransaction(());

impl OpenTransaction {
    pub fn new() -> OpenTransaction {
        let _ = REQUEST.try_with(|request| request.in_transaction.set(true));
        OpenTransaction(())
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        let _ = REQUEST.try_with(|request| request.in_transaction.set(false));
    }
}
