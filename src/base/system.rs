//! What the operating system allows this process.

use anyhow::{Result, ensure};

/// Raises the limit of open files and sockets as far as the system allows, and returns it.
pub fn raise_file_limit() -> Option<usize> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // If the maximum is unlimited, macOS accepts no more than this.
        const OPEN_MAX: u64 = 10_240;
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let raise_to = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum });
        let _ = raise_to(maximum).or_else(|_| raise_to(Some(OPEN_MAX)));
        getrlimit(Resource::Nofile).current.map(|files| files as usize)
    }
    #[cfg(not(unix))]
    None
}

/// # Errors
/// When the process may not open that many files and sockets; one sentence.
pub fn check_file_limit(needed: usize) -> Result<()> {
    let files = raise_file_limit().unwrap_or(usize::MAX);
    ensure!(
        files >= needed,
        "the system allows this process {files} open files and it needs {needed}: raise the limit with ulimit -n, or \
         LimitNOFILE in systemd"
    );
    Ok(())
}
