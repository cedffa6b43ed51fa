//! The server: opens the site, accepts connections, and runs background work.

pub mod activity;
pub mod connection_limits;
pub mod connections;
pub mod mails;
pub mod pace;
pub mod purge;
pub mod sealed;
pub mod site;
pub mod socket;
