//! How long the server waits for clients, and for itself.
//! needs: home, login, signup

use crate::common::{Connection, HOME, PASSWORD, Server, allow_many_sockets, form, run_with_others, wait_until};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, connect, socket};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_client_that_never_finishes_a_request_is_disconnected_and_delays_nobody() {
    let _shared = run_with_others();
    allow_many_sockets();
    let server = Server::start(&[("RUST_LOG", "warn")]);
    let open = || Connection::open(server.port).unwrap();
    let mut dribbling: Vec<Connection> = (0..300).map(|_| open()).collect();
    let silent: Vec<Connection> = (0..50).map(|_| open()).collect();
    let mut head = "GET / HTTP/1.1\r\nX-Slow: very slow".bytes();
    let (begun, mut last_byte, mut waits) = (Instant::now(), None::<Instant>, Vec::new());
    let hung_up_on_all = wait_until(30, || {
        if last_byte.is_none_or(|last| last.elapsed() > Duration::from_secs(5)) {
            let byte = [head.next().unwrap()];
            // Fails once the connection is closed, which is checked below.
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
    assert!(after > Duration::from_secs(8), "it hung up after {after:?}, which is no time for a slow network");
    waits.sort();
    let (count, slow) = (waits.len(), waits[waits.len() * 95 / 100]);
    // Who had to wait for one of the slow clients would wait for seconds.
    assert!(slow < Duration::from_secs(1), "one in twenty of {count} others waited {slow:?} or longer");
}

#[test]
fn a_body_that_dribbles_is_ended() {
    let _shared = run_with_others();
    let server = Server::start(&[("BODY_TIMEOUT", "2s")]);
    let mut slow = Connection::open(server.port).unwrap();
    slow.send("POST /signup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let begun = Instant::now();
    while slow.is_quiet() && begun.elapsed() < Duration::from_secs(20) {
        let _ = slow.send("a");
        thread::sleep(Duration::from_millis(100));
    }
    let after = begun.elapsed().as_secs_f64();
    // By the default it would be ended after 10 s.
    assert!((1.9..8.0).contains(&after), "its 2 s were {after} s:\n{}", *server);
    match slow.answer() {
        Ok(answer) => assert_eq!(answer.status, 408, "{answer}"),
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "neither answered nor closed"),
    }
    server.browser().get("/").assert_status(200);
}

#[test]
fn a_handler_has_its_time_and_no_more() {
    let _shared = run_with_others();
    let server = Server::start(&[("HANDLER_TIMEOUT", "1s"), ("PASSWORD_ITERATIONS", "50000000")]);
    let log_in = form("/login", "", &[("username", "nobody"), ("password", PASSWORD)]);
    let mut visitor = Connection::open(server.port).unwrap();
    let asked = Instant::now();
    visitor.send(&log_in).unwrap();
    let answer = visitor.answer().unwrap();
    answer.assert_status(503);
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
    let after = asked.elapsed().as_secs_f64();
    // Hashing takes much longer.
    assert!((0.9..8.0).contains(&after), "its second was {after} s");
}

#[test]
fn a_huge_body_is_refused_and_a_client_that_keeps_sending_gets_the_answer() {
    let _shared = run_with_others();
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
            // Sending may fail, but the answer must arrive.
            let _ = sender.send(body);
            let answer = sender.answer().unwrap_or_else(|error| panic!("round {round} of {headers}: {error}"));
            answer.assert_status(413);
            let after = begun.elapsed();
            // Who waited for the rest would wait for 10 s.
            assert!(after < Duration::from_secs(8), "round {round} of {headers} took {after:?}");
        }
    }
    server.browser().get("/").assert_status(200);
}

#[test]
fn a_client_that_never_reads_an_answer_is_disconnected() {
    let _shared = run_with_others();
    let server = Server::start(&[("HEAD_TIMEOUT", "2s")]);
    // A small buffer, set before connecting, so that the answers do not fit.
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    let requests = HOME.repeat(50).into_bytes();
    let hung_up = wait_until(30, || stream.write(&requests).is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    assert!(hung_up, "it still holds the connection:\n{}", *server);
    server.browser().get("/").assert_status(200);
}
