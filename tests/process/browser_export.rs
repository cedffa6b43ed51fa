//! In a real browser: a person downloads all of their data.
//! needs: account, confirm, export, home, login, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::Site;
use std::path::Path;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn people_who_export_their_data_get_the_file_and_not_the_page_that_asks_for_the_password() {
    let (site, browser) = (Site::open(), Browser::open());
    let folder = tempfile::tempdir().unwrap();
    browser.set_download_folder(folder.path());
    site.sign_up(&browser, "ada");
    site.age_log_ins();
    browser.press("ada");
    browser.press("Export");
    browser.inspect("export");
    browser.press("Download my data");
    browser.is_at("/confirm?next=%2Faccount%2Fexport");
    browser.fill("Your password", PASSWORD);
    browser.press_at("main form > button");
    browser.is_at("/account/export");
    browser.click("//button[.='Download my data']");
    let text = browser.wait_for(|| read_whole(&folder.path().join("ada.json")));
    let text = text.unwrap_or_else(|| panic!("no file came\n{browser}"));
    assert!(text.contains("\"username\": \"ada\""), "{text}");
}

/// A file that has all of its JSON.
fn read_whole(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.ends_with('}'))
}
