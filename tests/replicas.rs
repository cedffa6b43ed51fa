//! Several processes on one database: they start together, agree at once on who is logged in, and outlive its faults.
//! needs: home, login, members, signup
#![cfg(unix)]

mod common;

use common::{Answer, Browser, Database, Launched, Proxy, Server, patiently};
use std::mem::swap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const QUIET: [(&str, &str); 1] = [("RUST_LOG", "warn")];

/// Asks who somebody is: `/me` leads to the page of whoever is logged in.
#[track_caller]
fn assert_is(browser: &mut Browser, name: &str) {
    browser.get("/me").assert_redirect(&format!("/user/{name}"));
}

fn is_logged_out(answer: &Answer) -> bool {
    answer.status == 303 && answer.header("location") == Some("/login?next=%2Fme")
}

#[test]
fn three_that_start_together_on_an_empty_database_all_come_up() {
    for _ in 0..5 {
        let database = Database::new();
        let servers = [0; 3].map(|_| Server::launch(&database, &[])).map(Launched::ready);
        for (number, server) in servers.iter().enumerate() {
            let name = format!("ada{number}");
            let mut ada = server.browser();
            ada.sign_up(&name).assert_redirect("/");
            for other in &servers {
                assert_is(&mut ada.also_at(other.port), &name);
            }
        }
    }
}

/// Logs Ada in at one process and out again, so many times, and counts how often the other still knows her afterwards.
#[track_caller]
fn missed_log_outs(servers: &[Server; 2], rounds: usize) -> usize {
    let [mut here, mut there] = servers.each_ref().map(Server::browser);
    here.sign_up("ada").assert_redirect("/");
    let mut missed = 0;
    for _ in 0..rounds {
        patiently(|| here.log_in("ada")).assert_redirect("/");
        there.share_cookies_of(&here);
        patiently(|| there.get("/me")).assert_redirect("/user/ada");
        patiently(|| here.post("/logout", &[])).assert_redirect("/");
        missed += usize::from(!is_logged_out(&patiently(|| there.get("/me"))));
        swap(&mut here, &mut there);
    }
    missed
}

#[test]
fn who_logs_out_at_one_process_is_logged_out_at_the_other_at_once() {
    let database = Database::new();
    let servers = [0; 2].map(|_| Server::launch(&database, &QUIET)).map(Launched::ready);
    assert_eq!(missed_log_outs(&servers, 1000), 0, "of 1,000");
}

#[test]
fn who_logs_out_is_logged_out_at_once_also_while_fifty_others_are_looked_up() {
    let database = Database::new();
    let servers = [0; 2].map(|_| Server::launch(&database, &QUIET)).map(Launched::ready);
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
                    patiently(|| bob.get("/me")).assert_redirect(&format!("/user/{name}"));
                    looked_up.fetch_add(1, SeqCst);
                }
            });
        }
        let missed = thread::scope(|scope| scope.spawn(|| missed_log_outs(&servers, 200)).join());
        done.store(true, SeqCst);
        assert_eq!(missed.unwrap(), 0, "of 200");
    });
    assert!(looked_up.load(SeqCst) > 1000, "the others were looked up only {looked_up:?} times");
}

#[test]
fn one_connection_that_stalls_stops_only_who_is_caught_on_it() {
    let Some(database) = Database::postgres() else { return };
    let proxy = Proxy::to(&database.url);
    let server = Server::on(&database, &[("DATABASE_URL", &proxy.url)]);
    let names: Vec<String> = (0..20).map(|number| format!("bob{number}")).collect();
    let mut people: Vec<Browser> = names.iter().map(|_| server.browser()).collect();
    for (browser, name) in people.iter_mut().zip(&names) {
        browser.sign_up(name).assert_redirect("/");
    }

    assert_is(&mut people[0], &names[0]);
    proxy.freeze_last_used();
    // Whoever is not answered soon is caught: at the latest when every worker has had its turn.
    let ask = |browser: &Browser| {
        let (answer, answered) = mpsc::channel();
        let (mut tab, asked) = (browser.also_at(server.port), Instant::now());
        thread::spawn(move || {
            let heard = tab.get("/me");
            let _ = answer.send(Box::new((heard, asked.elapsed())));
        });
        answered
    };
    let soon = Duration::from_secs(1);
    let (caught, answered) = (0..10)
        .map(|number| (number, ask(&people[number])))
        .find(|(_, answered)| answered.recv_timeout(soon).is_err())
        .unwrap_or_else(|| panic!("nobody was caught:\n{}", *server));

    // Everybody else is served until the caught one hears of it.
    let mut served = 0;
    let (answer, after) = loop {
        for number in (0..20).filter(|&number| number != caught) {
            let asked = Instant::now();
            assert_is(&mut people[number], &names[number]);
            served += 1;
            assert!(asked.elapsed() < soon, "{} waited {:?}", names[number], asked.elapsed());
        }
        if let Ok(heard) = answered.try_recv() {
            break *heard;
        }
        assert!(served < 100_000, "the caught one hears nothing:\n{}", *server);
    };
    assert!(served > 20, "only {served} others were served");
    answer.assert_status(503);
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
    assert!((1.9..3.0).contains(&after.as_secs_f64()), "the caught one waited {after:?}");
    for (browser, name) in people.iter_mut().zip(&names) {
        assert_is(browser, name);
    }
}

#[test]
fn without_its_database_it_asks_for_patience_and_logs_nobody_out() {
    let Some(database) = Database::postgres() else { return };
    let proxy = Proxy::to(&database.url);
    let server = Server::on(&database, &[("DATABASE_URL", &proxy.url)]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    assert_is(&mut ada, "ada");

    #[track_caller]
    fn assert_patience(answer: &Answer) {
        answer.assert_status(503);
        assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
        assert!(answer.header("set-cookie").is_none(), "a cookie is changed: {answer}");
    }
    proxy.cut();
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(1) || asked < 5 {
        for path in ["/", "/me", "/login", "/users"] {
            assert_patience(&ada.get(path));
        }
        assert_patience(&ada.also_at(server.port).log_in("ada"));
        assert_patience(&ada.also_at(server.port).post("/logout", &[]));
        server.browser().get("/").assert_status(200);
        asked += 1;
    }
    proxy.mend();

    let mended = Instant::now();
    loop {
        let answer = ada.get("/me");
        if answer.status != 503 {
            answer.assert_redirect("/user/ada");
            break;
        }
        assert_patience(&answer);
        assert!(mended.elapsed() < Duration::from_secs(5), "it has not recovered:\n{}", *server);
    }
    server.browser().log_in("ada").assert_redirect("/");
}
