//! How sessions end: by a new password, by age, by rest, and out of the table.
//! needs: activity, change_password, home, login, members, signup
#![cfg(unix)]

mod common;

use common::{Answer, Browser, Database, Launched, PASSWORD, Server, patiently, wait_until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const NEW_PASSWORD: &str = "quiet harbour lamp";

fn change_password(browser: &mut Browser) -> Answer {
    let fields =
        [("current_password", PASSWORD), ("password", NEW_PASSWORD), ("confirm_password", NEW_PASSWORD)];
    browser.post("/account/password", &fields)
}

#[track_caller]
fn assert_is(browser: &mut Browser, name: &str) {
    browser.get("/me").assert_redirect(&format!("/user/{name}"));
}

#[track_caller]
fn assert_is_nobody(browser: &mut Browser) {
    browser.get("/me").assert_redirect("/login?next=%2Fme");
}

#[test]
fn a_new_password_logs_out_everywhere_else_at_once() {
    let database = Database::new();
    let [here, there] = [0; 2].map(|_| Server::launch(&database, &[])).map(Launched::ready);
    let mut changing = here.browser();
    changing.sign_up("ada").assert_redirect("/");
    let mut others = [here.browser(), there.browser()];
    for other in &mut others {
        other.log_in("ada").assert_redirect("/");
        assert_is(other, "ada");
        assert_is(&mut other.also_at(there.port), "ada");
    }
    let mut bob = there.browser();
    bob.sign_up("bob").assert_redirect("/");
    let mut before = changing.also_at(here.port);

    change_password(&mut changing).assert_redirect("/account/password");
    for other in &mut others {
        assert_is_nobody(&mut other.also_at(there.port));
        assert_is_nobody(other);
    }
    assert_is_nobody(&mut before.also_at(there.port));
    assert_is_nobody(&mut before);
    assert_is(&mut changing.also_at(there.port), "ada");
    assert_is(&mut changing, "ada");
    assert_is(&mut bob, "bob");

    here.browser().log_in("ada").assert_status(422);
    let fields = [("username", "ada"), ("password", NEW_PASSWORD)];
    there.browser().post("/login", &fields).assert_redirect("/");
}

#[test]
fn no_log_in_with_the_old_password_outlives_its_change() {
    // As many at once as there are browsers must not count as guessing, and nobody's session ends for want of room.
    let easy = [("PASSWORD_FREE_ATTEMPTS", "1000000"), ("SESSIONS_PER_USER", "100000"), ("RUST_LOG", "warn")];
    let database = Database::new();
    let servers = [0; 2].map(|_| Server::launch(&database, &easy)).map(Launched::ready);
    for round in 0..10 {
        let name = format!("ada{round}");
        let mut changing = servers[0].browser();
        changing.sign_up(&name).assert_redirect("/");
        let (changed, logged_in) = (AtomicBool::new(false), AtomicUsize::new(0));
        let racing: Mutex<Vec<Browser>> = Mutex::default();
        scope(|scope| {
            for number in 0..4 {
                let (server, name, racing) = (&servers[number % 2], &name, &racing);
                let (changed, logged_in) = (&changed, &logged_in);
                scope.spawn(move || {
                    while !changed.load(SeqCst) {
                        let mut browser = server.browser();
                        let answer = browser.log_in(name);
                        match answer.status {
                            303 => racing.lock().unwrap().push(browser),
                            // Wrong by now, or too busy.
                            422 | 503 => {}
                            _ => panic!("{answer}\n{}", **server),
                        }
                        logged_in.fetch_add(1, SeqCst);
                    }
                });
            }
            // A different number each time, so that the change strikes at different moments.
            let came = wait_until(20, || logged_in.load(SeqCst) > 8 + round as usize);
            let answer = came.then(|| patiently(|| change_password(&mut changing)));
            changed.store(true, SeqCst);
            answer.expect("nobody could log in").assert_redirect("/account/password");
        });
        let racing = racing.into_inner().unwrap();
        assert!(racing.len() > 8, "only {} logged in", racing.len());
        for mut browser in racing {
            assert_is_nobody(&mut browser);
        }
        assert_is(&mut changing, &name);
        // A log-in that was refused in the last moment leaves none behind either.
        assert_eq!(database.count("select count(*) from sessions"), round + 1, "after round {round}");
    }
    for server in &servers {
        assert!(server.lines_with("deadlock").is_empty(), "{}", **server);
    }
}

/// Uses a session at least every 0.8 s until so many seconds after `begun`.
#[track_caller]
fn use_until(browser: &mut Browser, begun: Instant, seconds: f64) {
    while begun.elapsed().as_secs_f64() < seconds {
        assert_is(browser, "ada");
        sleep(
            Duration::from_millis(800).min(Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed())),
        );
    }
}

fn sleep_until(begun: Instant, seconds: f64) {
    sleep(Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed()));
}

#[test]
fn a_session_ends_by_age_and_by_rest_and_a_restart_changes_neither() {
    let database = Database::new();
    let settings = [("SESSION_IDLE", "3s"), ("SESSION_LIFETIME", "8s")];
    let [stays, goes] = [0; 2].map(|_| Server::launch(&database, &settings)).map(Launched::ready);
    let mut busy = stays.browser();
    busy.sign_up("ada").assert_redirect("/");
    let enter = |server: &Server| {
        let mut browser = server.browser();
        browser.log_in("ada").assert_redirect("/");
        browser
    };
    let begun = Instant::now();
    let (mut resting, resting_over_restart, mut busy_over_restart) =
        (enter(&stays), enter(&goes), enter(&goes));
    scope(|scope| {
        scope.spawn(|| {
            use_until(&mut busy, begun, 6.5);
            assert_is(&mut busy, "ada");
            sleep_until(begun, 7.0);
            busy.get("/me");
            sleep_until(begun, 9.5);
            assert_is_nobody(&mut busy);
        });
        scope.spawn(|| {
            // A shorter rest than three seconds is none.
            sleep_until(begun, 1.5);
            assert_is(&mut resting, "ada");
            sleep_until(begun, 6.0);
            assert_is_nobody(&mut resting);
        });
        scope.spawn(|| {
            use_until(&mut busy_over_restart, begun, 2.0);
            // What it has noted is written by now.
            sleep_until(begun, 2.3);
            drop(goes);
            let again = Server::on(&database, &settings);
            let mut resting_over_restart = resting_over_restart.also_at(again.port);
            let mut busy_over_restart = busy_over_restart.also_at(again.port);
            use_until(&mut busy_over_restart, begun, 4.5);
            assert_is_nobody(&mut resting_over_restart);
            use_until(&mut busy_over_restart, begun, 6.5);
            assert_is(&mut busy_over_restart, "ada");
            sleep_until(begun, 7.0);
            busy_over_restart.get("/me");
            sleep_until(begun, 9.5);
            assert_is_nobody(&mut busy_over_restart);
        });
    });
}

#[test]
fn whoever_uses_a_session_with_another_browser_is_noted() {
    let server = Server::start(&[]);
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    let mut ada = server.browser().with_header("User-Agent", firefox);
    ada.sign_up("ada").assert_redirect("/");
    let mut newer = server.browser().with_header("User-Agent", &firefox.replace("145", "146"));
    newer.share_cookies_of(&ada);
    assert_is(&mut newer, "ada");
    let told = "A session was used by another browser";
    sleep(Duration::from_millis(500));
    assert!(!ada.get("/account/activity").body.contains(told), "an update is taken for another browser");

    let mut thief = server.browser().with_header("User-Agent", "curl/8.5.0");
    thief.share_cookies_of(&ada);
    assert_is(&mut thief, "ada");
    let mut activity = ada.get("/account/activity");
    wait_until(5, || {
        activity = ada.get("/account/activity");
        activity.body.contains(told)
    });
    activity.assert_contains(told).assert_contains("curl");
}

#[test]
fn expired_sessions_leave_the_table_and_two_processes_may_purge_at_once() {
    let database = Database::new();
    let settings = [("PURGE_EVERY", "1s"), ("SESSION_LIFETIME", "2s")];
    let servers = [0; 2].map(|_| Server::launch(&database, &settings)).map(Launched::ready);
    for number in 0..20 {
        servers[number % 2].browser().sign_up(&format!("ada{number}")).assert_redirect("/");
    }
    assert!(wait_until(8, || database.count("select count(*) from sessions") == 0), "they are never purged");
    assert_eq!(database.count("select count(*) from users"), 20);
    // Both go on: what expires later goes too.
    servers[0].browser().log_in("ada1").assert_redirect("/");
    assert_eq!(database.count("select count(*) from sessions"), 1);
    assert!(wait_until(8, || database.count("select count(*) from sessions") == 0), "they purge but once");
    for server in &servers {
        let warnings = [server.lines_with("WARN"), server.lines_with("ERROR")].concat();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
