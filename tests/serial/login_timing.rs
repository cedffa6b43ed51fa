//! Neither the time that a log-in takes nor its answer reveals whether an account exists.
//! needs: login, signup

use crate::common::{Answer, Browser, Server, first_quartile, run_alone};
use std::time::{Duration, Instant};

/// At most.
const PAIRS: usize = 1000;

/// How long a wrong password takes, and its answer.
fn guess(browser: &mut Browser, name: &str) -> (Duration, Answer) {
    let begun = Instant::now();
    let answer = browser.log_in_with(name, "not the password");
    (begun.elapsed(), answer)
}

fn ratio([known, unknown]: &[Vec<Duration>; 2]) -> f64 {
    first_quartile(known).as_secs_f64() / first_quartile(unknown).as_secs_f64()
}

#[test]
fn a_known_name_and_an_unknown_one_take_equally_long_and_get_the_same_answer() {
    let _alone = run_alone();
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
        // They take turns in coming first.
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut told = [String::new(), String::new()];
        for which in order {
            let (time, answer) = guess(&mut browser, names[which]);
            answer.assert_status(422);
            times[which].push(time);
            told[which] = answer.comparable().replace(names[which], "NAME") + answer.statement_count();
        }
        assert_eq!(told[0], told[1], "in pair {pair}");
        // Fewer are enough when the difference is much smaller than the limit.
        if pair >= 300 && pair % 50 == 0 && (0.975..1.025).contains(&ratio(&times)) {
            break;
        }
    }
    let [known, unknown] = times.each_ref().map(|times| first_quartile(times));
    println!("known {known:?}, unknown {unknown:?}, {} times each", times[0].len());
    let fair = (0.95..1.05).contains(&ratio(&times));
    assert!(fair, "a known name takes {known:?}, an unknown one {unknown:?}");
}
