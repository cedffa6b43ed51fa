//! In a real browser, with the development mailbox: people come back into their account by mail, and a thief who has
//! stolen a session does not keep it.
//! needs: account, email, home, login, mailbox, notices, password_reset, signup

use crate::common::{NEW_PASSWORD, PASSWORD};
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};

const ADDRESS: &str = "ada@example.com";

/// The newest mail in the mailbox to this address with a link to this path.
fn mail(address: &str, path: &str) -> String {
    format!("//details[@class = 'mail' and contains(., 'To {address},') and .//a[contains(@href, '{path}')]]")
}

/// Opens the mailbox, and in it the link to this path from the newest mail to this address.
#[track_caller]
fn follow_link(site: &Site, browser: &Browser, address: &str, path: &str) {
    browser.visit(&site.page("/dev/mailbox"));
    let mail = mail(address, path);
    if browser.attribute(&mail, "open").is_none() {
        browser.click(&format!("{mail}/summary"));
    }
    browser.press_at(&format!("{mail}//a[contains(@href, '{path}')]"));
}

/// Signs up, and gives an address that is not confirmed yet.
#[track_caller]
fn add_address(site: &Site, browser: &Browser) {
    site.sign_up(browser, "ada");
    browser.press("ada");
    browser.press("E-mail address");
    browser.fill("E-mail address", ADDRESS);
    browser.press("Send the link");
    browser.sees("We have mailed you a link.");
    browser.sees(ADDRESS);
}

#[track_caller]
fn confirm(site: &Site, browser: &Browser, address: &str) {
    follow_link(site, browser, address, "/email/");
    browser.sees("Is this your address?");
    browser.press("Yes, confirm it");
    browser.sees("Your e-mail address is confirmed.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_button_in_a_mail_leads_where_its_text_does() {
    let (site, browser) = (Site::open(), Browser::open());
    add_address(&site, &browser);
    browser.console_messages();
    browser.press("mailbox");
    let mail = mail(ADDRESS, "/email/");
    let link = browser.attribute(&format!("{mail}//a"), "href").unwrap();
    browser.click(&format!("{mail}/details/summary"));
    browser.enter_frame(&format!("{mail}//iframe"));
    browser.press("Confirm this address");
    browser.leave_frames();
    assert_eq!(site.page(&browser.path()), link, "{browser}");
    browser.sees("Is this your address?");
    let complaints = browser.console_messages();
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.press("This is not mine");
    browser.sees("Your e-mail address was removed from that account.");
    browser.visit(&site.page("/account/email"));
    browser.does_not_see(ADDRESS);
}

/// Chooses a new password by the link that was mailed.
#[track_caller]
fn choose_password(site: &Site, browser: &Browser) {
    follow_link(site, browser, ADDRESS, "/password-reset/");
    browser.fill("New password", NEW_PASSWORD);
    browser.fill("Repeat new password", NEW_PASSWORD);
    browser.press("Set new password");
    browser.is_at("/login?username=ada");
    browser.sees("Your new password is set.");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn people_who_forget_a_password_come_back_by_their_address_also_without_scripts() {
    for arguments in [&[][..], &["--blink-settings=scriptEnabled=false"]] {
        let (site, browser) = (Site::open(), Browser::open_with(arguments));
        add_address(&site, &browser);
        confirm(&site, &browser, ADDRESS);
        browser.visit(&site.url());
        browser.press("Log out");
        browser.press("Log in");
        browser.press("Forgot your password?");
        browser.fill("Your e-mail address", ADDRESS);
        browser.press("Send the link");
        browser.sees("If ada@example.com is the confirmed address of an account, a link");
        browser.press("Send it again");
        browser.sees("Check your mail");
        choose_password(&site, &browser);
        log_in(&browser, ADDRESS, PASSWORD);
        browser.sees("Wrong username or password.");
        log_in(&browser, ADDRESS, NEW_PASSWORD);
        browser.sees("Logged in: ada");
        // The used link does not work again.
        follow_link(&site, &browser, ADDRESS, "/password-reset/");
        browser.sees("This link no longer works");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_thief_of_a_session_who_changes_the_address_twice_loses_the_account_to_the_first_owner() {
    let (site, owner, thief) = (Site::open(), Browser::open(), Browser::open());
    add_address(&site, &owner);
    confirm(&site, &owner, ADDRESS);
    thief.visit(&site.url());
    thief.steal_cookie(&owner, "session_token");
    for address in ["eve1@evil.example", "eve2@evil.example"] {
        thief.visit(&site.page("/account/email"));
        thief.fill("New e-mail address", address);
        thief.press("Send the link");
        confirm(&site, &thief, address);
    }

    // Of the two mails about a changed address, the first went to the owner and the second to the thief.
    follow_link(&site, &owner, ADDRESS, "/undo/");
    owner.sees("Your e-mail address was changed.");
    owner.press("Take your account back");
    owner.is_at("/login");
    owner.sees("We have mailed you a link to set a new password.");
    thief.visit(&site.page("/account"));
    thief.is_at("/login?next=%2Faccount");
    choose_password(&site, &owner);
    log_in(&owner, ADDRESS, NEW_PASSWORD);
    owner.sees("Logged in: ada");
    owner.visit(&site.page("/account/email"));
    owner.sees(ADDRESS);
    owner.does_not_see("evil.example");

    follow_link(&site, &thief, "eve1@evil.example", "/undo/");
    thief.sees("This link no longer works");
    thief.visit(&site.page("/login"));
    for (name, password) in [("eve2@evil.example", PASSWORD), ("ada", PASSWORD)] {
        log_in(&thief, name, password);
        thief.sees("Wrong username or password.");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_addresses_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    let add = |label: &str, address: &str| {
        browser.visit(&site.page("/account/email"));
        browser.fill(label, address);
        browser.press("Send the link");
        browser.sees("We have mailed you a link");
    };
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/email"));
    browser.inspect("email");
    add("E-mail address", ADDRESS);
    browser.inspect("email-pending");
    follow_link(&site, &browser, ADDRESS, "/email/");
    browser.sees("Is this your address?");
    browser.inspect("email-link");
    let link = browser.path();
    browser.press("Yes, confirm it");
    browser.sees("Your e-mail address is confirmed.");
    browser.inspect("email-confirmed");
    browser.visit(&site.page(&link));
    browser.sees("no longer works");
    browser.inspect("link-stale");
    add("New e-mail address", "lovelace.the.countess@analytical-engines.example");
    browser.visit(&site.page("/account/email"));
    browser.inspect("email-both");
    browser.press("Remove");
    browser.inspect("email-remove");
    browser.press("Keep it");
    browser.visit(&site.page("/dev/mailbox"));
    browser.inspect("mailbox");
}
