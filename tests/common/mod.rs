//! Helpers for tests of the whole program: a [`Server`] is the program itself in a folder of its own, and a [`Browser`]
//! is a client that visits it over a real socket.
//!
//! A test's [`Database`] is an SQLite file or, when `TEST_DATABASE_URL` names a server, a database on Postgres. It is
//! deleted with the test.

// Each of the two test programs uses a part of this, and modules that use the rest may have been removed.
#![allow(dead_code, unused_imports)]

mod http;
mod mail;
mod process;
mod proxy;
mod smtp;
mod stolen;

pub use http::{
    Answer, Browser, Connection, HOME, form, password_fields, retry_while_busy, send_at_once, sign_up_fields,
};
pub use mail::{Mail, assert_one_mail_each, message_ids};
pub use process::{
    Process, Route, STOPPING, Signal, command_error, command_output, latchkey, refusal, refusal_with, routes,
    with_file_limit, wrong_use,
};
pub use proxy::Proxy;
pub use smtp::{Behaviour, Fault, Smtp, Stage, assert_all_mails_sent, site_with_mail, unsent_mails};
pub use stolen::{cookie_header, encodings_of, tokens_in};

use sqlx::{AssertSqlSafe, Connection as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The password of everyone who signs up by [`Browser::sign_up`].
pub const PASSWORD: &str = "correct horse battery";

/// The one that they change it to.
pub const NEW_PASSWORD: &str = "quiet harbour lamp";

/// A setting. Processes with the same database need the same key.
pub const KEY: (&str, &str) = ("SECRET_KEY", "a key for tests alone with 32 bytes or more");

/// A setting. Nothing is logged.
pub const QUIET: (&str, &str) = ("RUST_LOG", "off");

/// The e-mail address of the person with this name.
pub fn address_of(name: &str) -> String {
    format!("{name}@example.com")
}

/// `count` names that begin with this.
pub fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// Signs everyone up, each with the address NAME@example.com.
#[track_caller]
pub fn sign_up_all(server: &Server, names: &[String]) {
    for name in names {
        server.browser().sign_up_with_address(name).assert_redirect("/");
    }
}

/// Hashing takes no time and no limit is reached, unless a test asks for it.
const TEST_SETTINGS: [(&str, &str); 6] = [
    ("PORT", "0"),
    ("PASSWORD_ITERATIONS", "1"),
    ("PASSWORD_ATTEMPTS_PER_ADDRESS", "1000000/1h"),
    ("SIGNUPS_PER_ADDRESS", "1000000/1h"),
    ("MAILS_PER_ACCOUNT", "1000000/1h"),
    ("MAILS_PER_ADDRESS", "1000000/1h"),
];

/// The running program. It is killed when this is dropped.
pub struct Server {
    process: Process,
    /// Where it says that it is, such as `http://localhost:8000`.
    pub url: String,
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

    /// With a database that it may share with other servers.
    #[track_caller]
    pub fn on(database: &Database, settings: &[(&str, &str)]) -> Server {
        Server::spawn(database, settings).ready()
    }

    /// In production, because <http://site.example> is not localhost.
    #[track_caller]
    pub fn in_production(database: &Database, settings: &[(&str, &str)]) -> Server {
        let port = free_port().to_string();
        let production = [
            ("BASE_URL", "http://site.example"),
            ("PORT", &*port),
            ("INSECURE_HTTP", "yes"),
            ("TRUSTED_PROXIES", "none"),
            ("PASSWORD_ITERATIONS", "600000"),
            KEY,
        ];
        Server::on(database, &[&production[..], settings].concat())
    }

    /// Without waiting until it listens.
    pub fn spawn(database: &Database, settings: &[(&str, &str)]) -> Starting {
        let database_url = [("DATABASE_URL", &*database.url)];
        Starting::with(&[&TEST_SETTINGS[..], &database_url, settings].concat())
    }

    /// Two that share a database.
    #[track_caller]
    pub fn pair(database: &Database, settings: &[(&str, &str)]) -> [Server; 2] {
        [0; 2].map(|_| Server::spawn(database, settings)).map(Starting::ready)
    }

    /// As [`Server::on`]. It may have only so many files and sockets open.
    #[track_caller]
    pub fn on_with_files(files: usize, database: &Database, settings: &[(&str, &str)]) -> Server {
        let settings = [&TEST_SETTINGS[..], &[("DATABASE_URL", &*database.url)], settings].concat();
        Starting::by(&settings, |command| process::with_file_limit(files, &command)).ready()
    }

    /// As by `nohup`.
    #[track_caller]
    pub fn with_hang_up_ignored(settings: &[(&str, &str)]) -> Server {
        let database = Database::new();
        let settings = [&TEST_SETTINGS[..], &[("DATABASE_URL", &*database.url)], settings].concat();
        let server = Starting::by(&settings, |command| process::under_shell("trap '' HUP", &command)).ready();
        Server { _database: Some(database), ..server }
    }

    /// With no settings but these.
    #[track_caller]
    pub fn with_only(settings: &[(&str, &str)]) -> Server {
        Starting::with(settings).ready()
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
pub struct Starting {
    process: Process,
    folder: TempDir,
    /// The one it was told to use, or 0.
    port: u16,
}

impl Starting {
    fn with(settings: &[(&str, &str)]) -> Starting {
        Starting::by(settings, |command| command)
    }

    /// By the command that `change` makes of the usual one.
    fn by(settings: &[(&str, &str)], change: impl FnOnce(Command) -> Command) -> Starting {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&mut change(latchkey(folder.path(), &[], settings)));
        let port = settings.iter().rfind(|(name, _)| *name == "PORT");
        Starting { process, folder, port: port.map_or(0, |(_, port)| port.parse().unwrap()) }
    }

    /// Waits until it says where it is.
    #[track_caller]
    pub fn ready(self) -> Server {
        let Starting { mut process, folder, port } = self;
        let mut url = None;
        let ended = wait_until(30, || {
            let output = process.stdout();
            let line = output.lines().find_map(|line| line.split_once(" is at ").map(|(_, url)| url));
            url = line.map(|url| url.trim_end_matches('/').to_string());
            url.is_some() || process.has_ended()
        });
        let url = url.unwrap_or_else(|| panic!("it did not start (ended: {ended}):\n{process}"));
        let port = if port == 0 { url::Url::parse(&url).unwrap().port().unwrap() } else { port };
        Server { process, url, port, folder, _database: None }
    }
}

/// Waits for a condition, and returns whether it was met within so many seconds.
pub fn wait_until(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !condition() {
        if begun.elapsed() > Duration::from_secs(seconds) {
            return false;
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(20));
    }
    true
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

static ALONE: RwLock<()> = RwLock::new(());

/// For a test that measures time or keeps all cores busy. Meanwhile no other runs that calls this or
/// [`run_with_others`].
pub fn run_alone() -> RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that mostly waits.
pub fn run_with_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The first quartile, because other load on the machine only ever adds.
pub fn first_quartile(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 4]
}

/// Lets this process and those it starts have as many sockets open as the system permits, up to a number that all do.
pub fn allow_many_sockets() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        let raise_to = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum });
        let _ = raise_to(maximum).or_else(|_| raise_to(Some(10_240)));
    }
}

/// A database for one test, deleted when dropped. Declare it before the servers that use it.
pub struct Database {
    pub url: String,
    folder: Option<TempDir>,
    server: Option<String>,
}

impl Database {
    pub fn new() -> Database {
        Database::postgres().unwrap_or_else(Database::sqlite)
    }

    pub fn sqlite() -> Database {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/test.db", folder.path().display());
        Database { url, folder: Some(folder), server: None }
    }

    /// This SQLite file, which is not deleted.
    pub fn at(file: &str) -> Database {
        Database { url: format!("sqlite:{file}"), folder: None, server: None }
    }

    /// One that a site has been started with.
    #[track_caller]
    pub fn of_a_site() -> Database {
        let database = Database::new();
        let mut server = Server::on(&database, &[]);
        server.signal(Signal::TERM);
        server.wait_for_exit(20);
        database
    }

    /// One on the Postgres server that `TEST_DATABASE_URL` names, if it does.
    pub fn postgres() -> Option<Database> {
        Database::on_postgres("")
    }

    /// The same, with this encoding.
    pub fn with_encoding(encoding: &str) -> Option<Database> {
        Database::on_postgres(&format!("template template0 encoding '{encoding}' locale 'C'"))
    }

    fn on_postgres(options: &str) -> Option<Database> {
        let server = std::env::var("TEST_DATABASE_URL").ok()?;
        let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
        execute(&server, format!("create database {name} {options}"));
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Some(Database { url: url.to_string(), folder: None, server: Some(server) })
    }

    /// The names of the files of SQLite.
    pub fn files(&self) -> Vec<String> {
        self.contents().into_iter().map(|(name, _)| name).collect()
    }

    /// The files of SQLite, without the one that holds nothing but who reads and writes at the moment.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let files = folder.path().read_dir().unwrap().map(|file| file.unwrap());
        let files = files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()));
        let mut files: Vec<_> = files.filter(|(name, _)| !name.ends_with("-shm")).collect();
        files.sort();
        files
    }

    /// The number that a `select count(*) …` finds.
    pub fn count(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_string());
        block_on(async {
            let mut connection = sqlx::AnyConnection::connect(&self.url).await.unwrap();
            let (count,): (i64,) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
            count
        })
    }

    /// Changes rows directly.
    pub fn execute(&self, sql: &str) {
        execute(&self.url, sql.to_string());
    }

    /// Every value of every column of every table, each with its `table.column`; bytes are `\x` and hex.
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
            let columns: Vec<(String, String)> = sqlx::query_as(columns).fetch_all(&mut connection).await.unwrap();
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
                let values: Vec<(Option<String>,)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
                let name = format!("{table}.{column}");
                dump.extend(values.into_iter().filter_map(|(value,)| Some((name.clone(), value?))));
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
