//! People see in their recent activity when a session of theirs is used by another browser.
//! needs: activity, home, login, signup

use crate::common::{Server, wait_until};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn the_use_of_a_session_by_another_browser_is_recorded() {
    let server = Server::start(&[]);
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    let mut ada = server.browser().with_header("User-Agent", firefox);
    ada.sign_up("ada").assert_redirect("/");
    let mut newer = server.browser().with_header("User-Agent", &firefox.replace("145", "146"));
    newer.share_cookies_of(&ada);
    newer.assert_logged_in("ada");
    let told = "Session used by another browser";
    sleep(Duration::from_millis(500));
    assert!(!ada.get("/account/activity").body.contains(told), "an update is taken for another browser");

    let mut thief = server.browser().with_header("User-Agent", "curl/8.5.0");
    thief.share_cookies_of(&ada);
    thief.assert_logged_in("ada");
    let mut activity = ada.get("/account/activity");
    wait_until(20, || {
        activity = ada.get("/account/activity");
        activity.body.contains(told)
    });
    activity.assert_contains(told).assert_contains("curl");
}
