//! A copy of everything that is kept of oneself, as a JSON file. Every feature adds its own in `Feature::export`.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::database::{Connection, Db};
use crate::error::Result;
use crate::event::{self, Event};
use crate::features::Feature;
use crate::guard::Client;
use ::cookie::time::OffsetDateTime;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use sqlx::{Column, Row};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/account/export", Access::Recent, show);
    Ok(Feature { routes, export: &CORE, ..Feature::named("export") })
}

/// What core keeps of a user, but for what could open something.
const CORE: [(&str, &str); 4] = [
    ("user", "select id, username, created_at from users where id = $1"),
    ("addresses", "select email, confirmed_at from addresses where user_id = $1"),
    (
        "sessions",
        "select id, created_at, seen_at, address, device from sessions where user_id = $1 order by id",
    ),
    ("events", "select id, kind, created_at, address, device from events where user_id = $1 order by id"),
];

async fn show(State(app): State<App>, user: User, client: Client) -> Result<Response> {
    let export = app.db.write(async |db| {
        let mut export = Map::new();
        for (name, sql) in app.features.iter().flat_map(|feature| feature.export) {
            export.insert(name.to_string(), rows(db, sql, &user.id).await?);
        }
        event::record(db, &*user.id, Event::Exported, &client).await?;
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
