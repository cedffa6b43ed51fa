//! A copy of everything that is kept of oneself, as a JSON file. Every feature adds its own in `Feature::export`.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::database::{Connection, Db};
use crate::env::Env;
use crate::error::Result;
use crate::features::Feature;
use ::cookie::time::OffsetDateTime;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use sqlx::{Column, Row};
use tokio::sync::Semaphore;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/account/export", Access::Recent, show);
    Ok(Feature { routes, export: &CORE, ..Feature::named("export") })
}

/// What core keeps of a user, but for what could open something.
const CORE: [(&str, &str); 5] = [
    ("user", "select id, username, created_at from users where id = $1"),
    ("addresses", "select email, confirmed_at from addresses where user_id = $1"),
    (
        "sessions",
        "select id, created_at, seen_at, address, device from sessions where user_id = $1 order by id",
    ),
    ("mails", "select id, kind, email, created_at from mails where user_id = $1 order by id"),
    ("events", "select id, kind, created_at, address, device from events where user_id = $1 order by id"),
];

/// An export is held in memory whole, so there is one at a time.
static ONE: Semaphore = Semaphore::const_new(1);

async fn show(State(app): State<App>, user: User) -> Result<Response> {
    let _turn = ONE.acquire().await.map_err(anyhow::Error::from)?;
    let export = app.db.read(async |db| {
        let mut export = Map::new();
        for (name, sql) in app.features.iter().flat_map(|feature| feature.export) {
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

/// A row as an object: text and numbers as they are, times as RFC 3339 has them.
fn object(row: &<Db as sqlx::Database>::Row) -> Value {
    let value = |column: &<Db as sqlx::Database>::Column| {
        let number = row.try_get::<Option<i64>, _>(column.ordinal());
        if let (Ok(Some(seconds)), true) = (&number, column.name().ends_with("_at")) {
            return time(*seconds);
        }
        match number {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(row.try_get::<Option<String>, _>(column.ordinal()).unwrap_or_default()),
        }
    };
    row.columns().iter().map(|column| (column.name().to_string(), value(column))).collect()
}

fn time(seconds: i64) -> Value {
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    Value::from(format!(
        "{}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    #[tokio::test]
    async fn one_gets_everything_of_oneself_as_a_file_and_nothing_that_opens_a_door() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        let answer = ada.get("/account/export").await;
        answer.assert_status(200).assert_header("content-type", "application/json");
        answer.assert_header("content-disposition", "attachment; filename=\"ada.json\"");
        answer.assert_lacks("bob").assert_lacks("pbkdf2").assert_lacks("token");
        let export: Value = serde_json::from_slice(&answer.bytes).unwrap();
        assert_eq!(export["user"][0]["username"], "ada");
        assert_eq!(export["sessions"][0]["address"], "127.0.0.1");
        assert_eq!(export["events"][0]["kind"], "signed_up");
        let made = export["user"][0]["created_at"].as_str().unwrap();
        assert!(made.starts_with("20") && made.ends_with('Z'), "{made}");
    }

    /// Whether the last section of this part of the schema is core's or belongs to a feature of this build.
    fn is_built(app: &TestApp, schema: &str) -> bool {
        let headings = schema.lines().filter_map(|line| line.strip_prefix("-- ")?.split_once(' '));
        let section =
            headings.filter_map(|(number, name)| Some((number.parse::<i64>().ok()?, name))).next_back();
        section.is_some_and(|(number, name)| {
            number < 10 || app.app.features.iter().any(|feature| feature.name == name)
        })
    }

    /// Whoever adds a table that belongs to a user adds it to an export, or says here why not.
    #[tokio::test]
    async fn every_table_that_has_a_user_is_in_the_export() {
        let app = TestApp::new().await;
        let schema = include_str!("../../schema.sql");
        let exported: String =
            app.app.features.iter().flat_map(|feature| feature.export).map(|(_, sql)| *sql).collect();
        let secret = ["passwords", "devices", "limits", "tokens", "logins", "recovery_codes"];
        for (at, _) in schema.match_indices("create table ") {
            // A build may go without a feature, whose tables are then as empty as they are.
            if !is_built(&app, &schema[..at]) {
                continue;
            }
            let (name, columns) = schema[at + "create table ".len()..].split_once(" (").unwrap();
            // A table that is made anew goes by this name until the old one is gone.
            let name = name.trim_start_matches("new_");
            let columns = columns.split(");").next().unwrap();
            let owned = columns.contains("user_id") && !secret.contains(&name);
            assert!(!owned || exported.contains(&format!("from {name} ")), "nothing exports {name}");
        }
    }

    #[tokio::test]
    async fn a_log_in_of_some_time_ago_exports_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get("/account/export").await.assert_redirect("/confirm?next=%2Faccount%2Fexport");
        app.visitor().get("/account/export").await.assert_redirect("/login?next=%2Faccount%2Fexport");
    }
}
