//! The commands beside `serve`, and what the log keeps to itself.
//! needs: home, login, members, password_reset, signup
#![cfg(unix)]

mod common;

use common::{Database, PASSWORD, Process, Server, latchkey};
use rustix::process::Signal;

/// Runs a command to its end, with this on its standard input.
#[track_caller]
fn run(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> (Process, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start_with(&mut latchkey(folder.path(), arguments, settings), input);
    let status = process.ends_within(20);
    (process, status.code())
}

#[track_caller]
fn output(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> String {
    let (process, code) = run(arguments, settings, input);
    assert_eq!((code, &*process.stderr()), (Some(0), ""), "{arguments:?} ended with {code:?}:\n{process}");
    process.stdout()
}

/// The one line on standard error with which it fails.
#[track_caller]
fn complaint(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> String {
    let (process, code) = run(arguments, settings, input);
    let complaint = process.stderr();
    let one_line = complaint.lines().count() == 1 && complaint.starts_with("latchkey: ");
    assert!(code == Some(1) && one_line, "{arguments:?} ended with {code:?}:\n{process}");
    complaint
}

#[test]
fn help_names_every_command() {
    let help = output(&["--help"], &[], "");
    for command in ["serve", "routes", "doctor", "user"] {
        let named = help.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
        assert!(named, "{command} is missing:\n{help}");
    }
    let help = output(&["user", "--help"], &[], "");
    assert!(help.contains("  add ") && help.contains("  list "), "{help}");
}

#[test]
fn the_map_says_of_every_route_who_may_enter_and_is_right_about_strangers() {
    let map = output(&["routes"], &[], "");
    let routes: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    for known in [["GET", "public", "/"], ["GET", "guest", "/login"], ["POST", "public", "/logout"]] {
        assert!(routes.iter().any(|route| route.starts_with(&known)), "{known:?} is missing:\n{map}");
    }
    let server = Server::start(&[]);
    for route in &routes {
        let [method, access, path, _feature] = route[..] else { panic!("{route:?} is no route:\n{map}") };
        if method != "GET" || path.contains('{') {
            continue;
        }
        let answer = server.browser().get(path);
        let to_log_in = answer.header("location").is_some_and(|place| place.starts_with("/login?next="));
        match access {
            "user" => assert!(to_log_in, "{path} lets strangers in: {answer}"),
            "public" | "guest" => {
                assert!(!to_log_in && answer.status < 400, "{path} turns strangers away: {answer}")
            }
            _ => assert_ne!(answer.status, 200, "{path} lets strangers in: {answer}"),
        }
    }
    // What the pages lead to is on the map.
    for page in ["/", "/login", "/signup"] {
        let page = server.browser().get(page).body;
        let links = page.split(['"', '?', '#']).collect::<Vec<_>>();
        let links =
            links.windows(2).filter(|pair| pair[0].ends_with("href=") || pair[0].ends_with("action="));
        for link in links.map(|pair| pair[1]).filter(|link| link.starts_with('/')) {
            assert!(routes.iter().any(|route| route[2] == link), "{link} is not on the map:\n{map}");
        }
    }
}

#[test]
fn the_doctor_finds_nothing_wrong_or_says_what_to_set() {
    let database = Database::new();
    let place = [("DATABASE_URL", &*database.url)];
    let said = output(&["doctor"], &place, "");
    assert!(said.contains("database") && said.contains("0 users"), "{said}");
    assert!(said.lines().all(|line| line.contains("ok")), "{said}");

    for (name, value) in
        [("SESSION_IDLE", "soon"), ("PORT", "many"), ("DATABASE_URL", "mysql://localhost/app")]
    {
        let said = complaint(&["doctor"], &[(name, value)], "");
        assert!(said.contains(name), "{said}");
    }
    assert!(said.contains("/dev/mailbox; 0 waiting, 0 given up"), "{said}");
    let none = [place[0], ("SMTP_URL", "none")];
    assert!(output(&["doctor"], &none, "").contains("what needs it is hidden"));
    // Nobody listens at port 1.
    let nowhere = [place[0], ("SMTP_URL", "smtp://ada:tiger-lily@127.0.0.1:1")];
    let said = complaint(&["doctor"], &nowhere, "");
    assert!(said.contains("SMTP_URL") && !said.contains("tiger-lily"), "{said}");
    let said = complaint(&["doctor"], &[("DATABASE_URL", "postgres://ada:tiger-lily@127.0.0.1:1/app")], "");
    assert!(said.contains("DATABASE_URL") && !said.contains("tiger-lily"), "{said}");
}

#[test]
fn a_user_added_here_can_log_in_there() {
    let database = Database::new();
    let settings = [("DATABASE_URL", &*database.url), ("PASSWORD_ITERATIONS", "1")];
    for name in ["ada", "bob"] {
        let said = output(&["user", "add", name], &settings, &format!("{PASSWORD}\n"));
        assert!(said.contains(name) && !said.contains(PASSWORD), "{said}");
    }
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.log_in("ada").assert_redirect("/");
    ada.get("/me").assert_redirect("/user/ada");

    for (name, password, reason) in [
        ("ada", PASSWORD, "taken"),
        ("ADA", PASSWORD, "taken"),
        ("carol", "short", "at least 8 characters"),
        ("carol", "", "choose a password"),
        ("not a name", PASSWORD, "letters"),
    ] {
        let said = complaint(&["user", "add", name], &settings, &format!("{password}\n"));
        assert!(said.contains(reason), "{name:?}: {said}");
    }
    assert_eq!(database.count("select count(*) from users"), 2);
    server.browser().log_in("ada").assert_redirect("/");
}

#[test]
fn somebody_without_another_way_back_gets_a_link_from_whoever_runs_the_site() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let site = format!("http://localhost:{}", server.port);
    let settings = [("DATABASE_URL", &*database.url), ("BASE_URL", &site)];
    let link = output(&["user", "reset-link", "ada"], &settings, "");
    let path = link.trim().strip_prefix(&site).unwrap();
    server.browser().get(path).assert_status(200).assert_contains("ada");
    let new = "quiet harbour lamp";
    let fields = [("password", new), ("confirm_password", new)];
    server.browser().post(path, &fields).assert_redirect("/login");
    ada.get("/me").assert_redirect("/login?next=%2Fme");
    server.browser().post("/login", &[("username", "ada"), ("password", new)]).assert_redirect("/");
    server.browser().get(path).assert_status(404);
    for (name, reason) in [("nobody", "called nobody"), ("not a name", "letters")] {
        let said = complaint(&["user", "reset-link", name], &settings, "");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn users_are_listed_newest_first() {
    let database = Database::new();
    let settings = [("DATABASE_URL", &*database.url)];
    assert_eq!(output(&["user", "list"], &settings, ""), "");
    let server = Server::on(&database, &[]);
    let names = ["ada", "bob", "carol"];
    for name in names {
        server.browser().sign_up(name).assert_redirect("/");
    }
    let list = output(&["user", "list"], &settings, "");
    let found: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(found.iter().rev().eq(&names), "{list}");
}

#[test]
fn the_log_tells_what_happened_and_no_secret() {
    let mut server = Server::start(&[("RUST_LOG", "debug,latchkey=trace")]);
    let mut ada = server.browser();
    let mut secrets = vec![PASSWORD.to_string(), "a wrong guess".into(), "$pbkdf2".into()];
    secrets.extend(["pathtoken", "querytoken", "unknowntoken"].map(String::from));
    ada.sign_up("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    ada.get("/me").assert_redirect("/user/ada");
    ada.post("/logout", &[]).assert_redirect("/");
    ada.post("/login", &[("username", "ada"), ("password", "a wrong guess")]).assert_status(422);
    // People do type their password where their name belongs.
    ada.post("/login", &[("username", PASSWORD), ("password", PASSWORD)]).assert_status(422);
    ada.log_in("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    ada.get("/user/pathtoken").assert_status(404);
    ada.get("/nowhere/unknowntoken").assert_status(404);
    ada.post("/logout", &[]).assert_redirect("/");
    ada.get("/login?next=/querytoken").assert_status(200);
    assert!(secrets.len() >= 8, "no cookies were seen: {secrets:?}");

    server.signal(Signal::TERM);
    server.ends_within(10);
    let log = server.stdout() + &server.stderr();
    for shown in ["/login", "status=422", "status=303", "insert into users"] {
        assert!(log.contains(shown), "{shown} is not in the log:\n{log}");
    }
    let form_encoded = |secret: &str| secret.replace(' ', "+");
    for secret in secrets {
        let told = log.lines().find(|line| line.contains(&secret) || line.contains(&form_encoded(&secret)));
        assert_eq!(told, None, "{secret} is in the log");
    }
}
