//! Helpers for tests in a real browser: a [`site::Site`] of its own for each test, and a [`Browser`] that visits it.
//!
//! The browser is Chromium, driven through chromedriver by the W3C's WebDriver protocol. Methods wait for what a page
//! must show, never for a fixed time, and print the page when it does not come.

// Modules that use the rest may have been removed.
#![allow(dead_code)]

mod inspect;
pub mod site;

use data_encoding::BASE64;
use serde_json::{Value, json};
use std::fmt::{Display, Formatter};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::http::Response;
use ureq::{Agent, Body};

/// How long a page may take to show what it must, on a machine that is busy with other browsers.
const TIMEOUT: Duration = Duration::from_secs(30);

/// As WebDriver writes these keys.
pub const BACKSPACE: &str = "\u{e003}";
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// As these browsers write it in `User-Agent`.
pub const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1";
pub const WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; rv:145.0) Gecko/20100101 Firefox/145.0";

/// No window, no network of its own, and every page as wide as its screen.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// A browser with a profile of its own, deleted when dropped.
pub struct Browser {
    driver: Child,
    agent: Agent,
    session: String,
    _profile: TempDir,
}

impl Browser {
    pub fn open() -> Browser {
        Browser::open_with(&[])
    }

    /// A browser started with more arguments than the usual.
    pub fn open_with(more: &[&str]) -> Browser {
        Browser::start(more, json!({}))
    }

    /// A browser whose owner has forbidden all sites to set cookies.
    pub fn open_without_cookies() -> Browser {
        Browser::start(&[], json!({"profile.default_content_setting_values.cookies": 2}))
    }

    fn start(more: &[&str], preferences: Value) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = (0..5).find_map(|_| start_driver(profile.path())).expect("chromedriver starts");
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.iter().chain(more).copied().chain([&*folder]).collect();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments, "prefs": preferences},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let mut browser = Browser {
            driver,
            agent: config.timeout_global(Some(2 * TIMEOUT)).build().new_agent(),
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let begun = browser.post("", capabilities).unwrap_or_else(|error| panic!("no browser: {error}"));
        browser.session = format!("{}/{}", browser.session, begun["sessionId"].as_str().unwrap());
        browser
    }

    /// Sends a command to chromedriver, and returns its value or its error.
    fn post(&self, command: &str, body: Value) -> Result<Value, String> {
        value(self.agent.post(self.session.clone() + command).send(body.to_string()))
    }

    fn query(&self, command: &str) -> Result<Value, String> {
        value(self.agent.get(self.session.clone() + command).call())
    }

    /// A command of the DevTools protocol.
    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).unwrap()
    }

    pub fn visit(&self, url: &str) {
        self.post("/url", json!({"url": url})).unwrap_or_else(|error| panic!("{url} does not open: {error}"));
    }

    pub fn back(&self) {
        self.post("/back", json!({})).unwrap();
    }

    pub fn reload(&self) {
        self.post("/refresh", json!({})).unwrap();
    }

    /// Path and query of the page.
    pub fn path(&self) -> String {
        let url = url::Url::parse(self.query("/url").unwrap().as_str().unwrap()).unwrap();
        url.path().to_string() + &url.query().map(|query| format!("?{query}")).unwrap_or_default()
    }

    pub fn run(&self, script: &str) -> Value {
        let answer = self.post("/execute/sync", json!({"script": script, "args": []}));
        answer.unwrap_or_else(|error| panic!("{script}: {error}\n{self}"))
    }

    /// The status the page came with.
    pub fn status(&self) -> u64 {
        self.run("return performance.getEntriesByType('navigation')[0].responseStatus").as_u64().unwrap()
    }

    /// From now on each answer takes so many milliseconds longer.
    pub fn slow_down(&self, milliseconds: u64) {
        let line = json!({"offline": false, "latency": milliseconds, "downloadThroughput": -1, "uploadThroughput": -1});
        self.devtools("Network.enable", json!({}));
        self.devtools("Network.emulateNetworkConditions", line);
    }

    /// Presses a button, and again so many milliseconds later, as a person does who does not wait.
    #[track_caller]
    pub fn press_twice(&self, place: &str, milliseconds: u64) {
        let button = self.post("/element", json!({"using": "css selector", "value": place})).unwrap();
        let (down, up) = (json!({"type": "pointerDown", "button": 0}), json!({"type": "pointerUp", "button": 0}));
        let there = json!({"type": "pointerMove", "origin": button, "x": 0, "y": 0});
        let wait = json!({"type": "pause", "duration": milliseconds});
        let actions = json!([there, down, up, wait, down, up]);
        let mouse = json!({"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]});
        self.post("/actions", mouse).unwrap_or_else(|error| panic!("{place}: {error}\n{self}"));
    }

    /// The first element that matches a CSS selector or, if it begins with `//`, an XPath. Waits for it.
    #[track_caller]
    fn find(&self, place: &str) -> String {
        let using = if place.starts_with("//") { "xpath" } else { "css selector" };
        let found = self.wait_for(|| self.post("/element", json!({"using": using, "value": place})).ok());
        path_of(&found.unwrap_or_else(|| panic!("there is no {place}\n{self}")))
    }

    #[track_caller]
    fn query_element(&self, place: &str, question: &str) -> Option<String> {
        let answer = self.query(&(self.find(place) + question)).unwrap_or_else(|error| panic!("{error}\n{self}"));
        answer.as_str().map(str::to_string)
    }

    /// The visible text of an element.
    #[track_caller]
    pub fn text(&self, place: &str) -> String {
        self.query_element(place, "/text").unwrap()
    }

    #[track_caller]
    pub fn attribute(&self, place: &str, name: &str) -> Option<String> {
        self.query_element(place, &format!("/attribute/{name}"))
    }

    #[track_caller]
    pub fn style(&self, place: &str, property: &str) -> String {
        self.query_element(place, &format!("/css/{property}")).unwrap()
    }

    /// The names that assistive technology reads out for all elements of a CSS selector.
    #[track_caller]
    pub fn accessible_names(&self, selector: &str) -> Vec<String> {
        let found = self.post("/elements", json!({"using": "css selector", "value": selector})).unwrap();
        let name = |element: &Value| self.query(&(path_of(element) + "/computedlabel")).unwrap();
        found.as_array().unwrap().iter().map(|element| name(element).as_str().unwrap().to_string()).collect()
    }

    /// Presses a button of a form that the browser does not check by itself first.
    #[track_caller]
    pub fn press_unchecked(&self, words: &str) {
        self.run("document.querySelectorAll('main form').forEach(form => { form.noValidate = true; })");
        self.press(words);
    }

    /// Asserts what password managers are told about each of these fields.
    #[track_caller]
    pub fn has_autocomplete(&self, fields: &[(&str, &str)]) {
        for (field, meaning) in fields {
            let found = self.attribute(&format!("[name={field}]"), "autocomplete");
            assert_eq!(found.as_deref(), Some(*meaning), "{field}\n{self}");
        }
    }

    /// Clicks the link or button with these words on it, in the text of the page rather than around it, and waits
    /// for the page it leads to.
    #[track_caller]
    pub fn press(&self, words: &str) {
        let it = format!("*[self::a or self::button][normalize-space()='{words}']");
        self.press_at(&format!("//main//{it} | //body[not(main//{it})]//{it}"));
    }

    #[track_caller]
    pub fn press_at(&self, place: &str) {
        let element = self.click(place);
        let left = self.wait_for(|| self.query(&(element.clone() + "/name")).err());
        assert!(left.is_some(), "{place} leads nowhere\n{self}");
    }

    #[track_caller]
    pub fn click(&self, place: &str) -> String {
        let element = self.find(place);
        let clicked = self.post(&(element.clone() + "/click"), json!({}));
        clicked.unwrap_or_else(|error| panic!("{place}: {error}\n{self}"));
        element
    }

    /// Types into the field with this label, in place of what stands there.
    #[track_caller]
    pub fn fill(&self, label: &str, text: &str) {
        let field = self.find(&format!("//*[@id=//label[normalize-space()='{label}']/@for]"));
        self.post(&(field.clone() + "/clear"), json!({})).unwrap();
        self.post(&(field + "/value"), json!({"text": text})).unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    /// Pastes a text many times over into the field with this label, in place of what stands there. Unlike typing, this takes no
    /// longer for a long text.
    #[track_caller]
    pub fn paste(&self, label: &str, text: &str, times: usize) {
        self.fill(label, "");
        self.click(&format!("//*[@id=//label[normalize-space()='{label}']/@for]"));
        self.devtools("Input.insertText", json!({"text": text.repeat(times)}));
    }

    /// Empties a field and focuses it.
    #[track_caller]
    pub fn clear(&self, place: &str) {
        let field = self.find(place);
        self.post(&(field.clone() + "/clear"), json!({})).unwrap();
        self.click(place);
    }

    /// Presses keys, wherever the focus is.
    pub fn keys(&self, keys: &str) {
        let focus = path_of(&self.query("/element/active").unwrap());
        self.post(&(focus + "/value"), json!({"text": keys})).unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    #[track_caller]
    pub fn sees(&self, words: &str) {
        let seen = self.wait_for(|| (self.shows(words) == Ok(true)).then_some(()));
        assert!(seen.is_some(), "expected {words:?}\n{self}");
    }

    #[track_caller]
    pub fn does_not_see(&self, words: &str) {
        let seen = self.shows(words).unwrap_or_else(|error| panic!("{error}\n{self}"));
        assert!(!seen, "did not expect {words:?}\n{self}");
    }

    #[track_caller]
    pub fn is_at(&self, path: &str) {
        let there = self.wait_for(|| (self.path() == path).then_some(()));
        assert!(there.is_some(), "expected to be at {path}\n{self}");
    }

    fn shows(&self, words: &str) -> Result<bool, String> {
        let body = self.post("/element", json!({"using": "css selector", "value": "body"}))?;
        let text = self.query(&(path_of(&body) + "/text"))?;
        Ok(text.as_str().unwrap().contains(words))
    }

    pub fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let end = Instant::now() + TIMEOUT;
        loop {
            let found = look();
            if found.is_some() || Instant::now() > end {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The names of the cookies that the page's site has set.
    pub fn cookies(&self) -> Vec<String> {
        let cookies = self.query("/cookie").unwrap();
        cookies.as_array().unwrap().iter().map(|cookie| cookie["name"].as_str().unwrap().into()).collect()
    }

    /// Copies a cookie from another browser, as a thief does. Both are at a page of the same site.
    pub fn steal_cookie(&self, other: &Browser, name: &str) {
        let cookie = other.query(&format!("/cookie/{name}")).unwrap();
        self.post("/cookie", json!({"cookie": cookie})).unwrap();
    }

    /// Switches to this frame.
    #[track_caller]
    pub fn enter_frame(&self, place: &str) {
        let frame = self.find(place);
        let reference = json!({REFERENCE: frame.trim_start_matches("/element/")});
        self.post("/frame", json!({"id": reference})).unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    /// Switches back to the page.
    pub fn leave_frames(&self) {
        self.post("/frame", json!({"id": null})).unwrap();
    }

    /// The browser's console messages since the last call.
    pub fn console_messages(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({"type": "browser"})).unwrap();
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().into()).collect()
    }

    /// Switches to the window that was opened last.
    pub fn switch_to_newest_window(&self) {
        let handles = self.wait_for(|| self.query("/window/handles").ok().filter(|all| all[1].is_string()));
        let newest = handles.unwrap_or_else(|| panic!("no other window opened\n{self}"));
        self.post("/window", json!({"handle": newest.as_array().unwrap().last().unwrap()})).unwrap();
    }

    /// Opens a tab that knows nothing of this one, and switches to it.
    pub fn open_tab(&self) {
        let tab = self.post("/window/new", json!({"type": "tab"})).unwrap();
        self.post("/window", json!({"handle": tab["handle"]})).unwrap();
    }

    /// Closes the window, and switches to the first.
    pub fn close_window(&self) {
        let left = value(self.agent.delete(self.session.clone() + "/window").call()).unwrap();
        self.post("/window", json!({"handle": left[0]})).unwrap();
    }

    /// Adds a virtual authenticator, which keeps passkeys and takes every request for approved. Returns its id.
    pub fn add_authenticator(&self) -> String {
        let kind = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
            "isUserVerified": true,
        });
        self.post("/webauthn/authenticator", kind).unwrap().as_str().unwrap().to_string()
    }

    /// Turns autofill of passkeys off from the next page on: a virtual authenticator would log in at once, before
    /// anything can be pressed.
    pub fn disable_passkey_autofill(&self) {
        self.run_on_every_page("PublicKeyCredential.isConditionalMediationAvailable = async () => false");
    }

    /// Runs this before the scripts of every page from the next on.
    pub fn run_on_every_page(&self, script: &str) {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": script}));
    }

    /// Lets pages read the clipboard too.
    pub fn allow_clipboard(&self) {
        let permissions = json!(["clipboardReadWrite", "clipboardSanitizedWrite"]);
        self.devtools("Browser.grantPermissions", json!({"permissions": permissions}));
    }

    /// Cuts the browser off from the network, or connects it again.
    pub fn set_offline(&self, offline: bool) {
        let conditions = json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.devtools("Network.enable", json!({}));
        self.devtools("Network.emulateNetworkConditions", conditions);
    }

    pub fn remove_authenticator(&self, id: &str) {
        let path = format!("{}/webauthn/authenticator/{id}", self.session);
        value(self.agent.delete(path).call()).unwrap();
    }

    /// Whether the authenticator takes requests for approved by its owner.
    pub fn set_user_verified(&self, id: &str, verified: bool) {
        let path = format!("/webauthn/authenticator/{id}/uv");
        self.post(&path, json!({"isUserVerified": verified})).unwrap();
    }

    /// The passkeys that an authenticator keeps.
    pub fn passkeys(&self, id: &str) -> Vec<Value> {
        let found = self.query(&format!("/webauthn/authenticator/{id}/credentials")).unwrap();
        found.as_array().unwrap().clone()
    }

    /// Sets the width of the screen in CSS pixels.
    pub fn set_width(&self, width: u32) {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets the colour scheme that the system prefers: `light` or `dark`.
    pub fn set_color_scheme(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// Sets the folder for downloads.
    pub fn set_download_folder(&self, folder: &Path) {
        let place = json!({"behavior": "allow", "downloadPath": folder});
        self.devtools("Page.setDownloadBehavior", place);
    }

    /// Saves a picture of the whole page, as PNG.
    pub fn screenshot(&self, file: &Path) {
        let shot = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let png = BASE64.decode(shot["data"].as_str().unwrap().as_bytes()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }
}

/// The page, for messages of failed assertions.
impl Display for Browser {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let url = self.query("/url").unwrap_or_default();
        let page = self.query("/source").unwrap_or_default();
        writeln!(f, "at {}\n{}", url.as_str().unwrap_or("?"), page.as_str().unwrap_or("no page"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// chromedriver and its port. It chooses one on IPv4, and ends if somebody has the same on IPv6.
fn start_driver(folder: &Path) -> Option<(Child, String)> {
    let mut driver = Command::new("chromedriver");
    // Chromium's temporary files are deleted with the profile.
    driver.arg("--port=0").env("TMPDIR", folder).stdout(Stdio::piped());
    let mut driver =
        driver.spawn().expect("chromedriver starts once the packages chromium and chromium-driver are installed");
    let port = port_of(&mut driver)?;
    Some((driver, port))
}

fn port_of(driver: &mut Child) -> Option<String> {
    let lines = BufReader::new(driver.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let started = |line: String| line.split_once("started successfully on port ").map(|(_, port)| port.to_string());
    let port = lines.filter_map(started).next()?;
    Some(port.trim_end_matches('.').to_string())
}

fn value(answer: Result<Response<Body>, ureq::Error>) -> Result<Value, String> {
    let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
    let mut answer: Value = serde_json::from_str(&text.map_err(|error| error.to_string())?).unwrap();
    let value = answer["value"].take();
    match value.get("error") {
        Some(error) => Err(format!("{error}: {}", value["message"])),
        None => Ok(value),
    }
}

/// The protocol writes an element as an object with this one key.
const REFERENCE: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The path of commands about an element.
fn path_of(element: &Value) -> String {
    let reference = element[REFERENCE].as_str();
    format!("/element/{}", reference.expect("a reference to an element"))
}
