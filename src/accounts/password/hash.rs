//! Password hashes: PBKDF2, and those imported from other systems.

use crate::base::Result;
use anyhow::anyhow;
use data_encoding::{BASE64, BASE64_NOPAD};
use pbkdf2::phc::PasswordHash;
use pbkdf2::{Algorithm, Params, PasswordHasher, PasswordVerifier, Pbkdf2};
use unicode_normalization::UnicodeNormalization;

/// Hashes a password with PBKDF2-HMAC-SHA256; a PHC string.
pub fn hash(password: &str, salt: &[u8; 16], iterations: u32) -> Result<String> {
    let hash = Params::new(iterations).and_then(|params| {
        let pbkdf2 = Pbkdf2::new(Algorithm::Pbkdf2Sha256, params);
        pbkdf2.hash_password_with_salt(password.as_bytes(), salt)
    });
    Ok(hash.map_err(|error| anyhow!("a password cannot be hashed: {error}"))?.to_string())
}

/// Whether [`verify`] supports this kind of hash. Argon2 and bcrypt need the Cargo feature `imported_hashes`.
pub fn is_known(hash: &str) -> bool {
    let begins = |with: &[&str]| with.iter().any(|beginning| hash.starts_with(beginning));
    begins(&["$pbkdf2-sha256$", DJANGO]) || cfg!(feature = "imported_hashes") && begins(&["$argon2", "$2"])
}

/// Whether the hash is that of this password. Also supports Argon2 as a PHC string, bcrypt, and Django's
/// `pbkdf2_sha256$…`. Those are hashes of the password as typed, ours of its Unicode form NFC. Outputs are compared in
/// constant time.
pub fn verify(typed: &str, hash: &str) -> bool {
    #[cfg(feature = "imported_hashes")]
    if hash.starts_with("$2") {
        return bcrypt::verify(typed, hash).unwrap_or(false);
    }
    #[cfg(feature = "imported_hashes")]
    if hash.starts_with("$argon2") {
        use argon2::{Argon2, PasswordHash, PasswordVerifier};
        let verify = |hash| Argon2::default().verify_password(typed.as_bytes(), &hash);
        return PasswordHash::new(hash).is_ok_and(|hash| verify(hash).is_ok());
    }
    match from_django(hash) {
        Some(hash) => verify_pbkdf2(typed, &hash),
        None => verify_pbkdf2(&typed.nfc().collect::<String>(), hash),
    }
}

fn verify_pbkdf2(password: &str, hash: &str) -> bool {
    let verify = |hash| Pbkdf2::SHA256.verify_password(password.as_bytes(), &hash);
    PasswordHash::new(hash).is_ok_and(|hash| verify(hash).is_ok())
}

const DJANGO: &str = "pbkdf2_sha256$";

/// `pbkdf2_sha256$ROUNDS$SALT$HASH` as the PHC string of the same hash.
pub fn from_django(hash: &str) -> Option<String> {
    let mut parts = hash.strip_prefix(DJANGO)?.split('$');
    let (rounds, salt, output) = (parts.next()?, parts.next()?, parts.next()?);
    let salt = BASE64_NOPAD.encode(salt.as_bytes());
    let output = BASE64_NOPAD.encode(&BASE64.decode(output.as_bytes()).ok()?);
    Some(format!("$pbkdf2-sha256$i={rounds},l=32${salt}${output}"))
}

/// Whether a hash was made by another system, or with fewer rounds.
pub fn is_outdated(hash: &str, iterations: u32) -> bool {
    let rounds = hash.strip_prefix("$pbkdf2-sha256$i=").and_then(|rest| rest.split(',').next());
    rounds.and_then(|rounds| rounds.parse().ok()).is_none_or(|rounds: u32| rounds < iterations)
}

/// A dummy hash: no password matches it, and verifying it takes as long as verifying a real one.
pub fn unmatchable(iterations: u32) -> String {
    let (salt, output) = ("A".repeat(22), "A".repeat(43));
    format!("$pbkdf2-sha256$i={iterations},l=32${salt}${output}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The work depends on these alone, so it is the same for a name that nobody has.
    #[test]
    fn the_hash_that_nothing_matches_takes_as_much_work_as_any() {
        let shape = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let salt = hash.salt.as_ref().map(|salt| salt.as_ref().len());
            (hash.algorithm, hash.params.to_string(), salt, hash.hash.map(|output| output.len()))
        };
        for iterations in [1000, 600_000] {
            assert_eq!(shape(&unmatchable(iterations)), shape(&super::hash("a", &[7; 16], iterations).unwrap()));
        }
    }
}
