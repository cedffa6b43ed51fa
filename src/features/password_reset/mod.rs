//! A forgotten password: a link that is mailed, or a recovery code, leads to the page where a new one is chosen.
//!
//! It leads no further: no session begins, so whoever has chosen a new password logs in with it, and is asked whatever a
//! log-in asks.

mod choose;
mod recover;
mod request;

use crate::access::{Access, Routes};
use crate::env::Env;
use crate::features::Feature;
use crate::password;

const REQUEST: &str = "/password-reset";
const CHOOSE: &str = "/password-reset/{token}";
const RECOVER: &str = "/recovery";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new()
        .get(CHOOSE, Access::Public, choose::show)
        .post(CHOOSE, Access::Public, choose::create)
        .get(RECOVER, Access::Guest, recover::new)
        .post(RECOVER, Access::Guest, recover::create);
    if env.sends_mail() {
        routes =
            routes.get(REQUEST, Access::Guest, request::new).post(REQUEST, Access::Guest, request::create);
    }
    let flashes = &[request::ASKED, choose::CHOSEN, choose::LOOK_THROUGH];
    let letters = &[(password::RESET, request::compose as _)];
    let session_begins = Some(choose::welcome_back as _);
    Ok(Feature { routes, flashes, letters, session_begins, ..Feature::named("password_reset") })
}

/// Where a token is good for something.
fn path(token: &crate::token::Token) -> String {
    CHOOSE.replace("{token}", &token.text())
}
