//! The findings.

use crate::base::env::is_invisible;
use crate::cli::output::say;
use anyhow::{Error, Result, ensure};
use serde::Serialize;
use std::fmt::Display;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// The site works, but the operator should know.
    Warning,
    /// The site does not start, or part of it does not work.
    Wrong,
}

#[derive(Serialize)]
struct Finding {
    about: &'static str,
    level: Level,
    sentence: String,
}

pub struct Report {
    json: bool,
    findings: Vec<Finding>,
    /// Why a finding could not be printed.
    unsaid: Option<Error>,
}

impl Report {
    pub fn new(json: bool) -> Report {
        Report { json, findings: Vec::new(), unsaid: None }
    }

    pub fn ok(&mut self, about: &'static str, sentence: impl Display) -> Result<()> {
        self.add(about, Level::Ok, sentence.to_string())
    }

    /// The sentence ends with what to do, after a colon.
    pub fn warning(&mut self, about: &'static str, sentence: impl Display) -> Result<()> {
        self.add(about, Level::Warning, sentence.to_string())
    }

    /// Like [`Report::warning`].
    pub fn wrong(&mut self, about: &'static str, sentence: impl Display) -> Result<()> {
        self.add(about, Level::Wrong, sentence.to_string())
    }

    /// Prints the line at once, because the next check may take a while.
    fn add(&mut self, about: &'static str, level: Level, sentence: String) -> Result<()> {
        // The reply of a server may have several lines, and control characters.
        let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
        let sentence = sentence.replace(|c: char| c.is_control() || is_invisible(c), "\u{fffd}");
        if !self.json {
            let word = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Wrong => "wrong",
            };
            self.say(format!("{about:<14} {word}: {sentence}"));
        }
        self.findings.push(Finding { about, level, sentence });
        Ok(())
    }

    /// The exit code must be right even if the findings cannot be printed.
    fn say(&mut self, line: String) {
        if let Err(error) = say(line) {
            self.unsaid.get_or_insert(error);
        }
    }

    /// # Errors
    /// When something is wrong, or could not be printed.
    pub fn finish(mut self) -> Result<()> {
        if self.json {
            self.say(serde_json::to_string_pretty(&self.findings)?);
        }
        let wrong = self.findings.iter().filter(|finding| finding.level == Level::Wrong).count();
        ensure!(wrong == 0, "{wrong} of {} findings are wrong", self.findings.len());
        self.unsaid.map_or(Ok(()), Err)
    }
}
