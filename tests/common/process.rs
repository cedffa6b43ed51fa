//! A process that a test has started, and its output.

#[cfg(unix)]
pub use rustix::process::Signal;
use std::fmt;
use std::io::{PipeReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The program with these arguments, in this folder, with no variables but these.
pub fn latchkey(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.args(arguments).current_dir(folder).env_clear().envs(settings.iter().copied());
    #[cfg(windows)]
    {
        // Without the first there are no sockets. The second makes the process one that can be asked to stop.
        command.envs(std::env::var_os("SystemRoot").map(|folder| ("SystemRoot", folder)));
        std::os::windows::process::CommandExt::creation_flags(&mut command, CREATE_NEW_PROCESS_GROUP);
    }
    command
}

#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

#[cfg(windows)]
#[link(name = "kernel32")]
unsafe extern "system" {
    fn GenerateConsoleCtrlEvent(event: u32, process_group: u32) -> i32;
    fn TerminateProcess(process: std::os::windows::io::RawHandle, exit_code: u32) -> i32;
}

/// What Windows has in place of signals. Tests that send another are ignored there.
#[cfg(windows)]
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::upper_case_acronyms)]
pub enum Signal {
    /// Ctrl-Break.
    TERM,
    KILL,
    INT,
    STOP,
    CONT,
}

/// The signals that ask a process to stop.
#[cfg(unix)]
pub const STOPPING: &[Signal] = &[Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
#[cfg(windows)]
pub const STOPPING: &[Signal] = &[Signal::TERM];

/// As [`latchkey`], and it may have only so many files and sockets open.
pub fn with_file_limit(files: usize, command: &Command) -> Command {
    under_shell(&format!("ulimit -n {files}"), command)
}

/// As [`latchkey`], started by a shell that runs this first.
pub fn under_shell(preparation: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{preparation} && exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// Runs a command to its end, with this on its standard input.
#[track_caller]
fn run_command(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> (Process, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start_with(&mut latchkey(folder.path(), arguments, settings), input);
    let status = process.wait_for_exit(20);
    (process, status.code())
}

/// What a command prints, which must succeed.
#[track_caller]
pub fn command_output(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> String {
    let (process, code) = run_command(arguments, settings, input);
    assert_eq!((code, &*process.stderr()), (Some(0), ""), "{arguments:?} ended with {code:?}:\n{process}");
    process.stdout()
}

/// The one line on standard error with which a command fails.
#[track_caller]
pub fn command_error(arguments: &[&str], settings: &[(&str, &str)], input: &str) -> String {
    let (process, code) = run_command(arguments, settings, input);
    let error = process.stderr();
    let one_line = error.lines().count() == 1 && error.starts_with("latchkey: ");
    assert!(code == Some(1) && one_line, "{arguments:?} ended with {code:?}:\n{process}");
    error
}

/// What a command prints that refuses its command line, on standard error.
#[track_caller]
pub fn wrong_use(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let (process, code) = run_command(arguments, settings, "");
    assert_eq!((code, &*process.stdout()), (Some(2), ""), "{arguments:?} ended with {code:?}:\n{process}");
    process.stderr()
}

/// Starts it with settings that it must refuse, and returns the one line that it prints.
#[track_caller]
pub fn refusal(settings: &[(&str, &str)]) -> String {
    refusal_with("", settings)
}

/// The same with this `.env` file.
#[track_caller]
pub fn refusal_with(file: &str, settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), file).unwrap();
    let mut process = Process::start(&mut latchkey(folder.path(), &[], settings));
    let status = process.wait_for_exit(10);
    assert!(!status.success() && status.code().is_some(), "it ended with {status}:\n{process}");
    let (said, complaint) = (process.stdout(), process.stderr());
    assert!(said.is_empty() && complaint.lines().count() == 1, "not exactly one line:\n{process}");
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".env"], "what it left behind");
    complaint
}

/// A line of `latchkey routes`: a route of this copy of the app, from which features may have been removed.
pub struct Route {
    pub method: String,
    pub access: String,
    pub path: String,
}

#[track_caller]
pub fn routes() -> Vec<Route> {
    let text = command_output(&["routes"], &[], "");
    let route = |line: &str| {
        let mut words = line.split_whitespace().map(String::from);
        let [method, access, path] = [words.next(), words.next(), words.next()].map(Option::unwrap);
        Route { method, access, path }
    };
    text.lines().map(route).collect()
}

/// It is killed when this is dropped.
pub struct Process {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process::start_with(command, "")
    }

    /// Gives it this as its standard input.
    pub fn start_with(command: &mut Command, input: &str) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A process that does not read its input may have closed it already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            keep(child.stdout.take().unwrap(), Arc::clone(&stdout)),
            keep(child.stderr.take().unwrap(), Arc::clone(&stderr)),
        ];
        Process { child, stdout, stderr, readers }
    }

    /// Gives it, as standard output and standard error, a pipe that is full. Nobody reads it before [`Process::read`].
    #[cfg(unix)]
    pub fn start_unread(command: &mut Command) -> (Process, PipeReader) {
        use rustix::io::ioctl_fionbio;
        let (reader, mut writer) = std::io::pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        for size in [4096, 1] {
            while writer.write_all(&vec![b'\n'; size]).is_ok() {}
        }
        ioctl_fionbio(&writer, false).unwrap();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        // The command has the other ends of the pipe until it is given others.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        (Process { child, stdout: Arc::default(), stderr: Arc::default(), readers: Vec::new() }, reader)
    }

    #[cfg(windows)]
    pub fn start_unread(_: &mut Command) -> (Process, PipeReader) {
        panic!("a pipe cannot be filled without blocking here")
    }

    /// From now on everything that it writes is read.
    pub fn read(&mut self, pipe: PipeReader) {
        self.readers.push(keep(pipe, Arc::clone(&self.stdout)));
    }

    #[cfg(unix)]
    pub fn signal(&self, signal: Signal) {
        use rustix::process::{Pid, kill_process};
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[cfg(windows)]
    pub fn signal(&self, signal: Signal) {
        let process = std::os::windows::io::AsRawHandle::as_raw_handle(&self.child);
        // SAFETY: the functions take numbers, and the handle of a child that is still held here.
        let sent = match signal {
            Signal::TERM => unsafe { GenerateConsoleCtrlEvent(1, self.child.id()) },
            Signal::KILL => unsafe { TerminateProcess(process, 1) },
            other => panic!("there is no {other:?} on Windows"),
        };
        assert_ne!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had so far, in KiB. Linux says so.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Sends a signal to the process that this one has started.
    #[cfg(target_os = "linux")]
    pub fn signal_child(&self, signal: Signal) {
        use rustix::process::{Pid, kill_process};
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let child = children.split_whitespace().next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(child).unwrap(), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself, at most this many seconds.
    #[track_caller]
    pub fn wait_for_exit(&mut self, seconds: u64) -> ExitStatus {
        let ended = super::wait_until(seconds, || self.has_ended());
        assert!(ended, "it still runs after {seconds} s:\n{self}");
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        self.child.wait().unwrap()
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The lines of its log that contain this.
    pub fn lines_with(&self, words: &str) -> Vec<String> {
        self.stdout().lines().filter(|line| line.contains(words)).map(String::from).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its output. Of a long log, the end.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let lines: Vec<&str> = stdout.lines().collect();
        let end = lines[lines.len().saturating_sub(50)..].join("\n");
        write!(f, "--- standard output\n{end}\n--- standard error\n{stderr}")
    }
}

fn keep(mut pipe: impl Read + Send + 'static, text: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    })
}
