//! Shows in a real browser that people keep hold of their accounts: passwords, sessions, and showing that it is them.
//! needs: account, change_password, confirm, export, home, login, notes, session_list, signup

mod webdriver;

use std::path::Path;
use webdriver::Browser;
use webdriver::site::{PASSWORD, Site, log_in};

const NEW: &str = "quiet harbour lamp";

const CHANGED: &str = "Your password was changed.";

/// The form at /account/password.
fn change_password(browser: &Browser, current: &str, new: &str, again: &str) {
    browser.fill("Current password", current);
    browser.fill("New password", new);
    browser.fill("New password, once more", again);
    browser.press("Change password");
}

/// A browser in which this user has logged in.
fn another(site: &Site, name: &str, arguments: &[&str]) -> Browser {
    let browser = Browser::open_with(arguments);
    browser.visit(&site.page("/login"));
    log_in(&browser, name, PASSWORD);
    browser.sees(&format!("Logged in: {name}"));
    browser
}

fn is_logged_out(browser: &Browser, site: &Site) {
    browser.visit(&site.page("/account"));
    browser.is_at("/login?next=%2Faccount");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_changes_their_password_and_is_told_once() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Account");
    browser.press("Change password");
    change_password(&browser, PASSWORD, NEW, NEW);
    browser.sees(CHANGED);
    browser.reload();
    browser.is_at("/account/password");
    browser.sees("New password, once more");
    browser.sees_no(CHANGED);

    browser.press("Log out");
    browser.press("Log in");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("This username and password do not belong together.");
    log_in(&browser, "ada", NEW);
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_changed_password_logs_out_the_other_two_browsers() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let others = [another(&site, "ada", &[]), another(&site, "ada", &[])];
    browser.visit(&site.page("/account/password"));
    change_password(&browser, PASSWORD, NEW, NEW);
    browser.sees(CHANGED);
    for other in &others {
        is_logged_out(other, &site);
    }
    browser.visit(&site.url);
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_is_asked_to_confirm_comes_back_to_the_page_they_wanted() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.press("Account");
    browser.press("Change password");
    browser.is_at("/confirm?next=%2Faccount%2Fpassword");
    browser.fill("Your password", "not the password");
    browser.press("Go on");
    browser.sees("This is not your password.");
    browser.fill("Your password", PASSWORD);
    browser.press("Go on");
    browser.is_at("/account/password");

    // What a button would have done is not done meanwhile: the way leads back to the page with the button.
    let other = another(&site, "ada", &[]);
    site.age_log_ins();
    browser.visit(&site.page("/account/sessions"));
    browser.press("Log out everywhere else");
    browser.is_at("/confirm?next=%2Faccount%2Fsessions");
    browser.fill("Your password", PASSWORD);
    browser.press("Go on");
    browser.is_at("/account/sessions");
    other.visit(&site.url);
    other.sees("Logged in: ada");
    browser.press("Log out everywhere else");
    browser.sees("You are logged out everywhere else.");
    is_logged_out(&other, &site);
}

/// As WebDriver writes these keys.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_keyboard_is_enough_to_confirm_and_to_change_the_password() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.visit(&site.page("/account/password"));
    browser.sees("Confirm it is you");
    let type_into = |field: &str, text: &str| {
        browser.keys(TAB);
        assert_eq!(browser.run("return document.activeElement.name"), field, "{browser}");
        browser.keys(text);
    };
    let pass_the_button = |words: &str| {
        browser.keys(TAB);
        assert_eq!(browser.spoken_names(":focus"), [words], "{browser}");
    };
    let skip_to_content = || {
        browser.keys(TAB);
        browser.keys(ENTER);
    };
    skip_to_content();
    type_into("password", PASSWORD);
    browser.keys(ENTER);
    browser.is_at("/account/password");
    browser.sees("New password");

    skip_to_content();
    type_into("current_password", PASSWORD);
    pass_the_button("Show: Current password");
    type_into("password", NEW);
    pass_the_button("Show: New password");
    // The space bar presses it, and the focus stays.
    browser.keys(" ");
    assert_eq!(browser.spoken_names(":focus"), ["Hide: New password"], "{browser}");
    type_into("confirm_password", NEW);
    browser.keys(ENTER);
    browser.sees(CHANGED);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_session_ended_from_the_list_logs_out_its_browser_and_no_other() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let phone = another(&site, "ada", &[PHONE]);
    let windows = another(&site, "ada", &[WINDOWS]);
    browser.press("Account");
    browser.press("Where you are logged in");
    assert!(browser.text(".entries li:first-child").contains("This browser"), "{browser}");
    let ends = ["End: Firefox on Windows", "End: Safari on iPhone"];
    assert_eq!(browser.spoken_names(".entries button"), ends, "{browser}");
    browser.press_at("//li[contains(., 'Safari on iPhone')]//button");
    browser.sees("That session was ended.");
    browser.sees_no("Safari on iPhone");
    is_logged_out(&phone, &site);
    for still_in in [&windows, &browser] {
        still_in.visit(&site.url);
        still_in.sees("Logged in: ada");
    }
}

const PHONE: &str =
    "--user-agent=Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1";
const WINDOWS: &str = "--user-agent=Mozilla/5.0 (Windows NT 10.0; rv:145.0) Gecko/20100101 Firefox/145.0";

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn what_was_typed_can_be_seen_and_is_sent_from_a_password_field_again() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.press("Log in");
    let kind = || browser.attribute("#password", "type").unwrap();
    let button = || browser.text(".reveal");
    assert_eq!((&*kind(), &*button()), ("password", "Show"), "{browser}");
    browser.fill("Username or e-mail", "ada");
    browser.fill("Password", PASSWORD);
    for (kind_now, button_now) in [("text", "Hide"), ("password", "Show"), ("text", "Hide")] {
        browser.click(".reveal");
        assert_eq!((&*kind(), &*button()), (kind_now, button_now), "{browser}");
        assert_eq!(browser.run("return document.querySelector('#password').value"), PASSWORD, "{browser}");
    }
    browser.run(
        "document.querySelector('main form').addEventListener('submit', event => {
            document.title = event.target.elements.password.type;
            event.preventDefault();
        }, {once: true})",
    );
    browser.click("main form > button");
    assert_eq!(browser.run("return document.title"), "password", "{browser}");
    browser.click(".reveal");
    browser.press("Log in");
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_accounts_are_begun_and_kept_the_same_way() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    browser.visit(&site.page("/signup"));
    browser.sees_no("Show");
    sign_up_with(&browser, "ada", "password1");
    browser.sees("one of the most common passwords");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");

    site.age_log_ins();
    browser.press("Account");
    browser.press("Change password");
    browser.fill("Your password", PASSWORD);
    browser.press("Go on");
    change_password(&browser, PASSWORD, NEW, "quiet harbour lamb");
    browser.sees("The two passwords differ.");
    change_password(&browser, "not the password", NEW, NEW);
    browser.sees("This is not your current password.");
    change_password(&browser, PASSWORD, NEW, NEW);
    browser.sees(CHANGED);
    browser.reload();
    browser.sees_no(CHANGED);
}

fn sign_up_with(browser: &Browser, name: &str, password: &str) {
    browser.fill("Username", name);
    browser.fill("Password", password);
    browser.fill("Password, once more", password);
    browser.press("Create account");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_new_password_is_advised_on_while_it_is_typed_and_never_held_back() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    let advice = |typed: &str| {
        browser.fill("Password", typed);
        browser.run("return document.querySelector('.advice').textContent").as_str().unwrap().to_string()
    };
    for (typed, said) in [
        ("hello", "3 more characters are needed."),
        ("harbour", "One more character is needed."),
        ("cafe\u{301} au", "One more character is needed."),
        ("aaaaaaaaaaaa", "Repeating a few characters is easy to guess."),
        ("violet lan", "Long enough"),
        ("violet lantern", "That is a good length."),
    ] {
        assert!(advice(typed).starts_with(said), "{typed}: {}\n{browser}", advice(typed));
        browser.sees(said);
    }
    browser.keys(&BACKSPACE.repeat("violet lantern".len()));
    browser.sees_no("That is a good length.");

    // The server decides.
    sign_up_with(&browser, "ada", "aaaaaaaaaaaa");
    browser.sees("Repeating something makes it hardly harder to guess.");
    assert_eq!(browser.status(), 422, "{browser}");
}

const BACKSPACE: &str = "\u{e003}";

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn two_passwords_that_differ_are_told_before_the_form_is_sent_until_either_is_mended() {
    let (site, browser) = (Site::open(), Browser::open());
    for mended in ["Password", "Password, once more"] {
        browser.visit(&site.page("/signup"));
        browser.fill("Username", "ada");
        browser.fill("Password", "violet lantern");
        browser.fill("Password, once more", "violet lanterm");
        browser.click("main form > button");
        let told = browser.run("return document.querySelector('#confirm_password').validationMessage");
        assert_eq!(told, "The two passwords differ.", "{browser}");
        browser.is_at("/signup");
        browser.fill(mended, if mended == "Password" { "violet lanterm" } else { "violet lantern" });
        browser.press("Create account");
        browser.sees("Logged in: ada");
        browser.press("Log out");
        site.execute("delete from users");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_refused_password_costs_nothing_else_that_was_typed() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup?next=%2Fnotes"));
    browser.fill("E-mail (if you like)", "ada@example.com");
    sign_up_with(&browser, "ada", "ada+latchkey");
    browser.sees("This is made of your own name or of this site's");
    for (field, value) in [("username", "ada"), ("email", "ada@example.com"), ("password", "")] {
        let found = browser.run(&format!("return document.querySelector('#{field}').value"));
        assert_eq!(found, value, "{field}\n{browser}");
    }
    assert_eq!(browser.run("return document.activeElement.name"), "password", "{browser}");
    browser.fill("Password", NEW);
    browser.fill("Password, once more", NEW);
    browser.press("Create account");
    browser.is_at("/notes");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn strangers_who_guess_do_not_keep_out_a_browser_that_logged_in_before() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    let guess =
        |password: &str| site.post("curl/8.5.0", "/login", &[("username", "ada"), ("password", password)]);
    for _ in 0..5 {
        assert_eq!(guess("not the password"), 422);
    }
    assert_eq!(guess(PASSWORD), 429, "strangers have no attempts left");
    let stranger = Browser::open();
    for (who, sees) in [(&stranger, "Slow down a little"), (&browser, "Logged in: ada")] {
        who.visit(&site.page("/login"));
        log_in(who, "ada", PASSWORD);
        who.sees(sees);
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_wants_their_data_gets_the_file_and_not_the_page_that_asks_for_the_password() {
    let (site, browser) = (Site::open(), Browser::open());
    let folder = tempfile::tempdir().unwrap();
    browser.downloads(folder.path());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.press("Account");
    browser.press("Export your data");
    browser.is_at("/confirm?next=%2Faccount%2Fexport");
    browser.fill("Your password", PASSWORD);
    browser.click("main form > button");
    let text = browser.soon(|| read_whole(&folder.path().join("ada.json")));
    let text = text.unwrap_or_else(|| panic!("no file came\n{browser}"));
    assert!(text.contains("\"username\": \"ada\""), "{text}");
}

/// A file that has all of its JSON.
fn read_whole(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.ends_with('}'))
}
