//! The commands besides `serve`.
//! needs: home, login, signup

use crate::common::{Database, KEY, PASSWORD, Server, command_error, command_output, wait_until};
use std::mem::replace;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn help_names_every_command() {
    let help = command_output(&["--help"], &[], "");
    let jobs = ["serve", "routes", "doctor", "purge", "reseal", "user", "invite"];
    for command in jobs.into_iter().chain(["import", "export", "backup", "restore", "move"]) {
        let named = help.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
        assert!(named, "{command} is missing:\n{help}");
    }
    let help = command_output(&["user", "--help"], &[], "");
    for command in ["add", "list", "show", "grant", "revoke", "disable", "enable", "reset-link", "delete"] {
        assert!(help.contains(&format!("  {command} ")), "{command} is missing:\n{help}");
    }
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
            permission if permission.contains('.') => assert!(to_log_in, "{path} lets visitors in: {answer}"),
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
            assert!(routes.iter().any(|route| matches(route[2], link)), "{link} is not on the map:\n{map}");
        }
    }
}

/// Whether a path is one of those that a pattern such as `/notes/{id}` stands for.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(part, name)| part.starts_with('{') || *part == name)
}

#[test]
fn a_user_added_here_can_log_in_there() {
    let database = Database::of_a_site();
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
    let database = Database::of_a_site();
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

#[test]
fn a_command_makes_no_database_and_says_that_there_is_none() {
    for command in [
        &["import", "-"][..],
        &["purge"],
        &["reseal"],
        &["user", "list"],
        &["user", "add", "ada"],
        &["user", "reset-link", "ada"],
        &["export", "ada"],
        &["user", "show", "ada"],
        &["user", "grant", "ada", "admin"],
        &["user", "disable", "ada"],
    ] {
        let database = Database::new();
        let password = format!("{PASSWORD}\n");
        let settings = [("DATABASE_URL", &*database.url), ("PASSWORD_ITERATIONS", "1")];
        let said = command_error(command, &settings, &password);
        assert!(said.contains("start the site once"), "{command:?}: {said}");
        assert_eq!(database.files(), [""; 0], "{command:?}");
        // A database that something else has made.
        if let Some(file) = database.url.strip_prefix("sqlite:") {
            std::fs::write(file, "").unwrap();
        }
        database.execute("create table leftovers (id text)");
        let files = database.files();
        let said = command_error(command, &settings, &password);
        assert!(said.contains("start the site once"), "{command:?}: {said}");
        assert_eq!(database.files(), files, "{command:?}");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_command_in_an_empty_folder_leaves_it_empty() {
    use crate::common::{Process, latchkey};
    for command in [&["import", "-"][..], &["purge"], &["reseal"], &["user", "list"], &["user", "add", "ada"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start_with(&mut latchkey(folder.path(), command, &[]), &format!("{PASSWORD}\n"));
        let status = process.wait_for_exit(20);
        assert!(status.code() == Some(1) && process.stderr().contains("data/latchkey.db"), "{command:?}\n{process}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{command:?} left something");
    }
}

/// Of a site that has stopped, one that runs, and one that was killed.
#[test]
fn what_only_reads_changes_no_file_and_works_beside_the_site() {
    let database = Database::of_a_site();
    let settings = [("DATABASE_URL", &*database.url), KEY];
    let password = format!("{PASSWORD}\n");
    command_output(&["user", "add", "ada"], &[&settings[..], &[("PASSWORD_ITERATIONS", "1")]].concat(), &password);
    let read = |when: &str| {
        let mut before = database.contents();
        // A site that has just started writes something in the background.
        let is_settled = || {
            sleep(Duration::from_secs(2));
            let earlier = replace(&mut before, database.contents());
            earlier == before
        };
        assert!(wait_until(60, is_settled), "{when}: it never stops writing");
        assert!(command_output(&["user", "list"], &settings, "").contains("ada"), "{when}");
        command_output(&["doctor"], &settings, "");
        assert_eq!(database.contents(), before, "{when}");
    };
    read("stopped");
    let server = Server::on(&database, &[KEY]);
    read("running");
    drop(server);
    read("killed");
}
