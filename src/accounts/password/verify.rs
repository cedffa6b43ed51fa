//! Verifies passwords.
//!
//! An attempt is counted and recorded as failed before its hash is verified. An unknown name takes the same statements
//! and the same work, so that neither time nor limits reveal who has an account. A right password takes the count and
//! the event back. An attempt that cannot be decided, or that is right but cannot be acted on, is given back.

use super::attempts::{self, AttemptBudget};
use super::policy::{MAX_BYTES, NewPassword};
use super::table::{self, Account};
use super::{hash::unmatchable, limiter::HashLimiter};
use crate::accounts::user::{self, User};
use crate::accounts::{client::Client, device};
use crate::base::{Backoff, Config, Rate, Result, Tokens};
use crate::db::rate_limit::{AddressLimit, Key};
use crate::db::refunds::{Counted, Refunds};
use crate::db::{Connection, DEADLINE, Database};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

pub struct Passwords {
    db: Database,
    refunds: Refunds,
    limiter: HashLimiter,
    backoff: Backoff,
    disable_after: i64,
    per_address: Rate,
    /// Hides typed names, which can be anything, in the table `limits`.
    names_key: Vec<u8>,
    /// How long it can take until a password is verified and acted on.
    verified_within: Duration,
}

/// Where an attempt comes from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub client: &'a Client,
    /// The device tokens of the request.
    pub devices: &'a Tokens,
}

/// A user whose password was right, for the transaction that acts on it.
pub struct VerifiedPassword {
    pub user: User,
    hash: String,
    attempt: Attempt,
}

/// An attempt that is given back unless it is kept.
#[derive(Clone)]
struct Attempt {
    budget: Arc<AttemptBudget>,
    counted: Arc<Counted>,
}

impl Attempt {
    fn new(budget: AttemptBudget, refunds: &Refunds) -> Attempt {
        let budget = Arc::new(budget);
        let spent = budget.clone();
        let counted = refunds.counted(move |db| {
            let spent = spent.clone();
            async move { spent.refund(db).await }.boxed()
        });
        Attempt { budget, counted: Arc::new(counted) }
    }
}

impl VerifiedPassword {
    /// Locks the user's row, resets the counts of attempts, and takes back that this one failed. Returns whether the
    /// password is still the same: the user may have changed it in the meantime, to end what this is about to start.
    pub async fn recheck(&self, db: &mut Connection) -> Result<bool> {
        let unchanged = user::lock(db, &self.user.id).await?.is_some()
            && table::replace(db, &self.user.id, &self.hash, &self.hash).await?;
        if unchanged {
            self.attempt.budget.reset(db).await?;
        }
        let counted = self.attempt.counted.clone();
        db.on_commit(move || counted.keep());
        Ok(unchanged)
    }
}

impl Passwords {
    pub fn new(config: &Config, db: &Database, refunds: &Refunds, names_key: Vec<u8>) -> Passwords {
        Passwords {
            db: db.clone(),
            refunds: refunds.clone(),
            limiter: HashLimiter::new(config),
            backoff: config.password_backoff,
            disable_after: config.password_disable_after,
            per_address: config.password_attempts_per_address,
            names_key,
            // A transaction may start at the last moment.
            verified_within: config.handler_timeout + DEADLINE,
        }
    }

    /// As [`HashLimiter::hash`].
    ///
    /// # Errors
    /// As [`HashLimiter::hash`].
    pub async fn hash(&self, password: NewPassword, personal: Vec<String>) -> Result<String> {
        self.limiter.hash(password, personal).await
    }

    /// The user with this username or confirmed e-mail address, if this is the password. While the account has to wait
    /// because of guesses at its other name, even the right password counts as wrong.
    ///
    /// # Errors
    /// [`crate::base::error::Error::TooMany`] after too many attempts.
    pub async fn verify(&self, source: Source<'_>, name: &str, password: &str) -> Result<Option<VerifiedPassword>> {
        if is_too_long(password) {
            return Ok(None);
        }
        self.refunds.settle().await;
        let name = &*table::normalize(name);
        let keyed = |kind| Key::keyed(&self.names_key, kind, name);
        let typed = keyed("typed");
        self.check_remembered(source, &typed)?;
        let account = self.db.read(async |db| table::find(db, name).await).await?;
        let key = account.as_ref().map_or_else(|| keyed("account"), |account| Key::account(&account.user.id));
        self.attempt(source, account, (key, Some(typed)), password).await
    }

    /// Whether this is the password of this user, who is logged in.
    ///
    /// # Errors
    /// As [`Passwords::verify`].
    pub async fn verify_own(
        &self,
        source: Source<'_>,
        user: &User,
        password: &str,
    ) -> Result<Option<VerifiedPassword>> {
        if is_too_long(password) {
            return Ok(None);
        }
        self.refunds.settle().await;
        let key = Key::account(&user.id);
        self.check_remembered(source, &key)?;
        let hash = self.db.read(async |db| table::hash_of(db, &user.id).await).await?;
        let account = hash.map(|hash| Account { user: user.clone(), hash });
        self.attempt(source, account, (key, None), password).await
    }

    /// Checks, before anything is read, whether such an attempt is refused for any account. A device that the user has
    /// logged in with may have its own budget.
    fn check_remembered(&self, source: Source<'_>, decides: &Key) -> Result<()> {
        if !source.devices.is_empty() {
            return Ok(());
        }
        attempts::check_remembered(&self.db.refusals, Some(&self.address_limit(source)), decides)
    }

    fn address_limit(&self, source: Source<'_>) -> AddressLimit {
        AddressLimit::new("password", source.client.address, self.per_address)
    }

    async fn attempt(
        &self,
        source: Source<'_>,
        account: Option<Account>,
        keys: (Key, Option<Key>),
        password: &str,
    ) -> Result<Option<VerifiedPassword>> {
        let user_id = account.as_ref().map(|account| &*account.user.id);
        let budget = self.budget(source, user_id, keys).await?;
        budget.check(&self.db).await?;
        let attempt = Attempt::new(budget, &self.refunds);
        let spend =
            async |db: &mut Connection| attempt.budget.spend(db, user_id, source.client, self.verified_within).await;
        self.db.write_relaxed(spend).await?;
        let hash = self.match_or_upgrade(account.as_ref(), &attempt, password).await?;
        let verified = account.zip(hash);
        Ok(verified.map(|(Account { user, .. }, hash)| VerifiedPassword { user, hash, attempt }))
    }

    async fn budget(
        &self,
        source: Source<'_>,
        user_id: Option<&str>,
        (account, typed): (Key, Option<Key>),
    ) -> Result<AttemptBudget> {
        let device = if source.devices.is_empty() {
            None
        } else {
            let user_id = user_id.unwrap_or_default();
            self.db.read(async |db| device::find(db, source.devices, user_id).await).await?
        };
        Ok(match device {
            Some(id) => AttemptBudget::of_device(&id, self.backoff),
            None => AttemptBudget::of_account(account, typed, self.address_limit(source), self.backoff),
        })
    }

    /// The account's current hash, if it is that of this password. An outdated one is replaced. If the password is not
    /// accepted, the work is the same and the result `None`.
    async fn match_or_upgrade(
        &self,
        account: Option<&Account>,
        attempt: &Attempt,
        password: &str,
    ) -> Result<Option<String>> {
        let accepts = attempt.budget.accepts(self.disable_after);
        let mut hash = account.map_or_else(|| unmatchable(self.limiter.iterations), |account| account.hash.clone());
        loop {
            let counted = attempt.counted.clone();
            let keep_wrong = move |is_right: bool| {
                if !(is_right && accepts) {
                    counted.keep();
                }
            };
            let new = self.limiter.verify(password, &hash, accepts, keep_wrong).await?;
            let (Some(new), Some(Account { user, .. }), true) = (new, account, accepts) else { return Ok(None) };
            if new == hash || self.db.write(async |db| table::replace(db, &user.id, &hash, &new).await).await? {
                return Ok(Some(new));
            }
            // Another log-in has upgraded it at the same time, or the user has changed the password.
            match self.db.read(async |db| table::hash_of(db, &user.id).await).await? {
                Some(current) => hash = current,
                None => return Ok(None),
            }
        }
    }
}

/// No user can have such a password. It is rejected before any account is looked up, so it is not counted as a guess,
/// and the response is the same for every name.
fn is_too_long(password: &str) -> bool {
    password.len() > MAX_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::password::hash;
    use crate::base::Error;
    use crate::test::{PASSWORD, TestApp};
    use crate::web::{Login, Routes};
    use futures_util::future::join_all;
    use std::time::Duration;
    use unicode_normalization::UnicodeNormalization;

    async fn verify(app: &TestApp, login: &Login, name: &str, password: &str) -> Result<Option<VerifiedPassword>> {
        app.app.passwords.verify(login.source(), name, password).await
    }

    fn unavailable<T>(answer: &Result<T>) -> bool {
        matches!(answer, Err(Error::Unavailable(_)))
    }

    #[tokio::test]
    async fn a_full_queue_costs_nobody_an_attempt() {
        let settings =
            [("HASH_JOBS", "1"), ("HASH_QUEUE", "1"), ("HASH_WAIT", "10s"), ("PASSWORD_ATTEMPTS_PER_ADDRESS", "1/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let login = app.login().await;
        let limiter = &app.app.passwords.limiter;
        let slow = || std::thread::sleep(Duration::from_millis(2000));
        let full = async { tokio::join!(limiter.run(slow), limiter.run(slow)) };
        let refused = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for _ in 0..9 {
                assert!(unavailable(&verify(&app, &login, "ada", "not the password").await));
            }
            app.app.refunds.settle().await;
            assert_eq!(app.count("select count(*) from limits where count > 0").await, 0);
            assert_eq!(app.count(FAILURES).await, 0);
        };
        let ((first, second), ()) = tokio::join!(full, refused);
        assert!(first.is_ok() && second.is_ok());
    }

    #[tokio::test]
    async fn who_has_to_wait_is_told_so_at_once_whoever_else_is_writing() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let (id, login) = (app.user("ada").await, app.login().await);
        for _ in 0..5 {
            assert!(verify(&app, &login, "ada", "not the password").await.unwrap().is_none());
        }
        let (busy, done) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let writing = app.app.db.write(async |db| {
            user::lock(db, &id).await?;
            busy.notify_one();
            done.notified().await;
            Ok(())
        });
        let refused = async {
            busy.notified().await;
            let answer = verify(&app, &login, "ada", PASSWORD);
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
            done.notify_one();
            answer
        };
        let (written, refused) = tokio::join!(writing, refused);
        written.unwrap();
        assert!(matches!(refused.expect("it waited"), Err(Error::TooMany(_))));
    }

    const FAILURES: &str =
        "select count(*) from events e join users u on u.id = e.user_id where kind = 'log_in_failed'";
    const THROTTLED: &str = "select count(*) from events e join users u on u.id = e.user_id where kind = 'throttled'";
    const NOTICES: &str = "select count(*) from mails where kind = 'notice'";

    /// An app where passwords wait to be verified for two seconds from now, and Ada has an address.
    async fn busy_app(wait: &str) -> (TestApp, tokio::task::JoinHandle<()>) {
        let app = TestApp::with_env(&[("HASH_JOBS", "1"), ("HASH_WAIT", wait)], Routes::new()).await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let running = app.app.clone();
        let busy = tokio::spawn(async move {
            let slow = || std::thread::sleep(Duration::from_secs(2));
            running.passwords.limiter.run(slow).await.unwrap();
        });
        // Until it has begun.
        tokio::time::sleep(Duration::from_millis(100)).await;
        (app, busy)
    }

    /// An app where verifying a password takes at least 200 ms, and Ada has an address.
    async fn slow_app() -> TestApp {
        let settings = [("PASSWORD_ITERATIONS", "1000000"), ("HASH_WAIT", "10s"), ("HASH_JOBS", "1")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        app
    }

    /// Verifies a password until it is being compared, and hears no more.
    async fn cut_off(app: &TestApp, login: &Login, password: &str) -> bool {
        let cut = tokio::time::timeout(Duration::from_millis(100), verify(app, login, "ada", password)).await;
        // Until it has been compared.
        app.app.passwords.limiter.run(|| ()).await.unwrap();
        cut.is_err()
    }

    #[tokio::test]
    async fn guesses_that_are_cut_off_are_recorded_and_the_owner_is_notified() {
        let app = slow_app().await;
        let login = app.login().await;
        for number in 1..=5 {
            assert!(cut_off(&app, &login, "guess").await, "guess {number}");
        }
        for _ in 0..2 {
            assert!(matches!(verify(&app, &login, "ada", "guess").await, Err(Error::TooMany(_))));
        }
        assert_eq!((app.count(FAILURES).await, app.count(THROTTLED).await, app.count(NOTICES).await), (5, 1, 1));
    }

    #[tokio::test]
    async fn a_right_password_that_is_cut_off_counts_nothing() {
        let app = slow_app().await;
        let login = app.login().await;
        for number in 1..=7 {
            assert!(cut_off(&app, &login, PASSWORD).await, "attempt {number}");
        }
        let verified = verify(&app, &login, "ada", PASSWORD).await.unwrap().expect("the password is right");
        assert!(app.app.db.write(async |db| verified.recheck(db).await).await.unwrap());
        drop(verified);
        assert_nothing_counts(&app).await;
    }

    async fn assert_nothing_counts(app: &TestApp) {
        app.app.refunds.settle().await;
        let counts = (app.count("select count(*) from limits where count > 0").await, app.count(FAILURES).await);
        assert_eq!((counts, app.count(THROTTLED).await), ((0, 0), 0));
        app.execute("update mails set due_at = 0").await;
        assert_eq!(app.mails().await.len(), 0);
    }

    #[tokio::test]
    async fn a_right_password_that_met_an_outage_counts_nothing_and_a_wrong_one_still_does() {
        let app = TestApp::with_env(&[("PASSWORD_ATTEMPTS_PER_ADDRESS", "6/1h")], Routes::new()).await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let login = app.login().await;
        let outage = async |name: &str| {
            let verified = verify(&app, &login, name, PASSWORD).await.unwrap().expect("the password is right");
            let acted = app.app.db.write(async |db| {
                assert!(verified.recheck(db).await?);
                Err::<(), _>(Error::Unavailable(anyhow::anyhow!("the database is gone")))
            });
            assert!(unavailable(&acted.await));
        };
        for _ in 0..9 {
            outage("ada").await;
            outage("ada@example.com").await;
        }
        assert_nothing_counts(&app).await;
        for number in 1..=5 {
            outage("ada").await;
            assert!(verify(&app, &login, "ada", "guess").await.unwrap().is_none(), "guess {number}");
        }
        assert!(matches!(verify(&app, &login, "ada", "guess").await, Err(Error::TooMany(_))));
        assert!(matches!(verify(&app, &login, "ada", PASSWORD).await, Err(Error::TooMany(_))));
        assert_eq!((app.count(FAILURES).await, app.count(THROTTLED).await), (5, 1));
        // A notice of an event that was taken back is not sent.
        let notices = "select count(*) from mails m join events e on e.id = m.about where m.kind = 'notice'";
        assert_eq!(app.count(notices).await, 1);
    }

    #[tokio::test]
    async fn an_attempt_whose_own_count_is_lost_or_that_is_given_back_twice_takes_nothing_of_others() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let (id, login) = (app.user("ada").await, app.login().await);
        for _ in 0..3 {
            assert!(verify(&app, &login, "ada", "guess").await.unwrap().is_none());
        }
        let account = || (Key::account(&id), None);
        let budget = app.app.passwords.budget(login.source(), Some(&id), account()).await.unwrap();
        let lost = app.app.db.write(async |db| {
            budget.spend(db, Some(&id), &login.client, Duration::ZERO).await?;
            Err::<(), _>(Error::Unavailable(anyhow::anyhow!("the commit has no answer")))
        });
        assert!(unavailable(&lost.await));
        let twice = app.app.passwords.budget(login.source(), Some(&id), account()).await.unwrap();
        let spend = async |db: &mut Connection| twice.spend(db, Some(&id), &login.client, Duration::ZERO).await;
        app.app.db.write(spend).await.unwrap();
        for budget in [&budget, &twice, &twice] {
            app.app.db.write(async |db| budget.refund(db).await).await.unwrap();
        }
        assert_eq!((app.count("select max(count) from limits").await, app.count(FAILURES).await), (3, 3));
    }

    #[tokio::test]
    async fn while_the_right_password_is_verified_nobody_is_notified_and_then_nothing_is_left() {
        let (app, busy) = busy_app("10s").await;
        let login = app.login().await;
        busy.await.unwrap();
        for _ in 1..=4 {
            assert!(verify(&app, &login, "ada", "not the password").await.unwrap().is_none());
        }
        let slow = async { app.app.passwords.limiter.run(|| std::thread::sleep(Duration::from_secs(1))).await };
        let right = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let verified = verify(&app, &login, "ada", PASSWORD).await.unwrap().expect("the password is right");
            app.app.db.write(async |db| verified.recheck(db).await).await
        };
        let outbox = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!((app.count(THROTTLED).await, app.mails().await.len()), (1, 0));
        };
        let (_, rechecked, ()) = tokio::join!(slow, right, outbox);
        assert!(rechecked.unwrap());
        assert_eq!((app.count(FAILURES).await, app.count(THROTTLED).await), (4, 0));
        app.execute("update mails set due_at = 0").await;
        assert_eq!((app.mails().await.len(), app.count(NOTICES).await), (0, 0));
    }

    #[tokio::test]
    async fn attempts_that_were_not_verified_leave_nothing_behind_whoever_else_tried() {
        let (app, _busy) = busy_app("1s").await;
        let login = app.login().await;
        let second = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            verify(&app, &login, "ada", "not the password").await
        };
        let answers = tokio::join!(verify(&app, &login, "ada", "not the password"), second);
        assert!(unavailable(&answers.0) && unavailable(&answers.1));
        assert_nothing_counts(&app).await;
    }

    #[tokio::test]
    async fn a_name_has_waited_long_enough_as_soon_as_its_account_has() {
        let app = TestApp::with_env(&[("PASSWORD_FREE_ATTEMPTS", "1")], Routes::new()).await;
        app.person("ada").await;
        let login = app.login().await;
        for _ in 0..50 {
            assert!(verify(&app, &login, "ada", "not the password").await.unwrap().is_none());
            let waiting = "select count(*) from limits where count > 0";
            assert_eq!(app.count(waiting).await, 2);
            let moments = "select count(distinct free_at) from limits where count > 0";
            assert_eq!(app.count(moments).await, 1);
            app.execute("update limits set free_at = free_at - 3600000").await;
        }
    }

    /// Both take the rows of the name and of the account, which on Postgres may be a deadlock.
    #[tokio::test]
    async fn people_can_delete_their_account_while_others_guess_its_password() {
        let app = TestApp::with_env(&[("PASSWORD_FREE_ATTEMPTS", "1000")], Routes::new()).await;
        let login = app.login().await;
        for name in (0..12).map(|number| format!("ada{number}")) {
            app.person(&name).await;
            app.execute(
                "insert into addresses (user_id, email, confirmed_at) \
                 select id, username || '@example.com', 1 from users",
            )
            .await;
            let address = format!("{name}@example.com");
            let verified = verify(&app, &login, &address, PASSWORD).await.unwrap();
            let user = verified.expect("the password is right").user;
            let guesses = join_all((0..40).map(|_| verify(&app, &login, &name, "not the password")));
            let deletion = app
                .app
                .db
                .write(async |db| user::delete(db, &user.id, Duration::ZERO, user::DELETED.by(&login.client)).await);
            let (guesses, deleted) = tokio::join!(guesses, deletion);
            assert!(deleted.is_ok(), "{deleted:?}");
            assert!(guesses.iter().all(|guess| matches!(guess, Ok(None))));
        }
    }

    const LAMP: &str = "quiet harbour lamp";
    const CAFE: &str = "cafè noir à deux";

    /// Of [`LAMP`], but for the second: by `make_password` of Django 5.2.19 (twice), `PasswordHasher().hash` of argon2-cffi
    /// 25.1.0, and `hashpw` of bcrypt 5.0.0 (twice; the last with the prefix that PHP writes).
    const IMPORTED: [(&str, &str); 5] = [
        (LAMP, "pbkdf2_sha256$1000000$GtOqGo53l1576SzWDE9jwR$Z0pPODLUP+kpgdtT6fW4QYpuBDOsdX/r5GiUtNuE5Zc="),
        (CAFE, "pbkdf2_sha256$1000000$1DG8edNE3khRSXySHuZGTA$co/Bo0ydMRqTDQg1n6Ihts5chaPDYX5GKITveQ9nlRQ="),
        (LAMP, "$argon2id$v=19$m=65536,t=3,p=4$uT0BQwYqzGFThU3Y0Q4yvQ$yyIEdlBDcIhaIyhGMvIjoK7TqNPls1tqTM6PnBwE9i8"),
        (LAMP, "$2b$12$/O5Gjak26V18moyasJLY6.LD9EeqgxiQeDZ/ivkyXeseNRTRS3F22"),
        (LAMP, "$2y$12$eLEqpE/xRkkR7js7la2SOO4IoIJzeZmOzGqLGHpc4DzacoIlJOrOi"),
    ];

    /// An app whose hashes have so many rounds, and where Ada has this one.
    async fn with_hash(rounds: &str, hash: &str) -> TestApp {
        let settings = [("PASSWORD_ITERATIONS", rounds), ("PASSWORD_FREE_ATTEMPTS", "1000"), ("HASH_WAIT", "60s")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let write = async |db: &mut Connection| {
            Ok(sqlx::query("update passwords set hash = $1").bind(hash).execute(db).await?)
        };
        app.app.db.write(write).await.unwrap();
        app
    }

    async fn stored(app: &TestApp) -> String {
        let read =
            async |db: &mut Connection| Ok(sqlx::query_scalar("select hash from passwords").fetch_one(db).await?);
        app.app.db.read(read).await.unwrap()
    }

    async fn knows(app: &TestApp, password: &str) -> bool {
        verify(app, &app.login().await, "ada", password).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn people_from_another_system_log_in_with_their_old_hash_and_get_a_new_one() {
        for (password, imported) in IMPORTED.into_iter().filter(|(_, imported)| hash::is_known(imported)) {
            let app = with_hash("1000", imported).await;
            assert!(!knows(&app, "quiet harbour lamb").await && !knows(&app, "").await, "{imported}");
            assert_eq!(stored(&app).await, imported, "a wrong password replaces the hash");
            assert!(knows(&app, password).await, "{imported}");
            let ours = stored(&app).await;
            assert!(ours.starts_with("$pbkdf2-sha256$i=1000,l=32$"), "{imported} became {ours}");
            assert!(knows(&app, password).await && !knows(&app, "quiet harbour lamb").await, "{imported}");
            assert_eq!(stored(&app).await, ours, "it is replaced twice");
        }
    }

    #[tokio::test]
    async fn a_hash_that_this_build_cannot_verify_lets_nobody_in() {
        let argon2i = IMPORTED[2].1.replace("argon2id", "argon2i");
        let foreign = [IMPORTED[2].1, IMPORTED[3].1, IMPORTED[4].1, &argon2i];
        let foreign = foreign.into_iter().filter(|_| !cfg!(feature = "imported_hashes"));
        let unknown =
            ["", "!", "$", "$1$salt$hash", "$6$salt$hash", "{SSHA}c2FsdA==", "argon2$", "md5$salt$hash", LAMP];
        for hash in unknown.into_iter().chain(foreign) {
            let app = with_hash("1000", hash).await;
            assert!(!knows(&app, LAMP).await && !knows(&app, "").await && !knows(&app, hash).await, "{hash:?}");
            assert_eq!(stored(&app).await, hash);
        }
    }

    /// A Mac sends the two parts of an accented letter one by one, which is another password to other systems.
    #[tokio::test]
    async fn our_hash_matches_a_password_from_every_keyboard_and_an_imported_one_only_as_it_was_typed() {
        let apart: String = CAFE.nfd().collect();
        assert_ne!(apart, CAFE);
        let app = with_hash("1000", IMPORTED[1].1).await;
        assert!(!knows(&app, &apart).await);
        assert!(knows(&app, CAFE).await);
        assert!(knows(&app, &apart).await && knows(&app, CAFE).await);
    }

    #[tokio::test]
    async fn a_hash_of_fewer_rounds_is_replaced_and_one_of_more_is_kept() {
        let fewer = hash::hash(LAMP, &[7; 16], 1000).unwrap();
        let app = with_hash("2000", &fewer).await;
        assert!(!knows(&app, "quiet harbour lamb").await);
        assert_eq!(stored(&app).await, fewer);
        assert!(knows(&app, LAMP).await);
        let renewed = stored(&app).await;
        assert!(renewed.starts_with("$pbkdf2-sha256$i=2000,l=32$"), "{renewed}");
        assert!(knows(&app, LAMP).await && !knows(&app, "quiet harbour lamb").await);

        let more = hash::hash(LAMP, &[7; 16], 2001).unwrap();
        let app = with_hash("2000", &more).await;
        assert!(knows(&app, LAMP).await);
        assert_eq!(stored(&app).await, more);
    }

    #[tokio::test]
    async fn ten_people_who_log_in_at_once_with_an_old_hash_all_get_in() {
        let imported = IMPORTED[if cfg!(feature = "imported_hashes") { 3 } else { 0 }].1;
        for old in [imported, &hash::hash(LAMP, &[7; 16], 1000).unwrap()] {
            let app = with_hash("2000", old).await;
            let login = app.login().await;
            for verified in join_all((0..10).map(|_| verify(&app, &login, "ada", LAMP))).await {
                let verified = verified.unwrap().expect("the password is right");
                assert!(app.app.db.write(async |db| verified.recheck(db).await).await.unwrap(), "{old}");
            }
            assert!(stored(&app).await.starts_with("$pbkdf2-sha256$i=2000,"));
        }
    }
}
