//! Where `latchkey move` does not go, and what it leaves when it is interrupted.
//! needs: home, login, signup
#![cfg(feature = "sqlite")]

use crate::common::{Database, KEY, Process, Server, Signal, command_error, latchkey, wait_until, wrong_use};

/// A site that Ada has signed up at, and that has stopped.
fn site() -> Database {
    let database = Database::sqlite();
    let mut server = Server::on(&database, &[KEY]);
    server.browser().sign_up("ada").assert_redirect("/");
    server.signal(Signal::TERM);
    server.wait_for_exit(20);
    database
}

fn start_to_move(from: &Database, to: &str) -> Process {
    let folder = tempfile::tempdir().unwrap();
    Process::start(&mut latchkey(folder.path(), &["move", "--to", to], &[("DATABASE_URL", &*from.url), KEY]))
}

/// The sentence with which it refuses.
#[track_caller]
fn refusal(from: &Database, to: &str) -> String {
    let mut moving = start_to_move(from, to);
    let status = moving.wait_for_exit(30);
    assert!(status.code() == Some(1) && moving.stderr().lines().count() == 1, "{status}: {moving}");
    moving.stderr()
}

#[track_caller]
fn assert_refused(from: &Database, to: &Database, words: &str) {
    let said = refusal(from, &to.url);
    assert!(said.contains(words), "{words:?} is missing: {said}");
}

#[test]
fn a_database_in_use_the_same_one_and_one_that_has_users_are_refused_and_nothing_changes() {
    let [home, there] = [site(), Database::new()];
    for (database, variable) in [(&home, "DATABASE_URL"), (&there, "--to")] {
        let server = Server::on(database, &[KEY]);
        assert_refused(&home, &there, &format!("another program uses the database in {variable}: stop the site first"));
        drop(server);
        assert_refused(database, database, "--to is the database that the site already uses");
    }
    // It has started, and nobody has signed up: that is no obstacle.
    let mut moving = start_to_move(&home, &there.url);
    assert!(moving.wait_for_exit(60).success(), "{moving}");
    let server = Server::on(&there, &[KEY]);
    server.browser().log_in("ada").assert_redirect("/");
    server.browser().sign_up("bob").assert_redirect("/");
    drop(server);
    assert_refused(&home, &there, "has users already");
    Server::on(&there, &[KEY]).browser().log_in("bob").assert_redirect("/");
}

#[test]
fn a_site_that_is_not_there_and_an_address_that_is_none_are_refused_and_no_password_is_repeated() {
    let [home, nowhere] = [site(), Database::sqlite()];
    assert_refused(&nowhere, &home, "start the site once");
    assert!(nowhere.files().is_empty());
    for (to, words) in [
        ("mysql://ada:swordfish@localhost/app", "--to must begin with sqlite:// or postgres://"),
        ("postgres://ada:sword/fish@localhost/app", "--to has a / before its host"),
        ("postgres://ada:swordfish@127.0.0.1:1/app", "the database in --to cannot be reached"),
    ] {
        let said = refusal(&home, to);
        assert!(said.contains(words) && !said.contains("fish"), "{said}");
    }
    let production = [
        ("DATABASE_URL", &*home.url),
        ("BASE_URL", "https://site.example"),
        ("TRUSTED_PROXIES", "none"),
        ("SMTP_URL", "none"),
        KEY,
    ];
    let to = "postgres://ada:swordfish@db.example.com/app";
    let said = command_error(&["move", "--to", to], &production, "");
    assert!(said.contains("--to connects to db.example.com over a network without encryption"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let mut without = Process::start(&mut latchkey(folder.path(), &["move"], &[]));
    assert!(without.wait_for_exit(20).code() == Some(2) && without.stderr().contains("--to <URL>"), "{without}");
}

/// Whether the new database has the mark of a move that has not finished.
fn is_marked(database: &Database) -> bool {
    if database.files().is_empty() {
        return database.url.starts_with("postgres")
            && database.count("select count(*) from pg_class where relname = 'latchkey_unfinished_move'") > 0;
    }
    let has_name = |bytes: &[u8]| bytes.windows(24).any(|part| part == b"latchkey_unfinished_move");
    database.contents().iter().any(|(_, bytes)| has_name(bytes))
}

#[test]
fn an_address_that_is_empty_is_not_the_default_one() {
    let said = wrong_use(&["move", "--to", ""], &[("DATABASE_URL", &*site().url), KEY]);
    assert!(said.contains("a value is required for '--to <URL>'"), "{said}");
}

#[test]
fn a_move_that_is_killed_leaves_a_database_that_no_site_starts_on_until_the_move_is_made_again() {
    let [home, there] = [site(), Database::new()];
    home.execute(
        "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 40000) \
         insert into events (id, kind, about, factors, created_at) select 'e' || n, 'seed', hex(randomblob(100)), 1, n from numbers",
    );
    let mut moving = start_to_move(&home, &there.url);
    assert!(wait_until(60, || is_marked(&there)), "{moving}");
    assert!(!moving.has_ended(), "it was too quick: {moving}");
    moving.signal(Signal::KILL);
    moving.wait_for_exit(20);
    for command in [&["serve"][..], &["user", "list"], &["move", "--to", &home.url]] {
        let said = command_error(command, &[("DATABASE_URL", &*there.url), ("PORT", "0"), KEY], "");
        assert!(said.contains("the target of a latchkey move that has not finished"), "{command:?}: {said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATABASE_URL", &*there.url), ("PORT", "0"), KEY];
    let mut doctor = Process::start(&mut latchkey(folder.path(), &["doctor"], &settings));
    assert!(doctor.wait_for_exit(20).code() == Some(1) && doctor.stdout().contains("has not finished"), "{doctor}");

    let mut moving = start_to_move(&home, &there.url);
    assert!(moving.wait_for_exit(120).success(), "{moving}");
    assert_eq!(there.count("select count(*) from events where kind = 'seed'"), 40_000);
    Server::on(&there, &[KEY]).browser().log_in("ada").assert_redirect("/");
}

#[test]
fn text_that_postgres_cannot_store_is_named_by_its_table_and_the_site_stays_where_it_is() {
    let (home, Some(there)) = (site(), Database::postgres()) else { return };
    home.execute("insert into events (id, kind, factors, created_at) values ('nul', 'a' || char(0), 1, 1)");
    let said = refusal(&home, &there.url);
    assert!(said.contains("the rows of \"events\" could not be written to the new database"), "{said}");
    Server::on(&home, &[KEY]).browser().log_in("ada").assert_redirect("/");
}
