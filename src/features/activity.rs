//! Recent activity: what happened to one's own account, so that a person can see what they did not do.

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::device;
use crate::error::Result;
use crate::event::{self, Told};
use crate::features::Feature;
use crate::form::query_parameter;
use crate::page::{Page, Template, date_time, templates};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/account/activity", Access::User, index);
    Ok(Feature { routes, ..Feature::named("activity") })
}

const PER_PAGE: usize = 50;

#[derive(Serialize)]
struct Row {
    words: String,
    at: String,
    device: String,
    address: String,
}

impl From<Told> for Row {
    fn from(event: Told) -> Row {
        let device = device::words(&event.device);
        Row { words: event.words, at: date_time(event.created_at), device, address: event.address }
    }
}

#[derive(Serialize)]
struct ActivityPage {
    events: Vec<Row>,
    /// The id after which the next page begins.
    next: Option<String>,
}

impl Template for ActivityPage {
    const FILE: &'static str = templates::ACTIVITY_INDEX;
}

async fn index(
    State(app): State<App>,
    user: User,
    page: Page,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let after = query_parameter(query.as_deref(), "after");
    let one_more = PER_PAGE as i64 + 1;
    let read = app.db.read(async |db| event::history(db, &user.id, after.as_deref(), one_more).await);
    let mut events = read.await?;
    let more = events.len() > PER_PAGE;
    events.truncate(PER_PAGE);
    let next = events.last().filter(|_| more).map(|last| last.id.clone());
    page.show(&ActivityPage { events: events.into_iter().map(Row::from).collect(), next }).await
}
