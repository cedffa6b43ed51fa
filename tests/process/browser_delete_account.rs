//! In a real browser: a person deletes their account.
//! needs: delete_account, home, login, signup

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_deleting_an_account_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/delete"));
    browser.has_autocomplete(&[("password", "current-password")]);
    browser.inspect("delete");
    browser.press_unchecked("Delete my account");
    browser.inspect("delete-empty");
    browser.fill("Your password", "not the password");
    browser.press("Delete my account");
    browser.sees("This is not your password.");
    browser.inspect("delete-mistake");
}
