//! The commands below `latchkey user`.

use super::{add, change, list, reset_link, show};
use crate::base::{Config, Env};
use anyhow::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Create an account; asks for the password, or reads it from standard input
    Add {
        /// 1 to 20 of the characters 0-9 and a-z
        name: String,
        /// An e-mail address, which has to be confirmed
        #[arg(long)]
        email: Option<String>,
    },
    /// List all accounts, newest first
    List {
        /// Print each as a JSON object on a line of its own
        #[arg(long)]
        json: bool,
    },
    /// Show an account: addresses, factors, groups, permissions and sessions
    Show {
        name: String,
        /// Print it as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Add an account to a group, or give it a permission
    Grant {
        name: String,
        /// The name of a group, such as admin, or of a permission
        what: String,
    },
    /// Remove an account from a group, or take a permission that it was given directly
    Revoke { name: String, what: String },
    /// Shut a user out: end their sessions, links and invitations, and block their log-ins
    Disable { name: String },
    /// Let a disabled user log in again
    Enable { name: String },
    /// Print a password reset link, which works once, within RESET_LIFETIME
    ResetLink { name: String },
    /// Delete an account with everything in it
    Delete {
        name: String,
        /// Do not ask first
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(env: &Env, command: Command) -> Result<()> {
    let config = Config::from_env(env)?;
    match command {
        Command::Add { name, email } => add::add(&config, &name, email.as_deref()).await,
        Command::List { json } => list::run(&config, json).await,
        Command::Show { name, json } => show::run(env, &config, &name, json).await,
        Command::Grant { name, what } => change::grant(env, &config, &name, &what).await,
        Command::Revoke { name, what } => change::revoke(env, &config, &name, &what).await,
        Command::Disable { name } => change::disable(&config, &name).await,
        Command::Enable { name } => change::enable(&config, &name).await,
        Command::ResetLink { name } => reset_link::print(env, &config, &name).await,
        Command::Delete { name, yes } => change::delete(&config, &name, yes).await,
    }
}
