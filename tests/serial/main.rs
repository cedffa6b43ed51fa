//! Tests that measure time or kill processes. Cargo runs them after those in tests/process, and each that measures time
//! runs alone.
//!
//! A module whose head says `needs:` is deleted by `scripts/remove` with any of these features.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod crash;
mod crowd;
mod database_outage;
mod hang_ups;
mod login_timing;
mod mail_shutdown;
mod mail_timing;
mod memory;
mod serve_shutdown;
mod serve_timeouts;
mod signup_load;
mod slow_database;
