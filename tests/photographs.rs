//! Photographs every page, for a designer's eye: narrow and wide, light and dark, into target/screenshots.
//! needs: account, delete_account, home, login, members, notes, signup, theme

mod webdriver;

use std::path::Path;
use webdriver::Browser;
use webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn pages_are_photographed() {
    let site = Site::open();
    let browser = Browser::open();
    let album = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    let photograph = |name: &str| {
        for width in [390, 1280] {
            for scheme in ["light", "dark"] {
                browser.screen(width);
                browser.scheme(scheme);
                browser.photograph(&album.join(format!("{name}-{width}-{scheme}.png")));
            }
        }
    };
    let visit = |path: &str, name: &str| {
        browser.visit(&site.page(path));
        photograph(name);
    };

    visit("/", "home-stranger");
    visit("/signup", "signup");
    visit("/login", "login");
    visit("/nowhere", "not-found");
    browser.visit(&site.page("/login"));
    browser.fill("Username or e-mail", "ada");
    browser.fill("Password", "not the password");
    browser.press("Log in");
    photograph("login-mistake");

    browser.visit(&site.page("/signup"));
    browser.run("document.querySelector('main form').noValidate = true");
    browser.fill("Username", "ada lovelace");
    browser.fill("E-mail (if you like)", "ada@");
    browser.fill("Password", "short");
    browser.press("Create account");
    photograph("signup-mistakes");

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
