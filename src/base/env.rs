//! Environment variables, and the types of their values: durations, rates, yes or no.

use super::{dotenv, spelling};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Environment variables by name. An empty one counts as missing. Errors never repeat a value, because it may be
/// secret.
#[derive(Default)]
pub struct Env {
    variables: HashMap<String, String>,
    /// The names that have been read, which are the ones that mean something.
    asked: Mutex<BTreeSet<String>>,
}

impl Env {
    /// The variables of the process, and of a `.env` file in the current folder for those that the process does not
    /// have.
    ///
    /// # Errors
    /// When there is a `.env` file that cannot be read.
    pub fn load() -> Result<Env> {
        let mut variables = match std::fs::read_to_string(".env") {
            Err(error) if error.kind() == ErrorKind::NotFound => HashMap::new(),
            text => dotenv::parse(
                &text.context("the .env file cannot be read; it must be a file in UTF-8 that this user may read")?,
            )?,
        };
        // A value that is not Unicode must not count as missing. Its replacement characters are rejected when it is
        // read.
        let of_process = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        variables.extend(of_process);
        Ok(variables.into_iter().collect())
    }

    /// The same variables, but this one has this value.
    pub fn with(&self, name: &str, value: &str) -> Env {
        let others = self.variables.iter().filter(|(other, _)| *other != name);
        others.map(|(name, value)| (&**name, &**value)).chain([(name, value)]).collect()
    }

    /// # Errors
    /// When the value contains something that was hardly intended: quotes around it, outer spaces, invisible
    /// characters.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.asked().insert(name.to_string());
        let value = self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
        value.map_or(Ok(()), |value| check_value(name, value)).map(|()| value)
    }

    /// A sentence for each variable that has not been read and whose name is close to one that has. It is complete
    /// after the configuration and the features have been read.
    pub fn misspelt(&self) -> Vec<String> {
        let asked = self.asked();
        let is_set = |name: &&String| !asked.contains(*name) && !self.variables[*name].is_empty();
        let meant = |name: &String| {
            // What a shell reads as `export NAME` is a name that contains a space for other programs.
            let word = name.rsplit(' ').next()?;
            let close = asked.iter().filter_map(|ours| Some((spelling::mistakes(word, ours)?, ours)));
            let (_, ours) = close.min()?;
            Some(format!("{name} is set, but there is no such variable: set {ours} if that is what you meant"))
        };
        let mut sentences: Vec<String> = self.variables.keys().filter(is_set).filter_map(meant).collect();
        sentences.sort();
        sentences
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number in this range, or `default`.
    pub fn number<T: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T> {
        let number = self.text(name)?.map_or(Some(default), |text| text.parse().ok());
        number
            .filter(|number| range.contains(number))
            .with_context(|| format!("{name} must be a whole number from {} to {}", range.start(), range.end()))
    }

    /// A duration such as `3s`, `10m`, `24h` or `7d`, or `default` written the same way.
    pub fn duration(&self, name: &str, default: &str) -> Result<Duration> {
        let text = self.text(name)?.unwrap_or(default);
        parse_duration(text).with_context(|| {
            format!("{name} must be a duration: a whole number above zero and s, m, h or d, such as {default}")
        })
    }

    /// A number per duration, such as `10/3m`.
    pub fn rate(&self, name: &str, default: &str) -> Result<Rate> {
        let text = self.text(name)?.unwrap_or(default);
        text.parse()
            .ok()
            .with_context(|| format!("{name} must be a rate: a number, a slash and a duration, such as {default}"))
    }

    /// Whether the site sends mail. Features that need mail register no routes without it.
    pub fn sends_mail(&self) -> Result<bool> {
        Ok(self.text("SMTP_URL")? != Some("none"))
    }

    pub fn yes(&self, name: &str) -> Result<bool> {
        match self.text(name)? {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(_) => bail!("{name} must be yes or no"),
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Env {
        let variables = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Env { variables, asked: Mutex::default() }
    }
}

/// A number per duration, written `10/3m`. They may be used all at once or spread out.
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

/// Docker's `--env-file` and other tools pass values on unchanged, including quotes meant for a shell and invisible
/// characters.
fn check_value(name: &str, value: &str) -> Result<()> {
    let in_quotes = |quote| value.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.contains(quote));
    ensure!(
        in_quotes('"').or(in_quotes('\'')).is_none(),
        "{name} must not have quotes around it: the program that sets it makes them part of the value"
    );
    ensure!(
        !value.ends_with('\r'),
        "{name} must not end with a carriage return: save the file that sets it with Unix line endings"
    );
    ensure!(!value.contains(char::is_control), "{name} must be one line without tabs or other control characters");
    ensure!(!value.contains('\u{fffd}'), "{name} must be in UTF-8");
    let is_blank = |c: char| c.is_whitespace() || is_invisible(c);
    ensure!(
        !value.starts_with(is_blank) && !value.ends_with(is_blank),
        "{name} must not begin or end with a space or an invisible character"
    );
    ensure!(
        !value.contains(['\u{200b}', '\u{2060}', '\u{feff}']),
        "{name} must not have an invisible character, such as a zero-width space: type it again"
    );
    ensure!(
        !value.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('=')),
        "{name} must not begin with its own name: set only what comes after the ="
    );
    let is_reference = [("${", '}'), ("$(", ')'), ("{{", '}')]
        .iter()
        .any(|(start, end)| value.starts_with(start) && value.ends_with(*end));
    ensure!(!is_reference, "{name} must be the value itself: variables and commands in it are not replaced");
    Ok(())
}

/// Invisible characters, which join other characters or change their direction. In some scripts, names contain them.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Checks that a path means the same here as in a shell.
///
/// # Errors
/// One sentence about what a shell would have replaced or removed.
pub fn check_path(name: &str, path: &str) -> Result<()> {
    let begins_name = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '{' | '(');
    let has_variable = path.split('$').skip(1).any(|rest| rest.starts_with(begins_name));
    ensure!(
        !has_variable && !path.split(['/', '\\']).any(|part| part.starts_with('~')),
        "{name} has ~ or a variable such as $HOME in its path, which is not replaced: write the path itself"
    );
    let is_wrong = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    ensure!(
        !path.starts_with(is_wrong) && !path.ends_with(is_wrong) && !path.contains(" #"),
        "{name} must not have a quote, space or comment before or after its path: it would become part of the path"
    );
    Ok(())
}

/// A duration such as `3s`, `10m`, `24h` or `7d`.
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
    // A hundred years is more than enough, and sums of seconds cannot overflow.
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

    #[test]
    fn a_variable_that_is_close_to_one_that_is_read_is_named_with_it() {
        let env: Env = [("SMPT_URL", "value"), ("SMTP_URL", ""), ("HOME", "value"), ("PORTS", "1"), ("Port", "1")]
            .into_iter()
            .chain([("SMTPURL", ""), ("PORT", "1")])
            .collect();
        assert_eq!(env.misspelt(), [""; 0], "nothing has been read");
        assert_eq!(env.text("SMTP_URL").unwrap(), None);
        assert_eq!(env.number("PORT", 8000, 0..=9000).unwrap(), 1);
        let said =
            |name, ours| format!("{name} is set, but there is no such variable: set {ours} if that is what you meant");
        assert_eq!(env.misspelt(), [said("Port", "PORT"), said("SMPT_URL", "SMTP_URL")]);
    }

    #[test]
    fn a_name_with_the_word_of_a_shell_before_it_is_known() {
        for name in ["export PORT", "set PORT", "export  Port"] {
            let env: Env = [(name, "8000")].into_iter().collect();
            env.text("PORT").unwrap();
            assert!(env.misspelt().concat().starts_with(&format!("{name} is set, but")), "{name}");
        }
    }

    #[test]
    fn a_value_with_characters_that_nobody_meant_is_refused_without_repeating_it() {
        for (value, reason) in [
            ("\"swordfish\"", "quotes"),
            ("'swordfish'", "quotes"),
            ("\"\"", "quotes"),
            ("swordfish\r", "carriage return"),
            ("sword\nfish", "one line"),
            ("swordfish\n", "one line"),
            ("sword\tfish", "one line"),
            ("sword\u{1b}[0mfish", "one line"),
            ("sword\u{85}fish", "one line"),
            ("swordfish ", "space"),
            (" swordfish", "space"),
            (" ", "space"),
            ("swordfish\u{a0}", "space"),
            ("\u{3000}swordfish", "space"),
            ("\u{feff}swordfish", "invisible"),
            ("\u{202a}swordfish", "invisible"),
            ("swordfish\u{200e}", "invisible"),
            ("swordfish\u{ad}", "invisible"),
            ("sword\u{200b}fish", "invisible"),
            ("sword\u{2060}fish", "invisible"),
            ("sword\u{feff}fish", "invisible"),
            ("sword\u{fffd}fish", "UTF-8"),
            ("NAME=swordfish", "own name"),
            ("NAME = swordfish", "own name"),
            ("${SWORDFISH}", "value itself"),
            ("${{ secrets.SWORDFISH }}", "value itself"),
            ("$(cat swordfish)", "value itself"),
            ("{{ swordfish }}", "value itself"),
        ] {
            let refusal = Env::from_iter([("NAME", value)]).text("NAME").expect_err(value).to_string();
            assert!(refusal.starts_with("NAME must ") && refusal.contains(reason), "{value:?}: {refusal}");
            assert!(!refusal.contains("fish") && refusal.lines().count() == 1, "{value:?}: {refusal}");
            let others = [Env::from_iter([("NAME", value)]).yes("NAME").unwrap_err()]
                .into_iter()
                .chain(Env::from_iter([("NAME", value)]).number("NAME", 1, 0..=9).err())
                .chain(Env::from_iter([("NAME", value)]).duration("NAME", "1s").err())
                .chain(Env::from_iter([("NAME", value)]).rate("NAME", "1/1s").err());
            others.for_each(|other| assert_eq!(other.to_string(), refusal));
        }
    }

    #[test]
    fn every_other_value_is_what_it_is() {
        for value in [
            "Bob's \"shop\"",
            "\"Ada, Inc.\" <a@b.c>",
            "\"Foo\" & \"Bar\"",
            "'70s \"shop\"",
            "\"",
            "'",
            "Café\u{a0}!",
            "می\u{200c}خواهم",
            "👩\u{200d}💻",
            "Cash ${HOME}",
            "Cash$money",
            "$5",
            "{a}",
            "a = b",
            "NAMES=a",
            "smtps://ada:%22tiger%22@mail.example.com",
            "postgres://ada:$(tiger)~'\"@localhost/app",
            "my name",
            "# 1",
        ] {
            assert_eq!(Env::from_iter([("NAME", value)]).text("NAME").unwrap(), Some(value));
        }
    }

    /// Runs itself again, as a process with such a variable.
    #[test]
    fn a_variable_that_is_not_unicode_does_not_stop_the_site() {
        const NAME: &str = "LATCHKEY_TEST_NOT_UNICODE";
        if std::env::var_os(NAME).is_some() {
            let refusal = Env::load().unwrap().text(NAME).unwrap_err().to_string();
            assert_eq!(refusal, "LATCHKEY_TEST_NOT_UNICODE must be in UTF-8");
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
