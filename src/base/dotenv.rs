//! Reads `.env` files: lines `NAME=value`, with values taken literally.

use anyhow::{Result, bail, ensure};
use std::collections::HashMap;

/// The variables of a `.env` file. Lines may be empty, or comments that begin with `#`; `export` before a name is
/// ignored. A value that contains spaces or begins with `#` must be in quotes, single or double.
///
/// # Errors
/// When a line is ambiguous. The message has the number of the line and not its text, because a value may be secret.
pub fn parse(text: &str) -> Result<HashMap<String, String>> {
    let mut variables = HashMap::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = parse_line(line) else {
            bail!(
                "line {number} of the .env file cannot be read: write NAME=value, and put a value that has spaces or \
                 begins with # into quotes"
            );
        };
        let is_new = variables.insert(name.to_string(), value.to_string()).is_none();
        ensure!(is_new, "line {number} of the .env file sets {name} a second time");
    }
    Ok(variables)
}

fn parse_line(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let (name, value) = (name.trim(), value.trim_start_matches(BLANKS));
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some(())?;
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (value, rest) = match quote {
        Some(quote) => value[1..].split_once(quote)?,
        None => value.split_at(value.find(BLANKS).unwrap_or(value.len())),
    };
    // Other programs might read it as a comment, or cut off an invisible space.
    let is_clear = quote.is_some() || !value.starts_with('#') && !value.contains(char::is_whitespace);
    let comment = rest.trim_start_matches(BLANKS);
    let is_end = comment.is_empty() || comment.starts_with('#') && comment.len() < rest.len();
    (is_clear && is_end).then_some((name, value))
}

const BLANKS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_a_value_means_itself() {
        for (line, value) in [
            ("A=Cash$money", "Cash$money"),
            ("A=${HOME}`id`", "${HOME}`id`"),
            ("A='Cash $money'", "Cash $money"),
            (r#"A="a\nb""#, r"a\nb"),
            (r#"A="it's""#, "it's"),
            (r"A=a\b", r"a\b"),
            ("A=a#b=c", "a#b=c"),
            ("A=a # a comment", "a"),
            ("A=\"a # b\" # a comment", "a # b"),
            ("A=a#", "a#"),
            ("A=\"#a\"", "#a"),
            ("A='a\u{a0}'", "a\u{a0}"),
            ("A=%24money!", "%24money!"),
            (r#"A='{"a": "b"}'"#, r#"{"a": "b"}"#),
            ("A=it's", "it's"),
            ("A==", "="),
            ("export A=a", "a"),
            ("  export  A =\t'a' ", "a"),
            ("A = a", "a"),
            ("A=", ""),
            ("A=   ", ""),
            ("A=''", ""),
            ("\u{feff}A=å", "å"),
            ("# A=b\r\n\r\nA=a\r\n", "a"),
        ] {
            assert_eq!(parse(line).unwrap(), HashMap::from([("A".into(), value.into())]), "{line}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_by_its_line_and_no_value_is_repeated() {
        for line in [
            "swordfish",
            "=swordfish",
            "A B=swordfish",
            "1A=swordfish",
            "A-B=swordfish",
            "A=one swordfish",
            "A='swordfish",
            "A=\"sword\"fish\"",
            "A='sword'fish",
            "A='sword'#fish",
            "A=swordfish\rB=b",
            "A=swordfish\u{a0}",
            "A=sword\u{2003}fish",
            "A=#swordfish",
            "A= # swordfish",
            "A=\"sword\\\"fish\"",
            "A=\"sword\nfish\"",
            "A: swordfish",
            "export swordfish",
            "export\tA=swordfish",
            "set A=swordfish",
            "\u{feff}A=swordfish",
            "Ä=swordfish",
        ] {
            let error = parse(&format!("# first\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2 of the .env file") && !error.contains("fish"), "{line}: {error}");
        }
        let error = parse("A=1\nB=2\nA=swordfish").unwrap_err().to_string();
        assert_eq!(error, "line 3 of the .env file sets A a second time");
    }
}
