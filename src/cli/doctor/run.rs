//! Runs one check after the other.

use super::report::Report;
use super::{configuration, database, files, mail, socket};
use crate::base::{Config, Env, explain};
use crate::features;
use anyhow::{Error, Result};

/// Runs all checks, even if an earlier one has found a problem.
///
/// # Errors
/// When something is wrong.
pub async fn run(env: &Env, json: bool) -> Result<()> {
    let mut report = Report::new(json);
    let (config, features) = (Config::from_env(env), features::all(env));
    configuration::look(&mut report, env, &config, &features)?;
    if let (Ok(config), Ok(features)) = (&config, &features) {
        socket::look(&mut report, config, features).await?;
        files::look(&mut report, config)?;
        // Both may take a while to answer.
        let looking = database::look(&mut report, config, features);
        let (looked, answer) = tokio::join!(looking, mail::ask_server(config));
        looked?;
        mail::say_answer(&mut report, config, answer)?;
    }
    report.finish()
}

/// The finding if the variables themselves cannot be read.
///
/// # Errors
/// Always.
pub fn without_variables(error: &Error, json: bool) -> Result<()> {
    let mut report = Report::new(json);
    report.wrong("configuration", explain(error))?;
    report.finish()
}
