//! Photographs every page, for a designer's eye: narrow and wide, light and dark, into target/screenshots.
//! needs: account, activity, change_password, change_username, confirm, delete_account, email, home, login, mailbox, members, notes, notices, passkeys, password_reset, recovery_codes, session_list, signup, theme, two_factor

mod webdriver;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret};
use webdriver::Browser;
use webdriver::site::{PASSWORD, Site, log_in};

/// Keeps a picture under this name of the page that the browser is at.
fn photographer(browser: &Browser) -> impl Fn(&str) {
    let album = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    move |name: &str| {
        for width in [390, 1280] {
            for scheme in ["light", "dark"] {
                browser.screen(width);
                browser.scheme(scheme);
                browser.photograph(&album.join(format!("{name}-{width}-{scheme}.png")));
            }
        }
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn pages_are_photographed() {
    let site = Site::open_with(&[
        ("PORT", "0"),
        ("PASSWORD_ITERATIONS", "1"),
        ("PASSWORD_ATTEMPTS_PER_ADDRESS", "100/3m"),
    ]);
    let browser = Browser::open();
    let photograph = photographer(&browser);
    let visit = |path: &str, name: &str| {
        browser.visit(&site.page(path));
        photograph(name);
    };

    visit("/", "home-stranger");
    visit("/signup", "signup");
    visit("/login", "login");
    visit("/nowhere", "not-found");
    visit("/password-reset", "password-reset");
    browser.run("document.querySelector('main form').noValidate = true");
    browser.fill("Your e-mail address", "ada@");
    browser.press("Send the link");
    photograph("password-reset-mistake");
    browser.fill("Your e-mail address", "ada@example.com");
    browser.press("Send the link");
    browser.sees("a mail with a link is on its way");
    photograph("password-reset-flash");
    visit("/recovery", "recovery");
    browser.fill("Username", "ada");
    browser.fill("Recovery code", "abcd-efgh");
    browser.press("Use this code");
    photograph("recovery-mistake");
    browser.visit(&site.page("/login"));
    browser.fill("Username or e-mail", "byron");
    browser.fill("Password", "not the password");
    browser.press("Log in");
    photograph("login-mistake");
    for _ in 0..4 {
        site.post(PHONE, "/login", &[("username", "byron"), ("password", "not the password")]);
    }
    browser.fill("Password", "not the password");
    browser.press("Log in");
    browser.sees("Slow down a little");
    photograph("too-many");

    browser.visit(&site.page("/signup"));
    browser.run("document.querySelector('main form').noValidate = true");
    browser.fill("Username", "ada lovelace");
    browser.fill("E-mail (if you like)", "ada@");
    browser.fill("Password", "short");
    browser.press("Create account");
    photograph("signup-mistakes");
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    for (words, name) in [("violet", "signup-advice"), ("violet lan", "signup-advice-long")] {
        browser.fill("Password", words);
        photograph(name);
    }
    browser.click(".reveal");
    photograph("signup-shown");
    browser.fill("Password", "password1");
    browser.fill("Password, once more", "password1");
    browser.press("Create account");
    browser.sees("most common passwords");
    photograph("signup-policy");
    browser.fill("Password", "violet");
    photograph("signup-policy-advice");

    site.sign_up(&browser, "ada");
    photograph("home-user");

    visit("/notes", "notes-empty");
    for text in [
        "Bring the spare key to the neighbours before we leave on Friday.",
        "The engine weaves algebraic patterns just as the Jacquard loom weaves flowers and leaves. It might act upon other things besides number, were objects found whose mutual fundamental relations could be expressed by those of the abstract science of operations.\n\nSecond paragraph.",
        "https://example.com/a/very/long/address/that/does/not/break/anywhere/because/it/has/no/spaces/at/all/and/goes/on",
        "Milk, eggs, flour",
    ] {
        browser.fill("Your note", text);
        browser.press("Save note");
    }
    photograph("notes");
    browser.run("document.querySelector('main form').noValidate = true");
    browser.press("Save note");
    browser.sees("A note needs some text.");
    photograph("notes-mistake");
    browser.visit(&site.page("/notes"));
    browser.press_at(".rows li:nth-child(3) a");
    photograph("note");
    visit("/account", "account");
    ways_back(&site, &browser, &photograph);
    visit("/account", "account-with-a-way-back");
    account_pages(&site, &browser, &photograph);
    two_factor_pages(&site, &browser, &photograph);
    visit("/delete", "delete");
    browser.fill("Your password", "not the password");
    browser.press("Delete my account");
    browser.sees("This is not your password.");
    photograph("delete-mistake");

    for (id, name) in ["babbage", "grace", "wwwwwwwwwwwwwwwwwwww", "linus", "joan"].iter().enumerate() {
        let row = format!("('00000000-{id}', '{name}', {})", 1_790_000_000 - id * 3_000_000);
        site.execute(&format!("insert into users (id, username, created_at) values {row}"));
    }
    visit("/users", "members");
    visit("/me", "member");
}

const PHONE: &str =
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1";
const WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; rv:145.0) Gecko/20100101 Firefox/145.0";

/// Ada is logged in.
fn ways_back(site: &Site, browser: &Browser, photograph: &impl Fn(&str)) {
    browser.press("Make recovery codes");
    photograph("recovery-codes-none");
    browser.press("Make recovery codes");
    browser.sees("Recovery codes of ada");
    photograph("recovery-codes-new");
    browser.press("I have kept them");
    browser.press("Recovery codes");
    photograph("recovery-codes");

    site.execute(
        "insert into addresses (user_id, email, confirmed_at) select id, 'ada@example.com', 1 from users",
    );
    site.post(PHONE, "/password-reset", &[("email", "ada@example.com")]);
    browser.visit(&site.page("/dev/mailbox"));
    browser.sees("Choose a new password");
    browser.press_at(".mail .text a");
    photograph("password-choose");
    browser.fill("New password", "password1");
    browser.fill("New password, once more", "password1");
    browser.press("Set the new password");
    browser.sees("most common passwords");
    photograph("password-choose-mistake");
    browser.visit(&site.page("/password-reset/spent"));
    photograph("stale-link");
    site.execute("delete from addresses");
}

/// Ada is logged in.
fn account_pages(site: &Site, browser: &Browser, photograph: &impl Fn(&str)) {
    let visit = |path: &str, name: &str| {
        browser.visit(&site.page(path));
        photograph(name);
    };
    let (right, wrong) = ([("username", "ada"), ("password", PASSWORD)], "not the password");
    for device in [PHONE, WINDOWS] {
        site.post(device, "/login", &right);
    }
    for _ in 0..5 {
        site.post(
            "Some program of our own, which tells a long story about itself",
            "/login",
            &[("username", "ada"), ("password", wrong)],
        );
    }
    for table in ["sessions", "events"] {
        site.execute(&format!("update {table} set address = '192.0.2.7' where device like '%iPhone%'"));
        let address = "2001:db8:1234:5678:9abc:def0:1234:5678";
        site.execute(&format!("update {table} set address = '{address}' where device like '%Windows%'"));
    }
    site.execute("update sessions set created_at = created_at - 1000000 where device like '%iPhone%'");

    visit("/account/activity", "activity");
    visit("/account/sessions", "sessions");
    browser.press_at("//li[contains(., 'Safari on iPhone')]//button");
    browser.sees("That session was ended.");
    photograph("sessions-flash");
    email_pages(site, browser, photograph);
    visit("/account/username", "username");
    browser.fill("New username", "admin");
    browser.press("Change username");
    browser.sees("kept for the people");
    photograph("username-mistake");
    visit("/account/password", "password");
    for (current, new) in
        [(wrong, "quiet harbour lamp"), (PASSWORD, "Pa55word1234"), (PASSWORD, "quiet harbour lamp")]
    {
        browser.fill("Current password", current);
        browser.fill("New password", new);
        browser.fill("New password, once more", new);
        browser.press("Change password");
        photograph(if current == wrong {
            "password-mistake"
        } else if new.starts_with('P') {
            "password-policy"
        } else {
            "password-flash"
        });
    }
    site.age_log_ins();
    visit("/account/password", "confirm");
    browser.fill("Your password", wrong);
    browser.press("Go on");
    browser.sees("This is not your password.");
    photograph("confirm-mistake");
}

/// Ada is logged in, and has no second factor when it ends either.
fn two_factor_pages(site: &Site, browser: &Browser, photograph: &impl Fn(&str)) {
    let visit = |path: &str, name: &str| {
        browser.visit(&site.page(path));
        photograph(name);
    };
    let refused = |name: &str| {
        browser.fill("Code", "000000");
        browser.press_at("main form > button");
        browser.sees("This code is wrong");
        photograph(name);
    };
    browser.visit(&site.page("/account/two-factor"));
    browser.fill("Your password", "quiet harbour lamp");
    browser.press("Go on");
    photograph("two-factor-off");
    browser.press("Set it up");
    photograph("two-factor-set-up");
    refused("two-factor-set-up-mistake");
    let key = browser.text("#totp-key").replace(' ', "");
    let phone = Builder::new().with_secret(Secret::try_from_base32(key).unwrap()).build().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    browser.fill("Code", &phone.generate(now).to_string());
    browser.press("Turn on");
    photograph("two-factor-codes");
    let codes = browser.text(".codes");
    visit("/account/two-factor", "two-factor-on");
    refused("two-factor-on-mistake");
    visit("/confirm", "two-factor-confirm");
    visit("/delete", "two-factor-delete");

    site.execute("delete from limits");
    let stranger = Browser::open();
    let photograph_stranger = photographer(&stranger);
    stranger.visit(&site.page("/login"));
    log_in(&stranger, "ada", "quiet harbour lamp");
    stranger.sees("One more step");
    photograph_stranger("two-factor-log-in");
    stranger.fill("Code", "000000");
    stranger.press("Log in");
    photograph_stranger("two-factor-log-in-mistake");
    stranger.click("summary");
    stranger.fill("Recovery code", "abcd-efgh");
    stranger.press("Log in with it");
    photograph_stranger("two-factor-recovery-mistake");

    browser.visit(&site.page("/account/two-factor"));
    browser.fill("Code", codes.lines().next().unwrap());
    browser.press("Turn off");
    photograph("two-factor-flash");
}

/// Ada is logged in, and has no address.
fn email_pages(site: &Site, browser: &Browser, photograph: &impl Fn(&str)) {
    let give = |label: &str, address: &str| {
        browser.visit(&site.page("/account/email"));
        browser.fill(label, address);
        browser.press("Send the link");
        browser.sees("is on its way");
    };
    let follow = || {
        browser.visit(&site.page("/dev/mailbox"));
        browser.press_at("//a[contains(., '/email/')]");
        browser.sees("Is this your address?");
    };
    browser.visit(&site.page("/account/email"));
    photograph("email");
    give("Your address", "ada@example.com");
    photograph("email-pending");
    follow();
    photograph("email-link");
    let link = browser.path();
    browser.press("Yes, confirm it");
    browser.sees("Your address is confirmed.");
    photograph("email-confirmed");
    browser.visit(&site.page(&link));
    browser.sees("does not work any more");
    photograph("link-stale");
    give("Another address", "lovelace.the.countess@analytical-engines.example");
    browser.visit(&site.page("/account/email"));
    photograph("email-both");
    browser.visit(&site.page("/dev/mailbox"));
    browser.run("document.querySelectorAll('details').forEach(mail => mail.open = true)");
    photograph("mailbox");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn letters_are_photographed() {
    let site = Site::open();
    let browser = Browser::open();
    let photograph = photographer(&browser);
    site.sign_up(&browser, "ada");
    site.execute(
        "insert into addresses (user_id, email, confirmed_at) select id, 'ada@example.com', 1 from users",
    );
    site.post(PHONE, "/login", &[("username", "ada"), ("password", PASSWORD)]);
    for _ in 0..5 {
        site.post(WINDOWS, "/login", &[("username", "ada"), ("password", "not the password")]);
    }
    site.post(PHONE, "/password-reset", &[("email", "ada@example.com")]);
    browser.visit(&site.page("/account/email"));
    browser.fill("Another address", "lovelace.the.countess@analytical-engines.example");
    browser.press("Send the link");

    let mailbox = site.page("/dev/mailbox");
    let letters = [
        ("Somebody logged in with a new browser", "letter-new-browser"),
        ("Too many wrong passwords", "letter-throttled"),
        ("Choose a new password for Latchkey", "letter-reset"),
        ("Please confirm your address", "letter-confirm"),
    ];
    for (subject, name) in letters {
        browser.visit(&mailbox);
        let frame = format!("//article[h2 = '{subject}']//iframe");
        let letter = browser.attribute(&frame, "srcdoc").expect("it has an HTML part");
        let letter = utf8_percent_encode(&letter, NON_ALPHANUMERIC);
        browser.visit(&format!("data:text/html;charset=utf-8,{letter}"));
        photograph(name);
    }
    browser.visit(&mailbox);
    photograph("mailbox-closed");
    browser.run("document.querySelectorAll('details').forEach(mail => mail.open = true)");
    photograph("mailbox-open");
    browser.press_at("//a[contains(., '/undo/')]");
    browser.sees("Was it not you?");
    photograph("undo");
    site.execute("delete from events");
    browser.reload();
    photograph("undo-forgotten");
    browser.press("Take the account back");
    browser.sees("It is undone");
    photograph("undo-flash");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn passkeys_are_photographed() {
    let site = Site::open_with(&[("PORT", "0"), ("PASSWORD_ITERATIONS", "1"), ("REQUIRE_TWO_FACTOR", "all")]);
    let browser = Browser::open();
    let photograph = photographer(&browser);
    let authenticator = browser.add_authenticator();
    browser.no_autofill();
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    browser.press("Sign up with a passkey instead");
    browser.visit(&site.page("/account/passkeys"));
    photograph("passkeys");
    browser.press("Remove");
    browser.sees("You could not log in without this one.");
    photograph("passkeys-last");
    browser.remove_authenticator(&authenticator);
    let phone = browser.add_authenticator();
    browser.press("Add a passkey");
    browser.sees("The passkey is ready.");
    browser.click("//li[2]//summary");
    browser.run("document.querySelectorAll('details form').forEach(form => form.noValidate = true)");
    browser.clear("//li[2]//input");
    browser.press_at("//li[2]//button[.='Save name']");
    browser.sees("A passkey needs a name.");
    photograph("passkeys-mistake");
    site.age_log_ins();
    browser.visit(&site.page("/account/passkeys"));
    photograph("passkeys-confirm");
    browser.visit(&site.page("/delete"));
    photograph("passkeys-delete");
    browser.press("Log out");
    browser.set_verified(&phone, false);
    browser.visit(&site.page("/login"));
    browser.click("//button[.='Log in with a passkey']");
    browser.sees("No passkey was used.");
    photograph("passkeys-cancelled");

    browser.visit(&site.page("/signup"));
    browser.fill("Username", "bob");
    browser.fill("Password", PASSWORD);
    browser.fill("Password, once more", PASSWORD);
    browser.press("Create account");
    browser.visit(&site.page("/account"));
    browser.is_at("/account/passkeys");
    browser.sees("Your passkeys will appear here.");
    photograph("passkeys-empty");
    browser.set_verified(&phone, true);
    browser.press("Add a passkey");
    browser.sees("The passkey is ready.");
    browser.press("Log out");
    browser.visit(&site.page("/login?next=%2Fnotes"));
    log_in(&browser, "bob", PASSWORD);
    browser.is_at("/login/passkey");
    photograph("passkeys-ask");
}
