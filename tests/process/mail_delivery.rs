//! Mail while the mail server is down, silent or slow: none is lost, and none comes twice.
//! needs: email, home, login, password_reset, signup

use crate::common::{
    Behaviour, Database, Fault, PASSWORD, QUIET, Server, Smtp, Stage, address_of, assert_all_mails_sent,
    assert_one_mail_each, message_ids, numbered, sign_up_all, sign_up_fields, site_with_mail, wait_until,
};
use std::thread;
use std::time::{Duration, Instant};

/// While the mail server behaves like this, every request is answered as usual, and the mails come when it is back.
#[track_caller]
fn assert_nothing_changes_but_delivery(behaviour: Behaviour) {
    let (database, smtp, server) = site_with_mail(&[QUIET]);
    smtp.person(&server, "known");
    let act = |newcomer: &str| {
        let begun = Instant::now();
        let mut words = server.browser().sign_up_with_address(newcomer).comparable();
        let reset = |name: &str| server.browser().post("/password-reset", &[("email", &address_of(name))]).comparable();
        words += &["known", "nobody", newcomer].map(reset).concat();
        // Waiting for a silent mail server would take four seconds for each of the mails.
        assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}:\n{}", begun.elapsed(), *server);
        words
    };
    let usual = act("early");
    smtp.take_mail("known@example.com", "/password-reset/");
    assert_all_mails_sent(&database, &smtp);
    let before = smtp.mails().len();

    smtp.set_behaviour(behaviour);
    for number in 0..5 {
        assert_eq!(act(&format!("late{number}")), usual, "with a mail server that is {behaviour:?}");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(smtp.mails().len(), before, "{smtp}");
    smtp.set_behaviour(Behaviour::Accepts);
    // As if the pause before another attempt were over.
    database.execute("update mails set due_at = due_at - 10");
    assert_all_mails_sent(&database, &smtp);
    let came = &smtp.mails()[before..];
    assert_eq!(message_ids(came).len(), came.len(), "a mail came twice:\n{smtp}");
    assert_one_mail_each(came, &numbered("late", 5));
    let to = |name: &str| came.iter().filter(|mail| mail.is_to(&address_of(name))).count();
    assert_eq!((came.len(), to("known"), to("nobody")), (10, 5, 0), "{smtp}");
}

#[test]
fn a_mail_server_that_is_away_changes_nothing_but_when_mails_come() {
    assert_nothing_changes_but_delivery(Behaviour::Down);
}

#[test]
fn a_silent_mail_server_changes_nothing_but_when_mails_come() {
    assert_nothing_changes_but_delivery(Behaviour::Silent);
}

#[test]
fn a_mail_server_that_asks_for_patience_changes_nothing_but_when_mails_come() {
    assert_nothing_changes_but_delivery(Behaviour::Fails(Stage::Sender, Fault::Refuses("451 4.3.0 Later")));
}

#[test]
fn a_mail_that_nobody_will_ever_take_is_given_up_and_can_be_seen() {
    let nobody =
        Behaviour::Fails(Stage::Recipient, Fault::Refuses("550 5.1.1 <ada@example.com>: There is nobody here"));
    let (database, smtp) = (Database::new(), Smtp::behaving(nobody));
    let server = Server::on(&database, &[("SMTP_URL", &smtp.url)]);
    let mut ada = server.browser();
    ada.sign_up_with_address("ada").assert_redirect("/");
    let given_up = "select count(*) from mails where failed_at is not null and error like '%nobody here%'";
    assert!(wait_until(10, || database.count(given_up) == 1), "it is not given up:\n{}", *server);
    assert!(wait_until(10, || !server.lines_with("given up").is_empty()), "{}", *server);
    let told = server.lines_with("given up");
    assert_eq!(told.len(), 1, "{}", *server);
    assert!(!told[0].contains("ada@example.com"), "the log tells an address: {told:?}");
    ada.get("/").assert_status(200);
}

#[test]
fn mail_reaches_addresses_with_umlauts_and_with_odd_dots_at_servers_that_know_neither() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let server = Server::on(&database, &[("SMTP_URL", &smtp.url)]);
    for (name, typed, recipient) in [
        ("ada", "Ada@münchen.de", "ada@xn--mnchen-3ya.de"),
        ("bob", "bob@straße.de", "bob@xn--strae-oqa.de"),
        ("cyd", "a..b@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
        ("dan", "x.@docomo.ne.jp", "\"x.\"@docomo.ne.jp"),
        ("eve", ".y@ezweb.ne.jp", "\".y\"@ezweb.ne.jp"),
    ] {
        let mut browser = server.browser();
        let fields = [&sign_up_fields(name)[..], &[("email", typed)]].concat();
        browser.post("/signup", &fields).assert_redirect("/");
        let link = smtp.take_mail(recipient, "/email/").link("/email/");
        browser.post(&link, &[]).assert_redirect("/");
        // By the address as it is typed, too, the way back is found.
        server.browser().post("/password-reset", &[("email", typed)]).assert_redirect("/password-reset");
        smtp.take_mail(recipient, "/password-reset/");
        server.browser().log_in_with(typed, PASSWORD).assert_redirect("/");
    }
    assert!(smtp.commands().iter().all(|line| line.is_ascii() && !line.contains("SMTPUTF8")), "{smtp}");
    assert_all_mails_sent(&database, &smtp);
    let later = Fault::Refuses("451 4.3.0 \"a..b\"@docomo.ne.jp: later");
    smtp.set_behaviour(Behaviour::Fails(Stage::Recipient, later));
    server.browser().post("/password-reset", &[("email", "a..b@docomo.ne.jp")]).assert_redirect("/password-reset");
    assert!(wait_until(10, || !server.lines_with("will be retried").is_empty()), "{}", *server);
    assert!(!server.stdout().contains("a..b"), "the log tells an address:\n{}", *server);
}

#[test]
fn where_tls_is_required_a_server_without_it_learns_nothing() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let url = smtp.url.replace("smtp://", "smtp://latchkey:swordfish@") + "?tls=required";
    let server = Server::on(&database, &[("SMTP_URL", &url)]);
    sign_up_all(&server, &numbered("ada", 1));
    let waits = "select count(*) from mails where attempts > 0 and error is not null and failed_at is null";
    assert!(wait_until(10, || database.count(waits) == 1), "{}", *server);
    assert!(smtp.mails().is_empty(), "{smtp}");
    let heard = smtp.commands();
    assert!(!heard.is_empty() && heard.iter().all(|line| line.starts_with("EHLO ")), "{heard:?}");
    assert!(!server.stdout().contains("swordfish"), "{}", *server);
}

#[test]
fn a_mail_server_that_takes_half_a_minute_gets_each_mail_once() {
    let (database, smtp) = (Database::new(), Smtp::behaving(Behaviour::SilentAfterData));
    let settings = [("SMTP_URL", &*smtp.url), QUIET];
    let servers = Server::pair(&database, &settings);
    let names = numbered("ada", 10);
    sign_up_all(&servers[0], &names);
    // Longer than the lease, so that the other process would take the mails if it were not renewed.
    thread::sleep(Duration::from_secs(30));
    smtp.set_behaviour(Behaviour::Accepts);
    assert_all_mails_sent(&database, &smtp);
    let mails = smtp.mails();
    assert_eq!((mails.len(), message_ids(&mails).len()), (10, 10), "{smtp}");
    assert_one_mail_each(&mails, &names);
}
