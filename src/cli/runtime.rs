//! The runtime of a command. Limits of the operating system cause an error message, not a panic.

use super::output::say_error;
use crate::base::system::check_file_limit;
use anyhow::{Context, Result};
use std::{panic, process};
use tokio::runtime::Runtime;

/// Files and sockets for the runtime, the standard streams, a database and a few clients.
const FILES: usize = 160;

const TOO_FEW_THREADS: &str = "latchkey: the system allows this user no more processes and threads: raise the limit \
                               with ulimit -u, or TasksMax in systemd";

/// # Errors
/// When the system refuses what the process needs; one sentence.
pub fn start() -> Result<Runtime> {
    check_file_limit(FILES)?;
    // If it gets no thread, tokio panics, and then waits for threads that never started.
    panic::set_hook(Box::new(|_| {
        say_error(TOO_FEW_THREADS.to_string());
        process::exit(1);
    }));
    let runtime = Runtime::new().context("the system refuses what the process needs to run");
    let _ = panic::take_hook();
    runtime.inspect(survive_full_files)
}

/// A write beyond the maximum file size (`ulimit -f`) fails, instead of ending the process with a signal.
fn survive_full_files(runtime: &Runtime) {
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        // It is caught from now on, even after this is dropped.
        let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    }
    #[cfg(not(unix))]
    let _ = runtime;
}
