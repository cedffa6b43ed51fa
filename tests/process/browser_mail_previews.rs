//! Mails as a mail program shows them, and the pages that show them, are photographed into target/screenshots.
//! needs: email, home, login, mailbox, notices, password_reset, signup

use crate::common::{PASSWORD, wait_until};
use crate::webdriver::site::Site;
use crate::webdriver::{Browser, PHONE, WINDOWS};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn mails_are_photographed() {
    let site = Site::open();
    let browser = Browser::open();
    site.sign_up(&browser, "ada");
    site.execute("insert into addresses (user_id, email, confirmed_at) select id, 'ada@example.com', 1 from users");
    site.post(PHONE, "/login", &[("username", "ada"), ("password", PASSWORD)]);
    for _ in 0..5 {
        site.post(WINDOWS, "/login", &[("username", "ada"), ("password", "not the password")]);
    }
    site.post(PHONE, "/password-reset", &[("email", "ada@example.com")]);
    browser.visit(&site.page("/account/email"));
    browser.fill("New e-mail address", "lovelace.the.countess@analytical-engines.example");
    browser.press("Send the link");

    let mailbox = site.page("/dev/mailbox");
    let mails = [
        ("Someone logged in with a new browser", "mail-new-browser"),
        ("Too many wrong passwords", "mail-too-many"),
        ("Choose a new password for Latchkey", "mail-reset"),
        ("Confirm your e-mail address", "mail-confirm"),
    ];
    for (subject, name) in mails {
        // A notice of wrong passwords waits until none of them can turn out to be right.
        let is_there = || {
            browser.visit(&mailbox);
            browser.text("main").contains(subject)
        };
        assert!(wait_until(20, is_there), "there is no mail {subject:?}");
        let frame = format!("//details[summary/h2 = '{subject}']//iframe");
        let mail = browser.attribute(&frame, "srcdoc").expect("it has an HTML part");
        let mail = utf8_percent_encode(&mail, NON_ALPHANUMERIC);
        browser.visit(&format!("data:text/html;charset=utf-8,{mail}"));
        browser.screenshots(name);
    }
    browser.visit(&mailbox);
    browser.screenshots("mailbox-closed");
    browser.run("document.querySelectorAll('details').forEach(mail => mail.open = true)");
    browser.screenshots("mailbox-open");
    browser.press_at("//a[contains(., '/undo/')]");
    browser.sees("If this wasn't you, take your account back");
    browser.screenshots("undo");
    site.execute("delete from events");
    browser.reload();
    browser.screenshots("undo-forgotten");
    browser.press("Take your account back");
    browser.sees("Your account is yours again");
    browser.screenshots("undo-flash");
}
