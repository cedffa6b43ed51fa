//! A thousand people sign up with one name at the same time, at two processes: one of them gets it.
//! needs: login, signup

use crate::common::{Database, Server, assert_one_account, race_to_sign_up, run_alone};

#[test]
fn a_thousand_sign_ups_with_one_name_make_one_account() {
    let _alone = run_alone();
    let database = Database::new();
    let patient = [("HASH_QUEUE", "1000"), ("HASH_WAIT", "30s"), ("BODY_TIMEOUT", "30s")];
    let servers = Server::pair(&database, &patient);
    let answers = race_to_sign_up(&servers, 1000);
    let heard = answers.iter().filter(|answer| answer.status == 422).count();
    assert!(heard >= 10, "only {heard} came as far as the database:\n{}\n{}", *servers[0], *servers[1]);
    assert_one_account(&database, &servers, &answers);
}
