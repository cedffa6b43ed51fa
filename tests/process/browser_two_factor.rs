//! In a real browser: people log in with an authenticator app, and without it when they have lost it.
//! needs: account, confirm, delete_account, home, login, recovery_codes, signup, two_factor

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret, Totp};

/// An authenticator app.
struct Phone(Totp);

impl Phone {
    /// With the secret of the page that the browser is at.
    #[track_caller]
    fn scan(browser: &Browser) -> Phone {
        let key = browser.text("#totp-key").replace(' ', "");
        Phone(Builder::new().with_secret(Secret::try_from_base32(key).unwrap()).build().unwrap())
    }

    fn code(&self) -> String {
        self.0.generate(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).to_string()
    }
}

/// Turns two-factor log-in on, and returns the recovery codes that the page shows.
#[track_caller]
fn set_up(browser: &Browser) -> (Phone, Vec<String>) {
    browser.press("ada");
    browser.press("Two-factor log-in");
    browser.press("Set up two-factor log-in");
    let phone = Phone::scan(browser);
    browser.fill("Code", &phone.code());
    browser.press("Turn on two-factor log-in");
    browser.is_at("/account/recovery-codes");
    browser.sees("Two-factor log-in is on.");
    (phone, codes_on(browser))
}

fn codes_on(browser: &Browser) -> Vec<String> {
    browser.text(".codes").lines().map(String::from).collect()
}

/// Makes the current code usable again, as if the last one had been used some time ago.
fn allow_current_code(site: &Site) {
    site.execute("update totp set last_step = last_step - 10");
}

/// Logs out and in again, up to the page that asks for a code.
#[track_caller]
fn log_in_again(browser: &Browser) {
    browser.press("Log out");
    browser.press("Log in");
    log_in(browser, "ada", PASSWORD);
    browser.is_at("/login/two-factor");
    browser.sees("To log in as ada");
}

#[track_caller]
fn use_two_factor(site: &Site, browser: &Browser) {
    site.sign_up(browser, "ada");
    let (phone, codes) = set_up(browser);
    assert_eq!(codes.len(), 10, "{browser}");
    browser.press("I have saved them");
    browser.is_at("/account");

    // The phone may show the next code by now.
    site.execute("update totp set last_step = last_step + 1");
    log_in_again(browser);
    browser.fill("Code", &phone.code());
    browser.press("Log in");
    browser.sees("Wait for the next code.");
    allow_current_code(site);
    browser.fill("Code", "000 000");
    browser.press("Log in");
    browser.sees("This code is wrong or has already been used.");
    let code = phone.code();
    browser.fill("Code", &format!("{} {}", &code[..3], &code[3..]));
    browser.press_at("main form > button");
    browser.sees("Logged in: ada");

    log_in_again(browser);
    browser.click("summary");
    browser.fill("Recovery code", &codes[0].to_uppercase());
    browser.press("Log in with the recovery code");
    browser.sees("Logged in: ada");

    browser.press("ada");
    browser.press("Two-factor log-in");
    browser.sees("9 codes left.");
    browser.press("Turn off");
    browser.fill("Code", &codes[1]);
    browser.press("Turn off two-factor log-in");
    browser.sees("Two-factor log-in is off.");
    browser.press("Log out");
    browser.press("Log in");
    log_in(browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_sets_an_app_up_logs_in_with_it_and_without_it_and_turns_it_off() {
    let (site, browser) = (Site::open(), Browser::open());
    use_two_factor(&site, &browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_two_factors_work_the_same_way() {
    let site = Site::open();
    use_two_factor(&site, &Browser::open_with(&["--blink-settings=scriptEnabled=false"]));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn recovery_codes_are_downloaded_with_and_without_scripts_and_printed_where_there_are_some() {
    for arguments in [&[][..], &["--blink-settings=scriptEnabled=false"]] {
        let (site, browser) = (Site::open(), Browser::open_with(arguments));
        let folder = tempfile::tempdir().unwrap();
        browser.set_download_folder(folder.path());
        site.sign_up(&browser, "ada");
        let (_, codes) = set_up(&browser);
        browser.click("a[download]");
        let file = folder.path().join("recovery-codes.txt");
        let text = browser.wait_for(|| read_whole(&file));
        let text = text.unwrap_or_else(|| panic!("no file came\n{browser}"));
        let (head, listed) = text.split_once("\n\n").unwrap();
        let address = site.url().replace("http://", "");
        assert!(head.starts_with(&format!("Recovery codes for ada at Latchkey ({address})\nMade on ")), "{text}");
        assert_eq!(listed, codes.join("\n") + "\n");
        if arguments.is_empty() {
            browser.run("window.print = () => { document.title = 'printed'; }");
            browser.click(".print");
            assert_eq!(browser.run("return document.title"), "printed", "{browser}");
        } else {
            browser.does_not_see("Print");
            browser.does_not_see("Copy");
        }

        // The page that replaces them offers the same.
        browser.press("I have saved them");
        browser.visit(&site.page("/account/recovery-codes"));
        browser.press("Make new codes");
        assert!(browser.attribute("a[download]", "href").unwrap().starts_with("data:text/plain"), "{browser}");
        assert_eq!(browser.console_messages(), Vec::<String>::new());
    }
}

/// A file with all ten codes.
fn read_whole(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.lines().count() == 14)
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_key_and_the_codes_are_there_again_after_a_reload_and_after_the_theme_was_changed() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/two-factor"));
    browser.press("Set up two-factor log-in");
    browser.is_at("/account/two-factor/confirm");
    let key = browser.text("#totp-key");
    let look_again = |path: &str| {
        browser.reload();
        browser.is_at(path);
        browser.visit(&site.page("/"));
        browser.visit(&site.page(path));
    };
    look_again("/account/two-factor/confirm");
    assert_eq!(browser.text("#totp-key"), key);
    browser.fill("Code", "000000");
    browser.press("Turn on two-factor log-in");
    browser.is_at("/account/two-factor/confirm");
    browser.sees("This code is wrong");
    browser.visit(&site.page("/account/two-factor/confirm"));
    let phone = Phone::scan(&browser);
    browser.fill("Code", &phone.code());
    browser.press("Turn on two-factor log-in");
    browser.is_at("/account/recovery-codes");
    let codes = codes_on(&browser);
    look_again("/account/recovery-codes");
    assert_eq!(codes_on(&browser), codes);
    site.age_log_ins();
    look_again("/account/recovery-codes");
    assert_eq!(codes_on(&browser), codes);
    browser.press("I have saved them");
    browser.visit(&site.page("/account/recovery-codes"));
    browser.sees("10 codes left.");
    browser.does_not_see(&codes[0]);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_code_shows_once_more_who_one_is() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let (phone, _) = set_up(&browser);
    site.age_log_ins();
    browser.visit(&site.page("/confirm?next=%2Faccount%2Ftwo-factor"));
    browser.fill("Or a code", "000000");
    browser.press("Continue with the code");
    browser.sees("This code is wrong or has already been used.");
    allow_current_code(&site);
    browser.fill("Or a code", &phone.code());
    browser.press("Continue with the code");
    browser.is_at("/account/two-factor");

    // With a password there is one thing to fill in.
    browser.visit(&site.page("/delete"));
    browser.does_not_see("Code");
    browser.fill("Your password", PASSWORD);
    browser.press("Delete my account");
    browser.sees("Your account is deleted.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn wrong_codes_lead_back_to_the_log_in_with_a_message() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    set_up(&browser);
    log_in_again(&browser);
    for _ in 0..5 {
        browser.fill("Code", "000000");
        browser.press_at("main form > button");
    }
    browser.is_at("/login");
    browser.sees("That took too long, or there were too many wrong codes.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_two_factor_log_in_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    let refused = |label: &str, code: &str, button: &str, page: &str| {
        browser.fill(label, code);
        browser.press(button);
        browser.sees("This code is wrong");
        browser.inspect(page);
    };
    site.sign_up(&browser, "wwwwwwwwwwwwwwwwwwww");
    browser.visit(&site.page("/account/two-factor"));
    browser.inspect("two-factor-off");
    browser.press("Set up two-factor log-in");
    browser.inspect("two-factor-set-up");
    refused("Code", "000000", "Turn on two-factor log-in", "two-factor-set-up-mistake");
    let phone = Phone::scan(&browser);
    browser.fill("Code", &phone.code());
    browser.press("Turn on two-factor log-in");
    browser.inspect("two-factor-codes");
    let codes = browser.text(".codes");
    browser.visit(&site.page("/account/two-factor"));
    browser.inspect("two-factor-on");
    browser.press("Turn off");
    browser.inspect("two-factor-turn-off");
    refused("Code", "000000", "Turn off two-factor log-in", "two-factor-turn-off-mistake");
    browser.visit(&site.page("/confirm"));
    browser.inspect("two-factor-confirm");
    browser.visit(&site.page("/delete"));
    browser.inspect("two-factor-delete");

    browser.press("Log out");
    browser.visit(&site.page("/login"));
    log_in(&browser, "wwwwwwwwwwwwwwwwwwww", PASSWORD);
    browser.is_at("/login/two-factor");
    browser.inspect("two-factor-log-in");
    refused("Code", "000000", "Log in", "two-factor-log-in-mistake");
    // Hidden until it is unfolded.
    browser.click("summary");
    browser.inspect("two-factor-recovery");
    refused(
        "Recovery code",
        "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aa",
        "Log in with the recovery code",
        "two-factor-recovery-mistake",
    );
    let codes: Vec<&str> = codes.lines().collect();
    browser.fill("Recovery code", codes[0]);
    browser.press("Log in with the recovery code");
    browser.visit(&site.page("/account/two-factor/off"));
    browser.fill("Code", codes[1]);
    browser.press("Turn off two-factor log-in");
    browser.sees("Two-factor log-in is off.");
    browser.inspect("two-factor-flash");
}
