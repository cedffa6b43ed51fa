//! [`Db`] is the line to change in an app that uses only one engine.

/// The engine. `sqlx::Any` chooses by `DATABASE_URL`; with `sqlx::Postgres` or `sqlx::Sqlite` here, all types of that
/// engine can be used.
pub type Db = sqlx::Any;

pub type DbConnection = <Db as sqlx::Database>::Connection;
pub type DbRow = <Db as sqlx::Database>::Row;
