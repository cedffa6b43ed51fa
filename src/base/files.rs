//! Files and folders that only the user who runs the app may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Result;
use std::path::{Path, PathBuf};

/// Creates the folder and its parents, unless they exist.
pub fn private_folder(folder: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    if folder.as_os_str().is_empty() { Ok(()) } else { builder.recursive(true).create(folder) }
}

/// Opens the file for appending, and creates it if it does not exist.
pub fn private_file(file: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.append(true).create(true).open(file)
}

/// Creates the file.
///
/// # Errors
/// When there is one already.
pub fn new_private_file(file: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(file)
}

/// Makes what happened to the names in this folder survive a power failure.
pub fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The path with this at its end, such as `latchkey.db-wal`.
pub fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_os_string();
    path.push(suffix);
    path.into()
}

/// Whether other users may read the file. On Windows that is decided by its folder.
pub fn others_can_read(file: &File) -> Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o077 != 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| false);
}
