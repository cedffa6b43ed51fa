//! The link for the first administrator, as running sites print it.
//! needs: home, login, setup, signup

use crate::common::{Database, Server, command_output, form, numbered, send_at_once, sign_up_fields, wait_until};

const CLOSED: (&str, &str) = ("SIGNUPS", "closed");

/// The lines of the log with a link.
fn links(server: &Server) -> Vec<String> {
    let lines = server.lines_with("this site has no administrator");
    lines.iter().map(|line| line.split_once(&server.url).expect("the line has a link").1.to_string()).collect()
}

/// The path of the link that the site has printed.
#[track_caller]
fn link(server: &Server) -> String {
    assert!(wait_until(10, || !links(server).is_empty()), "no link:\n{}", **server);
    let [link] = links(server).try_into().expect("there is one link");
    link
}

fn token(path: &str) -> &str {
    path.strip_prefix("/setup/").expect("it leads to the page of the first administrator")
}

#[test]
fn whoever_signs_up_by_the_link_that_a_new_site_prints_is_its_administrator() {
    let database = Database::new();
    let server = Server::on(&database, &[CLOSED]);
    let (link, mut ada) = (link(&server), server.browser());
    let page = ada.get(&link);
    page.assert_status(200);
    assert!(page.body.contains(&format!("name=\"invite\" value=\"{}\"", token(&link))), "{page}");
    let fields = [&sign_up_fields("ada")[..], &[("invite", token(&link))]].concat();
    ada.post("/signup", &fields).assert_redirect("/");
    ada.assert_logged_in("ada");
    ada.get(&link).assert_status(404);
    let settings = [("DATABASE_URL", &*database.url)];
    let shown = command_output(&["user", "show", "ada"], &settings, "");
    assert!(shown.contains("groups       admin") && shown.contains("permissions  all"), "{shown}");
    // From now on nobody is told a link.
    let another = Server::on(&database, &[CLOSED]);
    another.browser().get("/").assert_status(200);
    assert_eq!(links(&another), [""; 0]);
}

#[test]
fn of_twenty_who_sign_up_at_once_by_the_links_of_two_replicas_one_is_the_administrator() {
    let database = Database::new();
    let servers = Server::pair(&database, &[CLOSED]);
    let links = servers.each_ref().map(link);
    let names = numbered("ada", 20);
    let requests: Vec<(u16, String)> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let fields = [&sign_up_fields(name)[..], &[("invite", token(&links[number % 2]))]].concat();
            // Each link works at each replica.
            (servers[number / 10].port, form("/signup", "", &fields))
        })
        .collect();
    let answers = send_at_once(&requests);
    let admitted = answers.iter().filter(|answer| answer.status == 303).count();
    // On a machine that is busy, some are asked to come back.
    let refused = answers.iter().filter(|answer| [404, 503].contains(&answer.status)).count();
    assert_eq!((admitted, refused), (1, 19));
    assert_eq!(database.count("select count(*) from users"), 1);
    assert_eq!(database.count("select count(*) from user_groups where group_id = 'admin'"), 1);
}
