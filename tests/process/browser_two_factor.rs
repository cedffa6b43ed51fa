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
    browser.press("Account");
    browser.press("Two-factor log-in");
    browser.press("Set it up");
    let phone = Phone::scan(browser);
    browser.fill("Code", &phone.code());
    browser.press("Turn on");
    browser.sees("Two-factor log-in is on.");
    let codes = browser.text(".codes");
    (phone, codes.lines().map(String::from).collect())
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
    browser.sees("You are about to log in as ada.");
}

#[track_caller]
fn use_two_factor(site: &Site, browser: &Browser) {
    site.sign_up(browser, "ada");
    let (phone, codes) = set_up(browser);
    assert_eq!(codes.len(), 10, "{browser}");
    browser.press("I have kept them");
    browser.is_at("/account");

    log_in_again(browser);
    allow_current_code(site);
    browser.fill("Code", "000 000");
    browser.press("Log in");
    browser.sees("This code is wrong, or was used already.");
    let code = phone.code();
    browser.fill("Code", &format!("{} {}", &code[..3], &code[3..]));
    browser.press_at("main form > button");
    browser.sees("Logged in: ada");

    log_in_again(browser);
    browser.click("summary");
    browser.fill("Recovery code", &codes[0].to_uppercase());
    browser.press("Log in with it");
    browser.sees("Logged in: ada");

    browser.press("Account");
    browser.press("Two-factor log-in");
    browser.sees("You have 9 left.");
    browser.fill("Code", &codes[1]);
    browser.press("Turn off");
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
        assert_eq!(text, format!("Recovery codes of ada at Latchkey\n\n{}\n", codes.join("\n")));
        if arguments.is_empty() {
            browser.run("window.print = () => { document.title = 'printed'; }");
            browser.click(".print");
            assert_eq!(browser.run("return document.title"), "printed", "{browser}");
        } else {
            browser.does_not_see("Print");
        }

        // The page that replaces them offers the same.
        browser.visit(&site.page("/account/recovery-codes"));
        browser.press("Replace my codes");
        assert!(browser.attribute("a[download]", "href").unwrap().starts_with("data:text/plain"), "{browser}");
        assert_eq!(browser.console_messages(), Vec::<String>::new());
    }
}

/// A file with all ten codes.
fn read_whole(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.lines().count() == 12)
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_code_shows_once_more_who_one_is() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let (phone, codes) = set_up(&browser);
    site.age_log_ins();
    browser.visit(&site.page("/account/two-factor"));
    browser.is_at("/confirm?next=%2Faccount%2Ftwo-factor");
    browser.fill("Or a code", "000000");
    browser.press("Go on with the code");
    browser.sees("This code is wrong, or was used already.");
    allow_current_code(&site);
    browser.fill("Or a code", &phone.code());
    browser.press("Go on with the code");
    browser.is_at("/account/two-factor");

    browser.visit(&site.page("/delete"));
    browser.fill("Or a code", "000000");
    browser.press("Delete my account with the code");
    browser.sees("Nothing was deleted.");
    browser.fill("Or a code", &codes[0]);
    browser.press("Delete my account with the code");
    browser.sees("Your account and everything in it is gone.");
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
    browser.sees("That took too long, or too many tries.");
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
    browser.press("Set it up");
    browser.inspect("two-factor-set-up");
    refused("Code", "000000", "Turn on", "two-factor-set-up-mistake");
    let phone = Phone::scan(&browser);
    browser.fill("Code", &phone.code());
    browser.press("Turn on");
    browser.inspect("two-factor-codes");
    let codes = browser.text(".codes");
    browser.visit(&site.page("/account/two-factor"));
    browser.inspect("two-factor-on");
    refused("Code", "000000", "Turn off", "two-factor-on-mistake");
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
    refused("Recovery code", "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aa", "Log in with it", "two-factor-recovery-mistake");
    let codes: Vec<&str> = codes.lines().collect();
    browser.fill("Recovery code", codes[0]);
    browser.press("Log in with it");
    browser.visit(&site.page("/account/two-factor"));
    browser.fill("Code", codes[1]);
    browser.press("Turn off");
    browser.sees("Two-factor log-in is off.");
    browser.inspect("two-factor-flash");
}
