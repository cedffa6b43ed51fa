//! Where one is logged in: the list of one's sessions, and the buttons that end them.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::config::Env;
use crate::device;
use crate::error::Result;
use crate::event::{self, Event};
use crate::features::Feature;
use crate::guard::Client;
use crate::page::{Flash, Page, Template, date_time, templates};
use crate::session::{self, Listed, Session};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::Serialize;

const PATH: &str = "/account/sessions";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::User, index)
        .post("/account/sessions/{id}/revoke", Access::Recent, revoke)
        .post("/account/sessions/revoke-others", Access::Recent, revoke_others);
    Ok(Feature { routes, flashes: &[ENDED, OTHERS_ENDED], ..Feature::named("session_list") })
}

const ENDED: Flash = Flash { name: "session_ended", words: "That session was ended." };
const OTHERS_ENDED: Flash =
    Flash { name: "other_sessions_ended", words: "You are logged out everywhere else." };

/// A session in words.
#[derive(Serialize)]
struct Row {
    id: String,
    device: String,
    address: String,
    began: String,
    seen: String,
    this: bool,
}

#[derive(Serialize)]
struct SessionsPage {
    sessions: Vec<Row>,
}

impl Template for SessionsPage {
    const FILE: &'static str = templates::SESSION_LIST_INDEX;
}

async fn index(State(app): State<App>, own: Session, page: Page) -> Result<Response> {
    let listed = app.db.read(async |db| session::of_user(db, &app.config, &own.user.id).await).await?;
    let row = |listed: Listed| Row {
        device: device::words(&listed.device),
        began: date_time(listed.created_at),
        seen: date_time(listed.seen_at),
        this: listed.id == own.id,
        id: listed.id,
        address: listed.address,
    };
    let mut sessions: Vec<Row> = listed.into_iter().map(row).collect();
    sessions.sort_by_key(|row| !row.this);
    page.show(&SessionsPage { sessions }).await
}

async fn revoke(
    State(app): State<App>,
    own: Session,
    client: Client,
    Path(id): Path<String>,
) -> Result<Response> {
    let end = app.db.write(async |db| {
        session::end(db, &own.user.id, &id).await?;
        event::record(db, &*own.user.id, Event::SessionEnded, &client).await
    });
    end.await?;
    Ok((CookieJar::new().add(ENDED.cookie(&app.config)), see_other(PATH)).into_response())
}

async fn revoke_others(State(app): State<App>, own: Session, client: Client) -> Result<Response> {
    let end = app.db.write(async |db| {
        session::end_others(db, &own).await?;
        event::record(db, &*own.user.id, Event::OtherSessionsEnded, &client).await
    });
    end.await?;
    Ok((CookieJar::new().add(OTHERS_ENDED.cookie(&app.config)), see_other(PATH)).into_response())
}
