//! In a real browser: a button that is pressed when the log-in is not recent any more.
//! needs: account, confirm, home, login, session_list, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, assert_logged_out, log_in_elsewhere};

const REVOKE: &str = "form[action$='/revoke'] button";
const SESSIONS: &str = "/account/sessions";

/// Ada has looked at the list of her sessions, and there is one that she wants to end.
fn ada() -> (Site, Browser, Browser) {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let other = log_in_elsewhere(&site, "ada", &[]);
    browser.visit(&site.page(SESSIONS));
    (site, browser, other)
}

/// Types a password where the browser has put the cursor.
fn type_password(browser: &Browser, password: &str) {
    assert_eq!(browser.run("return document.activeElement.name"), "password", "{browser}");
    browser.keys(password);
    browser.press("Continue");
}

fn assert_logged_in(browser: &Browser, site: &Site) {
    browser.visit(&site.url());
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn who_presses_a_button_too_late_reads_that_nothing_has_changed_and_presses_it_again() {
    let (site, browser, other) = ada();
    site.age_log_ins();
    browser.press_at(REVOKE);
    browser.is_at("/confirm?next=%2Faccount%2Fsessions");
    browser.sees("Nothing has changed yet.");
    browser.sees("then press the button again");
    browser.inspect("confirm-late");
    type_password(&browser, "not the password");
    browser.sees("This is not your password.");
    browser.sees("then press the button again");
    type_password(&browser, PASSWORD);
    browser.is_at(SESSIONS);
    browser.sees("Confirmed. Nothing has changed yet: please press it once more.");
    assert_logged_in(&other, &site);
    browser.press_at(REVOKE);
    browser.is_at(SESSIONS);
    assert_logged_out(&other, &site);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn who_opens_a_page_too_late_confirms_first_and_presses_once() {
    let (site, browser, other) = ada();
    browser.does_not_see("You logged in a while ago.");
    site.age_log_ins();
    browser.reload();
    browser.sees("You logged in a while ago.");
    browser.inspect("sessions-not-recent");
    browser.press("Confirm");
    browser.does_not_see("Nothing has changed");
    browser.press("Not now");
    browser.is_at(SESSIONS);
    browser.press("Confirm");
    type_password(&browser, PASSWORD);
    browser.is_at(SESSIONS);
    browser.sees("Confirmed.");
    browser.does_not_see("You logged in a while ago.");
    browser.press_at(REVOKE);
    assert_logged_out(&other, &site);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn who_reads_a_page_too_late_logs_in_to_go_on() {
    let (site, browser, _) = ada();
    site.execute("delete from sessions");
    browser.press_at(REVOKE);
    browser.is_at("/login?next=%2Faccount%2Fsessions");
    browser.sees("Log in to go on.");
    assert_eq!(browser.run("return document.activeElement.name"), "username", "{browser}");
    browser.keys("ada");
    browser.fill("Password", PASSWORD);
    browser.press("Log in");
    browser.is_at(SESSIONS);
}
