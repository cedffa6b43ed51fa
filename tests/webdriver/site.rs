//! The site that a browser visits, and the pages of others that it visits besides.

use super::Browser;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use ureq::Agent;

/// The password of whoever signs up here.
pub const PASSWORD: &str = "correct horse battery";

/// Waits for a line of a program's output that has `words`, and answers the rest of it; `None` if it ends without one.
pub fn line_with(program: &mut Child, words: &str) -> Option<String> {
    let lines = BufReader::new(program.stdout.as_mut().unwrap()).lines();
    let rest =
        |line: std::io::Result<String>| line.unwrap().split_once(words).map(|(_, rest)| rest.to_string());
    lines.filter_map(rest).next()
}

/// The app as a process of its own, with a database of its own.
pub struct Site {
    process: Child,
    pub url: String,
    database: String,
    /// The Postgres server that has the database; SQLite's is in the folder.
    server: Option<String>,
    _folder: TempDir,
}

impl Site {
    pub fn open() -> Site {
        Site::open_with(&[("PORT", "0"), ("PASSWORD_ITERATIONS", "1")])
    }

    pub fn open_with(settings: &[(&str, &str)]) -> Site {
        sqlx::any::install_default_drivers();
        let folder = tempfile::tempdir().unwrap();
        let server = std::env::var("TEST_DATABASE_URL").ok();
        let database = match &server {
            Some(server) => {
                let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
                on(server, &format!("create database {name}"));
                let mut url = url::Url::parse(server).unwrap();
                url.set_path(&name);
                url.to_string()
            }
            None => format!("sqlite://{}/test.db", folder.path().display()),
        };
        let mut process = Command::new(env!("CARGO_BIN_EXE_latchkey"))
            .env_clear()
            .envs(settings.iter().copied())
            .env("DATABASE_URL", &database)
            .current_dir(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let url = line_with(&mut process, " is at ").expect("the site starts");
        Site { process, url, database, server, _folder: folder }
    }

    pub fn page(&self, path: &str) -> String {
        self.url.clone() + path
    }

    /// Signs up through the form.
    #[track_caller]
    pub fn sign_up(&self, browser: &Browser, name: &str) {
        browser.visit(&self.page("/signup"));
        browser.fill("Username", name);
        browser.fill("Password", PASSWORD);
        browser.fill("Password, once more", PASSWORD);
        browser.press("Create account");
        browser.sees(&format!("Logged in: {name}"));
    }

    /// Posts a form as somebody without cookies whose `User-Agent` is `device`, and answers the status.
    pub fn post(&self, device: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None);
        let request = config.build().new_agent().post(self.page(path)).header("user-agent", device);
        request.send_form(fields.iter().copied()).unwrap().status().as_u16()
    }

    /// As if the last log-in had been too long ago for what could lock somebody out.
    pub fn age_log_ins(&self) {
        self.execute("update sessions set confirmed_at = confirmed_at - 600");
    }

    /// Changes rows as no page would.
    pub fn execute(&self, sql: &str) {
        on(&self.database, sql);
    }

    /// The number that a `select count(*) …` finds.
    pub fn count(&self, sql: &str) -> i64 {
        on(&self.database, sql)[0].get(0)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(server) = &self.server {
            let name = url::Url::parse(&self.database).unwrap().path()[1..].to_string();
            let (server, drop_it) = (server.clone(), format!("drop database if exists {name} with (force)"));
            // In a thread, so that a failure here does not hide the one that brought us here.
            let _ = std::thread::spawn(move || on(&server, &drop_it)).join();
        }
    }
}

fn on(database: &str, sql: &str) -> Vec<sqlx::any::AnyRow> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options: sqlx::any::AnyConnectOptions = database.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_string()))).await.unwrap()
    })
}

/// Fills in the form at /login, where the browser is.
#[track_caller]
pub fn log_in(browser: &Browser, name: &str, password: &str) {
    browser.fill("Username or e-mail", name);
    browser.fill("Password", password);
    browser.press("Log in");
}

/// Serves a page at an address that is not the site's, and answers its port.
pub fn elsewhere(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
        for mut stream in listener.incoming().flatten() {
            let answer = head.to_string() + &page;
            // Browsers open connections ahead of their requests, so each has a thread to wait in.
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
