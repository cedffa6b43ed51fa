//! The ways a request can end early. `web/error_pages.rs` turns each into a response.

use anyhow::anyhow;
use axum::http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::ErrorKind::WouldBlock;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The request is refused with this status.
    Refused(StatusCode),
    /// The form has mistakes: 422. A handler shows the form again; a script gets the message as JSON. Only for mistakes
    /// that are found before anything is written, because a transaction that returns an error is rolled back.
    Invalid(FieldErrors),
    /// There is no such page for this user, who must not learn that there is one for others: 404, like an unknown path.
    Hidden,
    /// The user may use the page, but not for this: 403, with a sentence that says why.
    Forbidden(&'static str),
    /// The site would be left without an administrator: 409.
    LastAdmin,
    /// The link is unknown, used or expired: 404, with a page of its own.
    StaleLink,
    /// The user has to go to another page of this site first, such as the log-in: 303.
    Redirect(String),
    /// Something was pressed and is not done, because the user has to confirm first, on this page: 303 to it, and from there
    /// back to the page of the form.
    TooLate(String),
    /// Another request has done the same already, and gets the answer: see `web/once.rs`.
    Repeated,
    /// Too many attempts: 429, with the time to wait.
    TooMany(Duration),
    /// Too busy, or the database cannot be reached: 503; the client can try again.
    Unavailable(anyhow::Error),
    /// An internal error: 500. Only the log has the details.
    Fault(anyhow::Error),
}

impl Error {
    pub const NOT_FOUND: Error = Error::Refused(StatusCode::NOT_FOUND);
    pub const MALFORMED: Error = Error::Refused(StatusCode::BAD_REQUEST);

    /// One field with a mistake.
    pub fn invalid(field: &'static str, sentence: impl Into<String>) -> Error {
        Error::Invalid(FieldErrors::of(field, sentence))
    }

    /// The messages to show next to the fields of a form.
    ///
    /// # Errors
    /// Every other error, unchanged.
    pub fn field_errors(self) -> Result<FieldErrors> {
        match self {
            Error::Invalid(errors) => Ok(errors),
            other => Err(other),
        }
    }
}

/// The mistakes in a form: one message for each field that has one. In a template, `errors.username`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct FieldErrors(BTreeMap<&'static str, String>);

impl FieldErrors {
    /// The key of a message that belongs to no field, such as "You have 500 bookmarks already".
    pub const FORM: &'static str = "form";

    pub fn of(field: &'static str, sentence: impl Into<String>) -> FieldErrors {
        FieldErrors(BTreeMap::from([(field, sentence.into())]))
    }

    /// Adds a message. Only the first one of a field is shown.
    pub fn add(&mut self, field: &'static str, sentence: impl Into<String>) {
        self.0.entry(field).or_insert_with(|| sentence.into());
    }

    /// Returns the value, or adds its message and returns `None`.
    pub fn check<T>(&mut self, field: &'static str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|sentence| self.add(field, sentence)).ok()
    }

    /// Like [`FieldErrors::check`], for a value whose messages already have fields.
    pub fn merge<T>(&mut self, parsed: Result<T, FieldErrors>) -> Option<T> {
        let add = |errors: FieldErrors| errors.0.into_iter().for_each(|(field, sentence)| self.add(field, sentence));
        parsed.map_err(add).ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(field, sentence)| (*field, &**sentence))
    }
}

impl From<FieldErrors> for Error {
    fn from(errors: FieldErrors) -> Error {
        Error::Invalid(errors)
    }
}

impl From<anyhow::Error> for Error {
    fn from(cause: anyhow::Error) -> Error {
        let is_unavailable = cause.chain().filter_map(|cause| cause.downcast_ref()).any(is_unavailable);
        if is_unavailable { Error::Unavailable(cause) } else { Error::Fault(cause) }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match &error {
            // The row it belongs to has just been deleted.
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => Error::NOT_FOUND,
            // Text with a NUL character, which Postgres does not store.
            sqlx::Error::Database(cause) if cause.code().as_deref() == Some("22021") => Error::MALFORMED,
            _ if is_unavailable(&error) => Error::Unavailable(error.into()),
            _ => Error::Fault(error.into()),
        }
    }
}

/// An error and its causes in one line, without repetition: many errors repeat the message of their cause.
pub fn explain(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for (number, cause) in error.chain().enumerate() {
        let answer = answer_of_database(cause);
        let words = answer.clone().unwrap_or_else(|| cause.to_string());
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        said.iter_mut().for_each(|earlier| cut_end(earlier, &words));
        // sqlx adds words to a cause that only say that it concerns the database.
        let is_known = number > 0 && cause.is::<sqlx::Error>() && cause.source().is_some();
        if answer.is_some() || !is_known {
            said.push(words);
        }
        if answer.is_some() {
            break;
        }
    }
    said.retain(|words| !words.is_empty());
    said.dedup();
    said.join(": ")
}

/// The database's own message. The causes below it add nothing.
fn answer_of_database(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    match cause.downcast_ref()? {
        sqlx::Error::Database(answer) => {
            let code = answer.code().map(|code| format!(" (code {code})")).unwrap_or_default();
            Some(answer.message().to_string() + &code)
        }
        // Sockets do not fail like this. A connection to SQLite is a thread.
        sqlx::Error::Io(error) if error.kind() == WouldBlock => {
            Some("the system allows this user no more threads: raise the limit with ulimit -u".into())
        }
        sqlx::Error::PoolTimedOut => Some("it provides no connection in time".into()),
        _ => None,
    }
}

/// Removes the part that the next cause repeats.
fn cut_end(text: &mut String, end: &str) {
    let rest = text.strip_suffix(end).filter(|rest| rest.is_empty() || rest.ends_with(": "));
    if let Some(rest) = rest.filter(|_| !end.is_empty()) {
        text.truncate(rest.trim_end_matches(": ").len());
    }
}

/// For commands, which report one sentence.
impl From<Error> for anyhow::Error {
    fn from(error: Error) -> anyhow::Error {
        match error {
            Error::Refused(status) => anyhow!("refused: {status}"),
            Error::Invalid(errors) => {
                anyhow!(errors.iter().map(|(_, sentence)| sentence).collect::<Vec<_>>().join(" "))
            }
            Error::Hidden => anyhow!("there is no such page"),
            Error::Forbidden(sentence) => anyhow!(sentence),
            Error::LastAdmin => anyhow!("the site would be left without an administrator"),
            Error::StaleLink => anyhow!("the link no longer works"),
            Error::Redirect(path) | Error::TooLate(path) => anyhow!("{path} comes first"),
            Error::Repeated => anyhow!("it was done already"),
            Error::TooMany(wait) => anyhow!("too many attempts; try again in {wait:?}"),
            Error::Unavailable(cause) | Error::Fault(cause) => cause,
        }
    }
}

/// Whether the database cannot be reached, is too busy or rejects writes, as opposed to an invalid statement.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    match error {
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | Protocol(_) | WorkerCrashed => true,
        sqlx::Error::Database(cause) => match cause.code().as_deref() {
            // Postgres (Appendix A of its manual): connection, resources, operator intervention, deadlock; a lock or a
            // transaction that took too long.
            Some(code) if code.len() == 5 => {
                ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class))
                    || matches!(code, "55P03" | "25P03" | "25P04")
                    || refuses_writes(error)
            }
            // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM and SQLITE_PROTOCOL, which are also the low byte of their
            // extended codes.
            Some(code) => sqlite_code(code).is_some_and(|code| matches!(code, 5 | 6 | 7 | 15)) || refuses_writes(error),
            None => false,
        },
        _ => false,
    }
}

/// Whether the database can be reached but rejects writes, or has no space left.
pub fn refuses_writes(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    match error.code().as_deref() {
        // Postgres: a read-only transaction, as on a standby; a full disk; a system error, such as a failing disk.
        Some(code) if code.len() == 5 => matches!(code, "25006" | "53100") || code.starts_with("58"),
        // SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL and SQLITE_CANTOPEN, which also means that no more files can be
        // opened.
        Some(code) => sqlite_code(code).is_some_and(|code| matches!(code, 8 | 10 | 13 | 14)),
        None => false,
    }
}

/// Whether a SQLite file is damaged, or not one of SQLite: SQLITE_CORRUPT and SQLITE_NOTADB.
pub fn is_damaged(error: &anyhow::Error) -> bool {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref() else { return false };
    error.code().as_deref().and_then(sqlite_code).is_some_and(|code| matches!(code, 11 | 26))
}

/// Whether the connection can no longer be used.
pub fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        // Postgres: connection exceptions, and sessions that the server has ended.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
        }
        _ => false,
    }
}

fn sqlite_code(extended: &str) -> Option<u32> {
    extended.parse().ok().map(|code: u32| code & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::io;

    #[test]
    fn what_many_errors_repeat_is_said_once_and_in_one_line() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let unknown = || sqlx::Error::Configuration(Box::new(sqlx::Error::Configuration("unknown value".into())));
        for (error, sentence) in [
            (anyhow!("it fails"), "it fails"),
            (anyhow!("it fails: it fails"), "it fails: it fails"),
            (anyhow!("it fails").context("it fails").context("no start"), "no start: it fails"),
            (anyhow!("too late").context("it fails").context("it fails: too late"), "it fails: too late"),
            (anyhow!("toil").context("no oil"), "no oil: toil"),
            (anyhow!("one\n  two\r\n").context("three"), "three: one two"),
            (sqlx::Error::Io(refused()).into(), "error communicating with database: refused"),
            (anyhow::Error::from(sqlx::Error::Io(refused())).context("no database"), "no database: refused"),
            (unknown().into(), "error with configuration: unknown value"),
            (anyhow::Error::from(unknown()).context("no database"), "no database: unknown value"),
            (
                anyhow::Error::from(sqlx::Error::Io(WouldBlock.into())).context("no database"),
                "no database: the system allows this user no more threads: raise the limit with ulimit -u",
            ),
            (
                anyhow::Error::from(sqlx::Error::PoolTimedOut).context("no database"),
                "no database: it provides no connection in time",
            ),
        ] {
            assert_eq!(explain(&error), sentence, "{error:?}");
        }
        let parsed = "x".parse::<u8>().context("PORT");
        assert_eq!(explain(&parsed.unwrap_err()), "PORT: invalid digit found in string");
    }

    #[test]
    fn the_first_mistake_of_a_field_is_the_one_shown() {
        let mut errors = FieldErrors::default();
        assert_eq!(errors.check("name", Ok(1)), Some(1));
        assert_eq!(errors.iter().count(), 0);
        assert_eq!(errors.check::<()>("name", Err("Too long.".into())), None);
        errors.add("name", "Taken.");
        errors.add("email", "Not an address.");
        let expected = [("email", "Not an address."), ("name", "Too long.")];
        assert_eq!(errors.iter().collect::<Vec<_>>(), expected);
        assert_eq!(serde_json::to_value(&errors).unwrap()["name"], "Too long.");
    }

    #[test]
    fn mistakes_of_a_value_with_several_fields_are_added_to_the_others() {
        let mut errors = FieldErrors::of("name", "Taken.");
        assert_eq!(errors.merge(Ok(1)), Some(1));
        assert_eq!(errors.merge::<()>(Err(FieldErrors::of("password", "Too short."))), None);
        assert_eq!(errors.merge::<()>(Err(FieldErrors::of("name", "Too long."))), None);
        let expected = [("name", "Taken."), ("password", "Too short.")];
        assert_eq!(errors.iter().collect::<Vec<_>>(), expected);
    }

    /// As a database answers it.
    #[derive(Debug)]
    struct Answered(&'static str);

    impl std::fmt::Display for Answered {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Answered {}

    impl sqlx::error::DatabaseError for Answered {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn what_a_database_cannot_do_now_is_unavailable_however_it_is_passed_on() {
        let later = [
            // SQLite: busy, locked, out of memory, read-only, input and output, full, no file, a race for the WAL.
            "5", "261", "517", "6", "262", "7", "8", "520", "1032", "10", "522", "2570", "3850", "13", "14", "526",
            "15",
            // Postgres: a lost connection, no room, ended by somebody, in conflict, too long, read-only, a broken disk.
            "08006", "53100", "53200", "53300", "53400", "57014", "57P01", "57P02", "57P03", "57P05", "40001", "40P01",
            "55P03", "25P03", "25P04", "25006", "58030", "58P01",
        ];
        let never =
            ["1", "11", "19", "25", "26", "2067", "23505", "22P02", "42601", "42P01", "25P02", "28P01", "XX000"];
        let answered = |code| sqlx::Error::Database(Box::new(Answered(code)));
        for (code, is_later) in later.map(|code| (code, true)).into_iter().chain(never.map(|code| (code, false))) {
            let passed_on = anyhow::Error::from(answered(code)).context("it could not be read");
            for error in [Error::from(answered(code)), Error::from(passed_on)] {
                assert_eq!(matches!(error, Error::Unavailable(_)), is_later, "{code}: {error:?}");
            }
        }
        assert!(matches!(Error::from(anyhow!("no such template")), Error::Fault(_)));
    }

    #[test]
    fn a_handler_catches_mistakes_and_no_other_error() {
        let errors = Error::invalid(FieldErrors::FORM, "You have 500 already.").field_errors().unwrap();
        assert_eq!(errors.iter().collect::<Vec<_>>(), [("form", "You have 500 already.")]);
        assert!(matches!(Error::StaleLink.field_errors(), Err(Error::StaleLink)));
        let sentence = anyhow::Error::from(Error::from(errors)).to_string();
        assert_eq!(sentence, "You have 500 already.");
    }
}
