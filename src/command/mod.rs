//! The command line: one file for each command.

mod doctor;
mod purge;
mod reseal;
mod routes;
pub mod serve;
mod user;

use crate::env::Env;
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::io::{self, ErrorKind::BrokenPipe, IsTerminal, Write, stdout};
use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
    /// Delete what has expired, as the running site does by itself
    Purge,
    /// Seal anew, with the newest key of SECRET_KEY, what is sealed with older ones
    Reseal,
    /// Look after accounts
    #[command(subcommand)]
    User(user::Command),
}

/// Runs what the command line says. A failure is one sentence on standard error.
pub fn run() -> ExitCode {
    let line = Line::parse();
    match start(line.command.unwrap_or(Command::Serve)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever was reading has read enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == BrokenPipe) => {
            ExitCode::SUCCESS
        }
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
        Command::Purge => purge::run(&env).await,
        Command::Reseal => reseal::run(&env).await,
        Command::User(command) => user::run(&env, command).await,
    }
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads it.
fn say(line: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Sends the log to standard output. `RUST_LOG` says what it has; debug builds show every request.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
fn start_log(env: &Env, json: bool) -> Result<()> {
    let default = if cfg!(debug_assertions) { "warn,latchkey=debug" } else { "warn,latchkey=info" };
    let wanted = env.text("RUST_LOG").unwrap_or(default);
    let wanted: Targets = wanted.parse().with_context(|| format!("RUST_LOG={wanted} cannot be read"))?;
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(stdout().is_terminal());
    let log = tracing_subscriber::registry().with(wanted);
    // Shuttle's runtime may have a log of its own, which is kept.
    let _ = if json { log.with(lines.json()).try_init() } else { log.with(lines.compact()).try_init() };
    Ok(())
}
