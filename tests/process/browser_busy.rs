//! In a real browser: a button that is pressed twice over a slow line acts once, and the page shows what it did.
//! needs: export, home, login, notes, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, sign_up_with};
use std::thread::sleep;
use std::time::Duration;

/// 70 ms each way.
const SLOW: u64 = 140;

/// Signs up and writes a note, with two presses of each button, three times.
fn press_everything_twice(site: &Site, browser: &Browser) {
    browser.slow_down(SLOW);
    for (number, pause) in [60, 120, 180].into_iter().enumerate() {
        let name = format!("ada{number}");
        browser.visit(&site.page("/signup"));
        browser.fill("Username", &name);
        browser.fill("Password", PASSWORD);
        browser.fill("Repeat password", PASSWORD);
        browser.press_twice("main form button:not([type=button])", pause);
        browser.sees(&format!("Logged in: {name}"));
        browser.visit(&site.page("/notes"));
        browser.fill("Your note", "Milk");
        browser.press_twice("main form button", pause);
        browser.sees("Note saved.");
        browser.visit(&site.url());
        browser.press("Log out");
        browser.sees("Log in");
    }
    assert_eq!(site.count("select count(*) from users"), 3);
    assert_eq!(site.count("select count(*) from notes"), 3);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_presses_twice_over_a_slow_line_sees_what_the_first_press_did() {
    let (site, browser) = (Site::open(), Browser::open());
    press_everything_twice(&site, &browser);
    // The second press was never sent: it would have got a session of its own.
    assert_eq!(site.count("select count(*) from sessions"), 0);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_a_second_press_signs_nobody_up_twice_and_writes_no_second_note() {
    let (site, browser) = (Site::open(), Browser::open_with(&["--blink-settings=scriptEnabled=false"]));
    press_everything_twice(&site, &browser);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_pressed_button_is_sent_with_its_value_keeps_the_focus_and_is_live_again_behind_the_back_button() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.slow_down(1_000);
    let state = "const button = document.querySelector('main form button'); \
                 return [button.getAttribute('aria-disabled'), button.disabled, document.activeElement === button]";
    browser.fill("Your note", "Milk");
    let pressed = browser.run(&format!(
        "const pressed = document.querySelector('main form button'); pressed.focus(); pressed.click(); {state}"
    ));
    assert_eq!(pressed, serde_json::json!(["true", false, true]));
    browser.sees("Note saved.");
    browser.slow_down(0);
    browser.back();
    assert_eq!(browser.run(state).get(0), Some(&serde_json::Value::Null), "{browser}");
    browser.fill("Your note", "Eggs");
    browser.press("Save note");
    browser.sees("Eggs");
    assert_eq!(site.count("select count(*) from notes"), 2);
    // The button's own name and value.
    browser.click("//button[.='Dark']");
    assert_eq!(browser.run("return document.documentElement.dataset.theme"), "dark", "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_form_that_the_browser_refuses_and_one_that_is_answered_by_a_file_are_not_blocked() {
    let (site, browser) = (Site::open(), Browser::open());
    let folder = tempfile::tempdir().unwrap();
    browser.set_download_folder(folder.path());
    browser.visit(&site.page("/signup"));
    browser.click("main form button:not([type=button])");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    browser.visit(&site.page("/account/export"));
    let copy = folder.path().join("ada.json");
    for _ in 1..=2 {
        browser.click("form[action='/account/export'] button");
        assert_eq!(browser.wait_for(|| copy.exists().then_some(())), Some(()), "{browser}");
        std::fs::remove_file(&copy).unwrap();
        sleep(Duration::from_millis(5_500));
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_button_waits_longer_for_an_answer_over_a_very_slow_line() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Milk");
    browser.slow_down(8_000);
    // In the page, because WebDriver waits for the next one.
    browser.run(
        "const button = document.querySelector('main form button'); button.click();
        setTimeout(() => { sessionStorage.state = button.getAttribute('aria-disabled'); button.click(); }, 5500)",
    );
    sleep(Duration::from_secs(9));
    browser.slow_down(0);
    browser.sees("Note saved.");
    assert_eq!(browser.run("return sessionStorage.state"), "true");
    assert_eq!(site.count("select count(*) from notes"), 1);
}
