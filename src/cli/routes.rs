//! `latchkey routes`: every route, and who may enter it.

use super::output::print;
use crate::base::Env;
use crate::features::{self, Feature};
use crate::web::{Access, Routes, routes::Route};
use anyhow::Result;

pub fn run(env: &Env) -> Result<()> {
    features::all(env)?.iter().flat_map(lines).try_for_each(print)?;
    Routes::assets().iter().try_for_each(|route| print(line(route, "public/")))?;
    Ok(())
}

/// The routes of a feature, one a line.
pub fn lines(feature: &Feature) -> Vec<String> {
    feature.routes.iter().map(|route| line(route, feature.name)).collect()
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
