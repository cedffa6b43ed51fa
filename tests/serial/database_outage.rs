//! The connections to the database stall or break, or it can only be read: people are told to come back, and nobody is
//! logged out but who wants to be.
//! needs: health, home, login, signup

use crate::common::{
    Answer, Browser, Connection, Database, Proxy, Route, Server, Signal, routes, run_with_others, wait_until,
};
use std::fs::{File, remove_file};
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
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
    // Who is caught waits for two seconds.
    let soon = Duration::from_millis(1500);
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
    assert!((1.9..6.0).contains(&after.as_secs_f64()), "the caught one waited {after:?}");
    for (browser, name) in people.iter_mut().zip(&names) {
        browser.assert_logged_in(name);
    }
}

#[track_caller]
fn assert_patience(answer: &Answer) {
    answer.assert_status(503);
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
    assert!(answer.header("set-cookie").is_none(), "a cookie is changed: {answer}");
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

    let mut leaving = server.browser();
    leaving.log_in("ada").assert_redirect("/");
    let mut thief = leaving.also_at(server.port);
    proxy.cut();
    // The first ones may meet a connection that breaks.
    ada.get("/");
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(1) || asked < 5 {
        for path in ["/", "/login", "/signup"] {
            assert_patience(&ada.get(path));
        }
        assert_patience(&ada.also_at(server.port).log_in("ada"));
        server.browser().get("/").assert_status(200);
        asked += 1;
    }
    let each = begun.elapsed() / (5 * asked);
    leaving.post("/logout", &[]).assert_status(503).assert_contains("You are logged out in this browser");
    assert!(leaving.cookies().get("session_token").is_none_or(String::is_empty), "{:?}", leaving.cookies());
    // Who waits for it waits for two seconds.
    assert!(each < Duration::from_secs(1), "a server that refuses connections is waited for, {each:?} each time");
    proxy.mend();

    let mended = Instant::now();
    loop {
        let answer = ada.get("/");
        if answer.status != 503 {
            answer.assert_logged_in("ada");
            break;
        }
        assert_patience(&answer);
        assert!(mended.elapsed() < Duration::from_secs(15), "it has not recovered:\n{}", *server);
    }
    {
        let a = thief.get("/");
        assert_eq!(a.status, 200, "{}", *server);
    }
    let left = || database.count("select count(*) from sessions") == 1;
    assert!(wait_until(10, left), "the session is still there:\n{}", *server);
    server.browser().log_in("ada").assert_redirect("/");
}

#[test]
fn it_stops_soon_also_without_its_database() {
    let _shared = run_with_others();
    let Some(database) = postgres() else { return };
    let proxy = Proxy::to(&database.url);
    let mut server = Server::on(&database, &[("DATABASE_URL", &proxy.url)]);
    proxy.cut();
    thread::sleep(Duration::from_secs(1));
    server.signal(Signal::TERM);
    let status = server.wait_for_exit(10);
    assert!(status.success(), "{status}:\n{}", *server);
}

/// Sessions can be read and not be written, because somebody holds a lock, as the making of an index does.
#[test]
fn a_right_password_that_met_an_outage_does_not_count_as_wrong() {
    let _shared = run_with_others();
    let Some(database) = postgres() else { return };
    let name = database.url.rsplit_once('/').unwrap().1.to_string();
    database.execute(&format!("alter database {name} set lock_timeout = '50ms'"));
    let server = Server::on(&database, &[]);
    server.browser().sign_up("ada").assert_redirect("/");
    let lock = "begin; lock table sessions in share mode; select pg_sleep(8); commit";
    thread::scope(|scope| {
        let locked = scope.spawn(|| database.execute(lock));
        assert!(wait_until(10, || log_in(&server).status == 503), "{}", *server);
        for _ in 0..12 {
            assert_patience(&log_in(&server));
        }
        assert!(!locked.is_finished(), "it took too long");
    });
    log_in(&server).assert_redirect("/");
    let kept = "select count(*) from events where kind in ('log_in_failed', 'throttled')";
    assert_eq!(database.count(kept), 0, "{}", *server);
    for _ in 0..5 {
        server.browser().post("/login", &[("username", "ada"), ("password", "a guess")]).assert_status(422);
    }
    log_in(&server).assert_status(429);
}

const READY: &str = "ready\n";
const DEGRADED: &str = "degraded: cannot write\n";

#[track_caller]
fn assert_readiness(server: &Server, expected: &str) {
    let answer = server.browser().get("/readyz");
    answer.assert_status(200);
    assert_eq!(answer.body, expected, "{}", **server);
}

/// A second browser logs in.
fn log_in(server: &Server) -> Answer {
    server.browser().log_in("ada")
}

/// Looks on while writes are refused: reads go on, a log-out empties the browser, and everything else that writes is asked
/// to come back. `refuse` and `accept` make the database refuse writes, and take them again. Some reads may fail at once
/// after `refuse`.
fn write_again_soon(server: &Server, refuse: impl FnOnce(), accept: impl FnOnce()) {
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let mut leaving = server.browser();
    leaving.log_in("ada").assert_redirect("/");
    let thief = leaving.also_at(server.port);
    assert_readiness(server, READY);
    refuse();
    let is_degraded = || log_in(server).status == 503 && server.browser().get("/readyz").body == DEGRADED;
    assert!(wait_until(10, is_degraded), "{}", **server);
    assert!(wait_until(10, || ada.get("/").status == 200), "{}", **server);

    // Others read all the time, on both sides of the change.
    let (done, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (mut reader, done, read) = (ada.also_at(server.port), done.clone(), read.clone());
            thread::spawn(move || {
                while !done.load(SeqCst) {
                    reader.assert_logged_in("ada");
                    read.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for Route { path, .. } in routes().iter().filter(|route| route.method == "GET" && !route.path.contains('{')) {
        let cookie = &ada.cookies()["session_token"];
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: session_token={cookie}\r\n");
        let mut connection = Connection::open(server.port).unwrap();
        connection.send(head + "Connection: close\r\n\r\n").unwrap();
        let answer = connection.rest().unwrap();
        assert!(!answer.starts_with("HTTP/1.1 5"), "{path}: {answer}");
    }
    let refusals = [(); 5].map(|()| {
        let begun = Instant::now();
        assert_patience(&log_in(server));
        assert_patience(&server.browser().sign_up("bob"));
        let both = begun.elapsed();
        assert_readiness(server, DEGRADED);
        both
    });
    // Waiting for a database that takes no writes would take two seconds each time.
    assert!(refusals.iter().min().unwrap() < &Duration::from_secs(2), "{refusals:?}");
    let answer = leaving.post("/logout", &[]);
    answer.assert_status(503).assert_contains("You are logged out in this browser");
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {answer}");
    leaving.assert_logged_out();
    // Not by the cookie that somebody has kept, either.
    let mut thief = thief;
    thief.assert_logged_out();

    accept();
    // It tries every 0.3 s.
    assert!(wait_until(4, || server.browser().get("/readyz").body == READY), "{}", **server);
    for _ in 0..20 {
        log_in(server).assert_redirect("/");
    }
    assert_readiness(server, READY);
    done.store(true, SeqCst);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(read.load(SeqCst) > 20, "only {} pages were read", read.load(SeqCst));
    server.browser().sign_up("bob").assert_redirect("/");
    assert!(wait_until(10, || server.lines_with("accepts writes again").len() == 1), "{}", **server);
}

#[test]
fn after_a_failover_people_read_all_the_time_and_write_as_soon_as_one_server_can_be_written() {
    let _shared = run_with_others();
    let Some(database) = postgres() else { return };
    let server = Server::on(&database, &[]);
    let change = |to: &str| {
        // Sessions that are open keep what they have, as those to a server that has been replaced.
        let name = database.url.rsplit_once('/').unwrap().1;
        database.execute(&format!("begin read write; alter database {name} {to}; commit"));
    };
    let refuse = || {
        change("set default_transaction_read_only = on");
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid()",
        );
    };
    write_again_soon(&server, refuse, || change("reset default_transaction_read_only"));
    let left = database.count("select count(*) from events where kind = 'logged_out'");
    assert_eq!(left, 1, "the log-out is recorded once the database can be written:\n{}", *server);
}

/// A file system of a few megabytes, which only root can make.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<SmallDisk> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(folder.to_path_buf())),
            _ => {
                let _ = writeln!(stderr(), "skipped, because no small file system can be mounted");
                None
            }
        }
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("full")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        remove_file(self.0.join("full")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn with_a_full_disk_people_read_all_the_time_and_write_as_soon_as_there_is_room() {
    let _shared = run_with_others();
    if Database::postgres().is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()) else { return };
    let url = format!("sqlite://{}/test.db", folder.path().display());
    let server = Server::start(&[("DATABASE_URL", &url)]);
    write_again_soon(&server, || disk.fill(), || disk.make_room());
}
