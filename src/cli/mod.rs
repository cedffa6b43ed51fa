//! The commands of the one binary, one file each.

pub mod command_line;
mod doctor;
mod output;
mod purge;
mod reseal;
mod routes;
pub mod serve;
mod user;
