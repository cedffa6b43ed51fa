//! How long connections stay open, which of them are closed when there are too many, and how long a head may be.
//! needs: home, login

use crate::common::{Connection, Database, HOME, Server, allow_many_sockets, run_with_others, wait_until};
use std::thread::sleep;
use std::time::Duration;

const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHost: loc";
const HALF_A_BODY: &str = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\na=";

fn open(server: &Server) -> Connection {
    Connection::open(server.port).unwrap()
}

#[track_caller]
fn assert_answered(connection: &mut Connection) {
    connection.send(HOME).and_then(|()| connection.answer()).unwrap().assert_status(200);
}

/// A busy machine may be late. By the default limits it would be closed after 10 s or later.
#[track_caller]
fn assert_closed_after(connection: &Connection, seconds: u64, server: &Server) {
    sleep(Duration::from_millis(seconds * 500));
    assert!(connection.is_quiet(), "it is closed too early:\n{}", **server);
    assert!(wait_until(6, || connection.is_closed()), "it is still open after {seconds} s:\n{}", **server);
}

#[test]
fn a_connection_is_kept_between_requests_for_longer_than_a_head_may_take() {
    let _shared = run_with_others();
    let server = Server::start(&[("KEEP_ALIVE", "4s"), ("HEAD_TIMEOUT", "1s")]);
    let mut visitor = open(&server);
    assert_answered(&mut visitor);
    sleep(Duration::from_secs(3));
    assert_answered(&mut visitor);
    assert_closed_after(&visitor, 4, &server);
}

#[test]
fn a_head_has_its_time_from_its_first_byte_and_no_more_however_it_comes() {
    let _shared = run_with_others();
    let server = Server::start(&[("KEEP_ALIVE", "60s"), ("HEAD_TIMEOUT", "2s")]);
    let silent = open(&server);
    assert_closed_after(&silent, 2, &server);
    let mut second = open(&server);
    assert_answered(&mut second);
    sleep(Duration::from_millis(2500));
    let mut first = open(&server);
    for slow in [&mut first, &mut second] {
        slow.send(HALF_A_HEAD).unwrap();
    }
    sleep(Duration::from_secs(1));
    assert!(first.is_quiet() && second.is_quiet(), "they are closed too early:\n{}", *server);
    let send_more_and_see = || {
        // Fails once the connection is closed.
        [&mut first, &mut second].map(|slow| slow.send("a").is_err() || slow.is_closed()) == [true; 2]
    };
    assert!(wait_until(6, send_more_and_see), "they are still open:\n{}", *server);
}

#[test]
fn one_network_that_opens_too_many_connections_loses_those_that_have_waited_longest() {
    let _shared = run_with_others();
    let server = Server::start(&[("CONNECTIONS_PER_ADDRESS", "20")]);
    let mut oldest = open(&server);
    assert_answered(&mut oldest);
    let waiting: Vec<Connection> = (0..30)
        .map(|number| {
            let mut waiting = open(&server);
            if number % 2 == 0 {
                waiting.send(HALF_A_HEAD).unwrap();
            }
            sleep(Duration::from_millis(2));
            waiting
        })
        .collect();
    let mut newest = open(&server);
    assert_answered(&mut newest);
    assert!(wait_until(10, || oldest.is_closed() && waiting[..11].iter().all(Connection::is_closed)), "{}", *server);
    assert!(waiting[11..].iter().all(Connection::is_quiet), "more were closed than necessary:\n{}", *server);
}

#[test]
fn a_connection_with_a_request_in_hand_makes_room_for_no_other_of_its_network() {
    let _shared = run_with_others();
    let server = Server::start(&[("CONNECTIONS_PER_ADDRESS", "5"), ("BODY_TIMEOUT", "30s")]);
    let busy: Vec<Connection> = (0..5)
        .map(|_| {
            let mut busy = open(&server);
            busy.send(HALF_A_BODY).unwrap();
            busy
        })
        .collect();
    sleep(Duration::from_millis(500));
    let sixth = open(&server);
    assert!(wait_until(10, || sixth.is_closed()), "a sixth is let in:\n{}", *server);
    assert!(busy.iter().all(|busy| !busy.is_closed()), "{}", *server);
}

#[test]
fn connections_of_trusted_proxies_count_only_together_with_all_others() {
    let _shared = run_with_others();
    let settings = [("CONNECTIONS_PER_ADDRESS", "5"), ("CONNECTIONS", "20"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let server = Server::start(&settings);
    let proxy: Vec<Connection> = (0..20).map(|_| open(&server)).collect();
    sleep(Duration::from_millis(200));
    assert!(proxy.iter().all(Connection::is_quiet), "{}", *server);
    assert_answered(&mut open(&server));
    assert!(wait_until(10, || proxy[0].is_closed()), "{}", *server);
    assert!(!proxy[19].is_closed(), "{}", *server);
}

#[test]
#[cfg_attr(not(unix), ignore = "needs ulimit")]
fn with_few_files_thousands_who_send_nothing_or_too_little_keep_nobody_out() {
    let _shared = run_with_others();
    allow_many_sockets();
    let database = Database::new();
    let server = Server::on_with_files(1024, &database, &[("CONNECTIONS_PER_ADDRESS", "100000")]);
    let mut held = Vec::new();
    for number in 0..3000 {
        let mut connection = open(&server);
        let _ = match number % 4 {
            0 => connection.send(HALF_A_HEAD),
            1 => connection.send(HALF_A_BODY),
            2 => connection.send(HALF_A_BODY.replace("\r\n\r\na=", "\r\nExpect: 100-continue\r\n\r\n")),
            _ => Ok(()),
        };
        held.push(connection);
        if number % 100 == 99 {
            assert_answered(&mut open(&server));
        }
    }
    assert!(server.lines_with("could not be accepted").is_empty(), "{}", *server);
}

#[test]
fn a_head_that_is_too_long_gets_a_page_and_a_huge_one_is_cut_off() {
    let _shared = run_with_others();
    let server = Server::start(&[]);
    let with_header = |length| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(length));
    let answer = |length| {
        let mut connection = open(&server);
        let _ = connection.send(with_header(length));
        connection.answer()
    };
    answer(30_000).unwrap().assert_status(200);
    answer(40_000).unwrap().assert_status(431).assert_contains("</html>");
    assert!(answer(350_000).is_ok_and(|answer| answer.status == 431) || answer(350_000).is_err());
    let many: String = (0..200).map(|number| format!("X-{number}: a\r\n")).collect();
    let mut connection = open(&server);
    connection.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).unwrap();
    connection.answer().unwrap().assert_status(431);
}
