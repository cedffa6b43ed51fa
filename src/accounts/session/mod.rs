//! Sessions. The browser has a random token and the table its SHA-256, so a stolen copy of the database grants no
//! access, and there is no key to keep. A session ends by age, inactivity, log-out, a changed credential, or with its
//! user. Only this folder writes the table.

pub mod find;
pub mod last_seen;
pub mod late_log_outs;
pub mod lifecycle;
pub mod listed;
pub mod lookup;
pub mod row;

pub use find::Sessions;
pub use row::Session;
