//! Seals: the few secrets that must be read back are kept encrypted, so that a copy of the database alone opens nothing.
//!
//! A sealed value is the number of its key, a nonce, and the ciphertext of ChaCha20-Poly1305 (RFC 8439). It is bound to
//! its table and its user: in another's row it does not open. The keys are made of `SECRET_KEY`, a list of which the first
//! seals and all open.

use crate::config::Config;
use crate::database::{Connection, Database, new_id};
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::file::{private_file, private_folder};
use crate::token::random;
use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;
use std::fs;
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::io::{self, Write};
use std::path::Path;

/// A column of sealed values.
pub struct Sealed {
    pub table: &'static str,
    /// A query for user and value of the next hundred users behind the id `$1`, in order.
    pub select: &'static str,
    /// A statement that puts the value `$1` in place of the value `$3` of the user `$2`.
    pub update: &'static str,
}

/// The keys, newest first.
pub struct Seals(Vec<Key>);

struct Key {
    number: [u8; NUMBER],
    key: LessSafeKey,
}

/// Bytes of a key's number, which tells keys apart and says nothing of them.
const NUMBER: usize = 4;

impl Key {
    fn new(secret: &str) -> anyhow::Result<Key> {
        let derive = |purpose: &str| {
            let mut hash = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
            hash.update(purpose.as_bytes());
            hash.finalize().into_bytes()
        };
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, &derive("seal")).ok().context("the key has 32 bytes")?;
        let mut number = [0; NUMBER];
        number.copy_from_slice(&derive("number of the key that seals")[..NUMBER]);
        Ok(Key { number, key: LessSafeKey::new(key) })
    }
}

impl Seals {
    /// The keys of `SECRET_KEY`. In development one is made and kept in a file, if a feature seals anything.
    ///
    /// # Errors
    /// One sentence that says what to set.
    pub fn load(config: &Config, features: &[Feature]) -> anyhow::Result<Seals> {
        let in_use = features.iter().any(|feature| !feature.sealed.is_empty());
        let made = if config.secret_keys.is_empty() && in_use {
            ensure!(
                config.development(),
                "SECRET_KEY must be set in production, because some secrets are kept encrypted: say \
                 openssl rand -base64 32 and set what it prints, the same for all replicas"
            );
            vec![key_in(Path::new(OF_DEVELOPMENT))?]
        } else {
            Vec::new()
        };
        let keys: anyhow::Result<_> =
            config.secret_keys.iter().chain(&made).map(|key| Key::new(key)).collect();
        keys.map(Seals)
    }

    /// # Errors
    /// When there is no key, or no randomness.
    pub fn seal(&self, table: &str, user_id: &str, value: &[u8]) -> Result<Vec<u8>> {
        let key = self.0.first().ok_or_else(|| anyhow!("there is no SECRET_KEY to seal with"))?;
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = value.to_vec();
        let (unique, place) = (Nonce::assume_unique_for_key(nonce), Aad::from(place(table, user_id)));
        let done = key.key.seal_in_place_append_tag(unique, place, &mut sealed);
        done.map_err(|_| anyhow!("a value could not be sealed"))?;
        Ok([&key.number[..], &nonce, &sealed].concat())
    }

    /// # Errors
    /// When it was sealed with a key that `SECRET_KEY` does not have, for another user, or has been changed.
    pub fn open(&self, table: &str, user_id: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let broken = || Error::Fault(anyhow!("a sealed value of {table} does not open"));
        let (number, rest) = sealed.split_at_checked(NUMBER).ok_or_else(broken)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let key = self.0.iter().find(|key| key.number == number).ok_or_else(|| {
            anyhow!("a value of {table} is sealed with a key that SECRET_KEY does not have any more")
        })?;
        let (place, mut value) = (Aad::from(place(table, user_id)), sealed.to_vec());
        let length = key.key.open_in_place(nonce, place, &mut value).map_err(|_| broken())?.len();
        value.truncate(length);
        Ok(value)
    }

    /// Whether it is sealed with the newest key.
    fn is_current(&self, sealed: &[u8]) -> bool {
        self.0.first().is_some_and(|key| sealed.starts_with(&key.number))
    }

    /// How many values of this column are sealed with older keys.
    pub async fn count_old(&self, db: &Database, column: &Sealed) -> Result<u64> {
        let (mut old, mut after) = (0, String::new());
        loop {
            let rows = next(db, column, &after).await?;
            let Some((last, _)) = rows.last() else { return Ok(old) };
            after.clone_from(last);
            old += rows.iter().filter(|(_, sealed)| !self.is_current(sealed)).count() as u64;
        }
    }

    /// Seals the values of this column anew that are sealed with older keys, and answers how many they were.
    pub async fn reseal(&self, db: &Database, column: &Sealed) -> Result<u64> {
        let (mut renewed, mut after) = (0, String::new());
        loop {
            let rows = next(db, column, &after).await?;
            let Some((last, _)) = rows.last() else { return Ok(renewed) };
            after.clone_from(last);
            for (user_id, old) in rows.iter().filter(|(_, sealed)| !self.is_current(sealed)) {
                let new = self.seal(column.table, user_id, &self.open(column.table, user_id, old)?)?;
                let replace = async |db: &mut Connection| {
                    let query = sqlx::query(column.update).bind(new.clone()).bind(user_id).bind(old.clone());
                    Ok(query.execute(db).await?.rows_affected())
                };
                renewed += db.write(replace).await?;
            }
        }
    }
}

async fn next(db: &Database, column: &Sealed, after: &str) -> Result<Vec<(String, Vec<u8>)>> {
    db.read(async |db| Ok(sqlx::query_as(column.select).bind(after).fetch_all(db).await?)).await
}

/// Where a value belongs.
fn place(table: &str, user_id: &str) -> String {
    format!("{table}:{user_id}")
}

/// The key of a site in development, which is made when it is first needed.
fn key_in(file: &Path) -> anyhow::Result<String> {
    let key = match fs::read_to_string(file) {
        Err(error) if error.kind() == NotFound => make(file).and_then(|()| fs::read_to_string(file)),
        read => read,
    };
    key.with_context(|| format!("the key in {} can be neither read nor made", file.display()))
}

const OF_DEVELOPMENT: &str = "data/secret_key";

/// Puts a new key into the file, whole and at once; or leaves one that another process has just put there.
fn make(file: &Path) -> io::Result<()> {
    let key = BASE64_STANDARD.encode(random::<32>().map_err(|_| io::Error::other("no randomness"))?);
    // Under another name first, so that nobody reads half of it.
    let begun = file.with_extension(new_id());
    private_folder(file.parent().unwrap_or(Path::new(".")))?;
    private_file(&begun)?.write_all(key.as_bytes())?;
    let made = fs::hard_link(&begun, file);
    fs::remove_file(&begun)?;
    made.or_else(|error| if error.kind() == AlreadyExists { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::test::TestApp;

    const OLD: &str = "the key that was there before the other one";
    const NEW: &str = "the key that is to take the place of the old";

    fn seals(keys: &str) -> Seals {
        let env: Env = [("SECRET_KEY", keys)].into_iter().collect();
        Seals::load(&Config::from_env(&env).unwrap(), &[]).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_again_and_shows_nothing() {
        let seals = seals(NEW);
        let (one, other) =
            (seals.seal("t", "ada", b"secret").unwrap(), seals.seal("t", "ada", b"secret").unwrap());
        assert_eq!(seals.open("t", "ada", &one).unwrap(), b"secret");
        assert_eq!(seals.open("t", "ada", &other).unwrap(), b"secret");
        assert_ne!(one, other);
        assert!(!one.windows(6).any(|bytes| bytes == b"secret"));
    }

    #[test]
    fn in_another_row_or_changed_it_does_not_open() {
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
    fn the_first_key_seals_and_all_of_the_list_open() {
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
        let production =
            [("BASE_URL", "https://example.com"), ("TRUSTED_PROXIES", "none"), ("SMTP_URL", "none")];
        let config = Config::from_env(&production.into_iter().collect()).unwrap();
        let feature = || Feature { sealed: &[SALTS], ..Feature::named("test") };
        let error = Seals::load(&config, &[feature()]).err().unwrap().to_string();
        assert!(
            error.contains("SECRET_KEY must be set") && error.contains("openssl rand -base64 32"),
            "{error}"
        );
        assert!(Seals::load(&config, &[]).is_ok());
    }

    #[test]
    fn of_many_processes_that_make_a_key_at_once_all_have_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data/secret_key");
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| key_in(&file).unwrap());
            }
        });
        let key = key_in(&file).unwrap();
        assert_eq!(key.len(), 44);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777,
            0o600
        );
    }

    /// A column like those of features, in a table that every app has.
    const SALTS: Sealed = Sealed {
        table: "salts",
        select: "select name, value from salts where name > $1 and name like 'sealed%' order by name limit 100",
        update: "update salts set value = $1 where name = $2 and value = $3",
    };

    #[tokio::test]
    async fn what_is_sealed_with_an_old_key_is_counted_and_sealed_anew() {
        let app = TestApp::new().await;
        let (old, both) = (seals(OLD), seals(&format!("{NEW},{OLD}")));
        for number in 0..250 {
            let name = format!("sealed{number:03}");
            let seals = if number < 120 { &old } else { &both };
            let sealed = seals.seal("salts", &name, name.as_bytes()).unwrap();
            let insert = async |db: &mut Connection| {
                let query = sqlx::query("insert into salts (name, value) values ($1, $2)");
                Ok(query.bind(&*name).bind(sealed.clone()).execute(db).await?)
            };
            app.app.db.write(insert).await.unwrap();
        }
        assert_eq!(both.count_old(&app.app.db, &SALTS).await.unwrap(), 120);
        assert_eq!(both.reseal(&app.app.db, &SALTS).await.unwrap(), 120);
        assert_eq!(both.count_old(&app.app.db, &SALTS).await.unwrap(), 0);
        assert_eq!(both.reseal(&app.app.db, &SALTS).await.unwrap(), 0);
        // Now the old key can go.
        assert_eq!(seals(NEW).count_old(&app.app.db, &SALTS).await.unwrap(), 0);
        let rows = next(&app.app.db, &SALTS, "").await.unwrap();
        let (name, sealed) = &rows[7];
        assert_eq!(seals(NEW).open("salts", name, sealed).unwrap(), name.as_bytes());
        // Without the key nothing is lost, and whoever asks is told.
        assert!(seals(OLD).reseal(&app.app.db, &SALTS).await.is_err());
    }
}
