//! [`Partial`]: a file that gets its name when it is whole.

use crate::base::files::{new_private_file, sync_folder, with_suffix};
use anyhow::{Context, Result, bail};
use std::fs::{OpenOptions, remove_file, rename};
use std::io::ErrorKind::AlreadyExists;
use std::path::{Path, PathBuf};

/// FILE.partial. It is removed if this is dropped before [`Partial::keep`].
pub struct Partial {
    path: PathBuf,
    is_kept: bool,
}

impl Partial {
    /// Creates it. Only this user may read it.
    ///
    /// # Errors
    /// One sentence, also when there is one already.
    pub fn of(file: &Path) -> Result<Partial> {
        let path = with_suffix(file, ".partial");
        let name = path.display();
        match new_private_file(&path) {
            Ok(_) => Ok(Partial { path, is_kept: false }),
            Err(error) if error.kind() == AlreadyExists => {
                bail!("{name} exists: if no other command is writing it, one was killed, so delete it and try again")
            }
            Err(error) => Err(error).with_context(|| format!("{name} cannot be created")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name. A file that has this name is replaced at once, and a power failure undoes nothing.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep(mut self, file: &Path) -> Result<()> {
        OpenOptions::new().append(true).open(&self.path)?.sync_all()?;
        rename(&self.path, file).with_context(|| format!("{} cannot be replaced", file.display()))?;
        self.is_kept = true;
        Ok(sync_folder(folder_of(file))?)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = remove_file(&self.path);
            // SQLite has one while it writes.
            let _ = remove_file(with_suffix(&self.path, "-journal"));
        }
    }
}

/// The folder that the file is in.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files::others_can_read;
    use std::fs::{File, read, read_dir, write};

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_is_gone_if_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("copy.db");
        let files = || read_dir(folder.path()).unwrap().count();
        let partial = Partial::of(&file).unwrap();
        assert!(!others_can_read(&File::open(partial.path()).unwrap()).unwrap());
        assert!(Partial::of(&file).err().unwrap().to_string().contains("copy.db.partial exists"));
        write(with_suffix(partial.path(), "-journal"), "half").unwrap();
        drop(partial);
        assert_eq!(files(), 0);
        write(&file, "old").unwrap();
        let partial = Partial::of(&file).unwrap();
        write(partial.path(), "new").unwrap();
        assert_eq!(read(&file).unwrap(), b"old");
        partial.keep(&file).unwrap();
        assert_eq!((read(&file).unwrap(), files()), (b"new".to_vec(), 1));
    }
}
