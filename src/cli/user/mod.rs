//! `latchkey user …`: accounts from the command line.

mod account;
mod add;
mod change;
mod command;
mod list;
mod reset_link;
mod show;

pub use command::{Command, run};
