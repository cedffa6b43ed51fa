//! The clock, and ids that increase with time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> i64 {
    since_1970().as_secs() as i64
}

/// The time that long ago, in seconds since 1970.
pub fn ago(time: Duration) -> i64 {
    now() - time.as_secs() as i64
}

/// Milliseconds since 1970.
pub fn now_in_milliseconds() -> i64 {
    since_1970().as_millis() as i64
}

/// How much the clocks of two replicas may differ. A stored time that is further in the future was written while a
/// clock was wrong.
pub const SKEW: Duration = Duration::from_secs(60);

/// Whether a stored time of something that has happened was written while a clock was wrong.
pub fn is_in_the_future(time: i64) -> bool {
    time > now() + SKEW.as_secs() as i64
}

fn since_1970() -> Duration {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    #[cfg(test)]
    let since_1970 = since_1970 + tests::AHEAD.get();
    since_1970
}

/// A UUIDv7 (RFC 9562): ids increase with time, so ordering by id is ordering by age. An id names a row and grants no
/// access.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Not greater than an id that is made at this time or later, in seconds since 1970, and greater than those made before.
pub fn first_id_at(seconds: i64) -> String {
    let milliseconds = seconds.max(0) * 1000;
    format!("{:08x}-{:04x}-0000-0000-000000000000", milliseconds >> 16, milliseconds & 0xffff)
}

/// Greater than every id of [`new_id`] as text: the start of a list that shows the newest first.
pub const AFTER_ALL_IDS: &str = "g";

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// How far ahead the clock of this test is.
        pub static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn ids_sort_in_the_order_in_which_they_were_made() {
        let ids: Vec<String> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.as_str() < AFTER_ALL_IDS));
    }

    #[test]
    fn the_ids_of_a_second_stand_between_its_first_and_that_of_the_next() {
        let before = now();
        let (id, after) = (new_id(), now());
        assert!(first_id_at(before) <= id && id < first_id_at(after + 1), "{id}");
        assert_eq!(first_id_at(before).len(), id.len());
        assert!(first_id_at(-1) <= first_id_at(0) && first_id_at(253_402_300_799).len() == id.len());
    }
}
