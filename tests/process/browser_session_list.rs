//! In a real browser: a person sees where they are logged in, and ends a session.
//! needs: account, home, login, session_list, signup

use crate::common::PASSWORD;
use crate::webdriver::site::{Site, assert_logged_out, log_in_elsewhere};
use crate::webdriver::{Browser, PHONE, WINDOWS};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_session_ended_from_the_list_logs_out_its_browser_and_no_other() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let [phone, windows] =
        [PHONE, WINDOWS].map(|agent| log_in_elsewhere(&site, "ada", &[&format!("--user-agent={agent}")]));
    browser.press("ada");
    browser.press("Logged-in devices");
    assert!(browser.text(".entries li:first-child").contains("This device"), "{browser}");
    let ends = ["Log out: Firefox on Windows", "Log out: Safari on iPhone"];
    assert_eq!(browser.accessible_names(".entries button"), ends, "{browser}");
    browser.press_at("//li[contains(., 'Safari on iPhone')]//button");
    browser.sees("That device is logged out.");
    browser.does_not_see("Safari on iPhone");
    assert_logged_out(&phone, &site);
    for still_in in [&windows, &browser] {
        still_in.visit(&site.url());
        still_in.sees("Logged in: ada");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_sessions_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "wwwwwwwwwwwwwwwwwwww");
    let name = [("username", "wwwwwwwwwwwwwwwwwwww"), ("password", PASSWORD)];
    let program = "Some program of our own, which tells a long story about itself ".repeat(3);
    for user_agent in [PHONE, WINDOWS, &program, &"x".repeat(200)] {
        assert_eq!(site.post(user_agent, "/login", &name), 303);
    }
    site.execute("update sessions set created_at = created_at - 1000000 where device like '%iPhone%'");
    site.execute("update sessions set address = '2001:db8:1234:5678:9abc:def0:1234:5678'");
    site.execute("update sessions set address = '192.0.2.7' where device like '%iPhone%'");
    browser.visit(&site.page("/account/sessions"));
    browser.inspect("sessions");
    browser.press_at("//li[contains(., 'Safari on iPhone')]//button");
    browser.sees("That device is logged out.");
    browser.inspect("sessions-flash");
    browser.press("Log out everywhere else");
    browser.sees("You are logged out on all other devices.");
    browser.inspect("sessions-alone");
}
