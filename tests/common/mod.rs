//! What tests of the whole program are written with: a [`Server`] is the program itself in a folder of its own, a
//! [`Browser`] visits it over a real socket.
//!
//! A test's [`Database`] is a file of SQLite or, when `TEST_DATABASE_URL` names a server, a database on Postgres; it
//! goes with the test.

// Every test file has this module to itself and uses a part of it.
#![allow(dead_code, unused_imports)]

mod http;
mod mail;
mod process;
mod proxy;
mod smtp;

pub use http::{Answer, Browser, Connection, at_once, form, patiently};
pub use mail::Mail;
pub use process::{Process, latchkey};
pub use proxy::Proxy;
pub use smtp::{Manner, Smtp};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::{AssertSqlSafe, Connection as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The password of everybody who signs up by [`Browser::sign_up`].
pub const PASSWORD: &str = "correct horse battery";

/// The e-mail address of somebody with this name.
pub fn address_of(name: &str) -> String {
    format!("{name}@example.com")
}

/// Hashing takes no time and nobody meets a limit, unless a test asks for it.
const EASY: [(&str, &str); 6] = [
    ("PORT", "0"),
    ("PASSWORD_ITERATIONS", "1"),
    ("PASSWORD_ATTEMPTS_PER_ADDRESS", "1000000/1h"),
    ("SIGNUPS_PER_ADDRESS", "1000000/1h"),
    ("MAILS_PER_ACCOUNT", "1000000/1h"),
    ("MAILS_PER_ADDRESS", "1000000/1h"),
];

/// The running program. It is killed when the test lets go of it.
pub struct Server {
    process: Process,
    pub port: u16,
    folder: TempDir,
    _database: Option<Database>,
}

impl Server {
    /// With a database of its own.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Server {
        let database = Database::new();
        let server = Server::on(&database, settings);
        Server { _database: Some(database), ..server }
    }

    /// On a database that it may share with others.
    #[track_caller]
    pub fn on(database: &Database, settings: &[(&str, &str)]) -> Server {
        Server::launch(database, settings).ready()
    }

    /// At <http://site.example>, which is not localhost and so in production.
    #[track_caller]
    pub fn in_production(database: &Database, settings: &[(&str, &str)]) -> Server {
        let port = free_port().to_string();
        let production = [
            ("BASE_URL", "http://site.example"),
            ("PORT", &*port),
            ("INSECURE_HTTP", "yes"),
            ("TRUSTED_PROXIES", "none"),
            ("PASSWORD_ITERATIONS", "600000"),
            ("SECRET_KEY", "a key for tests alone with 32 bytes or more"),
        ];
        Server::on(database, &[&production[..], settings].concat())
    }

    /// Without waiting until it is there.
    pub fn launch(database: &Database, settings: &[(&str, &str)]) -> Launched {
        let place = [("DATABASE_URL", &*database.url)];
        Launched::with(&[&EASY[..], &place, settings].concat())
    }

    /// With no settings but these.
    #[track_caller]
    pub fn bare(settings: &[(&str, &str)]) -> Server {
        Launched::with(settings).ready()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn browser(&self) -> Browser {
        Browser::at(self.port)
    }
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A server that has been started and may not listen yet.
pub struct Launched {
    process: Process,
    folder: TempDir,
    /// The one it was told, or 0.
    port: u16,
}

impl Launched {
    fn with(settings: &[(&str, &str)]) -> Launched {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&mut latchkey(folder.path(), &[], settings));
        let port = settings.iter().rfind(|(name, _)| *name == "PORT");
        Launched { process, folder, port: port.map_or(0, |(_, port)| port.parse().unwrap()) }
    }

    /// Waits until it says where it is.
    #[track_caller]
    pub fn ready(self) -> Server {
        let Launched { mut process, folder, port } = self;
        let mut place = None;
        let ended = wait_until(30, || {
            let said = process.stdout();
            let line = said.lines().find_map(|line| line.strip_prefix("Latchkey is at "));
            place = line.map(|place| url::Url::parse(place).unwrap());
            place.is_some() || process.has_ended()
        });
        let place = place.unwrap_or_else(|| panic!("it did not start (ended: {ended}):\n{process}"));
        let port = if port == 0 { place.port().unwrap() } else { port };
        Server { process, port, folder, _database: None }
    }
}

/// Waits for a condition, and says whether it was met within so many seconds.
pub fn wait_until(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > Duration::from_secs(seconds) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// For a test that measures time, or that keeps all cores busy.
pub fn alone() -> MutexGuard<'static, ()> {
    static CORES: Mutex<()> = Mutex::new(());
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets this process and those it starts have as many sockets open as the system permits at all.
pub fn allow_many_sockets() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
}

/// A database for one test, which goes with it. Declare it before the servers that use it.
pub struct Database {
    pub url: String,
    _folder: Option<TempDir>,
    server: Option<String>,
}

impl Database {
    pub fn new() -> Database {
        Database::postgres().unwrap_or_else(|| {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}/test.db", folder.path().display());
            Database { url, _folder: Some(folder), server: None }
        })
    }

    /// One on the Postgres server that `TEST_DATABASE_URL` names, if it does.
    pub fn postgres() -> Option<Database> {
        let server = std::env::var("TEST_DATABASE_URL").ok()?;
        let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
        execute(&server, format!("create database {name}"));
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Some(Database { url: url.to_string(), _folder: None, server: Some(server) })
    }

    /// The number that a `select count(*) …` finds.
    pub fn count(&self, sql: &'static str) -> i64 {
        block_on(async {
            let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
            let (count,): (i64,) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
            count
        })
    }

    /// Changes rows as no page would.
    pub fn execute(&self, sql: &'static str) {
        execute(&self.url, sql.to_string());
    }

    /// Every value of every column of every table, each with the place where it stands; bytes are `\x` and hex.
    pub fn dump(&self) -> Vec<(String, String)> {
        let columns = if self.server.is_some() {
            "select cast(table_name as text), cast(column_name as text) from information_schema.columns \
             where table_schema = 'public'"
        } else {
            "select tables.name, columns.name from sqlite_master tables \
             join pragma_table_info(tables.name) columns where tables.type = 'table'"
        };
        block_on(async {
            let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
            let columns: Vec<(String, String)> =
                sqlx::query_as(columns).fetch_all(&mut connection).await.unwrap();
            let mut dump = Vec::new();
            for (table, column) in columns {
                let text = format!("cast(\"{column}\" as text)");
                let value = match self.server {
                    Some(_) => text,
                    None => format!(
                        "case typeof(\"{column}\") when 'blob' then '\\x' || lower(hex(\"{column}\")) else {text} end"
                    ),
                };
                let sql = AssertSqlSafe(format!("select {value} from {table}"));
                let values: Vec<(Option<String>,)> =
                    sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
                let place = format!("{table}.{column}");
                dump.extend(values.into_iter().filter_map(|(value,)| Some((place.clone(), value?))));
            }
            dump
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            let name = url::Url::parse(&self.url).unwrap().path()[1..].to_string();
            execute(server, format!("drop database if exists {name} with (force)"));
        }
    }
}

fn execute(server: &str, sql: String) {
    block_on(async {
        let mut connection = sqlx::AnyConnection::connect(server).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    sqlx::any::install_default_drivers();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
