//! In a real browser: what is typed is not lost when the log-in expires, a page fails or is reloaded, and nobody else gets
//! it. public/drafts.js keeps it, in the tab.
//! needs: home, login, members, notes, signup

use crate::common::PASSWORD;
use crate::webdriver::Browser;
use crate::webdriver::site::{Site, log_in, sign_up_with};

const HERE: &str = "Your text is still here.";
const LOGGED_OUT: &str = "You were logged out. Your text is still here.";

/// What stands in the field for a note.
fn note(browser: &Browser) -> String {
    browser.run("return document.querySelector('#text').value").as_str().unwrap().to_string()
}

/// Everything that the tab keeps.
fn kept(browser: &Browser) -> String {
    browser.run("return JSON.stringify({...sessionStorage})").as_str().unwrap().to_string()
}

/// Sends the form of the note.
#[track_caller]
fn save(browser: &Browser) {
    browser.press_at("main form:has(#text) button, button[form=note]");
}

/// Ada has signed up and begun a note.
fn begin_note(text: &str) -> (Site, Browser) {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", text);
    (site, browser)
}

fn expire_sessions(site: &Site) {
    site.execute("delete from sessions");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_sent_after_the_log_in_expired_is_there_again_after_the_next_and_is_kept_no_longer_than_until_it_is_saved() {
    let (site, browser) = begin_note("Begun\nbefore the log-in expired");
    expire_sessions(&site);
    save(&browser);
    browser.is_at("/login?next=%2Fnotes");
    log_in(&browser, "ada", "wrong horse");
    log_in(&browser, "ada", PASSWORD);
    browser.sees(LOGGED_OUT);
    assert_eq!(note(&browser), "Begun\nbefore the log-in expired");
    assert_eq!(site.count("select count(*) from notes"), 0);
    browser.inspect("draft");

    save(&browser);
    browser.sees("before the log-in expired");
    assert_eq!(site.count("select count(*) from notes"), 1);
    browser.does_not_see(HERE);
    assert_eq!((&*note(&browser), &*kept(&browser)), ("", "{}"));
    assert_eq!(browser.policy_violations(), [""; 0]);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_is_there_again_when_a_link_led_to_the_log_in() {
    let (site, browser) = begin_note("Half a thought");
    expire_sessions(&site);
    browser.reload();
    browser.is_at("/login?next=%2Fnotes");
    log_in(&browser, "ada", PASSWORD);
    browser.sees(LOGGED_OUT);
    assert_eq!(note(&browser), "Half a thought");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn another_who_logs_in_in_the_same_tab_does_not_get_the_note() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "bob");
    browser.press("Log out");
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "What Ada thinks of Bob");
    expire_sessions(&site);
    save(&browser);
    assert!(kept(&browser).contains("What Ada thinks"), "it waits for her\n{browser}");
    log_in(&browser, "bob", PASSWORD);
    browser.is_at("/notes");
    assert_eq!(note(&browser), "");
    browser.does_not_see(HERE);
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn after_a_log_out_nobody_gets_the_note_in_any_tab_not_even_its_writer() {
    let (site, browser) = begin_note("Before the log-out");
    browser.open_tab();
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "In the second tab");
    browser.run("window.confirm = () => true");
    browser.press("Log out");
    browser.sees("Sign up");
    assert_eq!(kept(&browser), "{}");
    browser.close_window();
    assert_eq!(kept(&browser), "{}");
    browser.visit(&site.page("/notes"));
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/notes");
    assert_eq!(note(&browser), "");
    browser.does_not_see(HERE);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_form_with_mistakes_has_its_text_already_and_keeps_it_if_the_log_in_expires_then() {
    let (site, browser) = begin_note("");
    browser.paste("Your note", "a", 10_001);
    save(&browser);
    assert_eq!(browser.status(), 422, "{browser}");
    browser.does_not_see(HERE);
    browser.fill("Your note", "Shorter");
    expire_sessions(&site);
    save(&browser);
    log_in(&browser, "ada", PASSWORD);
    browser.sees(LOGGED_OUT);
    assert_eq!(note(&browser), "Shorter");
    save(&browser);
    assert_eq!(site.count("select count(*) from notes where text = 'Shorter'"), 1);
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_field_of_a_form_with_mistakes_stays_as_the_server_wrote_it() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.clear("[name=email]");
    browser.keys("ada@xn--mnchen-3ya.de");
    sign_up_with(&browser, "admin", PASSWORD);
    assert_eq!(browser.status(), 422, "{browser}");
    browser.does_not_see(HERE);
    assert_eq!(browser.run("return document.querySelector('[name=email]').value"), "ada@münchen.de");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_outlives_a_page_that_fails_and_a_lost_connection() {
    let (site, browser) = begin_note("Written in a tunnel");
    site.execute("alter table notes rename to gone");
    save(&browser);
    assert_eq!(browser.status(), 500, "{browser}");
    site.execute("alter table gone rename to notes");
    browser.visit(&site.page("/notes"));
    browser.sees(HERE);
    assert_eq!(note(&browser), "Written in a tunnel");

    browser.set_offline(true);
    save(&browser);
    browser.does_not_see("Your note");
    browser.set_offline(false);
    browser.back();
    assert_eq!(note(&browser), "Written in a tunnel");
    save(&browser);
    browser.sees("Written in a tunnel");
    assert_eq!(site.count("select count(*) from notes"), 1);
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_page_that_failed_and_is_reloaded_sends_the_note_and_it_is_kept_no_longer() {
    let (site, browser) = begin_note("Second try");
    site.execute("alter table notes rename to gone");
    save(&browser);
    assert_eq!(browser.status(), 500, "{browser}");
    site.execute("alter table gone rename to notes");
    browser.reload();
    browser.is_at("/notes");
    browser.sees("Second try");
    assert_eq!(site.count("select count(*) from notes"), 1);
    assert_eq!((&*note(&browser), &*kept(&browser)), ("", "{}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_reload_loses_nothing_and_what_is_discarded_stays_away() {
    let (_site, browser) = begin_note("");
    browser.paste("Your note", "a", 9_500);
    browser.reload();
    browser.sees(HERE);
    browser.does_not_see(LOGGED_OUT);
    browser.sees("500 characters left.");
    assert_eq!(note(&browser).len(), 9_500);
    assert!(asks_before_leaving(&browser), "{browser}");
    browser.click("//button[.='Discard']");
    assert_eq!(note(&browser), "");
    assert_eq!(browser.attribute("textarea:focus", "id").as_deref(), Some("text"), "{browser}");
    assert_eq!(kept(&browser), "{}");
    browser.does_not_see(HERE);
    browser.reload();
    assert_eq!(note(&browser), "");
    browser.does_not_see(HERE);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_that_was_changed_elsewhere_in_the_meantime_is_not_replaced_silently() {
    let (site, browser) = begin_note("First version");
    save(&browser);
    browser.press("First version");
    browser.fill("Your note", "My version");
    site.execute("update notes set text = 'The version of another device'");
    browser.reload();
    browser.sees("This was changed elsewhere in the meantime. Your text is still here");
    assert_eq!(note(&browser), "My version");
    browser.reload();
    browser.sees("This was changed elsewhere in the meantime.");
    browser.click("//button[.='Discard']");
    assert_eq!(note(&browser), "The version of another device");
    browser.reload();
    browser.does_not_see(HERE);
    assert_eq!(note(&browser), "The version of another device");

    browser.fill("Your note", "The same here");
    site.execute("update notes set text = 'The same here'");
    browser.reload();
    browser.does_not_see("Your text is still here");
    assert_eq!((&*note(&browser), &*kept(&browser)), ("The same here", "{}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_that_was_never_sent_is_kept_whatever_page_comes_next() {
    let (site, browser) = begin_note("Written in a tunnel");
    browser.set_offline(true);
    save(&browser);
    browser.set_offline(false);
    browser.visit(&site.page("/me"));
    browser.is_at("/user/ada");
    browser.visit(&site.page("/notes"));
    browser.sees(HERE);
    assert_eq!(note(&browser), "Written in a tunnel");

    browser.slow_down(2_000);
    browser.run("document.querySelector('main form button').click(); setTimeout(stop, 300)");
    std::thread::sleep(std::time::Duration::from_millis(500));
    browser.slow_down(0);
    browser.is_at("/notes");
    browser.run("const link = document.createElement('a'); link.href = '/me'; link.append('Me'); document.querySelector('main').append(link)");
    browser.press("Me");
    browser.is_at("/user/ada");
    browser.visit(&site.page("/notes"));
    browser.sees(HERE);
    assert_eq!(note(&browser), "Written in a tunnel");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_note_saved_after_a_log_out_in_another_tab_is_there_again_after_the_log_in() {
    let (site, browser) = begin_note("In the first tab");
    browser.open_tab();
    browser.visit(&site.url());
    browser.press("Log out");
    browser.sees("Sign up");
    browser.close_window();
    assert_eq!(kept(&browser), "{}");
    save(&browser);
    browser.is_at("/login?next=%2Fnotes");
    log_in(&browser, "ada", PASSWORD);
    browser.sees(LOGGED_OUT);
    assert_eq!(note(&browser), "In the first tab");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn what_a_visitor_typed_is_gone_after_the_log_in_and_a_log_in_keeps_nothing() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    browser.press("Log out");
    browser.sees("Sign up");
    browser.visit(&site.page("/login"));
    browser.fill("Username or e-mail", "adaa");
    assert_eq!(kept(&browser), "{}");
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "carol");
    assert!(kept(&browser).contains("carol"), "{browser}");
    browser.visit(&site.page("/login"));
    log_in(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_page_that_refuses_the_form_of_another_user_leads_back_to_the_text() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "bob");
    browser.press("Log out");
    site.sign_up(&browser, "ada");
    let log_in_in_another_tab = |name| {
        expire_sessions(&site);
        browser.open_tab();
        browser.visit(&site.page("/login"));
        log_in(&browser, name, PASSWORD);
        browser.sees("Logged in");
        browser.close_window();
    };
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Of Ada");
    log_in_in_another_tab("bob");
    save(&browser);
    assert_eq!(browser.status(), 409, "{browser}");
    log_in_in_another_tab("ada");
    browser.back();
    assert_eq!(note(&browser), "Of Ada");
    browser.visit(&site.page("/notes"));
    browser.sees(HERE);

    log_in_in_another_tab("bob");
    save(&browser);
    assert_eq!(browser.status(), 409, "{browser}");
    browser.press("Open the page as bob");
    assert_eq!((&*note(&browser), &*kept(&browser)), ("", "{}"));
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_long_note_of_emoji_is_kept_too_while_it_is_changed() {
    let (_site, browser) = begin_note("");
    browser.paste("Your note", "😀", 9_990);
    save(&browser);
    browser.press_at(".rows a");
    browser.run("const field = document.querySelector('#text'); field.focus(); field.setSelectionRange(0, 0)");
    browser.run("document.execCommand('insertText', false, 'New')");
    browser.reload();
    browser.sees(HERE);
    assert!(note(&browser).starts_with("New😀"), "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn each_note_and_each_tab_has_its_own_text() {
    let (site, browser) = begin_note("First note");
    save(&browser);
    browser.fill("Your note", "New, in the first tab");
    browser.open_tab();
    browser.visit(&site.page("/notes"));
    browser.does_not_see(HERE);
    browser.fill("Your note", "New, in the second tab");
    browser.press("First note");
    assert_eq!(note(&browser), "First note");
    browser.fill("Your note", "First note, changed");
    browser.visit(&site.page("/notes"));
    browser.sees(HERE);
    assert_eq!(note(&browser), "New, in the second tab");
    browser.press("First note");
    assert_eq!(note(&browser), "First note, changed");
    browser.close_window();
    browser.reload();
    assert_eq!(note(&browser), "New, in the first tab");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_tab_keeps_64_kib_at_most_and_the_newest() {
    let (site, browser) = begin_note("Old");
    save(&browser);
    browser.paste("Your note", "Not sent", 500);
    browser.press("Old");
    browser.clear("#text");
    browser.paste("Your note", "\u{4e00}", 21_000);
    assert!(kept(&browser).contains("\u{4e00}"), "{browser}");
    assert!(!kept(&browser).contains("Not sent"), "the older one made room\n{browser}");
    browser.paste("Your note", "\u{4e00}", 22_000);
    assert_eq!(kept(&browser), "{}", "half of a text is none");
    browser.visit(&site.page("/notes"));
    browser.does_not_see(HERE);
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn after_an_hour_the_text_is_gone() {
    let (_site, browser) = begin_note("An hour ago");
    let set_back = |minutes: u32| {
        browser.run(&format!(
            "sessionStorage.drafts = sessionStorage.drafts.replace(/\"at\":\\d+/, '\"at\":' + (Date.now() - {minutes} * 60000))"
        ));
        browser.reload();
    };
    set_back(59);
    browser.sees(HERE);
    assert_eq!(note(&browser), "An hour ago");
    set_back(61);
    browser.does_not_see(HERE);
    assert_eq!((&*note(&browser), &*kept(&browser)), ("", "{}"));
}

/// Whether the page asks before it is left.
fn asks_before_leaving(browser: &Browser) -> bool {
    browser.run("return !dispatchEvent(new Event('beforeunload', { cancelable: true }))") == true
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn only_who_leaves_a_changed_form_of_theirs_by_a_link_is_asked() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    assert!(!asks_before_leaving(&browser), "the way to the log-in is free\n{browser}");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    browser.visit(&site.page("/notes"));
    assert!(!asks_before_leaving(&browser), "{browser}");
    browser.fill("Your note", "Typed");
    assert!(asks_before_leaving(&browser), "{browser}");
    browser.fill("Your note", "");
    assert!(!asks_before_leaving(&browser), "nothing is left to lose\n{browser}");
    browser.fill("Your note", "Typed again");
    browser.run(
        "addEventListener('pagehide', () => {
            sessionStorage.asked = !dispatchEvent(new Event('beforeunload', { cancelable: true }));
        })",
    );
    save(&browser);
    browser.sees("Typed again");
    assert_eq!(browser.run("return sessionStorage.asked"), "false", "{browser}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn whoever_logs_out_beside_a_changed_form_is_asked() {
    let (_site, browser) = begin_note("Typed");
    browser.run("window.confirm = (words) => { window.asked = words; return false; }");
    browser.click("//button[.='Log out']");
    assert_eq!(browser.run("return asked"), "What you typed is not saved yet. Leave it?", "{browser}");
    assert_eq!(browser.attribute("form[action='/logout']", "aria-busy"), None, "{browser}");
    browser.run("window.confirm = () => true");
    browser.press("Log out");
    browser.sees("Sign up");
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_sign_up_that_was_interrupted_goes_on_and_the_next_user_does_not_get_it() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "ada");
    browser.fill("Password", PASSWORD);
    browser.press_at("main .aside a[href^='/login']");
    browser.back();
    browser.visit(&site.page("/signup"));
    browser.sees(HERE);
    assert_eq!(browser.run("return document.querySelector('#username').value"), "ada");
    assert_eq!(browser.run("return document.querySelector('#password').value"), "");
    sign_up_with(&browser, "ada", PASSWORD);
    browser.sees("Logged in: ada");
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn boxes_lists_and_choices_of_a_form_with_text_come_back_with_it() {
    let (site, browser) = (Site::open(), Browser::open());
    // Such a form stands in the page before its scripts run.
    browser.run_on_every_page(
        "document.addEventListener('readystatechange', () => {
            const form = document.createElement('form');
            form.method = 'post';
            form.innerHTML = `<input name=title><input type=search name=action value=old><input type=checkbox name=loud>
                <input type=radio name=size value=s checked><input type=radio name=size value=l>
                <select name=colour><option>red<option>blue</select><select name=days multiple><option>1<option>2</select>
                <input type=password name=pin><input name=tan autocomplete=one-time-code><input type=file name=picture>`;
            if (document.readyState === 'interactive') document.querySelector('main').append(form);
        })",
    );
    let fields = || {
        browser.run(
            "const form = document.querySelector('main form:last-of-type');
            return [...form.querySelectorAll('input, option')].map(it => it.selected ?? (/box|radio/.test(it.type) ? it.checked : it.value))",
        )
    };
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/"));
    let as_served = fields();
    browser.run(
        "const form = document.querySelector('main form:last-of-type'), { elements } = form;
        for (const [name, text] of [['title', 'Tea'], ['action', ''], ['pin', '1234'], ['tan', '567']]) elements[name].value = text;
        elements.loud.checked = elements.size[1].checked = true;
        elements.colour.value = 'blue';
        for (const option of elements.days) option.selected = true;
        elements.tan.dispatchEvent(new Event('input', { bubbles: true }));",
    );
    browser.reload();
    browser.sees(HERE);
    let restored = serde_json::json!(["Tea", "", true, false, true, false, true, true, true, "", "", ""]);
    assert_eq!(fields(), restored, "{browser}");
    browser.click("//button[.='Discard']");
    assert_eq!(fields(), as_served, "{browser}");
    // Without text, there is nothing to keep.
    browser.run(
        "const { elements } = document.querySelector('main form:last-of-type');
        elements.title.remove(), elements.action.remove(), elements.loud.click();",
    );
    assert_eq!(kept(&browser), "{}");
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn without_scripts_whoever_was_logged_out_logs_in_and_writes_again_and_mistakes_cost_no_text() {
    let (site, browser) = (Site::open(), Browser::open_with(&["--blink-settings=scriptEnabled=false"]));
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Written too late");
    expire_sessions(&site);
    save(&browser);
    browser.is_at("/login?next=%2Fnotes");
    browser.sees("Log in to go on.");
    log_in(&browser, "ada", PASSWORD);
    browser.is_at("/notes");
    browser.does_not_see("still here");
    browser.fill("Your note", "Written in time");
    save(&browser);
    browser.sees("Note saved.");
    browser.press("Log out");
    browser.visit(&site.page("/signup"));
    browser.fill("Username", "bob");
    browser.fill("E-mail (optional)", "bob@example.com");
    sign_up_with(&browser, "bob", "password1");
    browser.sees("most common passwords");
    for (field, text) in [("username", "bob"), ("email", "bob@example.com")] {
        assert_eq!(browser.attribute(&format!("[name={field}]"), "value").as_deref(), Some(text), "{browser}");
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn a_browser_that_keeps_nothing_writes_notes_all_the_same() {
    let (site, browser) = (Site::open(), Browser::open());
    browser.run_on_every_page(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError'); } })",
    );
    site.sign_up(&browser, "ada");
    browser.visit(&site.page("/notes"));
    browser.fill("Your note", "Saved");
    browser.reload();
    browser.does_not_see(HERE);
    browser.fill("Your note", "Saved");
    save(&browser);
    browser.sees("Saved");
    assert_eq!(browser.console_messages(), [""; 0]);
}
