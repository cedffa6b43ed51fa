//! Passwords: the table, the check, and the gate that keeps hashing from taking all cores.
//!
//! Hashing is slow on purpose. As many jobs run at once as there are cores, a bounded number wait for a bounded
//! time, and the rest are told to come back; the place at the core belongs to the job, not to the request, so a client
//! that hangs up does not make room for another. Who guesses is slowed down by `throttle.rs`: an attempt is counted before
//! its hash is looked at, for a name that nobody has as for any other.

use crate::address::Email;
use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::Connection;
use crate::device;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::hash::{self, is_outdated, unmatchable, verify};
use crate::policy::{MAX_BYTES, NewPassword};
use crate::session::Door;
use crate::throttle::{self, Key, Slowdown};
use crate::token::random;
use crate::user::{self, Username};
use anyhow::anyhow;
use pbkdf2::Params;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use unicode_normalization::UnicodeNormalization;

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
            iterations: config.password_iterations.max(Params::MIN_ROUNDS),
        }
    }

    /// A PHC string to keep in place of the password; or, if it could be guessed soon, the sentence to show beside the
    /// field. `own` are the person's [`crate::policy::own_words`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many are waiting or it took too long.
    pub async fn hash(
        &self,
        password: NewPassword,
        own: Vec<String>,
    ) -> Result<Result<String, &'static str>> {
        let salt = random()?;
        let iterations = self.iterations;
        let judge_and_hash = move || match password.weakness(&own) {
            Some(sentence) => Ok(Err(sentence)),
            None => hash::hash(password.as_str(), &salt, iterations).map(Ok),
        };
        self.run(judge_and_hash).await?
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

/// That somebody knew a user's password, for the transaction that acts on it.
pub struct Proof {
    pub user: User,
    hash: String,
    budget: Budget,
}

impl Proof {
    /// Gives the attempt back. Answers whether the password is still the one that was checked: somebody may have changed
    /// it meanwhile, in order to end what this is about to begin.
    pub async fn redeem(&self, db: &mut Connection) -> Result<bool> {
        let stands = user::lock(db, &self.user.id).await?
            && replace(db, &self.user.id, &self.hash, &self.hash).await?;
        if stands {
            self.budget.settle(db).await?;
        }
        Ok(stands)
    }
}

/// The user who goes by this username or confirmed e-mail address, if this is their password.
///
/// A name that nobody has costs the same statements and the same work, so that neither time nor limits tell. The right
/// password is no better than a wrong one while the account has to wait for guesses at its other name.
///
/// # Errors
/// [`Error::TooMany`] when there have been too many attempts.
pub async fn check(app: &App, door: &Door, name: &str, password: &str) -> Result<Option<Proof>> {
    let account = match (Username::parse(name), Email::parse(name)) {
        (Ok(username), _) => app.db.read(async |db| by_username(db, &username).await).await?,
        (_, Ok(email)) => app.db.read(async |db| by_email(db, &email).await).await?,
        _ => None,
    };
    let hidden = |kind| Key::hidden(&app.typed_names, kind, &name.to_ascii_lowercase());
    let key = account.as_ref().map_or_else(|| hidden("account"), |(user, _)| Key::account(&user.id));
    attempt(app, door, account, Some(hidden("typed")), key, password).await
}

/// Whether this is the password of this user, who is logged in.
///
/// # Errors
/// As [`check`].
pub async fn check_own(app: &App, door: &Door, user: &User, password: &str) -> Result<Option<Proof>> {
    let hash = app.db.read(async |db| of_user(db, &user.id).await).await?;
    let account = hash.map(|hash| (user.clone(), hash));
    attempt(app, door, account, None, Key::account(&user.id), password).await
}

async fn attempt(
    app: &App,
    door: &Door,
    account: Option<(User, String)>,
    typed: Option<Key>,
    key: Key,
    password: &str,
) -> Result<Option<Proof>> {
    let user_id = account.as_ref().map(|(user, _)| &*user.id);
    let device = match door.device() {
        Some(token) => {
            app.db.read(async |db| device::find(db, &token, user_id.unwrap_or_default()).await).await?
        }
        None => None,
    };
    let mut budget = Budget::new(app, door, typed, key, device);
    app.db.note(async |db| budget.spend(db, user_id).await).await?;

    let hash = account.as_ref().map_or_else(|| unmatchable(app.gate.iterations), |(_, hash)| hash.clone());
    let open = budget.is_open(app.config.password_disable_after);
    let matched = match match_in_turn(app, user_id.filter(|_| open), password, hash).await {
        Ok(matched) => matched,
        Err(error) => {
            app.db.note(async |db| budget.refund(db).await).await?;
            return Err(error);
        }
    };
    match (account, matched) {
        (Some((user, _)), Some(hash)) => Ok(Some(Proof { user, hash, budget })),
        (account, _) => {
            let user_id = account.as_ref().map(|(user, _)| &*user.id);
            app.db.write(async |db| budget.note_failure(db, user_id, door).await).await?;
            Ok(None)
        }
    }
}

/// The hash that the user has now, if it is of this password. One that [`is_outdated`] is replaced on the way. Without a
/// user it is the same work, and for nothing.
async fn match_in_turn(
    app: &App,
    user_id: Option<&str>,
    typed: &str,
    mut hash: String,
) -> Result<Option<String>> {
    if typed.len() > MAX_BYTES {
        return Ok(None);
    }
    loop {
        let (typed, kept, salt, iterations) =
            (typed.to_string(), hash.clone(), random()?, app.gate.iterations);
        let in_vain = user_id.is_none();
        let judge = move || match verify(&typed, &kept) {
            false => Ok(None),
            true if in_vain || !is_outdated(&kept, iterations) => Ok(Some(kept)),
            true => hash::hash(&typed.nfc().collect::<String>(), &salt, iterations).map(Some),
        };
        let (Some(new), Some(user_id)) = (app.gate.run(judge).await??, user_id) else { return Ok(None) };
        if new == hash || app.db.write(async |db| replace(db, user_id, &hash, &new).await).await? {
            return Ok(Some(new));
        }
        // Another log-in has replaced it at the same time, or somebody has changed the password.
        match app.db.read(async |db| of_user(db, user_id).await).await? {
            Some(current) => hash = current,
            None => return Ok(None),
        }
    }
}

/// What an attempt is counted under: a device that the user has logged in with before has a budget of its own, so that
/// strangers cannot keep its owner out; everybody else shares that of the account, and that of their address.
struct Budget {
    slow: Slowdown,
    /// Strangers only.
    address: Option<(Key, throttle::Rate)>,
    /// The name as a stranger typed it. Where there is one, it alone tells them to wait: from the account they would learn
    /// which username and which e-mail address belong together.
    typed: Option<Tally>,
    /// The account's or the device's.
    own: Tally,
    at: i64,
}

struct Tally {
    key: Key,
    /// Which attempt in a row this is, if it has been counted.
    count: Option<i64>,
}

impl From<Key> for Tally {
    fn from(key: Key) -> Tally {
        Tally { key, count: None }
    }
}

impl Budget {
    fn new(app: &App, door: &Door, typed: Option<Key>, account: Key, device: Option<String>) -> Budget {
        let slow = app.config.password_slowdown;
        if let Some(device) = device {
            let own = Key::new("device", &device).into();
            return Budget { slow, address: None, typed: None, own, at: 0 };
        }
        let address = Key::address("password", door.client.address);
        let address = Some((address, app.config.password_attempts_per_address));
        Budget { slow, address, typed: typed.map(Tally::from), own: account.into(), at: 0 }
    }

    // In each of these the address comes first and the account last, so that no two transactions wait for each other.
    async fn spend(&mut self, db: &mut Connection, user_id: Option<&str>) -> Result<()> {
        if let Some((key, rate)) = &self.address {
            throttle::take(db, key, *rate).await?;
        }
        // One time for both, so that the account has waited long enough at the moment its only name has.
        self.at = throttle::milliseconds();
        let (own, slow, at) = (&mut self.own, self.slow, self.at);
        match &mut self.typed {
            Some(typed) => {
                typed.count = Some(throttle::attempt(db, &typed.key, user_id, slow, at).await?);
                own.count = throttle::count(db, &own.key, user_id, slow, at).await?;
            }
            None => own.count = Some(throttle::attempt(db, &own.key, user_id, slow, at).await?),
        }
        Ok(())
    }

    /// Whether a right password is one: not while the account has to wait, nor after so many failures of strangers that
    /// it is disabled for them (NIST SP 800-63B-4, 3.2.2).
    fn is_open(&self, most: i64) -> bool {
        self.own.count.is_some_and(|count| self.address.is_none() || count <= most)
    }

    async fn note_failure(&self, db: &mut Connection, user_id: Option<&str>, door: &Door) -> Result<()> {
        // Of somebody who has been deleted meanwhile nothing is noted any more.
        let exists = user::lock(db, user_id.unwrap_or_default()).await?;
        let user_id = user_id.filter(|_| exists);
        event::record(db, user_id, Event::LogInFailed, &door.client).await?;
        if self.own.count == Some(self.slow.free) {
            event::record(db, user_id, Event::Throttled, &door.client).await?;
        }
        Ok(())
    }

    /// After a right password.
    async fn settle(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for tally in self.tallies() {
            throttle::forget(db, &tally.key).await?;
        }
        Ok(())
    }

    /// After no verdict at all.
    async fn refund(&self, db: &mut Connection) -> Result<()> {
        self.give_back_address(db).await?;
        for tally in self.tallies() {
            throttle::undo_attempt(db, &tally.key, tally.count, self.at).await?;
        }
        Ok(())
    }

    fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.typed.iter().chain([&self.own])
    }

    async fn give_back_address(&self, db: &mut Connection) -> Result<()> {
        match &self.address {
            Some((key, rate)) => throttle::give_back(db, key, *rate).await,
            None => Ok(()),
        }
    }
}

/// The kind of the mail that leads to choosing a new password.
pub const RESET: &str = "password_reset";

/// A query for how many passwords, one or none, the user with the id `$1` has.
pub const COUNT: &str = "select count(*) from passwords where user_id = $1";

/// Answers whether the user still had the old hash.
async fn replace(db: &mut Connection, user_id: &str, old: &str, new: &str) -> Result<bool> {
    let sql = "update passwords set hash = $1 where user_id = $2 and hash = $3";
    let replaced = sqlx::query(sql).bind(new).bind(user_id).bind(old).execute(db).await?;
    Ok(replaced.rows_affected() > 0)
}

pub async fn set(db: &mut Connection, user_id: &str, hash: &str) -> Result<()> {
    let sql =
        "insert into passwords (user_id, hash) values ($1, $2) on conflict (user_id) do update set hash = $2";
    sqlx::query(sql).bind(user_id).bind(hash).execute(db).await?;
    Ok(())
}

/// No password is the user's any more.
pub async fn disable(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from passwords where user_id = $1").bind(user_id).execute(db).await?;
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
    use crate::access::Routes;
    use crate::env::Env;
    use crate::test::{PASSWORD, TestApp};
    use futures_util::future::join_all;
    use pbkdf2::phc::PasswordHash;
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
    async fn a_full_queue_costs_nobody_an_attempt() {
        let settings = [("HASH_JOBS", "1"), ("HASH_QUEUE", "1"), ("HASH_WAIT", "10s")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let door = app.door().await;
        let slow = || std::thread::sleep(Duration::from_millis(2000));
        let full = async { tokio::join!(app.app.gate.run(slow), app.app.gate.run(slow)) };
        let refused = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for _ in 0..9 {
                assert!(unavailable(&check(&app.app, &door, "ada", "not the password").await));
            }
            assert_eq!(app.count("select count(*) from limits where count > 0").await, 0);
        };
        let ((first, second), ()) = tokio::join!(full, refused);
        assert!(first.is_ok() && second.is_ok());
    }

    #[tokio::test]
    async fn a_name_has_waited_long_enough_at_the_moment_its_account_has() {
        let app = TestApp::with_env(&[("PASSWORD_FREE_ATTEMPTS", "1")], Routes::new()).await;
        app.person("ada").await;
        let door = app.door().await;
        for _ in 0..50 {
            assert!(check(&app.app, &door, "ada", "not the password").await.unwrap().is_none());
            let waiting = "select count(*) from limits where count > 0";
            assert_eq!(app.count(waiting).await, 2);
            let moments = "select count(distinct free_at) from limits where count > 0";
            assert_eq!(app.count(moments).await, 1);
            app.execute("update limits set free_at = free_at - 3600000").await;
        }
    }

    /// Both take the rows of the name and of the account, which on Postgres may be a deadlock.
    #[tokio::test]
    async fn who_goes_while_strangers_guess_does_not_wait_for_them_for_ever() {
        let app = TestApp::with_env(&[("PASSWORD_FREE_ATTEMPTS", "1000")], Routes::new()).await;
        let door = app.door().await;
        for name in (0..12).map(|number| format!("ada{number}")) {
            app.person(&name).await;
            app.execute(
                "insert into addresses (user_id, email, confirmed_at) \
                 select id, username || '@example.com', 1 from users",
            )
            .await;
            let address = format!("{name}@example.com");
            let proof = check(&app.app, &door, &address, PASSWORD).await.unwrap();
            let user = proof.expect("the password is right").user;
            let guesses = join_all((0..40).map(|_| check(&app.app, &door, &name, "not the password")));
            let goes =
                app.app.db.write(async |db| user::delete(db, &user.id, Duration::ZERO, &door.client).await);
            let (guesses, gone) = tokio::join!(guesses, goes);
            assert!(gone.is_ok(), "{gone:?}");
            assert!(guesses.iter().all(|guess| matches!(guess, Ok(None))));
        }
    }

    #[tokio::test]
    async fn a_hash_is_of_its_password_alone_and_says_how_it_was_made() {
        let config = Config::from_env(&Env::from_iter::<[(&str, &str); 0]>([])).unwrap();
        let password = || NewPassword::parse("violet lantern", &config).unwrap();
        let gate = Gate::new(&config);
        let (one, two) = (
            gate.hash(password(), Vec::new()).await.unwrap().unwrap(),
            gate.hash(password(), Vec::new()).await.unwrap().unwrap(),
        );
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
        for iterations in [1000, 600_000] {
            assert_eq!(
                shape(&unmatchable(iterations)),
                shape(&hash::hash("a", &[7; 16], iterations).unwrap())
            );
        }
    }

    const LAMP: &str = "quiet harbour lamp";
    const CAFE: &str = "cafè noir à deux";

    /// Of [`LAMP`], but for the second: by `make_password` of Django 5.2.19 (twice), `PasswordHasher().hash` of argon2-cffi
    /// 25.1.0, and `hashpw` of bcrypt 5.0.0 (twice; the last with the prefix that PHP writes).
    const FOREIGN: [(&str, &str); 5] = [
        (LAMP, "pbkdf2_sha256$1000000$GtOqGo53l1576SzWDE9jwR$Z0pPODLUP+kpgdtT6fW4QYpuBDOsdX/r5GiUtNuE5Zc="),
        (CAFE, "pbkdf2_sha256$1000000$1DG8edNE3khRSXySHuZGTA$co/Bo0ydMRqTDQg1n6Ihts5chaPDYX5GKITveQ9nlRQ="),
        (
            LAMP,
            "$argon2id$v=19$m=65536,t=3,p=4$uT0BQwYqzGFThU3Y0Q4yvQ$yyIEdlBDcIhaIyhGMvIjoK7TqNPls1tqTM6PnBwE9i8",
        ),
        (LAMP, "$2b$12$/O5Gjak26V18moyasJLY6.LD9EeqgxiQeDZ/ivkyXeseNRTRS3F22"),
        (LAMP, "$2y$12$eLEqpE/xRkkR7js7la2SOO4IoIJzeZmOzGqLGHpc4DzacoIlJOrOi"),
    ];

    /// Where hashes have so many rounds, Ada has this one, and nobody meets a limit.
    async fn with_hash(rounds: &str, hash: &str) -> TestApp {
        let settings =
            [("PASSWORD_ITERATIONS", rounds), ("PASSWORD_FREE_ATTEMPTS", "1000"), ("HASH_WAIT", "60s")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let write = async |db: &mut Connection| {
            Ok(sqlx::query("update passwords set hash = $1").bind(hash).execute(db).await?)
        };
        app.app.db.write(write).await.unwrap();
        app
    }

    async fn stored(app: &TestApp) -> String {
        let read = async |db: &mut Connection| {
            Ok(sqlx::query_as("select hash from passwords").fetch_one(db).await?)
        };
        let (hash,): (String,) = app.app.db.read(read).await.unwrap();
        hash
    }

    async fn knows(app: &TestApp, password: &str) -> bool {
        check(&app.app, &app.door().await, "ada", password).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn who_comes_from_another_system_logs_in_as_ever_and_is_then_hashed_as_everybody() {
        for (password, foreign) in FOREIGN {
            let app = with_hash("1000", foreign).await;
            assert!(!knows(&app, "quiet harbour lamb").await && !knows(&app, "").await, "{foreign}");
            assert_eq!(stored(&app).await, foreign, "a wrong password replaces the hash");
            assert!(knows(&app, password).await, "{foreign}");
            let ours = stored(&app).await;
            assert!(ours.starts_with("$pbkdf2-sha256$i=1000,l=32$"), "{foreign} became {ours}");
            assert!(knows(&app, password).await && !knows(&app, "quiet harbour lamb").await, "{foreign}");
            assert_eq!(stored(&app).await, ours, "it is replaced twice");
        }
    }

    /// A Mac sends the two parts of an accented letter one by one, which other systems took for another password.
    #[tokio::test]
    async fn a_hash_of_ours_is_of_the_password_from_every_keyboard_and_a_foreign_one_of_what_was_typed() {
        let apart: String = CAFE.nfd().collect();
        assert_ne!(apart, CAFE);
        let app = with_hash("1000", FOREIGN[1].1).await;
        assert!(!knows(&app, &apart).await);
        assert!(knows(&app, CAFE).await);
        assert!(knows(&app, &apart).await && knows(&app, CAFE).await);
    }

    #[tokio::test]
    async fn a_hash_of_fewer_rounds_is_replaced_and_one_of_more_is_left() {
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
    async fn of_ten_who_log_in_at_once_with_an_old_hash_all_come_in() {
        for old in [FOREIGN[3].1, &hash::hash(LAMP, &[7; 16], 1000).unwrap()] {
            let app = with_hash("2000", old).await;
            let door = app.door().await;
            let proofs = join_all((0..10).map(|_| check(&app.app, &door, "ada", LAMP))).await;
            for proof in proofs {
                let proof = proof.unwrap().expect("the password is right");
                assert!(app.app.db.write(async |db| proof.redeem(db).await).await.unwrap(), "{old}");
            }
            assert!(stored(&app).await.starts_with("$pbkdf2-sha256$i=2000,"));
        }
    }
}
