//! Seals: encryption of the few secrets that must be read back, so that a stolen copy of the database does not reveal
//! them.
//!
//! A sealed value is a key id, a nonce, and the ciphertext of ChaCha20-Poly1305 (RFC 8439). It is bound to its table
//! and user, so it cannot be opened in another row. `SECRET_KEY` is a list of keys: the first one seals, and all of
//! them open.

use super::error::{Error, Result};
use super::files::{private_file, private_folder};
use super::{
    config::{Config, SHORTEST_KEY},
    token::random,
};
use anyhow::{Context, anyhow, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use std::fs;
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A column of sealed values.
#[derive(Clone, Copy)]
pub struct Sealed {
    pub table: &'static str,
    /// What one of its rows and several are in the words of the people who run the site, such as `authenticator app`.
    pub names: [&'static str; 2],
    /// The consequence of values that cannot be opened, such as `their owners cannot log in by a code`.
    pub if_unopened: &'static str,
    /// A query that counts values by their first four bytes, which are the id of the key. It leaves out values that are
    /// not in use yet.
    pub count_by_key: &'static str,
    /// A query for the users and values of the next hundred users after the id `$1`, in order.
    pub select: &'static str,
    /// A statement that replaces the value `$3` of the user `$2` with the value `$1`.
    pub update: &'static str,
}

pub struct Seals {
    /// Newest first.
    keys: Vec<Key>,
    /// How to add a missing key.
    cure: &'static str,
    has_logged: AtomicBool,
}

struct Key {
    id: [u8; KEY_ID_LENGTH],
    key: LessSafeKey,
}

/// Bytes of a key id, which identifies a key without revealing anything about it.
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
    /// The keys of `SECRET_KEY`. In development, a key is created and stored in a file if a feature seals anything
    /// (`in_use`).
    ///
    /// # Errors
    /// In production without `SECRET_KEY`: one sentence that says what to set.
    pub fn load(config: &Config, in_use: bool) -> anyhow::Result<Seals> {
        Seals::load_with(config, in_use, |file| development_key(file).map(Some))
    }

    /// Like [`Seals::load`], for commands, which create no key.
    ///
    /// # Errors
    /// As for [`Seals::load`]; also in development if no key has been created yet.
    pub fn load_existing(config: &Config, in_use: bool) -> anyhow::Result<Seals> {
        Seals::load_with(config, in_use, |file| {
            let name = file.display();
            existing_key(file)?
                .map(Some)
                .with_context(|| format!("there is no key in {name}: start the site once, or set SECRET_KEY"))
        })
    }

    /// Like [`Seals::load_existing`]. In development, if no key has been created yet, there is none, and nothing can be
    /// opened.
    ///
    /// # Errors
    /// As [`Seals::load`].
    pub fn load_if_made(config: &Config, in_use: bool) -> anyhow::Result<Seals> {
        Seals::load_with(config, in_use, existing_key)
    }

    fn load_with(
        config: &Config,
        in_use: bool,
        development_key: fn(&Path) -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<Seals> {
        let made = if config.secret_keys.is_empty() && in_use {
            ensure!(
                config.development(),
                "SECRET_KEY must be set in production, because some secrets are stored encrypted: to the key that \
                 this site used, or for a new site to the output of openssl rand -base64 32, the same for all \
                 replicas"
            );
            development_key(Path::new(DEVELOPMENT_KEY_FILE))?
        } else {
            None
        };
        let cure = match &made {
            _ if !config.secret_keys.is_empty() => ADD_TO_LIST,
            Some(_) => ADD_TO_FILE,
            None => SET,
        };
        let keys = config.secret_keys.iter().chain(&made).map(|key| Key::new(key)).collect::<anyhow::Result<_>>()?;
        Ok(Seals { keys, cure, has_logged: AtomicBool::new(false) })
    }

    /// # Errors
    /// When there is no key, or the system provides no randomness.
    pub fn seal(&self, table: &str, user_id: &str, value: &[u8]) -> Result<Vec<u8>> {
        let key = self.keys.first().ok_or_else(|| anyhow!("there is no SECRET_KEY to seal with"))?;
        Ok([&key.id[..], &seal_with(&key.key, associated_data(table, user_id), value)?].concat())
    }

    /// # Errors
    /// When the value was sealed with a key that is not in `SECRET_KEY`, or for another user, or was changed.
    pub fn open(&self, table: &str, user_id: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let broken = || Error::Fault(anyhow!("a sealed value of {table} cannot be opened"));
        let (id, rest) = sealed.split_at_checked(KEY_ID_LENGTH).ok_or_else(broken)?;
        let key = self.key(id).ok_or_else(|| {
            anyhow!("a value of {table} is sealed with a key that the site does not have: {}", self.cure)
        })?;
        open_with(&key.key, associated_data(table, user_id), rest).ok_or_else(broken)
    }

    /// Like [`Seals::open`], but returns `None` for a value that cannot be opened. The first such value is logged.
    pub fn try_open(&self, table: &str, user_id: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let log = |cause: Error| {
            if !self.has_logged.swap(true, Relaxed) {
                tracing::error!("{:#}", anyhow::Error::from(cause));
            }
        };
        self.open(table, user_id, sealed).map_err(log).ok()
    }

    /// Whether the value is sealed with the newest key.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        self.keys.first().is_some_and(|key| sealed.starts_with(&key.id))
    }

    /// Whether it is sealed with one of the keys, which does not mean that it can be opened. A value that is too short
    /// is not sealed with any other key either.
    pub fn has_key_of(&self, sealed: &[u8]) -> bool {
        sealed.get(..KEY_ID_LENGTH).is_none_or(|id| self.key(id).is_some())
    }

    fn key(&self, id: &[u8]) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// How many values are sealed with a missing key, given the result of [`Sealed::count_by_key`].
    pub fn count_unopened(&self, counts: &[(Vec<u8>, i64)]) -> i64 {
        counts.iter().filter(|(key_id, _)| !self.has_key_of(key_id)).map(|(_, count)| count).sum()
    }

    /// One sentence that says that values are sealed with a missing key, what the consequence is, and what to do.
    pub fn describe_unopened(&self, column: &Sealed, count: i64) -> String {
        let Sealed { names: [one, many], if_unopened, .. } = column;
        let secrets =
            if count == 1 { format!("the secret of 1 {one}") } else { format!("the secrets of {count} {many}") };
        format!("{secrets} cannot be opened with SECRET_KEY, so {if_unopened}: {}", self.cure)
    }

    /// One sentence about values that cannot be opened although their key is there.
    pub fn describe_damaged(column: &Sealed, count: i64) -> String {
        let Sealed { table, if_unopened, .. } = column;
        format!(
            "{count} of {table} were changed or moved after they were sealed, so {if_unopened}: restore these rows from a \
             backup, or delete them"
        )
    }
}

/// Seals a value with a key that no configuration has, such as the hash of something that only one person knows.
///
/// # Errors
/// When there is no randomness.
pub fn seal_for(secret: &[u8; 32], value: &[u8]) -> Result<Vec<u8>> {
    seal_with(&key_of(secret)?, Aad::empty(), value)
}

/// # Errors
/// When it was sealed with another key.
pub fn open_for(secret: &[u8; 32], sealed: &[u8]) -> Result<Vec<u8>> {
    let opened = open_with(&key_of(secret)?, Aad::empty(), sealed);
    opened.ok_or_else(|| Error::Fault(anyhow!("a sealed value does not open")))
}

fn key_of(secret: &[u8; 32]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, secret).map_err(|_| anyhow!("a key has 32 bytes"))?;
    Ok(LessSafeKey::new(key))
}

/// The nonce and the ciphertext.
fn seal_with(key: &LessSafeKey, bound_to: Aad<impl AsRef<[u8]>>, value: &[u8]) -> Result<Vec<u8>> {
    let nonce = random::<NONCE_LEN>()?;
    let mut sealed = value.to_vec();
    let done = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to, &mut sealed);
    done.map_err(|_| anyhow!("a value could not be sealed"))?;
    Ok([&nonce[..], &sealed].concat())
}

fn open_with(key: &LessSafeKey, bound_to: Aad<impl AsRef<[u8]>>, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let (nonce, mut value) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
    let length = key.open_in_place(nonce, bound_to, &mut value).ok()?.len();
    value.truncate(length);
    Some(value)
}

/// Adding a key never makes anything unreadable.
const ADD_TO_LIST: &str = "add the missing key at the end of SECRET_KEY, after a comma";
const ADD_TO_FILE: &str = "set SECRET_KEY to what data/secret_key contains, a comma, and the missing key";
const SET: &str = "set SECRET_KEY to the missing key";

/// Binds a value to its row.
fn associated_data(table: &str, user_id: &str) -> Aad<String> {
    Aad::from(format!("{table}:{user_id}"))
}

/// The file with the key of a site in development.
pub const DEVELOPMENT_KEY_FILE: &str = "data/secret_key";

fn existing_key(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == NotFound => Ok(None),
        read => {
            let key = read.with_context(|| format!("the key in {} cannot be read", file.display()))?;
            checked_key(file, key).map(Some)
        }
    }
}

/// An editor may have added a newline at its end.
fn checked_key(file: &Path, text: String) -> anyhow::Result<String> {
    let key = text.trim();
    ensure!(
        key.len() >= SHORTEST_KEY,
        "the key in {} is too short: restore the key that this site used, or delete the file to create a new one",
        file.display()
    );
    Ok(key.to_string())
}

/// The key of a site in development, created when it is first needed.
fn development_key(file: &Path) -> anyhow::Result<String> {
    let key = match fs::read_to_string(file) {
        Err(error) if error.kind() == NotFound => {
            create_key(file, |from, to| fs::hard_link(from, to)).and_then(|()| fs::read_to_string(file))
        }
        read => read,
    };
    let key = key.with_context(|| {
        format!(
            "the key in {} can be neither read nor created; let this user write there, or set SECRET_KEY",
            file.display()
        )
    });
    checked_key(file, key?)
}

/// Writes a new key to the file, unless another process has just done so. `link` is [`fs::hard_link`], which some file
/// systems do not support.
fn create_key(file: &Path, link: fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let no_randomness = |_| io::Error::other("no randomness");
    let key = BASE64.encode(&random::<32>().map_err(no_randomness)?);
    let suffix = BASE64URL_NOPAD.encode(&random::<16>().map_err(no_randomness)?);
    // Written under another name first, so that no process reads half a key.
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
    fn a_key_in_a_file_is_what_stands_there_without_its_newline_and_is_not_short() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret_key");
        for end in ["", "\n", "\r\n", " \n"] {
            fs::write(&file, format!("{OLD}{end}")).unwrap();
            assert_eq!(development_key(&file).unwrap(), OLD);
            assert_eq!(existing_key(&file).unwrap().unwrap(), OLD);
        }
        for short in ["", "\n", "swordfish\n"] {
            fs::write(&file, short).unwrap();
            for error in [development_key(&file).unwrap_err(), existing_key(&file).unwrap_err()] {
                assert!(error.to_string().contains("secret_key is too short: restore the key"), "{error}");
            }
        }
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
