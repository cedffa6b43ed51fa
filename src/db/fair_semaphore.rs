//! A semaphore that serves requesters in turn, so that many requests of one requester mainly delay its own.

use super::request::Requester;
use crate::base::{Error, Result};
use anyhow::anyhow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How many may wait, in all and for one requester. Others get an error at once.
const MOST_WAITING: usize = 4_000;
const MOST_WAITING_OF_ONE: usize = 100;

#[derive(Clone)]
pub struct FairSemaphore(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: usize,
    /// Never empty.
    queues: HashMap<Requester, VecDeque<oneshot::Sender<Permit>>>,
    /// The keys of the queues; the first is served next.
    round: VecDeque<Requester>,
}

/// Returned when this is dropped.
pub struct Permit(Option<FairSemaphore>);

impl FairSemaphore {
    pub fn new(number: usize) -> FairSemaphore {
        let state = State { free: number, waiting: 0, queues: HashMap::new(), round: VecDeque::new() };
        FairSemaphore(Arc::new(Mutex::new(state)))
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many wait.
    pub async fn acquire(&self, of: Requester) -> Result<Permit> {
        let permit = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit(Some(self.clone())));
            }
            let mut of_one = state.queues.get(&of).map_or(0, VecDeque::len);
            if of_one >= MOST_WAITING_OF_ONE {
                of_one = state.remove_cancelled(of);
            }
            if state.waiting >= MOST_WAITING || of_one >= MOST_WAITING_OF_ONE {
                return Err(Error::Unavailable(anyhow!("too many requests are waiting for the database")));
            }
            state.waiting += 1;
            if of_one == 0 {
                state.round.push_back(of);
            }
            let (sender, permit) = oneshot::channel();
            state.queues.entry(of).or_default().push_back(sender);
            permit
        };
        permit.await.map_err(|_| Error::Unavailable(anyhow!("nobody releases permits any more")))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes waiters of one requester that have given up, and returns how many are left.
    fn remove_cancelled(&mut self, of: Requester) -> usize {
        let Some(queue) = self.queues.get_mut(&of) else { return 0 };
        let before = queue.len();
        queue.retain(|waiter| !waiter.is_closed());
        let after = queue.len();
        self.waiting -= before - after;
        if after == 0 {
            self.queues.remove(&of);
            self.round.retain(|other| *other != of);
        }
        after
    }

    /// The next waiter, which may have given up.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let key = self.round.pop_front()?;
        let queue = self.queues.get_mut(&key)?;
        let next = queue.pop_front();
        self.waiting -= 1;
        match queue.is_empty() {
            true => drop(self.queues.remove(&key)),
            false => self.round.push_back(key),
        }
        next
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(semaphore) = self.0.take() else { return };
        loop {
            let mut state = semaphore.state();
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            drop(state);
            match next.send(Permit(Some(semaphore.clone()))) {
                Ok(()) => return,
                // The waiter has given up, so the permit goes to the next one.
                Err(mut permit) => permit.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    fn unavailable<T>(answer: &Result<T>) -> bool {
        matches!(answer, Err(Error::Unavailable(_)))
    }

    #[tokio::test]
    async fn a_crowd_of_one_requester_delays_others_by_one_turn_each() {
        let (semaphore, order) = (FairSemaphore::new(1), Mutex::new(Vec::new()));
        let (crowd, ada, bob) = (Requester::new("crowd"), Requester::new("ada"), Requester::new("bob"));
        let busy = semaphore.acquire(ada).await.unwrap();
        let waiters = [[crowd; 50].as_slice(), &[ada, bob, bob]].concat();
        let waiting = waiters.into_iter().map(async |sender| {
            let _permit = semaphore.acquire(sender).await.unwrap();
            order.lock().unwrap().push(sender);
        });
        let release = async {
            sleep(Duration::from_millis(10)).await;
            drop(busy);
        };
        tokio::join!(join_all(waiting), release);
        let order = order.into_inner().unwrap();
        assert_eq!((order.len(), &order[..6]), (53, &[crowd, ada, bob, crowd, bob, crowd][..]));
    }

    #[tokio::test]
    async fn who_finds_too_many_waiting_is_told_so_at_once_and_others_still_get_in() {
        let semaphore = FairSemaphore::new(1);
        let (crowd, ada) = (Requester::new("crowd"), Requester::new("ada"));
        let busy = semaphore.acquire(crowd).await.unwrap();
        let mut waiting: Vec<_> = (0..150).map(|_| semaphore.acquire(crowd).boxed()).collect();
        let refused = waiting.iter_mut().filter_map(|waiter| waiter.now_or_never());
        assert_eq!(refused.filter(unavailable).count(), 150 - MOST_WAITING_OF_ONE);
        let mut ada_waits = semaphore.acquire(ada).boxed();
        assert!((&mut ada_waits).now_or_never().is_none());
        drop((busy, waiting));
        assert!(ada_waits.await.is_ok());
    }

    #[tokio::test]
    async fn those_who_have_given_up_keep_no_place() {
        let semaphore = FairSemaphore::new(1);
        let ada = Requester::new("ada");
        let busy = semaphore.acquire(ada).await.unwrap();
        for _ in 0..3 {
            let mut waiting: Vec<_> = (0..MOST_WAITING_OF_ONE).map(|_| semaphore.acquire(ada).boxed()).collect();
            assert!(waiting.iter_mut().all(|waiter| waiter.now_or_never().is_none()), "all of them may wait");
        }
        let mut last = semaphore.acquire(ada).boxed();
        assert!((&mut last).now_or_never().is_none());
        drop(busy);
        drop(last.await.unwrap());
        let state = semaphore.state();
        assert_eq!((state.free, state.waiting), (1, 0));
    }

    #[tokio::test]
    async fn those_who_do_not_wait_any_more_take_no_permit_and_none_is_lost() {
        let semaphore = FairSemaphore::new(2);
        for round in 0..200 {
            let busy = [
                semaphore.acquire(Requester::default()).await.unwrap(),
                semaphore.acquire(Requester::default()).await.unwrap(),
            ];
            let gone =
                (0..20).map(|number| timeout(Duration::from_micros(50), semaphore.acquire(Requester::new(number))));
            let release = async {
                sleep(Duration::from_micros(round)).await;
                drop(busy);
            };
            tokio::join!(join_all(gone), release);
        }
        assert!(semaphore.state().queues.values().flatten().all(|waiter| waiter.is_closed()));
        let both = async {
            (
                semaphore.acquire(Requester::default()).await.unwrap(),
                semaphore.acquire(Requester::default()).await.unwrap(),
            )
        };
        let _both = timeout(Duration::from_secs(10), both).await.expect("a permit was lost");
        let state = semaphore.state();
        assert_eq!((state.free, state.waiting), (0, 0));
        drop(state);
    }
}
