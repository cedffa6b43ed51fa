//! In a real browser: passwords, codes and the name beside a password never stand in the browser's storage, whoever types them wherever.
//! needs: confirm, home, login, signup, two_factor

use crate::common::{PASSWORD, routes};
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret, Totp};

/// Types into every field of the page, also into the passwords that the page then shows, and returns the names of those
/// that are secret and of those that are kept.
const TYPE_EVERYWHERE: &str = r"
const fields = [...document.querySelectorAll('input[name]:not([type=hidden], [type=checkbox]), textarea')];
const isOfLogIn = field => field.autocomplete.startsWith('username') && field.form.querySelector('[autocomplete=current-password]');
const isSecret = field => isOfLogIn(field) || field.type === 'password' || /passw|code/.test(field.name + field.autocomplete);
const secret = fields.filter(isSecret), other = fields.filter(field => !isSecret(field));
const type = (field, text) => {
    field.value = text;
    field.dispatchEvent(new Event('input', { bubbles: true }));
};
for (const field of secret) type(field, 'SECRET' + field.name);
for (const field of other) type(field, 'KEPT' + field.name);
for (const button of document.querySelectorAll('.reveal')) button.click();
for (const field of secret) type(field, 'SECRET shown' + field.name);
return [secret, other].map(fields => fields.map(field => field.name))";

#[derive(Default)]
struct Seen {
    secret: BTreeSet<String>,
    other: BTreeSet<String>,
}

impl Seen {
    #[track_caller]
    fn check(&mut self, browser: &Browser) {
        let [secret, other]: [Vec<String>; 2] = serde_json::from_value(browser.run(TYPE_EVERYWHERE)).unwrap();
        let kept = browser.run("return JSON.stringify({...sessionStorage, ...localStorage})");
        let kept = kept.as_str().unwrap();
        assert!(!kept.contains("SECRET"), "{kept}\n{browser}");
        for name in &other {
            assert!(kept.contains(&format!("KEPT{name}")), "{name} is lost: {kept}\n{browser}");
        }
        self.secret.extend(secret);
        self.other.extend(other);
    }

    fn check_all(&mut self, browser: &Browser, site: &Site, pages: &[String]) {
        for page in pages {
            browser.visit(&site.page(page));
            self.check(browser);
        }
    }
}

fn code(browser: &Browser) -> String {
    let key = Secret::try_from_base32(browser.text("#totp-key").replace(' ', "")).unwrap();
    let totp: Totp = Builder::new().with_secret(key).build().unwrap();
    totp.generate(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).to_string()
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn no_password_and_no_code_is_ever_kept() {
    let (site, browser) = (Site::open(), Browser::open());
    let mut seen = Seen::default();
    let routes = routes().into_iter().filter(|route| route.method == "GET" && !route.path.contains(['{', '.']));
    let pages: Vec<String> = routes.map(|route| route.path).filter(|path| !path.ends_with('z')).collect();
    seen.check_all(&browser, &site, &pages);
    browser.run("sessionStorage.clear()");
    site.sign_up(&browser, "ada");
    seen.check_all(&browser, &site, &pages);
    site.age_log_ins();
    browser.visit(&site.page("/confirm"));
    seen.check(&browser);
    browser.clear("[name=password]");
    browser.keys(PASSWORD);
    browser.press_at("main form:has([name=password]) > button");

    browser.visit(&site.page("/account/two-factor"));
    browser.press_at("form[action$='/start'] button");
    let right = code(&browser);
    seen.check(&browser);
    browser.clear("[name=code]");
    browser.keys(&right);
    browser.press_at("form:has([name=code]) button");
    browser.text(".codes");
    seen.check(&browser);
    seen.check_all(&browser, &site, &pages);
    browser.visit(&site.url());
    browser.press("Log out");
    browser.visit(&site.page("/login"));
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/login/two-factor");
    seen.check(&browser);

    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    assert!(seen.secret.is_superset(&names(&["code", "confirm_password", "password"])), "{:?}", seen.secret);
    assert!(seen.other.is_superset(&names(&["username"])), "{:?}", seen.other);
}
