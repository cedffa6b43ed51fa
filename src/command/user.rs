//! `latchkey user …`: accounts from the command line.

use super::say;
use crate::address::{self, Email};
use crate::config::Config;
use crate::database::Database;
use crate::env::Env;
use crate::error::Error;
use crate::factor::Proven;
use crate::guard::Client;
use crate::password::{self, Gate};
use crate::policy::{NewPassword, own_words};
use crate::token::{self, Purpose};
use crate::user::{self, Username};
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, IsTerminal, stdin};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make an account; the password is asked for, or read as one line of standard input
    Add {
        /// 1 to 20 of the characters 0-9 and a-z
        name: String,
        /// An e-mail address, kept unconfirmed
        #[arg(long)]
        email: Option<String>,
    },
    /// List the accounts, newest first
    List,
    /// Print a link with which somebody chooses a new password; it works once, for RESET_LIFETIME
    ResetLink { name: String },
}

pub async fn run(env: &Env, command: Command) -> Result<()> {
    let config = Config::from_env(env)?;
    match command {
        Command::Add { name, email } => add(&config, &name, email.as_deref()).await,
        Command::List => list(&config).await,
        Command::ResetLink { name } => reset_link(&config, &name).await,
    }
}

async fn add(config: &Config, name: &str, email: Option<&str>) -> Result<()> {
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let email = email.map(Email::parse).transpose().map_err(|sentence| anyhow!(sentence))?;
    let password = NewPassword::parse(&ask_password()?, config).map_err(|sentence| anyhow!(sentence))?;
    let own = own_words(config, username.as_str(), email.as_ref().map(Email::as_str));
    let hash = Gate::new(config).hash(password, own).await?.map_err(|sentence| anyhow!(sentence))?;
    let here = Client::local("command line");
    let db = Database::open(config).await?;
    let made = db.write(async |db| {
        let Some(id) = user::create(db, &username, &here).await? else { return Ok(false) };
        password::set(db, &id, &hash).await?;
        if let Some(email) = &email {
            address::begin(db, &id, email, Proven::OneFactor).await?;
        }
        Ok::<_, Error>(true)
    });
    if !made.await? {
        bail!("The name {username} is taken.");
    }
    db.close().await;
    say(format!("{username} can log in now."))
}

/// For whoever runs the site, when somebody has no other way back.
async fn reset_link(config: &Config, name: &str) -> Result<()> {
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let db = Database::open(config).await?;
    let token = db.write(async |db| {
        let Some(user) = user::member(db, &username).await? else { return Ok(None) };
        user::lock(db, &user.id).await?;
        token::issue(db, Purpose::Reset, &user.id, "", "", config.reset_lifetime).await.map(Some)
    });
    let token = token.await?.with_context(|| format!("Nobody who may log in is called {username}."))?;
    db.close().await;
    say(format!("{}/password-reset/{}", config.origin(), token.text()))
}

fn ask_password() -> Result<String> {
    if stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Once more: ")? != password {
            bail!("The two passwords differ.");
        }
        return Ok(password);
    }
    let mut line = String::new();
    stdin().lock().read_line(&mut line).context("the password could not be read")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

async fn list(config: &Config) -> Result<()> {
    let db = Database::open(config).await?;
    let mut after = None;
    loop {
        let page = db.read(async |db| user::members(db, after.as_deref(), 1000).await).await?;
        for member in &page {
            say(format!("{}  {}", member.id, member.username))?;
        }
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
    }
    db.close().await;
    Ok(())
}
