//! Keeps password hashing from taking all cores.
//!
//! Hashing is slow on purpose. `HASH_JOBS` run at once, a limited number wait for a limited time, and the rest are
//! refused. The permit belongs to the job, not to the request, so a client that disconnects does not free it early.

use super::{hash, policy::NewPassword};
use crate::base::{Config, Error, Result, random};
use anyhow::anyhow;
use pbkdf2::Params;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use unicode_normalization::UnicodeNormalization;

pub struct HashLimiter {
    jobs: Arc<Semaphore>,
    queue: Semaphore,
    wait: Duration,
    pub iterations: u32,
}

impl HashLimiter {
    pub fn new(config: &Config) -> HashLimiter {
        HashLimiter {
            jobs: Arc::new(Semaphore::new(config.hash_jobs)),
            queue: Semaphore::new(config.hash_queue),
            wait: config.hash_wait,
            iterations: config.password_iterations.max(Params::MIN_ROUNDS),
        }
    }

    /// Hashes a new password, and returns a PHC string. `personal` are [`super::policy::personal_words`].
    ///
    /// # Errors
    /// [`Error::Invalid`] with a message for the field `password` when it is easy to guess; [`Error::Unavailable`] when
    /// too many are waiting or it took too long.
    pub async fn hash(&self, password: NewPassword, personal: Vec<String>) -> Result<String> {
        let (salt, iterations) = (random()?, self.iterations);
        let check_and_hash = move || match password.weakness(&personal) {
            Some(sentence) => Err(Error::invalid("password", sentence)),
            None => hash::hash(password.as_str(), &salt, iterations),
        };
        self.run(check_and_hash).await?
    }

    /// Returns the hash to store if `hash` is that of this password: a new one if it is outdated and `upgrade` is set,
    /// otherwise the same. `compared` is called with the result, even if the request is gone.
    ///
    /// # Errors
    /// [`Error::Unavailable`] as for [`HashLimiter::hash`].
    pub async fn verify(
        &self,
        password: &str,
        hash: &str,
        upgrade: bool,
        compared: impl FnOnce(bool) + Send + 'static,
    ) -> Result<Option<String>> {
        let (password, hash) = (password.to_string(), hash.to_string());
        let (salt, iterations) = (random()?, self.iterations);
        let verify = move || {
            let is_right = verify_or_log(&password, &hash, iterations);
            compared(is_right);
            match is_right {
                false => Ok(None),
                true if !upgrade || !hash::is_outdated(&hash, iterations) => Ok(Some(hash)),
                true => hash::hash(&password.nfc().collect::<String>(), &salt, iterations).map(Some),
            }
        };
        self.run(verify).await?
    }

    /// Runs a job when there is a free core for it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] as for [`HashLimiter::hash`].
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = || Error::Unavailable(anyhow!("too many passwords are waiting to be hashed"));
        let place = self.queue.try_acquire().map_err(|_| busy())?;
        let permit = timeout(self.wait, self.jobs.clone().acquire_owned()).await.map_err(|_| busy())?;
        drop(place);
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            job()
        });
        Ok(job.await.map_err(anyhow::Error::from)?)
    }
}

/// A hash that this build cannot verify takes as long as a wrong password, and is logged.
fn verify_or_log(password: &str, hash: &str, iterations: u32) -> bool {
    if hash::is_known(hash) {
        return hash::verify(password, hash);
    }
    tracing::error!(
        "a password hash is of a kind that this build cannot verify, so its user cannot log in by password: build with \
         --features imported_hashes for Argon2 and bcrypt, or let the user set a new password"
    );
    hash::verify(password, &hash::unmatchable(iterations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Instant;

    fn limiter(settings: &[(&str, &str)]) -> HashLimiter {
        HashLimiter::new(&Config::from_env(&settings.iter().copied().collect::<Env>()).unwrap())
    }

    fn unavailable<T>(answer: &Result<T>) -> bool {
        matches!(answer, Err(Error::Unavailable(_)))
    }

    #[tokio::test]
    async fn no_more_hashes_are_computed_at_once_than_there_are_jobs() {
        let limiter = limiter(&[("HASH_JOBS", "2"), ("HASH_WAIT", "60s")]);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..20).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            limiter.run(move || {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, SeqCst);
            })
        });
        assert!(join_all(jobs).await.iter().all(Result::is_ok));
        assert_eq!(most.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn people_who_find_the_queue_full_or_wait_too_long_are_asked_to_come_back() {
        let limiter = limiter(&[("HASH_JOBS", "1"), ("HASH_QUEUE", "3"), ("HASH_WAIT", "1s")]);
        let slow = || std::thread::sleep(Duration::from_millis(1500));
        let started = Instant::now();
        let answers = join_all((0..10).map(|_| limiter.run(slow))).await;
        assert_eq!(answers.iter().filter(|answer| unavailable(answer)).count(), 9);
        // One after the other, those who wait would be done after six seconds.
        assert!(started.elapsed() < Duration::from_secs(5));
        // One is at work, three wait as long as it takes, and there is no room for the other six.
        let patient = self::limiter(&[("HASH_JOBS", "1"), ("HASH_QUEUE", "3"), ("HASH_WAIT", "60s")]);
        let short = || std::thread::sleep(Duration::from_millis(50));
        let answers = join_all((0..10).map(|_| patient.run(short))).await;
        assert_eq!(answers.iter().filter(|answer| unavailable(answer)).count(), 6);
    }

    #[tokio::test]
    async fn a_client_that_disconnects_makes_no_room() {
        let limiter = limiter(&[("HASH_JOBS", "1"), ("HASH_WAIT", "1s")]);
        let disconnected = limiter.run(|| std::thread::sleep(Duration::from_millis(1500)));
        assert!(timeout(Duration::from_millis(100), disconnected).await.is_err());
        assert!(unavailable(&limiter.run(|| ()).await));
    }

    #[tokio::test]
    async fn a_hash_of_an_unknown_kind_takes_as_long_as_a_wrong_password() {
        let limiter = limiter(&[("PASSWORD_ITERATIONS", "500000")]);
        for hash in ["", "!", "$6$salt$hash", "{SSHA}c2FsdA==", "$scrypt$ln=16,r=8,p=1$salt$hash"] {
            let started = Instant::now();
            assert_eq!(limiter.verify("violet lantern", hash, true, |_| {}).await.unwrap(), None);
            assert!(started.elapsed() > Duration::from_millis(20), "{hash:?} took {:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_alone_and_says_how_it_was_made() {
        let config = Config::from_env(&Env::default()).unwrap();
        let password = || NewPassword::parse("violet lantern", &config).unwrap();
        let limiter = HashLimiter::new(&config);
        let (one, two) =
            (limiter.hash(password(), Vec::new()).await.unwrap(), limiter.hash(password(), Vec::new()).await.unwrap());
        assert!(one.starts_with("$pbkdf2-sha256$i=600000,l=32$"), "{one}");
        assert_ne!(one, two);
        assert!(hash::verify("violet lantern", &one) && !hash::verify("violet lanterm", &one));
        assert!(
            !hash::verify("violet lantern", &hash::unmatchable(600_000)) && !hash::verify("violet lantern", "nonsense")
        );
    }
}
