//! Reads a file of users line by line: CSV whose first line names the columns, or JSON lines.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{BufRead, Read};

/// Maximum bytes of a line. Of a longer one the rest is skipped.
const MAX_LINE: usize = 64 * 1024;

const COLUMNS: [&str; 5] = ["username", "email", "confirmed", "hash", "groups"];

const BYTE_ORDER_MARK: char = '\u{feff}';

/// What a line says about a user.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fields {
    pub username: String,
    pub email: Option<String>,
    pub confirmed: Value,
    pub hash: Option<String>,
    pub groups: Value,
}

/// A line of the file, counted from 1.
pub struct Line {
    pub number: u64,
    /// Or why it cannot be read.
    pub fields: Result<Fields, String>,
}

pub struct File<R> {
    input: R,
    /// How many lines were read.
    read: u64,
    format: Format,
}

enum Format {
    /// With the names of its columns.
    Csv(Vec<String>),
    /// With the first line, until it is taken.
    JsonLines(Option<Line>),
}

impl<R: BufRead> File<R> {
    /// Reads the first line, which decides what format it is.
    ///
    /// # Errors
    /// When it cannot be read, or names no columns.
    pub fn open(input: R) -> Result<File<R>> {
        let mut file = File { input, read: 0, format: Format::JsonLines(None) };
        let first = file.next_text()?.context("the file is empty")?;
        let number = file.read;
        match first {
            Ok(text) if text.starts_with('{') => {
                file.format = Format::JsonLines(Some(Line { number, fields: from_json(&text) }));
            }
            Ok(text) if text.starts_with('[') => {
                bail!("line {number}: write each user as an object on a line of its own")
            }
            Ok(text) => {
                let columns = split(&text).and_then(check_columns);
                file.format = Format::Csv(columns.map_err(anyhow::Error::msg).context(format!("line {number}"))?);
            }
            Err(sentence) => bail!("line {number}: {sentence}"),
        }
        Ok(file)
    }

    /// The next line that is not empty. `None` at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        if let Format::JsonLines(first @ Some(_)) = &mut self.format {
            return Ok(first.take());
        }
        let Some(text) = self.next_text()? else { return Ok(None) };
        let fields = text.and_then(|text| match &self.format {
            Format::Csv(columns) => from_csv(columns, &text),
            Format::JsonLines(_) => from_json(&text),
        });
        Ok(Some(Line { number: self.read, fields }))
    }

    fn next_text(&mut self) -> Result<Option<Result<String, String>>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE as u64 + 1;
            (&mut self.input).take(limit).read_until(b'\n', &mut bytes).context("the file cannot be read")?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.read += 1;
            if bytes.len() > MAX_LINE && !bytes.ends_with(b"\n") {
                self.input.skip_until(b'\n').context("the file cannot be read")?;
                return Ok(Some(Err(format!("The line has more than {MAX_LINE} bytes."))));
            }
            let Ok(text) = String::from_utf8(bytes) else {
                return Ok(Some(Err("The line is not UTF-8.".into())));
            };
            let text = text.trim_end_matches(['\r', '\n']);
            let text = if self.read == 1 { text.trim_start_matches(BYTE_ORDER_MARK) } else { text };
            if !text.trim().is_empty() {
                return Ok(Some(Ok(text.into())));
            }
        }
    }
}

fn check_columns(names: Vec<String>) -> Result<Vec<String>, String> {
    let known = COLUMNS.join(", ");
    if let Some(unknown) = names.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
        return Err(format!(
            "There is no column {unknown:?}: the first line names some of {known}, separated by commas."
        ));
    }
    if let Some(name) = COLUMNS.iter().find(|name| names.iter().filter(|other| other == *name).count() > 1) {
        return Err(format!("The column {name} is named twice."));
    }
    if !names.iter().any(|name| name == COLUMNS[0]) {
        return Err(format!("The column {} is missing.", COLUMNS[0]));
    }
    Ok(names)
}

fn from_json(text: &str) -> Result<Fields, String> {
    serde_json::from_str(text).map_err(|error| {
        let sentence = error.to_string();
        // The place in the line says nothing that the sentence does not.
        let sentence = sentence.rsplit_once(" at line ").map_or(&*sentence, |(sentence, _)| sentence);
        without_value(sentence).replace(char::is_control, "\u{fffd}") + "."
    })
}

/// Names only the kind of a value of the wrong type, which may be a password.
fn without_value(sentence: &str) -> String {
    match sentence.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
            format!("invalid type: {kind}, expected {expected}")
        }
        None => sentence.to_string(),
    }
}

fn from_csv(columns: &[String], text: &str) -> Result<Fields, String> {
    let values = split(text)?;
    if values.len() != columns.len() {
        return Err(format!("The line has {} fields, and the first line names {}.", values.len(), columns.len()));
    }
    let given = columns.iter().zip(values).filter(|(_, value)| !value.is_empty());
    let object: Map<String, Value> = given.map(|(name, value)| (name.clone(), value.into())).collect();
    serde_json::from_value(object.into()).map_err(|error| error.to_string())
}

/// The fields of a line of CSV (RFC 4180). No field can contain the end of a line.
fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (field.to_string(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("There is something between a closing quote and the next comma.".into()),
        }
    }
}

/// The field whose opening quote has been read, and what follows its closing quote.
fn unquote(mut rest: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"').ok_or("A quote is not closed on the same line.")?;
        field += text;
        let Some(next) = after.strip_prefix('"') else { return Ok((field, after)) };
        field.push('"');
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line of a file: its number, and what its fields are or why it cannot be read.
    fn lines(text: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut file = File::open(text).unwrap();
        let mut lines = Vec::new();
        while let Some(Line { number, fields }) = file.next_line().unwrap() {
            let shown = |f: Fields| {
                let text = |text: Option<String>| text.unwrap_or("-".into());
                format!("{} {} {} {} {}", f.username, text(f.email), f.confirmed, text(f.hash), f.groups)
            };
            lines.push((number, fields.map(shown)));
        }
        lines
    }

    /// What is wrong with the only line of users that cannot be read. The one after it can.
    #[track_caller]
    fn mistake(first: &str, wrong: &[u8], last: &str) -> String {
        let lines = lines(&[first.as_bytes(), wrong, last.as_bytes()].concat());
        let (_, after) = lines.last().unwrap();
        assert!(after.as_ref().unwrap().starts_with("eve "), "{after:?}");
        let mut wrong = lines.into_iter().filter_map(|(number, fields)| Some((number, fields.err()?)));
        let (number, sentence) = wrong.next().expect("a line that cannot be read");
        assert!(number == 2 && wrong.next().is_none());
        sentence
    }

    fn refusal(text: &str) -> String {
        let error = File::open(text.as_bytes()).err().expect(text);
        error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn both_formats_say_the_same_about_users() {
        let csv = "username,email,confirmed,hash,groups\nada,ada@example.com,yes,$2y$04$x,staff\nbob,,,,\n";
        let json = "{\"username\":\"ada\",\"email\":\"ada@example.com\",\"confirmed\":\"yes\",\"hash\":\"$2y$04$x\",\
                    \"groups\":\"staff\"}\n\n{\"username\":\"bob\",\"email\":null}";
        let users = ["ada ada@example.com \"yes\" $2y$04$x \"staff\"", "bob - null - null"];
        for (text, numbers) in [(csv, [2, 3]), (json, [1, 3])] {
            let lines = lines(text.as_bytes());
            assert_eq!(lines, numbers.into_iter().zip(users.map(|user| Ok(user.into()))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn files_from_every_system_are_read_and_their_lines_counted_as_editors_do() {
        let windows = "\u{feff}\"email\",\"username\"\r\n\r\n\"ada@example.com\",\"ada\"\r\n   \r\n,\"a\"\"da, b\"";
        let expected = [(3, Ok("ada ada@example.com null - null".into())), (5, Ok("a\"da, b - null - null".into()))];
        assert_eq!(lines(windows.as_bytes()), expected);
        assert_eq!(lines("\u{feff}{\"username\":\"ada\"}\r\n".as_bytes()), [(1, Ok("ada - null - null".into()))]);
        assert_eq!(lines(b"\n\nusername\nada"), [(4, Ok("ada - null - null".into()))]);
        assert_eq!(lines(b"username\n"), []);
    }

    #[test]
    fn a_line_that_cannot_be_read_says_why_and_the_next_is_read() {
        let long = [&[b'a'; MAX_LINE + 1][..], b"\n"].concat();
        let many = [&[b'a'; 5 * MAX_LINE][..], b"\n"].concat();
        for (wrong, reason) in [
            (&b"Zo\xeb,\n"[..], "not UTF-8"),
            (&long, "more than 65536 bytes"),
            (&many, "more than 65536 bytes"),
            (b"ada\n", "has 1 fields, and the first line names 2"),
            (b"ada,ada@example.com,yes\n", "has 3 fields, and the first line names 2"),
            (b"\"ada,ada@example.com\n", "not closed"),
            (b"\"ada\"b,\n", "between a closing quote and the next comma"),
        ] {
            let said = mistake("username,email\n", wrong, "eve,");
            assert!(said.contains(reason), "{said}");
        }
        for (wrong, reason) in [
            (&b"ada\n"[..], "expected value"),
            (b"{\"username\":\"ada\"\n", "EOF"),
            (b"{\"username\":\"ada\"} {}\n", "trailing"),
            (b"{\"username\":\"ada\",\"password\":\"secret\"}\n", "unknown field `password`"),
            (b"{\"username\":\"ada\",\"username\":\"eve\"}\n", "duplicate field `username`"),
            (b"{\"username\":5}\n", "invalid type: integer, expected a string."),
            (b"{\"username\":\"ada\",\"hash\":20240117}\n", "invalid type: integer, expected a string."),
            (b"\"my secret, expected \\\" at line 1\"\n", "invalid type: string, expected struct Fields."),
            (b"{\"a\\u001b]0;b\\nline 7: fine\":1}\n", "unknown field `a\u{fffd}]0;b\u{fffd}line 7: fine`"),
            (b"{\"username\":\"ada\",\"email\":[\"ada@example.com\"]}\n", "expected a string"),
        ] {
            let said = mistake("{\"username\":\"zoe\"}\n", wrong, "{\"username\":\"eve\"}");
            assert!(said.contains(reason) && !said.contains("secret") && !said.contains("column"), "{said}");
        }
    }

    #[test]
    fn a_file_whose_first_line_does_not_name_the_columns_is_refused_with_what_it_needs() {
        for (text, reason) in [
            ("", "the file is empty"),
            ("\n \r\n", "the file is empty"),
            (
                "ada,ada@example.com",
                "line 1: There is no column \"ada\": the first line names some of username, email,",
            ),
            ("username;email", "no column \"username;email\""),
            ("username,Email", "no column \"Email\""),
            ("username,,email", "no column \"\""),
            ("email,hash", "The column username is missing"),
            ("username,email,email", "The column email is named twice"),
            ("\"username", "not closed"),
            ("[{\"username\":\"ada\"}]", "line 1: write each user as an object on a line of its own"),
        ] {
            assert!(refusal(text).contains(reason), "{}", refusal(text));
        }
    }
}
