//! A second factor: the six digits of an authenticator app (TOTP, RFC 6238), or a recovery code in their place.
//!
//! `account.rs` has the pages that set it up and turn it off, `log_in.rs` the one that asks for it, `code.rs` the table and
//! the verification. A code belongs to a step of 30 seconds. The last step that was used is stored, and only a later one is
//! accepted, so a code works once, however many requests send it at the same moment, to whichever process.

mod account;
mod code;
mod factor;
mod log_in;
#[cfg(test)]
mod phone;
mod qr;
mod settings;

use super::feature::Feature;
use crate::base::Env;
use crate::web::{Access, Routes};

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(account::PATH, Access::User, account::show)
        .post("/account/two-factor/start", Access::Recent, account::start)
        .get(account::CONFIRM, Access::User, account::show_set_up)
        .post(account::CONFIRM, Access::Recent, account::confirm)
        .once()
        .get("/account/two-factor/off", Access::User, account::ask_to_turn_off)
        .post("/account/two-factor/off", Access::Recent, account::turn_off)
        .once()
        .get(log_in::PATH, Access::PendingLogin, log_in::show)
        .post(log_in::PATH, Access::PendingLogin, log_in::create);
    Ok(Feature {
        routes,
        events: &[account::TWO_FACTOR_ON, account::TWO_FACTOR_OFF, code::WRONG_CODE, code::CODES_LOCKED],
        flashes: &[account::TURNED_ON, account::TURNED_OFF, log_in::OVER],
        factor: Some(factor::FACTOR),
        credentials: Some(code::ADDED),
        account_row: Some(factor::ROW),
        sealed: &[code::SEALED],
        purge: &[code::PURGE],
        export: &[code::EXPORT],
        settings: Some(Box::new(settings::TwoFactorSettings::from_env(env)?)),
        ..Feature::named("two_factor")
    })
}
