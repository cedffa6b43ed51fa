//! Files and folders that only the user who runs the app may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Result;
use std::path::Path;

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

/// Whether other users may read the file. On Windows that is decided by its folder.
pub fn others_can_read(file: &File) -> Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o077 != 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| false);
}
