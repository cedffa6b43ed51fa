//! Several processes on one database: they can start together, and agree at once on who is logged in.
//! needs: home, login, signup

use crate::common::{Browser, Database, Server, Starting, retry_while_busy};
use std::mem::swap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const QUIET: [(&str, &str); 1] = [("RUST_LOG", "warn")];

#[test]
fn three_that_start_together_on_an_empty_database_all_come_up() {
    for _ in 0..5 {
        let database = Database::new();
        let servers = [0; 3].map(|_| Server::spawn(&database, &[])).map(Starting::ready);
        for (number, server) in servers.iter().enumerate() {
            let name = format!("ada{number}");
            let mut ada = server.browser();
            ada.sign_up(&name).assert_redirect("/");
            for other in &servers {
                ada.also_at(other.port).assert_logged_in(&name);
            }
        }
    }
}

/// Logs Ada in and out at one process, so many times, and counts how often she is still logged in at the other.
#[track_caller]
fn missed_log_outs(servers: &[Server; 2], rounds: usize) -> usize {
    let [mut here, mut there] = servers.each_ref().map(Server::browser);
    here.sign_up("ada").assert_redirect("/");
    let mut missed = 0;
    for _ in 0..rounds {
        retry_while_busy(|| here.log_in("ada")).assert_redirect("/");
        there.share_cookies_of(&here);
        retry_while_busy(|| there.get("/")).assert_logged_in("ada");
        retry_while_busy(|| here.post("/logout", &[])).assert_redirect("/");
        missed += usize::from(retry_while_busy(|| there.get("/")).username().is_some());
        swap(&mut here, &mut there);
    }
    missed
}

#[test]
fn who_logs_out_at_one_process_is_logged_out_at_the_other_at_once() {
    let database = Database::new();
    let servers = Server::pair(&database, &QUIET);
    assert_eq!(missed_log_outs(&servers, 1000), 0, "of 1,000");
}

#[test]
fn who_logs_out_is_logged_out_at_once_also_while_fifty_others_are_looked_up() {
    let database = Database::new();
    let servers = Server::pair(&database, &QUIET);
    let others: Vec<(Browser, String)> = (0..50)
        .map(|number| {
            let (mut bob, name) = (servers[number % 2].browser(), format!("bob{number}"));
            bob.sign_up(&name).assert_redirect("/");
            (bob, name)
        })
        .collect();
    let (done, looked_up) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (mut bob, name) in others {
            let (done, looked_up) = (&done, &looked_up);
            scope.spawn(move || {
                while !done.load(SeqCst) {
                    retry_while_busy(|| bob.get("/")).assert_logged_in(&name);
                    looked_up.fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let missed = thread::scope(|scope| scope.spawn(|| missed_log_outs(&servers, 200)).join());
        done.store(true, SeqCst);
        assert_eq!(missed.unwrap(), 0, "of 200");
    });
    assert!(looked_up.load(SeqCst) > 1000, "the others were looked up only {looked_up:?} times");
}
