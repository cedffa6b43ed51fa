//! What mails say and whom they reach: confirmed addresses only, whatever a request claims.
//! needs: account, change_password, email, home, login, mailbox, notices, password_reset, signup

use crate::common::{
    Answer, Browser, Connection, Database, Mail, NEW_PASSWORD, PASSWORD, Server, Smtp, address_of,
    assert_all_mails_sent, form, message_ids, sign_up_fields, site_with_mail, wait_until,
};

fn ask_for_reset(browser: &mut Browser, email: &str) -> Answer {
    browser.post("/password-reset", &[("email", email)])
}

/// Every mail for what has been done so far.
#[track_caller]
fn mails(database: &Database, smtp: &Smtp) -> Vec<Mail> {
    assert_all_mails_sent(database, smtp);
    smtp.mails()
}

/// Input that might be taken for two addresses, or for another person's.
const TRICKS: [&str; 18] = [
    "kida@example.com,eve@evil.example",
    "eve@evil.example,kida@example.com",
    "kida@example.com, eve@evil.example",
    "kida@example.com;eve@evil.example",
    "kida@example.com eve@evil.example",
    "kida@example.com\r\nBcc: eve@evil.example",
    "kida@example.com\nBcc: eve@evil.example",
    "kida@example.com\r\nRCPT TO:<eve@evil.example>",
    "kida@example.com>\r\nRCPT TO:<eve@evil.example",
    "kida@example.com\0@evil.example",
    "kida@example.com@evil.example",
    "\"kida@example.com,eve\"@evil.example",
    "<kida@example.com>",
    "Kida <kida@example.com>",
    " kida@example.com",
    // These change to an ASCII i and k when the case is changed.
    "k\u{131}da@example.com",
    "\u{212a}ida@example.com",
    "kida@example.com\u{200b}",
];

#[test]
fn what_could_be_two_addresses_or_anothers_is_none() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut kida = smtp.person(&server, "kida");
    let long = format!("{}@example.com", "a".repeat(308));
    for trick in TRICKS.iter().copied().chain([&*long]) {
        let fields = [&sign_up_fields("eve")[..], &[("email", trick)]].concat();
        server.browser().post("/signup", &fields).assert_status(422);
        kida.post("/account/email", &[("email", trick)]).assert_status(422);
        let answer = ask_for_reset(&mut server.browser(), trick);
        assert!([303, 422].contains(&answer.status), "{trick:?}: {answer}");
    }
    let two = [("email", "kida@example.com"), ("email", "eve@evil.example")];
    server.browser().post("/signup", &[&sign_up_fields("eve")[..], &two].concat()).assert_status(400);
    kida.post("/account/email", &two).assert_status(400);
    server.browser().post("/password-reset", &two).assert_status(400);
    server.browser().post("/password-reset", &[("email[]", "kida@example.com")]).assert_status(422);

    let came = mails(&database, &smtp);
    assert_eq!(came.len(), 1, "more than her confirmation went out:\n{smtp}");
    assert!(came[0].is_to("kida@example.com"), "{smtp}");
    assert_eq!(database.count("select count(*) from users"), 1, "eve has an account");
}

#[test]
fn in_capitals_an_address_is_the_one_that_was_stored() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = server.browser();
    let fields = [&sign_up_fields("ada")[..], &[("email", "Ada@Example.COM")]].concat();
    ada.post("/signup", &fields).assert_redirect("/");
    let confirm = smtp.take_mail("ada@example.com", "/email/").link("/email/");
    ada.post(&confirm, &[]).assert_status(303);
    ask_for_reset(&mut server.browser(), "ADA@EXAMPLE.COM").assert_redirect("/password-reset");
    smtp.take_mail("ada@example.com", "/password-reset/");
    ada.post("/account/email", &[("email", "LOVELACE@example.com")]).assert_status(303);
    smtp.take_mail("lovelace@example.com", "/email/");
    for mail in mails(&database, &smtp) {
        assert!(mail.is_to("ada@example.com") || mail.is_to("lovelace@example.com"), "{mail}");
    }
    server.browser().log_in("aDa@example.com").assert_redirect("/");
}

/// Asks for a reset of Ada's password with this request target and these headers, and returns the status.
fn forged(server: &Server, target: &str, host: &str, headers: &str) -> u16 {
    let request = form("/password-reset", headers, &[("email", "ada@example.com")])
        .replacen("POST /password-reset ", &format!("POST {target} "), 1)
        .replacen("Host: localhost\r\n", &format!("Host: {host}\r\n"), 1);
    let mut connection = Connection::open(server.port).unwrap();
    connection.send(request).unwrap();
    connection.answer().unwrap().status
}

/// Asks for resets of Ada's password with everything that could change where their links lead.
#[track_caller]
fn assert_links_lead_home(server: &Server, smtp: &Smtp, base: &str, host: &str) {
    let elsewhere = "http://evil.example/password-reset";
    for (target, host) in [
        ("/password-reset", "evil.example"),
        ("/password-reset", &*format!("{host}@evil.example")),
        ("/password-reset", &format!("{host}.evil.example")),
        (elsewhere, host),
        (elsewhere, "evil.example"),
        (&format!("{base}/password-reset"), "evil.example"),
    ] {
        let status = forged(server, target, host, "");
        assert!([400, 421].contains(&status), "{target} of {host} is {status}");
    }
    for (target, headers) in [
        ("/password-reset", ""),
        ("/password-reset", "X-Forwarded-Host: evil.example\r\n"),
        ("/password-reset", "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\n"),
        ("/password-reset", "Forwarded: host=evil.example;proto=https\r\n"),
        ("/password-reset", "X-Host: evil.example\r\nX-Original-Host: evil.example\r\n"),
        ("/password-reset", "Referer: http://evil.example/password-reset\r\n"),
        (&*format!("{base}/password-reset"), ""),
    ] {
        assert_eq!(forged(server, target, host, headers), 303, "{target} with {headers}");
    }
    for _ in 0..7 {
        let mail = smtp.take_mail("ada@example.com", "/password-reset/");
        let link = mail.find_link("/password-reset/").unwrap();
        assert!(link.starts_with(&format!("{base}/password-reset/")), "{mail}");
        let parts = mail.text() + &mail.part("text/html");
        assert!(!mail.data.contains("evil.example"), "{mail}");
        let links = parts.matches("http").count();
        assert_eq!(parts.matches(base).count(), links, "a link leads away from {base}:\n{mail}");
    }
}

#[test]
fn every_link_leads_to_the_sites_own_address_whatever_a_request_claims() {
    let (_database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    let base = format!("http://localhost:{}", server.port);
    for host in ["localhost", "127.0.0.1", &format!("localhost:{}", server.port)] {
        assert_links_lead_home(&server, &smtp, &base, host);
    }
}

#[test]
fn in_production_every_link_leads_to_the_sites_own_address_too() {
    let (database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    drop(server);
    let server = Server::in_production(&database, &[("SMTP_URL", &smtp.url)]);
    assert_links_lead_home(&server, &smtp, "http://site.example", "site.example");
}

#[test]
fn what_a_developer_finds_in_the_mailbox_nobody_else_finds() {
    let get = |server: &Server, path: &str, host: &str| {
        let mut connection = Connection::open(server.port).unwrap();
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
        connection.answer().unwrap()
    };
    let server = Server::start(&[]);
    server.browser().sign_up_with_address("ada").assert_redirect("/");
    let shown = wait_until(20, || get(&server, "/dev/mailbox", "localhost").body.contains("ada@example.com"));
    assert!(shown, "her mail is not in the mailbox: {}", get(&server, "/dev/mailbox", "localhost"));
    for host in ["evil.example", "localhost.evil.example", "192.0.2.1"] {
        get(&server, "/dev/mailbox", host).assert_status(421);
    }

    let database = Database::new();
    let smtp = Smtp::start();
    for smtp_url in [&*smtp.url, "none"] {
        let server = Server::in_production(&database, &[("SMTP_URL", smtp_url)]);
        let nowhere = get(&server, "/dev/nowhere", "site.example");
        let mailbox = get(&server, "/dev/mailbox", "site.example");
        mailbox.assert_status(404);
        assert_eq!(mailbox.comparable(), nowhere.comparable());
    }
}

#[test]
fn a_site_without_mail_has_no_pages_that_need_it() {
    let server = Server::start(&[("SMTP_URL", "none")]);
    let mut ada = server.browser();
    ada.sign_up_with_address("ada").assert_redirect("/");
    ada.get("/account/email").assert_status(404);
    ada.post("/account/email", &[("email", "ada@example.com")]).assert_status(404);
    let mut visitor = server.browser();
    visitor.get("/password-reset").assert_status(404);
    ask_for_reset(&mut visitor, "ada@example.com").assert_status(404);
    for (browser, page) in [(&mut visitor, "/login"), (&mut ada, "/account")] {
        let answer = browser.get(page);
        answer.assert_status(200);
        for gone in ["/password-reset", "/account/email"] {
            assert!(!answer.body.contains(gone), "{page} leads to {gone}: {answer}");
        }
    }
}

/// Causes every kind of mail to Ada, whose address is confirmed.
fn cause_every_mail(smtp: &Smtp, server: &Server) {
    let mut ada = smtp.person(server, "ada");
    let fields = [("current_password", PASSWORD), ("password", NEW_PASSWORD), ("confirm_password", NEW_PASSWORD)];
    ada.post("/account/password", &fields).assert_status(303);
    let mut elsewhere = server.browser().with_header("User-Agent", "curl/8.5.0");
    elsewhere.log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
    for _ in 0..6 {
        server.browser().log_in_with("ada", "not her password");
    }
    ask_for_reset(&mut server.browser(), "ada@example.com").assert_redirect("/password-reset");
    smtp.take_mail("ada@example.com", "/password-reset/");
    ada.post("/account/email", &[("email", "lovelace@example.com")]).assert_status(303);
    let confirm = smtp.take_mail("lovelace@example.com", "/email/").link("/email/");
    ada.post(&confirm, &[]).assert_status(303);
    smtp.take_mail("ada@example.com", "/undo/");
}

#[test]
fn every_mail_says_that_a_program_wrote_it_and_none_holds_a_password() {
    let (database, smtp, server) = site_with_mail(&[]);
    cause_every_mail(&smtp, &server);
    let mails = mails(&database, &smtp);
    assert!(mails.len() >= 7, "fewer than there were reasons for:\n{smtp}");
    assert_eq!(message_ids(&mails).len(), mails.len(), "two mails with one Message-ID:\n{smtp}");
    for mail in &mails {
        let header = |name| mail.header(name).unwrap_or_default();
        assert_eq!(header("auto-submitted"), "auto-generated", "{mail}");
        assert!(header("from").contains("<no-reply@localhost>"), "{mail}");
        assert_eq!(mail.sender, "no-reply@localhost", "{mail}");
        assert!(!header("date").is_empty() && !header("subject").is_empty(), "{mail}");
        assert_eq!(header("mime-version"), "1.0", "{mail}");
        assert!(header("content-type").starts_with("multipart/alternative"), "{mail}");
        let (text, html) = (mail.text(), mail.part("text/html"));
        assert!(!text.contains('<') && html.contains("<html"), "{text}\n{html}");
        for secret in [PASSWORD, NEW_PASSWORD, "not her password"] {
            let told = [&text, &html, &mail.data].iter().any(|words| words.contains(secret));
            assert!(!told, "{secret} stands in it:\n{mail}");
        }
        let asks = mail.find_link("/email/").map(|link| format!("<{link}"));
        let (way_out, one_click) = (mail.header("list-unsubscribe"), mail.header("list-unsubscribe-post"));
        assert_eq!(one_click, asks.is_some().then(|| "List-Unsubscribe=One-Click".into()), "{mail}");
        assert!(way_out.unwrap_or_default().starts_with(&asks.unwrap_or_default()), "{mail}");
        for line in mail.data.split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "RFC 5322, 2.1.1: {line:?}");
        }
    }
}

#[test]
fn the_owner_of_an_address_can_say_that_the_account_is_not_theirs() {
    let (_database, smtp, server) = site_with_mail(&[]);
    // Eve signs up with the address of another person, who unsubscribes. Their mail program sends no cookies and no
    // origin, and only this field (RFC 8058).
    let mut eve = server.browser();
    eve.sign_up_with_address("eve").assert_redirect("/");
    let mail = smtp.take_mail("eve@example.com", "/email/");
    let target = mail.header("list-unsubscribe").unwrap();
    let target = target.trim_matches(['<', '>']);
    let path = target.strip_prefix(&format!("http://localhost:{}", server.port)).unwrap();
    let click = form(path, "", &[("List-Unsubscribe", "One-Click")]).replacen("Sec-Fetch-Site: same-origin\r\n", "", 1);
    let mut program = Connection::open(server.port).unwrap();
    program.send(click).unwrap();
    let answer = program.answer().unwrap();
    assert!([200, 303].contains(&answer.status), "{answer}");
    eve.post(&mail.link("/email/"), &[]).assert_status(404);
    // The address does not belong to the account any more.
    server.browser().log_in("eve@example.com").assert_status(422);
}

#[test]
fn of_too_many_mails_the_account_gets_none_and_the_asker_hears_of_it_only_for_their_network() {
    let limits = [("MAILS_PER_ACCOUNT", "3/1h"), ("MAILS_PER_ADDRESS", "6/1h"), ("TRUSTED_PROXIES", "127.0.0.1")];
    let (database, smtp, server) = site_with_mail(&limits);
    smtp.person(&server, "ada");
    let from = |network: &str| server.browser().with_header("X-Forwarded-For", &format!("192.0.2.{network}"));
    let answers: Vec<String> = (0..5).map(|_| ask_for_reset(&mut from("1"), &address_of("ada")).comparable()).collect();
    assert!(answers.iter().all(|words| *words == answers[0]), "{answers:#?}");
    let resets = |mails: Vec<Mail>| mails.iter().filter(|mail| mail.find_link("/password-reset/").is_some()).count();
    assert_eq!(resets(mails(&database, &smtp)), 3);

    ask_for_reset(&mut from("1"), "nobody@example.com").assert_redirect("/password-reset");
    for email in ["ada@example.com", "nobody@example.com", "somebody@example.com"] {
        ask_for_reset(&mut from("1"), email).assert_must_wait(1..=3600);
        ask_for_reset(&mut from("2"), email).assert_redirect("/password-reset");
    }
}
