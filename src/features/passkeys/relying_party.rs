//! This site as browsers and their passkeys know it, and how it refuses a passkey.

use crate::base::{Config, Error, Result};
use std::time::Duration;
use url::{Host, Url};
use webauthn_rs::prelude::{Webauthn, WebauthnBuilder};

/// The field in which a passkey is sent, and its name among the factors.
pub const NAME: &str = "passkey";

/// How long a challenge can be answered.
pub const TIMEOUT: Duration = Duration::from_secs(5 * 60);

pub fn relying_party(config: &Config) -> Result<Webauthn> {
    let id = config.base_url.domain().unwrap_or_default();
    let party = WebauthnBuilder::new(id, &config.base_url);
    let party = party.and_then(|party| party.rp_name(&config.site_name).timeout(TIMEOUT).build());
    Ok(party.map_err(anyhow::Error::from)?)
}

/// The sentence for everything that can be wrong with a passkey, so that it gives nothing away.
pub const NOT_GOOD: &str = "This passkey could not be used. Try again, or choose another way.";

pub fn not_good() -> Error {
    Error::invalid(NAME, NOT_GOOD)
}

/// Whether the host is an address of this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    }
}
