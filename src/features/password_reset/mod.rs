//! A forgotten password: a link in a mail, or a recovery code, leads to the page where a new one is chosen.
//!
//! No session starts there: users log in with the new password, and are asked for whatever a log-in requires.

mod choose;
mod paths;
mod recover;
mod request;

use super::feature::Feature;
use crate::accounts::link::RESET_MAIL;
use crate::base::Env;
use crate::web::{Access, Routes};
use paths::{CHOOSE, RECOVER, REQUEST};

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new()
        .get(CHOOSE, Access::Public, choose::show)
        .post(CHOOSE, Access::Public, choose::create)
        .once()
        .get(RECOVER, Access::Guest, recover::new)
        .post(RECOVER, Access::Guest, recover::create);
    if env.sends_mail()? {
        routes = routes.get(REQUEST, Access::Guest, request::new).post(REQUEST, Access::Guest, request::create);
    }
    Ok(Feature {
        routes,
        flashes: &[choose::CHOSEN, choose::LOOK_THROUGH],
        mails: &[(RESET_MAIL, request::write_mail as _)],
        on_session_start: Some(choose::on_session_start),
        reset_path: Some(CHOOSE),
        ..Feature::named("password_reset")
    })
}
