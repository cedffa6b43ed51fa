//! The mark of a database to which `latchkey move` has not copied everything yet: a table of its own.

use super::engine::DbConnection;
use super::migrate::holder;
use super::patience::Patience;
use anyhow::{Result, ensure};

pub const MARK: &str = "create table if not exists latchkey_unfinished_move (begun_at bigint)";
pub const UNMARK: &str = "drop table latchkey_unfinished_move";

const ON_SQLITE: &str = "select count(*) from sqlite_master where name = 'latchkey_unfinished_move'";
const ON_POSTGRES: &str = "select count(*) from pg_class where oid = to_regclass('latchkey_unfinished_move')";

/// # Errors
/// When the database does not answer.
pub async fn is_marked(connection: &mut DbConnection, sqlite: bool) -> sqlx::Result<bool> {
    let count = sqlx::query_scalar(if sqlite { ON_SQLITE } else { ON_POSTGRES });
    count.fetch_one(connection).await.map(|count: i64| count > 0)
}

/// # Errors
/// One sentence when the database is marked.
pub async fn refuse(connection: &mut DbConnection, sqlite: bool, patience: &Patience) -> Result<()> {
    let looking = async || Ok(is_marked(connection, sqlite).await?);
    ensure!(!patience.wait_for(holder(sqlite), looking).await?, UNFINISHED);
    Ok(())
}

/// What is wrong with a database that is marked.
pub const UNFINISHED: &str = "the database is the target of a latchkey move that has not finished: run that command \
                              again, which starts over, or set DATABASE_URL to another database";
