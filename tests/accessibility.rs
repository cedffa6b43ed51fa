//! Shows what people hear who cannot see the pages, that nothing sticks out on a small screen, and that pages keep
//! their own security policy.
//! needs: account, activity, change_password, change_username, confirm, delete_account, home, login, mailbox, members, notes, passkeys, password_reset, recovery_codes, session_list, signup, theme, two_factor

mod webdriver;

use serde_json::json;
use webdriver::Browser;
use webdriver::site::{PASSWORD, Site, log_in};

/// Sends a form as a browser would that checks nothing itself.
fn press_unchecked(browser: &Browser, words: &str) {
    browser.run("document.querySelector('main form').noValidate = true");
    browser.press(words);
}

/// Every page there is, as a stranger and as somebody with an account, mistakes included.
fn each_page(browser: &Browser, site: &Site, mut look: impl FnMut(&str)) {
    for path in ["/", "/signup", "/login", "/password-reset", "/recovery", "/password-reset/x", "/nowhere"] {
        browser.visit(&site.page(path));
        look(path);
    }
    browser.visit(&site.page("/password-reset"));
    press_unchecked(browser, "Send the link");
    look("/password-reset with a mistake");
    browser.visit(&site.page("/recovery"));
    press_unchecked(browser, "Use this code");
    look("/recovery with a mistake");
    browser.visit(&site.page("/login"));
    press_unchecked(browser, "Log in");
    look("/login with a mistake");
    for _ in 0..4 {
        site.post("", "/login", &[]);
    }
    press_unchecked(browser, "Log in");
    browser.sees("Slow down a little");
    look("/login with too many mistakes");
    browser.visit(&site.page("/signup"));
    press_unchecked(browser, "Create account");
    look("/signup with mistakes");

    site.sign_up(browser, "wwwwwwwwwwwwwwwwwwww");
    browser.visit(&site.page("/notes"));
    look("/notes without notes");
    for text in ["Milk, eggs", &"https://example.com/without/any/space".repeat(9)] {
        browser.fill("Your note", text);
        browser.press("Save note");
    }
    for path in ["/", "/notes", "/account", "/users", "/me", "/delete", "/nowhere"] {
        browser.visit(&site.page(path));
        look(path);
    }
    browser.visit(&site.page("/delete"));
    press_unchecked(browser, "Delete my account");
    look("/delete with a mistake");
    browser.visit(&site.page("/notes"));
    press_unchecked(browser, "Save note");
    look("/notes with a mistake");
    browser.press("Milk, eggs");
    look("/notes/{id}");
    account_pages(browser, site, &mut look);
}

/// For [`each_page`]: somebody is logged in.
fn account_pages(browser: &Browser, site: &Site, look: &mut impl FnMut(&str)) {
    let name = [("username", "wwwwwwwwwwwwwwwwwwww"), ("password", PASSWORD)];
    assert_eq!(site.post(&"x".repeat(200), "/login", &name), 303);
    for table in ["sessions", "events"] {
        let address = "2001:db8:1234:5678:9abc:def0:1234:5678";
        site.execute(&format!("update {table} set address = '{address}'"));
    }
    for path in ["/account/activity", "/account/sessions", "/account/username", "/account/password"] {
        browser.visit(&site.page(path));
        look(path);
    }
    press_unchecked(browser, "Change password");
    look("/account/password with a mistake");
    ways_back(browser, site, look);
    browser.visit(&site.page("/account/username"));
    press_unchecked(browser, "Change username");
    look("/account/username with a mistake");
    browser.visit(&site.page("/account/sessions"));
    browser.press("Log out everywhere else");
    browser.sees("You are logged out everywhere else.");
    look("/account/sessions with a flash");
    site.age_log_ins();
    browser.visit(&site.page("/account/password"));
    look("/confirm");
    press_unchecked(browser, "Go on");
    look("/confirm with a mistake");
    browser.fill("Your password", PASSWORD);
    browser.press("Go on");
    two_factors(browser, site, look);
    site.execute("delete from totp");
    browser.visit(&site.page("/login"));
    log_in(browser, "wwwwwwwwwwwwwwwwwwww", PASSWORD);
    passkeys(browser, site, look);
}

/// For [`each_page`]: somebody is logged in, and is half-way in the end.
fn two_factors(browser: &Browser, site: &Site, look: &mut impl FnMut(&str)) {
    browser.visit(&site.page("/account/two-factor"));
    look("/account/two-factor while it is off");
    browser.press("Set it up");
    look("/account/two-factor/start");
    press_unchecked(browser, "Turn on");
    look("/account/two-factor/confirm with a mistake");
    // As if the right code had been sent.
    site.execute("update totp set confirmed_at = created_at");
    browser.visit(&site.page("/account/two-factor"));
    look("/account/two-factor while it is on");
    press_unchecked(browser, "Turn off");
    look("/account/two-factor/off with a mistake");
    for path in ["/confirm", "/delete"] {
        browser.visit(&site.page(path));
        look(&format!("{path} with two factors"));
    }
    browser.press("Log out");
    browser.visit(&site.page("/login"));
    log_in(browser, "wwwwwwwwwwwwwwwwwwww", PASSWORD);
    browser.is_at("/login/two-factor");
    // What is folded away is read out once it is unfolded.
    browser.click("summary");
    look("/login/two-factor");
    press_unchecked(browser, "Log in");
    browser.click("summary");
    look("/login/two-factor with a mistake");
}

/// For [`each_page`]: somebody is logged in, and has no password in the end.
fn passkeys(browser: &Browser, site: &Site, look: &mut impl FnMut(&str)) {
    browser.visit(&site.page("/account/passkeys"));
    look("/account/passkeys without any");
    browser.add_authenticator();
    browser.press("Add a passkey");
    look("/account/passkeys with a flash");
    browser.click("summary");
    browser.run("document.querySelector('details form').noValidate = true");
    browser.clear("details input");
    browser.press("Save name");
    look("/account/passkeys with a mistake");
    site.execute("delete from passwords");
    browser.visit(&site.page("/delete"));
    look("/delete with a passkey");
    browser.visit(&site.page("/account/passkeys"));
    browser.press("Remove");
    look("/account/passkeys with the last way in");
}

/// For [`each_page`]: somebody is logged in, and has no way back yet.
fn ways_back(browser: &Browser, site: &Site, look: &mut impl FnMut(&str)) {
    browser.visit(&site.page("/account"));
    browser.press("Make recovery codes");
    look("/account/recovery-codes without codes");
    browser.press("Make recovery codes");
    look("/account/recovery-codes with new codes");
    browser.press("I have kept them");
    browser.press("Recovery codes");
    look("/account/recovery-codes");
    site.execute(
        "insert into addresses (user_id, email, confirmed_at) select id, 'ada@example.com', 1 from users",
    );
    site.post("", "/password-reset", &[("email", "ada@example.com")]);
    browser.visit(&site.page("/dev/mailbox"));
    browser.press_at(".mail .text a");
    look("/password-reset/{token}");
    press_unchecked(browser, "Set the new password");
    look("/password-reset/{token} with a mistake");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn mistakes_are_read_out_beside_their_fields() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada lovelace");
    browser.fill("E-mail (if you like)", "ada@");
    browser.fill("Password", "short");
    press_unchecked(&browser, "Create account");
    assert_eq!(browser.status(), 422, "{browser}");
    assert_eq!(browser.run("return document.querySelectorAll('[aria-invalid]').length"), 3, "{browser}");
    assert!(browser.attribute("input:focus", "name").is_some_and(|name| name == "username"), "{browser}");
    for (field, words) in [("username", "without spaces"), ("email", "address"), ("password", "8 characters")]
    {
        let input = format!("input[name={field}]");
        assert_eq!(browser.attribute(&input, "aria-invalid").as_deref(), Some("true"), "{input}\n{browser}");
        let description =
            browser.attribute(&input, "aria-describedby").expect("a mistake describes its field");
        let sentence = browser.text(&format!("#{description}"));
        assert!(sentence.contains(words), "{field}: {sentence}\n{browser}");
    }

    // Only what is wrong is called so, and the first of it has the focus.
    browser.fill("Username", "ada");
    browser.fill("E-mail (if you like)", "ada@example.com");
    browser.fill("Password", PASSWORD);
    browser.fill("Password, once more", "correct horse");
    press_unchecked(&browser, "Create account");
    browser.sees("The two passwords differ.");
    assert_eq!(browser.run("return document.querySelectorAll('[aria-invalid]').length"), 1, "{browser}");
    assert!(
        browser.attribute("input:focus", "name").is_some_and(|name| name == "confirm_password"),
        "{browser}"
    );
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_field_with_a_mistake_has_the_colour_of_its_sentence() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    press_unchecked(&browser, "Create account");
    browser.sees("Please choose a username.");
    let sentence = browser.style("#username-error", "color");
    assert_eq!(browser.style("#username", "border-top-color"), sentence, "{browser}");
    assert_ne!(browser.style("#email", "border-top-color"), sentence, "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn password_managers_know_every_field() {
    let (site, browser) = (Site::open(), Browser::open());
    let expect = |fields: &[(&str, &str)]| {
        for (field, meaning) in fields {
            let found = browser.attribute(&format!("[name={field}]"), "autocomplete");
            assert_eq!(found.as_deref(), Some(*meaning), "{field}\n{browser}");
        }
    };
    browser.visit(&site.page("/login"));
    expect(&[("username", "username webauthn"), ("password", "current-password")]);
    browser.visit(&site.page("/signup"));
    expect(&[("username", "username"), ("email", "email")]);
    expect(&[("password", "new-password"), ("confirm_password", "new-password")]);
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/delete"));
    expect(&[("password", "current-password")]);
    browser.visit(&site.page("/account/username"));
    expect(&[("username", "username")]);
    browser.visit(&site.page("/account/password"));
    expect(&[("current_password", "current-password")]);
    expect(&[("password", "new-password"), ("confirm_password", "new-password")]);
    browser.visit(&site.page("/confirm"));
    expect(&[("password", "current-password")]);
    // Whose password it is stands in a field that nobody sees.
    assert_eq!(browser.run("return document.querySelector('[autocomplete=username][hidden]').value"), "ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_keyboard_is_enough() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.visit(&site.page("/login"));
    browser.keys(TAB);
    let focus = browser.run("return document.activeElement.textContent");
    assert_eq!(focus, "Skip to content", "{browser}");
    let place = browser.run("return document.activeElement.getBoundingClientRect().left");
    assert!(place.as_f64().unwrap() >= 0.0, "the link comes into view\n{browser}");
    browser.keys(ENTER);
    for (field, text) in [("username", "ada"), ("password", PASSWORD)] {
        browser.keys(TAB);
        assert_eq!(browser.run("return document.activeElement.name"), field, "{browser}");
        assert_eq!(browser.run("return getComputedStyle(document.activeElement).outlineWidth"), "2px");
        browser.keys(text);
    }
    browser.keys(ENTER);
    browser.sees("Logged in: ada");
}

/// As WebDriver writes these keys.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn everything_that_can_be_used_has_a_name() {
    let (site, browser) = (Site::open(), Browser::open());
    let mut named = 0;
    each_page(&browser, &site, |page| {
        let names = browser.spoken_names(
            ":is(a, button, summary, input:not([type=hidden], [hidden]), textarea):not(details:not([open]) > form *)",
        );
        assert!(names.iter().all(|name| !name.trim().is_empty()), "{page}: {names:?}\n{browser}");
        assert_eq!(browser.spoken_names("h1").len(), 1, "{page}\n{browser}");
        named += names.len();
    });
    assert!(named > 100, "only {named} were found");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn no_page_is_wider_than_the_smallest_screen() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.screen(320);
    each_page(&browser, &site, |page| {
        let width = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(width, 320, "{page}\n{browser}");
    });
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn words_and_fields_stand_out_from_their_ground_in_both_themes() {
    let (site, browser) = (Site::open(), Browser::open());
    each_page(&browser, &site, |page| {
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            let [seen, faint] =
                ["seen", "faint"].map(|list| browser.run(&format!("{CONTRAST} return {list}")));
            assert!(seen.as_array().unwrap().len() > 5, "{seen}\n{browser}");
            assert_eq!(faint, json!([]), "{page}, {scheme}\n{browser}");
        }
    });
}

/// Lists what is seen on a page, and of it what is too faint: words below 7:1, pictures and borders of fields below
/// 4.5:1 (WCAG 2.2, 1.4.6 and 1.4.11, which asks for less).
const CONTRAST: &str = r"
const style = element => getComputedStyle(element);
const channels = colour => colour.match(/[\d.]+/g).map(Number);
const light = colour => channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
const ground = element => {
    const own = style(element).backgroundColor;
    return channels(own)[3] === 0 ? ground(element.parentElement) : own;
};
const seen = [], faint = [];
const compare = (element, colour, behind, wanted) => {
    const [darker, lighter] = [light(colour), light(ground(behind))].sort((a, b) => a - b);
    const line = `${element.outerHTML.slice(0, 80)} ${colour} ${(lighter / darker).toFixed(2)}`;
    seen.push(line);
    if (lighter / darker < wanted) faint.push(line);
};
for (const element of document.body.querySelectorAll('*')) {
    const words = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (words) compare(element, style(element).color, element, 7);
    if (element.matches('path')) compare(element, style(element).fill, element, 4.5);
    if (element.matches('input:not([type=hidden], [type=checkbox]), textarea'))
        compare(element, style(element).borderTopColor, element.parentElement, 4.5);
}";

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn no_page_breaks_its_own_security_policy() {
    let (site, browser) = (Site::open(), Browser::open());
    let broken = || -> Vec<String> {
        browser.complaints().into_iter().filter(|line| line.contains("Content Security Policy")).collect()
    };
    each_page(&browser, &site, |page| assert_eq!(broken(), [""; 0], "{page}\n{browser}"));
    browser.run("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')");
    assert_ne!(broken(), [""; 0], "this is how the browser tells");
}
