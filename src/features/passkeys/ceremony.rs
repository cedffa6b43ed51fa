//! Ceremonies under way: a challenge is answered once, within five minutes, by the browser it was made for.
//!
//! They wait in the database, so any replica may judge the answer. The row goes before the answer is judged: of many
//! that come at once one finds it. A browser may have several under way, one in each tab.

use super::{not_good, relying_party};
use crate::app::App;
use crate::database::{Connection, now};
use crate::error::Result;
use crate::form::Json;
use crate::guard;
use crate::session::Door;
use crate::throttle::{self, Key, Rate};
use crate::token::Token;
use ::cookie::time;
use anyhow::Context;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;
use uuid::Uuid;
use webauthn_rs::prelude::{CredentialID, PasskeyRegistration};

pub const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How many may be begun from one address. Every visit to the log-in page begins one.
const STARTS: Rate = Rate { times: 200, per: Duration::from_secs(3 * 60) };

/// Holds a token that ties a browser to what it has begun.
const COOKIE: &str = "passkey";

/// What a challenge was made for. An answer to one kind is none to another.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    LogIn,
    SignUp,
    /// Of somebody who is logged in: to show that it is still them.
    Confirm,
    /// Of somebody who is logged in: to add a passkey.
    Register,
}

impl Kind {
    /// How the table has it.
    fn name(self) -> &'static str {
        match self {
            Kind::LogIn => "log_in",
            Kind::SignUp => "sign_up",
            Kind::Confirm => "confirm",
            Kind::Register => "register",
        }
    }

    /// The session that it belongs to; nothing for what strangers do.
    async fn session(self, door: &Door) -> Result<String> {
        Ok(match self {
            Kind::LogIn | Kind::SignUp => String::new(),
            Kind::Confirm | Kind::Register => {
                door.session().await?.map(|session| session.id.clone()).unwrap_or_default()
            }
        })
    }
}

/// Asks for a passkey, any of this site's: answers what `navigator.credentials.get` takes.
pub async fn ask_for_passkey(app: &App, door: &Door, kind: Kind) -> Result<Response> {
    let begun = relying_party(&app.config)?.start_discoverable_authentication();
    let (options, state) = begun.map_err(anyhow::Error::from)?;
    let cookies = begin(app, door, kind, &options.public_key.challenge, &state).await?;
    // Without `mediation`: the script adds it where the browser is to offer passkeys by itself.
    Ok((cookies, Json(json!({ "publicKey": options.public_key }))).into_response())
}

/// Asks for a new passkey, in place of none of those `known`: answers what `navigator.credentials.create` takes. What waits
/// for the answer is `kept` of what the library wants to keep.
pub async fn ask_to_make<T: Serialize>(
    app: &App,
    door: &Door,
    kind: Kind,
    (user_id, name): (&str, &str),
    known: Vec<CredentialID>,
    kept: impl FnOnce(PasskeyRegistration) -> T,
) -> Result<Response> {
    let id = Uuid::parse_str(user_id).context("ids of users are UUIDs")?;
    let begun = relying_party(&app.config)?.start_passkey_registration(id, name, name, Some(known));
    let (options, state) = begun.map_err(anyhow::Error::from)?;
    let cookies = begin(app, door, kind, &options.public_key.challenge, &kept(state)).await?;
    let mut options = serde_json::to_value(options).map_err(anyhow::Error::from)?;
    // The library advises against what a log-in without a username needs: that the authenticator finds it by the site.
    let selection = &mut options["publicKey"]["authenticatorSelection"];
    selection["residentKey"] = "required".into();
    selection["requireResidentKey"] = true.into();
    Ok((cookies, Json(options)).into_response())
}

/// Keeps what the answer to a challenge is to be judged by. The cookie that it answers must come back with it.
async fn begin(
    app: &App,
    door: &Door,
    kind: Kind,
    challenge: &[u8],
    state: &impl Serialize,
) -> Result<CookieJar> {
    let browser = browser(door).map_or_else(Token::random, Ok)?;
    let session = kind.session(door).await?;
    let state = serde_json::to_string(state).map_err(anyhow::Error::from)?;
    let begun = app.db.note(async |db| {
        throttle::take(db, &Key::address("passkey", door.client.address), STARTS).await?;
        let sql = "insert into passkey_ceremonies \
                   (challenge_hash, browser_hash, session_id, kind, state, expires_at) values ($1, $2, $3, $4, $5, $6)";
        let query = sqlx::query(sql).bind(Sha256::digest(challenge).to_vec()).bind(browser.hash().to_vec());
        let query = query.bind(&*session).bind(kind.name()).bind(&*state);
        query.bind(now() + LIFETIME.as_secs() as i64).execute(db).await?;
        Ok(())
    });
    begun.await?;
    let cookie = guard::set_cookie(&app.config, COOKIE, browser.text());
    let lifetime = time::Duration::seconds(LIFETIME.as_secs() as i64);
    Ok(CookieJar::new().add(cookie.max_age(lifetime).build()))
}

/// What the answer with this client data is to be judged by, which nobody can have a second time.
///
/// # Errors
/// [`not_good`] when nothing was begun by this browser, in this session and of this kind, that it could answer.
pub async fn end<T: DeserializeOwned>(app: &App, door: &Door, kind: Kind, client_data: &[u8]) -> Result<T> {
    let (Some(browser), Some(challenge)) = (browser(door), challenge(client_data)) else {
        return Err(not_good());
    };
    let session = kind.session(door).await?;
    let sql = "delete from passkey_ceremonies where challenge_hash = $1 and browser_hash = $2 \
               and session_id = $3 and kind = $4 and expires_at > $5 returning state";
    let end = async |db: &mut Connection| {
        let query = sqlx::query_as(sql).bind(Sha256::digest(&challenge).to_vec());
        let query = query.bind(browser.hash().to_vec()).bind(&*session).bind(kind.name()).bind(now());
        Ok(query.fetch_optional(db).await?)
    };
    let ended: Option<(String,)> = app.db.write(end).await?;
    let (state,) = ended.ok_or_else(not_good)?;
    Ok(serde_json::from_str(&state).map_err(anyhow::Error::from)?)
}

fn browser(door: &Door) -> Option<Token> {
    Token::parse(&door.request_cookie(COOKIE)?)
}

/// The challenge that an authenticator has answered, as it says itself; none when it did so for a page that stood inside
/// another site's.
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
    BASE64_URL_SAFE_NO_PAD.decode(data.challenge).ok()
}

/// Those that nobody has finished; `$1` is the time.
pub const PURGE: &str = "delete from passkey_ceremonies where challenge_hash in \
     (select challenge_hash from passkey_ceremonies where expires_at <= $1 limit 1000)";
