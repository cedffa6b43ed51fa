//! Opens connections: the pool, and the direct connection for migrations.

use super::availability::Availability;
use super::engine::{Db, DbConnection};
#[cfg(feature = "sqlite")]
use crate::base::files::{others_can_read, private_file, private_folder};
use crate::base::{Config, config::is_sqlite, error::is_unavailable};
use anyhow::{Context, Result, ensure};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, Executor};
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long one read or write waits for the database, all in all.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A connection that was idle for longer is pinged before it is used.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long the start waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("choose an engine: --features sqlite, --features postgres, or both");

const COMPILED_IN: &[&str] = &[
    #[cfg(feature = "sqlite")]
    "sqlite",
    #[cfg(feature = "postgres")]
    "postgres",
];

const PRAGMAS: &str = "pragma busy_timeout = 5000; pragma journal_mode = wal; pragma foreign_keys = on;";

/// Ends statements on the server that nobody waits for any more.
const STATEMENT_TIMEOUT: &str = "set statement_timeout = '3s'";

const UNREACHABLE: &str = "the database that DATABASE_URL names cannot be reached";

/// Checks that the engine is compiled in, and creates the files of SQLite.
///
/// # Errors
/// One sentence that says what to set.
pub fn prepare(config: &Config) -> Result<()> {
    sqlx::any::install_default_drivers();
    let engine = if is_sqlite(&config.database_url) { "sqlite" } else { "postgres" };
    ensure!(
        COMPILED_IN.contains(&engine),
        "this binary was built without the engine of DATABASE_URL: set another, or build with --features {engine}"
    );
    #[cfg(feature = "sqlite")]
    for url in [&config.database_url, &config.database_direct_url] {
        if is_sqlite(url) {
            let options = sqlx::sqlite::SqliteConnectOptions::from_str(&sqlite_url(url))?;
            create_file(options.get_filename(), !config.development())?;
        }
    }
    Ok(())
}

/// The file holds password hashes and addresses, so only its owner may read it, and its folder too if it is created here.
/// SQLite gives the files beside it the same mode. The site does not start in production with one that others can read.
#[cfg(feature = "sqlite")]
fn create_file(file: &Path, production: bool) -> Result<()> {
    if let Some(folder) = file.parent() {
        private_folder(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let opened = private_file(file);
    let opened = opened.with_context(|| format!("cannot open the database file {}", file.display()))?;
    ensure!(
        !(production && others_can_read(&opened)?),
        "others can read the database file {0}: run chmod 600 {0}",
        file.display()
    );
    Ok(())
}

/// The address as sqlx is given it: it parses what has slashes, and would read `sqlite://C:/app.db` as a host with an empty
/// port and `sqlite://a/../app.db` as a file of the folder `a`.
fn sqlite_url(url: &str) -> String {
    const SLASHES: &AsciiSet = &CONTROLS.add(b'/').add(b' ');
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
    // The form with three slashes and a drive.
    let drive = cfg!(windows) && path.as_bytes().get(2) == Some(&b':');
    let path = path.strip_prefix('/').filter(|_| drive).unwrap_or(path);
    let mode = if parameters.contains("mode=") { "" } else { "mode=rwc&" };
    format!("sqlite:{}?{mode}{parameters}", utf8_percent_encode(path, SLASHES))
}

type DbOptions = <DbConnection as sqlx::Connection>::Options;

fn options(url: &str) -> Result<DbOptions> {
    let url = if is_sqlite(url) { sqlite_url(url) } else { url.to_string() };
    DbOptions::from_str(&url).context("DATABASE_URL cannot be read as the address of a database")
}

/// # Errors
/// When the database cannot be reached.
pub async fn pool(url: &str, size: u32, availability: Availability) -> Result<sqlx::Pool<Db>> {
    let prepare = if is_sqlite(url) { PRAGMAS } else { STATEMENT_TIMEOUT };
    let pool = PoolOptions::<Db>::new()
        .max_connections(size)
        // All are open before they are needed, and one that is lost is replaced in the background.
        .min_connections(size)
        .acquire_timeout(DEADLINE)
        // A ping before every use is half of a signed-in page's cost.
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
    pool.connect_with(options(url)?).await.context(UNREACHABLE)
}

/// A connection for migrations, which need not go through a pooler.
///
/// # Errors
/// When the database cannot be reached.
pub async fn direct(url: &str) -> Result<DbConnection> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, options(url)?.connect()).await;
    let mut connection = connecting.context(UNREACHABLE)?.context(UNREACHABLE)?;
    if !is_sqlite(url) {
        return Ok(connection);
    }
    // When several processes switch a new file to WAL at once, all but one fail at once with "locked".
    let started = Instant::now();
    while let Err(error) = connection.execute(PRAGMAS).await {
        if !is_unavailable(&error) || started.elapsed() > CONNECT_TIMEOUT {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(connection)
}

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
            create_file(&file, true).unwrap();
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(create_file(&file, true).unwrap_err().to_string().contains("chmod 600"));
            create_file(&file, false).unwrap();
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
