//! Shows in a real browser, by way of the development mailbox, that people find the way back into their account, and that
//! whoever has stolen a session does not keep it.
//! needs: account, email, home, login, mailbox, notes, password_reset, signup

mod webdriver;

use webdriver::Browser;
use webdriver::site::{PASSWORD, Site, log_in};

const NEW: &str = "quiet harbour lamp";

const ADDRESS: &str = "ada@example.com";

/// Where the newest mail to this address with a link to this path stands in the mailbox.
fn mail(address: &str, path: &str) -> String {
    format!("//article[contains(., 'To {address},') and .//a[contains(@href, '{path}')]]")
}

/// Opens the mailbox, and in it the link to this path from the newest mail to this address.
#[track_caller]
fn follow_link(site: &Site, browser: &Browser, address: &str, path: &str) {
    browser.visit(&site.page("/dev/mailbox"));
    browser.press_at(&format!("{}//a[contains(@href, '{path}')]", mail(address, path)));
}

/// Signs up, and gives an address that is not confirmed yet.
#[track_caller]
fn give_address(site: &Site, browser: &Browser) {
    site.sign_up(browser, "ada");
    browser.press("Account");
    browser.press("E-mail address");
    browser.fill("Your address", ADDRESS);
    browser.press("Send the link");
    browser.sees("A mail with a link is on its way to this address.");
    browser.sees("waits to be confirmed");
}

#[track_caller]
fn confirm(site: &Site, browser: &Browser, address: &str) {
    follow_link(site, browser, address, "/email/");
    browser.sees("Is this your address?");
    browser.press("Yes, confirm it");
    browser.sees("Your address is confirmed.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_button_in_a_mail_leads_where_its_text_does() {
    let (site, browser) = (Site::open(), Browser::open());
    give_address(&site, &browser);
    browser.complaints();
    browser.press("mailbox");
    let mail = mail(ADDRESS, "/email/");
    let link = browser.attribute(&format!("{mail}//a"), "href").unwrap();
    browser.click(&format!("{mail}//summary"));
    browser.enter_frame(&format!("{mail}//iframe"));
    browser.press("Confirm this address");
    browser.leave_frames();
    assert_eq!(site.page(&browser.path()), link, "{browser}");
    browser.sees("Is this your address?");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.press("This is not mine");
    browser.sees("The address was taken off that account.");
    browser.visit(&site.page("/account/email"));
    browser.sees_no(ADDRESS);
}
