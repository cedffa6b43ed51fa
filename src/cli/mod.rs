//! The commands of the one binary, one file each.

pub mod command_line;
mod doctor;
mod log;
mod log_lines;
mod output;
mod purge;
mod reseal;
mod routes;
pub mod serve;
mod user;
