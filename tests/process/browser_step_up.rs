//! In a real browser: whoever has to confirm who they are in the middle of a form finds it as they left it.
//! needs: confirm, home, login, signup

use crate::common::{PASSWORD, routes};
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, has_route};

/// The forms of the account pages that ask for text: the page, the form, and what is typed into its first field.
const FORMS: [(&str, &str, &str); 3] = [
    ("/account/username", "form[action='/account/username']", "lovelace"),
    ("/account/email", "form[action='/account/email']", "ada@example.com"),
    ("/account/passkeys", "form[action$='/rename']", "The blue key"),
];

fn confirm(browser: &Browser) {
    browser.clear("[name=password]");
    browser.keys(PASSWORD);
    browser.press_at("main form:has([name=password]) > button");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_form_of_the_account_pages_comes_back_with_its_text_after_the_confirmation() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.add_authenticator();
    browser.disable_passkey_autofill();
    site.sign_up(&browser, "ada");
    let routes = routes();
    if has_route(&routes, "GET", "/account/passkeys") {
        browser.visit(&site.page("/account/passkeys"));
        browser.press("Add a passkey");
        browser.sees("Rename");
    }
    for (page, form, text) in FORMS.into_iter().filter(|(page, ..)| has_route(&routes, "GET", page)) {
        let field = format!("{form} input:not([type=hidden])");
        let kept = || browser.run("return JSON.stringify({...sessionStorage})");
        let typed = || browser.run(&format!("return document.querySelector(`{field}`).value"));
        let send = || browser.press_at(&format!("{form} button"));
        browser.visit(&site.page(page));
        if page == "/account/passkeys" {
            browser.press_at("a[href$='/rename']");
        }
        let page = browser.path();
        browser.clear(&field);
        browser.keys(text);
        site.age_log_ins();
        send();
        browser.is_at(&format!("/confirm?next={}", page.replace('/', "%2F")));
        confirm(&browser);
        browser.is_at(&page);
        browser.sees("Your text is still here.");
        assert_eq!(typed(), text, "{page}\n{browser}");
        send();
        assert_eq!(kept(), "{}", "{page}\n{browser}");
        browser.does_not_see("Your text is still here.");
    }
}

/// Those that ask for secrets: the page, the fields, and what is pressed first to get there.
const SECRET_FORMS: [(&str, &[&str], Option<&str>); 2] = [
    ("/account/password", &["current_password", "password", "confirm_password"], None),
    ("/account/two-factor/confirm", &["code"], Some("/account/two-factor")),
];

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn secrets_are_typed_again_after_the_confirmation_and_the_page_says_that_nothing_has_changed() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let routes = routes();
    for (page, fields, first) in SECRET_FORMS.into_iter().filter(|(page, ..)| has_route(&routes, "GET", page)) {
        browser.visit(&site.page(first.unwrap_or(page)));
        if first.is_some() {
            browser.press_at("main form > button");
        }
        browser.is_at(page);
        for field in fields {
            browser.clear(&format!("[name={field}]"));
            browser.keys("violet lantern");
        }
        site.age_log_ins();
        browser.press_at("main form > button");
        browser.is_at(&format!("/confirm?next={}", page.replace('/', "%2F")));
        browser.sees("Nothing has changed yet.");
        confirm(&browser);
        browser.is_at(page);
        browser.sees("Confirmed. Nothing has changed yet: please press it once more.");
        browser.does_not_see("Your text is still here.");
        for field in fields {
            let typed = browser.run(&format!("return document.querySelector('[name={field}]').value"));
            assert_eq!(typed, "", "{page}\n{browser}");
        }
        assert_eq!(browser.run("return JSON.stringify({...sessionStorage})"), "{}", "{page}\n{browser}");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_link_to_the_confirmation_does_not_ask_because_the_text_is_there_again_afterwards() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let all = routes();
    let offered = |(page, ..): &(&str, &str, &str)| *page != "/account/passkeys" && has_route(&all, "GET", page);
    let Some((page, form, text)) = FORMS.into_iter().find(offered) else { return };
    site.age_log_ins();
    browser.visit(&site.page(page));
    browser.clear(&format!("{form} input:not([type=hidden])"));
    browser.keys(text);
    browser.run(
        "addEventListener('pagehide', () => {
            sessionStorage.asked = !dispatchEvent(new Event('beforeunload', { cancelable: true }));
        })",
    );
    browser.press("Confirm");
    browser.is_at(&format!("/confirm?next={}", page.replace('/', "%2F")));
    assert_eq!(browser.run("return sessionStorage.asked"), "false", "{browser}");
    browser.clear("[name=password]");
    browser.keys(PASSWORD);
    browser.press_at("main form:has([name=password]) > button");
    browser.is_at(page);
    browser.sees("Your text is still here.");
}
