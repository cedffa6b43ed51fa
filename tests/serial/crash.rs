//! The process is killed while people sign up: every account that it had acknowledged is there afterwards, complete.
//! needs: login, signup

use crate::common::{Browser, Database, Server, Signal, retry_while_busy, run_with_others, sign_up_fields, wait_until};
use std::sync::Mutex;
use std::thread;

/// Signs up one name after the other until the process is gone, and collects those that were acknowledged.
fn sign_up_until_it_dies(mut browser: Browser, round: usize, thread: usize, acknowledged: &Mutex<Vec<String>>) {
    for number in 0..100_000 {
        let name = format!("r{round}t{thread}n{number}");
        match browser.try_post("/signup", &sign_up_fields(&name)) {
            Ok(answer) if answer.status == 303 => acknowledged.lock().unwrap().push(name),
            Ok(answer) => assert_eq!(answer.status, 503, "{answer}"),
            Err(_) => break,
        }
    }
}

#[test]
fn a_kill_during_sign_ups_loses_no_acknowledged_account_and_leaves_no_half_one() {
    let _shared = run_with_others();
    let database = Database::new();
    let acknowledged: Mutex<Vec<String>> = Mutex::default();
    let quiet = [("RUST_LOG", "warn")];
    for round in 0..5 {
        let before = acknowledged.lock().unwrap().len();
        let mut server = Server::on(&database, &quiet);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (browser, acknowledged) = (server.browser(), &acknowledged);
                scope.spawn(move || sign_up_until_it_dies(browser, round, thread, acknowledged));
            }
            // A different number in each round, so that the process is killed at different moments.
            let enough = before + 40 + 7 * round;
            let came = wait_until(20, || acknowledged.lock().unwrap().len() >= enough);
            server.signal(Signal::KILL);
            assert!(came, "too few sign-ups in round {round}:\n{}", *server);
        });
        server.wait_for_exit(5);

        let server = Server::on(&database, &quiet);
        let mut browser = server.browser();
        for name in &acknowledged.lock().unwrap()[before..] {
            retry_while_busy(|| browser.log_in(name)).assert_redirect("/");
        }
    }
    let halves = "select count(*) from users where id not in (select user_id from passwords) \
                  or id not in (select user_id from events where kind = 'signed_up')";
    assert_eq!(database.count(halves), 0, "accounts without a password or without their beginning");
}
