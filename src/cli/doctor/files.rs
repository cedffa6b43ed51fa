//! Checks who can read the SQLite files and the key of a site in development, and whether the site can write to them.

use super::report::Report;
use crate::base::database_url::sqlite_mode;
use crate::base::{Config, seal::DEVELOPMENT_KEY_FILE};
use crate::db::connect::database_file;
use anyhow::Result;
#[cfg(unix)]
use rustix::fs::{Access, access};
#[cfg(unix)]
use rustix::process::geteuid;
use std::fs::{OpenOptions, read_link};
use std::io::{self, ErrorKind::ReadOnlyFilesystem};
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub fn look(report: &mut Report, config: &Config) -> Result<()> {
    let database = database_file(&config.database_url).ok().flatten();
    if let Some(file) = database.as_deref().filter(|file| file.is_file()) {
        look_at_writes(report, &config.database_url, file)?;
    }
    let files = [database, development_key(config)];
    for file in files.iter().flatten().filter(|file| file.exists()) {
        look_at_readers(report, config, file)?;
    }
    Ok(())
}

fn development_key(config: &Config) -> Option<PathBuf> {
    (config.development() && config.secret_keys.is_empty()).then(|| DEVELOPMENT_KEY_FILE.into())
}

/// With a file that it cannot write to, a site can only show pages.
fn look_at_writes(report: &mut Report, url: &str, file: &Path) -> Result<()> {
    let (name, in_vain) = (file.display(), "so nobody can sign up or log in");
    if sqlite_mode(url).as_deref() == Some("ro") {
        return report.warning("files", format!("DATABASE_URL has mode=ro, {in_vain}: remove it"));
    }
    match OpenOptions::new().append(true).open(file) {
        Err(error) if error.kind() == ReadOnlyFilesystem => {
            report.warning("files", format!("{name} is on a disk that is mounted read-only, {in_vain}: {MOUNT}"))
        }
        Err(_) => report.warning(
            "files",
            format!("this user may not write to {name}, {in_vain}: as root, run chown and chmod 600"),
        ),
        Ok(_) => match may_write_folder(folder_of(file)) {
            Ok(()) => Ok(()),
            Err(_) => {
                let folder = folder_of(file).display();
                report.wrong("files", format!("SQLite creates files in {folder}, which this user may not: {GIVE}"))
            }
        },
    }
}

const MOUNT: &str = "mount it writable";
const GIVE: &str = "as root, give the folder to this user with chown, and run chmod 700";

/// Why this missing file cannot be created at the start, and what to do.
pub fn why_not_made(url: &str, file: &Path) -> Option<String> {
    let name = file.display();
    if sqlite_mode(url).is_some_and(|mode| mode != "rwc") {
        let cure = "remove mode, or set DATABASE_URL to another file";
        return Some(format!(
            "there is no file {name}, and the mode in DATABASE_URL prevents it from being created: \
                             {cure}"
        ));
    }
    let target = read_link(file).map_or(file.into(), |target| folder_of(file).join(target));
    if file.is_symlink() && !folder_of(&target).exists() {
        return Some(format!("{name} is a link to a folder that does not exist: create that folder, or mount it"));
    }
    let folder = folder_of(&target).ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let there = folder.display();
    if !folder.is_dir() {
        return Some(format!(
            "{name} cannot be created, because {there} is not a folder: set DATABASE_URL to another \
                             file"
        ));
    }
    match may_write_folder(folder) {
        Ok(()) => None,
        Err(error) if error.kind() == ReadOnlyFilesystem => {
            Some(format!("{name} cannot be created, because {there} is on a disk that is mounted read-only: {MOUNT}"))
        }
        Err(_) => Some(format!("{name} cannot be created, because this user may not write to {there}: {GIVE}")),
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn may_write_folder(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

#[cfg(not(unix))]
fn may_write_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn look_at_readers(report: &mut Report, config: &Config, file: &Path) -> Result<()> {
    let name = file.display();
    if file.metadata()?.mode() & 0o077 == 0 {
        report.ok("files", format!("others cannot read {name}"))?;
    } else {
        let sentence = format!("others can read {name}: {}", chmod(600, file));
        // The site does not start in production with such a database.
        if config.development() { report.warning("files", sentence) } else { report.wrong("files", sentence) }?;
    }
    let folder = folder_of(file);
    let (name, metadata) = (folder.display(), folder.metadata()?);
    match metadata.mode() {
        mode if mode & 0o077 == 0 => report.ok("files", format!("others cannot open {name}")),
        // Such as /tmp, which is shared by all users.
        mode if mode & 0o1000 != 0 || metadata.uid() != geteuid().as_raw() => report.warning(
            "files",
            format!(
                "others can open {name}: move the files to a folder that only the site \
                                             uses"
            ),
        ),
        _ => report.warning("files", format!("others can open {name}: {}", chmod(700, folder))),
    }
}

#[cfg(not(unix))]
fn look_at_readers(_: &mut Report, _: &Config, _: &Path) -> Result<()> {
    Ok(())
}

/// In the syntax of a shell.
#[cfg(unix)]
fn chmod(mode: u32, path: &Path) -> String {
    if access(path, Access::WRITE_OK).is_err_and(|error| io::Error::from(error).kind() == ReadOnlyFilesystem) {
        return format!("its disk is mounted read-only, so {MOUNT}, and run chmod {mode}");
    }
    let name = path.display().to_string();
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    let name = if is_plain { name } else { format!("'{}'", name.replace('\'', "'\\''")) };
    format!("run chmod {mode} {name}")
}
