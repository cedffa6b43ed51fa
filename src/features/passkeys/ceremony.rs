//! Challenges: each can be answered once, within five minutes, by the browser that it was made for.
//!
//! They are in the database, so any replica can verify the answer. A row is deleted before its answer is verified: of many
//! answers at once, one finds it. A browser can have several, one in each tab.

use super::relying_party::{TIMEOUT, not_good, relying_party};
use crate::accounts::stored_token::{self, NewToken};
use crate::accounts::{Session, User};
use crate::base::{Rate, Result, Token};
use crate::db::rate_limit::AddressLimit;
use crate::web::{App, Json, Login, cookie};
use anyhow::Context;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;
use uuid::Uuid;
use webauthn_rs::prelude::{CredentialID, PasskeyRegistration};

/// How many challenges one network address gets. Every visit to the log-in page asks for one.
const CHALLENGES: Rate = Rate { times: 200, per: Duration::from_secs(3 * 60) };

/// Holds a token that binds challenges to a browser.
const COOKIE: &str = "passkey";

/// What a challenge is for. An answer for one purpose is none for another.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    LogIn,
    SignUp,
    /// To authenticate again, in this session.
    Confirm(&'a Session),
    /// To add a passkey, in this session.
    Register(&'a Session),
}

impl<'a> Purpose<'a> {
    /// The name in the table.
    fn name(self) -> &'static str {
        match self {
            Purpose::LogIn => "passkey_log_in",
            Purpose::SignUp => "passkey_sign_up",
            Purpose::Confirm(_) => "passkey_confirm",
            Purpose::Register(_) => "passkey_register",
        }
    }

    /// What must come back with the answer: the browser, and the session if there is one.
    fn binding(self, browser: &Token) -> Vec<u8> {
        let session_id = match self {
            Purpose::LogIn | Purpose::SignUp => "",
            Purpose::Confirm(session) | Purpose::Register(session) => &session.id,
        };
        Sha256::new().chain_update(browser.hash()).chain_update(session_id).finalize().to_vec()
    }
}

/// Asks for any passkey of this site: answers what `navigator.credentials.get` takes.
pub async fn ask_for_passkey(app: &App, login: &Login, purpose: Purpose<'_>) -> Result<Response> {
    let started = relying_party(&app.config)?.start_discoverable_authentication();
    let (options, state) = started.map_err(anyhow::Error::from)?;
    let cookies = store(app, login, purpose, &options.public_key.challenge, &state).await?;
    // Without `mediation`: the script adds it where the browser is to offer passkeys by itself.
    Ok((cookies, Json(json!({ "publicKey": options.public_key }))).into_response())
}

/// Asks for a new passkey, by an authenticator that has none of those that are `known`: answers what
/// `navigator.credentials.create` takes. `state` makes what [`take`] answers of what the library needs.
pub async fn ask_to_create<T: Serialize>(
    app: &App,
    login: &Login,
    purpose: Purpose<'_>,
    User { id, username }: &User,
    known: Vec<CredentialID>,
    state: impl FnOnce(PasskeyRegistration) -> T,
) -> Result<Response> {
    let id = Uuid::parse_str(id).context("ids of users are UUIDs")?;
    let started = relying_party(&app.config)?.start_passkey_registration(id, username, username, Some(known));
    let (options, registration) = started.map_err(anyhow::Error::from)?;
    let cookies = store(app, login, purpose, &options.public_key.challenge, &state(registration)).await?;
    let mut options = serde_json::to_value(options).map_err(anyhow::Error::from)?;
    // The library advises against what a log-in without a username needs: that the authenticator finds it by the site.
    let selection = &mut options["publicKey"]["authenticatorSelection"];
    selection["residentKey"] = "required".into();
    selection["requireResidentKey"] = true.into();
    Ok((cookies, Json(options)).into_response())
}

/// Stores what the answer to a challenge will be verified by. The cookie must come back with it.
async fn store(
    app: &App,
    login: &Login,
    purpose: Purpose<'_>,
    challenge: &[u8],
    state: &impl Serialize,
) -> Result<CookieJar> {
    let tokens = cookie::tokens(&app.config, &login.headers, COOKIE);
    let browser = tokens.iter().next().cloned().map_or_else(Token::random, Ok)?;
    let state = serde_json::to_string(state).map_err(anyhow::Error::from)?;
    let new = NewToken {
        purpose: purpose.name(),
        lifetime: TIMEOUT,
        binding: Some(purpose.binding(&browser)),
        data: Some(&state),
        ..NewToken::default()
    };
    let limit = AddressLimit::new("passkey", login.client.address, CHALLENGES);
    limit.check_remembered(&app.db.refusals)?;
    let stored = app.db.write_relaxed(async |db| {
        limit.take(db).await?;
        stored_token::insert(db, &Sha256::digest(challenge), new).await
    });
    stored.await?;
    Ok(CookieJar::new().add(cookie::build(&app.config, COOKIE, browser.text(), Some(TIMEOUT))))
}

/// What the answer with this client data is verified by. It is deleted, so no other answer gets it.
///
/// # Errors
/// [`not_good`] when this browser was given no such challenge in this session and for this purpose.
pub async fn take<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    purpose: Purpose<'_>,
    client_data: &[u8],
) -> Result<T> {
    let tokens = cookie::tokens(&app.config, headers, COOKIE);
    let hash = Sha256::digest(challenge(client_data).ok_or_else(not_good)?);
    if tokens.is_empty() {
        return Err(not_good());
    }
    let taken = app.db.write(async |db| {
        for browser in tokens.iter() {
            let taken = stored_token::take(db, &hash, purpose.name(), &purpose.binding(browser)).await?;
            if taken.is_some() {
                return Ok(taken);
            }
        }
        Ok(None)
    });
    let state = taken.await?.ok_or_else(not_good)?;
    Ok(serde_json::from_str(&state).map_err(anyhow::Error::from)?)
}

/// The challenge that an authenticator says it answers. `None` when the page that asked was embedded in another site's.
fn challenge(client_data: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClientData {
        challenge: String,
        #[serde(default)]
        cross_origin: bool,
        top_origin: Option<String>,
    }
    let data: ClientData = serde_json::from_slice(client_data).ok()?;
    if data.cross_origin || data.top_origin.is_some() {
        return None;
    }
    BASE64URL_NOPAD.decode(data.challenge.as_bytes()).ok()
}
