//! The site that a browser visits, and pages of other sites.

use super::Browser;
use crate::common::{Database, PASSWORD, Route, Server};
use std::io::{Read, Write};
use std::net::TcpListener;

/// The app in a process of its own, with a database of its own.
pub struct Site {
    server: Server,
    pub database: Database,
}

impl Site {
    pub fn open() -> Site {
        Site::open_with(&[])
    }

    pub fn open_with(settings: &[(&str, &str)]) -> Site {
        let database = Database::new();
        Site { server: Server::on(&database, settings), database }
    }

    pub fn in_production(settings: &[(&str, &str)]) -> Site {
        let database = Database::new();
        Site { server: Server::in_production(&database, settings), database }
    }

    pub fn url(&self) -> String {
        self.server.url.clone()
    }

    /// The URL of a page.
    pub fn page(&self, path: &str) -> String {
        self.server.url.clone() + path
    }

    /// Signs up through the form.
    #[track_caller]
    pub fn sign_up(&self, browser: &Browser, name: &str) {
        browser.visit(&self.page("/signup"));
        sign_up_with(browser, name, PASSWORD);
        browser.sees(&format!("Logged in: {name}"));
    }

    /// In a second tab, whoever is logged in logs out and somebody else signs up. Returns to the first tab.
    #[track_caller]
    pub fn sign_up_in_another_tab(&self, browser: &Browser, name: &str) {
        browser.run("window.open('about:blank')");
        browser.switch_to_newest_window();
        browser.visit(&self.url());
        browser.press("Log out");
        self.sign_up(browser, name);
        browser.close_window();
    }

    /// Posts a form without cookies and with this `User-Agent`, and returns the status.
    pub fn post(&self, user_agent: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
        self.server.browser().with_header("User-Agent", user_agent).post(path, fields).status
    }

    /// Makes every log-in too old for the pages that ask for a recent one.
    pub fn age_log_ins(&self) {
        self.execute("update sessions set confirmed_at = confirmed_at - 600");
    }

    /// Changes rows directly.
    pub fn execute(&self, sql: &str) {
        self.database.execute(sql);
    }

    /// The number that a `select count(*) …` finds.
    pub fn count(&self, sql: &str) -> i64 {
        self.database.count(sql)
    }
}

/// Whether one of these is the route to this path: any feature may have been removed.
pub fn has_route(routes: &[Route], method: &str, path: &str) -> bool {
    routes.iter().any(|route| route.method == method && route.path == path)
}

/// Fills in the form at /login, where the browser is.
#[track_caller]
pub fn log_in(browser: &Browser, name: &str, password: &str) {
    browser.fill("Username or e-mail", name);
    browser.fill("Password", password);
    browser.press("Log in");
}

/// Serves a page from another port, and returns the port.
pub fn serve_page(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
        for mut stream in listener.incoming().flatten() {
            let answer = head.to_string() + &page;
            // A browser opens connections before it has requests for them, so each has a thread of its own.
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// Fills in the form at /signup, where the browser is.
#[track_caller]
pub fn sign_up_with(browser: &Browser, name: &str, password: &str) {
    browser.fill("Username", name);
    browser.fill("Password", password);
    browser.fill("Repeat password", password);
    browser.press("Create account");
}

/// Another browser, started with these arguments, in which this person logs in.
#[track_caller]
pub fn log_in_elsewhere(site: &Site, name: &str, arguments: &[&str]) -> Browser {
    let browser = Browser::open_with(arguments);
    browser.visit(&site.page("/login"));
    log_in(&browser, name, PASSWORD);
    browser.sees(&format!("Logged in: {name}"));
    browser
}

#[track_caller]
pub fn assert_logged_out(browser: &Browser, site: &Site) {
    browser.visit(&site.url());
    browser.sees("Sign up");
    browser.does_not_see("Logged in");
}
