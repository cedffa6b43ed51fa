//! `latchkey user list`: all accounts, newest first.

use super::account::Account;
use crate::base::Config;
use crate::cli::output::print;
use crate::db::{AFTER_ALL_IDS, Connection, Database};
use anyhow::Result;

pub async fn run(config: &Config, json: bool) -> Result<()> {
    let db = Database::open_read_only(config).await?;
    let mut after = AFTER_ALL_IDS.to_string();
    loop {
        let next = async |db: &mut Connection| {
            let sql =
                "select id, username, created_at, disabled_at from users where id < $1 order by id desc limit 1000";
            Ok(sqlx::query_as(sql).bind(&*after).fetch_all(db).await?)
        };
        let accounts: Vec<Account> = db.read(next).await?;
        for account in &accounts {
            print(if json { serde_json::to_string(account)? } else { line(account) })?;
        }
        let Some(last) = accounts.last() else { break };
        after.clone_from(&last.id);
    }
    db.close().await;
    Ok(())
}

fn line(account: &Account) -> String {
    let state = if account.disabled_at.is_some() { "  disabled" } else { "" };
    format!("{}  {}{state}", account.id, account.username)
}
