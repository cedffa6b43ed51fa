//! In a real browser: a passkey is enough to sign up, to log in, to confirm who one is and to delete the account.
//! needs: account, confirm, delete_account, home, login, passkeys, session_list, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in, sign_up_with};

const PATH: &str = "/account/passkeys";
const NEEDS: &str = "Passkeys need JavaScript and a browser that supports them.";
const ADDED: &str = "Passkey added.";

/// Adds a passkey to the account of the person who is logged in.
#[track_caller]
fn add_passkey(site: &Site, browser: &Browser) {
    browser.visit(&site.page(PATH));
    browser.press("Add a passkey");
    browser.sees(ADDED);
}

/// Asserts that no script failed and that the page's security policy refused nothing.
fn assert_no_errors(browser: &Browser) {
    let mut complaints = browser.console_messages();
    complaints.retain(|words| words.contains("Content Security Policy") || words.contains("Uncaught"));
    assert_eq!(complaints, [""; 0], "{browser}");
}

/// Somebody with a password and a passkey, in a browser that keeps it and is logged out.
fn person_with_passkey(site: &Site) -> (Browser, String) {
    let browser = Browser::open();
    let authenticator = browser.add_authenticator();
    site.sign_up(&browser, "ada");
    add_passkey(site, &browser);
    browser.press("Log out");
    (browser, authenticator)
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_passkey_of_one_person_is_not_added_for_another_who_has_logged_in_in_a_second_tab() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.add_authenticator();
    site.sign_up(&browser, "ada");
    browser.visit(&site.page(PATH));
    site.sign_up_in_another_tab(&browser, "bob");
    browser.click("//button[.='Add a passkey']");
    browser.sees("ada opened this page, and bob has logged in since. Please reload it.");
    assert_eq!(site.count("select count(*) from passkeys"), 0);
    browser.reload();
    browser.press("Add a passkey");
    browser.sees(ADDED);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_adds_two_passkeys_names_one_and_removes_the_other() {
    let (site, browser) = (Site::open(), Browser::open());
    let phone = browser.add_authenticator();
    site.sign_up(&browser, "ada");
    browser.press("ada");
    browser.press("Passkeys");
    browser.sees("You have no passkeys yet.");
    browser.press("Add a passkey");
    browser.sees(ADDED);
    assert_eq!(browser.text(".entries strong"), "Chrome on Linux", "{browser}");

    // An authenticator with a passkey for this account makes no second one; another authenticator does.
    browser.click("//button[.='Add a passkey']");
    browser.sees("This device already has a passkey for your account.");
    browser.remove_authenticator(&phone);
    browser.add_authenticator();
    browser.press("Add a passkey");
    browser.sees("Chrome on Linux 2");

    browser.press_at("//li[contains(., 'Chrome on Linux 2')]//a[.='Rename']");
    browser.sees("Rename “Chrome on Linux 2”");
    browser.clear("//input[@name='name']");
    browser.keys("The blue key");
    browser.press("Save name");
    browser.sees("Passkey renamed.");
    browser.press_at("//li[contains(., 'The blue key')]//a[.='Remove']");
    browser.sees("Remove “The blue key”?");
    browser.press("Keep it");
    browser.press_at("//li[contains(., 'The blue key')]//a[.='Remove']");
    browser.press("Remove passkey");
    browser.sees("Passkey removed.");
    browser.does_not_see("The blue key");
    assert_eq!(site.count("select count(*) from passkeys"), 1);
    assert_no_errors(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_button_logs_in_and_leads_back() {
    let site = Site::open();
    let (browser, _) = person_with_passkey(&site);
    browser.disable_passkey_autofill();
    browser.visit(&site.page("/account/sessions"));
    browser.is_at("/login?next=%2Faccount%2Fsessions");
    browser.click(".check input");
    browser.press("Log in with a passkey");
    browser.is_at("/account/sessions");
    browser.sees("This device");
    assert_eq!(site.count("select count(*) from sessions where stay = 1"), 1);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_browser_offers_the_passkey_by_itself() {
    let site = Site::open();
    let (browser, _) = person_with_passkey(&site);
    // The virtual authenticator takes what the browser offers.
    browser.visit(&site.page("/login"));
    browser.sees("Logged in: ada");
    assert_eq!(browser.path(), "/");
    assert_eq!(site.count("select count(*) from passkeys where used_at is not null"), 1);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn people_who_cancel_see_a_kind_message_and_may_continue_in_any_way() {
    let site = Site::open();
    let (browser, authenticator) = person_with_passkey(&site);
    browser.disable_passkey_autofill();
    browser.set_user_verified(&authenticator, false);
    browser.visit(&site.page("/login"));
    browser.click("//button[.='Log in with a passkey']");
    browser.sees("No passkey was used. You can try again.");
    assert_eq!(browser.attribute(".passkey .hint", "role").as_deref(), Some("status"), "{browser}");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    assert_no_errors(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_presses_nothing_is_told_of_no_passkey_that_was_not_used() {
    let site = Site::open();
    let (browser, authenticator) = person_with_passkey(&site);
    browser.set_user_verified(&authenticator, false);
    browser.visit(&site.page("/login"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    browser.does_not_see("No passkey was used.");
    browser.is_at("/login");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_passkey_that_is_no_good_is_refused_in_words() {
    let site = Site::open();
    let (browser, _) = person_with_passkey(&site);
    browser.disable_passkey_autofill();
    site.execute("delete from passkeys");
    browser.visit(&site.page("/login"));
    browser.click("//button[.='Log in with a passkey']");
    browser.sees("This passkey could not be used.");
    assert_eq!(browser.path(), "/login");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_passkey_confirms_and_leads_to_the_page_that_was_wanted() {
    let site = Site::open();
    let browser = Browser::open();
    browser.add_authenticator();
    site.sign_up(&browser, "ada");
    add_passkey(&site, &browser);
    site.age_log_ins();
    // Looking is free; adding another leads to the page that asks who it is, and back.
    browser.visit(&site.page(PATH));
    browser.press("Add a passkey");
    browser.is_at("/confirm?next=%2Faccount%2Fpasskeys%2Fadd");
    browser.press("Use a passkey");
    browser.is_at(PATH);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn an_account_without_a_password_begins_and_ends_with_a_passkey() {
    let (site, browser) = (Site::open(), Browser::open());
    let authenticator = browser.add_authenticator();
    browser.visit(&site.page("/signup"));
    browser.click("//button[.='Sign up with a passkey instead']");
    assert_eq!(browser.run("return document.activeElement.name"), "username", "{browser}");
    browser.fill("Username", "admin");
    browser.click("//button[.='Sign up with a passkey instead']");
    browser.sees("reserved for the people who run this site");
    assert_eq!(browser.passkeys(&authenticator).len(), 0);
    browser.fill("Username", "ada");
    browser.press("Sign up with a passkey instead");
    browser.sees("Logged in: ada");
    assert_eq!(browser.run("return JSON.stringify({...sessionStorage})"), "{}", "{browser}");

    browser.visit(&site.page(PATH));
    browser.press("Remove");
    browser.sees("This is your only way to log in.");
    site.age_log_ins();
    browser.visit(&site.page("/delete"));
    browser.does_not_see("Your password");
    browser.press("Delete my account with a passkey");
    browser.sees("Your account is deleted.");
    assert_eq!(site.count("select count(*) from users"), 0);
    assert_eq!(site.count("select count(*) from passkeys"), 0);
    assert_no_errors(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn an_authenticator_is_told_of_the_passkey_that_was_removed_once() {
    let (site, browser) = (Site::open(), Browser::open());
    let authenticator = browser.add_authenticator();
    site.sign_up(&browser, "ada");
    add_passkey(&site, &browser);
    assert_eq!(browser.passkeys(&authenticator).len(), 1);
    browser.press("Remove");
    browser.press("Remove passkey");
    browser.sees("Passkey removed.");
    // Where the browser can tell it, the authenticator deletes the passkey.
    let can_tell = browser.run("return 'signalUnknownCredential' in PublicKeyCredential") == true;
    let gone = browser.wait_for(|| browser.passkeys(&authenticator).is_empty().then_some(()));
    assert!(gone.is_some() || !can_tell, "{browser}");
    assert_eq!(browser.run("return document.querySelectorAll('[data-removed]').length"), 1, "{browser}");
    browser.reload();
    assert_eq!(browser.run("return document.querySelectorAll('[data-removed]').length"), 0, "{browser}");
    assert_no_errors(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn at_an_address_without_a_name_no_passkeys_are_offered_and_a_line_says_what_they_need() {
    let (site, browser) = (Site::open(), Browser::open());
    let here = site.url();
    let address = here.replace("localhost", "127.0.0.1");
    for path in ["/signup", "/login"] {
        browser.visit(&format!("{address}{path}"));
        browser.sees(&format!("Passkeys need {here}."));
        browser.does_not_see("with a passkey");
    }
    browser.visit(&format!("{address}/signup"));
    sign_up_with(&browser, "ada", PASSWORD);
    browser.visit(&format!("{address}{PATH}"));
    browser.sees(&format!("Passkeys need {here}."));
    browser.does_not_see("Add a passkey");
    assert_no_errors(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_pages_say_what_passkeys_need_and_the_rest_works() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    for path in ["/signup", "/login"] {
        browser.visit(&site.page(path));
        browser.sees(NEEDS);
        browser.does_not_see("with a passkey instead");
        browser.does_not_see("Log in with a passkey");
    }
    let owner = Browser::open();
    owner.add_authenticator();
    site.sign_up(&owner, "ada");
    add_passkey(&site, &owner);
    browser.steal_cookie(&owner, "session_token");
    for path in [PATH, "/confirm", "/delete"] {
        browser.visit(&site.page(path));
        browser.sees(NEEDS);
        browser.does_not_see("Add a passkey");
        browser.does_not_see("with a passkey");
    }
    browser.fill("Your password", PASSWORD);
    browser.press("Delete my account");
    browser.sees("Your account is deleted.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_passkeys_are_fit_for_everyone() {
    let site = Site::open_with(&[("REQUIRE_TWO_FACTOR", "all")]);
    let browser = Browser::open();
    let authenticator = browser.add_authenticator();
    browser.disable_passkey_autofill();
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    browser.press("Sign up with a passkey instead");
    browser.visit(&site.page("/account/passkeys"));
    browser.inspect("passkeys");
    browser.press("Remove");
    browser.sees("This is your only way to log in.");
    browser.inspect("passkeys-last");
    browser.press("Back to your passkeys");
    browser.remove_authenticator(&authenticator);
    let phone = browser.add_authenticator();
    browser.press("Add a passkey");
    browser.sees("Passkey added.");
    browser.press_at("//li[2]//a[.='Remove']");
    browser.inspect("passkeys-remove");
    browser.press("Keep it");
    browser.press_at("//li[2]//a[.='Rename']");
    browser.inspect("passkeys-rename");
    browser.run("document.querySelector('main form').noValidate = true");
    browser.clear("//input[@name='name']");
    browser.press("Save name");
    browser.sees("Enter a name.");
    browser.inspect("passkeys-mistake");
    site.age_log_ins();
    browser.visit(&site.page("/confirm"));
    browser.inspect("passkeys-confirm");
    browser.visit(&site.page("/delete"));
    browser.inspect("passkeys-delete");
    browser.press("Log out");
    browser.set_user_verified(&phone, false);
    browser.visit(&site.page("/login"));
    browser.click("//button[.='Log in with a passkey']");
    browser.sees("No passkey was used.");
    browser.inspect("passkeys-cancelled");

    browser.visit(&site.page("/signup"));
    sign_up_with(&browser, "bob", PASSWORD);
    browser.visit(&site.page("/account"));
    browser.is_at("/account/passkeys");
    browser.sees("You have no passkeys yet.");
    browser.inspect("passkeys-empty");
    browser.set_user_verified(&phone, true);
    browser.press("Add a passkey");
    browser.sees("Passkey added.");
    browser.press("Log out");
    browser.visit(&site.page("/login?next=%2Faccount"));
    log_in(&browser, "bob", PASSWORD);
    browser.is_at("/login/passkey");
    browser.inspect("passkeys-ask");
}
