//! The log of the running site: lines on standard output, as text or JSON.
//!
//! A separate thread writes them, so nothing waits until they are read. Lines that it cannot write in time are lost and
//! counted. `log_lines.rs` defines the form of a line, and counts lines that repeat.

use super::log_lines::{OneLine, Repeats, TARGET};
use crate::base::Config;
use crate::features::Feature;
use anyhow::{Context, Result};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{panic, thread};
use tracing::{Dispatch, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::format;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, registry};

/// How many lines may wait to be written: up to 8 MiB.
const MOST_WAITING: usize = 4096;

/// How often the log says how many lines repeated or were lost.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How long the end of the process waits until the last lines are read.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Slow statements and lost connections are logged by the code that waits for them.
const OF_SQLX: &str = "sqlx::query=off,sqlx_core::pool=off,";

/// The log is written while this exists.
pub struct Log {
    queue: Queue,
    /// Disconnected when the last line is written.
    written: Receiver<()>,
}

impl Log {
    /// Starts the log. `RUST_LOG` filters it; debug builds show every request.
    ///
    /// # Errors
    /// When `RUST_LOG` cannot be read.
    pub fn start(config: &Config, features: &[Feature]) -> Result<Log> {
        let filter = filter(config.log_filter.as_deref(), features)?;
        let (queue, lines) = Queue::new();
        let repeats = Repeats::default();
        // Shuttle's runtime may have its own log, which is kept.
        let _ = subscriber(filter, config.log_json, stdout().is_terminal(), &queue, &repeats).try_init();
        log_panics();
        let (writing, written) = channel();
        let counts = queue.counts.clone();
        let writer = thread::Builder::new().name("log".into()).spawn(move || {
            write_lines(&lines, &counts, &repeats, stdout());
            drop(writing);
        });
        writer.context("the system allows no thread for the log")?;
        Ok(Log { queue, written })
    }

    /// Prints a line whatever `RUST_LOG` says.
    pub fn say(&self, line: impl Display) {
        self.queue.push(format!("{line}\n").into_bytes());
    }
}

/// Waits until the last lines are written, for a limited time, because they may never be read.
impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.queue.lines.send(None);
        let _ = self.written.recv_timeout(LAST_LINES);
    }
}

/// # Errors
/// When `RUST_LOG` cannot be read.
pub fn check_filter(config: &Config, features: &[Feature]) -> Result<()> {
    filter(config.log_filter.as_deref(), features).map(drop)
}

/// Commands only print, on standard error, what they are waiting for.
pub fn start_for_a_command() {
    let lines = fmt::layer().without_time().with_level(false).with_target(false).with_writer(io::stderr);
    let filter = Targets::new().with_target("latchkey::db::patience", LevelFilter::WARN);
    let _ = registry().with(filter).with(lines).try_init();
}

fn filter(rust_log: Option<&str>, features: &[Feature]) -> Result<Targets> {
    let default = if cfg!(debug_assertions) { "warn,latchkey=debug" } else { "warn,latchkey=info" };
    let default = format!("{OF_SQLX}{default}");
    let filter = rust_log.unwrap_or(&default);
    let silenced = features.iter().flat_map(|feature| feature.silenced);
    let silenced: String = silenced.map(|target| format!("{target}=off,")).collect();
    // If a target has two levels, the second one counts.
    let targets: Targets =
        format!("{silenced}{filter}").parse().with_context(|| format!("RUST_LOG={filter} cannot be read"))?;
    // The counts of other lines pass the filter if those lines do.
    let most = Layer::<Registry>::max_level_hint(&targets).unwrap_or(LevelFilter::TRACE);
    Ok(targets.with_target(TARGET, most))
}

fn subscriber(filter: Targets, json: bool, colour: bool, queue: &Queue, repeats: &Repeats) -> Dispatch {
    let format = format().with_target(false).with_ansi(colour);
    let lines = fmt::layer().with_ansi(colour).with_writer(queue.clone());
    let log = registry().with(filter).with(repeats.clone());
    if json {
        log.with(lines.json().event_format(OneLine { format: format.json(), json })).into()
    } else {
        log.with(lines.event_format(OneLine { format: format.compact(), json })).into()
    }
}

/// Logs panics instead of printing them, because standard error may be a pipe that is never read.
fn log_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        // With RUST_BACKTRACE=1 it is printed too: a backtrace is too long for a line.
        if Backtrace::capture().status() == BacktraceStatus::Captured {
            print(panic);
        }
    }));
}

/// The lines waiting to be written.
#[derive(Clone)]
struct Queue {
    /// `None` is the end.
    lines: Sender<Option<Vec<u8>>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl Queue {
    fn new() -> (Queue, Receiver<Option<Vec<u8>>>) {
        let (lines, waiting) = channel();
        (Queue { lines, counts: Arc::default() }, waiting)
    }

    fn push(&self, line: Vec<u8>) {
        self.counts.waiting.fetch_add(1, Relaxed);
        let _ = self.lines.send(Some(line));
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = QueueWriter<'a>;

    fn make_writer(&'a self) -> QueueWriter<'a> {
        QueueWriter { queue: self, may_be_lost: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> QueueWriter<'a> {
        QueueWriter { queue: self, may_be_lost: metadata.target() != TARGET }
    }
}

/// Takes one line.
struct QueueWriter<'a> {
    queue: &'a Queue,
    may_be_lost: bool,
}

impl Write for QueueWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Counts { waiting, lost } = &*self.queue.counts;
        if self.may_be_lost && waiting.load(Relaxed) >= MOST_WAITING {
            lost.fetch_add(1, Relaxed);
        } else {
            self.queue.push(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until the last.
fn write_lines(lines: &Receiver<Option<Vec<u8>>>, counts: &Counts, repeats: &Repeats, mut out: impl Write) {
    let mut write = |line: Vec<u8>| {
        counts.waiting.fetch_sub(1, Relaxed);
        // A failure cannot be reported anywhere.
        let _ = out.write_all(&line);
    };
    let mut count_at = Instant::now() + COUNT_EVERY;
    loop {
        match lines.recv_timeout(count_at.saturating_duration_since(Instant::now())) {
            Ok(Some(line)) => write(line),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() >= count_at {
            log_counts(counts, repeats, false);
            count_at = Instant::now() + COUNT_EVERY;
        }
    }
    log_counts(counts, repeats, true);
    lines.try_iter().flatten().for_each(write);
}

fn log_counts(counts: &Counts, repeats: &Repeats, is_end: bool) {
    repeats.log_counts(is_end);
    match counts.lost.swap(0, Relaxed) {
        0 => {}
        1 => tracing::warn!(target: TARGET, "1 line was lost because the log was not read fast enough"),
        lost => tracing::warn!(target: TARGET, "{lost} lines were lost because the log was not read fast enough"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tracing::dispatcher::with_default;
    use tracing::{debug, error, error_span, warn};

    /// A log that a test writes itself, instead of a thread.
    struct TestLog {
        queue: Queue,
        lines: Receiver<Option<Vec<u8>>>,
        repeats: Repeats,
        dispatch: Dispatch,
    }

    impl TestLog {
        fn new(rust_log: &str, json: bool) -> TestLog {
            TestLog::with(filter(Some(rust_log), &[]).unwrap(), json)
        }

        fn with(filter: Targets, json: bool) -> TestLog {
            let ((queue, lines), repeats) = (Queue::new(), Repeats::default());
            let dispatch = subscriber(filter, json, false, &queue, &repeats);
            TestLog { queue, lines, repeats, dispatch }
        }

        /// The lines that this adds.
        fn lines(&self, act: impl FnOnce()) -> Vec<String> {
            with_default(&self.dispatch, act);
            self.lines.try_iter().flatten().map(|line| String::from_utf8(line).unwrap()).collect()
        }

        /// The lines that are added when a second ends.
        fn at_the_end_of_a_second(&self) -> Vec<String> {
            self.lines(|| self.repeats.log_counts(false))
        }
    }

    fn refuse(request: u64) {
        error_span!("request", id = request).in_scope(|| warn!(status = 503, "the database is away"));
    }

    #[track_caller]
    fn assert_one(lines: &[String], contained: &str) {
        assert!(matches!(lines, [line] if line.contains(contained)), "not one line with {contained:?}: {lines:#?}");
    }

    #[test]
    fn a_line_that_repeats_is_written_once_and_then_counted_once_a_second() {
        for json in [false, true] {
            let log = TestLog::new("warn", json);
            assert_one(&log.lines(|| (0..813).for_each(refuse)), "the database is away");
            assert_eq!(log.at_the_end_of_a_second(), [""; 0], "it was written in this second");
            let counted = log.at_the_end_of_a_second();
            assert_one(&counted, "repeated 812 times: the database is away status=503");
            assert!(counted[0].contains("WARN"), "{counted:?}");
            // The flood goes on, and ends.
            assert_eq!(log.lines(|| refuse(813)), [""; 0]);
            assert_one(&log.at_the_end_of_a_second(), "repeated once: the database is away");
            assert_eq!(log.at_the_end_of_a_second(), [""; 0]);
            assert_one(&log.lines(|| refuse(814)), "the database is away");
        }
    }

    #[test]
    fn what_is_counted_at_the_end_is_said() {
        let log = TestLog::new("warn", false);
        assert_eq!(log.lines(|| (0..3).for_each(refuse)).len(), 1);
        assert_one(&log.lines(|| log.repeats.log_counts(true)), "repeated 2 times");
    }

    #[test]
    fn lines_that_differ_are_all_written() {
        let log = TestLog::new("info", false);
        let lines = log.lines(|| {
            for status in [500, 503] {
                warn!(status, "the database is away");
                error!(status, "the database is away");
            }
        });
        assert_eq!(lines.len(), 4, "{lines:#?}");
    }

    #[test]
    fn of_a_flood_of_different_lines_fifty_are_written_and_the_others_counted() {
        let log = TestLog::new("warn", false);
        assert_eq!(log.lines(|| (0..813).for_each(|mail| warn!(mail, "a mail will be retried"))).len(), 50);
        assert_one(&log.lines(|| refuse(1)), "the database is away");
        assert_one(&log.at_the_end_of_a_second(), "763 more like this were left out: a mail will be retried mail=49");
    }

    #[test]
    fn whoever_turns_on_debug_lines_gets_all_of_them() {
        let log = TestLog::new("debug", false);
        assert_eq!(log.lines(|| (0..813).for_each(|number| debug!(number))).len(), 813);
        assert_eq!(log.lines(|| (0..813).for_each(|_| debug!("again"))).len(), 813);
    }

    #[test]
    fn what_is_said_about_other_lines_passes_every_filter_that_they_pass() {
        let log = TestLog::new("some_crate=warn", false);
        let lines = log.lines(|| {
            (0..3).for_each(|_| warn!(target: "some_crate", "look"));
            (0..3).for_each(refuse);
            log.repeats.log_counts(true);
        });
        assert!(matches!(&lines[..], [_, line] if line.contains("repeated 2 times: look")), "{lines:#?}");
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_keeps_the_id_of_the_request() {
        for (json, character) in [(false, 'é'), (true, 'é'), (true, '"'), (true, '\u{1}'), (false, '\n'), (true, '\n')]
        {
            let long = character.to_string().repeat(100_000);
            let log = TestLog::new("warn", json);
            let lines =
                log.lines(|| error_span!("request", id = "00f1").in_scope(|| error!(status = 500, "so: {long}")));
            assert_one(&lines, "… (cut)");
            let line = &lines[0];
            assert!(line.contains("ERROR") && line.contains("so: ") && line.contains("00f1"), "{line}");
            assert!(line.len() <= 2048 && line.ends_with('\n'), "{} bytes: {line}", line.len());
            assert!(line.len() > 1024, "{} bytes: {line}", line.len());
            if json {
                let object: Value = serde_json::from_str(line).unwrap();
                assert_eq!((&object["level"], &object["span"]["id"]), (&"ERROR".into(), &"00f1".into()), "{line}");
            }
        }
    }

    #[test]
    fn a_line_that_just_fits_is_whole() {
        let log = TestLog::new("warn", false);
        let length = |message: &str| log.lines(|| warn!("{message}"))[0].len();
        let room = 2048 - (length("x") - 1);
        assert_eq!(length(&"x".repeat(room)), 2048);
        assert!(!log.lines(|| warn!("{}", "y".repeat(room)))[0].contains("(cut)"));
        assert!(log.lines(|| warn!("{}", "z".repeat(room + 1)))[0].ends_with("… (cut)\n"));
    }

    #[test]
    fn what_somebody_sent_cannot_look_like_a_line_of_its_own() {
        let log = TestLog::new("warn", false);
        let lines = log.lines(|| warn!("refused: ada\n2026-11-26T12:00:00Z ERROR\r\neverything is lost"));
        assert_eq!(lines[0].lines().count(), 1, "{lines:?}");
        assert!(lines[0].contains("ada\\n2026"), "{lines:?}");
    }

    #[test]
    fn lines_that_cannot_be_written_in_time_are_lost_and_counted() {
        let log = TestLog::new("debug", false);
        let mut read = Vec::new();
        with_default(&log.dispatch, || {
            // Nobody writes them yet.
            (0..MOST_WAITING + 812).for_each(|number| debug!(number));
            log.queue.lines.send(None).unwrap();
            write_lines(&log.lines, &log.queue.counts, &log.repeats, &mut read);
        });
        let read = String::from_utf8(read).unwrap();
        let lines: Vec<&str> = read.lines().collect();
        assert_eq!(lines.len(), MOST_WAITING + 1);
        assert!(lines[MOST_WAITING].contains("812 lines were lost because the log was not read fast enough"), "{read}");
        assert_eq!(log.queue.counts.waiting.load(Relaxed), 0);
    }

    #[test]
    fn what_sqlx_says_of_its_work_is_no_line_unless_rust_log_asks_for_it() {
        for (rust_log, expected) in [(None, 1), (Some("debug"), 3), (Some("warn,sqlx::query=off"), 2)] {
            let log = TestLog::with(filter(rust_log, &[]).unwrap(), false);
            let lines = log.lines(|| {
                warn!(target: "sqlx::query", "slow statement");
                warn!(target: "sqlx_core::pool::inner", "error from `before_acquire`");
                warn!("ours");
            });
            assert_eq!(lines.len(), expected, "{rust_log:?}: {lines:?}");
        }
    }

    #[test]
    fn crates_that_log_what_strangers_sent_are_silent_unless_rust_log_names_them() {
        let features = [Feature { silenced: &["some_crate"], ..Feature::named("some") }];
        for (rust_log, expected) in [(None, 1), (Some("trace"), 1), (Some("some_crate=warn"), 1), (Some("off"), 0)] {
            let log = TestLog::with(filter(rust_log, &features).unwrap(), false);
            let lines = log.lines(|| {
                warn!(target: "some_crate::parser", "rubbish");
                warn!("ours");
            });
            assert_eq!(lines.len(), expected, "{rust_log:?}: {lines:?}");
            let is_named = rust_log.is_some_and(|filter| filter.contains("some_crate"));
            assert_eq!(lines.iter().any(|line| line.contains("rubbish")), is_named, "{rust_log:?}: {lines:?}");
        }
    }
}
