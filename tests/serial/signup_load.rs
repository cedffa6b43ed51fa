//! More people sign up at the same time than passwords can be hashed: most are told at once to come back.
//! needs: login, signup

use crate::common::{Database, Server, assert_one_account, race_to_sign_up, run_alone};
use std::time::{Duration, Instant};

#[test]
fn with_default_settings_most_must_wait_and_one_gets_the_name() {
    let _alone = run_alone();
    let database = Database::new();
    let slow = [("PASSWORD_ITERATIONS", "600000")];
    let servers = Server::pair(&database, &slow);
    let begun = Instant::now();
    let answers = race_to_sign_up(&servers, 200);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert!(answers.iter().any(|answer| answer.status == 503), "nobody was told to wait");
    assert_one_account(&database, &servers, &answers);
}
