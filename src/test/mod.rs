//! What tests are written with: an app of one's own, and people who visit it.

// What the tests of one feature use is unused once that feature has been removed.
#![allow(unused_imports)]

mod access;
pub mod app;
mod architecture;
mod database;
mod log;
mod styles;
mod templates;
mod visitor;
mod walk;

pub use app::{PASSWORD, PRODUCTION, SECOND_FACTOR, TestApp};
pub use database::TestDatabase;
pub use log::logged;
pub use templates::{assert_well_formed, check, check_mails};
pub use visitor::{Answer, Visitor};
