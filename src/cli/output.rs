//! Output of commands.

use anyhow::Result;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Prints a line. Unlike `println!` it does not panic when nobody reads it.
///
/// # Errors
/// When nobody reads it.
pub fn say(line: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Prints a line on standard error. It gives up after a second: nobody may be reading it, and the process has to end.
pub fn say_error(line: String) {
    let (printing, printed) = channel::<()>();
    let print = move || {
        let _ = writeln!(io::stderr(), "{line}");
        drop(printing);
    };
    if thread::Builder::new().spawn(print).is_ok() {
        let _ = printed.recv_timeout(Duration::from_secs(1));
    }
}
