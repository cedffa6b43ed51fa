//! The features: two lines each, here and nowhere else. `scripts/remove NAME` takes one out with all that is its own:
//! its Rust file, its templates, its section of schema.sql, its lines in the slots.

mod account;
mod delete_account;
mod health;
mod home;
mod login;
mod members;
mod notes;
mod signup;
mod theme;

use crate::access::Routes;
use crate::config::Env;
use anyhow::Result;

/// What a feature offers.
pub struct Feature {
    pub name: &'static str,
    pub routes: Routes,
}

/// Every feature. Each reads its own variables here, so that a wrong one does not start.
///
/// # Errors
/// One sentence that says what to set.
pub fn all(env: &Env) -> Result<Vec<Feature>> {
    Ok(vec![
        account::feature(env)?,
        delete_account::feature(env)?,
        health::feature(env)?,
        home::feature(env)?,
        login::feature(env)?,
        members::feature(env)?,
        notes::feature(env)?,
        signup::feature(env)?,
        theme::feature(env)?,
    ])
}
