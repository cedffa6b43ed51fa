//! Reads the file, says what would happen, and does it if told to.

use super::file::File;
use super::row::{Row, Seen};
use super::users::{self, Refusal};
use crate::base::{Config, Env};
use crate::cli::confirm::confirm;
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::db::Database;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, stderr, stdin};

/// How many refused lines are printed.
const PRINTED: usize = 100;

#[derive(clap::Args)]
pub struct Arguments {
    /// CSV, or JSON lines; `-` is standard input
    file: String,
    /// Make the accounts; otherwise this says what would happen, and asks at a terminal
    #[arg(long)]
    yes: bool,
    /// Print the outcome as JSON, and ask nothing
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When lines were refused, or the file or the database cannot be used. Then nothing is imported.
pub async fn run(env: &Env, Arguments { file, yes, json }: Arguments) -> Result<()> {
    let config = Config::from_env(env)?;
    let db = Database::open_existing(&config).await?;
    let (rows, mut refused) = read(&file, &config.site_name)?;
    ensure!(!rows.is_empty() || !refused.is_empty(), "there are no users in the file");
    refused.extend(users::find_refused(&db, &rows).await?);
    refused.sort();
    if !json {
        print(&rows, &refused)?;
    }
    let is_asked = yes || !json && file != "-" && stdin().is_terminal() && stderr().is_terminal();
    let is_imported = refused.is_empty() && is_asked;
    if is_imported {
        confirm(yes, "Import them?")?;
        users::make(&db, &rows).await?;
    }
    db.close().await;
    if json {
        print_json(&rows, &refused, is_imported)?;
    }
    ensure!(refused.is_empty(), "nothing was imported, because of {}", count(refused.len(), "line"));
    match is_imported {
        _ if json => Ok(()),
        true => say("They were imported."),
        false => say("Nothing was changed. Use --yes to import them."),
    }
}

/// The rows that can be imported as far as the file says, and the lines that cannot.
fn read(name: &str, site_name: &str) -> Result<(Vec<Row>, Vec<Refusal>)> {
    let input: Box<dyn BufRead> = match name {
        "-" => Box::new(stdin().lock()),
        _ => Box::new(BufReader::new(fs::File::open(name).with_context(|| format!("{name} cannot be opened"))?)),
    };
    let (mut file, progress) = (File::open(input)?, Progress::new("lines read", None));
    let (mut rows, mut refused, mut seen) = (Vec::new(), Vec::new(), Seen::default());
    while let Some(line) = file.next_line()? {
        let row = line.fields.and_then(|fields| Row::parse(line.number, fields, site_name));
        match row.and_then(|row| seen.add(&row).map(|()| row)) {
            Ok(row) => rows.push(row),
            Err(reason) => refused.push((line.number, reason)),
        }
        progress.advance(1);
    }
    progress.finish();
    Ok((rows, refused))
}

fn print(rows: &[Row], refused: &[Refusal]) -> Result<()> {
    if refused.is_empty() {
        let [passwords, addresses, neither] = ways_in(rows);
        return say(format!(
            "{} can be imported: {passwords} with a password, {addresses} with a confirmed address, {neither} with neither.",
            count(rows.len(), "user")
        ));
    }
    for (line, reason) in refused.iter().take(PRINTED) {
        say(format!("line {line}: {reason}"))?;
    }
    match refused.len().saturating_sub(PRINTED) {
        0 => Ok(()),
        more => say(format!("and {more} more")),
    }
}

fn print_json(rows: &[Row], refused: &[Refusal], is_imported: bool) -> Result<()> {
    let [passwords, addresses, neither] = ways_in(rows);
    let printed = refused.iter().take(PRINTED).map(|(line, reason)| json!({ "line": line, "reason": reason }));
    say(json!({
        "imported": is_imported,
        "users": rows.len(),
        "with_password": passwords,
        "with_confirmed_address": addresses,
        "with_neither": neither,
        "refused_lines": refused.len(),
        "refused": printed.collect::<Vec<_>>(),
    }))
}

/// How many users have a password, a confirmed address, and neither, who get in by `latchkey user reset-link` alone.
fn ways_in(rows: &[Row]) -> [usize; 3] {
    let count = |is: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
    let has_password = |row: &Row| row.hash.is_some();
    [count(&has_password), count(&|row| row.is_confirmed), count(&|row| !has_password(row) && !row.is_confirmed)]
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
