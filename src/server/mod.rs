//! The server: opens the site, accepts connections, and does the work in the background.

pub mod connections;
pub mod mails;
pub mod purge;
pub mod site;
