//! How the server stops: at once, and without losing an answer.
//! needs: home, login, signup

use crate::common::{
    Browser, Connection, HOME, PASSWORD, STOPPING, Server, Signal, form, run_alone, run_with_others, wait_until,
};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// A sign-up that is refused without any hashing.
fn nameless_sign_up() -> String {
    form("/signup", "", &[("username", ""), ("password", PASSWORD)])
}

/// With these a password takes a second or more, on a slow machine many seconds.
const SLOW_HASHING: &[(&str, &str)] =
    &[("PASSWORD_ITERATIONS", "4000000"), ("HANDLER_TIMEOUT", "60s"), ("DRAIN_TIMEOUT", "60s"), ("RUST_LOG", "warn")];

/// A log-in that takes as long as hashing does, with a name that nobody has.
fn slow_log_in() -> String {
    form("/login", "", &[("username", "nobody"), ("password", PASSWORD)])
}

#[test]
fn it_stops_at_once_when_asked_to_also_with_idle_connections_open() {
    let _shared = run_with_others();
    for &signal in STOPPING {
        let mut server = Server::start(&[]);
        let mut idle: Vec<Browser> = (0..20).map(|_| server.browser()).collect();
        for browser in &mut idle {
            browser.get("/").assert_status(200);
        }
        let _silent: Vec<Connection> = (0..20).map(|_| Connection::open(server.port).unwrap()).collect();
        server.signal(signal);
        // Who waited for the connections would wait for 15 s.
        let status = server.wait_for_exit(10);
        assert!(status.success(), "{signal:?} ended it with {status}:\n{}", *server);
    }
}

#[test]
fn it_can_be_stopped_as_soon_as_it_says_where_it_is() {
    let _shared = run_with_others();
    for signal in STOPPING.repeat(3) {
        let mut server = Server::start(&[]);
        server.signal(signal);
        let status = server.wait_for_exit(20);
        assert!(status.success(), "{signal:?} ended it with {status}:\n{}", *server);
    }
}

#[test]
fn a_stop_under_load_loses_no_answer() {
    let _alone = run_alone();
    let mut server = Server::start(SLOW_HASHING);
    let port = server.port;
    let (stopping, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for number in 0..8 {
            let (stopping, answered, lost) = (&stopping, &answered, &lost);
            let (request, expected) = if number % 2 == 0 { (HOME.into(), 200) } else { (nameless_sign_up(), 422) };
            scope.spawn(move || {
                // Until the server refuses connections, or at the latest until the test has failed.
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(60) {
                    let Ok(mut connection) = Connection::open(port) else { break };
                    // A connection that is opened later may be refused or closed.
                    let in_time = !stopping.load(SeqCst);
                    match connection.send(&request).and_then(|()| connection.answer()) {
                        Ok(answer) if answer.status == expected => {
                            answered.fetch_add(1, SeqCst);
                        }
                        Ok(answer) => lost.lock().unwrap().push(format!("an answer of its own: {answer}")),
                        Err(error) if in_time => lost.lock().unwrap().push(error.to_string()),
                        Err(_) => {}
                    }
                }
                let premature = !stopping.load(SeqCst);
                premature.then(|| lost.lock().unwrap().push("no connection before the stop".into()));
            });
        }
        let answers = |more: usize| {
            let begun = answered.load(SeqCst);
            assert!(wait_until(20, || answered.load(SeqCst) >= begun + more), "no answers:\n{}", *server);
        };
        answers(200);
        let mut slow = Connection::open(port).unwrap();
        slow.send(slow_log_in()).unwrap();
        answers(50);
        assert!(slow.is_quiet(), "the slow request was answered before the stop");
        stopping.store(true, SeqCst);
        server.signal(Signal::TERM);
        slow.answer().unwrap().assert_status(422).assert_contains("Wrong username or");
    });
    let status = server.wait_for_exit(20);
    assert!(status.success(), "it ended with {status}:\n{}", *server);
    let lost = lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{} of {answered:?} were lost:\n{}", lost.len(), lost.join("\n"));
    let late = Connection::open(port).map(|_| ());
    assert_eq!(late.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
}

#[test]
#[cfg_attr(not(unix), ignore = "needs the signals of unix")]
fn requests_from_before_the_stop_are_answered() {
    let _shared = run_with_others();
    let mut server = Server::start(&[]);
    server.browser().get("/").assert_status(200);
    // While stopped, it does not accept the connections that the system has established.
    server.signal(Signal::STOP);
    let mut visitors: Vec<Connection> = (0..50).map(|_| Connection::open(server.port).unwrap()).collect();
    for visitor in &mut visitors {
        visitor.send(HOME).unwrap();
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let answers: Vec<_> = visitors.iter_mut().map(Connection::answer).collect();
    let lost = answers.iter().filter(|answer| !answer.as_ref().is_ok_and(|answer| answer.status == 200)).count();
    let status = server.wait_for_exit(20);
    assert!(lost == 0 && status.success(), "{lost} of 50 were lost, and it ended with {status}:\n{}", *server);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let _alone = run_alone();
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::TERM, Signal::INT)] {
        let (first, second) = if cfg!(unix) { (first, second) } else { (Signal::TERM, Signal::TERM) };
        let mut server = Server::start(&[("PASSWORD_ITERATIONS", "400000000")]);
        let mut slow = Connection::open(server.port).unwrap();
        slow.send(slow_log_in()).unwrap();
        assert!(slow.is_quiet(), "the slow request was answered before the stop");
        server.signal(first);
        let refuses = || Connection::open(server.port).is_err();
        assert!(wait_until(10, refuses), "it does not stop:\n{}", *server);
        assert!(!server.has_ended(), "it did not wait for the request:\n{}", *server);
        server.signal(second);
        // The request would take minutes.
        let status = server.wait_for_exit(10);
        assert_eq!(status.code(), Some(1), "{}", *server);
        assert!(server.stderr().contains("asked twice to stop"), "{}", *server);
    }
}

/// A closed terminal sends it, and so may its shell.
#[cfg(unix)]
#[test]
fn a_second_hang_up_does_not_end_it_and_one_that_is_ignored_does_nothing() {
    let _alone = run_alone();
    let mut server = Server::start(SLOW_HASHING);
    let mut slow = Connection::open(server.port).unwrap();
    slow.send(slow_log_in()).unwrap();
    assert!(slow.is_quiet(), "the slow request was answered before the stop");
    for _ in 0..3 {
        server.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(50));
    }
    slow.answer().unwrap().assert_status(422);
    assert!(server.wait_for_exit(60).success(), "{}", *server);
    if cfg!(target_os = "linux") {
        let server = Server::with_hang_up_ignored(&[]);
        server.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(300));
        server.browser().get("/").assert_status(200);
    }
}
