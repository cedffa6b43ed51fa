//! `latchkey routes`: the map of the site.

use super::say;
use crate::access::Route;
use crate::asset;
use crate::env::Env;
use crate::features;
use anyhow::Result;

pub fn run(env: &Env) -> Result<()> {
    for feature in &features::all(env)? {
        feature.routes.iter().try_for_each(|route| say(line(route, feature.name)))?;
    }
    asset::routes().iter().try_for_each(|route| say(line(route, "public/")))
}

fn line(route: &Route, owner: &str) -> String {
    format!("{:<7}{:<10}{:<32}{owner}", route.method.as_str(), route.access, route.path)
}
