//! A copy of all data about a user, as a JSON file. Features add theirs in `Feature::export`.

use super::feature::Feature;
use crate::accounts::User;
use crate::base::{Env, Result};
use crate::db::{Connection, DbRow};
use crate::web::format::rfc3339;
use crate::web::{Access, App, Routes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use sqlx::{Column, Row};
use tokio::sync::Mutex;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/account/export", Access::Recent, show);
    Ok(Feature { routes, export: &CORE, ..Feature::named("export") })
}

/// What core stores about a user, without secrets.
const CORE: [(&str, &str); 5] = [
    ("user", "select id, username, created_at from users where id = $1"),
    ("addresses", "select email, confirmed_at from addresses where user_id = $1"),
    ("sessions", "select id, created_at, seen_at, address, device from sessions where user_id = $1 order by id"),
    ("mails", "select id, kind, email, created_at from mails where user_id = $1 order by id"),
    ("events", "select id, kind, about, created_at, address, device from events where user_id = $1 order by id"),
];

/// An export is built in memory, so they are made one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn show(State(app): State<App>, user: User) -> Result<Response> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let export = app.db.read(async |db| {
        let mut export = Map::new();
        for (name, sql) in &app.features.export {
            export.insert(name.to_string(), rows(db, sql, &user.id).await?);
        }
        Ok(export)
    });
    let json = serde_json::to_string_pretty(&export.await?).map_err(anyhow::Error::from)?;
    let headers = [
        (CONTENT_TYPE, "application/json".to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}.json\"", user.username)),
    ];
    Ok((headers, json).into_response())
}

async fn rows(db: &mut Connection, sql: &'static str, user_id: &str) -> Result<Value> {
    let rows = sqlx::query(sql).bind(user_id).fetch_all(db).await?;
    Ok(rows.iter().map(object).collect())
}

/// A row as an object with its columns.
fn object(row: &DbRow) -> Value {
    row.columns().iter().map(|column| (column.name().to_string(), value(row, column))).collect()
}

/// Text and numbers as they are, times as in RFC 3339.
fn value(row: &DbRow, column: &impl Column) -> Value {
    match row.try_get::<Option<i64>, _>(column.ordinal()) {
        Ok(Some(seconds)) if column.name().ends_with("_at") => Value::from(rfc3339(seconds)),
        Ok(number) => Value::from(number),
        Err(_) => Value::from(row.try_get::<Option<String>, _>(column.ordinal()).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features;
    use crate::test::TestApp;

    #[tokio::test]
    async fn a_user_gets_all_data_about_them_as_a_file_and_no_secrets() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        app.execute("update events set about = 'Pixel 8'").await;
        let answer = ada.get("/account/export").await;
        answer.assert_status(200).assert_header("content-type", "application/json");
        answer.assert_header("content-disposition", "attachment; filename=\"ada.json\"");
        answer.assert_lacks("bob").assert_lacks("pbkdf2").assert_lacks("token");
        let export: Value = serde_json::from_slice(&answer.bytes).unwrap();
        assert_eq!(export["user"][0]["username"], "ada");
        assert_eq!(export["sessions"][0]["address"], "127.0.0.1");
        assert_eq!(export["events"][0]["kind"], "signed_up");
        assert_eq!(export["events"][0]["about"], "Pixel 8");
        let created = export["user"][0]["created_at"].as_str().unwrap();
        assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
        assert_eq!(created.len(), "2026-05-01T10:00:00Z".len());
    }

    /// Whether the last section of this part of the schema belongs to core or to a feature of this build.
    fn is_built(features: &[Feature], schema: &str) -> bool {
        let headings = schema.lines().filter_map(|line| line.strip_prefix("-- ")?.split_once(' '));
        let section = headings.filter_map(|(number, name)| Some((number.parse::<i64>().ok()?, name))).next_back();
        section.is_some_and(|(number, name)| number < 10 || features.iter().any(|feature| feature.name == name))
    }

    /// A new table that belongs to users is exported, or listed here because it has only secrets.
    #[test]
    fn every_table_that_has_a_user_is_in_the_export() {
        let features = features::all(&Env::default()).unwrap();
        let schema = include_str!("../../schema.sql");
        let exported: String = features.iter().flat_map(|feature| feature.export).map(|(_, sql)| *sql).collect();
        let secret = ["passwords", "devices", "limits", "tokens", "recovery_codes"];
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

    #[tokio::test]
    async fn a_user_who_logged_in_some_time_ago_has_to_confirm_first() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get("/account/export").await.assert_redirect("/confirm?next=%2Faccount%2Fexport");
        app.visitor().get("/account/export").await.assert_redirect("/login?next=%2Faccount%2Fexport");
    }
}
