//! Parses the command line and runs the command.

use super::output::say_error;
use super::stop::Stop;
use super::wrong_use::WrongUse;
use super::{
    backup, doctor, export, import, invite, log, move_site, purge, reseal, restore, routes, runtime, serve, user,
};
use crate::base::{Env, explain};
use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use std::io::{self, ErrorKind::BrokenPipe};
use std::path::PathBuf;
use std::process::{self, ExitCode};

/// A web app that already has accounts.
///
/// Without a command it serves the site. Settings are environment variables, which can also be in a file named .env;
/// .env.example lists them.
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
    /// Check everything that the site needs, and say what to do; changes nothing
    Doctor {
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make accounts for the users in a file of another system, all of them or none
    Import(import::Arguments),
    /// Delete expired rows, as the running site does by itself
    Purge,
    /// Encrypt stored secrets with the newest key of SECRET_KEY
    Reseal,
    /// Copy the SQLite database to a file, also while the site runs
    Backup {
        /// Where the copy will be
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        yes: bool,
    },
    /// Put a backup in the place of the SQLite database, which is kept beside it
    Restore {
        /// What `backup` has written
        file: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Print all data about a user, as JSON
    Export { name: String },
    /// Copy everything to another database, SQLite or Postgres; the site must be stopped
    Move {
        /// The address of the new database, as DATABASE_URL would have it
        #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
        to: String,
    },
    /// Print or mail a link with which people can sign up
    Invite(invite::Arguments),
    /// Manage accounts
    #[command(subcommand)]
    User(user::Command),
}

/// Runs the command. A failure is one sentence on standard error, after one for each misspelt variable, which may be
/// the reason. The process exits with 0, with 1 after a failure, and with 2 after wrong use.
pub fn run() -> ExitCode {
    match start(CommandLine::parse().command.unwrap_or(Command::Serve)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(format!("latchkey: {}", explain(&error)));
            if error.is::<WrongUse>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn start(command: Command) -> Result<()> {
    let runtime = runtime::start()?;
    let env = match (Env::load(), &command) {
        (Err(error), Command::Doctor { json }) => return doctor::without_variables(&error, *json),
        (env, _) => env?,
    };
    let is_doctor = matches!(command, Command::Doctor { .. });
    let ended = runtime.block_on(run_command(&env, command));
    // The doctor reports them itself.
    if ended.is_err() && !is_doctor {
        env.misspelt().into_iter().for_each(|sentence| say_error(format!("latchkey: {sentence}")));
    }
    // Work that is blocked, such as a name server that does not answer or a password being hashed, must not delay the
    // end.
    runtime.shutdown_background();
    ended
}

async fn run_command(env: &Env, command: Command) -> Result<()> {
    if !matches!(command, Command::Serve) {
        log::start_for_a_command();
        end_when_asked()?;
    }
    match command {
        Command::Serve => serve::run(env).await,
        Command::Routes => routes::run(env),
        Command::Doctor { json } => doctor::run(env, json).await,
        Command::Import(arguments) => import::run(env, arguments).await,
        Command::Purge => purge::run(env).await,
        Command::Reseal => reseal::run(env).await,
        Command::Backup { file, yes } => backup::run(env, &file, yes).await,
        Command::Restore { file, yes } => restore::run(env, &file, yes).await,
        Command::Export { name } => export::run(env, &name).await,
        Command::Move { to } => move_site::run(env, &to).await,
        Command::Invite(arguments) => invite::run(env, arguments).await,
        Command::User(command) => user::run(env, command).await,
    }
}

/// Signals that the first process of a container does not catch do not end it.
fn end_when_asked() -> Result<()> {
    if process::id() == 1 {
        let mut stop = Stop::new()?;
        tokio::spawn(async move {
            stop.asked().await;
            process::exit(1);
        });
    }
    Ok(())
}
