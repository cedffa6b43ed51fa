//! Mail when processes are killed or asked to stop: none is lost, and none comes twice but one that was on its way.
//! needs: email, home, login, signup

use crate::common::{
    Behaviour, Database, QUIET, Server, Signal, Smtp, Starting, assert_all_mails_sent, assert_one_mail_each,
    message_ids, numbered, retry_while_busy, run_with_others, sign_up_all, unsent_mails, wait_until,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ends the leases of a process that has just been killed, which would last 20 s, or 15 minutes for mails that had reached its
/// mail server. Those of a live process have been renewed since, so they are left alone.
fn expire_leases(database: &Database, smtp: &Smtp) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    thread::sleep(Duration::from_secs(7));
    database.execute(&format!("update mails set due_at = due_at - 20 where attempts > 0 and due_at <= {now} + 20"));
    for message_id in message_ids(&smtp.mails()) {
        let id = message_id.trim_start_matches('<').split('@').next().unwrap();
        database.execute(&format!("update mails set due_at = 0 where id = '{id}'"));
    }
}

/// Kills one of two processes while its mail server behaves like this, and asserts that the other sends what is left.
/// Each has a mail server of its own, which tells what had been sent.
#[track_caller]
fn assert_a_kill_loses_nothing(behaviour: Behaviour) {
    let (database, smtps) = (Database::new(), [0; 2].map(|_| Smtp::behaving(behaviour)));
    let launch = |smtp: &Smtp| Server::spawn(&database, &[("SMTP_URL", &*smtp.url), QUIET]);
    let [mut killed, stays] = smtps.each_ref().map(launch).map(Starting::ready);
    let names = numbered("ada", 20);
    sign_up_all(&killed, &names[..10]);
    sign_up_all(&stays, &names[10..]);
    let both = wait_until(10, || smtps.iter().all(|smtp| smtp.waiting() > 0));
    assert!(both, "not both are in the middle of a mail:\n{}\n{}", *killed, *stays);
    killed.signal(Signal::KILL);
    killed.wait_for_exit(5);
    expire_leases(&database, &smtps[0]);
    let on_its_way = message_ids(&smtps[0].mails());
    let [_, smtp] = &smtps;
    smtp.set_behaviour(Behaviour::Accepts);
    assert_all_mails_sent(&database, smtp);

    let mails = smtp.mails();
    assert_eq!(message_ids(&mails).len(), mails.len(), "a mail came twice from one process:\n{smtp}");
    assert_one_mail_each(&[smtps[0].mails(), mails.clone()].concat(), &names);
    let known = message_ids(&mails);
    assert!(on_its_way.is_subset(&known), "a mail that was on its way came again under another Message-ID");
    // The killed process did not record whether its mails arrived, so they are sent again. Of two mails with one
    // Message-ID a mail program shows either.
    assert_eq!(mails.len(), 20, "{smtp}");
    for copy in smtps[0].mails() {
        let other = mails.iter().find(|mail| mail.id() == copy.id()).unwrap();
        stays.browser().post(&copy.link("/email/"), &[]).assert_status(303);
        stays.browser().post(&other.link("/email/"), &[]).assert_status(404);
    }
}

#[test]
fn of_a_process_killed_before_a_mail_server_says_a_word_the_other_sends_every_mail_once() {
    let _shared = run_with_others();
    assert_a_kill_loses_nothing(Behaviour::Silent);
}

#[test]
fn of_a_process_killed_after_a_mail_was_handed_over_only_that_comes_twice_and_can_be_known() {
    let _shared = run_with_others();
    assert_a_kill_loses_nothing(Behaviour::SilentAfterData);
}

#[test]
fn kills_at_any_moment_lose_no_mail_and_double_only_what_was_on_its_way() {
    let _shared = run_with_others();
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
                        // The requests of one of the threads fail once its process is gone.
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
        killed.wait_for_exit(5);
    }
    let waiting = "select count(*) from mails where attempts = 0";
    assert!(wait_until(20, || database.count(waiting) == 0), "{}", *stays);
    // What is left then is what the killed processes were sending.
    thread::sleep(Duration::from_secs(1));
    database.execute("update mails set due_at = 0");
    assert_all_mails_sent(&database, &smtp);
    let (mails, accounts) = (smtp.mails(), database.count("select count(*) from users") as usize);
    assert!(accounts >= 20 * ROUNDS, "only {accounts} signed up");
    assert_eq!(message_ids(&mails).len(), accounts, "of so many accounts");
    let doubles = mails.len() - accounts;
    println!("{doubles} of {accounts} came twice");
    assert!(doubles <= 4 * ROUNDS, "{doubles} came twice, and a process sends at most four at once");
}

#[test]
fn a_stop_does_not_interrupt_a_mail_on_its_way() {
    let _shared = run_with_others();
    for behaviour in [Behaviour::Silent, Behaviour::SilentAfterData] {
        let (database, smtp) = (Database::new(), Smtp::behaving(behaviour));
        let mut server = Server::on(&database, &[("SMTP_URL", &smtp.url)]);
        sign_up_all(&server, &numbered("ada", 1));
        assert!(wait_until(10, || smtp.waiting() > 0), "{}", *server);
        server.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(500));
        assert!(!server.has_ended(), "it did not wait for the mail:\n{}", *server);
        smtp.set_behaviour(Behaviour::Accepts);
        let status = server.wait_for_exit(5);
        assert!(status.success(), "it ended with {status}:\n{}", *server);
        assert_one_mail_each(&smtp.mails(), &numbered("ada", 1));
        assert_eq!(unsent_mails(&database), 0, "it does not know that the mail was sent:\n{}", *server);
    }
}

#[test]
fn a_stop_does_not_wait_for_ever_and_the_next_process_sends_what_is_left() {
    let _shared = run_with_others();
    let (database, smtp) = (Database::new(), Smtp::behaving(Behaviour::Silent));
    let settings = [("SMTP_URL", &*smtp.url), ("DRAIN_TIMEOUT", "2s")];
    let mut server = Server::on(&database, &settings);
    let names = numbered("ada", 6);
    sign_up_all(&server, &names);
    assert!(wait_until(10, || smtp.waiting() > 0), "{}", *server);
    server.signal(Signal::TERM);
    let status = server.wait_for_exit(5);
    assert!(status.success(), "it ended with {status}:\n{}", *server);
    assert_eq!(unsent_mails(&database), 6, "{}", *server);

    // No process is left to renew the leases.
    database.execute("update mails set due_at = due_at - 20");
    smtp.set_behaviour(Behaviour::Accepts);
    let next = Server::on(&database, &settings);
    assert_all_mails_sent(&database, &*next);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 6, "{smtp}");
    assert_one_mail_each(&mails, &names);
    retry_while_busy(|| next.browser().log_in("ada0")).assert_redirect("/");
}
