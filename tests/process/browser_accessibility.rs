//! In a real browser: pages can be used with a screen reader, with the keyboard alone, on a small screen and in both
//! colour schemes, and keep their own security policy. A feature's own module inspects its pages in all their states.
//! needs: home, login, signup

use crate::common::{PASSWORD, free_port, routes};
use crate::webdriver::site::Site;
use crate::webdriver::{Browser, ENTER, TAB};

/// Every page with an address of its own, for a visitor and for a person who is logged in, mistakes included.
fn each_page(browser: &Browser, site: &Site, mut check: impl FnMut(&str)) {
    let pages: Vec<String> = routes()
        .into_iter()
        .filter(|route| route.method == "GET" && !route.path.contains(['{', '.']))
        .map(|route| route.path)
        .filter(|path| !["/healthz", "/readyz"].contains(&&**path))
        .chain(["tutorial", "security", "operations", "deploy", "choices"].map(|name| format!("/dev/docs/{name}")))
        .collect();
    for path in pages.iter().map(|path| &**path).chain(["/nowhere"]) {
        browser.visit(&site.page(path));
        check(path);
    }
    browser.visit(&site.page("/login"));
    browser.press_unchecked("Log in");
    check("/login with a mistake");
    for _ in 0..4 {
        site.post("", "/login", &[]);
    }
    browser.press_unchecked("Log in");
    browser.sees("Too many attempts");
    check("/login with too many mistakes");
    browser.visit(&site.page("/signup"));
    browser.press_unchecked("Create account");
    check("/signup with mistakes");
    site.sign_up(browser, "wwwwwwwwwwwwwwwwwwww");
    for path in pages.iter().map(|path| &**path).chain(["/nowhere"]) {
        browser.visit(&site.page(path));
        check(&format!("{path} while logged in"));
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_home_page_of_a_live_site_is_fit_for_everyone() {
    let port = free_port().to_string();
    let base = format!("http://app.example.test:{port}");
    let _site = Site::in_production(&[("PORT", &port), ("BASE_URL", &base), ("SMTP_URL", "none")]);
    let browser = Browser::open_with(&["--host-resolver-rules=MAP *.example.test 127.0.0.1"]);
    browser.visit(&base);
    browser.does_not_see("src/");
    browser.inspect("home-production");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn mistakes_are_read_out_beside_their_fields() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada lovelace");
    browser.fill("E-mail (optional)", "ada@");
    browser.fill("Password", "short");
    browser.press_unchecked("Create account");
    assert_eq!(browser.status(), 422, "{browser}");
    assert_eq!(browser.run("return document.querySelectorAll('[aria-invalid]').length"), 3, "{browser}");
    assert!(browser.attribute("input:focus", "name").is_some_and(|name| name == "username"), "{browser}");
    for (field, words) in [("username", "without spaces"), ("email", "address"), ("password", "8 characters")] {
        let input = format!("input[name={field}]");
        assert_eq!(browser.attribute(&input, "aria-invalid").as_deref(), Some("true"), "{input}\n{browser}");
        let description = browser.attribute(&input, "aria-describedby").expect("a mistake describes its field");
        let sentence = browser.text(&format!("#{description}"));
        assert!(sentence.contains(words), "{field}: {sentence}\n{browser}");
    }

    // Only wrong fields are marked, and the first of them has the focus.
    browser.fill("Username", "ada");
    browser.fill("E-mail (optional)", "ada@example.com");
    browser.fill("Password", PASSWORD);
    browser.fill("Repeat password", "correct horse");
    browser.press_unchecked("Create account");
    browser.sees("The two passwords differ.");
    assert_eq!(browser.run("return document.querySelectorAll('[aria-invalid]').length"), 1, "{browser}");
    assert!(browser.attribute("input:focus", "name").is_some_and(|name| name == "confirm_password"), "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_field_with_a_mistake_has_the_colour_of_its_sentence() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.press_unchecked("Create account");
    browser.sees("Please choose a username.");
    let sentence = browser.style("#username-error", "color");
    assert_eq!(browser.style("#username", "border-top-color"), sentence, "{browser}");
    assert_ne!(browser.style("#email", "border-top-color"), sentence, "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn password_managers_know_every_field() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/login"));
    browser.has_autocomplete(&[("username", "username webauthn"), ("password", "current-password")]);
    browser.visit(&site.page("/signup"));
    browser.has_autocomplete(&[("username", "username"), ("email", "email")]);
    browser.has_autocomplete(&[("password", "new-password"), ("confirm_password", "new-password")]);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_keyboard_is_enough() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.visit(&site.url());
    browser.keys(TAB);
    let focus = browser.run("return document.activeElement.textContent");
    assert_eq!(focus, "Skip to content", "{browser}");
    let on_top = "const link = document.activeElement, { x, y } = link.getBoundingClientRect();
                  return document.elementFromPoint(x + 9, y + 9) === link";
    assert_eq!(browser.run(on_top), true, "the link comes into view, above the header\n{browser}");
    browser.keys(ENTER);
    // The page begins in its first field. The button comes before the password, so that the key after this leads on.
    browser.visit(&site.page("/login"));
    for (field, text) in [("username", "ada"), ("password", PASSWORD)] {
        if field == "password" {
            browser.keys(TAB);
            assert_eq!(browser.accessible_names(":focus"), ["Show: Password"], "{browser}");
            browser.keys(TAB);
        }
        assert_eq!(browser.run("return document.activeElement.name"), field, "{browser}");
        assert_eq!(browser.run("return getComputedStyle(document.activeElement).outlineWidth"), "2px");
        browser.keys(text);
    }
    browser.keys(ENTER);
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn everything_that_can_be_used_has_a_name() {
    let (site, browser) = (Site::open(), Browser::open());
    each_page(&browser, &site, |page| assert_eq!(browser.nameless(), [""; 0], "{page}\n{browser}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn no_page_is_wider_than_the_smallest_screen() {
    let (site, browser) = (Site::open(), Browser::open());
    each_page(&browser, &site, |page| assert_eq!(browser.too_wide(), None, "{page}\n{browser}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn words_and_fields_stand_out_from_their_ground_in_both_themes() {
    let (site, browser) = (Site::open(), Browser::open());
    each_page(&browser, &site, |page| assert_eq!(browser.too_faint(), [""; 0], "{page}\n{browser}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn no_page_breaks_its_own_security_policy() {
    let (site, browser) = (Site::open(), Browser::open());
    each_page(&browser, &site, |page| assert_eq!(browser.policy_violations(), [""; 0], "{page}\n{browser}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_page_with_faults_is_found_out() {
    let (site, browser) = (Site::open(), Browser::open());
    let fault = |script: &str| {
        browser.visit(&site.page("/login"));
        assert_eq!(browser.faults(), [""; 0], "{browser}");
        browser.run(script);
        browser.faults()
    };
    for (html, told) in [
        ("<a href=/><p></p></a>", "a control without a name"),
        ("<h1>Again</h1>", "not exactly one heading"),
        ("<div class=wide>x</div>", "pixels wide"),
        ("<p class=faint>Hardly to be read</p>", "Hardly to be read"),
        ("<p style='color: red'>Red</p>", "Content Security Policy"),
    ] {
        // The policy forbids styles in HTML; those that a script sets are allowed.
        let faults = fault(&format!(
            "document.querySelector('main').insertAdjacentHTML('beforeend', `{html}`);
            document.querySelectorAll('.wide').forEach(e => {{ e.style.width = '1000px'; }});
            document.querySelectorAll('.faint').forEach(e => {{ e.style.color = '#888'; }});"
        ));
        assert!(faults.iter().any(|fault| fault.contains(told)), "{html}: {faults:#?}");
    }
}
