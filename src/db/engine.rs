//! [`Db`] is the line to change in an app that has settled on one engine.

/// The engine. `sqlx::Any` decides by `DATABASE_URL`; `sqlx::Postgres` or `sqlx::Sqlite` here gives an app that has
/// chosen all the types of its engine.
pub type Db = sqlx::Any;

pub type DbConnection = <Db as sqlx::Database>::Connection;
pub type DbRow = <Db as sqlx::Database>::Row;
