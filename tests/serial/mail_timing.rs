//! Neither the time that `/password-reset` takes nor its answer reveals whether an account has the address, or whether
//! the mail server is up.
//! needs: email, home, login, password_reset, signup

use crate::common::{Answer, Behaviour, Browser, Server, Smtp, address_of, first_quartile, run_alone};
use std::time::{Duration, Instant};

fn timed(ask: impl FnOnce() -> Answer) -> (Duration, Answer) {
    let begun = Instant::now();
    let answer = ask();
    (begun.elapsed(), answer)
}

fn ask_for_reset(browser: &mut Browser, name: &str) -> (Duration, Answer) {
    let (time, answer) = timed(|| browser.post("/password-reset", &[("email", &address_of(name))]));
    answer.assert_redirect("/password-reset");
    (time, answer)
}

fn quartiles(times: &[Vec<Duration>; 3]) -> [Duration; 3] {
    times.each_ref().map(|times| first_quartile(times))
}

/// By how much the slowest of them is slower than the quickest.
fn ratio(times: &[Duration; 3]) -> f64 {
    times.iter().max().unwrap().as_secs_f64() / times.iter().min().unwrap().as_secs_f64()
}

/// The order in which the three are asked: each follows each, itself included, equally often.
const ORDER: [usize; 9] = [0, 0, 1, 0, 2, 1, 1, 2, 2];

#[test]
fn known_unknown_and_unconfirmed_addresses_take_equally_long_and_get_the_same_answer() {
    let _alone = run_alone();
    let smtp = Smtp::start();
    let server = Server::start(&[("SMTP_URL", &smtp.url), ("RUST_LOG", "warn")]);
    let names = ["known", "waits", "nobod"];
    smtp.person(&server, "known");
    server.browser().sign_up_with_address("waits").assert_redirect("/");
    let mut browser = server.browser();
    let told = |answer: &Answer| answer.comparable() + answer.statement_count();
    let usual = told(&ask_for_reset(&mut browser, "nobod").1);
    let mut times = [const { Vec::new() }; 3];
    for round in 0..200 {
        for which in ORDER {
            let (time, answer) = ask_for_reset(&mut browser, names[which]);
            times[which].push(time);
            assert_eq!(told(&answer), usual, "{} in round {round}", names[which]);
        }
        // Fewer are enough when the difference is much smaller than the limit.
        if round >= 60 && round % 10 == 0 && ratio(&quartiles(&times)) < 1.03 {
            break;
        }
    }
    let times = quartiles(&times);
    let ratio = ratio(&times);
    println!("known, unconfirmed, unknown: {times:?}, ratio {ratio:.3}");
    assert!(ratio < 1.1, "known, unconfirmed, unknown: {times:?}");
}

#[test]
fn a_mail_server_that_is_away_or_silent_keeps_nobody_waiting() {
    let _alone = run_alone();
    let behaviours = [Behaviour::Accepts, Behaviour::Down, Behaviour::Silent];
    let smtps = [0; 3].map(|_| Smtp::start());
    let servers = smtps.each_ref().map(|smtp| Server::start(&[("SMTP_URL", &smtp.url), ("RUST_LOG", "error")]));
    for (smtp, server) in smtps.iter().zip(&servers) {
        smtp.person(server, "known");
    }
    for (smtp, behaviour) in smtps.iter().zip(behaviours) {
        smtp.set_behaviour(behaviour);
    }
    let mut browsers = servers.each_ref().map(Server::browser);
    let (mut sign_ups, mut resets) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..20 {
        for (place, which) in ORDER.into_iter().enumerate() {
            let name = format!("ada{round}n{place}");
            let (time, answer) = timed(|| servers[which].browser().sign_up_with_address(&name));
            answer.assert_redirect("/");
            sign_ups[which].push(time);
            resets[which].push(ask_for_reset(&mut browsers[which], "known").0);
        }
    }
    for (what, times) in [("a sign-up", sign_ups), ("a reset", resets)] {
        let times = quartiles(&times);
        println!("{what} while it {behaviours:?}: {times:?}");
        // The work that mails cause may show. Waiting for a mail server would take four seconds.
        let longer = *times.iter().max().unwrap() - *times.iter().min().unwrap();
        assert!(longer < Duration::from_millis(500), "{what} while it {behaviours:?}: {times:?}");
    }
}
