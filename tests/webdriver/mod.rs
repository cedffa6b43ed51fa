//! What the browser tests are written with: a [`site::Site`] of one's own, and a [`Browser`] that visits it as people do.
//!
//! The browser is Chromium, driven through chromedriver by the W3C's WebDriver protocol. Whatever a page must show is
//! waited for, never for a fixed time, and what does not come is printed with the page.

// Each file of tests uses a part of it.
#![allow(dead_code)]

pub mod site;

use serde_json::{Value, json};
use std::fmt::{Display, Formatter};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::http::Response;
use ureq::{Agent, Body};

/// How long a page may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// A browser with a profile of its own, which goes with it.
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
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = (0..5).find_map(|_| start_driver(profile.path())).expect("chromedriver starts");
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.iter().chain(more).copied().chain([&*folder]).collect();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let mut browser = Browser {
            driver,
            agent: config.timeout_global(Some(6 * PATIENCE)).build().new_agent(),
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let begun = browser.post("", capabilities).unwrap_or_else(|error| panic!("no browser: {error}"));
        browser.session = format!("{}/{}", browser.session, begun["sessionId"].as_str().unwrap());
        browser
    }

    /// What chromedriver answers, or why it could not.
    fn post(&self, command: &str, body: Value) -> Result<Value, String> {
        value(self.agent.post(self.session.clone() + command).send(body.to_string()))
    }

    fn ask(&self, command: &str) -> Result<Value, String> {
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
        let url = url::Url::parse(self.ask("/url").unwrap().as_str().unwrap()).unwrap();
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

    /// The element that a CSS selector or, with `//` at its beginning, an XPath finds first, once it is there.
    #[track_caller]
    fn find(&self, place: &str) -> String {
        let using = if place.starts_with("//") { "xpath" } else { "css selector" };
        let found = self.soon(|| self.post("/element", json!({"using": using, "value": place})).ok());
        path_of(&found.unwrap_or_else(|| panic!("there is no {place}\n{self}")))
    }

    #[track_caller]
    fn ask_of(&self, place: &str, question: &str) -> Option<String> {
        let answer =
            self.ask(&(self.find(place) + question)).unwrap_or_else(|error| panic!("{error}\n{self}"));
        answer.as_str().map(str::to_string)
    }

    /// What an element shows.
    #[track_caller]
    pub fn text(&self, place: &str) -> String {
        self.ask_of(place, "/text").unwrap()
    }

    #[track_caller]
    pub fn attribute(&self, place: &str, name: &str) -> Option<String> {
        self.ask_of(place, &format!("/attribute/{name}"))
    }

    #[track_caller]
    pub fn style(&self, place: &str, property: &str) -> String {
        self.ask_of(place, &format!("/css/{property}")).unwrap()
    }

    /// The names that assistive technology reads out for all elements of a CSS selector.
    #[track_caller]
    pub fn spoken_names(&self, selector: &str) -> Vec<String> {
        let found = self.post("/elements", json!({"using": "css selector", "value": selector})).unwrap();
        let name = |element: &Value| self.ask(&(path_of(element) + "/computedlabel")).unwrap();
        found.as_array().unwrap().iter().map(|element| name(element).as_str().unwrap().to_string()).collect()
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
        let left = self.soon(|| self.ask(&(element.clone() + "/name")).err());
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
        self.post(&(field + "/value"), json!({"text": text}))
            .unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    /// Takes away what stands in a field, and puts the focus there.
    #[track_caller]
    pub fn clear(&self, place: &str) {
        let field = self.find(place);
        self.post(&(field.clone() + "/clear"), json!({})).unwrap();
        self.click(place);
    }

    /// Presses keys, wherever the focus is.
    pub fn keys(&self, keys: &str) {
        let focus = path_of(&self.ask("/element/active").unwrap());
        self.post(&(focus + "/value"), json!({"text": keys}))
            .unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    #[track_caller]
    pub fn sees(&self, words: &str) {
        let seen = self.soon(|| self.shows(words).then_some(()));
        assert!(seen.is_some(), "expected {words:?}\n{self}");
    }

    #[track_caller]
    pub fn sees_no(&self, words: &str) {
        assert!(!self.shows(words), "did not expect {words:?}\n{self}");
    }

    #[track_caller]
    pub fn is_at(&self, path: &str) {
        let there = self.soon(|| (self.path() == path).then_some(()));
        assert!(there.is_some(), "expected to be at {path}\n{self}");
    }

    fn shows(&self, words: &str) -> bool {
        let body = self.post("/element", json!({"using": "css selector", "value": "body"}));
        let text = body.and_then(|body| self.ask(&(path_of(&body) + "/text")));
        text.is_ok_and(|text| text.as_str().is_some_and(|text| text.contains(words)))
    }

    pub fn soon<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let end = Instant::now() + PATIENCE;
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
        let cookies = self.ask("/cookie").unwrap();
        cookies.as_array().unwrap().iter().map(|cookie| cookie["name"].as_str().unwrap().into()).collect()
    }

    /// Takes a cookie out of another browser, as a thief does, and goes on with it. Both are at a page of its site.
    pub fn steal_cookie(&self, other: &Browser, name: &str) {
        let cookie = other.ask(&format!("/cookie/{name}")).unwrap();
        self.post("/cookie", json!({"cookie": cookie})).unwrap();
    }

    /// Goes on inside the frame at this place.
    #[track_caller]
    pub fn enter_frame(&self, place: &str) {
        let frame = self.find(place);
        let reference = json!({REFERENCE: frame.trim_start_matches("/element/")});
        self.post("/frame", json!({"id": reference})).unwrap_or_else(|error| panic!("{error}\n{self}"));
    }

    /// Goes on in the page around all frames.
    pub fn leave_frames(&self) {
        self.post("/frame", json!({"id": null})).unwrap();
    }

    /// What the browser has logged about pages since it was last asked: refused styles, scripts, frames.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({"type": "browser"})).unwrap();
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().into()).collect()
    }

    /// Goes on in the window that was opened last.
    pub fn newest_window(&self) {
        let handles = self.soon(|| self.ask("/window/handles").ok().filter(|all| all[1].is_string()));
        let newest = handles.unwrap_or_else(|| panic!("no other window opened\n{self}"));
        self.post("/window", json!({"handle": newest.as_array().unwrap().last().unwrap()})).unwrap();
    }

    /// Closes the window, and goes on in the first.
    pub fn close_window(&self) {
        let left = value(self.agent.delete(self.session.clone() + "/window").call()).unwrap();
        self.post("/window", json!({"handle": left[0]})).unwrap();
    }

    /// Gives the browser an authenticator: a part of the device that keeps passkeys, and always finds its owner at hand.
    /// Answers its id.
    pub fn add_authenticator(&self) -> String {
        let kind = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
            "isUserVerified": true,
        });
        self.post("/webauthn/authenticator", kind).unwrap().as_str().unwrap().to_string()
    }

    /// From the next page on, the browser does not offer passkeys by itself: with a virtual authenticator it takes what it
    /// offers at once, and nobody could press a button.
    pub fn no_autofill(&self) {
        let script = "PublicKeyCredential.isConditionalMediationAvailable = async () => false";
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": script}));
    }

    pub fn remove_authenticator(&self, id: &str) {
        let path = format!("{}/webauthn/authenticator/{id}", self.session);
        value(self.agent.delete(path).call()).unwrap();
    }

    /// Whether whoever is at hand is the owner of the device, and willing.
    pub fn set_verified(&self, id: &str, verified: bool) {
        let path = format!("/webauthn/authenticator/{id}/uv");
        self.post(&path, json!({"isUserVerified": verified})).unwrap();
    }

    /// The passkeys that an authenticator keeps.
    pub fn passkeys(&self, id: &str) -> Vec<Value> {
        let found = self.ask(&format!("/webauthn/authenticator/{id}/credentials")).unwrap();
        found.as_array().unwrap().clone()
    }

    /// The width of the screen in CSS pixels; the height is what fits a page that is not long.
    pub fn screen(&self, width: u32) {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// What the reader's system prefers: `light` or `dark`.
    pub fn scheme(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// Where files go that pages send.
    pub fn downloads(&self, folder: &Path) {
        let place = json!({"behavior": "allow", "downloadPath": folder});
        self.devtools("Page.setDownloadBehavior", place);
    }

    /// Keeps a picture of the whole page, as PNG.
    pub fn photograph(&self, file: &Path) {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let shot = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let png = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }
}

/// The page as it stands, for the words of a failure.
impl Display for Browser {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let url = self.ask("/url").unwrap_or_default();
        let page = self.ask("/source").unwrap_or_default();
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
    // What Chromium leaves lying about goes with the profile.
    driver.arg("--port=0").env("TMPDIR", folder).stdout(Stdio::piped());
    let mut driver = driver
        .spawn()
        .expect("chromedriver starts once the packages chromium and chromium-driver are installed");
    let line = site::line_with(&mut driver, "started successfully on port ")?;
    Some((driver, line.trim_end_matches('.').to_string()))
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

/// The protocol has an element as a map with this one key.
const REFERENCE: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Where commands about an element go.
fn path_of(element: &Value) -> String {
    let reference = element[REFERENCE].as_str();
    format!("/element/{}", reference.expect("a reference to an element"))
}
