//! In a real browser without JavaScript: an account from its beginning to its end.
//! needs: account, delete_account, home, login, signup, theme

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_without_scripts_has_an_account_and_deletes_it() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    browser.visit("data:text/html,<noscript>no scripts</noscript><script>document.write('scripts')</script>");
    browser.sees("no scripts");

    browser.visit(&site.url());
    browser.press("Sign up");
    browser.is_at("/signup");
    // Only a script can tell.
    browser.does_not_see("Your browser keeps no cookies");
    browser.does_not_see("Show");
    browser.fill("Username", "Ada");
    browser.fill("Password", PASSWORD);
    browser.fill("Repeat password", PASSWORD);
    browser.press("Create account");
    browser.is_at("/");
    browser.sees("Logged in: ada");

    browser.press("Log out");
    browser.is_at("/");
    browser.does_not_see("Logged in");
    browser.visit(&site.page("/account"));
    browser.is_at("/login?next=%2Faccount");
    log_in(&browser, "ada", "correct horse");
    browser.is_at("/login");
    browser.sees("Wrong username or password.");
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/account");

    browser.set_color_scheme("light");
    let light = browser.style("body", "background-color");
    browser.press("Dark");
    browser.is_at("/account");
    assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("dark"), "{browser}");
    assert_ne!(browser.style("body", "background-color"), light, "{browser}");

    browser.press("Delete account");
    browser.fill("Your password", PASSWORD);
    browser.press("Delete my account");
    browser.is_at("/");
    browser.press("Log in");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("Wrong username or password.");
    assert_eq!(site.count("select count(*) from users"), 0);
}
