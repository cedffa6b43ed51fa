//! In a real browser: the theme changes at once, and the page stays as it is. Without scripts, browser_without_scripts.rs.
//! needs: home, login, notes, recovery_codes, signup, theme

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

/// The theme of the page, and of its pressed button.
fn themes(browser: &Browser) -> [String; 2] {
    let pressed = browser.attribute(".theme [aria-pressed=true]", "value");
    [browser.attribute("html", "data-theme").unwrap(), pressed.unwrap()]
}

/// Presses "Dark", and waits until the server has set its cookie.
#[track_caller]
fn choose_dark(browser: &Browser) {
    assert_eq!(browser.run("return document.querySelectorAll('.theme [aria-pressed=true]').length"), 1, "{browser}");
    browser.click("//button[.='Dark']");
    assert_eq!(themes(browser), ["dark", "dark"], "{browser}");
    let kept = browser.wait_for(|| browser.cookies().contains(&"theme".into()).then_some(()));
    assert!(kept.is_some(), "the server was not told\n{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_theme_chosen_in_the_middle_of_a_form_empties_nothing() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.set_color_scheme("light");
    browser.visit(&site.page("/signup"));
    assert_eq!(themes(&browser), ["system", "system"], "{browser}");
    let light = browser.style("body", "background-color");
    browser.fill("Username", "ada");
    browser.fill("Password", "half a pass");
    choose_dark(&browser);
    assert_ne!(browser.style("body", "background-color"), light, "{browser}");
    let ground = browser.style("body", "background-color").replace("rgba", "rgb").replace(", 1)", ")");
    assert_eq!(browser.attribute("meta[name=theme-color]", "content"), Some(ground), "{browser}");
    let typed = "return [...document.querySelectorAll('#username, #password')].map(field => field.value)";
    assert_eq!(browser.run(typed), serde_json::json!(["ada", "half a pass"]), "{browser}");
    browser.visit(&site.page("/login"));
    assert_eq!(themes(&browser), ["dark", "dark"], "{browser}");
    browser.click("//button[.='Light']");
    browser.click("//button[.='System']");
    assert_eq!(themes(&browser), ["system", "system"], "{browser}");
    browser.is_at("/login");
    assert_eq!(browser.policy_violations(), [""; 0]);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_theme_chosen_beside_shown_codes_leaves_them_there() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/account/recovery-codes"));
    browser.press_at("main form button");
    let codes = browser.text(".codes");
    assert_eq!(codes.lines().count(), 10, "{browser}");
    choose_dark(&browser);
    assert_eq!(browser.text(".codes"), codes);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_theme_that_the_server_refused_is_sent_as_without_scripts_and_the_text_comes_back() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Half a thought");
    browser
        .run("window.fetch = () => new Promise(answer => setTimeout(() => answer(new Response('', { status: 503 }))))");
    browser.press("Dark");
    browser.is_at("/notes");
    browser.sees("Your text is still here.");
    assert_eq!(browser.run("return document.querySelector('#text').value"), "Half a thought", "{browser}");
    assert_eq!(themes(&browser), ["dark", "dark"], "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_theme_chosen_without_a_connection_leaves_the_page_as_it_is() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Half a thought");
    browser.set_offline(true);
    browser.click("//button[.='Dark']");
    std::thread::sleep(std::time::Duration::from_millis(500));
    browser.set_offline(false);
    browser.is_at("/notes");
    assert_eq!(browser.run("return document.querySelector('#text').value"), "Half a thought", "{browser}");
    assert_eq!(themes(&browser), ["dark", "dark"], "{browser}");
}
