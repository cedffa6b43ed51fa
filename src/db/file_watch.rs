//! Notices when the SQLite files are no longer those that are open, because they were removed, moved or replaced while
//! the site runs. Writes would go to files that nothing can find again, so the database is unavailable until the same
//! files are back.

use super::availability::Availability;
use super::connect::{self, Mode};
use super::engine::DbConnection;
use crate::base::config::is_sqlite;
use anyhow::Result;
use sqlx::{Connection, Executor};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;

/// The time between two checks. What is committed in between may be lost.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub struct FileWatch {
    /// SQLite's log stays the same file as long as there is a connection.
    connection: Arc<Mutex<Option<DbConnection>>>,
    task: AbortHandle,
}

impl FileWatch {
    /// Watches the files of an open database, if it has any.
    ///
    /// # Errors
    /// When they cannot be opened again.
    pub async fn start(url: &str, mode: Mode, availability: &Availability) -> Result<Option<FileWatch>> {
        if !is_sqlite(url) {
            return Ok(None);
        }
        let mut connection = connect::connect(url, mode).await?;
        // Opens the log.
        connection.execute("pragma schema_version").await?;
        let (files, availability) = (Files::at(&connect::sqlite_file(url)?)?, availability.clone());
        let task = tokio::spawn(async move { files.watch(&availability).await }).abort_handle();
        Ok(Some(FileWatch { connection: Arc::new(Mutex::new(Some(connection))), task }))
    }

    /// Closes its connection, the last one.
    pub async fn close(&self) {
        self.task.abort();
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!("the database file could not be closed: {error}");
        }
    }
}

/// The files that were opened, each by its path.
#[derive(Clone)]
struct Files(Arc<[(PathBuf, Identity)]>);

/// The device and the inode.
type Identity = (u64, u64);

impl Files {
    /// The database file, and those that SQLite keeps next to it.
    fn at(file: &Path) -> io::Result<Files> {
        let beside = file.canonicalize()?.into_os_string();
        let with = |suffix| [beside.clone(), OsString::from(suffix)].into_iter().collect::<OsString>().into();
        let paths = [file.to_path_buf(), with("-wal"), with("-shm")];
        let there = paths.into_iter().filter_map(|path| identity(&path).ok().map(|identity| (path, identity)));
        Ok(Files(there.collect()))
    }

    async fn watch(&self, availability: &Availability) {
        loop {
            sleep(PAUSE).await;
            let files = self.clone();
            match spawn_blocking(move || files.first_gone()).await {
                Ok(Some(path)) if availability.lose_file() => tracing::error!(
                    "{} was removed, moved or replaced while the site is running, so nothing is read or written: put \
                     the same file back, or restart the site to use what is there now",
                    path.display()
                ),
                Ok(None) if availability.find_file() => {
                    tracing::info!("the database files are back, and the site continues")
                }
                _ => {}
            }
        }
    }

    /// The first file that is no longer at its path. A file that cannot be checked is assumed to be there.
    fn first_gone(&self) -> Option<PathBuf> {
        let is_gone = |path: &Path, opened| match identity(path) {
            Ok(found) => found != opened,
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        self.0.iter().find(|(path, opened)| is_gone(path, *opened)).map(|(path, _)| path.clone())
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map(|found| (found.dev(), found.ino()))
}

/// On Windows an open file cannot be removed or replaced.
#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    path.metadata().map(|_| (0, 0))
}
