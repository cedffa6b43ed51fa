//! In a real browser: somebody signs up with another person's address, and prepares the account to get back into it.
//! needs: account, email, home, login, mailbox, passkeys, password_reset, recovery_codes, signup

use crate::common::{NEW_PASSWORD, PASSWORD};
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, assert_logged_out, log_in, sign_up_with};

const ADDRESS: &str = "ada@example.com";

/// Signs up with Ada's address, and adds a passkey and recovery codes.
#[track_caller]
fn prepare(site: &Site) -> Browser {
    let browser = Browser::open();
    browser.add_authenticator();
    browser.visit(&site.page("/signup"));
    browser.fill("E-mail (optional)", ADDRESS);
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    browser.visit(&site.page("/account/passkeys"));
    browser.press("Add a passkey");
    browser.sees("Passkey added.");
    browser.visit(&site.page("/account/recovery-codes"));
    browser.press("Make recovery codes");
    browser
}

/// Opens the link in the mail to Ada, in a browser of hers.
#[track_caller]
fn open_link(site: &Site) -> Browser {
    let browser = Browser::open();
    browser.visit(&site.page("/dev/mailbox"));
    browser.press_at("//details[contains(., 'To ada@example.com,')]//a[contains(@href, '/email/')]");
    browser.sees("Did you create this account?");
    browser.sees("The passkey “Chrome on Linux”, added on");
    browser.sees("10 recovery codes");
    browser
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_has_the_address_removes_what_was_prepared_and_the_passkey_does_not_log_in_any_more() {
    let site = Site::open();
    let mallory = prepare(&site);
    let ada = open_link(&site);
    ada.inspect("email-added");
    ada.press("Remove it");
    ada.sees("Everything that had been added is gone, and the old password no longer works");
    ada.inspect("email-cleared");
    ada.fill("New password", NEW_PASSWORD);
    ada.fill("Repeat new password", NEW_PASSWORD);
    ada.press("Set new password");
    ada.sees("Your new password is set.");
    log_in(&ada, "ada", NEW_PASSWORD);
    ada.sees("Logged in: ada");

    assert_logged_out(&mallory, &site);
    mallory.disable_passkey_autofill();
    mallory.visit(&site.page("/login"));
    mallory.click("//button[.='Log in with a passkey']");
    mallory.sees("This passkey could not be used.");
    assert_logged_out(&mallory, &site);
    assert_eq!(site.count("select (select count(*) from passkeys) + (select count(*) from recovery_codes)"), 0);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_can_log_in_to_the_account_keeps_what_was_added() {
    let site = Site::open();
    let _first = prepare(&site);
    let ada = open_link(&site);
    ada.press("Keep it and log in");
    log_in(&ada, "ada", PASSWORD);
    ada.sees("Is this your address?");
    ada.press("Yes, confirm it");
    ada.sees("Your e-mail address is confirmed.");
    assert_eq!(site.count("select count(*) from addresses where confirmed_at is not null"), 1);
    assert_eq!(site.count("select (select count(*) from passkeys) + (select count(*) from recovery_codes)"), 11);
}
