//! In a real browser: what people do with their account.
//! needs: account, home, login, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn after_log_out_the_back_button_shows_nothing_private() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.is_at("/");
    // This one only says, at the next log-in, that the browser was used before.
    assert_eq!(browser.cookies(), ["device"], "{browser}");
    browser.press("Log in");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    browser.press("ada");
    browser.is_at("/account");
    browser.press("Log out");
    browser.is_at("/");
    assert!(!browser.cookies().contains(&"session_token".into()), "{browser}");
    browser.back();
    browser.is_at("/login?next=%2Faccount");
    browser.does_not_see("Log out");
    browser.back();
    browser.is_at("/");
    browser.does_not_see("Logged in: ada");
    browser.does_not_see("Log out");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_account_page_is_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "wwwwwwwwwwwwwwwwwwww");
    browser.visit(&site.page("/account"));
    browser.inspect("account");
}
