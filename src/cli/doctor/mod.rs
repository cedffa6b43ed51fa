//! `latchkey doctor`: checks everything that the site needs, and says what to do about each problem. It changes
//! nothing.

mod configuration;
mod database;
mod files;
mod made;
mod mail;
mod postgres;
mod report;
mod run;
mod schema;
mod secrets;
mod socket;

pub use run::{run, without_variables};
