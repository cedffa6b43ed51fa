//! In a real browser: other sites cannot use this one in the name of a person who is logged in.
//! needs: home, login, signup

use crate::common::{PASSWORD, free_port, routes};
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, has_route, serve_page};

/// A page with forms that post to the site. Opened at `#NAME`, it posts that form by itself.
fn forms_to(targets: &[Target], site: &Site, head: &str) -> String {
    let form = |(path, fields): &Target| {
        let input = |(name, value): &(&str, &str)| format!("<input type=hidden name={name} value='{value}'>");
        let inputs: String = fields.iter().map(input).collect();
        let name = path[1..].replace('/', "-");
        format!(
            "<form name={name} method=post action='{}'>{inputs}<button id={name} formtarget=_blank></button></form>",
            site.page(path)
        )
    };
    let forms: String = targets.iter().map(form).collect();
    let script = "<script>if (location.hash) document.forms[location.hash.slice(1)].submit()</script>";
    format!("<!doctype html>{head}{forms}{script}")
}

type Target = (&'static str, &'static [(&'static str, &'static str)]);

/// The paths that the forms post to, with their fields. Only those whose feature has not been removed.
fn targets() -> Vec<Target> {
    let all: [Target; 7] = [
        ("/login", &[("username", "mallory"), ("password", PASSWORD)]),
        ("/logout", &[]),
        ("/signup", &[("username", "eve"), ("password", PASSWORD), ("confirm_password", PASSWORD)]),
        ("/account/username", &[("username", "mallorysdupe")]),
        ("/delete", &[("password", PASSWORD)]),
        ("/notes", &[("text", "written by another person")]),
        ("/theme", &[("theme", "dark")]),
    ];
    let routes = routes();
    all.into_iter().filter(|(path, _)| has_route(&routes, "POST", path)).collect()
}

/// All values in the database, except the times when sessions were last used and the counters of rate limits.
fn lasting_values(site: &Site) -> Vec<(String, String)> {
    let mut values = site.database.dump();
    values.retain(|(column, _)| column != "sessions.seen_at" && !column.starts_with("limits."));
    values.sort();
    values
}

/// Ada is logged in. Whatever the page at this host posts in her browser is refused, and changes nothing.
fn forms_from_are_refused(host: &str, browser: &Browser, site: &Site) {
    site.sign_up(browser, "mallory");
    browser.press("Log out");
    site.sign_up(browser, "ada");
    let before = lasting_values(site);
    let refused = |how: &str| {
        browser.sees("We could not accept that form");
        assert_eq!(browser.status(), 403, "{how}\n{browser}");
    };
    let as_before = |how: &str| {
        browser.visit(&site.url());
        browser.sees("Logged in: ada");
        assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("system"), "{how}\n{browser}");
        assert_eq!(site.count("select count(*) from users"), 2, "{how}");
        assert_eq!(lasting_values(site), before, "{how}");
    };
    let targets = targets();
    // With the second head the browser hides where the form comes from: `Origin` is `null`.
    for head in ["", "<meta name=referrer content=no-referrer>"] {
        let page = format!("http://{host}:{}/", serve_page(forms_to(&targets, site, head)));
        for (path, _) in &targets {
            let name = path[1..].replace('/', "-");
            let how = format!("{head} {page} posts to {path}");
            browser.visit(&format!("{page}#{name}"));
            refused(&how);
            as_before(&how);
            browser.visit(&page);
            browser.click(&format!("#{name}"));
            browser.switch_to_newest_window();
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
    let base = format!("http://app.example.test:{port}");
    let site = Site::in_production(&[("PORT", &port), ("BASE_URL", &base), ("SMTP_URL", "none")]);
    let browser = Browser::open_with(&["--host-resolver-rules=MAP *.example.test 127.0.0.1"]);
    forms_from_are_refused("evil.example.test", &browser, &site);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn opening_an_address_changes_nothing() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    let (routes, before) = (routes(), lasting_values(&site));
    for (address, status) in [
        ("/logout", 405),
        ("/theme?theme=dark", 200),
        (&*format!("/delete?password={}", PASSWORD.replace(' ', "+")), 200),
        ("/account/username?username=mallory", 200),
        ("/account/sessions/revoke-others", 405),
        ("/signup?username=mallory", 303),
        ("/login?username=mallory", 303),
    ] {
        let path = address.split('?').next().unwrap();
        if !has_route(&routes, "GET", path) && !has_route(&routes, "POST", path) {
            continue;
        }
        browser.visit(&site.page(address));
        if status == 303 {
            browser.is_at("/");
        } else {
            assert_eq!(browser.status(), status, "{browser}");
        }
        browser.visit(&site.url());
        browser.sees("Logged in: ada");
        assert_eq!(browser.attribute("html", "data-theme").as_deref(), Some("system"), "after {address}");
        assert_eq!(site.count("select count(*) from sessions"), 1, "after {address}");
        assert_eq!(lasting_values(&site), before, "after {address}");
    }
}
