//! A form that is sent twice at the same moment, to two processes on one database, acts once.
//! needs: home, notes, signup

use crate::common::{Database, Server, form, send_at_once, sign_up_fields};

#[test]
fn a_second_press_at_another_process_signs_nobody_up_twice_and_is_logged_in_too() {
    let database = Database::new();
    let servers = Server::pair(&database, &[]);
    for number in 0..20 {
        let name = format!("ada{number}");
        let fields = [&sign_up_fields(&name)[..], &[("once", &*name)]].concat();
        let requests = servers.each_ref().map(|server| (server.port, form("/signup", "", &fields)));
        for answer in send_at_once(&requests) {
            answer.assert_redirect("/");
            let mut browser = servers[0].browser();
            browser.take_cookies_of(&answer);
            browser.assert_logged_in(&name);
        }
    }
    assert_eq!(database.count("select count(*) from users"), 20);
    assert_eq!(database.count("select count(*) from sessions"), 40);
    assert_eq!(database.count("select count(*) from events where kind = 'logged_in'"), 20);
}

#[test]
fn a_second_press_at_another_process_writes_no_second_note() {
    let database = Database::new();
    let servers = Server::pair(&database, &[]);
    let mut ada = servers[0].browser();
    ada.sign_up("ada").assert_redirect("/");
    let cookies: Vec<_> = ada.cookies().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let cookies = format!("Cookie: {}\r\n", cookies.join("; "));
    for number in 0..50 {
        let request = form("/notes", &cookies, &[("text", &number.to_string())]);
        let requests: Vec<_> = servers.iter().map(|server| (server.port, request.clone())).collect();
        for answer in send_at_once(&requests) {
            answer.assert_redirect("/notes");
        }
    }
    assert_eq!(database.count("select count(*) from notes"), 50);
}
