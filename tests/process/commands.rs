//! The commands besides `serve`.
//! needs: home, login, signup

use crate::common::{Database, PASSWORD, Server, command_error, command_output};

#[test]
fn help_names_every_command() {
    let help = command_output(&["--help"], &[], "");
    for command in ["serve", "routes", "doctor", "purge", "reseal", "user"] {
        let named = help.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
        assert!(named, "{command} is missing:\n{help}");
    }
    let help = command_output(&["user", "--help"], &[], "");
    assert!(help.contains("  add ") && help.contains("  list "), "{help}");
}

#[test]
fn the_list_of_routes_says_who_may_enter_and_is_right_about_visitors() {
    let map = command_output(&["routes"], &[], "");
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
            "user" | "recent" => assert!(to_log_in, "{path} lets visitors in: {answer}"),
            "public" | "guest" => {
                assert!(!to_log_in && answer.status < 400, "{path} turns visitors away: {answer}")
            }
            "half-way" => assert_eq!(answer.header("location"), Some("/login"), "{path} lets visitors in: {answer}"),
            _ => panic!("{route:?} is no route:\n{map}"),
        }
    }
    // Everything that pages link to is on the map.
    for path in ["/", "/login", "/signup"] {
        let page = server.browser().get(path);
        let pieces: Vec<&str> = page.body.split(['"', '?', '#']).collect();
        let links = pieces.windows(2).filter(|pair| pair[0].ends_with("href=") || pair[0].ends_with("action="));
        let links: Vec<&str> = links.map(|pair| pair[1]).filter(|link| link.starts_with('/')).collect();
        assert!(!links.is_empty(), "{path} links to nothing: {page}");
        for link in links {
            assert!(routes.iter().any(|route| route[2] == link), "{link} is not on the map:\n{map}");
        }
    }
}

#[test]
fn the_doctor_finds_nothing_wrong_or_says_what_to_set() {
    let database = Database::new();
    let place = [("DATABASE_URL", &*database.url)];
    let said = command_output(&["doctor"], &place, "");
    assert!(said.contains("database") && said.contains("0 users"), "{said}");
    assert!(said.lines().all(|line| line.contains("ok")), "{said}");

    for (name, value) in [("SESSION_IDLE", "soon"), ("PORT", "many"), ("DATABASE_URL", "mysql://localhost/app")] {
        let said = command_error(&["doctor"], &[(name, value)], "");
        assert!(said.contains(name), "{said}");
    }
    assert!(said.contains("mails stay in this process; 0 waiting, 0 given up"), "{said}");
    let none = [place[0], ("SMTP_URL", "none")];
    assert!(command_output(&["doctor"], &none, "").contains("what needs it is hidden"));
    // Nobody listens at port 1.
    let nowhere = [place[0], ("SMTP_URL", "smtp://ada:tiger-lily@127.0.0.1:1")];
    let said = command_error(&["doctor"], &nowhere, "");
    assert!(said.contains("SMTP_URL") && !said.contains("tiger-lily"), "{said}");
    let said = command_error(&["doctor"], &[("DATABASE_URL", "postgres://ada:tiger-lily@127.0.0.1:1/app")], "");
    assert!(said.contains("DATABASE_URL") && !said.contains("tiger-lily"), "{said}");
}

#[test]
fn a_user_added_here_can_log_in_there() {
    let database = Database::new();
    let settings = [("DATABASE_URL", &*database.url), ("PASSWORD_ITERATIONS", "1")];
    for name in ["ada", "bob"] {
        let said = command_output(&["user", "add", name], &settings, &format!("{PASSWORD}\n"));
        assert!(said.contains(name) && !said.contains(PASSWORD), "{said}");
    }
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.log_in("ada").assert_redirect("/");
    ada.assert_logged_in("ada");

    for (name, password, reason) in [
        ("ada", PASSWORD, "taken"),
        ("ADA", PASSWORD, "taken"),
        ("carol", "short", "at least 8 characters"),
        ("carol", "", "choose a password"),
        ("not a name", PASSWORD, "letters"),
    ] {
        let said = command_error(&["user", "add", name], &settings, &format!("{password}\n"));
        assert!(said.contains(reason), "{name:?}: {said}");
    }
    assert_eq!(database.count("select count(*) from users"), 2);
    server.browser().log_in("ada").assert_redirect("/");
    let password = format!("{PASSWORD}\n");
    command_output(&["user", "add", "dora", "--email", "Dora@münchen.de"], &settings, &password);
    assert_eq!(database.count("select count(*) from addresses where email = 'dora@xn--mnchen-3ya.de'"), 1);
    let said = command_error(&["user", "add", "emil", "--email", "émil@münchen.de"], &settings, &password);
    assert!(said.contains("plain letters"), "{said}");
}

#[test]
fn users_are_listed_newest_first() {
    let database = Database::new();
    let settings = [("DATABASE_URL", &*database.url)];
    assert_eq!(command_output(&["user", "list"], &settings, ""), "");
    let server = Server::on(&database, &[]);
    let names = ["ada", "bob", "carol"];
    for name in names {
        server.browser().sign_up(name).assert_redirect("/");
    }
    let list = command_output(&["user", "list"], &settings, "");
    let found: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(found.iter().rev().eq(&names), "{list}");
}
