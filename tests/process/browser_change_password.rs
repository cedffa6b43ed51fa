//! In a real browser: a person changes their password.
//! needs: account, change_password, confirm, home, login, session_list, signup

use crate::common::{NEW_PASSWORD, PASSWORD};
use crate::webdriver::site::{Site, assert_logged_out, log_in, log_in_elsewhere, sign_up_with};
use crate::webdriver::{Browser, ENTER, TAB};

const CHANGED: &str = "Password changed.";

/// The form at /account/password.
fn change_password(browser: &Browser, current: &str, new: &str, again: &str) {
    browser.fill("Current password", current);
    browser.fill("New password", new);
    browser.fill("Repeat new password", again);
    browser.press("Change password");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_changes_their_password_and_sees_the_message_once() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("ada");
    browser.press("Password");
    change_password(&browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD);
    browser.sees(CHANGED);
    browser.reload();
    browser.is_at("/account/password");
    browser.sees("Repeat new password");
    browser.does_not_see(CHANGED);

    browser.press("Log out");
    browser.press("Log in");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("Wrong username or password.");
    log_in(&browser, "ada", NEW_PASSWORD);
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_changed_password_logs_out_the_other_two_browsers() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let others = [log_in_elsewhere(&site, "ada", &[]), log_in_elsewhere(&site, "ada", &[])];
    browser.visit(&site.page("/account/password"));
    change_password(&browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD);
    browser.sees(CHANGED);
    for other in &others {
        assert_logged_out(other, &site);
    }
    browser.visit(&site.url());
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn people_who_are_asked_to_confirm_come_back_to_the_page_they_wanted() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.press("ada");
    browser.press("Password");
    change_password(&browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD);
    browser.is_at("/confirm?next=%2Faccount%2Fpassword");
    browser.fill("Your password", "not the password");
    browser.press("Continue");
    browser.sees("This is not your password.");
    browser.fill("Your password", PASSWORD);
    browser.press("Continue");
    browser.is_at("/account/password");

    // A button that needs confirmation does nothing yet: afterwards one is back at the page with the button.
    let other = log_in_elsewhere(&site, "ada", &[]);
    site.age_log_ins();
    browser.visit(&site.page("/account/sessions"));
    browser.press("Log out everywhere else");
    browser.is_at("/confirm?next=%2Faccount%2Fsessions");
    browser.sees("Nothing has changed yet.");
    browser.fill("Your password", PASSWORD);
    browser.press("Continue");
    browser.is_at("/account/sessions");
    browser.sees("Confirmed. Nothing has changed yet: please press it once more.");
    other.visit(&site.url());
    other.sees("Logged in: ada");
    browser.press("Log out everywhere else");
    browser.sees("You are logged out on all other devices.");
    assert_logged_out(&other, &site);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_keyboard_is_enough_to_confirm_and_to_change_the_password() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.visit(&site.page("/confirm?next=%2Faccount%2Fpassword"));
    browser.sees("Confirm it is you");
    let type_into = |field: &str, text: &str| {
        browser.keys(TAB);
        assert_eq!(browser.run("return document.activeElement.name"), field, "{browser}");
        browser.keys(text);
    };
    let pass_the_button = |words: &str| {
        browser.keys(TAB);
        assert_eq!(browser.accessible_names(":focus"), [words], "{browser}");
    };
    let skip_to_content = || {
        browser.keys(TAB);
        browser.keys(ENTER);
    };
    assert_eq!(browser.run("return document.activeElement.name"), "password", "{browser}");
    browser.keys(PASSWORD);
    browser.keys(ENTER);
    browser.is_at("/account/password");
    browser.sees("New password");

    // The button of each comes before it, so that the key after a password leads on.
    skip_to_content();
    pass_the_button("Show: Current password");
    type_into("current_password", PASSWORD);
    pass_the_button("Show: New password");
    // The space bar presses it, and the focus stays.
    browser.keys(" ");
    assert_eq!(browser.accessible_names(":focus"), ["Hide: New password"], "{browser}");
    type_into("password", NEW_PASSWORD);
    pass_the_button("Show: Repeat new password");
    type_into("confirm_password", NEW_PASSWORD);
    browser.keys(ENTER);
    browser.sees(CHANGED);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_accounts_are_begun_and_kept_the_same_way() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    browser.visit(&site.page("/signup"));
    browser.does_not_see("Show");
    sign_up_with(&browser, "ada", "password1");
    browser.sees("one of the most common passwords");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");

    site.age_log_ins();
    browser.press("ada");
    browser.press("Password");
    change_password(&browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD);
    browser.fill("Your password", PASSWORD);
    browser.press("Continue");
    browser.is_at("/account/password");
    change_password(&browser, PASSWORD, NEW_PASSWORD, "quiet harbour lamb");
    browser.sees("The two passwords differ.");
    change_password(&browser, "not the password", NEW_PASSWORD, NEW_PASSWORD);
    browser.sees("This is not your current password.");
    change_password(&browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD);
    browser.sees(CHANGED);
    browser.reload();
    browser.does_not_see(CHANGED);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_changing_a_password_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/password"));
    browser.has_autocomplete(&[("current_password", "current-password"), ("password", "new-password")]);
    browser.has_autocomplete(&[("confirm_password", "new-password")]);
    browser.inspect("password");
    browser.press_unchecked("Change password");
    browser.inspect("password-empty");
    for (current, new, name) in [
        ("not the password", NEW_PASSWORD, "password-mistake"),
        (PASSWORD, "Pa55word1234", "password-policy"),
        (PASSWORD, NEW_PASSWORD, "password-flash"),
    ] {
        change_password(&browser, current, new, new);
        browser.inspect(name);
    }
    browser.sees(CHANGED);
    browser.visit(&site.page("/account/password/remove"));
    browser.inspect("password-remove-last");
    site.age_log_ins();
    browser.visit(&site.page("/confirm"));
    browser.sees("Confirm it is you");
    browser.has_autocomplete(&[("password", "current-password")]);
    // A hidden field tells password managers whose password it is.
    assert_eq!(browser.run("return document.querySelector('[autocomplete=username][hidden]').value"), "ada");
    browser.inspect("confirm");
    browser.press_unchecked("Continue");
    browser.inspect("confirm-empty");
    browser.fill("Your password", "not the password");
    browser.press("Continue");
    browser.sees("This is not your password.");
    browser.inspect("confirm-mistake");
}
