//! Asks before something is lost.

use super::wrong_use::WrongUse;
use anyhow::{Context, Result, ensure};
use std::io::{IsTerminal, Write, stderr, stdin};

/// Asks the person at the terminal, unless they have said `--yes`.
///
/// # Errors
/// When the answer is not yes. [`WrongUse`] without `--yes` where nobody can be asked.
pub fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !(stdin().is_terminal() && stderr().is_terminal()) {
        return Err(WrongUse(format!("{question} Add --yes if that is right")).into());
    }
    write!(stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("the answer could not be read")?;
    ensure!(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"), "nothing was changed");
    Ok(())
}
