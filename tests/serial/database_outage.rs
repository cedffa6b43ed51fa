//! The connections to Postgres stall or break: people are told to come back, and nobody is logged out.
//! needs: home, login, signup

use crate::common::{Answer, Browser, Database, Proxy, Server, run_with_others};
use std::io::{Write, stderr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The tests need Postgres. Without it they say so, also when `cargo test` hides what passing tests print.
fn postgres() -> Option<Database> {
    let database = Database::postgres();
    if database.is_none() {
        let _ = writeln!(stderr(), "skipped, because TEST_DATABASE_URL names no Postgres server");
    }
    database
}

#[test]
fn one_connection_that_stalls_stops_only_who_is_caught_on_it() {
    let _shared = run_with_others();
    let Some(database) = postgres() else { return };
    let proxy = Proxy::to(&database.url);
    let server = Server::on(&database, &[("DATABASE_URL", &proxy.url)]);
    let names: Vec<String> = (0..20).map(|number| format!("bob{number}")).collect();
    let mut people: Vec<Browser> = names.iter().map(|_| server.browser()).collect();
    for (browser, name) in people.iter_mut().zip(&names) {
        browser.sign_up(name).assert_redirect("/");
    }

    people[0].assert_logged_in(&names[0]);
    proxy.freeze_last_used();
    // One request after the other is sent until one waits on the frozen connection.
    let ask = |browser: &Browser| {
        let (answer, answered) = mpsc::channel();
        let (mut tab, asked) = (browser.also_at(server.port), Instant::now());
        thread::spawn(move || {
            let heard = tab.get("/");
            let _ = answer.send(Box::new((heard, asked.elapsed())));
        });
        answered
    };
    let soon = Duration::from_secs(1);
    let (caught, answered) = (0..10)
        .map(|number| (number, ask(&people[number])))
        .find(|(_, answered)| answered.recv_timeout(soon).is_err())
        .unwrap_or_else(|| panic!("nobody was caught:\n{}", *server));

    // Everyone else is served until that one is answered.
    let mut served = 0;
    let (answer, after) = loop {
        for number in (0..20).filter(|&number| number != caught) {
            let asked = Instant::now();
            people[number].assert_logged_in(&names[number]);
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
        browser.assert_logged_in(name);
    }
}

#[test]
fn without_its_database_it_asks_for_patience_and_logs_nobody_out() {
    let _shared = run_with_others();
    let Some(database) = postgres() else { return };
    let proxy = Proxy::to(&database.url);
    let server = Server::on(&database, &[("DATABASE_URL", &proxy.url)]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    ada.assert_logged_in("ada");

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
        for path in ["/", "/login", "/signup"] {
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
        let answer = ada.get("/");
        if answer.status != 503 {
            answer.assert_logged_in("ada");
            break;
        }
        assert_patience(&answer);
        assert!(mended.elapsed() < Duration::from_secs(5), "it has not recovered:\n{}", *server);
    }
    server.browser().log_in("ada").assert_redirect("/");
}
