//! Log in with a passkey: by the button, or from what the browser offers in the field of the username.
//!
//! Nobody says who they are before the answer comes, so there is nothing to ask about somebody else.

use super::ceremony::{self, Kind};
use super::{NOT_GOOD, credential, lead_to, refuse, relying_party};
use crate::app::App;
use crate::database::Connection;
use crate::error::Result;
use crate::factor::Proven;
use crate::form::{Json, NoFields};
use crate::guard::LocalPath;
use crate::half_way::HalfWay;
use crate::page::{Page, Template, templates};
use crate::session::Door;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use webauthn_rs::prelude::PublicKeyCredential;

/// Sends whoever must have two factors, and has shown one, on to the page that asks for a passkey, if they have one.
pub fn next_factor<'a>(
    app: &'a App,
    db: &'a mut Connection,
    user_id: &'a str,
    proven: Proven,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    async move {
        if proven == Proven::TwoFactors || !app.config.require_two_factor.of_everybody() {
            return Ok(None);
        }
        let passkeys = credential::of_user(db, user_id).await?;
        Ok((!passkeys.is_empty()).then_some("/login/passkey"))
    }
    .boxed()
}

#[derive(Serialize)]
pub struct AskPage {
    name: String,
    /// Whether the session is to outlive the browser.
    stay: bool,
    /// Where to go afterwards.
    next: String,
}

impl Template for AskPage {
    const FILE: &'static str = templates::PASSKEYS_ASK;
}

pub async fn show(half_way: HalfWay, page: Page) -> Result<Response> {
    let HalfWay { user, stay, next, .. } = half_way;
    page.show(&AskPage { name: user.username, stay, next }).await
}

pub async fn start(State(app): State<App>, door: Door, _: Json<NoFields>) -> Result<Response> {
    ask(&app, &door, Kind::LogIn).await
}

/// Hands out a challenge that any passkey of this site may answer.
pub async fn ask(app: &App, door: &Door, kind: Kind) -> Result<Response> {
    let begun = relying_party(&app.config)?.start_discoverable_authentication();
    let (options, state) = begun.map_err(anyhow::Error::from)?;
    let cookies = ceremony::begin(app, door, kind, &options.public_key.challenge, &state).await?;
    // Without `mediation`: the script adds it where the browser is to offer passkeys by itself.
    Ok((cookies, Json(json!({ "publicKey": options.public_key }))).into_response())
}

#[derive(Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    credential: PublicKeyCredential,
    /// Where to go afterwards.
    #[serde(default)]
    next: LocalPath,
    /// Whether the session outlives the browser.
    #[serde(default)]
    stay: bool,
}

pub async fn finish(State(app): State<App>, door: Door, Json(answer): Json<Answer>) -> Result<Response> {
    let Some(shown) = credential::judge(&app, &door, Kind::LogIn, &answer.credential).await? else {
        return Ok(refuse(NOT_GOOD));
    };
    let entered = app.db.write(async |db| {
        if !shown.redeem(db).await? {
            return Ok(None);
        }
        door.log_in(db, &shown.user_id, answer.stay, Proven::TwoFactors, &answer.next).await
    });
    Ok(match entered.await? {
        Some(entry) => lead_to(&entry.to, entry.cookies),
        None => refuse(NOT_GOOD),
    })
}
