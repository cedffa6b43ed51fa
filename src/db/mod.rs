//! The database: one embedded SQLite file, or Postgres with many replicas.

pub mod availability;
pub mod clock;
pub mod connect;
pub mod connection;
pub mod database;
pub mod engine;
pub mod exclusive;
pub mod fair_semaphore;
pub mod file_watch;
pub mod idempotency;
pub mod limit_key;
pub mod migrate;
pub mod patience;
pub mod probe;
pub mod rate_limit;
pub mod refunds;
pub mod refusals;
pub mod request;
pub mod unfinished_move;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    clock::{AFTER_ALL_IDS, ago, first_id_at, is_in_the_future, new_id, now, now_in_milliseconds},
    connect::DEADLINE,
    connection::Connection,
    database::Database,
    engine::{Db, DbRow},
};
