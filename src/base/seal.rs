//! Seals: encryption for the few secrets that must be read back, so that a stolen copy of the database reveals nothing.
//!
//! A sealed value is a key id, a nonce, and the ciphertext of ChaCha20-Poly1305 (RFC 8439). It is bound to its table and
//! its user, so it does not open in another row. `SECRET_KEY` is a list of keys: the first one seals, and all of them open.

use super::error::{Error, Result};
use super::files::{private_file, private_folder};
use super::{config::Config, token::random};
use anyhow::{Context, anyhow, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use std::fs;
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::io::{self, Write};
use std::path::Path;

/// A column of sealed values, for `latchkey reseal`.
#[derive(Clone, Copy)]
pub struct Sealed {
    pub table: &'static str,
    /// A query for user and value of the next hundred users after the id `$1`, in order.
    pub select: &'static str,
    /// A statement that replaces the value `$3` of the user `$2` with the value `$1`.
    pub update: &'static str,
}

/// The keys, newest first.
pub struct Seals(Vec<Key>);

struct Key {
    id: [u8; KEY_ID_LENGTH],
    key: LessSafeKey,
}

/// Bytes of a key id, which tells keys apart and reveals nothing about them.
const KEY_ID_LENGTH: usize = 4;

impl Key {
    fn new(secret: &str) -> anyhow::Result<Key> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let derive = |purpose: &str| hmac::sign(&secret, purpose.as_bytes());
        let key = UnboundKey::new(&CHACHA20_POLY1305, derive("seal").as_ref()).ok().context("a key has 32 bytes")?;
        let mut id = [0; KEY_ID_LENGTH];
        id.copy_from_slice(&derive("key id").as_ref()[..KEY_ID_LENGTH]);
        Ok(Key { id, key: LessSafeKey::new(key) })
    }
}

impl Seals {
    /// The keys of `SECRET_KEY`. In development one is made and kept in a file, if a feature seals anything (`in_use`).
    ///
    /// # Errors
    /// In production without `SECRET_KEY`: one sentence that says what to set.
    pub fn load(config: &Config, in_use: bool) -> anyhow::Result<Seals> {
        let made = if config.secret_keys.is_empty() && in_use {
            ensure!(
                config.development(),
                "SECRET_KEY must be set in production, because some secrets are stored encrypted: run \
                 openssl rand -base64 32 and set what it prints, the same for all replicas"
            );
            vec![development_key(Path::new(DEVELOPMENT_KEY_FILE))?]
        } else {
            Vec::new()
        };
        config.secret_keys.iter().chain(&made).map(|key| Key::new(key)).collect::<anyhow::Result<_>>().map(Seals)
    }

    /// # Errors
    /// When there is no key, or no randomness.
    pub fn seal(&self, table: &str, user_id: &str, value: &[u8]) -> Result<Vec<u8>> {
        let key = self.0.first().ok_or_else(|| anyhow!("there is no SECRET_KEY to seal with"))?;
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = value.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        let done = key.key.seal_in_place_append_tag(unique, associated_data(table, user_id), &mut sealed);
        done.map_err(|_| anyhow!("a value could not be sealed"))?;
        Ok([&key.id[..], &nonce, &sealed].concat())
    }

    /// # Errors
    /// When the value was sealed with a key that is no longer in `SECRET_KEY`, for another user, or has been changed.
    pub fn open(&self, table: &str, user_id: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let broken = || Error::Fault(anyhow!("a sealed value of {table} does not open"));
        let (id, rest) = sealed.split_at_checked(KEY_ID_LENGTH).ok_or_else(broken)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let key = self
            .0
            .iter()
            .find(|key| key.id == id)
            .ok_or_else(|| anyhow!("a value of {table} is sealed with a key that is no longer in SECRET_KEY"))?;
        let mut value = sealed.to_vec();
        let opened = key.key.open_in_place(nonce, associated_data(table, user_id), &mut value);
        let length = opened.map_err(|_| broken())?.len();
        value.truncate(length);
        Ok(value)
    }

    /// Whether the value is sealed with the newest key.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        self.0.first().is_some_and(|key| sealed.starts_with(&key.id))
    }
}

/// Binds a value to its row.
fn associated_data(table: &str, user_id: &str) -> Aad<String> {
    Aad::from(format!("{table}:{user_id}"))
}

const DEVELOPMENT_KEY_FILE: &str = "data/secret_key";

/// The key of a site in development, created when it is first needed.
fn development_key(file: &Path) -> anyhow::Result<String> {
    let key = match fs::read_to_string(file) {
        Err(error) if error.kind() == NotFound => {
            create_key(file, |from, to| fs::hard_link(from, to)).and_then(|()| fs::read_to_string(file))
        }
        read => read,
    };
    key.with_context(|| format!("the key in {} can be neither read nor created", file.display()))
}

/// Puts a new key into the file, unless another process has just done so. `link` is [`fs::hard_link`], which some file
/// systems do not have.
fn create_key(file: &Path, link: fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let no_randomness = |_| io::Error::other("no randomness");
    let key = BASE64.encode(&random::<32>().map_err(no_randomness)?);
    let suffix = BASE64URL_NOPAD.encode(&random::<16>().map_err(no_randomness)?);
    // Written under another name first, so that nobody reads half a key.
    let temporary = file.with_extension(suffix);
    private_folder(file.parent().unwrap_or(Path::new(".")))?;
    private_file(&temporary)?.write_all(key.as_bytes())?;
    match link(&temporary, file) {
        Err(error) if error.kind() != AlreadyExists && !file.exists() => fs::rename(&temporary, file),
        _ => fs::remove_file(&temporary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::base::files::others_can_read;
    use crate::test::PRODUCTION;

    const OLD: &str = "the key that was there before the other one";
    const NEW: &str = "the key that is to take the place of the old";

    fn seals(keys: &str) -> Seals {
        let env: Env = [("SECRET_KEY", keys)].into_iter().collect();
        Seals::load(&Config::from_env(&env).unwrap(), false).unwrap()
    }

    #[test]
    fn a_sealed_value_can_be_opened_and_reveals_nothing() {
        let seals = seals(NEW);
        let (one, other) = (seals.seal("t", "ada", b"secret").unwrap(), seals.seal("t", "ada", b"secret").unwrap());
        assert_eq!(seals.open("t", "ada", &one).unwrap(), b"secret");
        assert_eq!(seals.open("t", "ada", &other).unwrap(), b"secret");
        assert_ne!(one, other);
        assert!(!one.windows(6).any(|bytes| bytes == b"secret"));
    }

    #[test]
    fn a_sealed_value_does_not_open_in_another_row_or_after_a_change() {
        let seals = seals(NEW);
        let sealed = seals.seal("t", "ada", b"secret").unwrap();
        assert!(seals.open("t", "bob", &sealed).is_err());
        assert!(seals.open("u", "ada", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seals.open("t", "ada", &changed).is_err(), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert!(seals.open("t", "ada", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let old = seals(OLD).seal("t", "ada", b"secret").unwrap();
        let both = seals(&format!("{NEW}, {OLD}"));
        assert_eq!(both.open("t", "ada", &old).unwrap(), b"secret");
        let new = both.seal("t", "ada", b"secret").unwrap();
        assert_eq!(seals(NEW).open("t", "ada", &new).unwrap(), b"secret");
        assert!(seals(OLD).open("t", "ada", &new).is_err());
        assert!(both.is_current(&new) && !both.is_current(&old));
    }

    #[test]
    fn a_site_in_production_that_seals_does_not_start_without_a_key() {
        let config = Config::from_env(&PRODUCTION.into_iter().collect()).unwrap();
        let error = Seals::load(&config, true).err().unwrap().to_string();
        assert!(error.contains("SECRET_KEY must be set") && error.contains("openssl rand -base64 32"), "{error}");
        assert!(Seals::load(&config, false).is_ok());
    }

    #[test]
    fn many_processes_that_create_the_key_at_once_share_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data/secret_key");
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| development_key(&file).unwrap());
            }
        });
        let key = development_key(&file).unwrap();
        assert_eq!(key.len(), 44);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        assert!(!others_can_read(&fs::File::open(&file).unwrap()).unwrap());
    }

    #[test]
    fn a_file_system_without_hard_links_gets_a_key_too_and_keeps_it() {
        let refusals: [fn(&Path, &Path) -> io::Result<()>; 3] = [
            |_, _| Err(io::ErrorKind::Unsupported.into()),
            |_, _| Err(io::ErrorKind::PermissionDenied.into()),
            |_, _| Err(io::Error::other("there are no links here")),
        ];
        for link in refusals {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("data/secret_key");
            create_key(&file, link).unwrap();
            let key = fs::read_to_string(&file).unwrap();
            assert_eq!(key.len(), 44);
            create_key(&file, link).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), key);
            assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
            assert!(!others_can_read(&fs::File::open(&file).unwrap()).unwrap());
        }
    }
}
