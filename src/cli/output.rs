//! Output of commands.

use anyhow::Result;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Prints a line. Whether anybody still reads the output makes no difference to what the command does.
///
/// # Errors
/// When it cannot be written, such as to a full disk.
pub fn say(line: impl Display) -> Result<()> {
    match print(line) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Prints a line of a list, which ends when nobody reads it any more. Unlike `println!`, it does not panic then.
///
/// # Errors
/// Also when the output is closed.
pub fn print(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints a line on standard error. It gives up after a second, because the line may never be read, and the process has
/// to end.
pub fn say_error(line: String) {
    let (printing, printed) = channel::<()>();
    let print = |line: &str| drop(writeln!(io::stderr(), "{line}"));
    let copy = line.clone();
    let printer = move || {
        print(&copy);
        drop(printing);
    };
    match thread::Builder::new().spawn(printer) {
        Ok(_) => drop(printed.recv_timeout(Duration::from_secs(1))),
        // The process cannot have more threads.
        Err(_) => print(&line),
    }
}
