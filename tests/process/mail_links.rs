//! The links in mails: opening one changes nothing, and its button works once.
//! needs: change_password, email, home, login, notices, password_reset, signup

use crate::common::{
    Browser, Connection, Database, Mail, NEW_PASSWORD, PASSWORD, Server, Smtp, form, password_fields, run_alone,
    send_at_once, site_with_mail,
};

/// Asks for a reset of Ada's password, and returns the path of the link that she gets.
#[track_caller]
fn reset_link(server: &Server, smtp: &Smtp) -> String {
    let mut browser = server.browser();
    browser.post("/password-reset", &[("email", "ada@example.com")]).assert_redirect("/password-reset");
    mailed_reset_link(smtp)
}

#[track_caller]
fn mailed_reset_link(smtp: &Smtp) -> String {
    smtp.take_mail("ada@example.com", "/password-reset/").link("/password-reset/")
}

/// Has Ada change her address to `email`, and returns the path of the link that confirms it.
#[track_caller]
fn confirm_link(ada: &mut Browser, smtp: &Smtp, email: &str) -> String {
    ada.post("/account/email", &[("email", email)]).assert_status(303);
    smtp.take_mail(email, "/email/").link("/email/")
}

/// Has Ada change and confirm it, and returns the path of the link by which the old address undoes that.
#[track_caller]
fn undo_link(ada: &mut Browser, smtp: &Smtp, old: &str, new: &str) -> String {
    let confirm = confirm_link(ada, smtp, new);
    ada.post(&confirm, &[]).assert_status(303);
    smtp.take_mail(old, "/undo/").link("/undo/")
}

/// Opens a link several times, as mail scanners, previews and impatient people do.
#[track_caller]
fn open_repeatedly(server: &Server, path: &str) {
    let mut scanner = server.browser().with_header("User-Agent", "Scanner/1.0");
    let first = scanner.get(path);
    first.assert_status(200).assert_contains("<form method=\"post\"");
    assert_eq!(first.header("set-cookie"), None, "{first}");
    assert_eq!(first.header("referrer-policy"), Some("same-origin"), "{first}");
    assert_eq!(first.header("cache-control"), Some("no-store"), "{first}");
    for _ in 0..4 {
        assert_eq!(scanner.get(path).comparable(), first.comparable());
    }
    for method in ["HEAD", "OPTIONS"] {
        let mut connection = Connection::open(server.port).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        connection.send(request).unwrap();
        let answer = connection.rest().unwrap();
        let status: u16 = answer[9..12].parse().unwrap();
        assert!([200, 204, 405].contains(&status), "{method}: {answer}");
    }
}

/// Presses the button of a link, which works, and presses it again, which is answered like a link that never existed.
#[track_caller]
fn assert_works_once(database: &Database, server: &Server, path: &str, fields: &[(&str, &str)]) {
    open_repeatedly(server, path);
    server.browser().post(path, fields).assert_status(303);
    // Within ten seconds it would count as a second press of the same button.
    database.execute("update idempotency_keys set expires_at = 0");
    let (again, seen) = (server.browser().post(path, fields), server.browser().get(path));
    let (folder, token) = path.rsplit_once('/').unwrap();
    let other: String = token.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).collect();
    let unknown = server.browser().get(&format!("{folder}/{other}"));
    for answer in [&again, &seen] {
        answer.assert_status(404);
        assert_eq!(answer.comparable().replace(token, ""), unknown.comparable().replace(&other, ""));
    }
}

#[test]
fn looking_at_a_reset_link_changes_nothing_and_it_works_once() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    let link = reset_link(&server, &smtp);
    open_repeatedly(&server, &link);
    ada.assert_logged_in("ada");
    server.browser().log_in("ada").assert_redirect("/");
    assert_works_once(&database, &server, &link, &password_fields(NEW_PASSWORD));
    // Sessions from before are ended, and the link does not begin one.
    ada.assert_logged_out();
    server.browser().log_in("ada").assert_status(422);
    server.browser().log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
}

#[test]
fn a_mistake_in_the_new_password_does_not_cost_the_link() {
    let (_database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    let link = reset_link(&server, &smtp);
    for (password, again) in [("", ""), ("short", "short"), ("ada@example.com", "ada@example.com")] {
        let fields = [("password", password), ("confirm_password", again)];
        let answer = server.browser().post(&link, &fields);
        answer.assert_status(422);
        assert!(password.is_empty() || !answer.body.contains(&format!("value=\"{password}\"")), "{answer}");
    }
    let fields = [("password", NEW_PASSWORD), ("confirm_password", "quiet harbour lamb")];
    server.browser().post(&link, &fields).assert_status(422);
    server.browser().post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    server.browser().log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
}

#[test]
fn looking_at_a_link_that_confirms_changes_nothing_and_it_works_once() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    let link = confirm_link(&mut ada, &smtp, "lovelace@example.com");
    open_repeatedly(&server, &link);
    server.browser().log_in("lovelace@example.com").assert_status(422);
    server.browser().log_in("ada@example.com").assert_redirect("/");
    assert_works_once(&database, &server, &link, &[]);
    server.browser().log_in("lovelace@example.com").assert_redirect("/");
    server.browser().log_in("ada@example.com").assert_status(422);
}

#[test]
fn rejecting_an_address_revokes_the_link_for_good() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    let link = confirm_link(&mut ada, &smtp, "bob@example.com");
    assert_works_once(&database, &server, &link, &[("reject", "yes")]);
    server.browser().log_in("bob@example.com").assert_status(422);
    server.browser().log_in("ada@example.com").assert_redirect("/");
}

#[test]
fn looking_at_an_undo_link_changes_nothing_and_it_works_once() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    let link = undo_link(&mut ada, &smtp, "ada@example.com", "eve@example.com");
    open_repeatedly(&server, &link);
    ada.assert_logged_in("ada");
    server.browser().log_in("eve@example.com").assert_redirect("/");
    assert_works_once(&database, &server, &link, &[]);
    ada.assert_logged_out();
    for name in ["eve@example.com", "ada@example.com"] {
        server.browser().log_in(name).assert_status(422);
    }
    // This one is sent without being asked for.
    let link = mailed_reset_link(&smtp);
    server.browser().post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    server.browser().log_in_with("ada@example.com", NEW_PASSWORD).assert_redirect("/");
}

#[test]
fn however_often_a_thief_changes_the_address_the_first_owner_gets_the_account_back() {
    let (_database, smtp, server) = site_with_mail(&[]);
    let mut thief = smtp.person(&server, "ada");
    let owners = undo_link(&mut thief, &smtp, "ada@example.com", "eve1@example.com");
    let thiefs = undo_link(&mut thief, &smtp, "eve1@example.com", "eve2@example.com");
    let pending = confirm_link(&mut thief, &smtp, "eve3@example.com");
    server.browser().post(&owners, &[]).assert_status(303);
    thief.assert_logged_out();
    for gone in [&thiefs, &pending] {
        server.browser().post(gone, &[]).assert_status(404);
    }
    let link = mailed_reset_link(&smtp);
    server.browser().post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    server.browser().log_in_with("ada@example.com", NEW_PASSWORD).assert_redirect("/");
    for address in ["eve1", "eve2", "eve3"] {
        let email = format!("{address}@example.com");
        server.browser().log_in_with(&email, NEW_PASSWORD).assert_status(422);
        server.browser().post("/password-reset", &[("email", &email)]).assert_redirect("/password-reset");
    }
    // This mail comes after those to the thief would have come.
    reset_link(&server, &smtp);
    let to_thief = |mail: &Mail| !mail.is_to("ada@example.com") && mail.find_link("/password-reset/").is_some();
    assert!(!smtp.mails().iter().any(to_thief), "{smtp}");
}

#[test]
fn only_the_newest_reset_link_works_and_a_new_password_ends_it() {
    let (_database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    let (older, newer) = (reset_link(&server, &smtp), reset_link(&server, &smtp));
    server.browser().post(&older, &password_fields(NEW_PASSWORD)).assert_status(404);
    let fields = [&[("current_password", PASSWORD)], &password_fields(NEW_PASSWORD)[..]].concat();
    ada.post("/account/password", &fields).assert_redirect("/account/password");
    server.browser().post(&newer, &password_fields("violet lantern")).assert_status(404);
    server.browser().log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
}

/// Sends fifty forms to a link at the same time, half of them to each process, and returns the number of the one that
/// worked.
#[track_caller]
fn winner(servers: &[Server; 2], path: &str, fields: impl Fn(usize) -> Vec<(&'static str, String)>) -> usize {
    let _alone = run_alone();
    let request = |number: usize| {
        let fields = fields(number);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
        (servers[number % 2].port, form(path, "", &fields))
    };
    let answers = send_at_once(&(0..50).map(request).collect::<Vec<_>>());
    let with = |status| (0..50).filter(|&number| answers[number].status == status).collect::<Vec<_>>();
    let (done, gone, busy) = (with(303), with(404).len(), with(503).len());
    println!("{} × 303, {gone} × 404, {busy} × 503", done.len());
    assert_eq!((done.len(), gone + busy), (1, 49), "{}\n{}", *servers[0], *servers[1]);
    assert!(gone >= 25, "too few came as far as the link");
    for server in servers {
        assert!(server.lines_with("deadlock").is_empty(), "{}", **server);
    }
    done[0]
}

#[test]
fn of_fifty_who_reset_one_password_at_once_one_does_and_has_it() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let servers = Server::pair(&database, &[("SMTP_URL", &smtp.url)]);
    smtp.person(&servers[0], "ada");
    let new = |number: usize| format!("{NEW_PASSWORD} {number}");
    for _ in 0..3 {
        let link = reset_link(&servers[0], &smtp);
        let fields = |number| vec![("password", new(number)), ("confirm_password", new(number))];
        let winner = winner(&servers, &link, fields);
        servers[1].browser().log_in_with("ada", &new(winner)).assert_redirect("/");
        servers[1].browser().log_in_with("ada", &new((winner + 1) % 50)).assert_status(422);
    }
}

#[test]
fn of_fifty_who_confirm_or_undo_at_once_one_does() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let servers = Server::pair(&database, &[("SMTP_URL", &smtp.url)]);
    let mut ada = smtp.person(&servers[0], "ada");
    let link = confirm_link(&mut ada, &smtp, "lovelace@example.com");
    // Each sends another form, so that none is the second press of another's button.
    winner(&servers, &link, |number| vec![("other", number.to_string())]);
    let undo = smtp.take_mail("ada@example.com", "/undo/").link("/undo/");
    winner(&servers, &undo, |_| Vec::new());
    servers[0].browser().log_in("lovelace@example.com").assert_status(422);
}
