//! Output of commands, and the log.

use crate::base::Env;
use anyhow::{Context, Result};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stdout};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Prints a line. Unlike `println!` it does not panic when nobody reads it.
///
/// # Errors
/// When nobody reads it.
pub fn say(line: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Sends the log to standard output. `RUST_LOG` filters it; debug builds show every request.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
pub fn start_log(env: &Env, json: bool) -> Result<()> {
    let default = if cfg!(debug_assertions) { "warn,latchkey=debug" } else { "warn,latchkey=info" };
    let filter = env.text("RUST_LOG").unwrap_or(default);
    let filter: Targets = filter.parse().with_context(|| format!("RUST_LOG={filter} cannot be read"))?;
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(stdout().is_terminal());
    let log = tracing_subscriber::registry().with(filter);
    // Shuttle's runtime may have a log of its own, which is kept.
    let _ = if json { log.with(lines.json()).try_init() } else { log.with(lines.compact()).try_init() };
    Ok(())
}
