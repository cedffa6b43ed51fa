//! Many people who sign up with one name at the same time, at two processes.

use super::{Answer, Database, Server, form, send_at_once, sign_up_fields};

/// Sends this many sign-ups for one name at once, half of them to each process, and returns the answers.
pub fn race_to_sign_up(servers: &[Server; 2], people: usize) -> Vec<Answer> {
    let request = form("/signup", "", &sign_up_fields("ada"));
    send_at_once(&(0..people).map(|number| (servers[number % 2].port, request.clone())).collect::<Vec<_>>())
}

#[track_caller]
pub fn assert_one_account(database: &Database, servers: &[Server; 2], answers: &[Answer]) {
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
