//! A changed password logs out everywhere else.
//! needs: change_password, home, login, signup

use crate::common::{Answer, Browser, Database, NEW_PASSWORD, PASSWORD, Server, retry_while_busy, wait_until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::scope;

fn change_password(browser: &mut Browser) -> Answer {
    let fields = [("current_password", PASSWORD), ("password", NEW_PASSWORD), ("confirm_password", NEW_PASSWORD)];
    browser.post("/account/password", &fields)
}

#[test]
fn a_new_password_logs_out_everywhere_else_at_once() {
    let database = Database::new();
    let [here, there] = Server::pair(&database, &[]);
    let mut changing = here.browser();
    changing.sign_up("ada").assert_redirect("/");
    let mut others = [here.browser(), there.browser()];
    for other in &mut others {
        other.log_in("ada").assert_redirect("/");
        other.assert_logged_in("ada");
        other.also_at(there.port).assert_logged_in("ada");
    }
    let mut bob = there.browser();
    bob.sign_up("bob").assert_redirect("/");
    let mut before = changing.also_at(here.port);

    change_password(&mut changing).assert_redirect("/account/password");
    for other in &mut others {
        other.also_at(there.port).assert_logged_out();
        other.assert_logged_out();
    }
    before.also_at(there.port).assert_logged_out();
    before.assert_logged_out();
    changing.also_at(there.port).assert_logged_in("ada");
    changing.assert_logged_in("ada");
    bob.assert_logged_in("bob");

    here.browser().log_in("ada").assert_status(422);
    there.browser().log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
}

#[test]
fn no_log_in_with_the_old_password_outlives_its_change() {
    // So many log-ins must neither count as guessing nor end older sessions.
    let easy = [("PASSWORD_FREE_ATTEMPTS", "1000000"), ("SESSIONS_PER_USER", "100000"), ("RUST_LOG", "warn")];
    let database = Database::new();
    let servers = Server::pair(&database, &easy);
    for round in 0..10 {
        let name = format!("ada{round}");
        let mut changing = servers[0].browser();
        changing.sign_up(&name).assert_redirect("/");
        let (changed, logged_in) = (AtomicBool::new(false), AtomicUsize::new(0));
        let racing: Mutex<Vec<Browser>> = Mutex::default();
        scope(|scope| {
            for number in 0..4 {
                let (server, name, racing) = (&servers[number % 2], &name, &racing);
                let (changed, logged_in) = (&changed, &logged_in);
                scope.spawn(move || {
                    while !changed.load(SeqCst) {
                        let mut browser = server.browser();
                        let answer = browser.log_in(name);
                        match answer.status {
                            303 => racing.lock().unwrap().push(browser),
                            // The password is wrong by now, or the server is busy.
                            422 | 503 => {}
                            _ => panic!("{answer}\n{}", **server),
                        }
                        logged_in.fetch_add(1, SeqCst);
                    }
                });
            }
            // A different number in each round, so that the password changes at different moments.
            let came = wait_until(20, || logged_in.load(SeqCst) > 8 + round as usize);
            let answer = came.then(|| retry_while_busy(|| change_password(&mut changing)));
            changed.store(true, SeqCst);
            answer.expect("nobody could log in").assert_redirect("/account/password");
        });
        let racing = racing.into_inner().unwrap();
        assert!(racing.len() > 8, "only {} logged in", racing.len());
        for mut browser in racing {
            browser.assert_logged_out();
        }
        changing.assert_logged_in(&name);
        // Log-ins that were refused at the last moment leave no session behind.
        assert_eq!(database.count("select count(*) from sessions"), round + 1, "after round {round}");
    }
    for server in &servers {
        assert!(server.lines_with("deadlock").is_empty(), "{}", **server);
    }
}
