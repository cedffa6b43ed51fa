//! Shows in a real browser that people can use the site, and that other sites cannot use it in their name.
//! needs: account, change_username, delete_account, home, login, notes, session_list, signup, theme

mod webdriver;

use webdriver::Browser;
use webdriver::site::{PASSWORD, Site, elsewhere, free_port, log_in};

fn write_note(browser: &Browser, site: &Site, text: &str) {
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", text);
    browser.press("Save note");
    browser.sees(text);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_person_without_scripts_uses_all_of_the_site() {
    let site = Site::open();
    let browser = Browser::open_with(&["--blink-settings=scriptEnabled=false"]);
    browser.visit("data:text/html,<noscript>no scripts</noscript><script>document.write('scripts')</script>");
    browser.sees("no scripts");

    browser.visit(&site.url);
    browser.press("Sign up");
    browser.is_at("/signup");
    browser.fill("Username", "Ada");
    browser.fill("Password", PASSWORD);
    browser.fill("Password, once more", PASSWORD);
    browser.press("Create account");
    browser.is_at("/");
    browser.sees("Logged in: ada");

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
    browser.is_at("/");
    browser.sees_no("Logged in");
    browser.visit(&site.page("/notes"));
    browser.is_at("/login?next=%2Fnotes");
    log_in(&browser, "ada", "correct horse");
    browser.is_at("/login");
    browser.sees("This username and password do not belong together.");
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/notes");

    browser.scheme("light");
    let light = browser.style("body", "background-color");
    browser.press("Dark");
    browser.is_at("/notes");
    assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("dark"), "{browser}");
    assert_ne!(browser.style("body", "background-color"), light, "{browser}");

    browser.press("Account");
    browser.press("Delete account");
    browser.fill("Your password", PASSWORD);
    browser.press("Delete my account");
    browser.is_at("/");
    browser.press("Log in");
    log_in(&browser, "ada", PASSWORD);
    browser.sees("This username and password do not belong together.");
    assert_eq!(site.count("select count(*) from users"), 0);
}

/// Forms that other people put on their own page, all aimed at ours. A page opened at `#NAME` posts that form by itself.
fn forms_to(site: &Site, head: &str) -> String {
    let form = |(path, fields): (&str, &[(&str, &str)])| {
        let input = |(name, value): &(&str, &str)| format!("<input type=hidden name={name} value='{value}'>");
        let inputs: String = fields.iter().map(input).collect();
        let name = path[1..].replace('/', "-");
        format!(
            "<form name={name} method=post action='{}'>{inputs}<button id={name} formtarget=_blank></button></form>",
            site.page(path)
        )
    };
    let forms = TARGETS.map(form).concat();
    let script = "<script>if (location.hash) document.forms[location.hash.slice(1)].submit()</script>";
    format!("<!doctype html>{head}{forms}{script}")
}

const TARGETS: [(&str, &[(&str, &str)]); 6] = [
    ("/logout", &[]),
    ("/notes", &[("text", "written by somebody else")]),
    ("/login", &[("username", "mallory"), ("password", PASSWORD)]),
    ("/delete", &[("password", PASSWORD)]),
    ("/theme", &[("theme", "dark")]),
    ("/account/username", &[("username", "mallorysdupe")]),
];

/// Ada is logged in. Whatever the page at this host posts in her browser is refused, and leaves everything as it was.
fn forms_from_are_refused(host: &str, browser: &Browser, site: &Site) {
    site.sign_up(browser, "mallory");
    browser.press("Log out");
    site.sign_up(browser, "ada");
    let refused = |how: &str| {
        browser.sees("That came from elsewhere");
        assert_eq!(browser.status(), 403, "{how}\n{browser}");
    };
    let as_before = |how: &str| {
        browser.visit(&site.url);
        browser.sees("Logged in: ada");
        assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("system"), "{how}\n{browser}");
        assert_eq!(site.count("select count(*) from users"), 2, "{how}");
        assert_eq!(site.count("select count(*) from notes"), 0, "{how}");
    };
    // With the second head the browser hides where the form stood: its `Origin` is `null`.
    for head in ["", "<meta name=referrer content=no-referrer>"] {
        let page = format!("http://{host}:{}/", elsewhere(forms_to(site, head)));
        for (path, _) in TARGETS {
            let name = path[1..].replace('/', "-");
            let how = format!("{head} {page} posts to {path}");
            browser.visit(&format!("{page}#{name}"));
            refused(&how);
            as_before(&how);
            browser.visit(&page);
            browser.click(&format!("#{name}"));
            browser.newest_window();
            refused(&how);
            browser.close_window();
            as_before(&how);
        }
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn forms_on_another_site_are_refused_and_change_nothing() {
    forms_from_are_refused("127.0.0.1", &Browser::open(), &Site::open());
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn forms_on_another_port_of_the_same_host_are_refused_and_change_nothing() {
    forms_from_are_refused("localhost", &Browser::open(), &Site::open());
}

/// Over plain http to a name, browsers send no `Sec-Fetch-Site`: here `Origin` decides alone.
#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn forms_on_a_sibling_subdomain_are_refused_and_change_nothing() {
    let port = free_port().to_string();
    let site = Site::open_with(&[
        ("PORT", &port),
        ("BASE_URL", &format!("http://app.example.test:{port}")),
        ("INSECURE_HTTP", "yes"),
        ("TRUSTED_PROXIES", "none"),
        ("SMTP_URL", "none"),
        ("SECRET_KEY", "a key for tests alone with 32 bytes or more"),
    ]);
    let browser = Browser::open_with(&["--host-resolver-rules=MAP *.example.test 127.0.0.1"]);
    forms_from_are_refused("evil.example.test", &browser, &site);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_form_that_has_been_open_for_three_days_still_works() {
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

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn opening_an_address_changes_nothing() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    write_note(&browser, &site, "Milk, eggs");
    browser.press("Milk, eggs");
    let note = browser.path();
    for (address, status) in [
        ("/logout", 405),
        ("/theme?theme=dark", 405),
        ("/notes?text=More", 200),
        (&*format!("{note}?text=Less"), 200),
        (&*format!("{note}/delete"), 405),
        (&*format!("/delete?password={}", PASSWORD.replace(' ', "+")), 200),
        ("/account/username?username=mallory", 200),
        ("/account/sessions/revoke-others", 405),
        ("/signup?username=mallory", 303),
        ("/login?username=mallory", 303),
    ] {
        browser.visit(&site.page(address));
        if status == 303 {
            browser.is_at("/");
        } else {
            assert_eq!(browser.status(), status, "{browser}");
        }
        browser.visit(&site.page("/notes"));
        assert_eq!(browser.text(".rows li a"), "Milk, eggs", "after {address}\n{browser}");
        assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("system"), "after {address}");
        assert_eq!(site.count("select count(*) from notes"), 1, "after {address}");
        assert_eq!(site.count("select count(*) from sessions"), 1, "after {address}");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn after_log_out_the_back_button_shows_nothing_private() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    write_note(&browser, &site, "Where the key is");
    browser.press("Where the key is");
    let note = browser.path();
    browser.press("Log out");
    browser.is_at("/");
    // What is left only shows, at the next log-in, that it is no stranger's browser.
    assert_eq!(browser.cookies(), ["device"], "{browser}");
    for page in [&*note, "/notes"] {
        browser.back();
        browser.is_at(&format!("/login?next={}", page.replace('/', "%2F")));
        browser.sees_no("Where the key is");
        browser.sees_no("Log out");
    }
}
