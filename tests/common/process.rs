//! A process that a test has started, and what it said.

use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The program with these arguments, in this folder, with no variables but these.
pub fn latchkey(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command.args(arguments).current_dir(folder).env_clear().envs(settings.iter().copied());
    command
}

/// It is killed when the test lets go of it.
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
        // Who does not read its input may have closed it already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            keep(child.stdout.take().unwrap(), Arc::clone(&stdout)),
            keep(child.stderr.take().unwrap(), Arc::clone(&stderr)),
        ];
        Process { child, stdout, stderr, readers }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself, within so many seconds.
    #[track_caller]
    pub fn ends_within(&mut self, seconds: u64) -> ExitStatus {
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

    /// The lines of the log with these words in them.
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

/// All that it said. Of a long log, the end.
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
