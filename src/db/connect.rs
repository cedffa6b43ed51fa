//! Opens connections: the pool, and the direct connection for migrations.

use super::availability::Availability;
use super::engine::{Db, DbConnection};
use super::patience::Patience;
use crate::base::Config;
#[cfg(feature = "sqlite")]
use crate::base::database_url::{DEFAULT_DATABASE, sqlite_mode};
use crate::base::database_url::{check_files, for_sqlx, is_sqlite};
#[cfg(feature = "sqlite")]
use crate::base::files::{others_can_read, private_file, private_folder};
#[cfg(feature = "sqlite")]
use anyhow::bail;
use anyhow::{Context, Result, anyhow, ensure};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, Connection, Executor};
#[cfg(feature = "sqlite")]
use std::fs::{File, OpenOptions};
#[cfg(feature = "sqlite")]
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long one read or write may take in all, including waiting.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A connection that has been idle for longer is pinged before it is used.
const PING_AFTER: Duration = Duration::from_secs(10);

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("choose an engine: --features sqlite, --features postgres, or both");

const COMPILED_IN: &[&str] = &[
    #[cfg(feature = "sqlite")]
    "sqlite",
    #[cfg(feature = "postgres")]
    "postgres",
];

/// What a process may do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read it, and create no files, not even those that SQLite keeps next to its own.
    Read,
    /// Write to what exists.
    Write,
    /// Create it, and bring its schema up to date.
    Create,
}

const PRAGMAS: &str = "pragma busy_timeout = 5000; pragma foreign_keys = on;";

/// Ends statements on the server that nothing waits for any more, and keeps idle sessions, even if the database's
/// default is to end them. Servers before version 14 have no such default.
const SETTINGS: &str = "set statement_timeout = '3s'; \
    select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout'";

/// Checks that the engine is compiled in.
///
/// # Errors
/// One sentence that says what to do.
pub fn prepare_engine(config: &Config) -> Result<()> {
    sqlx::any::install_default_drivers();
    let engine = if is_sqlite(&config.database_url) { "sqlite" } else { "postgres" };
    ensure!(
        COMPILED_IN.contains(&engine),
        "this binary was built without the engine of DATABASE_URL: use another engine, or build with --features \
         {engine}"
    );
    Ok(())
}

/// Checks that the engine is compiled in, and that the SQLite files exist. [`Mode::Create`] creates them. Returns
/// [`Mode::Read`] if they can only be read.
///
/// # Errors
/// One sentence that says what to set.
pub fn prepare(config: &Config, mode: Mode) -> Result<Mode> {
    prepare_engine(config)?;
    check_files("DATABASE_URL", &config.database_url)?;
    check_files("DATABASE_DIRECT_URL", &config.database_direct_url)?;
    #[cfg(feature = "sqlite")]
    if is_sqlite(&config.database_url) {
        prepare_file(&config.database_direct_url, mode, !config.development())?;
        return prepare_file(&config.database_url, mode, !config.development());
    }
    Ok(mode)
}

/// The file of this address, if it is a SQLite address.
///
/// # Errors
/// When it is not a valid address.
pub fn database_file(url: &str) -> Result<Option<PathBuf>> {
    #[cfg(feature = "sqlite")]
    if is_sqlite(url) {
        return sqlite_file(url).map(Some);
    }
    let _ = url;
    Ok(None)
}

#[cfg(feature = "sqlite")]
pub fn sqlite_file(url: &str) -> Result<PathBuf> {
    let options = sqlx::sqlite::SqliteConnectOptions::from_str(&sqlite_url(url, Mode::Write))?;
    Ok(options.get_filename().to_path_buf())
}

#[cfg(not(feature = "sqlite"))]
pub fn sqlite_file(url: &str) -> Result<std::path::PathBuf> {
    Ok(url.into())
}

/// The address of this SQLite file.
pub fn url_of(file: &Path) -> String {
    format!("sqlite:{}", utf8_percent_encode(&file.to_string_lossy(), NON_ALPHANUMERIC))
}

/// The file contains password hashes and addresses, so only its owner may read it, and its folder too if it is created
/// here. SQLite gives the files next to it the same mode. In production, the site does not write to a file that others
/// can read.
#[cfg(feature = "sqlite")]
fn prepare_file(url: &str, mode: Mode, production: bool) -> Result<Mode> {
    let (file, given) = (&sqlite_file(url)?, sqlite_mode(url));
    let name = file.display();
    if mode == Mode::Create && given.as_deref().is_none_or(|mode| mode == "rwc") && !file.exists() {
        make_file(file).map_err(|error| unusable(file, "made", &error))?;
    }
    check_is_file(file, mode)?;
    let opened = File::open(file).map_err(|error| unusable(file, "opened", &error))?;
    ensure!(
        mode == Mode::Read || !(production && others_can_read(&opened)?),
        "others can read the database file {name}: run chmod 600 {name}"
    );
    let can_be_written = given.as_deref() != Some("ro") && OpenOptions::new().append(true).open(file).is_ok();
    Ok(if can_be_written { mode } else { Mode::Read })
}

#[cfg(feature = "sqlite")]
fn make_file(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), private_folder)?;
    private_file(file).map(drop)
}

#[cfg(feature = "sqlite")]
fn check_is_file(file: &Path, mode: Mode) -> Result<()> {
    let name = file.display();
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) => {
            let what = if found.is_dir() { "a folder" } else { "none" };
            bail!("DATABASE_URL must name a file, and {name} is {what}: set it to one such as {DEFAULT_DATABASE}")
        }
        Err(error) if error.kind() != ErrorKind::NotFound => bail!(unusable(file, "opened", &error)),
        Err(_) if mode == Mode::Create => {
            bail!(
                "there is no database file {name}, and mode= prevents it from being created: remove it from \
                   DATABASE_URL"
            )
        }
        Err(_) => bail!("there is no database file {name}: start the site once, or set DATABASE_URL to its file"),
    }
}

#[cfg(feature = "sqlite")]
fn unusable(file: &Path, done: &str, error: &io::Error) -> anyhow::Error {
    let is_lost = error.kind() == ErrorKind::NotFound && file.is_symlink();
    let cause = if is_lost { "it is a link to a folder that does not exist".into() } else { error.to_string() };
    anyhow!(
        "the database file {} cannot be {done} ({cause}): give this user permission, or set DATABASE_URL to another \
         file",
        file.display()
    )
}

/// The address for sqlx, which parses everything with slashes: it would read `sqlite://C:/app.db` as a host with an
/// empty port, and `sqlite://a/../app.db` as a file in the folder `a`. Connections never create the file: if it was
/// removed, there is no database.
fn sqlite_url(url: &str, mode: Mode) -> String {
    const SLASHES: &AsciiSet = &CONTROLS.add(b'/').add(b' ');
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    // The form with three slashes and a drive.
    let drive = cfg!(windows) && path.as_bytes().get(2) == Some(&b':');
    let path = path.strip_prefix('/').filter(|_| drive).unwrap_or(path);
    let mode = if mode == Mode::Read { "ro" } else { "rw" };
    format!("sqlite:{}?mode={mode}", utf8_percent_encode(path, SLASHES))
}

/// Like [`sqlite_url`]. If no process has the file open, it is opened as immutable, because SQLite would otherwise
/// create two files next to it and leave them there.
#[cfg(feature = "sqlite")]
fn in_mode(url: &str, mode: Mode) -> Result<String> {
    let file = sqlite_file(url)?.canonicalize().unwrap_or_default();
    let is_in_use = ["-wal", "-journal"].iter().any(|suffix| {
        let mut journal = file.clone().into_os_string();
        journal.push(suffix);
        Path::new(&journal).exists()
    });
    let immutable = if mode == Mode::Read && !is_in_use { "&immutable=1" } else { "" };
    Ok(sqlite_url(url, mode) + immutable)
}

#[cfg(not(feature = "sqlite"))]
fn in_mode(url: &str, mode: Mode) -> Result<String> {
    Ok(sqlite_url(url, mode))
}

type DbOptions = <DbConnection as sqlx::Connection>::Options;

fn options(url: &str, mode: Mode) -> Result<DbOptions> {
    let url = if is_sqlite(url) { in_mode(url, mode)? } else { for_sqlx(url) };
    DbOptions::from_str(&url).context("DATABASE_URL cannot be read as the address of a database")
}

/// The statements that prepare a connection.
fn preparation(url: &str) -> &'static str {
    if is_sqlite(url) { PRAGMAS } else { SETTINGS }
}

/// # Errors
/// When the database cannot be reached in time.
pub async fn pool(
    url: &str,
    size: u32,
    mode: Mode,
    availability: Availability,
    patience: &Patience,
) -> Result<sqlx::Pool<Db>> {
    let prepare = preparation(url);
    let pool = PoolOptions::<Db>::new()
        .max_connections(size)
        // All are opened in advance, and a lost one is replaced in the background.
        .min_connections(size)
        .acquire_timeout(DEADLINE)
        // A ping before every use would be half the cost of a page for a logged-in user.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let opened = Instant::now().checked_sub(meta.age).unwrap_or_else(Instant::now);
            let is_outdated = availability.is_outdated(opened);
            let may_be_lost = meta.idle_for > PING_AFTER || availability.may_be_lost(opened);
            Box::pin(async move {
                if is_outdated {
                    return Ok(false);
                }
                if may_be_lost {
                    sqlx::Connection::ping(connection).await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(prepare).await?;
                Ok(())
            })
        });
    let options = options(url, mode)?;
    let connecting = async || match pool.clone().connect_with(options.clone()).await {
        // The pool does not say why it kept trying.
        Err(sqlx::Error::PoolTimedOut) => {
            connect(url, mode).await?.close().await?;
            Err(sqlx::Error::PoolTimedOut.into())
        }
        connected => Ok(connected?),
    };
    patience.wait_for("the database in DATABASE_URL to be ready", connecting).await
}

/// A connection of its own.
///
/// # Errors
/// When the database cannot be reached. There is no time limit.
pub async fn connect(url: &str, mode: Mode) -> Result<DbConnection> {
    let mut connection = options(url, mode)?.connect().await?;
    connection.execute(preparation(url)).await?;
    Ok(connection)
}

/// The first connection to the database that this variable names.
///
/// # Errors
/// One sentence: it cannot be reached in time, or cannot store every character.
pub async fn first(variable: &str, url: &str, mode: Mode, patience: &Patience) -> Result<DbConnection> {
    let connecting = async || {
        let mut connection = connect(url, mode).await?;
        if !is_sqlite(url) {
            check_encoding(&mut connection).await?;
        }
        Ok(connection)
    };
    let connected = patience.wait_for(&format!("the database in {variable} to be ready"), connecting).await;
    connected.map_err(|error| explained(&format!("the database in {variable} cannot be reached"), error))
}

/// Removes what sqlx says twice.
pub fn explained(what: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(sqlx::Error::Database(cause)) => anyhow!("{what}: {}", cause.message()),
        Some(_) => anyhow!("{what}: {}", error.root_cause()),
        None => error,
    }
}

/// SQL_ASCII stores the bytes of UTF-8 unchanged.
async fn check_encoding(connection: &mut DbConnection) -> Result<()> {
    let encoding = sqlx::query_scalar("select current_setting('server_encoding')");
    let encoding: String = encoding.fetch_one(connection).await?;
    ensure!(
        matches!(&*encoding, "UTF8" | "SQL_ASCII"),
        "the encoding of the database is {encoding}, which lacks most characters: create one with create database … \
         encoding 'UTF8' template template0"
    );
    Ok(())
}

/// Whether all transactions on this Postgres server are read-only, as on a standby.
///
/// # Errors
/// When it does not answer.
pub async fn is_read_only(connection: &mut DbConnection) -> sqlx::Result<bool> {
    let setting = sqlx::query_scalar("select current_setting('transaction_read_only')");
    let setting: String = setting.fetch_one(connection).await?;
    Ok(setting == "on")
}

/// Lets SQLite write and read at the same time. The setting is stored in the file. If several processes set it for a
/// new file at once, all but one fail with "locked".
pub const USE_WAL: &str = "pragma journal_mode = wal";

/// Fails if another process is writing to the SQLite file.
pub const TRY_TO_WRITE: &str = "begin immediate; rollback";

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::test::TestApp;

    #[test]
    #[cfg_attr(not(unix), ignore = "needs the modes of unix")]
    fn a_site_in_production_does_not_start_with_a_file_that_others_can_read() {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("made/here.db");
            let url = &format!("sqlite:{}", file.display());
            prepare_file(url, Mode::Create, true).unwrap();
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            for mode in [Mode::Create, Mode::Write] {
                assert!(prepare_file(url, mode, true).unwrap_err().to_string().contains("chmod 600"));
                prepare_file(url, mode, false).unwrap();
            }
            prepare_file(url, Mode::Read, true).unwrap();
        }
    }

    #[test]
    fn a_start_that_finds_no_place_for_its_file_says_what_is_there_instead() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &str, parameters: &str| {
            let url = format!("sqlite:{}{parameters}", folder.path().join(path).display());
            let said = prepare_file(&url, Mode::Create, true).unwrap_err().to_string();
            assert!(said.contains("DATABASE_URL") && !said.contains("start the site once"), "{said}");
            said
        };
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(refused("data", "").contains("is a folder"));
        assert!(refused("file/app.db", "").contains("cannot be made"));
        assert!(refused("app.db", "?mode=rw").contains("mode="));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("gone/app.db"), folder.path().join("link")).unwrap();
            assert!(refused("link", "").contains("is a link"));
        }
    }

    /// Earlier versions can corrupt the file when two connections restart the WAL at the same time.
    #[tokio::test]
    async fn sqlite_is_a_version_whose_wal_cannot_corrupt_the_file() {
        let app = TestApp::new().await;
        if !is_sqlite(&app.app.config.database_url) {
            return;
        }
        let version = sqlx::query_scalar("select sqlite_version()");
        let version: String = app.app.db.read(async |db| Ok(version.fetch_one(db).await?)).await.unwrap();
        let number: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(number >= vec![3, 51, 3], "{version}");
    }
}
