//! `latchkey export NAME`: prints all data about a user, as the page for it gives them.

use super::output::say;
use crate::accounts::Username;
use crate::base::{Config, Env};
use crate::db::{Connection, Database};
use crate::features;
use crate::web::user_data::{self, Reader};
use anyhow::{Context, Result, anyhow};
use axum::body::Bytes;
use std::io::{Write, stdout};

pub async fn run(env: &Env, name: &str) -> Result<()> {
    let config = Config::from_env(env)?;
    let of_features: Vec<_> = features::all(env)?.iter().flat_map(|feature| feature.export).copied().collect();
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let db = Database::open_read_only(&config).await?;
    let id = async |db: &mut Connection| {
        let id = sqlx::query_scalar("select id from users where username = $1");
        Ok(id.bind(username.as_str()).fetch_optional(db).await?)
    };
    let id: Option<String> = db.read(id).await?;
    let id = id.with_context(|| format!("No user is called {username}."))?;
    user_data::write(&db, &of_features, &id, &mut StandardOutput).await?;
    db.close().await;
    say("")
}

struct StandardOutput;

impl Reader for StandardOutput {
    async fn send(&mut self, piece: Bytes) -> Result<()> {
        Ok(stdout().write_all(&piece)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Feature;
    use crate::web::user_data::{CORE, ListQuery};

    fn queries(features: &[Feature]) -> Vec<ListQuery> {
        CORE.iter().chain(features.iter().flat_map(|feature| feature.export)).copied().collect()
    }

    /// Whether the last section of this part of the schema belongs to core or to a feature of this build.
    fn is_built(features: &[Feature], schema: &str) -> bool {
        let headings = schema.lines().filter_map(|line| line.strip_prefix("-- ")?.split_once(' '));
        let section = headings.filter_map(|(number, name)| Some((number.parse::<i64>().ok()?, name))).next_back();
        section.is_some_and(|(number, name)| {
            !(10..90).contains(&number) && number < 100 || features.iter().any(|feature| feature.name == name)
        })
    }

    /// A new table that belongs to users is exported, or listed here because it has only secrets.
    #[test]
    fn every_table_that_has_a_user_is_in_the_export() {
        let features = features::all(&Env::default()).unwrap();
        let schema = include_str!("../../schema.sql");
        let exported: String = queries(&features).iter().map(|(_, sql)| *sql).collect();
        let secret = ["passwords", "devices", "limits", "tokens", "recovery_codes", "shown_codes"];
        for (at, _) in schema.match_indices("create table ") {
            // The tables of a feature that is not in this build are empty.
            if !is_built(&features, &schema[..at]) {
                continue;
            }
            let (name, columns) = schema[at + "create table ".len()..].split_once(" (").unwrap();
            // A table that is made again has this name until the old one has been dropped.
            let name = name.trim_start_matches("new_");
            let columns = columns.split(");").next().unwrap();
            let owned = columns.contains("user_id") && !secret.contains(&name);
            assert!(!owned || exported.contains(&format!("from {name} ")), "nothing exports {name}");
        }
    }

    /// One that is not would come over and over, or all at once.
    #[test]
    fn every_export_is_read_a_page_at_a_time() {
        for (name, sql) in queries(&features::all(&Env::default()).unwrap()) {
            assert!(sql.contains(" > $2") && sql.ends_with(" limit $3"), "{name}: {sql}");
        }
    }
}
