//! `latchkey import FILE`: makes accounts for the users of another system, all of them or none.

mod file;
mod row;
mod run;
mod users;

pub use run::{Arguments, run};
