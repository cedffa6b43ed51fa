//! Limits on open connections, in all and from one network. At a network's limit, a new connection replaces its
//! connection that has been idle longest. At the limit in all, it replaces the one whose client has kept the site
//! waiting longest, with or without a request.

use super::activity::Activity;
use crate::base::Config;
use crate::db::rate_limit::network;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

pub struct ConnectionLimits {
    most: usize,
    most_per_network: usize,
    /// Proxies, whose connections carry the requests of many clients.
    unlimited: Vec<IpNet>,
    open: Mutex<Open>,
    /// Notified when a connection has ended.
    ended: Notify,
    /// Bytes that all connections together may take for long requests.
    most_memory: usize,
}

#[derive(Default)]
struct Open {
    /// Without connections that were asked to close.
    by_network: HashMap<IpAddr, Vec<Arc<Activity>>>,
    /// The number of connections in `by_network`.
    staying: usize,
    /// Bytes that the connections in `by_network` have taken for long requests.
    memory: usize,
    /// With connections that were asked to close.
    count: usize,
    /// The connections that had been stalled longest at the last look; the last one the longest.
    longest: Vec<(u64, IpAddr, Arc<Activity>)>,
}

/// How many are kept in `longest`, because it takes too long to go through all connections for each new one.
const LOOK_AHEAD: usize = 128;

/// The bytes of a request that do not count.
const FREE_BYTES: usize = 4 * 1024;

/// How many connections that were replaced may still have their sockets.
const CLOSING: usize = 64;

/// How long a new connection waits for room while all others are being served.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many files and sockets are reserved for everything except clients.
pub fn reserved_files(config: &Config) -> usize {
    // A SQLite connection has up to three open files.
    64 + 3 * config.database_pool as usize + CLOSING
}

/// A connection that counts as open until this is dropped.
pub struct OpenConnection {
    pub limits: Arc<ConnectionLimits>,
    network: IpAddr,
    pub activity: Arc<Activity>,
}

/// How many connections a process can have that may open this many files and sockets.
pub fn room(config: &Config, files: usize) -> usize {
    files.saturating_sub(reserved_files(config)).max(1)
}

impl ConnectionLimits {
    /// `files` is how many files and sockets the process may open, if that is limited.
    pub fn new(config: &Config, files: Option<usize>) -> ConnectionLimits {
        let room = files.map_or(usize::MAX, |files| room(config, files));
        ConnectionLimits {
            most: config.connections.min(room),
            most_per_network: config.connections_per_address,
            unlimited: config.trusted_proxies.clone(),
            open: Mutex::default(),
            ended: Notify::new(),
            most_memory: (8 << 20).max(8 * config.body_limit),
        }
    }

    /// Accepts a new connection, if there is room or it can replace another.
    pub async fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<OpenConnection> {
        let network = network(peer, 64);
        let is_unlimited = self.unlimited.iter().any(|proxies| proxies.contains(&peer.to_canonical()));
        let room = async {
            self.make_room(network, is_unlimited).await?;
            // A replaced connection keeps its socket for a moment.
            while self.open().count >= self.most + CLOSING {
                self.ended.notified().await;
            }
            Some(())
        };
        timeout(PATIENCE, room).await.unwrap_or_default()?;
        let (activity, mut open) = (Activity::new(), self.open());
        open.by_network.entry(network).or_default().push(activity.clone());
        open.staying += 1;
        open.count += 1;
        Some(OpenConnection { limits: self.clone(), network, activity })
    }

    /// Waits until there is room. `None` if all connections of the network are being served.
    async fn make_room(&self, network: IpAddr, is_unlimited: bool) -> Option<()> {
        loop {
            {
                let mut open = self.open();
                let of_network = open.by_network.get(&network).map_or(&[][..], Vec::as_slice);
                if of_network.len() >= self.most_per_network && !is_unlimited {
                    let longest = longest_waiting(of_network)?;
                    open.close(network, &longest);
                    return Some(());
                }
                if open.staying < self.most {
                    return Some(());
                }
                if let Some((network, longest)) = open.longest_stalled() {
                    open.close(network, &longest);
                    return Some(());
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Counts bytes of the request that a connection is reading. If there is too little memory, the connection that
    /// uses some and whose client has kept the site waiting longest is closed. Returns `false` if that is not enough.
    pub fn take_memory(&self, activity: &Activity, received: usize) -> bool {
        let needed = activity.add_received(received).saturating_sub(FREE_BYTES);
        let more = needed.saturating_sub(activity.memory());
        if more == 0 {
            return true;
        }
        let mut open = self.open();
        if activity.is_closing() {
            return false;
        }
        activity.add_memory(more);
        open.memory += more;
        if open.memory > self.most_memory {
            open.close_longest_stalled_with_memory();
        }
        open.memory <= self.most_memory
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn longest_stalled(&mut self) -> Option<(IpAddr, Arc<Activity>)> {
        for _ in 0..2 {
            while let Some((since, network, activity)) = self.longest.pop() {
                if activity.stalled_since() == Some(since) && self.contains(network, &activity) {
                    return Some((network, activity));
                }
            }
            let all = self.by_network.iter().flat_map(|(network, of_network)| of_network.iter().map(|a| (*network, a)));
            let stalled = all.filter_map(|(network, a)| Some((a.stalled_since()?, network, a.clone())));
            self.longest = stalled.collect();
            self.longest.sort_unstable_by_key(|(since, ..)| *since);
            self.longest.truncate(LOOK_AHEAD);
            self.longest.reverse();
        }
        None
    }

    fn close_longest_stalled_with_memory(&mut self) {
        let all = self.by_network.iter().flat_map(|(network, of_network)| of_network.iter().map(|a| (*network, a)));
        let stalled =
            all.filter(|(_, a)| a.memory() > 0).filter_map(|(network, a)| Some((a.stalled_since()?, network, a)));
        let longest = stalled.min_by_key(|(since, ..)| *since).map(|(_, network, a)| (network, a.clone()));
        if let Some((network, activity)) = longest {
            self.close(network, &activity);
        }
    }

    fn contains(&self, network: IpAddr, activity: &Arc<Activity>) -> bool {
        let of_network = self.by_network.get(&network);
        of_network.is_some_and(|of_network| of_network.iter().any(|other| Arc::ptr_eq(other, activity)))
    }

    fn close(&mut self, network: IpAddr, activity: &Arc<Activity>) {
        activity.close();
        self.forget(network, activity);
    }

    fn forget(&mut self, network: IpAddr, activity: &Arc<Activity>) {
        let Some(of_network) = self.by_network.get_mut(&network) else { return };
        let Some(index) = of_network.iter().position(|other| Arc::ptr_eq(other, activity)) else { return };
        of_network.swap_remove(index);
        self.staying -= 1;
        self.memory -= activity.memory();
        if of_network.is_empty() {
            self.by_network.remove(&network);
        }
    }
}

fn longest_waiting(activities: &[Arc<Activity>]) -> Option<Arc<Activity>> {
    let waiting = activities.iter().filter_map(|activity| Some((activity.waiting_since()?, activity)));
    waiting.min_by_key(|(since, _)| *since).map(|(_, activity)| activity.clone())
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.forget(self.network, &self.activity);
        open.count -= 1;
        self.limits.ended.notify_one();
    }
}
