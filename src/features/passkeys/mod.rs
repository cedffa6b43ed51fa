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
use crate::error::{Error, Result};
use crate::factor::Factor;
use crate::features::Feature;
use crate::form::Json;
use axum::extract::State;
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

/// Among the factors, and in forms.
const NAME: &str = "passkey";

const FACTOR: Factor =
    Factor { name: NAME, count: credential::COUNT, suffices: true, check: confirm::check, refusal: NOT_GOOD };

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

fn not_good() -> Error {
    Error::Mistake(NOT_GOOD.into())
}

/// What the script goes on with.
fn lead_to(path: &str, cookies: CookieJar) -> Response {
    (cookies, Json(json!({ "next": path }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features;
    use crate::test::TestApp;

    #[tokio::test]
    async fn password_managers_are_told_where_passkeys_are_made_and_kept() {
        let app = TestApp::new().await;
        let answer = app.visitor().get("/.well-known/passkey-endpoints").await;
        answer.assert_status(200).assert_header("content-type", "application/json");
        let here = "http://localhost:8000/account/passkeys";
        answer.assert_body(&format!(r#"{{"enroll":"{here}","manage":"{here}"}}"#));
    }

    #[tokio::test]
    async fn a_site_without_a_name_offers_no_passkeys() {
        let app = TestApp::with_env(&[("BASE_URL", "http://127.0.0.1:8000")], Routes::new()).await;
        app.visitor().get("/.well-known/passkey-endpoints").await.assert_status(404);
        app.person("ada").await.get(PATH).await.assert_status(404);
    }

    #[test]
    fn a_site_is_known_by_the_name_that_people_reach_it_by() {
        for (url, has) in
            [("https://example.com", true), ("https://192.0.2.1", false), ("https://[::1]", false)]
        {
            let env = [("BASE_URL", url)].into_iter().collect();
            assert_eq!(feature(&env).unwrap().factor.is_some(), has, "{url}");
        }
        assert!(features::all(&Env::from_iter::<[(&str, &str); 0]>([])).is_ok());
    }
}
