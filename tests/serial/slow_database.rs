//! A database that is silent or locked is waited for, but not for ever and not without a word.
//! needs: home

use crate::common::{Database, PASSWORD, Process, STOPPING, Server, latchkey, run_with_others, wait_until};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, migrate::Migrate};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// It accepts connections and says nothing. When its queue is full, it does not even do that.
struct SilentServer {
    listener: TcpListener,
    url: String,
}

impl SilentServer {
    fn start() -> SilentServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("postgres://ada:tiger-lily@{}/app", listener.local_addr().unwrap());
        SilentServer { listener, url }
    }
}

/// Somebody who has locked a database.
struct Holder {
    runtime: Runtime,
    _connection: AnyConnection,
}

impl Holder {
    /// By these statements. On Postgres, by the lock under which schema.sql is applied.
    fn lock(database: &Database, statements: &str) -> Holder {
        sqlx::any::install_default_drivers();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(async {
            let mut connection = AnyConnection::connect(&database.url).await.unwrap();
            if database.url.starts_with("sqlite:") {
                sqlx::raw_sql(AssertSqlSafe(statements.to_string())).execute(&mut connection).await.unwrap();
            } else {
                connection.lock().await.unwrap();
            }
            connection
        });
        Holder { runtime, _connection: connection }
    }

    fn release(self) {
        let Holder { runtime, _connection: connection } = self;
        runtime.block_on(connection.close()).unwrap();
    }
}

/// A database that no site has been started with, and somebody who has locked it.
fn locked() -> (Database, Holder) {
    let database = Database::new();
    if let Some(file) = database.url.strip_prefix("sqlite:") {
        std::fs::write(file, "").unwrap();
    }
    let holder = Holder::lock(&database, "begin immediate");
    (database, holder)
}

fn start(folder: &TempDir, command: &[&str], url: &str) -> Process {
    let settings = [("PORT", "0"), ("PASSWORD_ITERATIONS", "1"), ("DATABASE_URL", url)];
    Process::start_with(&mut latchkey(folder.path(), command, &settings), &format!("{PASSWORD}\n"))
}

#[test]
fn a_silent_or_locked_database_is_given_up_after_half_a_minute_with_a_line_every_five_seconds() {
    let _shared = run_with_others();
    let folder = tempfile::tempdir().unwrap();
    let silent = SilentServer::start();
    let (unmade, _migrating) = locked();
    let begun = Instant::now();
    let mut waiting = vec![(start(&folder, &[], &unmade.url), "waiting 30 s", true)];
    if cfg!(feature = "postgres") {
        waiting.push((start(&folder, &[], &silent.url), "DATABASE_URL", true));
        for command in [&["doctor"][..], &["user", "list"], &["user", "add", "ada"], &["purge"]] {
            waiting.push((start(&folder, command, &silent.url), "DATABASE_URL", false));
        }
    }
    // The first connection is there, and the pool needs more.
    let site = Database::postgres().map(|_| Database::of_a_site());
    let role = format!("narrow_{}", std::process::id());
    if let Some(site) = &site {
        site.execute(&format!("create role {role} login connection limit 1"));
        site.execute(&format!("grant select, insert, update, delete on all tables in schema public to {role}"));
        let mut url = url::Url::parse(&site.url).unwrap();
        url.set_username(&role).unwrap();
        waiting.push((start(&folder, &[], url.as_str()), "to be ready: too many connections for role", true));
    }
    for (process, named, is_site) in &mut waiting {
        let status = process.wait_for_exit(50);
        let error = process.stderr();
        assert_eq!(status.code(), Some(1), "{process}");
        // The doctor says it on standard output.
        let all = process.stdout() + &error;
        let said = all.lines().find(|line| line.contains("gave up after waiting 30 s for ")).unwrap_or_default();
        assert!(said.contains(*named), "{process}");
        assert!(!error.contains("tiger-lily"), "{process}");
        let said = if *is_site { process.stdout() } else { error };
        assert_eq!(said.matches("waiting for ").count(), 5, "{process}");
        assert!(begun.elapsed() > Duration::from_secs(29), "{:?}\n{process}", begun.elapsed());
    }
    // Two waits, one after the other, would take a minute.
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    if let Some(site) = &site {
        site.execute(&format!("drop owned by {role}; drop role {role}"));
    }
    drop(silent.listener);
}

#[test]
fn it_starts_as_soon_as_the_lock_is_released() {
    let _shared = run_with_others();
    let (database, holder) = locked();
    let starting = Server::spawn(&database, &[]);
    std::thread::sleep(Duration::from_secs(1));
    holder.release();
    let released = Instant::now();
    let server = starting.ready();
    // SQLite itself looks again and again for up to 5 s. Who did not notice the release would wait for 30.
    assert!(released.elapsed() < Duration::from_secs(15), "{:?}\n{}", released.elapsed(), *server);
    server.browser().get("/").assert_status(200);
}

#[cfg(feature = "sqlite")]
#[test]
fn a_command_waits_for_a_program_that_has_locked_the_file() {
    let _shared = run_with_others();
    if Database::postgres().is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let alone = "pragma locking_mode = exclusive; begin immediate; update salts set name = name; commit";
    for (lock, commands) in [
        (alone, &[&["user", "list"][..], &["user", "add", "ada"]][..]),
        ("begin immediate", &[&["user", "add", "ada"], &["purge"]]),
    ] {
        let database = Database::of_a_site();
        let holder = Holder::lock(&database, lock);
        let mut waiting: Vec<_> = commands.iter().map(|command| start(&folder, command, &database.url)).collect();
        for process in &waiting {
            let waits = || process.stderr().contains("waiting for another program that has locked the database file");
            assert!(wait_until(20, waits), "{lock}: {process}");
        }
        holder.release();
        for process in &mut waiting {
            assert!(process.wait_for_exit(20).success(), "{lock}: {process}");
        }
    }
}

/// As a server says it while it recovers.
#[cfg(feature = "postgres")]
#[test]
fn a_database_that_is_still_starting_is_waited_for() {
    use std::io::{Read, Write};
    let _shared = run_with_others();
    let folder = tempfile::tempdir().unwrap();
    let SilentServer { listener, url } = SilentServer::start();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = [0; 512];
            let _ = client.read(&mut request);
            let _ = client.write_all(b"N");
            let _ = client.read(&mut request);
            let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
            let length = (fields.len() as u32 + 4).to_be_bytes();
            let _ = client.write_all(&[b"E", &length[..], fields].concat());
        }
    });
    let mut process = start(&folder, &["user", "list"], &url);
    assert!(wait_until(20, || process.stderr().contains("waiting for the database")), "{process}");
    assert!(!process.has_ended(), "{process}");
}

#[test]
fn it_can_be_stopped_while_it_waits() {
    let _shared = run_with_others();
    let folder = tempfile::tempdir().unwrap();
    let silent = SilentServer::start();
    let (unmade, _migrating) = locked();
    let urls = if cfg!(feature = "postgres") { vec![&silent.url, &unmade.url] } else { vec![&unmade.url] };
    for url in urls {
        for &signal in STOPPING {
            let mut process = start(&folder, &[], url);
            assert!(!wait_until(1, || process.has_ended()), "{process}");
            process.signal(signal);
            assert!(process.wait_for_exit(15).success(), "{signal:?}\n{process}");
        }
    }
}

/// As in a container, where the system ends it by no signal that it does not catch.
#[cfg(all(feature = "postgres", target_os = "linux"))]
#[test]
fn the_first_process_of_a_container_can_be_stopped_while_it_waits() {
    let _shared = run_with_others();
    use crate::common::Signal;
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let silent = SilentServer::start();
    for command in [&[][..], &["doctor"], &["user", "list"]] {
        for signal in [Signal::TERM, Signal::HUP] {
            let inner = latchkey(folder.path(), command, &[]);
            let mut outer = Command::new("unshare");
            outer.args(["--pid", "--fork"]).arg(inner.get_program()).args(inner.get_args());
            outer.current_dir(folder.path()).env_clear().env("DATABASE_URL", &silent.url).env("PORT", "0");
            outer.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
            let mut process = Process::start(&mut outer);
            if wait_until(1, || process.has_ended()) {
                eprintln!("skipped, because no namespace can be made: {process}");
                return;
            }
            process.signal_child(signal);
            process.wait_for_exit(15);
        }
    }
}
