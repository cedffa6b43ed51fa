//! The lines of the log: which are written, and in what form.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The log's own lines, with the counts of others. They are never counted or lost.
pub const TARGET: &str = "latchkey::log";

/// In bytes, including the line break.
const LONGEST_LINE: usize = 2048;

/// The end of a line that was cut.
const CUT: &str = "… (cut)";

/// How many different lines one place in the code may write in a second.
const DIFFERENT_LINES: usize = 50;

/// Counts lines of the levels error, warning and info that repeat, instead of writing them. The id of a request is in
/// its span, so lines of different requests can be equal.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Mutex<HashMap<Identifier, Place>>>);

/// What one place in the code has logged in this second and the one before.
struct Place {
    level: Level,
    lines: Vec<Line>,
    /// How many different lines there were beyond [`DIFFERENT_LINES`].
    left_out: u64,
}

struct Line {
    text: String,
    repeated: u64,
    /// It was first written in this second, so its count is logged in the next.
    is_new: bool,
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // All debug lines are wanted if they are turned on.
        if metadata.target() == TARGET || *metadata.level() > Level::INFO {
            return true;
        }
        let mut text = Text::default();
        let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
        self.admit(metadata, text.0)
    }
}

impl Repeats {
    /// Whether to write this line. If not, it is counted.
    fn admit(&self, metadata: &Metadata<'_>, text: String) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Place { level: *metadata.level(), lines: Vec::new(), left_out: 0 };
        let place = places.entry(metadata.callsite()).or_insert_with(new);
        if let Some(line) = place.lines.iter_mut().find(|line| line.text == text) {
            line.repeated += 1;
            return false;
        }
        let is_written = place.lines.len() < DIFFERENT_LINES;
        if is_written {
            place.lines.push(Line { text, repeated: 0, is_new: true });
        } else {
            place.left_out += 1;
        }
        is_written
    }

    /// Logs how many lines were not written. To be called once a second, and at the end.
    pub fn log_counts(&self, is_end: bool) {
        for (level, line) in self.take_counts(is_end) {
            match level {
                Level::ERROR => tracing::error!(target: TARGET, "{line}"),
                Level::WARN => tracing::warn!(target: TARGET, "{line}"),
                _ => tracing::info!(target: TARGET, "{line}"),
            }
        }
    }

    fn take_counts(&self, is_end: bool) -> Vec<(Level, String)> {
        let mut counts = Vec::new();
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, Place { level, lines, left_out }| {
            if let (more @ 1.., Some(Line { text, .. })) = (take(left_out), lines.last()) {
                counts.push((*level, format!("{more} more like this were left out: {text}")));
            }
            lines.retain_mut(|line| {
                if take(&mut line.is_new) && !is_end {
                    return true;
                }
                let text = &line.text;
                match take(&mut line.repeated) {
                    0 => return false,
                    1 => counts.push((*level, format!("repeated once: {text}"))),
                    times => counts.push((*level, format!("repeated {times} times: {text}"))),
                }
                true
            });
            !lines.is_empty()
        });
        counts
    }
}

/// Formats each event as one line of limited length.
pub struct OneLine<F> {
    pub format: F,
    pub json: bool,
}

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Text::default();
        let _ = self.format.format_event(context, Writer::new(&mut line), event);
        let text = if self.json { take(&mut line.0) } else { line.on_one_line() };
        if text.len() < LONGEST_LINE {
            return writeln!(to, "{}", text.trim_end());
        }
        // The id of the request is kept, because an error page may show it.
        let span = context.lookup_current();
        let span = span.and_then(|span| span.extensions().get::<FormattedFields<N>>().map(|span| span.fields.clone()));
        let span = shorten(&span.unwrap_or_default(), LONGEST_LINE / 8);
        if !self.json {
            let line = shorten(&text, LONGEST_LINE - 2 - span.len()) + " " + &span;
            return writeln!(to, "{}", line.trim_end());
        }
        // An object that is cut off is not JSON, so its fields are cut instead.
        let (mut fields, mut time, mut most) = (Text::default(), String::new(), LONGEST_LINE);
        let _ = DefaultFields::new().format_fields(Writer::new(&mut fields), event);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let object = loop {
            let fields = json!({ "message": shorten(&fields.0, most) });
            let span: Option<Value> = serde_json::from_str(&span).ok();
            let level = event.metadata().level().as_str();
            let object = json!({ "timestamp": time, "level": level, "fields": fields, "span": span }).to_string();
            if object.len() < LONGEST_LINE {
                break object;
            }
            most -= most / 4;
        };
        writeln!(to, "{object}")
    }
}

fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_string();
    }
    let end = text.floor_char_boundary(most - CUT.len());
    format!("{}{CUT}", &text[..end])
}

/// Accepts a little more than a line can have, and fails beyond that.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Without line breaks, so that nothing in a request can forge a line.
    fn on_one_line(&self) -> String {
        let text = self.0.strip_suffix('\n').unwrap_or(&self.0);
        text.replace('\n', "\\n").replace('\r', "\\r")
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = (LONGEST_LINE + CUT.len()).saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() <= room { Ok(()) } else { Err(fmt::Error) }
    }
}
