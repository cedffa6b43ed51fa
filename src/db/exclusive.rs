//! Connects to a database that no other program uses, for commands that replace or move it.

use super::connect::{self, Mode};
use super::engine::DbConnection;
use crate::base::config::is_sqlite;
use crate::base::error::is_unavailable;
use anyhow::{Result, ensure};
use sqlx::Executor;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// In WAL mode, every open connection holds a shared lock, also while it does nothing. An exclusive lock is kept until the
/// connection is closed.
const LOCK: &str = "pragma busy_timeout = 1000; pragma locking_mode = exclusive; begin exclusive; commit";

/// Who else is connected and may write. Of other roles, a role without privileges does not see the type.
const OTHERS: &str = "select count(*) from pg_stat_activity \
    where datname = current_database() and pid <> pg_backend_pid() and usesysid is not null \
    and coalesce(backend_type, 'client backend') = 'client backend' \
    and coalesce(has_table_privilege(usesysid, cast(to_regclass('users') as oid), 'insert'), true)";

/// How long to wait for a program that has just ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection that is the only one. Until it is closed, no other program can read or write an SQLite file. Postgres does not
/// keep others out that come later.
///
/// # Errors
/// One sentence when another program uses the database.
pub async fn connect_alone(url: &str) -> Result<DbConnection> {
    let mut connection = connect::connect(url, Mode::Write).await?;
    ensure_alone("DATABASE_URL", &mut connection, is_sqlite(url)).await?;
    Ok(connection)
}

/// The same for a connection that is open.
///
/// # Errors
/// One sentence when another program uses the database that this variable names.
pub async fn ensure_alone(variable: &str, connection: &mut DbConnection, sqlite: bool) -> Result<()> {
    let is_alone = if sqlite {
        match connection.execute(LOCK).await {
            Err(error) if is_unavailable(&error) => false,
            locked => locked.map(|_| true)?,
        }
    } else {
        let started = Instant::now();
        loop {
            // A transaction sees the same list again and again.
            connection.execute("select pg_stat_clear_snapshot()").await?;
            let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut *connection).await?;
            if others == 0 || started.elapsed() > PATIENCE {
                break others == 0;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    ensure!(is_alone, "another program uses the database in {variable}: stop the site first");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Config;
    use crate::test::TestDatabase;
    use sqlx::Connection;

    #[tokio::test]
    async fn a_database_that_another_program_has_open_is_not_to_be_had_alone_until_it_is_closed() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let config = Config::from_env(&[("DATABASE_URL", &**url)].into_iter().collect()).unwrap();
        connect::prepare(&config, Mode::Create).unwrap();
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
