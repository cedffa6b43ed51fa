//! Guessing passwords: rate limits hold across processes and restarts, and do not lock the owner out.
//! needs: home, login, signup

use crate::common::{
    Answer, Browser, Connection, Database, PASSWORD, Server, form, retry_while_busy, run_alone, send_at_once,
    wait_until,
};
use std::thread;

/// Ten guesses in three minutes from one address.
const TEN: (&str, &str) = ("PASSWORD_ATTEMPTS_PER_ADDRESS", "10/3m");

/// Signs up and logs out again, which leaves the browser its `device` cookie.
fn owner(server: &Server, name: &str) -> Browser {
    let mut browser = server.browser();
    browser.sign_up(name).assert_redirect("/");
    browser.post("/logout", &[]).assert_redirect("/");
    browser.get("/login").assert_contains("You are logged out.");
    assert!(browser.cookies().contains_key("device") && !browser.cookies().contains_key("session_token"));
    browser
}

/// A visitor's guess: the network address, the username and the password.
type Guess = (String, String, String);

/// Sends all of these at the same time, half of them to each process.
fn guess_at_once(servers: &[Server; 2], guesses: &[Guess]) -> Vec<Answer> {
    let _alone = run_alone();
    let request = |(number, (address, name, password)): (usize, &Guess)| {
        let header = format!("X-Forwarded-For: {address}\r\n");
        let request = form("/login", &header, &[("username", name), ("password", password)]);
        (servers[number % 2].port, request)
    };
    send_at_once(&guesses.iter().enumerate().map(request).collect::<Vec<_>>())
}

/// How many passwords were checked and found wrong. All others must have been told to wait, at most so many seconds, or
/// that the server is busy.
#[track_caller]
fn count_checked(answers: &[Answer], most: u64) -> usize {
    for answer in answers.iter().filter(|answer| ![422, 503].contains(&answer.status)) {
        answer.assert_must_wait(1..=most);
    }
    answers.iter().filter(|answer| answer.status == 422).count()
}

/// Guesses Ada's password two hundred times from these addresses; one of the later guesses is right.
#[track_caller]
fn assert_five_are_checked(address: impl Fn(usize) -> String) {
    let database = Database::new();
    let proxied = [("TRUSTED_PROXIES", "127.0.0.1")];
    let servers = Server::pair(&database, &proxied);
    let ada = owner(&servers[0], "ada");
    let sessions = || database.count("select count(*) from sessions");

    let guess = |number| (address(number), "ada".to_string(), format!("guess number {number}"));
    let mut guesses: Vec<Guess> = (0..200).map(guess).collect();
    guesses[150].2 = PASSWORD.to_string();
    let mut checked = count_checked(&guess_at_once(&servers, &guesses[..100]), 30);
    // On a busy machine fewer than five may have been checked.
    while retry_while_busy(|| servers[0].browser().log_in_with("ada", "not the password")).status == 422 {
        checked += 1;
    }
    assert!((1..=5).contains(&checked), "{checked} were checked:\n{}\n{}", *servers[0], *servers[1]);
    assert_eq!(count_checked(&guess_at_once(&servers, &guesses[100..]), 30), 0);
    for server in &servers {
        server.browser().log_in("ada").assert_must_wait(1..=30);
    }
    assert_eq!(sessions(), 0, "a right password was accepted");

    let mut ada = ada.also_at(servers[1].port);
    ada.log_in("ada").assert_redirect("/");
    ada.assert_logged_in("ada");
    for server in &servers {
        server.browser().log_in("ada").assert_must_wait(1..=30);
    }
    assert_eq!(sessions(), 1);
}

#[test]
fn of_two_hundred_guesses_at_once_at_two_processes_five_are_checked() {
    assert_five_are_checked(|_| "192.0.2.1".to_string());
}

#[test]
fn of_two_hundred_guesses_from_as_many_addresses_five_are_checked() {
    // Only the row of the account serialises these, and a mistake there would not show every time.
    for _ in 0..3 {
        assert_five_are_checked(|number| format!("192.0.2.{number}"));
    }
}

#[test]
fn of_two_hundred_guesses_at_once_at_as_many_names_ten_are_checked() {
    let database = Database::new();
    let settings = [TEN, ("TRUSTED_PROXIES", "127.0.0.1")];
    let servers = Server::pair(&database, &settings);
    let guess = |number| ("192.0.2.1".to_string(), format!("name{number}"), PASSWORD.to_string());
    let checked = count_checked(&guess_at_once(&servers, &(0..200).map(guess).collect::<Vec<_>>()), 18);
    assert!((1..=10).contains(&checked), "{checked} were checked:\n{}\n{}", *servers[0], *servers[1]);
}

#[test]
fn people_who_have_to_wait_see_the_same_for_every_name_and_every_guess() {
    let server = Server::start(&[]);
    owner(&server, "known");
    for name in ["known", "nobod"] {
        for _ in 0..5 {
            server.browser().log_in_with(name, "not the password").assert_status(422);
        }
    }
    let right = server.browser().log_in("known");
    right.assert_must_wait(1..=30);
    for (name, password) in [("known", "not the password"), ("nobod", PASSWORD)] {
        assert_eq!(server.browser().log_in_with(name, password).comparable(), right.comparable());
    }
}

#[test]
fn one_address_has_ten_guesses_whatever_the_names() {
    let server = Server::start(&[TEN]);
    let mut ada = owner(&server, "ada");
    for number in 0..15 {
        let answer = server.browser().log_in(&format!("name{number}"));
        if number < 10 {
            answer.assert_status(422);
        } else {
            answer.assert_must_wait(1..=18);
        }
    }
    let (known, unknown) = (server.browser().log_in("ada"), server.browser().log_in("bob"));
    known.assert_must_wait(1..=18);
    assert_eq!(known.comparable(), unknown.comparable());
    ada.log_in("ada").assert_redirect("/");
}

#[test]
fn right_passwords_use_nothing_up() {
    let server = Server::start(&[TEN]);
    owner(&server, "ada");
    for _ in 0..15 {
        server.browser().log_in("ada").assert_redirect("/");
    }
}

/// A double click is not a guess, and log-ins do not deadlock.
#[test]
fn who_sends_the_right_password_several_times_at_once_comes_in_each_time() {
    let database = Database::new();
    let servers = Server::pair(&database, &[]);
    owner(&servers[0], "ada");
    thread::scope(|scope| {
        for number in 0..4 {
            let server = &servers[number % 2];
            scope.spawn(move || {
                for _ in 0..25 {
                    retry_while_busy(|| server.browser().log_in("ada")).assert_redirect("/");
                }
            });
        }
    });
    for server in &servers {
        assert!(server.lines_with("deadlock").is_empty(), "{}", **server);
    }
}

#[test]
fn whoever_has_one_address_of_a_network_of_ipv6_has_all() {
    let server = Server::start(&[TEN, ("TRUSTED_PROXIES", "127.0.0.1")]);
    let from = |address: &str, name: &str| server.browser().with_header("X-Forwarded-For", address).log_in(name);
    for number in 0..10 {
        let address = format!("2001:db8:0:1:{number}::{number}");
        from(&address, &format!("name{number}")).assert_status(422);
    }
    from("2001:db8:0:1:ffff:ffff:ffff:ffff", "another").assert_must_wait(1..=18);
    // Everything before the last address is only what the client claims.
    from("2001:db8:0:2::1, 2001:db8:0:1::1", "another").assert_must_wait(1..=18);
    from("2001:db8:0:2::1", "another").assert_status(422);
    from("192.0.2.1", "another").assert_status(422);
}

#[test]
fn a_restart_forgets_no_limit() {
    let database = Database::new();
    let begin = || Server::on(&database, &[TEN]);
    let mut server = begin();
    owner(&server, "ada");
    for number in 0..10 {
        if number == 3 {
            drop(server);
            server = begin();
        }
        let name = if number < 5 { "ada" } else { &format!("name{number}") };
        server.browser().log_in_with(name, "not the password").assert_status(422);
    }
    drop(server);
    let server = begin();
    server.browser().log_in("another").assert_must_wait(1..=18);
    drop(server);
    // From another network, so that only the account's limit applies.
    let server = Server::on(&database, &[TEN, ("TRUSTED_PROXIES", "127.0.0.1")]);
    let mut elsewhere = server.browser().with_header("X-Forwarded-For", "192.0.2.1");
    elsewhere.log_in("ada").assert_must_wait(1..=30);
    elsewhere.log_in("another").assert_status(422);
}

#[test]
fn guesses_that_hang_up_and_those_that_a_crash_cuts_off_are_recorded() {
    let database = Database::new();
    let mut server = Server::on(&database, &[("HASH_WAIT", "60s"), ("HANDLER_TIMEOUT", "60s")]);
    owner(&server, "ada");
    // To verify it takes longer than this test.
    database.execute("update passwords set hash = replace(hash, 'i=1000,', 'i=2000000000,')");
    let counted = || database.count("select coalesce(max(count), 0) from limits");
    for number in 1..=5 {
        let mut connection = Connection::open(server.port).unwrap();
        connection.send(form("/login", "", &[("username", "ada"), ("password", "a guess")])).unwrap();
        assert!(wait_until(20, || counted() == number), "guess {number} does not count:\n{}", *server);
    }
    server.browser().log_in("ada").assert_must_wait(1..=30);
    server.signal(crate::common::Signal::KILL);
    server.wait_for_exit(10);
    let recorded = |kind: &str| {
        let ada = "(select id from users where username = 'ada')";
        database.count(&format!("select count(*) from events where kind = '{kind}' and user_id = {ada}"))
    };
    assert_eq!((recorded("log_in_failed"), recorded("throttled")), (5, 1));
}

#[test]
fn after_too_many_failures_the_password_works_only_where_it_did_before() {
    let server = Server::start(&[("PASSWORD_DISABLE_AFTER", "3"), ("PASSWORD_FREE_ATTEMPTS", "100")]);
    let mut ada = owner(&server, "ada");
    let wrong = [0; 3].map(|_| server.browser().log_in_with("ada", "not the password"));
    for answer in &wrong {
        answer.assert_status(422);
    }
    let right = server.browser().log_in("ada");
    right.assert_status(422).assert_contains("Wrong username or");
    assert_eq!(right.comparable(), wrong[0].comparable());

    ada.log_in("ada").assert_redirect("/");
    ada.assert_logged_in("ada");
    assert_eq!(server.browser().log_in("ada").comparable(), wrong[0].comparable());
    // For this account Bob's browser is unknown, however often he has logged in.
    let mut bob = owner(&server, "bob");
    assert_eq!(bob.log_in("ada").comparable(), wrong[0].comparable());
}

#[test]
fn what_is_typed_as_a_name_is_kept_nowhere() {
    let database = Database::new();
    let mut server = Server::on(&database, &[("RUST_LOG", "trace")]);
    owner(&server, "ada");
    let typed = ["hunter2secretword", "Hunter2SecretWord", "hunter2secretword@example.com", "my hunter2secretword!"];
    for name in typed {
        for _ in 0..6 {
            server.browser().log_in_with(name, "not the password");
        }
    }
    server.signal(crate::common::Signal::TERM);
    server.wait_for_exit(10);
    let log = (server.stdout() + &server.stderr()).to_lowercase();
    assert!(log.contains("/login"), "the log is empty");
    let dump = database.dump();
    assert!(dump.iter().any(|(place, value)| place == "users.username" && value == "ada"), "the dump is empty");
    assert!(dump.iter().any(|(place, _)| place == "limits.key"), "nothing was counted");

    let word = "hunter2secretword";
    let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    let line = log.lines().find(|line| line.contains(word) || line.contains(&hex));
    assert_eq!(line, None, "in the log");
    let found = dump.iter().find(|(_, value)| {
        let value = value.to_lowercase();
        value.contains(word) || value.contains(&hex)
    });
    assert_eq!(found, None, "in the database");
}
