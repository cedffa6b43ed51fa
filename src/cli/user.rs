//! `latchkey user …`: accounts from the command line.

use super::output::say;
use crate::accounts::link::{self, Purpose};
use crate::accounts::{
    AuthLevel, Client, Email, NewPassword, User, Username, address, password::limiter::HashLimiter, password::table,
    personal_words, user,
};
use crate::base::{Config, Env};
use crate::db::{AFTER_ALL_IDS, Connection, Database};
use crate::features;
use anyhow::{Context, Result, anyhow, bail};
use console::Term;
use std::io::{BufRead, IsTerminal, stdin};

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
    /// List the accounts that are not disabled, newest first
    List,
    /// Print a password reset link, which works once, within RESET_LIFETIME
    ResetLink { name: String },
}

pub async fn run(env: &Env, command: Command) -> Result<()> {
    let config = Config::from_env(env)?;
    match command {
        Command::Add { name, email } => add(&config, &name, email.as_deref()).await,
        Command::List => list(&config).await,
        Command::ResetLink { name } => reset_link(env, &config, &name).await,
    }
}

async fn add(config: &Config, name: &str, email: Option<&str>) -> Result<()> {
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let email = email.map(Email::parse).transpose().map_err(|sentence| anyhow!(sentence))?;
    let password = NewPassword::parse(&ask_password()?, config).map_err(|sentence| anyhow!(sentence))?;
    let personal = personal_words(config, username.as_str(), email.as_ref().map(Email::as_str));
    let hash = HashLimiter::new(config).hash(password, personal).await?;
    let here = Client::local("command line");
    let db = Database::open_existing(config).await?;
    let created = db.write(async |db| {
        let Some(id) = user::create(db, &username, &here).await? else { return Ok(false) };
        table::set(db, &id, &hash).await?;
        if let Some(email) = &email {
            address::set_pending(db, &id, email, AuthLevel::OneFactor).await?;
        }
        Ok(true)
    });
    if !created.await? {
        bail!("The name {username} is taken.");
    }
    db.close().await;
    say(format!("{username} can log in now."))
}

/// For a user who cannot get back in otherwise.
async fn reset_link(env: &Env, config: &Config, name: &str) -> Result<()> {
    let path = features::all(env)?.iter().find_map(|feature| feature.reset_path);
    let path = path.context("this site has no page to reset a password")?;
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let db = Database::open_existing(config).await?;
    let token = db.write(async |db| {
        let Some(user) = user::find(db, &username).await? else { return Ok(None) };
        user::lock(db, &user.id).await?;
        link::issue(db, Purpose::Reset, &user.id, "", "", config.reset_lifetime).await.map(Some)
    });
    let token = token.await?.with_context(|| format!("No user who can log in is called {username}."))?;
    db.close().await;
    say(config.link(path, &token))
}

fn ask_password() -> Result<String> {
    if stdin().is_terminal() {
        let password = prompt("Password: ")?;
        if prompt("Repeat it: ")? != password {
            bail!("The two passwords differ.");
        }
        return Ok(password);
    }
    let mut line = String::new();
    stdin().lock().read_line(&mut line).context("the password could not be read")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

/// Reads a line that is not shown.
fn prompt(words: &str) -> Result<String> {
    let terminal = Term::stderr();
    terminal.write_str(words)?;
    Ok(terminal.read_secure_line()?)
}

async fn list(config: &Config) -> Result<()> {
    let db = Database::open_read_only(config).await?;
    let mut after = AFTER_ALL_IDS.to_string();
    loop {
        let next = async |db: &mut Connection| {
            let sql = "select id as user_id, username from users where id < $1 and disabled_at is null \
                       order by id desc limit 1000";
            Ok(sqlx::query_as(sql).bind(&*after).fetch_all(db).await?)
        };
        let users: Vec<User> = db.read(next).await?;
        for user in &users {
            say(format!("{}  {}", user.id, user.username))?;
        }
        let Some(last) = users.last() else { break };
        after.clone_from(&last.id);
    }
    db.close().await;
    Ok(())
}
