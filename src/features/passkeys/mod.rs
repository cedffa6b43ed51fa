//! Passkeys (WebAuthn): to log in, to sign up and to confirm that it is you, with the lock of one's own device.
//!
//! Every ceremony is the same two requests: `…/start` hands out a challenge and what `navigator.credentials` takes,
//! `…/finish` judges the answer. A passkey always asks who is holding the device, so it is two factors at once.
//! `ceremony.rs` has the challenges, `credential.rs` the passkeys; the other files are the pages, one each.

mod ceremony;
mod confirm;
mod credential;
mod log_in;
mod manage;
mod sign_up;

#[cfg(test)]
mod authenticator;

use crate::access::{Access, Routes};
use crate::app::App;
use crate::config::Config;
use crate::env::Env;
use crate::error::Result;
use crate::factor::Factor;
use crate::features::Feature;
use crate::form::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde_json::{Value, json};
use url::Url;
use webauthn_rs::prelude::{Webauthn, WebauthnBuilder};

const PATH: &str = "/account/passkeys";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    // A passkey belongs to a name; a site that is reached by an address of numbers has none.
    let base_url = env.text("BASE_URL").and_then(|url| Url::parse(url).ok());
    if base_url.is_some_and(|url| url.domain().is_none()) {
        return Ok(Feature::default());
    }
    Ok(Feature {
        routes: routes(),
        flashes: &[manage::ADDED, manage::RENAMED, manage::REMOVED, sign_up::WELCOME],
        factor: Some(FACTOR),
        next_factor: Some(log_in::next_factor),
        set_up: Some(PATH),
        undo: &[credential::UNDO],
        purge: &[ceremony::PURGE],
        export: &[credential::EXPORT],
        ..Feature::named("passkeys")
    })
}

const FACTOR: Factor = Factor {
    name: "passkey",
    count: credential::COUNT,
    suffices: true,
    check: confirm::check,
    refusal: NOT_GOOD,
};

fn routes() -> Routes {
    Routes::new()
        .get(PATH, Access::Recent, manage::index)
        .post("/account/passkeys/start", Access::Recent, manage::start)
        .post("/account/passkeys/finish", Access::Recent, manage::finish)
        .post("/account/passkeys/{id}/rename", Access::Recent, manage::rename)
        .post("/account/passkeys/{id}/remove", Access::Recent, manage::remove)
        .get("/login/passkey", Access::HalfWay, log_in::show)
        .post("/login/passkey/start", Access::Guest, log_in::start)
        .post("/login/passkey/finish", Access::Guest, log_in::finish)
        .post("/signup/passkey/start", Access::Guest, sign_up::start)
        .post("/signup/passkey/finish", Access::Guest, sign_up::finish)
        .post("/confirm/passkey/start", Access::User, confirm::start)
        .post("/confirm/passkey/finish", Access::User, confirm::finish)
        .get("/.well-known/passkey-endpoints", Access::Public, endpoints)
}

/// Where password managers send people who want a passkey here (W3C, "Passkey endpoints").
async fn endpoints(State(app): State<App>) -> Json<Value> {
    let here = app.config.origin() + PATH;
    Json(json!({ "enroll": here, "manage": here }))
}

/// This site, as browsers and their passkeys know it.
fn relying_party(config: &Config) -> Result<Webauthn> {
    let id = config.base_url.domain().unwrap_or_default();
    let party = WebauthnBuilder::new(id, &config.base_url);
    let party = party.and_then(|party| party.rp_name(&config.site_name).timeout(ceremony::LIFETIME).build());
    Ok(party.map_err(anyhow::Error::from)?)
}

/// What is said about every answer that is not good, so that nobody learns what was wrong with it.
const NOT_GOOD: &str = "This passkey could not be used. Please try once more, or choose another way.";

fn refuse(sentence: impl Into<String>) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": sentence.into() }))).into_response()
}

fn lead_to(path: &str, cookies: CookieJar) -> Response {
    (cookies, Json(json!({ "next": path }))).into_response()
}
