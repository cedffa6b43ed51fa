//! Administration of people: who is there, what belongs to one of them, and what can be done about it.
//!
//! `list.rs` finds people, `show.rs` has the page of one, `change.rs` what its buttons do, `ask.rs` the pages that ask first.
//! Everything is done by `Administrator::change_user`, so nobody rises by what they may do to others, it is recorded in the
//! same transaction, and the last administrator stays.

mod ask;
mod change;
mod list;
mod request;
mod show;

use super::feature::Feature;
use crate::base::Env;
use crate::web::{Access, Routes};
use list::MANAGE_USERS;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let access = Access::Can(MANAGE_USERS);
    let routes = Routes::new()
        .get(list::PATH, access, list::index)
        .get("/admin/users/{id}", access, show::show)
        .post("/admin/users/{id}/log-out", access, change::log_out)
        .post("/admin/users/{id}/reset-mail", access, change::send_reset_mail)
        .post("/admin/users/{id}/groups", access, change::set_groups)
        .get("/admin/users/{id}/disable", access, ask::disable)
        .post("/admin/users/{id}/disable", access, change::disable)
        .post("/admin/users/{id}/enable", access, change::enable)
        .get("/admin/users/{id}/remove-factor", access, ask::remove_factor)
        .post("/admin/users/{id}/remove-factor", access, change::remove_factor)
        .get("/admin/users/{id}/delete", access, ask::delete)
        .post("/admin/users/{id}/delete", access, change::delete);
    Ok(Feature {
        routes,
        permissions: &[MANAGE_USERS],
        events: &[change::SESSIONS_ENDED, change::RESET_MAILED, change::FACTOR_REMOVED],
        flashes: change::FLASHES,
        account_row: Some(list::ROW),
        ..Feature::named("admin_users")
    })
}
