//! Shows in a real browser that a passkey is enough: to sign up, to log in, to confirm and to leave.
//! needs: account, confirm, delete_account, home, login, passkeys, session_list, signup

mod webdriver;

use webdriver::Browser;
use webdriver::site::{Site, log_in};

const PATH: &str = "/account/passkeys";
const NEEDS: &str = "Passkeys need JavaScript, and a browser that knows them.";
const ADDED: &str = "The passkey is ready.";

/// Somebody who is logged in makes a passkey.
#[track_caller]
fn add_passkey(site: &Site, browser: &Browser) {
    browser.visit(&site.page(PATH));
    browser.press("Add a passkey");
    browser.sees(ADDED);
}

/// Neither was anything refused that the page wanted to load or run, nor did a script break off.
fn complains_of_nothing(browser: &Browser) {
    let mut complaints = browser.complaints();
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
fn a_person_adds_two_passkeys_names_one_and_removes_the_other() {
    let (site, browser) = (Site::open(), Browser::open());
    let phone = browser.add_authenticator();
    site.sign_up(&browser, "ada");
    browser.press("Account");
    browser.press("Passkeys");
    browser.sees("Your passkeys will appear here.");
    browser.press("Add a passkey");
    browser.sees(ADDED);
    assert_eq!(browser.text(".entries strong"), "Chrome on Linux", "{browser}");

    // What has one of this account makes no second; another authenticator does.
    browser.click("//button[.='Add a passkey']");
    browser.sees("There is a passkey for this account on that device already.");
    browser.remove_authenticator(&phone);
    browser.add_authenticator();
    browser.press("Add a passkey");
    browser.sees("Chrome on Linux 2");

    browser.click("//li[contains(., 'Chrome on Linux 2')]//summary");
    let field = "//li[contains(., 'Chrome on Linux 2')]//input";
    browser.clear(field);
    browser.keys("The blue key");
    browser.press_at("//li[.//input[@value='Chrome on Linux 2']]//button[.='Save name']");
    browser.sees("The passkey has its new name.");
    browser.sees("The blue key");
    browser.press_at("//li[contains(., 'The blue key')]//button[.='Remove']");
    browser.sees("opens nothing any more");
    browser.sees_no("The blue key");
    assert_eq!(site.count("select count(*) from passkeys"), 1);
    complains_of_nothing(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_button_logs_in_and_leads_back() {
    let site = Site::open();
    let (browser, _) = person_with_passkey(&site);
    browser.no_autofill();
    browser.visit(&site.page("/account/sessions"));
    browser.is_at("/login?next=%2Faccount%2Fsessions");
    browser.click(".check input");
    browser.press("Log in with a passkey");
    browser.is_at("/account/sessions");
    browser.sees("This browser");
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
fn whoever_presses_cancel_is_told_so_kindly_and_may_go_on_in_any_way() {
    let site = Site::open();
    let (browser, authenticator) = person_with_passkey(&site);
    browser.no_autofill();
    browser.set_verified(&authenticator, false);
    browser.visit(&site.page("/login"));
    browser.click("//button[.='Log in with a passkey']");
    browser.sees("No passkey was used. Try again whenever you like.");
    assert_eq!(browser.attribute(".passkey .hint", "role").as_deref(), Some("status"), "{browser}");
    log_in(&browser, "ada", webdriver::site::PASSWORD);
    browser.sees("Logged in: ada");
    complains_of_nothing(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_passkey_that_is_no_good_is_refused_in_words() {
    let site = Site::open();
    let (browser, _) = person_with_passkey(&site);
    browser.no_autofill();
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
    browser.visit(&site.page(PATH));
    browser.is_at("/confirm?next=%2Faccount%2Fpasskeys");
    browser.press("Use a passkey");
    browser.is_at(PATH);

    // A page that has stood open for too long leads to where that is mended.
    site.age_log_ins();
    browser.press("Add a passkey");
    browser.is_at("/confirm?next=%2Faccount%2Fpasskeys");
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
    browser.sees("kept for the people who run this site");
    assert_eq!(browser.passkeys(&authenticator).len(), 0);
    browser.fill("Username", "ada");
    browser.press("Sign up with a passkey instead");
    browser.sees("Logged in: ada");

    browser.visit(&site.page(PATH));
    browser.press("Remove");
    browser.sees("You could not log in without this one.");
    site.age_log_ins();
    browser.visit(&site.page("/delete"));
    browser.sees_no("Your password");
    browser.press("Delete my account with a passkey");
    browser.sees("Your account and everything in it is gone.");
    assert_eq!(site.count("select count(*) from users"), 0);
    assert_eq!(site.count("select count(*) from passkeys"), 0);
    complains_of_nothing(&browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_pages_say_what_passkeys_need_and_the_rest_works() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    for path in ["/signup", "/login"] {
        browser.visit(&site.page(path));
        browser.sees(NEEDS);
        browser.sees_no("with a passkey instead");
        browser.sees_no("Log in with a passkey");
    }
    site.sign_up(&browser, "ada");
    browser.visit(&site.page(PATH));
    browser.sees(NEEDS);
    browser.sees_no("Add a passkey");
}
