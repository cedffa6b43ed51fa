//! What it costs to verify a hash that another system made. One that is too expensive would let anybody who knows its
//! user's name keep the site busy.

use super::hash::{from_django, is_known};
use pbkdf2::Params;
use pbkdf2::phc::PasswordHash;
use std::time::Duration;

/// The most that the verification of an imported hash may take, on one core of a common server.
const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_MEMORY: u64 = 256 << 20;

/// The time of a round of PBKDF2, of the least unit of bcrypt, and of one pass of Argon2 over 1 KiB.
const PBKDF2_ROUND: Duration = Duration::from_nanos(250);
#[cfg(feature = "imported_hashes")]
const BCRYPT_UNIT: Duration = Duration::from_micros(60);
#[cfg(feature = "imported_hashes")]
const ARGON2_PASS: Duration = Duration::from_nanos(900);

#[derive(Default)]
struct Cost {
    time: Duration,
    /// In bytes.
    memory: u64,
}

/// Checks that a hash can be verified, and at what cost, by its parameters.
///
/// # Errors
/// A sentence that says why it cannot be imported, without the hash.
pub fn check(hash: &str) -> Result<(), String> {
    if !is_known(hash) {
        return Err(match kind(hash) {
            Some(kind) => format!("Hashes of the kind {kind} cannot be verified here."),
            None => "This is not a hash of a known kind.".into(),
        });
    }
    let cost = cost(hash).ok_or("This hash is damaged, or of a variant that cannot be verified here.")?;
    if cost.memory > MAX_MEMORY {
        let (needed, most) = (cost.memory.div_ceil(1 << 20), MAX_MEMORY >> 20);
        return Err(format!("Verifying this hash takes {needed} MiB of memory, and at most {most} MiB are allowed."));
    }
    if cost.time > MAX_TIME {
        let (needed, most) = (cost.time.as_secs_f64(), MAX_TIME.as_secs());
        return Err(format!("Verifying this hash takes about {needed:.1} s, and at most {most} s is allowed."));
    }
    Ok(())
}

/// How a hash begins that says of what kind it is: `$6$`, `{SSHA}`, `md5`. Never a part of something else, which may be a
/// password.
fn kind(hash: &str) -> Option<&str> {
    let end = match hash.as_bytes().first()? {
        b'$' => hash[1..].find('$')? + 2,
        b'{' => hash.find('}')? + 1,
        _ => hash.find('$')?,
    };
    let (kind, rest) = hash.split_at(end);
    let is_name = kind.len() <= 20 && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"$-_{}".contains(&byte));
    (is_name && rest.len() >= 20 && rest.is_ascii()).then_some(kind)
}

/// `None` if nothing can be verified with it.
fn cost(hash: &str) -> Option<Cost> {
    #[cfg(feature = "imported_hashes")]
    if hash.starts_with("$2") {
        let parts: bcrypt::HashParts = hash.parse().ok()?;
        // The variant 2x has an error that other libraries do not repeat.
        let is_usual = !hash.starts_with("$2x") && (4..=31).contains(&parts.get_cost());
        return is_usual.then(|| Cost { time: BCRYPT_UNIT.saturating_mul(1 << parts.get_cost()), memory: 0 });
    }
    #[cfg(feature = "imported_hashes")]
    if hash.starts_with("$argon2") {
        return argon2_cost(hash);
    }
    let django = from_django(hash);
    let hash = PasswordHash::new(django.as_deref().unwrap_or(hash)).ok()?;
    let params = Params::try_from(&hash).ok()?;
    // Each block of the output takes all rounds.
    let blocks = params.output_len().div_ceil(32) as u32;
    let time = PBKDF2_ROUND.saturating_mul(params.rounds()).saturating_mul(blocks);
    (hash.salt.is_some() && hash.hash.is_some()).then_some(Cost { time, memory: 0 })
}

#[cfg(feature = "imported_hashes")]
fn argon2_cost(hash: &str) -> Option<Cost> {
    use argon2::{Algorithm, Params, PasswordHash, Version};
    let hash = PasswordHash::new(hash).ok()?;
    Algorithm::try_from(hash.algorithm).ok()?;
    hash.version.map(Version::try_from).transpose().ok()?;
    let params = Params::try_from(&hash).ok()?;
    let time = ARGON2_PASS.saturating_mul(params.m_cost()).saturating_mul(params.t_cost());
    let memory = u64::from(params.m_cost()) << 10;
    (hash.salt.is_some() && hash.hash.is_some()).then_some(Cost { time, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "eLEqpE/xRkkR7js7la2SOO4IoIJzeZmOzGqLGHpc4DzacoIlJOrOi";
    const ARGON2: &str = "uT0BQwYqzGFThU3Y0Q4yvQ$yyIEdlBDcIhaIyhGMvIjoK7TqNPls1tqTM6PnBwE9i8";
    const DJANGO: &str = "GtOqGo53l1576SzWDE9jwR$Z0pPODLUP+kpgdtT6fW4QYpuBDOsdX/r5GiUtNuE5Zc=";

    /// One as the text in `$pbkdf2-sha256$…`, with an output of so many bytes.
    fn ours(rounds: u32, bytes: usize) -> String {
        let output = "A".repeat((bytes * 4).div_ceil(3));
        format!("$pbkdf2-sha256$i={rounds},l={bytes}${}${output}", "A".repeat(22))
    }

    fn said(hash: &str) -> String {
        let said = check(hash).expect_err(hash);
        assert!(hash.len() < 20 || !said.contains(&hash[hash.len() - 10..]), "{said}");
        said
    }

    #[test]
    fn a_hash_of_ordinary_cost_is_accepted_and_one_that_keeps_the_site_busy_is_not() {
        for rounds in [1000, 1_200_000, 4_000_000] {
            check(&format!("pbkdf2_sha256${rounds}${DJANGO}")).unwrap();
            check(&ours(rounds, 32)).unwrap();
        }
        for expensive in [
            &format!("pbkdf2_sha256$4000001${DJANGO}"),
            &format!("pbkdf2_sha256$4294967295${DJANGO}"),
            &ours(4_000_001, 32),
            // The output takes twice the rounds.
            &ours(2_000_001, 64),
        ] {
            assert!(said(expensive).contains(" s, and at most 1 s"), "{expensive}");
        }
    }

    #[cfg(feature = "imported_hashes")]
    #[test]
    fn argon2_and_bcrypt_are_judged_by_their_parameters() {
        for cheap in [
            &format!("$2y$12${BCRYPT}"),
            &format!("$2a$14${BCRYPT}"),
            &format!("$argon2id$v=19$m=65536,t=4,p=1${ARGON2}"),
            &format!("$argon2id$v=19$m=262144,t=4,p=8${ARGON2}"),
            &format!("$argon2i$m=1024,t=1000,p=1${ARGON2}"),
        ] {
            check(cheap).unwrap();
        }
        for slow in [
            &format!("$2y$15${BCRYPT}"),
            &format!("$2b$31${BCRYPT}"),
            &format!("$argon2id$v=19$m=65536,t=20,p=4${ARGON2}"),
            &format!("$argon2id$v=19$m=8,t=4294967295,p=1${ARGON2}"),
        ] {
            assert!(said(slow).contains(" s, and at most 1 s"), "{slow}");
        }
        for large in ["262145", "4194304", "4294967295"] {
            let large = format!("$argon2id$v=19$m={large},t=1,p=1${ARGON2}");
            assert!(said(&large).contains("MiB of memory, and at most 256 MiB"), "{large}");
        }
        for damaged in [
            "$2y$12$short",
            &format!("$2y$12${BCRYPT}A"),
            &format!("$2y$03${BCRYPT}"),
            &format!("$2x$12${BCRYPT}"),
            "$argon2id$v=19$m=65536,t=3,p=4$uT0BQwYqzGFThU3Y0Q4yvQ",
            &format!("$argon2id$v=19$m=65536,t=0,p=4${ARGON2}"),
            &format!("$argon2id$v=18$m=65536,t=3,p=4${ARGON2}"),
            &format!("$argon2it$v=19$m=65536,t=3,p=4${ARGON2}"),
        ] {
            assert!(said(damaged).contains("damaged"), "{damaged}");
        }
    }

    #[test]
    fn a_hash_that_nobody_could_log_in_with_is_refused_by_the_name_of_its_kind() {
        for (kind, hash) in [
            ("$6$", "$6$saltsaltsalt$hashhashhashhashhash"),
            ("$scrypt$", "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"),
            ("{SSHA}", "{SSHA}DkMTwBl+a/3DQTxCYEApdUtNXGgdUac3"),
            ("sha1", "sha1$a1b2c$7f2e1d0c9b8a7f2e1d0c9b8a7f2e1d0c9b8a7f2e"),
            ("bcrypt_sha256", &format!("bcrypt_sha256$$2b$12${BCRYPT}")),
        ] {
            assert_eq!(said(hash), format!("Hashes of the kind {kind} cannot be verified here."));
        }
        // These may be passwords.
        for nameless in ["!", "x", "5f4dcc3b5aa765d61d8327deb882cf99", "quiet$harbour", "$", "${", "Zoë$", "{}"] {
            assert_eq!(said(nameless), "This is not a hash of a known kind.");
        }
        for damaged in [
            "pbkdf2_sha256$",
            "pbkdf2_sha256$many$salt$hash",
            &format!("pbkdf2_sha256$999${DJANGO}"),
            "pbkdf2_sha256$1000000$GtOqGo53l1576SzWDE9jwR$Z0pPODLUP+kpgdtT6fW4QQ==",
            &ours(600_000, 65),
            "$pbkdf2-sha256$i=600000,l=32$AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(said(damaged).contains("damaged"), "{damaged}");
        }
    }
}
