//! Whether an address is known here cannot be told by what `/password-reset` answers nor by how long it takes, and whether
//! the mail server is well neither.
//! needs: email, home, login, password_reset, signup
#![cfg(unix)]

mod common;

use common::{Answer, Browser, Manner, Server, Smtp, address_of, alone};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn timed(ask: impl FnOnce() -> Answer) -> (Duration, Answer) {
    let begun = Instant::now();
    let answer = ask();
    (begun.elapsed(), answer)
}

fn ask_for_reset(browser: &mut Browser, name: &str) -> (Duration, Answer) {
    timed(|| browser.post("/password-reset", &[("email", &address_of(name))]))
}

/// The median of each row, and how far the slowest lies from the quickest.
fn medians<const N: usize>(times: [Vec<Duration>; N]) -> ([Duration; N], f64) {
    let medians = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let (slowest, quickest) = (medians.iter().max().unwrap(), medians.iter().min().unwrap());
    (medians, slowest.as_secs_f64() / quickest.as_secs_f64())
}

/// The numbers below `N` in another order each time, so that nobody is always the first or always follows the same.
fn order<const N: usize>(round: usize) -> [usize; N] {
    let step = if round.is_multiple_of(2) { 1 } else { N - 1 };
    std::array::from_fn(|place| (round / 2 + place * step) % N)
}

const ROUNDS: usize = 200;

/// For the work that follows an answer, so that it does not slow the next one: what mails cost the machine is measured by
/// nobody here, and waiting for a mail server would take seconds.
const PAUSE: Duration = Duration::from_millis(40);

#[test]
fn known_unknown_and_unconfirmed_addresses_take_equally_long_and_are_told_the_same() {
    let _alone = alone();
    let smtp = Smtp::start();
    let server = Server::start(&[("SMTP_URL", &smtp.url), ("RUST_LOG", "warn")]);
    let names = ["known", "waits", "nobod"];
    smtp.person(&server, "known");
    server.browser().sign_up_with_address("waits").assert_redirect("/");
    let mut browser = server.browser();
    for round in 0..20 {
        order::<3>(round).iter().for_each(|&which| drop(ask_for_reset(&mut browser, names[which])));
    }
    let mut times = [const { Vec::new() }; 3];
    let mut usual = None;
    for round in 0..ROUNDS {
        for which in order::<3>(round) {
            sleep(PAUSE);
            let (time, answer) = ask_for_reset(&mut browser, names[which]);
            answer.assert_redirect("/password-reset");
            times[which].push(time);
            let told = answer.words() + answer.statements();
            let usual: &String = usual.get_or_insert_with(|| told.clone());
            assert_eq!(told, *usual, "{} in round {round}", names[which]);
        }
    }
    let (medians, ratio) = medians(times);
    println!("known, unconfirmed, unknown: {medians:?}, ratio {ratio:.3}");
    assert!(ratio < 1.1, "known, unconfirmed, unknown: {medians:?}");
}

#[test]
fn a_mail_server_that_is_away_or_silent_makes_no_answer_slower() {
    let _alone = alone();
    let manners = [Manner::Takes, Manner::Away, Manner::Silent];
    let smtps = [0; 3].map(|_| Smtp::start());
    let servers =
        smtps.each_ref().map(|smtp| Server::start(&[("SMTP_URL", &smtp.url), ("RUST_LOG", "error")]));
    for (smtp, server) in smtps.iter().zip(&servers) {
        smtp.person(server, "known");
    }
    for (smtp, manner) in smtps.iter().zip(manners) {
        smtp.becomes(manner);
    }
    let mut browsers = servers.each_ref().map(Server::browser);
    let (mut sign_ups, mut resets) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..ROUNDS / 2 {
        for which in order::<3>(round) {
            sleep(PAUSE);
            let (time, answer) =
                timed(|| servers[which].browser().sign_up_with_address(&format!("ada{round}")));
            answer.assert_redirect("/");
            sign_ups[which].push(time);
            sleep(PAUSE);
            let (time, answer) = ask_for_reset(&mut browsers[which], "known");
            answer.assert_redirect("/password-reset");
            resets[which].push(time);
        }
    }
    for (what, times) in [("a sign-up", sign_ups), ("a reset", resets)] {
        let (medians, ratio) = medians(times);
        println!("{what} while it {manners:?}: {medians:?}, ratio {ratio:.3}");
        assert!(ratio < 2.0, "{what} while it {manners:?}: {medians:?}");
    }
}
