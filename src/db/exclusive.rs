//! Connects to a database that no other program uses, for commands that replace or move it.

use super::connect::{self, Mode};
use super::engine::DbConnection;
use crate::base::config::is_sqlite;
use crate::base::error::is_unavailable;
use anyhow::{Result, ensure};
use sqlx::Executor;

/// In WAL mode, every open connection holds a shared lock, also while it does nothing. An exclusive lock is kept until the
/// connection is closed.
const LOCK: &str = "pragma busy_timeout = 1000; pragma locking_mode = exclusive; begin exclusive; commit";

const OTHERS: &str = "select count(*) from pg_stat_activity \
                      where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()";

/// A connection that is the only one. Until it is closed, no other program can read or write an SQLite file. Postgres does not
/// keep others out that come later.
///
/// # Errors
/// One sentence when another program uses the database.
pub async fn connect_alone(url: &str) -> Result<DbConnection> {
    let mut connection = connect::connect(url, Mode::Write).await?;
    let is_alone = if is_sqlite(url) {
        match connection.execute(LOCK).await {
            Err(error) if is_unavailable(&error) => false,
            locked => locked.map(|_| true)?,
        }
    } else {
        let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut connection).await?;
        others == 0
    };
    ensure!(is_alone, "another program uses the database: stop the site first");
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestDatabase;
    use sqlx::Connection;

    #[tokio::test]
    async fn a_database_that_another_program_has_open_is_not_to_be_had_alone_until_it_is_closed() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let mut other = connect::connect(url, Mode::Write).await.unwrap();
        if is_sqlite(url) {
            other.execute(connect::USE_WAL).await.unwrap();
        }
        other.execute("create table a (id text)").await.unwrap();
        assert!(connect_alone(url).await.unwrap_err().to_string().contains("another program uses the database"));
        other.execute("insert into a (id) values ('kept')").await.unwrap();
        other.close().await.unwrap();
        let mut alone = connect_alone(url).await.unwrap();
        alone.execute("insert into a (id) values ('more')").await.unwrap();
        if is_sqlite(url) {
            assert!(connect_alone(url).await.is_err());
        }
    }
}
