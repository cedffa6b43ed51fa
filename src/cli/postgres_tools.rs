//! The command lines of pg_dump and pg_restore, for a site on Postgres.

use crate::base::database_url::for_libpq;
use anyhow::Result;
use std::path::Path;

const PASSWORD: &str = "it asks for the password, unless PGPASSWORD or ~/.pgpass has it";

/// One sentence that says how to back up this database.
///
/// # Errors
/// When the address cannot be read.
pub fn how_to_dump(url: &str, file: &Path) -> Result<String> {
    let (database, file) = (quote(&for_libpq(url)?), quote(&file.to_string_lossy()));
    Ok(format!(
        "a database on Postgres is backed up by pg_dump ({PASSWORD}): pg_dump --format=custom --file={file} --dbname={database}"
    ))
}

/// One sentence that says how to restore this database.
///
/// # Errors
/// When the address cannot be read.
pub fn how_to_restore(url: &str, file: &Path) -> Result<String> {
    // After `./`, it is no option, whatever its name is.
    let file = if file.to_string_lossy().starts_with('-') { Path::new(".").join(file) } else { file.into() };
    let (database, file) = (quote(&for_libpq(url)?), quote(&file.to_string_lossy()));
    Ok(format!(
        "a database on Postgres is restored by pg_restore, while the site is stopped ({PASSWORD}): pg_restore --clean --if-exists --single-transaction --dbname={database} {file}"
    ))
}

/// One word of a shell.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if word.chars().all(is_plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[cfg_attr(not(unix), ignore = "needs a shell")]
    fn a_quoted_word_is_one_word_for_a_shell() {
        for word in ["plain.db", "two words", "it's", "$HOME `id` \"x\" \\ & ; *", "host='/a b' user=o\\'neil", "é"] {
            let said = Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
    }
}
