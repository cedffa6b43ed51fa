//! [`Key`]: what a rate limit is counted by.

use ring::hmac;
use sha2::{Digest, Sha256};

/// What is limited. The table only has its hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    pub fn new(kind: &str, of: &str) -> Key {
        Key(Sha256::digest(format!("{kind}:{of}")).into())
    }

    /// For text that can be anything, even a password typed into the wrong field: without `secret` it cannot be found
    /// out.
    pub fn keyed(secret: &[u8], kind: &str, of: &str) -> Key {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), format!("{kind}:{of}").as_bytes());
        Key(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    pub fn account(user_id: &str) -> Key {
        Key::new("account", user_id)
    }

    /// As stored in the table.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        bytes.try_into().ok().map(Key)
    }
}
