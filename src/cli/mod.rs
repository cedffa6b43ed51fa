//! The commands of the binary, one file each.

pub mod command_line;
mod confirm;
mod doctor;
mod export;
mod import;
mod log;
mod log_lines;
mod move_site;
mod output;
mod progress;
mod purge;
mod reseal;
pub mod routes;
mod runtime;
pub mod serve;
pub mod stop;
mod user;
mod wrong_use;
