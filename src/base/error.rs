//! What can end a request early. `web/error_pages.rs` turns each into an answer.

use anyhow::anyhow;
use axum::http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The request is refused with this status.
    Refused(StatusCode),
    /// The form has mistakes: 422. A handler shows the form again; a script gets the sentence as JSON. Only for what is
    /// found before anything is written, because a transaction that returns an error is rolled back.
    Invalid(FieldErrors),
    /// The link is unknown, used or expired: 404, with a page of its own.
    StaleLink,
    /// The user has to go to another page of this site first, such as the log-in: 303.
    Redirect(String),
    /// Too many attempts: 429, and when to come back.
    TooMany(Duration),
    /// Too busy, or the database cannot be reached: 503, worth trying again.
    Unavailable(anyhow::Error),
    /// A fault of ours: 500. Only the log has the details.
    Fault(anyhow::Error),
}

impl Error {
    pub const NOT_FOUND: Error = Error::Refused(StatusCode::NOT_FOUND);
    pub const MALFORMED: Error = Error::Refused(StatusCode::BAD_REQUEST);

    /// One field with a mistake.
    pub fn invalid(field: &'static str, sentence: impl Into<String>) -> Error {
        Error::Invalid(FieldErrors::of(field, sentence))
    }

    /// The mistakes to show beside the fields of a form.
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

/// The mistakes in a form: one sentence for each field that has one. In a template, `errors.username`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct FieldErrors(BTreeMap<&'static str, String>);

impl FieldErrors {
    /// The name under which a mistake is kept that belongs to no field, such as "You have 500 bookmarks already".
    pub const FORM: &'static str = "form";

    pub fn of(field: &'static str, sentence: impl Into<String>) -> FieldErrors {
        FieldErrors(BTreeMap::from([(field, sentence.into())]))
    }

    /// Adds a mistake. The first one of a field is the one shown.
    pub fn add(&mut self, field: &'static str, sentence: impl Into<String>) {
        self.0.entry(field).or_insert_with(|| sentence.into());
    }

    /// Returns the value, or adds its mistake and returns `None`.
    pub fn check<T>(&mut self, field: &'static str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|sentence| self.add(field, sentence)).ok()
    }

    /// As [`FieldErrors::check`], for a value whose mistakes name their fields.
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
        Error::Fault(cause)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match &error {
            // The row it belongs to has just been deleted.
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => Error::NOT_FOUND,
            _ if is_unavailable(&error) => Error::Unavailable(error.into()),
            _ => Error::Fault(error.into()),
        }
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
            Error::StaleLink => anyhow!("the link does not work any more"),
            Error::Redirect(path) => anyhow!("{path} comes first"),
            Error::TooMany(wait) => anyhow!("too many attempts; try again in {wait:?}"),
            Error::Unavailable(cause) | Error::Fault(cause) => cause,
        }
    }
}

/// Whether the database could not be reached, is too busy or refuses writes, rather than asked something wrong.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    match error {
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | Protocol(_) | WorkerCrashed => true,
        sqlx::Error::Database(cause) => match cause.code().as_deref() {
            // Postgres (Appendix A of its manual): connection, resources, operator intervention, deadlock; a lock or a
            // transaction that has taken too long.
            Some(code) if code.len() == 5 => {
                ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class))
                    || matches!(code, "55P03" | "25P03")
                    || refuses_writes(error)
            }
            // SQLITE_BUSY, SQLITE_LOCKED and SQLITE_PROTOCOL, each also in the low byte of its extended codes.
            Some(code) => sqlite_code(code).is_some_and(|code| matches!(code, 5 | 6 | 15)) || refuses_writes(error),
            None => false,
        },
        _ => false,
    }
}

/// Whether the database can be reached, and refuses to be written or to be given room.
pub fn refuses_writes(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    match error.code().as_deref() {
        // Postgres: a read-only transaction, as on a standby; a full disk; an error of the system, as a disk that fails.
        Some(code) if code.len() == 5 => matches!(code, "25006" | "53100") || code.starts_with("58"),
        // SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL and SQLITE_CANTOPEN, which it also answers when no file can be opened.
        Some(code) => sqlite_code(code).is_some_and(|code| matches!(code, 8 | 10 | 13 | 14)),
        None => false,
    }
}

/// Whether the connection that was used is of no use any more.
pub fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        // Postgres: connection exceptions, and a session that the server has ended.
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

    #[test]
    fn a_handler_catches_mistakes_and_no_other_error() {
        let errors = Error::invalid(FieldErrors::FORM, "You have 500 already.").field_errors().unwrap();
        assert_eq!(errors.iter().collect::<Vec<_>>(), [("form", "You have 500 already.")]);
        assert!(matches!(Error::StaleLink.field_errors(), Err(Error::StaleLink)));
        let sentence = anyhow::Error::from(Error::from(errors)).to_string();
        assert_eq!(sentence, "You have 500 already.");
    }
}
