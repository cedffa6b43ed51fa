//! Requests as bytes: for which host they are, and where they end.
//! needs: home, signup

use crate::common::{Connection, HOME, Server};

#[test]
fn an_address_of_a_hundred_kilobytes_is_refused() {
    let server = Server::start(&[]);
    let answer = server.browser().get(&format!("/login?next=/{}", "a".repeat(100_000)));
    assert!([414, 431].contains(&answer.status), "{answer}");
    server.browser().get("/").assert_status(200);
}

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

/// Everything the server sends for these bytes until it closes the connection, and the statuses in it.
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
    let server = Server::start(&[("KEEP_ALIVE", "1s"), ("HEAD_TIMEOUT", "1s"), ("BODY_TIMEOUT", "1s")]);
    let two = format!("{HOME}{HOME}");
    let (all, statuses) = replies(&server, &two);
    assert_eq!(statuses, [200, 200], "two are not seen as two: {all}");
    // With two lengths, chunked wins and the connection is closed after the answer (RFC 9112, 6.1).
    for (headers, body, expected) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", &[400, 422][..]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n", &[400, 422]),
        ("Content-Length: 0\r\nContent-Length: 44\r\n", "", &[400]),
        ("Content-Length: 0, 44\r\n", "", &[400]),
        ("Content-Length: +0\r\n", "", &[400]),
        ("Content-Length : 0\r\n", "", &[400]),
        ("Content-Length: 0\r\nTransfer-Encoding: identity\r\n", "", &[400]),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", &[501]),
        ("Transfer-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", &[501]),
        ("Transfer-Encoding: br,chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n", &[501]),
        ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n0\r\n\r\n", &[400, 501]),
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
