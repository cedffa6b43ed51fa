//! Clients that disconnect before they are answered: what they have begun is done whole, and nobody else notices.
//! needs: home, login, password_reset, signup

use crate::common::{
    Browser, Connection, Database, QUIET, Server, Signal, form, numbered, run_alone, run_with_others, sign_up_fields,
    wait_until,
};
use rustix::net::sockopt::set_socket_linger;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// With these a password takes long enough to hang up in the middle, and sign-ups wait for each other as long as it takes.
const SLOW_HASHING: &[(&str, &str)] = &[
    ("PASSWORD_ITERATIONS", "6000000"),
    ("HASH_WAIT", "120s"),
    ("HANDLER_TIMEOUT", "120s"),
    ("DRAIN_TIMEOUT", "120s"),
];

/// Sends a sign-up for each name and disconnects while the first passwords are hashed.
fn sign_up_and_hang_up(server: &Server, names: &[String]) {
    let send = |name: &String| {
        let mut visitor = Connection::open(server.port).unwrap();
        visitor.send(form("/signup", "", &sign_up_fields(name))).unwrap();
        visitor
    };
    let visitors: Vec<Connection> = names.iter().map(send).collect();
    thread::sleep(Duration::from_millis(500));
    for visitor in visitors {
        assert!(visitor.is_quiet(), "it was answered before the client could hang up");
    }
}

#[test]
fn a_sign_up_is_done_whole_although_its_client_hangs_up() {
    let _shared = run_with_others();
    let database = Database::new();
    let server = Server::on(&database, SLOW_HASHING);
    sign_up_and_hang_up(&server, &numbered("ada", 3));
    for rows in ["users", "passwords", "sessions", "events where kind = 'signed_up'"] {
        let all = || database.count(&format!("select count(*) from {rows}")) == 3;
        assert!(wait_until(120, all), "not all {rows} are there:\n{}", *server);
    }
}

#[test]
fn a_stop_waits_for_what_clients_have_begun_that_hung_up() {
    let _shared = run_with_others();
    let database = Database::new();
    let mut server = Server::on(&database, SLOW_HASHING);
    sign_up_and_hang_up(&server, &numbered("ada", 1));
    server.signal(Signal::TERM);
    let status = server.wait_for_exit(120);
    assert!(status.success(), "it ended with {status}:\n{}", *server);
    assert_eq!(database.count("select count(*) from users"), 1, "{}", *server);
}

const ATTACKER: &str = "X-Forwarded-For: 203.0.113.9\r\n";

/// Sends a request and resets the connection so many microseconds later.
fn reset_after(port: u16, request: &str, microseconds: u64) {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    let _ = stream.write_all(request.as_bytes());
    thread::sleep(Duration::from_micros(microseconds));
}

/// How long one in twenty of those waits who use the site for some seconds, while a crowd sends these requests and hangs up.
fn one_in_twenty_waits(
    server: &Server,
    ada: &mut Browser,
    requests: &[String; 3],
    crowd: usize,
    round: u64,
) -> Duration {
    let (begun, hang_ups) = (Instant::now(), AtomicUsize::new(0));
    let is_over = || begun.elapsed() > Duration::from_secs(2 * round);
    let mut waits = Vec::new();
    thread::scope(|scope| {
        for thread in 0..crowd {
            let (hang_ups, is_over) = (&hang_ups, &is_over);
            scope.spawn(move || {
                for number in (thread..).take_while(|_| !is_over()) {
                    reset_after(server.port, &requests[number % 3], number as u64 * 37 % 1000);
                    hang_ups.fetch_add(1, Relaxed);
                }
            });
        }
        for number in (0..).take_while(|_| !is_over()) {
            let asked = Instant::now();
            let mut bob = server.browser().with_header("X-Forwarded-For", "192.0.2.2");
            bob.sign_up(&format!("bob{round}n{number}")).assert_redirect("/");
            ada.assert_logged_in("ada");
            waits.push(asked.elapsed());
        }
    });
    waits.sort();
    let (count, slow) = (waits.len(), waits[waits.len() * 95 / 100]);
    println!("{hang_ups:?} hung up; half of {count} others waited {:?}, one in twenty {slow:?}", waits[count / 2]);
    slow
}

#[test]
fn thousands_who_hang_up_delay_nobody_and_cost_no_connection_to_the_database() {
    let _alone = run_alone();
    let database = Database::new();
    let server = &Server::on(&database, &[QUIET, ("TRUSTED_PROXIES", "127.0.0.1")]);
    let mut ada = server.browser().with_header("X-Forwarded-For", "192.0.2.1");
    ada.sign_up("ada").assert_redirect("/");
    let token = "A".repeat(43);
    let requests = [
        format!("GET /password-reset/{token} HTTP/1.1\r\nHost: localhost\r\n{ATTACKER}\r\n"),
        form("/logout", &format!("Cookie: session_token={token}\r\n{ATTACKER}"), &[]),
        form("/login", ATTACKER, &[("username", "nobody"), ("password", &"x".repeat(1025))]),
    ];
    // What else the machine has to do only adds, so the best of three rounds counts. A connection that is lost to those who
    // hang up costs at least two seconds, and then a 503.
    let most = Duration::from_millis(1500).max(10 * one_in_twenty_waits(server, &mut ada, &requests, 0, 1));
    let mut rounds = (2..5).map(|round| one_in_twenty_waits(server, &mut ada, &requests, 2, round));
    assert!(rounds.any(|slow| slow < most), "one in twenty waited longer than {most:?} in each round");
    if database.url.starts_with("postgres") {
        let young = "select count(*) from pg_stat_activity where datname = current_database() \
                     and pid <> pg_backend_pid() and backend_start > now() - interval '4 seconds'";
        assert_eq!(database.count(young), 0, "connections were replaced:\n{}", **server);
    }
}
