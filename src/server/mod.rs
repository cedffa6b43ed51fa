//! The server: opens the site, accepts connections, and does the work in the background.

pub mod activity;
pub mod connection_limits;
pub mod connections;
pub mod mails;
pub mod pace;
pub mod purge;
pub mod site;
pub mod socket;
