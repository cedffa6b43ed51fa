//! The commands of the binary, one file each.

mod backup;
pub mod command_line;
mod confirm;
mod doctor;
mod export;
mod import;
mod invite;
mod log;
mod log_lines;
mod move_site;
mod output;
mod partial;
mod postgres_tools;
mod progress;
mod purge;
mod reseal;
mod restore;
pub mod routes;
mod runtime;
pub mod serve;
mod snapshot;
pub mod stop;
mod user;
mod wrong_use;
