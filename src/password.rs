//! Passwords: the table, what makes one acceptable, and the gate that keeps hashing from taking all cores.
//!
//! Hashing is slow on purpose. As many jobs run at once as there are cores, a bounded number wait for a bounded
//! time, and the rest are told to come back; the place at the core belongs to the job, not to the request, so a client
//! that hangs up does not make room for another.

use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::Connection;
use crate::error::{Error, Result};
use crate::token::random;
use crate::user::{Email, Username};
use anyhow::anyhow;
use pbkdf2::phc::PasswordHash;
use pbkdf2::{Algorithm, Params, PasswordHasher, PasswordVerifier, Pbkdf2};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use unicode_normalization::UnicodeNormalization;

/// The most bytes a password may have: more is refused before anything is computed.
pub const MAX_BYTES: usize = 1024;

/// An acceptable new password, in Unicode's form NFC, so that it is the same from every keyboard
/// (NIST SP 800-63B-4, 3.1.1.2).
pub struct NewPassword(String);

impl NewPassword {
    /// Judges length only: rules about digits and capitals make passwords worse (NIST SP 800-63B-4, 3.1.1.2).
    ///
    /// # Errors
    /// The sentence to show beside the field.
    pub fn parse(text: &str, config: &Config) -> Result<NewPassword, String> {
        if text.is_empty() {
            return Err("Please choose a password.".into());
        }
        if text.len() > MAX_BYTES {
            return Err(format!("A password has at most {MAX_BYTES} bytes."));
        }
        let text: String = text.nfc().collect();
        if text.chars().count() < config.password_min_length {
            return Err(format!("A password needs at least {} characters.", config.password_min_length));
        }
        Ok(NewPassword(text))
    }

    /// [`NewPassword::parse`] and the second field that guards against slips.
    ///
    /// # Errors
    /// The field and the sentence to show beside it.
    pub fn parse_twice(
        text: &str,
        again: &str,
        config: &Config,
    ) -> Result<NewPassword, (&'static str, String)> {
        let password = NewPassword::parse(text, config).map_err(|sentence| ("password", sentence))?;
        if text != again {
            return Err(("confirm_password", "The two passwords differ. Please type them again.".into()));
        }
        Ok(password)
    }
}

/// Where hashing waits its turn.
#[derive(Clone)]
pub struct Gate {
    jobs: Arc<Semaphore>,
    places: Arc<Semaphore>,
    wait: Duration,
    iterations: u32,
}

impl Gate {
    pub fn new(config: &Config) -> Gate {
        Gate {
            jobs: Arc::new(Semaphore::new(config.hash_jobs)),
            places: Arc::new(Semaphore::new(config.hash_queue)),
            wait: config.hash_wait,
            iterations: config.password_iterations,
        }
    }

    /// A PHC string to keep in place of the password.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many are waiting or it took too long.
    pub async fn hash(&self, password: NewPassword) -> Result<String> {
        let salt = random()?;
        let iterations = self.iterations;
        self.run(move || hash(&password.0, &salt, iterations)).await?
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = || Error::Unavailable(anyhow!("too many passwords are waiting to be hashed"));
        let place = self.places.try_acquire().map_err(|_| busy())?;
        let turn = timeout(self.wait, self.jobs.clone().acquire_owned()).await.map_err(|_| busy())?;
        drop(place);
        let job = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            job()
        });
        Ok(job.await.map_err(anyhow::Error::from)?)
    }
}

/// A PHC string. The library does no fewer than 1,000 rounds, so less, as tests ask for, is raised to that.
fn hash(password: &str, salt: &[u8; 16], iterations: u32) -> Result<String> {
    let params = Params::new(iterations.max(Params::MIN_ROUNDS));
    let hash = params.and_then(|params| {
        let pbkdf2 = Pbkdf2::new(Algorithm::Pbkdf2Sha256, params);
        pbkdf2.hash_password_with_salt(password.as_bytes(), salt)
    });
    Ok(hash.map_err(|error| anyhow!("a password cannot be hashed: {error}"))?.to_string())
}

/// Whether the hash is of this password. Outputs are compared in constant time.
fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Pbkdf2::SHA256.verify_password(password.as_bytes(), &hash).is_ok())
}

/// The user who goes by this username or confirmed e-mail address and has this password.
///
/// For a name that nobody has, the same work is done on a hash that nothing matches, so that time tells nothing.
pub async fn check(app: &App, name: &str, password: &str) -> Result<Option<User>> {
    let account = match (Username::parse(name), Email::parse(name)) {
        (Ok(username), _) => app.db.read(async |db| by_username(db, &username).await).await?,
        (_, Ok(email)) => app.db.read(async |db| by_email(db, &email).await).await?,
        _ => None,
    };
    let (user, hash) = match account {
        Some((user, hash)) => (Some(user), hash),
        None => (None, unmatchable(app.gate.iterations)),
    };
    verify_in_turn(app, password, hash, user).await
}

/// Whether this user, who is logged in, has this password.
pub async fn check_own(app: &App, user: &User, password: &str) -> Result<bool> {
    let hash = app.db.read(async |db| of_user(db, &user.id).await).await?;
    let hash = hash.unwrap_or_else(|| unmatchable(app.gate.iterations));
    Ok(verify_in_turn(app, password, hash, Some(())).await?.is_some())
}

async fn verify_in_turn<T>(app: &App, password: &str, hash: String, right: Option<T>) -> Result<Option<T>> {
    if password.len() > MAX_BYTES {
        return Ok(None);
    }
    let password: String = password.nfc().collect();
    let matches = app.gate.run(move || verify(&password, &hash)).await?;
    Ok(right.filter(|_| matches))
}

/// A hash that takes as long as any and is of no password.
fn unmatchable(iterations: u32) -> String {
    let iterations = iterations.max(Params::MIN_ROUNDS);
    let (salt, output) = ("A".repeat(22), "A".repeat(43));
    format!("$pbkdf2-sha256$i={iterations},l=32${salt}${output}")
}

pub async fn set(db: &mut Connection, user_id: &str, hash: &str) -> Result<()> {
    let sql =
        "insert into passwords (user_id, hash) values ($1, $2) on conflict (user_id) do update set hash = $2";
    sqlx::query(sql).bind(user_id).bind(hash).execute(db).await?;
    Ok(())
}

async fn by_username(db: &mut Connection, username: &Username) -> Result<Option<(User, String)>> {
    let sql = "select u.id, u.username, p.hash from users u join passwords p on p.user_id = u.id \
               where u.username = $1 and u.disabled_at is null";
    account(sqlx::query_as(sql).bind(username.as_str()).fetch_optional(db).await?)
}

async fn by_email(db: &mut Connection, email: &Email) -> Result<Option<(User, String)>> {
    let sql = "select u.id, u.username, p.hash from addresses a join users u on u.id = a.user_id \
               join passwords p on p.user_id = u.id \
               where a.email = $1 and a.confirmed_at is not null and u.disabled_at is null";
    account(sqlx::query_as(sql).bind(email.as_str()).fetch_optional(db).await?)
}

fn account(row: Option<(String, String, String)>) -> Result<Option<(User, String)>> {
    Ok(row.map(|(id, username, hash)| (User { id, username }, hash)))
}

async fn of_user(db: &mut Connection, user_id: &str) -> Result<Option<String>> {
    let sql = "select hash from passwords where user_id = $1";
    let row: Option<(String,)> = sqlx::query_as(sql).bind(user_id).fetch_optional(db).await?;
    Ok(row.map(|(hash,)| hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Instant;

    fn gate(settings: &[(&str, &str)]) -> Gate {
        Gate::new(&Config::from_env(&settings.iter().copied().collect::<Env>()).unwrap())
    }

    fn unavailable<T>(answer: &Result<T>) -> bool {
        matches!(answer, Err(Error::Unavailable(_)))
    }

    #[tokio::test]
    async fn no_more_run_at_once_than_there_are_jobs() {
        let gate = gate(&[("HASH_JOBS", "2"), ("HASH_WAIT", "60s")]);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..20).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            gate.run(move || {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, SeqCst);
            })
        });
        assert!(join_all(jobs).await.iter().all(Result::is_ok));
        assert_eq!(most.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_or_waits_too_long_is_told_to_come_back() {
        let gate = gate(&[("HASH_JOBS", "1"), ("HASH_QUEUE", "3"), ("HASH_WAIT", "1s")]);
        let slow = || std::thread::sleep(Duration::from_millis(1500));
        let begun = Instant::now();
        let answers = join_all((0..10).map(|_| gate.run(slow))).await;
        assert_eq!(answers.iter().filter(|answer| unavailable(answer)).count(), 9);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_makes_no_room() {
        let gate = gate(&[("HASH_JOBS", "1"), ("HASH_WAIT", "1s")]);
        let hung_up = gate.run(|| std::thread::sleep(Duration::from_millis(1500)));
        assert!(timeout(Duration::from_millis(100), hung_up).await.is_err());
        assert!(unavailable(&gate.run(|| ()).await));
    }

    #[tokio::test]
    async fn a_hash_is_of_its_password_alone_and_says_how_it_was_made() {
        let config = Config::from_env(&Env::from_iter::<[(&str, &str); 0]>([])).unwrap();
        let password = || NewPassword::parse("violet lantern", &config).unwrap();
        let gate = Gate::new(&config);
        let (one, two) = (gate.hash(password()).await.unwrap(), gate.hash(password()).await.unwrap());
        assert!(one.starts_with("$pbkdf2-sha256$i=600000,l=32$"), "{one}");
        assert_ne!(one, two);
        assert!(verify("violet lantern", &one) && !verify("violet lanterm", &one));
        assert!(!verify("violet lantern", &unmatchable(600_000)) && !verify("violet lantern", "nonsense"));
    }

    /// The work depends on these alone, so it is the same for a name that nobody has.
    #[test]
    fn the_hash_that_nothing_matches_takes_as_much_work_as_any() {
        let shape = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let salt = hash.salt.as_ref().map(|salt| salt.as_ref().len());
            (hash.algorithm, hash.params.to_string(), salt, hash.hash.map(|output| output.len()))
        };
        for iterations in [1, 1000, 600_000] {
            assert_eq!(shape(&unmatchable(iterations)), shape(&hash("a", &[7; 16], iterations).unwrap()));
        }
    }
}
