//! The environment: what the variables say, read as what they are for.

use crate::throttle::Rate;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// The variables of the environment. An empty one counts as absent.
pub struct Env(HashMap<String, String>);

impl Env {
    /// The variables of the process, and for those it does not have the ones of a `.env` file.
    pub fn load() -> Result<Env> {
        match dotenvy::dotenv() {
            Err(error) if !error.not_found() => bail!("the .env file cannot be read: {error}"),
            _ => Ok(Env::from_iter(std::env::vars())),
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A value of any type that parses, or `default`.
    pub fn parse<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            Some(text) => text.parse().ok().with_context(|| format!("{name}={text} cannot be used here")),
            None => Ok(default),
        }
    }

    /// A time such as `3s`, `10m`, `24h` or `7d`, or `default` written the same way.
    pub fn duration(&self, name: &str, default: &str) -> Result<Duration> {
        let text = self.text(name).unwrap_or(default);
        parse_duration(text).with_context(|| {
            format!("{name}={text} is no time: write a whole number above zero and s, m, h or d, such as {default}")
        })
    }

    /// So many in a time, such as `10/3m`.
    pub fn rate(&self, name: &str, default: &str) -> Result<Rate> {
        let text = self.text(name).unwrap_or(default);
        text.parse().ok().with_context(|| {
            format!("{name}={text} is no rate: write a number, a stroke and a time, such as {default}")
        })
    }

    /// Whether there is any mail; without it what needs it is hidden.
    pub fn sends_mail(&self) -> bool {
        self.text("SMTP_URL") != Some("none")
    }

    pub fn yes(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(other) => bail!("{name}={other}: write yes or no"),
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Env {
        Env(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    // A hundred years is more than anyone means, and keeps sums of seconds far from overflow.
    let whole = number.checked_mul(seconds).filter(|&whole| whole <= 100 * 365 * 24 * 60 * 60)?;
    (whole > 0).then(|| Duration::from_secs(whole))
}
