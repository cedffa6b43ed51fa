//! In a real browser: a person signs up and logs in, and the pages help with passwords.
//! needs: account, home, login, signup

use crate::common::{NEW_PASSWORD, PASSWORD};
use crate::webdriver::site::{Site, log_in, sign_up_with};
use crate::webdriver::{BACKSPACE, Browser};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn what_was_typed_can_be_seen_and_is_sent_from_a_password_field_again() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.press("Log in");
    let kind = || browser.attribute("#password", "type").unwrap();
    let button = || browser.text(".reveal");
    assert_eq!((&*kind(), &*button()), ("password", "Show"), "{browser}");
    browser.fill("Username or e-mail", "ada");
    browser.fill("Password", PASSWORD);
    for (kind_now, button_now) in [("text", "Hide"), ("password", "Show"), ("text", "Hide")] {
        browser.click(".reveal");
        assert_eq!((&*kind(), &*button()), (kind_now, button_now), "{browser}");
        assert_eq!(browser.run("return document.querySelector('#password').value"), PASSWORD, "{browser}");
    }
    browser.run(
        "document.querySelector('main form').addEventListener('submit', event => {
            document.title = event.target.elements.password.type;
            event.preventDefault();
        }, {once: true})",
    );
    browser.click("main form > button");
    assert_eq!(browser.run("return document.title"), "password", "{browser}");
    browser.click(".reveal");
    browser.press("Log in");
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_new_password_is_advised_on_while_it_is_typed_and_never_held_back() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    let advice = |typed: &str| {
        browser.fill("Password", typed);
        browser.run("return document.querySelector('.advice').textContent").as_str().unwrap().to_string()
    };
    for (typed, said) in [
        ("hello", "3 more characters needed."),
        ("harbour", "1 more character needed."),
        ("cafe\u{301} au", "1 more character needed."),
        ("aaaaaaaaaaaa", "Repeated characters are easy to guess."),
        ("violet lan", "Long enough"),
        ("violet lantern", "Good length."),
    ] {
        assert!(advice(typed).starts_with(said), "{typed}: {}\n{browser}", advice(typed));
        browser.sees(said);
    }
    browser.keys(&BACKSPACE.repeat("violet lantern".len()));
    browser.does_not_see("Good length.");

    // The server decides.
    sign_up_with(&browser, "ada", "aaaaaaaaaaaa");
    browser.sees("Repetition hardly makes a password harder to guess.");
    assert_eq!(browser.status(), 422, "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn an_address_with_an_umlaut_is_the_one_that_was_typed_at_sign_up_and_at_log_in() {
    for (address, stored) in [("ada@münchen.de", "ada@xn--mnchen-3ya.de"), ("ada@straße.de", "ada@xn--strae-oqa.de")]
    {
        let (site, browser) = (Site::open(), Browser::open());
        browser.visit(&site.page("/signup"));
        browser.fill("E-mail (optional)", address);
        sign_up_with(&browser, "ada", "aaaaaaaaaaaa");
        browser.sees("Repetition hardly makes a password harder to guess.");
        assert_eq!(browser.run("return document.querySelector('#email').value"), address, "{browser}");
        sign_up_with(&browser, "ada", PASSWORD);
        browser.sees("Logged in: ada");
        assert_eq!(site.count(&format!("select count(*) from addresses where email = '{stored}'")), 1, "{browser}");
        site.execute("update addresses set confirmed_at = 1");
        browser.press("Log out");
        browser.press("Log in");
        log_in(&browser, address, PASSWORD);
        browser.sees("Logged in: ada");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn two_passwords_that_differ_are_pointed_out_before_the_form_is_sent_until_one_is_corrected() {
    let (site, browser) = (Site::open(), Browser::open());
    for mended in ["Password", "Repeat password"] {
        browser.visit(&site.page("/signup"));
        browser.fill("Username", "ada");
        browser.fill("Password", "violet lantern");
        browser.fill("Repeat password", "violet lanterm");
        browser.click("main form > button");
        let told = browser.run("return document.querySelector('#confirm_password').validationMessage");
        assert_eq!(told, "The two passwords differ.", "{browser}");
        browser.is_at("/signup");
        browser.fill(mended, if mended == "Password" { "violet lanterm" } else { "violet lantern" });
        browser.press("Create account");
        browser.sees("Logged in: ada");
        browser.press("Log out");
        site.execute("delete from users");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_refused_password_costs_nothing_else_that_was_typed() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup?next=%2F%3Ffrom%3Dhere"));
    browser.fill("E-mail (optional)", "ada@example.com");
    sign_up_with(&browser, "ada", "ada+latchkey");
    browser.sees("This is based on your own name or this site's name");
    for (field, value) in [("username", "ada"), ("email", "ada@example.com"), ("password", "")] {
        let found = browser.run(&format!("return document.querySelector('#{field}').value"));
        assert_eq!(found, value, "{field}\n{browser}");
    }
    assert_eq!(browser.run("return document.activeElement.name"), "password", "{browser}");
    browser.fill("Password", NEW_PASSWORD);
    browser.fill("Repeat password", NEW_PASSWORD);
    browser.press("Create account");
    browser.is_at("/?from=here");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn guesses_do_not_lock_out_a_browser_that_logged_in_before() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    let guess = |password: &str| site.post("curl/8.5.0", "/login", &[("username", "ada"), ("password", password)]);
    for _ in 0..5 {
        assert_eq!(guess("not the password"), 422);
    }
    assert_eq!(guess(PASSWORD), 429, "strangers have no attempts left");
    let visitor = Browser::open();
    for (who, sees) in [(&visitor, "Too many attempts"), (&browser, "Logged in: ada")] {
        who.visit(&site.page("/login"));
        log_in(who, "ada", PASSWORD);
        who.sees(sees);
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_name_that_is_too_long_is_not_cut_but_told_so_and_kept() {
    let (site, browser) = (Site::open(), Browser::open());
    for name in ["christopherrobertson1985", "anastasiapapadopoulou", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"] {
        browser.visit(&site.page("/signup"));
        browser.fill("Password", PASSWORD);
        browser.fill("Repeat password", PASSWORD);
        browser.paste("Username", name, 1);
        let more = name.len() - 20;
        browser.sees(&format!("{more} character{} too many.", if more == 1 { "" } else { "s" }));
        browser.inspect("signup-long");
        browser.press("Create account");
        browser.sees("A username can have at most 20 characters.");
        browser.sees("too many.");
        assert_eq!(browser.run("return document.querySelector('#username').value"), name, "{browser}");
    }
    assert_eq!(site.count("select count(*) from users"), 0);
    browser.paste("Username", "abcdefghijklmnopqr", 1);
    browser.sees("2 characters left.");
    browser.paste("Username", "ada", 1);
    browser.fill("Password", PASSWORD);
    browser.fill("Repeat password", PASSWORD);
    browser.press("Create account");
    browser.sees("Logged in: ada");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_browser_that_keeps_no_cookies_is_told_so_where_people_log_in_and_sign_up() {
    let (site, without, with) = (Site::open(), Browser::open_without_cookies(), Browser::open());
    for path in ["/login", "/signup"] {
        without.visit(&site.page(path));
        without.sees("Your browser does not accept cookies");
        without.inspect(&format!("{}-without-cookies", &path[1..]));
        with.visit(&site.page(path));
        with.does_not_see("does not accept cookies");
        assert!(!with.cookies().contains(&"try".to_string()), "{:?}", with.cookies());
    }
    without.visit(&site.page("/login"));
    log_in(&without, "ada", "not the password");
    without.sees("Your browser does not accept cookies");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_cookie_of_another_app_on_this_host_keeps_nobody_from_logging_in_and_out() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    for name in ["session_token", "login", "device", "flash"] {
        browser.visit(&site.page("/login"));
        // Browsers send a cookie of a longer path first.
        browser.run(&format!(
            "document.cookie = '{name}=stale; path=/login'; document.cookie = '{name}=stale; path=/account'"
        ));
    }
    browser.visit(&site.page("/login?next=%2Faccount"));
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/account");
    browser.press("Log out");
    browser.visit(&site.page("/account"));
    browser.is_at("/login?next=%2Faccount");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_signing_up_and_logging_in_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    for (path, name) in [("/", "home-visitor"), ("/signup", "signup"), ("/login", "login"), ("/nowhere", "not-found")] {
        browser.visit(&site.page(path));
        browser.inspect(name);
    }
    browser.visit(&site.page("/login?next=%2Faccount"));
    browser.inspect("login-next");
    browser.visit(&site.page("/login?username=byron"));
    browser.inspect("login-username");
    browser.visit(&site.page("/login"));
    log_in(&browser, "byron", "not the password");
    browser.inspect("login-mistake");
    for _ in 0..4 {
        site.post("", "/login", &[("username", "byron"), ("password", "not the password")]);
    }
    browser.fill("Password", "not the password");
    browser.press("Log in");
    browser.sees("Too many attempts");
    browser.inspect("too-many");

    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada lovelace");
    browser.fill("E-mail (optional)", "ada@");
    browser.fill("Password", "short");
    browser.press_unchecked("Create account");
    browser.inspect("signup-mistakes");
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    browser.clear("[name=email]");
    for (password, name) in [("violet", "signup-advice"), ("violet lan", "signup-advice-long")] {
        browser.fill("Password", password);
        browser.inspect(name);
    }
    browser.click(".reveal");
    browser.inspect("signup-visible");
    browser.fill("Password", "password1");
    browser.fill("Repeat password", "password1");
    browser.press("Create account");
    browser.sees("most common passwords");
    browser.inspect("signup-policy");
    browser.fill("Password", "violet");
    browser.inspect("signup-policy-advice");
    site.sign_up(&browser, "ada");
    browser.inspect("home-user");
}
