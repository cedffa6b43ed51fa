//! `latchkey routes`: the map of the site.

use crate::asset;
use crate::config::Env;
use crate::features;
use anyhow::Result;

pub fn run(env: &Env) -> Result<()> {
    let features = features::all(env)?;
    for feature in &features {
        for route in feature.routes.iter() {
            println!("{:<7}{:<8}{:<32}{}", route.method.as_str(), route.access, route.path, feature.name);
        }
    }
    for route in asset::routes().iter() {
        println!("{:<7}{:<8}{:<32}public/", route.method.as_str(), route.access, route.path);
    }
    Ok(())
}
