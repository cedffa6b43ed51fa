//! Show by a passkey that it is still you: at /confirm, and in forms that ask for it.

use super::ceremony::Kind;
use super::credential::{self, Shown};
use super::{NOT_GOOD, lead_to, log_in, refuse};
use crate::app::App;
use crate::auth::User;
use crate::error::Result;
use crate::event::{self, Event};
use crate::factor::Proven;
use crate::form::{Json, NoFields};
use crate::guard::LocalPath;
use crate::session::Door;
use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use webauthn_rs::prelude::PublicKeyCredential;

pub async fn start(State(app): State<App>, door: Door, _: Json<NoFields>) -> Result<Response> {
    log_in::ask(&app, &door, Kind::Confirm).await
}

#[derive(Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    credential: PublicKeyCredential,
    /// Where to go afterwards.
    #[serde(default)]
    next: LocalPath,
}

pub async fn finish(
    State(app): State<App>,
    user: User,
    door: Door,
    Json(answer): Json<Answer>,
) -> Result<Response> {
    let Some(shown) = judge(&app, &door, &user, &answer.credential).await? else {
        return Ok(refuse(NOT_GOOD));
    };
    let confirmed = app.db.write(async |db| {
        if !shown.redeem(db).await? {
            return Ok(None);
        }
        event::record(db, &*user.id, Event::Confirmed, &door.client).await?;
        Ok(Some(door.renew(db, Proven::TwoFactors).await?))
    });
    Ok(match confirmed.await? {
        Some(cookies) => lead_to(&answer.next, cookies),
        None => refuse(NOT_GOOD),
    })
}

async fn judge(
    app: &App,
    door: &Door,
    user: &User,
    answer: &PublicKeyCredential,
) -> Result<Option<Shown>> {
    let shown = credential::judge(app, door, Kind::Confirm, answer).await?;
    Ok(shown.filter(|shown| shown.user_id == user.id))
}

/// Whether this text, a field of some form, is the answer of one of the user's passkeys.
pub fn check<'a>(app: &'a App, door: &'a Door, user: &'a User, field: &'a str) -> BoxFuture<'a, Result<bool>> {
    async move {
        let Ok(answer) = serde_json::from_str(field) else { return Ok(false) };
        match judge(app, door, user, &answer).await? {
            Some(shown) => app.db.write(async |db| shown.redeem(db).await).await,
            None => Ok(false),
        }
    }
    .boxed()
}
