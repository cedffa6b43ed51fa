//! The clock, and ids that grow with it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> i64 {
    since_1970().as_secs() as i64
}

/// The time so long ago, in seconds since 1970.
pub fn ago(time: Duration) -> i64 {
    now() - time.as_secs() as i64
}

/// Milliseconds since 1970.
pub fn now_in_milliseconds() -> i64 {
    since_1970().as_millis() as i64
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A UUIDv7 (RFC 9562): it grows with time, so ordering by id is ordering by age. It names a row and grants no access.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Greater than every id of [`new_id`] in the order of text: where a list that shows the newest first begins.
pub const AFTER_ALL_IDS: &str = "g";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_in_the_order_in_which_they_were_made() {
        let ids: Vec<String> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.as_str() < AFTER_ALL_IDS));
    }
}
