//! The command line: one file for each command.

mod doctor;
mod routes;
pub mod serve;
mod user;

use crate::config::Env;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A web app that already has accounts.
///
/// Without a command it serves the site. It is configured by environment variables, which may stand in a file
/// named .env; .env.example lists them.
#[derive(Parser)]
#[command(name = "latchkey", version)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the site (what happens without a command)
    Serve,
    /// Print every route and who may enter it
    Routes,
    /// Check the configuration and the database
    Doctor,
    /// Look after accounts
    #[command(subcommand)]
    User(user::Command),
}

/// Runs what the command line says. A failure is one sentence on standard error.
pub fn run() -> ExitCode {
    let line = Line::parse();
    match start(line.command.unwrap_or(Command::Serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latchkey: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(command: Command) -> Result<()> {
    let env = Env::load()?;
    match command {
        Command::Serve => serve::run(&env).await,
        Command::Routes => routes::run(&env),
        Command::Doctor => doctor::run(&env).await,
        Command::User(command) => user::run(&env, command).await,
    }
}

/// Sends the log to standard output. `RUST_LOG` says what it has; debug builds show every request.
fn start_log(json: bool) {
    let default = if cfg!(debug_assertions) { "warn,latchkey=debug" } else { "warn,latchkey=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let log = log.with_ansi(stdout().is_terminal());
    // A second start, in tests or under Shuttle, keeps the log of the first.
    let _ = if json { log.json().try_init() } else { log.compact().try_init() };
}
