//! What a site finds when it starts on a database that somebody has configured in a way of their own.
//! needs: health, home, login, signup

use crate::common::{Database, KEY, Server, command_error, command_output, wait_until};
use std::thread;

/// A role that may only read and write rows, and with it the address of the database.
struct LimitedRole<'a> {
    database: &'a Database,
    name: String,
    url: String,
}

impl LimitedRole<'_> {
    fn new(database: &Database) -> LimitedRole<'_> {
        let mut url = url::Url::parse(&database.url).unwrap();
        let name = format!("limited_{}", &url.path()[1..]);
        url.set_username(&name).unwrap();
        database.execute(&format!("create role {name} login"));
        database.execute("revoke create on schema public from public");
        LimitedRole { database, name, url: url.into() }
    }

    fn grant_rows(&self) {
        self.database
            .execute(&format!("grant select, insert, update, delete on all tables in schema public to {}", self.name));
    }
}

impl Drop for LimitedRole<'_> {
    fn drop(&mut self) {
        self.database.execute(&format!("drop owned by {0}; drop role {0}", self.name));
    }
}

fn change(database: &Database, to: &str) {
    let name = database.url.rsplit_once('/').unwrap().1;
    database.execute(&format!("begin read write; alter database {name} {to}; commit"));
}

fn readiness(server: &Server) -> String {
    server.browser().get("/readyz").body
}

#[test]
fn a_role_that_may_not_make_tables_serves_a_site_that_has_them() {
    let Some(database) = Database::postgres() else { return };
    let role = LimitedRole::new(&database);
    let settings = [("DATABASE_URL", &*role.url), ("PORT", "0"), KEY];
    let refused = command_error(&["serve"], &settings, "");
    assert!(refused.contains("section 1 of schema.sql") && refused.contains("DATABASE_DIRECT_URL"), "{refused}");
    // Once with the role that owns the tables.
    drop(Server::on(&database, &[KEY]));
    role.grant_rows();
    let server = Server::on(&database, &settings);
    server.browser().sign_up("ada").assert_redirect("/");
    assert_eq!(readiness(&server), "ready\n");
    assert!(command_output(&["user", "list"], &settings, "").contains("ada"));
}

#[test]
fn a_database_that_can_only_be_read_is_served_and_written_as_soon_as_it_can_be() {
    let Some(database) = Database::postgres() else { return };
    change(&database, "set default_transaction_read_only = on");
    let refused = command_error(&["serve"], &[("DATABASE_URL", &*database.url), ("PORT", "0")], "");
    assert!(refused.contains("section 1 of schema.sql") && refused.contains("is read-only"), "{refused}");
    change(&database, "reset default_transaction_read_only");
    Server::on(&database, &[KEY]).browser().sign_up("ada").assert_redirect("/");
    change(&database, "set default_transaction_read_only = on");
    let server = Server::on(&database, &[KEY]);
    assert_eq!(readiness(&server), "degraded: cannot write\n");
    server.browser().get("/").assert_status(200);
    server.browser().log_in("ada").assert_status(503);
    change(&database, "reset default_transaction_read_only");
    assert!(wait_until(20, || readiness(&server) == "ready\n"), "{}", *server);
    server.browser().log_in("ada").assert_redirect("/");
}

/// For each log-in one transaction, all at once.
#[test]
fn no_log_in_fails_because_of_the_default_isolation_of_the_database() {
    let Some(database) = Database::postgres() else { return };
    for level in ["serializable", "repeatable read"] {
        change(&database, &format!("set default_transaction_isolation = '{level}'"));
        let server = Server::on(&database, &[]);
        if level == "serializable" {
            server.browser().sign_up("ada").assert_redirect("/");
        }
        let refused: Vec<_> = thread::scope(|scope| {
            let log_in = || (0..20).filter(|_| server.browser().log_in("ada").status == 503).count();
            let browsers: Vec<_> = (0..8).map(|_| scope.spawn(log_in)).collect();
            browsers.into_iter().map(|browser| browser.join().unwrap()).collect()
        });
        assert_eq!(refused, [0; 8], "{level}\n{}", *server);
    }
}

#[test]
fn a_database_that_ends_idle_sessions_or_has_another_schema_is_served_all_the_same() {
    let Some(database) = Database::postgres() else { return };
    database.execute("create schema app");
    change(&database, "set search_path = app");
    change(&database, "set idle_session_timeout = '500ms'");
    change(&database, "set standard_conforming_strings = off");
    change(&database, "set bytea_output = 'escape'");
    change(&database, "set client_encoding = 'LATIN1'");
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_secs(1));
        ada.assert_logged_in("ada");
    }
    assert!(server.lines_with("WARN").is_empty(), "{}", *server);
}

#[test]
fn a_database_that_lacks_most_characters_is_refused() {
    for encoding in ["LATIN1", "LATIN9", "WIN1252", "EUC_JP"] {
        let Some(database) = Database::with_encoding(encoding) else { return };
        for command in [&["serve"][..], &["user", "list"]] {
            let refused = command_error(command, &[("DATABASE_URL", &*database.url), ("PORT", "0")], "");
            assert!(refused.contains(encoding) && refused.contains("UTF8"), "{refused}");
        }
    }
    // It stores bytes as they are.
    let Some(database) = Database::with_encoding("SQL_ASCII") else { return };
    let server = Server::on(&database, &[("SITE_NAME", "Bücher € 本")]);
    server.browser().sign_up("ada").assert_redirect("/");
}

#[test]
fn a_table_of_another_application_is_not_taken_for_the_sites_own() {
    let database = Database::new();
    if let Some(file) = database.url.strip_prefix("sqlite:") {
        std::fs::write(file, "").unwrap();
    }
    database.execute("create table users (id text, shoe_size bigint)");
    let refused = command_error(&["serve"], &[("DATABASE_URL", &*database.url), ("PORT", "0")], "");
    assert!(refused.contains("belongs to another application"), "{refused}");
    database.execute("drop table users");
    Server::on(&database, &[]).browser().sign_up("ada").assert_redirect("/");
}

#[test]
fn two_addresses_of_different_databases_are_refused_with_both_their_names() {
    let [here, elsewhere] = [Database::new(), Database::new()];
    if let Some(file) = here.url.strip_prefix("sqlite:") {
        std::fs::write(file, "").unwrap();
    }
    let settings = [("DATABASE_URL", &*here.url), ("DATABASE_DIRECT_URL", &*elsewhere.url), ("PORT", "0")];
    let refused = command_error(&["serve"], &settings, "");
    assert!(refused.contains("in DATABASE_DIRECT_URL") && refused.contains("in DATABASE_URL"), "{refused}");
}

/// Only root can mount a folder.
#[cfg(all(feature = "sqlite", target_os = "linux"))]
#[test]
fn a_file_that_can_only_be_read_is_served() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let url = format!("sqlite://{path}/test.db");
    let mount =
        |arguments: &[&str]| Command::new("mount").args(arguments).status().is_ok_and(|status| status.success());
    if !mount(&["-t", "tmpfs", "tmpfs", path]) {
        eprintln!("skipped, because nothing can be mounted");
        return;
    }
    let served = std::panic::catch_unwind(|| {
        let mut server = Server::start(&[("DATABASE_URL", &url), KEY]);
        server.browser().sign_up("ada").assert_redirect("/");
        server.signal(crate::common::Signal::TERM);
        server.wait_for_exit(20);
        assert!(mount(&["-o", "remount,ro", path]));
        for url in [&url, &format!("{url}?mode=ro")] {
            let server = Server::start(&[("DATABASE_URL", url), KEY]);
            assert_eq!(readiness(&server), "degraded: cannot write\n");
            server.browser().get("/").assert_status(200);
            server.browser().log_in("ada").assert_status(503);
            assert!(command_output(&["user", "list"], &[("DATABASE_URL", url)], "").contains("ada"));
        }
    });
    let _ = Command::new("umount").args(["-l", path]).status();
    served.unwrap();
}
