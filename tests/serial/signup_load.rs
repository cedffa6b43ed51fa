//! Many people sign up with one name at the same time, at two processes: one of them gets it. More do so than passwords can be
//! hashed: most are told at once to come back.
//! needs: login, signup

use crate::common::{Answer, Database, Server, form, run_alone, send_at_once, sign_up_fields};
use std::time::{Duration, Instant};

/// Sends this many sign-ups for one name at once, half of them to each process, and returns the answers.
fn race_to_sign_up(servers: &[Server; 2], people: usize) -> Vec<Answer> {
    let request = form("/signup", "", &sign_up_fields("ada"));
    send_at_once(&(0..people).map(|number| (servers[number % 2].port, request.clone())).collect::<Vec<_>>())
}

#[track_caller]
fn assert_one_account(database: &Database, servers: &[Server; 2], answers: &[Answer]) {
    let logs = || format!("{}\n{}", *servers[0], *servers[1]);
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    let (made, refused, busy) = (count(303), count(422), count(503));
    println!("{made} × 303, {refused} × 422, {busy} × 503");
    let other = answers.iter().find(|answer| ![303, 422, 503].contains(&answer.status));
    assert!(other.is_none(), "a status that is no answer to a sign-up: {}", other.unwrap());
    assert_eq!(made, 1, "got the name, and {refused} did not, and {busy} were told to wait:\n{}", logs());
    let taken = "The name ada is taken.";
    let other = answers.iter().find(|answer| answer.status == 422 && !answer.body.contains(taken));
    assert!(other.is_none(), "refused for another reason: {}", other.unwrap());
    assert_eq!(database.count("select count(*) from users"), 1);
    assert_eq!(database.count("select count(*) from passwords"), 1);
    assert_eq!(database.count("select count(*) from sessions"), 1, "only the winner is logged in");
    for server in servers {
        assert!(server.lines_with("database is locked").is_empty(), "{}", logs());
    }
    // A person who was told to wait tries again, and is told that the name is taken.
    servers[1].browser().sign_up("ada").assert_status(422).assert_contains(taken);
    servers[0].browser().log_in("ada").assert_redirect("/");
}

/// Returns how many of a thousand came as far as the database and were told there that the name is taken.
fn race_of_a_thousand() -> usize {
    let database = Database::new();
    let patient = [("HASH_QUEUE", "1000"), ("HASH_WAIT", "30s"), ("BODY_TIMEOUT", "30s")];
    let servers = Server::pair(&database, &patient);
    let answers = race_to_sign_up(&servers, 1000);
    assert_one_account(&database, &servers, &answers);
    answers.iter().filter(|answer| answer.status == 422).count()
}

#[test]
fn a_thousand_sign_ups_with_one_name_make_one_account() {
    let _alone = run_alone();
    // On a busy machine, the first passwords may take so long that nearly all others are told to wait.
    assert!((0..5).any(|_| race_of_a_thousand() >= 10), "hardly anybody came as far as the database, five times");
}

#[test]
fn with_default_settings_most_must_wait_and_one_gets_the_name() {
    let _alone = run_alone();
    let database = Database::new();
    let slow = [("PASSWORD_ITERATIONS", "600000")];
    let servers = Server::pair(&database, &slow);
    let alone = Instant::now();
    servers[0].browser().log_in("nobody").assert_status(422);
    // Nobody waits longer than two seconds until hashing begins. Hashing all passwords on two cores would take as long as a
    // hundred do alone.
    let most = Duration::from_secs(10) + 20 * alone.elapsed();
    let race = || {
        let begun = Instant::now();
        let answers = race_to_sign_up(&servers, 200);
        assert!(begun.elapsed() < most, "it took {:?}", begun.elapsed());
        answers
    };
    // On a machine that is very busy, it may be all who must wait.
    let mut answers = race();
    for _ in 0..2 {
        if answers.iter().all(|answer| answer.status == 503) {
            answers = race();
        }
    }
    assert!(answers.iter().any(|answer| answer.status == 503), "nobody was told to wait");
    assert_one_account(&database, &servers, &answers);
}
