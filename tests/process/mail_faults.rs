//! Mail servers at their worst: whatever goes wrong at whichever stage, a mail comes once, or three times at most where
//! nobody can know, and none is given up that comes as soon as the server is mended.
//! needs: email, home, login, password_reset, signup

use crate::common::{
    Behaviour, Database, Fault, Server, Smtp, Stage, address_of, assert_all_mails_sent, message_ids, sign_up_all,
    site_with_mail, unsent_mails, wait_until,
};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

const STAGES: [Stage; 8] = [
    Stage::Greeting,
    Stage::Hello,
    Stage::LogIn,
    Stage::Sender,
    Stage::Recipient,
    Stage::Data,
    Stage::Content,
    Stage::Quit,
];

/// The slowest first.
const FAULTS: [Fault; 5] = [
    Fault::IsLate(Duration::from_secs(45)),
    Fault::Trickles,
    Fault::Refuses("451 4.7.1 Try again later"),
    // What is said of the server or the sender.
    Fault::Refuses("554 5.7.1 Your address is listed"),
    Fault::Drops,
];

fn url(smtp: &Smtp) -> String {
    smtp.url.replace("smtp://", "smtp://latchkey:swordfish@")
}

/// Ada signs up at a site whose mail server fails like this until it is mended.
fn assert_her_mail_comes(stage: Stage, fault: Fault) {
    let scenario = format!("{fault:?} at {stage:?}");
    let (database, smtp) = (Database::new(), Smtp::behaving(Behaviour::Fails(stage, fault)));
    let server = Server::on(&database, &[("SMTP_URL", &*url(&smtp)), ("DATABASE_POOL", "3")]);
    sign_up_all(&server, &["ada".into()]);
    let met = wait_until(30, || smtp.faults() > 0);
    assert!(met, "{scenario} never happened:\n{}", *server);
    let is_mended_by_time = matches!(fault, Fault::IsLate(_) | Fault::Trickles);
    if (stage, fault) == (Stage::Content, Fault::Drops) {
        let given_up = || {
            // As if the pause before another attempt were over.
            database.execute("update mails set due_at = 0 where error is not null");
            database.count("select count(*) from mails where failed_at is not null") == 1
        };
        assert!(wait_until(60, given_up), "{scenario}: it is not given up:\n{}", *server);
        let mails = smtp.mails();
        assert_eq!((mails.len(), message_ids(&mails).len()), (3, 1), "{scenario}:\n{smtp}");
        return;
    }
    if !is_mended_by_time {
        thread::sleep(Duration::from_millis(500));
        assert_eq!(database.count("select count(*) from mails where failed_at is not null"), 0, "{scenario}");
        smtp.set_behaviour(Behaviour::Accepts);
    }
    assert!(wait_until(90, || unsent_mails(&database) == 0), "{scenario}: it is not sent:\n{}", *server);
    let mails = smtp.mails();
    assert!(mails.len() == 1 && mails[0].is_to("ada@example.com"), "{scenario}:\n{smtp}\n{}", *server);
    assert!(!server.stdout().contains("swordfish"), "{scenario}:\n{}", *server);
}

#[test]
fn whatever_a_mail_server_does_at_whichever_stage_a_mail_comes_once() {
    let scenarios = FAULTS.iter().flat_map(|fault| STAGES.map(|stage| (stage, *fault)));
    let scenarios = Mutex::new(scenarios);
    thread::scope(|scope| {
        // Most of the time they wait.
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let next = scenarios.lock().unwrap().next();
                    let Some((stage, fault)) = next else { return };
                    assert_her_mail_comes(stage, fault);
                }
            });
        }
    });
}

/// Queues so many mails with links to choose a new password, all to this domain.
fn queue(database: &Database, user: &str, domain: &str, count: usize) {
    let rows = (0..count).map(|number| {
        format!(
            "('{domain}{number}', 'password_reset', (select id from users where username = '{user}'), \
             'p{number}@{domain}', '', 4000000000, 0, 0)"
        )
    });
    let columns = "id, kind, user_id, email, about, created_at, due_at, attempts";
    let rows: Vec<String> = rows.collect();
    database.execute(&format!("insert into mails ({columns}) values {}", rows.join(", ")));
}

/// The log's lines about a mail server that does not take mails.
fn warnings(server: &Server) -> usize {
    server.lines_with("WARN").len() + server.lines_with("ERROR").len()
}

#[test]
fn two_thousand_mails_wait_for_a_server_that_is_down_with_one_line_when_it_goes_and_one_when_it_is_back() {
    let (database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    assert_all_mails_sent(&database, &smtp);
    smtp.set_behaviour(Behaviour::Down);
    queue(&database, "ada", "many.example", 2000);
    thread::sleep(Duration::from_secs(12));
    assert_eq!(warnings(&server), 1, "{}", *server);
    let tried = database.count("select count(*) from mails where attempts > 0");
    assert!((1..=4).contains(&tried), "{tried} tries in 12 s");
    smtp.set_behaviour(Behaviour::Accepts);
    let sent = wait_until(60, || smtp.mails().len() > 100);
    assert!(sent, "they do not go on:\n{}", *server);
    assert_eq!((warnings(&server), server.lines_with("the mail server works again").len()), (1, 1), "{}", *server);
}

#[test]
fn a_site_with_a_wrong_password_for_its_mail_server_tries_it_seldom() {
    let wrong = Behaviour::Fails(Stage::LogIn, Fault::Refuses("535 5.7.8 Wrong name or password"));
    let (database, smtp) = (Database::of_a_site(), Smtp::behaving(wrong));
    let server = Server::on(&database, &[("SMTP_URL", &*url(&smtp))]);
    server.browser().sign_up("ada").assert_redirect("/");
    queue(&database, "ada", "many.example", 100);
    thread::sleep(Duration::from_secs(20));
    let tries = smtp.faults();
    assert!((2..=3).contains(&tries), "{tries} tries in 20 s:\n{}", *server);
    assert_eq!(warnings(&server), 1, "{}", *server);
}

#[test]
fn one_domain_for_which_the_server_takes_long_does_not_delay_the_mails_to_all_others() {
    let (database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    assert_all_mails_sent(&database, &smtp);
    smtp.set_behaviour(Behaviour::IsSlowTo("slow.example", Duration::from_secs(35)));
    for domain in ["slow.example", "very.slow.example", "a.slow.example"] {
        queue(&database, "ada", domain, 6);
    }
    assert!(wait_until(10, || smtp.commands().iter().any(|line| line.contains("slow.example"))), "{}", *server);
    queue(&database, "ada", "quick.example", 30);
    let begun = Instant::now();
    let quick = || smtp.mails().iter().filter(|mail| mail.recipients[0].ends_with("@quick.example")).count();
    assert!(wait_until(25, || quick() == 30), "only {} of 30 have come:\n{}", quick(), *server);
    println!("30 mails came in {:?}", begun.elapsed());
}

#[test]
fn a_site_introduces_itself_by_its_own_name_or_by_the_one_that_is_set() {
    let database = Database::of_a_site();
    for (settings, name) in [
        (&[][..], "localhost"),
        (&[("SMTP_HELO", "mail.example.com")], "mail.example.com"),
        (&[("SMTP_HELO", "192.0.2.7")], "[192.0.2.7]"),
    ] {
        let smtp = Smtp::start();
        let server = Server::on(&database, &[&[("SMTP_URL", &*smtp.url)], settings].concat());
        let person = format!("p{}", smtp.url.len() + settings.len() + name.len());
        server.browser().sign_up_with_address(&person).assert_redirect("/");
        smtp.take_mail(&address_of(&person), "/email/");
        assert_eq!(smtp.commands()[0], format!("EHLO {name}"));
    }
}

#[test]
fn a_reset_that_is_older_than_its_link_would_live_is_not_sent() {
    let (database, smtp, server) = site_with_mail(&[]);
    smtp.person(&server, "ada");
    assert_all_mails_sent(&database, &smtp);
    smtp.set_behaviour(Behaviour::Down);
    let ask = || {
        let answer = server.browser().post("/password-reset", &[("email", "ada@example.com")]);
        answer.assert_redirect("/password-reset");
    };
    ask();
    database.execute("update mails set created_at = created_at - 16 * 60");
    ask();
    smtp.set_behaviour(Behaviour::Accepts);
    assert_all_mails_sent(&database, &smtp);
    assert_eq!(smtp.mails().len(), 2, "her confirmation, and one link:\n{smtp}");
}

/// As a server that waits for the client to begin with TLS.
#[test]
fn a_server_that_says_nothing_is_said_to_expect_tls_perhaps() {
    let (database, smtp) = (Database::new(), Smtp::behaving(Behaviour::Silent));
    let server = Server::on(&database, &[("SMTP_URL", &*smtp.url)]);
    sign_up_all(&server, &["ada".into()]);
    let said = wait_until(20, || server.lines_with("smtps://").len() == 1);
    assert!(said, "{}", *server);
    smtp.set_behaviour(Behaviour::Accepts);
    smtp.take_mail("ada@example.com", "/email/");
}
