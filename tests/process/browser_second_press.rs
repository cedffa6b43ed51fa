//! In a real browser: over a slow line, a second press does not cost anybody the page that the first one leads to.
//! needs: email, home, login, mailbox, password_reset, recovery_codes, signup, two_factor

use crate::common::NEW_PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::Site;
use std::time::{SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret};

/// 70 ms each way.
const SLOW: u64 = 140;
/// Milliseconds between the two presses.
const PAUSES: [u64; 3] = [60, 120, 180];
const BUTTON: &str = "main form > button:not([type=button])";
const ADDRESS: &str = "ada@example.com";

/// Somebody at a site of their own, for each pause.
fn for_each_pause(arguments: &[&str], act: impl Fn(&Site, &Browser, u64)) {
    for pause in PAUSES {
        let (site, browser) = (Site::open(), Browser::open_with(arguments));
        site.sign_up(&browser, "ada");
        act(&site, &browser, pause);
    }
}

/// Opens the link of the newest mail, over a slow line.
#[track_caller]
fn open_link(site: &Site, browser: &Browser) {
    browser.visit(&site.page("/dev/mailbox"));
    browser.press_at(".mail[open] .text a");
    browser.slow_down(SLOW);
}

fn reset(site: &Site, browser: &Browser, pause: u64) {
    site.execute(&format!("insert into addresses (user_id, email, confirmed_at) select id, '{ADDRESS}', 1 from users"));
    assert_eq!(site.post("", "/password-reset", &[("email", ADDRESS)]), 303);
    browser.press("Log out");
    open_link(site, browser);
    browser.fill("New password", NEW_PASSWORD);
    browser.fill("Repeat new password", NEW_PASSWORD);
    browser.press_twice(BUTTON, pause);
    browser.is_at("/login?username=ada");
    browser.sees("Your new password is set.");
    browser.does_not_see("no longer works");
}

fn confirm_address(site: &Site, browser: &Browser, pause: u64) {
    browser.visit(&site.page("/account/email"));
    browser.fill("E-mail address", ADDRESS);
    browser.press("Send the link");
    open_link(site, browser);
    browser.press_twice(BUTTON, pause);
    browser.sees("Your e-mail address is confirmed.");
    browser.does_not_see("no longer works");
    assert_eq!(site.count("select count(*) from addresses where confirmed_at is not null"), 1);
}

/// The codes on the page are those that are kept.
#[track_caller]
fn assert_codes_are_seen(site: &Site, browser: &Browser) {
    let codes = browser.text(".codes");
    assert_eq!(codes.lines().count(), 10, "{browser}");
    browser.reload();
    assert_eq!(browser.text(".codes"), codes);
    assert_eq!(site.count("select count(*) from recovery_codes"), 10);
}

fn make_codes(site: &Site, browser: &Browser, pause: u64) {
    browser.visit(&site.page("/account/recovery-codes"));
    browser.slow_down(SLOW);
    browser.press_twice(BUTTON, pause);
    browser.sees("Your recovery codes");
    assert_codes_are_seen(site, browser);
}

fn set_up(site: &Site, browser: &Browser, pause: u64) {
    browser.visit(&site.page("/account/two-factor"));
    browser.slow_down(SLOW);
    browser.press_twice(BUTTON, pause);
    browser.is_at("/account/two-factor/confirm");
    let key = browser.text("#totp-key");
    browser.reload();
    assert_eq!(browser.text("#totp-key"), key);
    let secret = Secret::try_from_base32(key.replace(' ', "")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    browser.fill("Code", &Builder::new().with_secret(secret).build().unwrap().generate(now).to_string());
    browser.press_twice(BUTTON, pause);
    browser.is_at("/account/recovery-codes");
    browser.sees("Two-factor log-in is on.");
    assert_codes_are_seen(site, browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_new_password_is_set_and_the_page_says_so() {
    for_each_pause(&[], reset);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn an_address_is_confirmed_and_the_page_says_so() {
    for_each_pause(&[], confirm_address);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_codes_that_are_shown_are_the_ones_that_work() {
    for_each_pause(&[], make_codes);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn two_factor_is_on_and_its_codes_are_shown() {
    for_each_pause(&[], set_up);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_the_second_press_is_sent_and_changes_nothing() {
    for act in [reset, confirm_address, make_codes, set_up] {
        for_each_pause(&["--blink-settings=scriptEnabled=false"], act);
    }
}
