//! `latchkey routes`: every route, and who may enter it.

use super::output::say;
use crate::base::Env;
use crate::features;
use crate::web::{Access, Routes, routes::Route};
use anyhow::Result;

pub fn run(env: &Env) -> Result<()> {
    for feature in &features::all(env)? {
        feature.routes.iter().try_for_each(|route| say(line(route, feature.name)))?;
    }
    Routes::assets().iter().try_for_each(|route| say(line(route, "public/")))
}

fn line(route: &Route, owner: &str) -> String {
    let access = match route.access {
        Access::Public => "public",
        Access::Guest => "guest",
        Access::PendingLogin => "half-way",
        Access::User => "user",
        Access::Recent => "recent",
        Access::Can(permission) => permission.name,
    };
    format!("{:<7}{access:<20}{:<36}{owner}", route.method.as_str(), route.path)
}
