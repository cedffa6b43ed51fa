//! In a real browser: recovery codes are copied by a button, where the browser has a clipboard.
//! needs: home, login, recovery_codes, signup

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn codes_are_copied_each_on_a_line_of_its_own() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.allow_clipboard();
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/recovery-codes"));
    browser.press_at("main form button");
    let codes = browser.text(".codes");
    browser.click("//button[.='Copy']");
    browser.sees("Copied");
    assert_eq!(browser.text("[data-copy] + [role=status]"), "Copied", "{browser}");
    assert_eq!(browser.run("return navigator.clipboard.readText()"), codes);
    let over = browser.wait_for(|| browser.text("[data-copy] + [role=status]").is_empty().then_some(()));
    assert!(over.is_some(), "{browser}");

    browser.run("navigator.clipboard.writeText = () => Promise.reject()");
    browser.click("//button[.='Copy']");
    browser.sees("This browser does not allow copying.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_a_clipboard_no_button_offers_to_copy() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.run_on_every_page("delete Navigator.prototype.clipboard");
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/recovery-codes"));
    browser.press_at("main form button");
    browser.sees("Print");
    browser.does_not_see("Copy");
}
