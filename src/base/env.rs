//! Environment variables, and the kinds of values they hold: times, rates, yes or no.

use super::dotenv;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fmt::Display;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Environment variables by name. An empty one counts as absent. No error repeats a value, because it may be secret.
#[derive(Default)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The variables of the process, and those of a `.env` file in the current folder that the process does not have.
    ///
    /// # Errors
    /// When there is a `.env` file that cannot be read.
    pub fn load() -> Result<Env> {
        let mut variables = match std::fs::read_to_string(".env") {
            Err(error) if error.kind() == ErrorKind::NotFound => HashMap::new(),
            text => dotenv::parse(&text.context("the .env file cannot be read")?)?,
        };
        // A value that is not Unicode must not count as absent. Its replacement characters fail to parse.
        let of_process = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        variables.extend(of_process);
        Ok(Env(variables))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A value of any type that parses, or `default`.
    pub fn parse<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            Some(text) => text.parse().ok().with_context(|| format!("{name} cannot have this value")),
            None => Ok(default),
        }
    }

    /// A number in this range, or `default`.
    pub fn number<T: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T> {
        let number = self.parse(name, default)?;
        ensure!(range.contains(&number), "{name} must be from {} to {}", range.start(), range.end());
        Ok(number)
    }

    /// A duration such as `3s`, `10m`, `24h` or `7d`, or `default` written the same way.
    pub fn duration(&self, name: &str, default: &str) -> Result<Duration> {
        let text = self.text(name).unwrap_or(default);
        parse_duration(text).with_context(|| {
            format!("{name} must be a duration: a whole number above zero and s, m, h or d, such as {default}")
        })
    }

    /// A number per duration, such as `10/3m`.
    pub fn rate(&self, name: &str, default: &str) -> Result<Rate> {
        let text = self.text(name).unwrap_or(default);
        text.parse()
            .ok()
            .with_context(|| format!("{name} must be a rate: a number, a slash and a duration, such as {default}"))
    }

    /// Whether the site sends mail. Features that need mail register no routes without it.
    pub fn sends_mail(&self) -> bool {
        self.text("SMTP_URL") != Some("none")
    }

    pub fn yes(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(_) => bail!("{name} must be yes or no"),
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Env {
        Env(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A number of times per duration, written `10/3m`: all at once or spread over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub times: u32,
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Rate, ()> {
        let (times, per) = text.split_once('/').ok_or(())?;
        let times = times.parse().ok().filter(|times| (1..=1_000_000_000).contains(times)).ok_or(())?;
        Ok(Rate { times, per: parse_duration(per).ok_or(())? })
    }
}

/// A few free attempts, then a delay that doubles with each further one, up to an hour.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub free: i64,
    pub delay: Duration,
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    // A hundred years is longer than anyone needs, and keeps sums of seconds far from overflow.
    let whole = number.checked_mul(seconds).filter(|&whole| whole <= 100 * 365 * 24 * 60 * 60)?;
    (whole > 0).then(|| Duration::from_secs(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn a_rate_is_a_number_a_slash_and_a_duration() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!("10/3m".parse(), Ok(Rate { times: 10, per: minutes(3) }));
        assert_eq!("1/24h".parse(), Ok(Rate { times: 1, per: minutes(24 * 60) }));
        for wrong in
            ["", "10", "/", "10/", "/3m", "0/3m", "-1/3m", "10/0m", "10/3", "10 / 3m", "1000000001/1h", "10/3m/2"]
        {
            assert_eq!(wrong.parse::<Rate>(), Err(()), "{wrong:?}");
        }
    }

    /// Runs itself again, as a process with such a variable.
    #[test]
    fn a_variable_that_is_not_unicode_does_not_stop_the_site() {
        const NAME: &str = "LATCHKEY_TEST_NOT_UNICODE";
        if std::env::var_os(NAME).is_some() {
            assert_eq!(Env::load().unwrap().text(NAME), Some("\u{fffd}"));
            return;
        }
        let test = "base::env::tests::a_variable_that_is_not_unicode_does_not_stop_the_site";
        #[cfg(unix)]
        let value: OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        #[cfg(windows)]
        let value: OsString = std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", test]).env(NAME, value);
        let output = process.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }
}
