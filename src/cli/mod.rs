//! The commands of the binary, one file each.

pub mod command_line;
mod doctor;
mod log;
mod log_lines;
mod output;
mod purge;
mod reseal;
pub mod routes;
mod runtime;
pub mod serve;
pub mod stop;
mod user;
