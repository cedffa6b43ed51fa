//! `latchkey user add`: creates an account.

use crate::accounts::{
    AuthLevel, Client, Email, NewPassword, Username, address, password::limiter::HashLimiter, password::table,
    personal_words, user,
};
use crate::base::Config;
use crate::cli::output::say;
use crate::db::Database;
use anyhow::{Context, Result, anyhow, bail};
use console::Term;
use std::io::{BufRead, IsTerminal, stdin};

pub async fn add(config: &Config, name: &str, email: Option<&str>) -> Result<()> {
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
