//! `latchkey user show`: what belongs to an account.

use super::account::{self, Account};
use crate::accounts::{Permissions, group};
use crate::base::{Config, Env, Error};
use crate::cli::output::say;
use crate::db::{Connection, Database, DbRow, ago};
use crate::features;
use crate::web::Factor;
use crate::web::format::date_time;
use anyhow::Result;
use serde::Serialize;
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    account: Account,
    addresses: Vec<Address>,
    /// How many of each, by name.
    factors: BTreeMap<&'static str, i64>,
    groups: Vec<String>,
    /// Of the groups, and those that were given directly. `*` stands for all.
    permissions: Vec<String>,
    sessions: i64,
}

#[derive(Serialize)]
struct Address {
    email: String,
    confirmed_at: Option<i64>,
}

impl FromRow<'_, DbRow> for Address {
    fn from_row(row: &DbRow) -> sqlx::Result<Address> {
        Ok(Address { email: row.try_get("email")?, confirmed_at: row.try_get("confirmed_at")? })
    }
}

pub async fn run(env: &Env, config: &Config, name: &str, json: bool) -> Result<()> {
    let factors: Vec<Factor> = features::all(env)?.iter().filter_map(|feature| feature.factor).collect();
    let db = Database::open_read_only(config).await?;
    let account = account::find(&db, name).await?;
    let shown = db.read(async |db| read(db, config, account, &factors).await).await?;
    db.close().await;
    if json { say(serde_json::to_string(&shown)?) } else { shown.lines().into_iter().try_for_each(say) }
}

async fn read(db: &mut Connection, config: &Config, account: Account, features: &[Factor]) -> Result<Shown, Error> {
    let id = &*account.id;
    let sql = "select email, confirmed_at from addresses where user_id = $1 order by email";
    let addresses = sqlx::query_as(sql).bind(id).fetch_all(&mut *db).await?;
    let of_core = [
        ("password", "select count(*) from passwords where user_id = $1"),
        ("recovery code", "select count(*) from recovery_codes where user_id = $1"),
    ];
    let mut factors = BTreeMap::new();
    for (name, sql) in of_core.into_iter().chain(features.iter().map(|factor| (factor.name, factor.count))) {
        factors.insert(name, sqlx::query_scalar(sql).bind(id).fetch_one(&mut *db).await?);
    }
    let groups = group::of_user(db, id).await?.into_iter().map(|group| group.name).collect();
    let permissions = Permissions::of_user(db, id).await?.names().map(String::from).collect();
    let sql = "select count(*) from sessions where user_id = $1 and created_at > $2 and seen_at > $3";
    let query = sqlx::query_scalar(sql).bind(id).bind(ago(config.session_lifetime)).bind(ago(config.session_idle));
    let sessions = query.fetch_one(db).await?;
    Ok(Shown { account, addresses, factors, groups, permissions, sessions })
}

impl Shown {
    fn lines(&self) -> [String; 9] {
        let state = self.account.disabled_at.map(|at| format!("disabled since {}", date_time(at)));
        let address = |Address { email, confirmed_at }: &Address| match confirmed_at {
            Some(_) => email.clone(),
            None => format!("{email} (not confirmed)"),
        };
        let factors = self.factors.iter().filter(|(_, count)| **count > 0);
        [
            ("username", self.account.username.clone()),
            ("id", self.account.id.clone()),
            ("created", date_time(self.account.created_at)),
            ("state", state.unwrap_or("enabled".into())),
            ("addresses", listed(self.addresses.iter().map(address))),
            ("factors", listed(factors.map(|(name, count)| format!("{name} ({count})")))),
            ("groups", listed(self.groups.iter().cloned())),
            ("permissions", listed(self.permissions.iter().map(|name| name.replace('*', "all")))),
            ("sessions", self.sessions.to_string()),
        ]
        .map(|(label, value)| format!("{label:<12} {value}"))
    }
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
