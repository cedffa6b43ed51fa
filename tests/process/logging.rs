//! The log says what happened and contains no secret, and nothing waits for whoever reads it.
//! needs: home, login, signup

use crate::common::{
    Connection, Database, HOME, PASSWORD, Process, Server, Signal, form, free_port, latchkey, routes, send_at_once,
    wait_until,
};
use std::io::PipeReader;
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

#[test]
fn the_log_tells_what_happened_and_no_secret() {
    let mut server = Server::start(&[("RUST_LOG", "debug,latchkey=trace")]);
    let mut ada = server.browser();
    let mut secrets = vec![PASSWORD.to_string(), "a wrong guess".into(), "$pbkdf2".into()];
    secrets.extend(["pathtoken", "querytoken", "unknowntoken"].map(String::from));
    ada.sign_up("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    ada.assert_logged_in("ada");
    ada.post("/logout", &[]).assert_redirect("/");
    ada.log_in_with("ada", "a wrong guess").assert_status(422);
    // People do type their password into the wrong field.
    ada.log_in(PASSWORD).assert_status(422);
    ada.log_in("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    for route in routes().iter().filter(|route| route.method == "GET" && route.path.contains('{')) {
        let (before, rest) = route.path.split_once('{').unwrap();
        let (_, after) = rest.split_once('}').unwrap();
        let answer = ada.get(&format!("{before}pathtoken{after}"));
        assert!(answer.status < 500, "{answer}");
    }
    ada.get("/nowhere/unknowntoken").assert_status(404);
    ada.post("/logout", &[]).assert_redirect("/");
    ada.get("/login?next=/querytoken").assert_status(200);
    assert!(secrets.len() >= 8, "no cookies were seen: {secrets:?}");

    server.signal(Signal::TERM);
    server.wait_for_exit(10);
    let log = server.stdout() + &server.stderr();
    for shown in ["/login", "status=422", "status=303", "insert into users"] {
        assert!(log.contains(shown), "{shown} is not in the log:\n{log}");
    }
    assert!(!log.contains("lost because"), "a part of the log is missing");
    let form_encoded = |secret: &str| secret.replace(' ', "+");
    for secret in secrets {
        let told = log.lines().find(|line| line.contains(&secret) || line.contains(&form_encoded(&secret)));
        assert_eq!(told, None, "{secret} is in the log");
    }
}

/// A server whose output nobody reads.
struct Unread {
    process: Process,
    output: PipeReader,
    port: u16,
    _folder: TempDir,
}

impl Unread {
    fn start(database: &Database, rust_log: &str) -> Unread {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let settings = [
            ("DATABASE_URL", &*database.url),
            ("PORT", &*port.to_string()),
            ("RUST_LOG", rust_log),
            ("DRAIN_TIMEOUT", "1s"),
        ];
        let (process, output) = Process::start_unread(&mut latchkey(folder.path(), &[], &settings));
        let listens = wait_until(30, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(listens, "it does not listen");
        Unread { process, output, port, _folder: folder }
    }

    /// Each of so many requests writes a line at `RUST_LOG=debug`.
    #[track_caller]
    fn answers(&self, requests: usize) {
        let mut connection = Connection::open(self.port).unwrap();
        for _ in 0..requests {
            connection.send(HOME).unwrap();
            connection.answer().unwrap().assert_status(200);
        }
    }
}

#[test]
fn a_password_hash_that_this_build_cannot_verify_is_an_error_in_the_log_and_no_log_in() {
    const BCRYPT: &str = "$2b$12$/O5Gjak26V18moyasJLY6.LD9EeqgxiQeDZ/ivkyXeseNRTRS3F22";
    let database = Database::new();
    let server = Server::on(&database, &[("PASSWORD_FREE_ATTEMPTS", "1000")]);
    server.browser().sign_up("ada").assert_redirect("/");
    for (hash, is_known) in [
        ("{SSHA}c2FsdHNhbHRzYWx0", false),
        ("$6$salt$hash", false),
        ("!", false),
        (BCRYPT, cfg!(feature = "imported_hashes")),
    ] {
        database.execute(&format!("update passwords set hash = '{hash}'"));
        let before = server.lines_with("--features imported_hashes").len();
        server.browser().log_in("ada").assert_status(422);
        let told = wait_until(20, || server.lines_with("--features imported_hashes").len() > before || is_known);
        let after = server.lines_with("--features imported_hashes").len();
        assert!(told && (after == before) == is_known, "{hash}: {}", *server);
        assert!(server.lines_with(hash).is_empty(), "the hash is in the log");
    }
}

#[test]
#[cfg_attr(not(unix), ignore = "needs a pipe of unix")]
fn a_site_whose_log_nobody_reads_goes_on_and_stops_when_asked() {
    let database = Database::new();
    let mut site = Unread::start(&database, "debug");
    site.answers(500);
    site.process.signal(Signal::TERM);
    assert!(site.process.wait_for_exit(30).success());
}

#[test]
#[cfg_attr(not(unix), ignore = "needs a pipe of unix")]
fn a_site_that_cannot_say_why_it_ends_ends_nevertheless() {
    let database = Database::new();
    let mut site = Unread::start(&database, "info");
    site.answers(1);
    // A request that is never complete is still under way after DRAIN_TIMEOUT, which is an error.
    let mut slow = Connection::open(site.port).unwrap();
    slow.send("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(500));
    site.process.signal(Signal::TERM);
    assert_eq!(site.process.wait_for_exit(30).code(), Some(1));
}

#[test]
#[cfg_attr(not(unix), ignore = "needs a pipe of unix")]
fn the_last_lines_are_there_for_whoever_reads_them_at_last() {
    let database = Database::new();
    let mut site = Unread::start(&database, "debug");
    site.answers(100);
    site.process.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    site.process.read(site.output);
    assert!(site.process.wait_for_exit(10).success());
    let told = [" is at http", "path=\"/\"", "connections are open"].map(|words| site.process.lines_with(words).len());
    assert_eq!(told, [1, 100, 1], "{}", site.process);
}

#[test]
#[cfg_attr(not(unix), ignore = "needs a pipe of unix")]
fn a_log_that_is_read_late_says_how_much_was_lost() {
    let database = Database::new();
    let mut site = Unread::start(&database, "debug");
    site.answers(4500);
    site.process.read(site.output);
    let lost = "lines were lost because the log was not read fast enough";
    assert!(wait_until(10, || site.process.stdout().contains(lost)), "{}", site.process);
}

#[test]
fn a_flood_of_refusals_is_a_few_lines_that_say_how_many_there_were() {
    let busy = [("HASH_JOBS", "1"), ("HASH_QUEUE", "1"), ("PASSWORD_ITERATIONS", "3000000")];
    let settings = [&busy[..], &[("PASSWORD_FREE_ATTEMPTS", "1000000"), ("RUST_LOG", "warn,latchkey=info")]].concat();
    let mut server = Server::start(&settings);
    let guess = (server.port, form("/login", "", &[("username", "nobody"), ("password", "a wrong guess")]));
    let answers = send_at_once(&vec![guess; 300]);
    let refused = answers.iter().filter(|answer| answer.status == 503).count();
    assert!(refused > 200, "only {refused} were refused");
    server.signal(Signal::TERM);
    server.wait_for_exit(10);
    let lines = server.lines_with("status=503");
    assert!(lines.len() < 20, "{} lines for {refused} refusals:\n{}", lines.len(), *server);
    let count = |line: &String| match line.split_once("repeated ") {
        Some((_, rest)) => rest.split(' ').next().unwrap().parse().unwrap_or(1),
        None => 1,
    };
    assert_eq!(lines.iter().map(count).sum::<usize>(), refused, "{}", *server);
}

/// Asks for the home page once for each of these, as `X-Forwarded-For`.
#[track_caller]
fn forward(server: &Server, hops: &[&[u8]]) {
    for hops in hops {
        let mut connection = Connection::open(server.port).unwrap();
        let (before, after) = HOME.split_at(HOME.len() - 2);
        connection.send([before.as_bytes(), b"X-Forwarded-For: ", hops, b"\r\n", after.as_bytes()].concat()).unwrap();
        connection.answer().unwrap().assert_status(200);
    }
}

#[test]
fn a_proxy_that_nobody_has_named_is_told_of_once_with_the_line_to_set() {
    for settings in [&[][..], &[("TRUSTED_PROXIES", "none")]] {
        let mut server = Server::start(settings);
        server.browser().get("/").assert_status(200);
        forward(&server, &[b"203.0.113.9", b"swordfish", b"203.0.113.9:51234, 10.0.0.1", b"\xff"]);
        server.signal(Signal::TERM);
        server.wait_for_exit(10);
        let lines = server.lines_with("X-Forwarded-For");
        assert_eq!(lines.len(), 1, "{}", *server);
        assert!(lines[0].contains("WARN") && lines[0].contains("set TRUSTED_PROXIES=127.0.0.1,"), "{}", lines[0]);
        assert!(!server.stdout().contains("swordfish"), "{}", *server);
    }
}

#[test]
fn what_a_proxy_writes_that_cannot_be_read_is_told_of_once() {
    for hops in [&b"swordfish"[..], b"203.0.113.9, unknown", b"203.0.113.9, _hidden", b"203.0.113.9,\xff\xfe", b"[::1"]
    {
        let mut server = Server::start(&[("TRUSTED_PROXIES", "127.0.0.1")]);
        forward(&server, &[b"203.0.113.9", b"\"[2001:db8::9]:51234\"", b"nobody, 203.0.113.9:80", b" , "]);
        forward(&server, &[hops; 3]);
        server.signal(Signal::TERM);
        server.wait_for_exit(10);
        let lines = server.lines_with("X-Forwarded-For");
        assert_eq!(lines.len(), 1, "{}", *server);
        assert!(lines[0].contains("WARN") && lines[0].contains("let this proxy append the address"), "{}", lines[0]);
        assert!(!server.stdout().contains("swordfish"), "{}", *server);
    }
}
