//! Sessions end when they are too old or unused for too long, and are deleted from the table.
//! needs: home, login, signup

use crate::common::{Browser, Database, Server, wait_until};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Uses a session at least every 0.8 s until so many seconds after `begun`.
#[track_caller]
fn use_until(browser: &mut Browser, begun: Instant, seconds: f64) {
    while begun.elapsed().as_secs_f64() < seconds {
        browser.assert_logged_in("ada");
        sleep(Duration::from_millis(800).min(Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed())));
    }
}

fn sleep_until(begun: Instant, seconds: f64) {
    sleep(Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed()));
}

#[test]
fn a_session_ends_by_age_and_by_inactivity_and_a_restart_changes_neither() {
    let database = Database::new();
    let settings = [("SESSION_IDLE", "3s"), ("SESSION_LIFETIME", "8s")];
    let [stays, goes] = Server::pair(&database, &settings);
    let mut busy = stays.browser();
    busy.sign_up("ada").assert_redirect("/");
    let enter = |server: &Server| {
        let mut browser = server.browser();
        browser.log_in("ada").assert_redirect("/");
        browser
    };
    let begun = Instant::now();
    let (mut resting, resting_over_restart, mut busy_over_restart) = (enter(&stays), enter(&goes), enter(&goes));
    scope(|scope| {
        scope.spawn(|| {
            use_until(&mut busy, begun, 6.5);
            busy.assert_logged_in("ada");
            sleep_until(begun, 7.0);
            busy.get("/");
            sleep_until(begun, 9.5);
            busy.assert_logged_out();
        });
        scope.spawn(|| {
            // Unused for less than three seconds.
            sleep_until(begun, 1.5);
            resting.assert_logged_in("ada");
            sleep_until(begun, 6.0);
            resting.assert_logged_out();
        });
        scope.spawn(|| {
            use_until(&mut busy_over_restart, begun, 2.0);
            // The time of the last use is written by now.
            sleep_until(begun, 2.3);
            drop(goes);
            let again = Server::on(&database, &settings);
            let mut resting_over_restart = resting_over_restart.also_at(again.port);
            let mut busy_over_restart = busy_over_restart.also_at(again.port);
            use_until(&mut busy_over_restart, begun, 4.5);
            resting_over_restart.assert_logged_out();
            use_until(&mut busy_over_restart, begun, 6.5);
            busy_over_restart.assert_logged_in("ada");
            sleep_until(begun, 7.0);
            busy_over_restart.get("/");
            sleep_until(begun, 9.5);
            busy_over_restart.assert_logged_out();
        });
    });
}

#[test]
fn expired_sessions_leave_the_table_and_two_processes_may_purge_at_once() {
    let database = Database::new();
    let settings = [("PURGE_EVERY", "1s"), ("SESSION_LIFETIME", "2s")];
    let servers = Server::pair(&database, &settings);
    for number in 0..20 {
        servers[number % 2].browser().sign_up(&format!("ada{number}")).assert_redirect("/");
    }
    assert!(wait_until(8, || database.count("select count(*) from sessions") == 0), "they are never purged");
    assert_eq!(database.count("select count(*) from users"), 20);
    // Both purge again.
    servers[0].browser().log_in("ada1").assert_redirect("/");
    assert_eq!(database.count("select count(*) from sessions"), 1);
    assert!(wait_until(8, || database.count("select count(*) from sessions") == 0), "they purge but once");
    for server in &servers {
        let warnings = [server.lines_with("WARN"), server.lines_with("ERROR")].concat();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
