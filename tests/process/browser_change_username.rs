//! In a real browser: a person changes their username.
//! needs: change_username, home, login, signup

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_form_that_has_been_open_for_three_days_still_works() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/username"));
    browser.fill("New username", "lovelace");
    site.execute("update sessions set created_at = created_at - 259200, seen_at = seen_at - 259200");
    browser.press("Change username");
    browser.visit(&site.url());
    browser.sees("Logged in: lovelace");
    assert_eq!(site.count("select count(*) from users where username = 'lovelace'"), 1);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_new_name_for_one_person_is_not_given_to_another_who_has_logged_in_in_a_second_tab() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/username"));
    browser.fill("New username", "lovelace");
    site.sign_up_in_another_tab(&browser, "bob");
    browser.press("Change username");
    browser.sees("ada opened this form, and bob has logged in");
    browser.press("Open the page as bob");
    browser.is_at("/account/username");
    browser.sees("Your username is bob.");
    assert_eq!(site.count("select count(*) from users where username in ('ada', 'bob')"), 2);

    // Without an account, there is no name to tell.
    site.execute("delete from users where username = 'ada'");
    browser.run("document.querySelector('main [name=for]').value = '01a219d1-1546-75f7-a021-c4714480413a'");
    browser.fill("New username", "lovelace");
    browser.press("Change username");
    browser.sees("Someone else opened this form, and bob has logged in");
    browser.inspect("form-owner-unknown");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_changing_a_username_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "wwwwwwwwwwwwwwwwwwww");
    browser.visit(&site.page("/account/username"));
    browser.has_autocomplete(&[("username", "username")]);
    browser.inspect("username");
    browser.press_unchecked("Change username");
    browser.inspect("username-empty");
    browser.fill("New username", "admin");
    browser.press("Change username");
    browser.sees("reserved for the people");
    browser.inspect("username-mistake");
}
