//! In a real browser: a person writes notes, which nobody else can read, and other sites cannot write any.
//! needs: home, login, notes, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};

#[track_caller]
fn write_note(browser: &Browser, site: &Site, text: &str) {
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", text);
    browser.press("Save note");
    browser.sees(text);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_without_scripts_writes_changes_and_deletes_a_note() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    site.sign_up(&browser, "ada");
    browser.press("Write a note");
    browser.sees("Only you can read them.");
    browser.fill("Your note", "Milk, eggs");
    browser.press("Save note");
    browser.press("Milk, eggs");
    browser.fill("Your note", "Milk, eggs, flour");
    browser.press("Save note");
    browser.press("All notes");
    browser.press("Milk, eggs, flour");
    browser.press("Delete note");
    browser.is_at("/notes");
    browser.sees("Only you can read them.");

    browser.press("Log out");
    browser.visit(&site.page("/notes"));
    browser.is_at("/login?next=%2Fnotes");
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/notes");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_begun_three_days_ago_can_still_be_saved() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Begun on Monday");
    site.execute("update sessions set created_at = created_at - 259200, seen_at = seen_at - 259200");
    browser.press("Save note");
    browser.is_at("/notes");
    browser.sees("Begun on Monday");
    assert_eq!(site.count("select count(*) from notes"), 1);
}

/// How many UTF-16 units stand in the field.
fn typed(browser: &Browser) -> u64 {
    browser.run("return document.querySelector('#text').value.length").as_u64().unwrap()
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_that_is_too_long_is_not_cut_and_the_page_counts_as_the_server_does() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.paste("Your note", "🗝", 8_999);
    browser.does_not_see("characters left");
    for (text, times, said) in [
        ("🗝", 9_000, "1,000 characters left."),
        ("e\u{301}", 4_999, "2 characters left."),
        ("nineteen characters\n", 500, "0 characters left."),
        ("🗝", 10_001, "1 character too many."),
        ("👩‍🚀", 4_000, "2,000 characters too many."),
    ] {
        browser.paste("Your note", text, times);
        browser.sees(said);
        let described =
            browser.run("return document.querySelector('#text').ariaDescribedByElements.at(-1).textContent");
        assert_eq!(described, said, "{browser}");
    }
    browser.inspect("note-too-long");
    for (text, times, units) in [("🗝", 10_001, 20_002), ("a", 10_001, 10_001), ("\u{4e00}", 15_000, 15_000)] {
        browser.paste("Your note", text, times);
        browser.press("Save note");
        browser.sees("A note can have at most 10,000 characters.");
        browser.sees("too many.");
        assert_eq!(typed(&browser), units, "{browser}");
    }
    browser.paste("Your note", "nineteen characters\n", 500);
    browser.press("Save note");
    browser.paste("Your note", "🗝", 10_000);
    browser.press("Save note");
    assert_eq!(site.count("select count(*) from notes where length(text) = 10000"), 2);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_a_note_that_is_too_long_is_refused_and_comes_back_whole() {
    let (site, browser) = (Site::open(), Browser::open_with(&["--blink-settings=scriptEnabled=false"]));
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    let long = "a".repeat(10_001);
    browser.paste("Your note", &long, 1);
    browser.does_not_see("too many");
    browser.press("Save note");
    browser.sees("A note can have at most 10,000 characters.");
    assert_eq!(browser.text("#text"), long);
    browser.paste("Your note", &long[1..], 1);
    browser.press("Save note");
    browser.sees("Note saved.");
    assert_eq!(site.count("select count(*) from notes where length(text) = 10000"), 1);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_that_is_too_large_to_be_sent_stays_where_it_was_typed() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    for times in [70_000, 200_000] {
        browser.visit(&site.page("/notes"));
        browser.paste("Your note", "a", times);
        browser.click("//button[.='Save note']");
        browser.sees("too many.");
        let told = browser.run("return document.querySelector('#text').validationMessage");
        assert!(told.as_str().unwrap().ends_with("characters too many."), "{told}");
        browser.is_at("/notes");
        assert_eq!(typed(&browser), times as u64);
        // Without scripts it is sent, and refused with a page, from which one can go back.
        browser.press_unchecked("Save note");
        browser.sees("That is too large");
        browser.back();
        browser.sees("too many.");
        assert_eq!(typed(&browser), times as u64);
    }
    browser.paste("Your note", "short again", 1);
    browser.press("Save note");
    browser.sees("short again");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_begun_by_one_person_is_not_saved_for_another_who_has_logged_in_in_a_second_tab() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "What Ada thinks of Bob");
    site.sign_up_in_another_tab(&browser, "bob");
    browser.press("Save note");
    browser.sees("ada opened this form, and bob has logged in");
    assert_eq!(browser.status(), 409, "{browser}");
    assert_eq!(site.count("select count(*) from notes"), 0);
    browser.inspect("form-owner");
    browser.press("Open the page as bob");
    browser.is_at("/notes");
    write_note(&browser, &site, "What Bob thinks");
    assert_eq!(site.count("select count(*) from notes"), 1);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn opening_an_address_changes_no_note() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    write_note(&browser, &site, "Milk, eggs");
    browser.press("Milk, eggs");
    let note = browser.path();
    for (address, status) in
        [("/notes?text=More", 200), (&*format!("{note}?text=Less"), 200), (&*format!("{note}/delete"), 405)]
    {
        browser.visit(&site.page(address));
        assert_eq!(browser.status(), status, "{browser}");
        browser.visit(&site.page("/notes"));
        assert_eq!(browser.text(".rows li a"), "Milk, eggs", "after {address}\n{browser}");
        assert_eq!(site.count("select count(*) from notes"), 1, "after {address}");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn after_log_out_the_back_button_shows_no_note() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    write_note(&browser, &site, "Where the key is");
    browser.press("Where the key is");
    let note = browser.path();
    browser.press("Log out");
    browser.is_at("/");
    for page in [&*note, "/notes"] {
        browser.back();
        browser.is_at(&format!("/login?next={}", page.replace('/', "%2F")));
        browser.does_not_see("Where the key is");
        browser.does_not_see("Log out");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_notes_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.inspect("notes-empty");
    for text in [
        "Bring the spare key to the neighbours before we leave on Friday.",
        "The engine weaves algebraic patterns just as the Jacquard loom weaves flowers and leaves. It might act upon other things besides number, were objects found whose mutual fundamental relations could be expressed by those of the abstract science of operations.\n\nSecond paragraph.",
        "https://example.com/a/very/long/address/that/does/not/break/anywhere/because/it/has/no/spaces/at/all/and/goes/on",
        "Milk, eggs, flour",
    ] {
        browser.fill("Your note", text);
        browser.press("Save note");
    }
    browser.inspect("notes");
    browser.press_unchecked("Save note");
    browser.sees("A note needs some text.");
    browser.inspect("notes-mistake");
    browser.visit(&site.page("/notes"));
    browser.press_at(".rows li:nth-child(3) a");
    browser.inspect("note");
    browser.press("Delete note");
    browser.sees("Undo");
    browser.inspect("notes-deleted");
}
