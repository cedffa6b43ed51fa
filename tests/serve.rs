//! The program as whoever runs it meets it: how it starts, what it refuses, how it stops, and whom it hangs up on.
//! needs: home, login, signup
#![cfg(unix)]

mod common;

use common::{Browser, Connection, Process, Server, allow_many_sockets, alone, form, latchkey, wait_until};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::Signal;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const HOME: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A sign-up that is refused without any hashing.
fn nameless_sign_up() -> String {
    form("/signup", "", &[("username", ""), ("password", "correct horse battery")])
}

/// A log-in, by a name that nobody has, that takes as long as the hashing does.
fn slow_log_in() -> String {
    form("/login", "", &[("username", "nobody"), ("password", "correct horse battery")])
}

// How it starts, or does not.

#[cfg(feature = "sqlite")]
#[test]
fn an_empty_folder_is_enough_and_the_database_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::bare(&[("PORT", "0")]);
    server.browser().get("/").assert_status(200).assert_contains("Latchkey");
    for (path, expected) in [("data", 0o700), ("data/latchkey.db", 0o600), ("data/latchkey.db-wal", 0o600)] {
        let mode = server.folder().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{path} has mode {mode:o}");
    }
}

/// Starts it with settings that must not work, and answers the one line it says about them.
#[track_caller]
fn refusal(settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(&mut latchkey(folder.path(), &[], settings));
    let status = process.ends_within(10);
    assert!(!status.success() && status.code().is_some(), "it ended with {status}:\n{process}");
    let (said, complaint) = (process.stdout(), process.stderr());
    assert!(said.is_empty() && complaint.lines().count() == 1, "not exactly one line:\n{process}");
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "it left {left:?} behind");
    complaint
}

#[test]
fn a_wrong_setting_is_one_line_that_names_what_to_set() {
    for (settings, cure) in [
        (&[("PORT", "many")][..], "PORT"),
        (&[("PORT", "0"), ("HOST", "0.0.0.0")], "BASE_URL"),
        (&[("PORT", "0"), ("BASE_URL", "http://example.com")], "BASE_URL"),
        (&[("PORT", "0"), ("BASE_URL", "https://example.com")], "TRUSTED_PROXIES"),
        (&[("BASE_URL", "https://example.com"), ("TRUSTED_PROXIES", "none")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "mail.example.com")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "https://mail.example.com")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "smtp://")], "SMTP_URL"),
        (&[("PORT", "0"), ("MAIL_FROM", "Latchkey")], "MAIL_FROM"),
        (&[("PORT", "0"), ("MAIL_FROM", "a@b.example, c@d.example")], "MAIL_FROM"),
        (&[("PORT", "0"), ("MAILS_PER_ACCOUNT", "many")], "MAILS_PER_ACCOUNT"),
        (&[("PORT", "0"), ("DATABASE_URL", "mysql://localhost/app")], "DATABASE_URL"),
        (&[("PORT", "0"), ("RUST_LOG", "latchkey=loud")], "RUST_LOG"),
    ] {
        let complaint = refusal(settings);
        assert!(complaint.contains(cure), "{settings:?} is refused with {complaint:?}, without {cure}");
    }
}

#[test]
fn what_is_refused_of_the_mail_servers_address_is_not_its_password() {
    for url in ["smtps://name:swordfish@", "http://name:swordfish@mail.example.com", "smtp://name:swordfish"]
    {
        let complaint = refusal(&[("PORT", "0"), ("SMTP_URL", url)]);
        assert!(complaint.contains("SMTP_URL") && !complaint.contains("swordfish"), "{complaint}");
    }
}

#[test]
fn a_taken_port_is_one_line_that_names_the_port() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let complaint = refusal(&[("PORT", &port)]);
    assert!(complaint.contains("PORT") && complaint.contains(&port), "{complaint:?}");
}

// How it stops.

#[test]
fn it_stops_at_once_when_asked_to_also_with_idle_connections_open() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[]);
        let mut idle: Vec<Browser> = (0..20).map(|_| server.browser()).collect();
        for browser in &mut idle {
            browser.get("/").assert_status(200);
        }
        let _silent: Vec<Connection> = (0..20).map(|_| Connection::open(server.port).unwrap()).collect();
        server.signal(signal);
        let status = server.ends_within(2);
        assert!(status.success(), "{signal:?} ended it with {status}:\n{}", *server);
    }
}

#[test]
fn it_can_be_stopped_as_soon_as_it_says_where_it_is() {
    for signal in [Signal::TERM, Signal::INT].repeat(3) {
        let mut server = Server::start(&[]);
        server.signal(signal);
        let status = server.ends_within(5);
        assert!(status.success(), "{signal:?} ended it with {status}:\n{}", *server);
    }
}

#[test]
fn a_stop_under_load_loses_no_answer() {
    let _alone = alone();
    let mut server = Server::start(&[("PASSWORD_ITERATIONS", "10000000"), ("RUST_LOG", "warn")]);
    let port = server.port;
    let (stopping, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for number in 0..8 {
            let (stopping, answered, lost) = (&stopping, &answered, &lost);
            let (request, expected) =
                if number % 2 == 0 { (HOME.into(), 200) } else { (nameless_sign_up(), 422) };
            scope.spawn(move || {
                // It ends when the door is shut, and at the latest when the test has failed.
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(60) {
                    let Ok(mut connection) = Connection::open(port) else { break };
                    // Nobody can know whether a connection made later came in before the door was shut.
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
        slow.answer().unwrap().assert_status(422).assert_contains("do not belong together");
    });
    let status = server.ends_within(20);
    assert!(status.success(), "it ended with {status}:\n{}", *server);
    let lost = lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{} of {answered:?} were lost:\n{}", lost.len(), lost.join("\n"));
    let late = Connection::open(port).map(|_| ());
    assert_eq!(late.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
}

#[test]
fn whoever_had_asked_before_the_stop_is_answered() {
    let mut server = Server::start(&[]);
    server.browser().get("/").assert_status(200);
    // Asleep, it cannot take in the connections that the system makes for it.
    server.signal(Signal::STOP);
    let mut visitors: Vec<Connection> = (0..50).map(|_| Connection::open(server.port).unwrap()).collect();
    for visitor in &mut visitors {
        visitor.send(HOME).unwrap();
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let answers: Vec<_> = visitors.iter_mut().map(Connection::answer).collect();
    let lost =
        answers.iter().filter(|answer| !answer.as_ref().is_ok_and(|answer| answer.status == 200)).count();
    let status = server.ends_within(20);
    assert!(
        lost == 0 && status.success(),
        "{lost} of 50 were lost, and it ended with {status}:\n{}",
        *server
    );
}

// Whom it hangs up on.

#[test]
fn who_never_finishes_a_request_is_hung_up_on_and_keeps_nobody_waiting() {
    let _alone = alone();
    allow_many_sockets();
    let server = Server::start(&[("RUST_LOG", "warn")]);
    let open = || Connection::open(server.port).unwrap();
    let mut dribbling: Vec<Connection> = (0..300).map(|_| open()).collect();
    let silent: Vec<Connection> = (0..50).map(|_| open()).collect();
    let mut head = "GET / HTTP/1.1\r\nX-Slow: very slow".bytes();
    let (begun, mut last_byte, mut waits) = (Instant::now(), None::<Instant>, Vec::new());
    let hung_up_on_all = wait_until(15, || {
        if last_byte.is_none_or(|last| last.elapsed() > Duration::from_secs(5)) {
            let byte = [head.next().unwrap()];
            // Who has been hung up on cannot send; whether it was so is asked below.
            dribbling.iter_mut().for_each(|connection| drop(connection.send(byte)));
            last_byte = Some(Instant::now());
        }
        let asked = Instant::now();
        let mut visitor = open();
        visitor.send(HOME).and_then(|()| visitor.answer()).unwrap().assert_status(200);
        waits.push(asked.elapsed());
        dribbling.iter().chain(&silent).all(Connection::is_closed)
    });
    let after = begun.elapsed();
    let open = dribbling.iter().chain(&silent).filter(|connection| !connection.is_closed()).count();
    assert!(hung_up_on_all && open == 0, "{open} of 350 are still open after {after:?}:\n{}", *server);
    assert!(
        after > Duration::from_secs(8),
        "it hung up after {after:?}, which is no time for a slow network"
    );
    waits.sort();
    let (count, slow) = (waits.len(), waits[waits.len() * 95 / 100]);
    assert!(slow < Duration::from_millis(100), "one in twenty of {count} others waited {slow:?} or longer");
}

#[test]
fn a_body_that_dribbles_is_ended() {
    let server = Server::start(&[("BODY_TIMEOUT", "2s")]);
    let mut slow = Connection::open(server.port).unwrap();
    slow.send("POST /signup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let begun = Instant::now();
    while slow.is_quiet() && begun.elapsed() < Duration::from_secs(10) {
        let _ = slow.send("a");
        thread::sleep(Duration::from_millis(100));
    }
    let after = begun.elapsed().as_secs_f64();
    assert!((1.9..5.0).contains(&after), "its 2 s were {after} s:\n{}", *server);
    match slow.answer() {
        Ok(answer) => assert_eq!(answer.status, 408, "{answer}"),
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "neither answered nor closed"),
    }
    server.browser().get("/").assert_status(200);
}

#[test]
fn a_handler_has_its_time_and_no_more() {
    let _alone = alone();
    let server = Server::start(&[("HANDLER_TIMEOUT", "1s"), ("PASSWORD_ITERATIONS", "50000000")]);
    let mut visitor = Connection::open(server.port).unwrap();
    let asked = Instant::now();
    visitor.send(slow_log_in()).unwrap();
    let answer = visitor.answer().unwrap();
    answer.assert_status(503);
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
    let after = asked.elapsed().as_secs_f64();
    assert!((0.9..3.0).contains(&after), "its second was {after} s");
}

#[test]
fn a_huge_body_is_refused_and_whoever_keeps_sending_hears_it() {
    let server = Server::start(&[("RUST_LOG", "warn")]);
    let body = vec![b'a'; 10_000_000];
    let length = format!("Content-Length: {}\r\n", body.len());
    let chunk = [b"10000\r\n", &body[..0x10000], b"\r\n"].concat();
    let chunks = [&chunk.repeat(body.len() / 0x10000)[..], b"0\r\n\r\n"].concat();
    for (headers, body) in [
        (length.clone(), &body),
        (length + "Expect: 100-continue\r\n", &body),
        ("Transfer-Encoding: chunked\r\n".into(), &chunks),
    ] {
        for round in 0..20 {
            let mut sender = Connection::open(server.port).unwrap();
            let begun = Instant::now();
            let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
            sender.send(format!("POST /signup HTTP/1.1\r\nHost: localhost\r\n{kind}{headers}\r\n")).unwrap();
            // It may be cut off on the way; what matters is that it hears why.
            let _ = sender.send(body);
            let answer =
                sender.answer().unwrap_or_else(|error| panic!("round {round} of {headers}: {error}"));
            answer.assert_status(413);
            let after = begun.elapsed();
            assert!(after < Duration::from_secs(5), "round {round} of {headers} took {after:?}");
        }
    }
    server.browser().get("/").assert_status(200);
}

#[test]
fn an_address_of_a_hundred_kilobytes_is_refused() {
    let server = Server::start(&[]);
    let answer = server.browser().get(&format!("/login?next=/{}", "a".repeat(100_000)));
    assert!([414, 431].contains(&answer.status), "{answer}");
    server.browser().get("/").assert_status(200);
}

// What it takes for a request.

#[test]
fn a_request_for_another_site_is_misdirected() {
    let server = Server::start(&[]);
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[200][..]),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", &[200]),
        ("GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", &[200]),
        ("GET / HTTP/1.1\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.0\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", &[421]),
        ("GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", &[421]),
        ("GET / HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", &[400, 421]),
        ("GET / HTTP/1.1\r\nHost: localhost:80@evil.example\r\n\r\n", &[400, 421]),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", &[421]),
        ("GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", &[421]),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", &[421]),
    ] {
        let mut sender = Connection::open(server.port).unwrap();
        sender.send(bytes).unwrap();
        let answer = sender.answer().unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        let status = answer.status;
        assert!(expected.contains(&status), "{bytes:?} is {status} instead of {expected:?}: {answer}");
    }
}

/// All that comes back for these bytes until the server hangs up, and the statuses in it.
#[track_caller]
fn replies(server: &Server, bytes: &str) -> (String, Vec<u16>) {
    let mut sender = Connection::open(server.port).unwrap();
    sender.send(bytes).unwrap();
    let replies = sender.rest().unwrap_or_else(|error| panic!("{bytes:?} is not hung up on: {error}"));
    let statuses = replies.split("HTTP/1.").skip(1).map(|reply| reply[2..5].parse().unwrap()).collect();
    (replies, statuses)
}

#[test]
fn a_request_that_could_be_read_in_two_ways_never_hides_a_second_one() {
    let server = Server::start(&[("HEAD_TIMEOUT", "1s"), ("BODY_TIMEOUT", "1s")]);
    let two = format!("{HOME}{HOME}");
    let (all, statuses) = replies(&server, &two);
    assert_eq!(statuses, [200, 200], "two are not seen as two: {all}");
    // Of two lengths the chunks count, and the connection ends with the answer (RFC 9112, 6.1).
    for (headers, body, expected) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", &[400, 422][..]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n", &[400, 422]),
        ("Content-Length: 0\r\nContent-Length: 44\r\n", "", &[400]),
        ("Content-Length: 0, 44\r\n", "", &[400]),
        ("Content-Length: +0\r\n", "", &[400]),
        ("Content-Length : 0\r\n", "", &[400]),
        ("Content-Length: 0\r\nTransfer-Encoding: identity\r\n", "", &[400]),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n", "1\r\nab0\r\n\r\n", &[400]),
        ("X-Bare: a\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", &[400]),
        ("X-Folded: a\r\n Content-Length: 44\r\n", "", &[400]),
    ] {
        let bytes = format!("POST /signup HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}{HOME}");
        let (all, statuses) = replies(&server, &bytes);
        let at_most_one = statuses.len() <= 1 && statuses.iter().all(|status| expected.contains(status));
        assert!(at_most_one, "{bytes:?} is answered by {statuses:?} instead of one of {expected:?}: {all}");
    }
}

#[test]
fn who_never_reads_an_answer_is_hung_up_on() {
    let server = Server::start(&[("HEAD_TIMEOUT", "2s")]);
    // A small buffer, set before connecting, so that the server has nowhere to put its answers.
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    let requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let hung_up =
        wait_until(15, || stream.write(&requests).is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    assert!(hung_up, "it still holds the connection:\n{}", *server);
    server.browser().get("/").assert_status(200);
}
