//! Parses the command line and runs the command.

use super::{doctor, output::say_error, purge, reseal, routes, serve, user};
use crate::base::Env;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::io::{self, ErrorKind::BrokenPipe};
use std::process::ExitCode;

/// A web app that already has accounts.
///
/// Without a command it serves the site. It is configured by environment variables, which may stand in a file
/// named .env; .env.example lists them.
#[derive(Parser)]
#[command(name = "latchkey", version)]
struct CommandLine {
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
    /// Encrypt stored secrets again, with the newest key of SECRET_KEY
    Reseal,
    /// Manage accounts
    #[command(subcommand)]
    User(user::Command),
}

/// Runs what the command line says. A failure is one sentence on standard error.
pub fn run() -> ExitCode {
    let line = CommandLine::parse();
    match start(line.command.unwrap_or(Command::Serve)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(format!("latchkey: {error:#}"));
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
