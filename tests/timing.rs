//! Whether somebody has an account cannot be told by how long a log-in takes, nor by anything else it answers.
//! needs: login, signup
#![cfg(unix)]

mod common;

use common::{Answer, Browser, Server};
use std::time::{Duration, Instant};

const PAIRS: usize = 1000;

/// How long a wrong guess takes, and what it answers.
fn guess(browser: &mut Browser, name: &str) -> (Duration, Answer) {
    let begun = Instant::now();
    let answer = browser.post("/login", &[("username", name), ("password", "not the password")]);
    (begun.elapsed(), answer)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_known_name_and_an_unknown_one_take_equally_long_and_are_told_the_same() {
    let server = Server::start(&[
        // So many that hashing is most of an answer, as it is with the default.
        ("PASSWORD_ITERATIONS", "20000"),
        ("PASSWORD_FREE_ATTEMPTS", "100000"),
        ("PASSWORD_DISABLE_AFTER", "100000"),
        ("RUST_LOG", "warn"),
    ]);
    let names = ["known", "nobod"];
    server.browser().sign_up(names[0]).assert_redirect("/");
    let mut browser = server.browser();
    for _ in 0..20 {
        names.iter().for_each(|name| drop(guess(&mut browser, name)));
    }
    let mut times = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        // Now the one comes first, now the other.
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut told = [String::new(), String::new()];
        for which in order {
            let (time, answer) = guess(&mut browser, names[which]);
            answer.assert_status(422);
            times[which].push(time);
            told[which] = answer.words().replace(names[which], "NAME") + answer.statements();
        }
        assert_eq!(told[0], told[1], "in pair {pair}");
    }
    let [known, unknown] = times.map(median);
    println!("known {known:?}, unknown {unknown:?}");
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.95..1.05).contains(&ratio), "a known name takes {known:?}, an unknown one {unknown:?}");
}
