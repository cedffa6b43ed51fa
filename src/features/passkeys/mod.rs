//! Passkeys (WebAuthn): to log in, to sign up and to confirm who one is, by the screen lock of one's own device.
//!
//! Every ceremony is the same two requests: `…/start` answers a challenge and what `navigator.credentials` takes,
//! `…/finish` verifies what came of it. A passkey always verifies its user too, so it is two factors at once.
//! `ceremony.rs` has the challenges, `credential.rs` the table and the verification; the pages are in the other files.

mod aaguid;
#[cfg(test)]
mod authenticator;
mod ceremony;
mod confirm;
mod credential;
mod factor;
mod log_in;
mod manage;
mod relying_party;
mod sign_up;

use super::feature::Feature;
use crate::base::Env;
use crate::web::{Access, Routes};
use url::Url;

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    // A passkey belongs to a domain name, and a site at an IP address has none. In development the pages say so.
    let base_url = env.text("BASE_URL")?.and_then(|url| Url::parse(url).ok());
    if let Some(url) = base_url.filter(|url| url.domain().is_none()) {
        let says_why = relying_party::is_loopback(&url);
        return Ok(Feature::named(if says_why { "passkeys_need_a_host_name" } else { "" }));
    }
    let routes = Routes::new()
        .get(manage::PATH, Access::User, manage::index)
        .get("/account/passkeys/add", Access::Recent, manage::prepare_to_add)
        .post("/account/passkeys/start", Access::Recent, manage::start)
        .post("/account/passkeys/finish", Access::Recent, manage::finish)
        .get("/account/passkeys/{id}/rename", Access::User, manage::ask_for_name)
        .post("/account/passkeys/{id}/rename", Access::Recent, manage::rename)
        .get("/account/passkeys/{id}/remove", Access::User, manage::ask_to_remove)
        .post("/account/passkeys/{id}/remove", Access::Recent, manage::remove)
        .get(log_in::PATH, Access::PendingLogin, log_in::show)
        .post("/login/passkey/start", Access::Guest, log_in::start)
        .post("/login/passkey/finish", Access::Guest, log_in::finish)
        .post("/signup/passkey/start", Access::Guest, sign_up::start)
        .post("/signup/passkey/finish", Access::Guest, sign_up::finish)
        .post("/confirm/passkey/start", Access::User, confirm::start)
        .post("/confirm/passkey/finish", Access::User, confirm::finish)
        .get("/.well-known/passkey-endpoints", Access::Public, manage::endpoints);
    Ok(Feature {
        routes,
        events: &[manage::PASSKEY_ADDED, manage::PASSKEY_REMOVED],
        flashes: &[manage::ADDED, manage::RENAMED, manage::REMOVED, sign_up::WELCOME],
        factor: Some(factor::FACTOR),
        credentials: Some(credential::ADDED),
        account_row: Some(factor::ROW),
        owned: &[factor::OWNED],
        export: &[credential::EXPORT],
        silenced: &["webauthn_rs", "webauthn_attestation_ca", "crypto_glue"],
        ..Feature::named("passkeys")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features;
    use crate::test::{PRODUCTION, TestApp};

    #[tokio::test]
    async fn a_site_without_a_name_offers_no_passkeys() {
        let app = TestApp::with_env(&[("BASE_URL", "http://127.0.0.1:8000")], Routes::new()).await;
        app.visitor().get("/.well-known/passkey-endpoints").await.assert_status(404);
        app.person("ada").await.get(manage::PATH).await.assert_status(404);
        for path in ["/login", "/signup"] {
            let page = app.visitor().get(path).await;
            if page.status == 404 {
                continue; // The site has no such page.
            }
            page.assert_contains("Passkeys do not work at an IP address.").assert_lacks("data-passkey");
        }
        let production = PRODUCTION.into_iter().chain([("BASE_URL", "https://192.0.2.1")]).collect::<Vec<_>>();
        let app = TestApp::with_env(&production, Routes::new()).await;
        app.visitor().get("/login").await.assert_lacks("asskey");
    }

    #[test]
    fn a_site_is_known_by_the_name_that_people_reach_it_by() {
        for (url, has) in [("https://example.com", true), ("https://192.0.2.1", false), ("https://[::1]", false)] {
            let env = [("BASE_URL", url)].into_iter().collect();
            assert_eq!(feature(&env).unwrap().factor.is_some(), has, "{url}");
        }
        assert!(features::all(&Env::default()).is_ok());
    }
}
