//! Migrations: each section of `schema.sql` is applied once to a database, in the order of the numbers.

use super::engine::DbConnection;
use anyhow::{Context, Result, bail};
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

/// Applies the sections of `schema` that this database has not seen. Replicas may start together: on Postgres the
/// migrator holds an advisory lock, on SQLite the transaction around it is the lock.
///
/// # Errors
/// One sentence: a section that was edited after it was applied, two with one number, or SQL that fails.
pub async fn apply(connection: &mut DbConnection, sqlite: bool, schema: &'static str) -> Result<()> {
    let mut migrator = Migrator::with_migrations(sections(schema)?);
    migrator.set_ignore_missing(true);
    let applied = if sqlite {
        let mut transaction = sqlx::Connection::begin_with(connection, "begin immediate").await?;
        let applied = migrator.run_direct(None, &mut *transaction, false).await;
        if applied.is_ok() {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        applied
    } else {
        migrator.run_direct(None, connection, false).await
    };
    match applied {
        Err(MigrateError::VersionMismatch(number)) => bail!(
            "section {number} of schema.sql is not what this database applied under that number: put it back as it was \
             and give what is new an unused number, or, for a database that was made before this schema, export \
             what you need and delete it"
        ),
        applied => applied.context("schema.sql could not be applied"),
    }
}

/// Splits the schema at its `-- NUMBER name` headings.
fn sections(schema: &'static str) -> Result<Vec<Migration>> {
    let mut sections: Vec<Migration> = Vec::new();
    let mut rest = schema;
    while let Some(start) = heading_start(rest) {
        rest = &rest[start..];
        let (heading, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let (number, name) = heading[3..].split_once(' ').context("a heading of schema.sql needs a name")?;
        let number = number.parse().with_context(|| format!("{heading:?} in schema.sql"))?;
        let text = after[..heading_start(after).unwrap_or(after.len())].trim();
        if sections.iter().any(|section| section.version == number) {
            bail!("schema.sql has two sections numbered {number}: give the newer one a number that was never used");
        }
        let kind = MigrationType::Simple;
        sections.push(Migration::new(number, name.trim().into(), kind, text.into_sql_str(), false));
        rest = after;
    }
    Ok(sections)
}

/// Where the first line that begins with `-- ` and a digit begins.
fn heading_start(text: &str) -> Option<usize> {
    let digit = |at: usize| text.as_bytes().get(at + 3).is_some_and(u8::is_ascii_digit);
    text.match_indices("-- ").map(|(at, _)| at).find(|&at| (at == 0 || text[..at].ends_with('\n')) && digit(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::is_sqlite;
    use crate::db::connect;
    use crate::test::TestDatabase;

    async fn migrated(url: &str, schema: &'static str) -> Result<DbConnection> {
        let mut connection = connect::direct(url).await?;
        apply(&mut connection, is_sqlite(url), schema).await.map(|()| connection)
    }

    async fn run(connection: &mut DbConnection, sql: &'static str) {
        sqlx::query(sql).execute(connection).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_section_is_applied_and_a_removed_one_leaves_its_table_alone() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let before = "-- 1 a\ncreate table a (id text);\n-- 10 b\ncreate table b (id text);";
        run(&mut migrated(url, before).await.unwrap(), "insert into b (id) values ('kept')").await;
        let after = "-- 1 a\ncreate table a (id text);\n\n-- 5 c\ncreate table c (id text);";
        run(&mut migrated(url, after).await.unwrap(), "insert into c (id) select id from b").await;
    }

    #[tokio::test]
    async fn a_site_does_not_start_with_a_section_that_was_edited_after_it_was_applied() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        migrated(url, "-- 1 a\ncreate table a (id text);").await.unwrap();
        let edited = migrated(url, "-- 1 a\ncreate table a (id text, more text);").await.err().unwrap().to_string();
        assert!(edited.starts_with("section 1 of schema.sql is not what this database applied"), "{edited}");
        let twice = migrated(url, "-- 1 a\n\n-- 1 b\n").await.err().unwrap().to_string();
        assert!(twice.contains("two sections numbered 1"), "{twice}");
    }

    #[tokio::test]
    async fn a_section_that_fails_leaves_nothing_behind() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        assert!(migrated(url, "-- 1 a\ncreate table a (id text);\ncreate nonsense;").await.is_err());
        migrated(url, "-- 1 a\ncreate table a (id text);").await.unwrap();
    }
}
