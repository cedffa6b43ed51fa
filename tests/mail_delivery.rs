//! Mail while servers fail: a mail server that is away, silent or slow, processes that are killed or asked to stop. No mail
//! is lost, and none comes twice but one that was on its way.
//! needs: email, home, login, password_reset, signup
#![cfg(unix)]

mod common;

use common::{Database, Launched, Mail, Manner, Server, Smtp, address_of, patiently, wait_until};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const QUIET: (&str, &str) = ("RUST_LOG", "off");

fn left(database: &Database) -> i64 {
    database.count("select count(*) from mails")
}

#[track_caller]
fn assert_all_sent(database: &Database, logs: &dyn std::fmt::Display) {
    assert!(wait_until(60, || left(database) == 0), "{} mails are still there:\n{logs}", left(database));
}

fn ids(mails: &[Mail]) -> BTreeSet<String> {
    mails.iter().map(Mail::id).collect()
}

fn sign_up(server: &Server, names: &[String]) {
    for name in names {
        server.browser().sign_up_with_address(name).assert_redirect("/");
    }
}

fn people(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[track_caller]
fn assert_each_has_one(mails: &[Mail], names: &[String]) {
    for name in names {
        let address = address_of(name);
        let own: Vec<Mail> = mails.iter().filter(|mail| mail.is_to(&address)).cloned().collect();
        assert_eq!(ids(&own).len(), 1, "not one mail to {address} but {}", own.len());
    }
}

/// What happens while the mail server has this manner is answered as ever, and the mails come when it is back.
#[track_caller]
fn assert_outlived(manner: Manner) {
    let (database, smtp) = (Database::new(), Smtp::start());
    let server = Server::on(&database, &[("SMTP_URL", &smtp.url), QUIET]);
    smtp.person(&server, "known");
    let act = |newcomer: &str| {
        let begun = Instant::now();
        let mut words = server.browser().sign_up_with_address(newcomer).words();
        let reset =
            |name: &str| server.browser().post("/password-reset", &[("email", &address_of(name))]).words();
        words += &["known", "nobody", newcomer].map(reset).concat();
        assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}:\n{}", begun.elapsed(), *server);
        words
    };
    let usual = act("early");
    smtp.take("known@example.com", "/password-reset/");
    assert_all_sent(&database, &smtp);
    let before = smtp.mails().len();

    smtp.becomes(manner);
    for number in 0..5 {
        assert_eq!(act(&format!("late{number}")), usual, "with a mail server that is {manner:?}");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(smtp.mails().len(), before, "{smtp}");
    smtp.becomes(Manner::Takes);
    assert_all_sent(&database, &smtp);
    let came = &smtp.mails()[before..];
    assert_eq!(ids(came).len(), came.len(), "a mail came twice:\n{smtp}");
    assert_each_has_one(came, &people("late", 5));
    let to = |name: &str| came.iter().filter(|mail| mail.is_to(&address_of(name))).count();
    assert_eq!((came.len(), to("known"), to("nobody")), (10, 5, 0), "{smtp}");
}

#[test]
fn a_mail_server_that_is_away_changes_nothing_but_when_mails_come() {
    assert_outlived(Manner::Away);
}

#[test]
fn a_silent_mail_server_changes_nothing_but_when_mails_come() {
    assert_outlived(Manner::Silent);
}

#[test]
fn a_mail_server_that_asks_for_patience_changes_nothing_but_when_mails_come() {
    assert_outlived(Manner::Refuses("451 4.3.0 Later"));
}

#[test]
fn a_mail_that_nobody_will_ever_take_is_given_up_and_can_be_seen() {
    let (database, smtp) = (Database::new(), Smtp::that(Manner::Refuses("550 5.1.1 There is nobody here")));
    let server = Server::on(&database, &[("SMTP_URL", &smtp.url)]);
    let mut ada = server.browser();
    ada.sign_up_with_address("ada").assert_redirect("/");
    let given_up = "select count(*) from mails where failed_at is not null and error like '%nobody here%'";
    assert!(wait_until(10, || database.count(given_up) == 1), "it is not given up:\n{}", *server);
    let told = server.lines_with("given up");
    assert_eq!(told.len(), 1, "{}", *server);
    assert!(!told[0].contains("ada@example.com"), "the log tells an address: {told:?}");
    ada.get("/").assert_status(200);
}

#[test]
fn where_tls_is_required_a_server_without_it_is_told_nothing() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let url = smtp.url.replace("smtp://", "smtp://latchkey:swordfish@") + "?tls=required";
    let server = Server::on(&database, &[("SMTP_URL", &url)]);
    sign_up(&server, &people("ada", 1));
    let waits = "select count(*) from mails where attempts > 0 and error is not null and failed_at is null";
    assert!(wait_until(10, || database.count(waits) == 1), "{}", *server);
    assert!(smtp.mails().is_empty(), "{smtp}");
    let heard = smtp.heard();
    assert!(!heard.is_empty() && heard.iter().all(|line| line.starts_with("EHLO ")), "{heard:?}");
    assert!(!server.stdout().contains("swordfish"), "{}", *server);
}

#[test]
fn a_mail_server_that_takes_half_a_minute_gets_each_mail_once() {
    let (database, smtp) = (Database::new(), Smtp::that(Manner::SilentAtTheEnd));
    let settings = [("SMTP_URL", &*smtp.url), QUIET];
    let servers = [0; 2].map(|_| Server::launch(&database, &settings)).map(Launched::ready);
    let names = people("ada", 10);
    sign_up(&servers[0], &names);
    // Longer than the lease: a process that did not renew it would see its mails taken by the other.
    thread::sleep(Duration::from_secs(30));
    smtp.becomes(Manner::Takes);
    assert_all_sent(&database, &smtp);
    let mails = smtp.mails();
    assert_eq!((mails.len(), ids(&mails).len()), (10, 10), "{smtp}");
    assert_each_has_one(&mails, &names);
}

/// Kills one of two processes while its mail server has this manner: the other sends what it left. Each has a mail server of
/// its own, so that one can tell what was on its way.
#[track_caller]
fn assert_a_kill_loses_nothing(manner: Manner) {
    let (database, smtps) = (Database::new(), [0; 2].map(|_| Smtp::that(manner)));
    let launch = |smtp: &Smtp| Server::launch(&database, &[("SMTP_URL", &*smtp.url), QUIET]);
    let [mut killed, stays] = smtps.each_ref().map(launch).map(Launched::ready);
    let names = people("ada", 20);
    sign_up(&killed, &names[..10]);
    sign_up(&stays, &names[10..]);
    let both = wait_until(10, || smtps.iter().all(|smtp| smtp.waiting() > 0));
    assert!(both, "not both are in the middle of a mail:\n{}\n{}", *killed, *stays);
    killed.signal(Signal::KILL);
    killed.ends_within(5);
    let on_its_way = ids(&smtps[0].mails());
    let [_, smtp] = &smtps;
    smtp.becomes(Manner::Takes);
    assert_all_sent(&database, smtp);

    let mails = smtp.mails();
    assert_eq!(ids(&mails).len(), mails.len(), "a mail came twice from one process:\n{smtp}");
    assert_each_has_one(&[smtps[0].mails(), mails.clone()].concat(), &names);
    let known = ids(&mails);
    assert!(on_its_way.is_subset(&known), "a mail that was on its way came again under another Message-ID");
    // Nobody knows whether the dead process's mails had arrived, so they come again. Of two mails with one Message-ID mail
    // programs show one, whichever they like.
    assert_eq!(mails.len(), 20, "{smtp}");
    for copy in smtps[0].mails() {
        let other = mails.iter().find(|mail| mail.id() == copy.id()).unwrap();
        stays.browser().post(&copy.link("/email/"), &[]).assert_status(303);
        stays.browser().post(&other.link("/email/"), &[]).assert_status(404);
    }
}

#[test]
fn of_a_process_killed_before_a_mail_server_says_a_word_the_other_sends_every_mail_once() {
    assert_a_kill_loses_nothing(Manner::Silent);
}

#[test]
fn of_a_process_killed_after_a_mail_was_handed_over_only_that_comes_twice_and_can_be_known() {
    assert_a_kill_loses_nothing(Manner::SilentAtTheEnd);
}

#[test]
fn kills_at_any_moment_lose_no_mail_and_double_only_what_was_on_its_way() {
    let (database, smtp) = (Database::new(), Smtp::start());
    let settings = [("SMTP_URL", &*smtp.url), QUIET];
    let stays = Server::on(&database, &settings);
    const ROUNDS: usize = 4;
    for round in 0..ROUNDS {
        let mut killed = Server::on(&database, &settings);
        let (over, signed_up) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for (thread, port) in [killed.port, stays.port].into_iter().enumerate() {
                let (over, signed_up, server) = (&over, &signed_up, &stays);
                scope.spawn(move || {
                    let mut browser = server.browser().also_at(port);
                    for number in 0..10_000 {
                        let name = format!("r{round}t{thread}n{number}");
                        // One of them hears no more once its process is gone.
                        if over.load(SeqCst) || browser.try_sign_up_with_address(&name).is_err() {
                            break;
                        }
                        signed_up.fetch_add(1, SeqCst);
                    }
                });
            }
            let came = wait_until(20, || signed_up.load(SeqCst) >= 20 + 7 * round);
            killed.signal(Signal::KILL);
            over.store(true, SeqCst);
            assert!(came, "too few sign-ups in round {round}:\n{}", *stays);
        });
        killed.ends_within(5);
    }
    assert_all_sent(&database, &smtp);
    let (mails, accounts) = (smtp.mails(), database.count("select count(*) from users") as usize);
    assert!(accounts >= 20 * ROUNDS, "only {accounts} signed up");
    assert_eq!(ids(&mails).len(), accounts, "of so many accounts");
    let doubles = mails.len() - accounts;
    println!("{doubles} of {accounts} came twice");
    assert!(doubles <= 4 * ROUNDS, "{doubles} came twice, and a process sends at most four at once");
}

#[test]
fn whoever_stops_it_does_not_stop_a_mail_on_its_way() {
    for manner in [Manner::Silent, Manner::SilentAtTheEnd] {
        let (database, smtp) = (Database::new(), Smtp::that(manner));
        let mut server = Server::on(&database, &[("SMTP_URL", &smtp.url)]);
        sign_up(&server, &people("ada", 1));
        assert!(wait_until(10, || smtp.waiting() > 0), "{}", *server);
        server.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(500));
        assert!(!server.has_ended(), "it did not wait for the mail:\n{}", *server);
        smtp.becomes(Manner::Takes);
        let status = server.ends_within(5);
        assert!(status.success(), "it ended with {status}:\n{}", *server);
        assert_each_has_one(&smtp.mails(), &people("ada", 1));
        assert_eq!(left(&database), 0, "it does not know that the mail was sent:\n{}", *server);
    }
}

#[test]
fn a_stop_does_not_wait_for_ever_and_the_next_process_sends_what_is_left() {
    let (database, smtp) = (Database::new(), Smtp::that(Manner::Silent));
    let settings = [("SMTP_URL", &*smtp.url), ("DRAIN_TIMEOUT", "2s")];
    let mut server = Server::on(&database, &settings);
    let names = people("ada", 6);
    sign_up(&server, &names);
    assert!(wait_until(10, || smtp.waiting() > 0), "{}", *server);
    server.signal(Signal::TERM);
    let status = server.ends_within(5);
    assert!(status.code().is_some(), "it ended with {status}:\n{}", *server);
    assert_eq!(left(&database), 6, "{}", *server);

    smtp.becomes(Manner::Takes);
    let next = Server::on(&database, &settings);
    assert_all_sent(&database, &*next);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 6, "{smtp}");
    assert_each_has_one(&mails, &names);
    patiently(|| next.browser().log_in("ada0")).assert_redirect("/");
}
