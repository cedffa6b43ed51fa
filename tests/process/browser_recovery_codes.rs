//! In a real browser: recovery codes, and the ways to a new password.
//! needs: account, home, login, mailbox, password_reset, recovery_codes, signup

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_recovery_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/password-reset"));
    browser.inspect("password-reset");
    browser.fill("Your e-mail address", "ada@");
    browser.press_unchecked("Send the link");
    browser.inspect("password-reset-mistake");
    browser.fill("Your e-mail address", "ada@example.com");
    browser.press("Send the link");
    browser.sees("is on its way");
    browser.inspect("password-reset-sent");
    browser.visit(&site.page("/recovery"));
    browser.inspect("recovery");
    browser.press_unchecked("Use this code");
    browser.inspect("recovery-empty");
    browser.fill("Username", "ada");
    browser.fill("Recovery code", "abcd-efgh");
    browser.press("Use this code");
    browser.inspect("recovery-mistake");

    site.sign_up(&browser, "ada");
    browser.press("ada");
    browser.press("Make recovery codes");
    browser.inspect("recovery-codes-none");
    browser.press("Make recovery codes");
    browser.sees("Your recovery codes");
    browser.inspect("recovery-codes-new");
    browser.press("I have saved them");
    browser.inspect("account-with-recovery-codes");
    browser.press("Recovery codes");
    browser.inspect("recovery-codes");

    let address = "select id, 'ada@example.com', 1 from users";
    site.execute(&format!("insert into addresses (user_id, email, confirmed_at) {address}"));
    site.post("", "/password-reset", &[("email", "ada@example.com")]);
    browser.visit(&site.page("/dev/mailbox"));
    browser.sees("Choose a new password");
    browser.inspect("mailbox-reset");
    browser.press_at(".mail .text a");
    browser.inspect("password-choose");
    browser.press_unchecked("Set new password");
    browser.inspect("password-choose-empty");
    browser.fill("New password", "password1");
    browser.fill("Repeat new password", "password1");
    browser.press("Set new password");
    browser.sees("most common passwords");
    browser.inspect("password-choose-mistake");
    browser.visit(&site.page("/password-reset/spent"));
    browser.inspect("stale-link");
}
