//! Migrations: each section of `schema.sql` is applied once to a database, in the order of the numbers.

use super::clock::now;
use super::engine::DbConnection;
use super::patience::Patience;
use anyhow::{Context, Result, anyhow, bail, ensure};
use sqlx::error::DatabaseError;
use sqlx::migrate::{Migrate, Migration, MigrationType};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

/// Which sections were applied. It has its own name, because another program in the same database may have sqlx's
/// table.
const TABLE: &str = "latchkey_migrations";

const CREATE_TABLE: &str = "create table if not exists latchkey_migrations \
    (version bigint primary key, name text not null, checksum bytea not null, applied_at bigint not null)";

const INSERT: &str = "insert into latchkey_migrations (version, name, checksum, applied_at) values ($1, $2, $3, $4)";

/// Text in the order of its bytes, for columns that are searched by how they begin, whatever the order of the database is.
/// SQLite has it built in.
const CREATE_COLLATION: &str = "create collation if not exists \"binary\" (provider = libc, locale = 'C')";

/// Where earlier versions of this program recorded that. They may still be running, so it is not changed.
const FORMER_TABLE: &str = "_sqlx_migrations";

/// No time limit for a section that fills a table, but one for waiting for a lock.
const BEGIN_POSTGRES: &str = "begin isolation level read committed; set local statement_timeout = 0; \
    set local idle_in_transaction_session_timeout = 0; set local lock_timeout = '30s'";
const BEGIN_SQLITE: &str = "begin immediate";

/// Applies the sections of `schema` that this database does not have yet. Replicas may start at the same time: on
/// Postgres, sqlx's advisory lock keeps them apart, and earlier versions too; on SQLite, the transaction does. If there
/// is nothing to apply, nothing is written or locked.
///
/// # Errors
/// One sentence: a section was edited after it was applied, two have one number, SQL fails, or others hold a lock for
/// too long.
pub async fn apply(
    connection: &mut DbConnection,
    sqlite: bool,
    schema: &'static str,
    patience: &Patience,
) -> Result<()> {
    let sections = sections(schema)?;
    let reading = async || Ok(pending(connection, sqlite, &sections).await?.is_empty());
    if patience.wait_for(holder(sqlite), reading).await? {
        return Ok(());
    }
    let locking = async || {
        connection.execute(if sqlite { BEGIN_SQLITE } else { BEGIN_POSTGRES }).await?;
        Ok(connection.lock().await?)
    };
    patience.wait_for(holder(sqlite), locking).await?;
    let applied = apply_pending(connection, sqlite, &sections).await;
    let ended = connection.execute(if applied.is_ok() { "commit" } else { "rollback" }).await;
    let unlocked = connection.unlock().await;
    applied?;
    ended.context("schema.sql could not be applied")?;
    Ok(unlocked?)
}

/// Checks that every section of `schema` has been applied to this database.
///
/// # Errors
/// One sentence: a section is missing, or was edited after it was applied.
pub async fn check(
    connection: &mut DbConnection,
    sqlite: bool,
    schema: &'static str,
    patience: &Patience,
) -> Result<()> {
    let sections = sections(schema)?;
    let pending = patience.wait_for(holder(sqlite), async || pending(connection, sqlite, &sections).await).await?;
    first_missing(&pending).map_or(Ok(()), |missing| {
        bail!(
            "the database lacks section {} of schema.sql: start the site once, which applies it, or set DATABASE_URL \
             to the database of the site",
            missing.version
        )
    })
}

/// Who may hold the lock.
pub fn holder(sqlite: bool) -> &'static str {
    if sqlite {
        "another program that has locked the database file"
    } else {
        "another process that holds the lock under which schema.sql is applied"
    }
}

/// A section that is not in [`TABLE`].
struct Pending<'a> {
    section: &'a Migration,
    /// Whether an earlier version of this program has applied it.
    was_applied: bool,
}

fn first_missing<'a>(pending: &[Pending<'a>]) -> Option<&'a Migration> {
    pending.iter().find(|pending| !pending.was_applied).map(|pending| pending.section)
}

async fn pending<'a>(
    connection: &mut DbConnection,
    sqlite: bool,
    sections: &'a [Migration],
) -> Result<Vec<Pending<'a>>> {
    let seen = ours(connection, sqlite).await?;
    let mut missing = Vec::new();
    for section in sections {
        if !is_seen(section, &seen)? {
            missing.push(section);
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let former = former(connection, sqlite, sections).await?;
    let pending = |section| Ok(Pending { section, was_applied: is_seen(section, &former)? });
    missing.into_iter().map(pending).collect()
}

/// The number of a section, and the checksum of its text.
pub type Seen = (i64, Vec<u8>);

/// The sections that this or an earlier version of this program has applied to this database.
///
/// # Errors
/// When the database does not answer; one sentence when another program has a table of that name.
pub async fn applied(connection: &mut DbConnection, sqlite: bool, sections: &[Migration]) -> Result<Vec<Seen>> {
    let mut applied = ours(connection, sqlite).await?;
    let former = former(connection, sqlite, sections).await?;
    applied.extend(
        former
            .into_iter()
            .filter(|(number, _)| !applied.iter().any(|(applied, _)| applied == number))
            .collect::<Vec<_>>(),
    );
    Ok(applied)
}

/// Whether any section has been applied to this database. Its role may not be allowed to read which.
///
/// # Errors
/// When it does not answer.
pub async fn is_of_a_site(connection: &mut DbConnection, sqlite: bool) -> sqlx::Result<bool> {
    Ok(count(connection, sqlite, WRITTEN, TABLE).await? > 0
        || count(connection, sqlite, WRITTEN, FORMER_TABLE).await? > 0)
}

/// What earlier versions of this program have recorded.
async fn former(connection: &mut DbConnection, sqlite: bool, sections: &[Migration]) -> sqlx::Result<Vec<Seen>> {
    if count(connection, sqlite, READABLE, FORMER_TABLE).await? < 2 {
        return Ok(Vec::new());
    }
    let former = seen(connection, FORMER_TABLE).await?;
    let is_ours = |(number, checksum): &Seen| {
        sections.iter().any(|section| section.version == *number && *section.checksum == **checksum)
    };
    // Otherwise it belongs to another program.
    Ok(if former.iter().any(is_ours) { former } else { Vec::new() })
}

/// The contents of [`TABLE`], or nothing if it does not exist.
async fn ours(connection: &mut DbConnection, sqlite: bool) -> Result<Vec<Seen>> {
    if count(connection, sqlite, COLUMNS, TABLE).await? == 0 {
        return Ok(Vec::new());
    }
    ensure!(
        count(connection, sqlite, WRITTEN, TABLE).await? == 2,
        "the database has a table {TABLE} of another application: set DATABASE_URL to a database that only the site \
         uses"
    );
    Ok(seen(connection, TABLE).await?)
}

async fn seen(connection: &mut DbConnection, table: &str) -> sqlx::Result<Vec<Seen>> {
    let rows = AssertSqlSafe(format!("select version, checksum from {table}"));
    sqlx::query_as(rows).fetch_all(connection).await
}

/// Conditions for columns, on SQLite and Postgres: any column, a column that [`seen`] reads, and one that can also be
/// read.
type Condition = [&'static str; 2];
const COLUMNS: Condition = ["true", "true"];
const WRITTEN: Condition = [
    "(name, lower(type)) in (values ('version', 'bigint'), ('checksum', 'bytea'), ('checksum', 'blob'))",
    "(attname, atttypid) in (values ('version', cast('bigint' as regtype)), ('checksum', cast('bytea' as regtype)))",
];
const READABLE: Condition = [
    WRITTEN[0],
    "(attname, atttypid) in (values ('version', cast('bigint' as regtype)), ('checksum', cast('bytea' as regtype))) \
     and has_column_privilege(attrelid, attnum, 'select')",
];

/// How many columns of this table meet the condition. It never fails, whatever the table is like.
async fn count(connection: &mut DbConnection, sqlite: bool, condition: Condition, table: &str) -> sqlx::Result<i64> {
    let [of_sqlite, of_postgres] = condition;
    let sql = if sqlite {
        format!("select count(*) from pragma_table_info($1) where {of_sqlite}")
    } else {
        format!("select count(*) from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and {of_postgres}")
    };
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(table).fetch_one(connection).await
}

fn is_seen(section: &Migration, seen: &[Seen]) -> Result<bool> {
    let number = section.version;
    let Some((_, checksum)) = seen.iter().find(|(seen, _)| *seen == number) else { return Ok(false) };
    ensure!(*section.checksum == **checksum, edited(number));
    Ok(true)
}

async fn apply_pending(connection: &mut DbConnection, sqlite: bool, sections: &[Migration]) -> Result<()> {
    let pending = pending(connection, sqlite, sections).await?;
    if let Some(first) = first_missing(&pending).filter(|_| !sqlite) {
        connection.execute(CREATE_COLLATION).await.map_err(|error| explain(first.version, error))?;
    }
    for Pending { section, was_applied } in &pending {
        let applied = async {
            connection.execute(CREATE_TABLE).await?;
            if !*was_applied {
                connection.execute(section.sql.clone()).await?;
            }
            let insert = sqlx::query(INSERT).bind(section.version).bind(&*section.description);
            insert.bind(section.checksum.to_vec()).bind(now()).execute(&mut *connection).await
        };
        match applied.await {
            Ok(_) => {}
            // If there are no new sections, the next start that is allowed to write does this.
            Err(error) if is_forbidden(&error) => {
                return first_missing(&pending).map_or(Ok(()), |missing| Err(explain(missing.version, error)));
            }
            Err(error) => return Err(explain(section.version, error)),
        }
    }
    Ok(())
}

/// Whether the role is not allowed to do that, or the database is read-only.
fn is_forbidden(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| matches!(&*code, "42501" | "25006" | "8"))
}

/// The error for a section that was edited after it was applied.
pub fn edited(number: i64) -> String {
    format!(
        "section {number} of schema.sql was changed after it was applied to this database: restore it, and add the \
         change as a section with an unused number; or, if the database is older than this schema, export what you \
         need and delete it"
    )
}

/// Why a section could not be applied, and what to do about it.
fn explain(number: i64, error: sqlx::Error) -> anyhow::Error {
    let sqlx::Error::Database(cause) = &error else {
        return anyhow!(error).context(format!("section {number} of schema.sql could not be applied"));
    };
    let (code, cause) = (cause.code().unwrap_or_default(), cause.message());
    match &*code {
        "42501" => anyhow!(
            "section {number} of schema.sql has to be applied, but the role is not allowed to do that ({cause}): set \
             DATABASE_DIRECT_URL, with a role that owns the tables"
        ),
        "25006" | "8" => {
            anyhow!("section {number} of schema.sql has to be applied, but the database is read-only")
        }
        "42P07" | "42710" | "42809" | "1" if code.len() == 5 || cause.contains("already exists") => anyhow!(
            "the database already has what section {number} of schema.sql creates ({cause}), so it belongs to another \
             application: set DATABASE_URL to a database that only the site uses"
        ),
        _ => anyhow!("section {number} of schema.sql could not be applied: {cause}"),
    }
}

/// Splits the schema at its `-- NUMBER name` headings.
///
/// # Errors
/// One sentence: a heading has no number or no name, or two have one number.
pub fn sections(schema: &'static str) -> Result<Vec<Migration>> {
    let mut sections: Vec<Migration> = Vec::new();
    let mut rest = schema;
    while let Some(start) = heading_start(rest) {
        rest = &rest[start..];
        let (heading, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let (number, name) = heading[3..].split_once(' ').context("a heading of schema.sql needs a name")?;
        let number = number.parse().with_context(|| format!("{heading:?} in schema.sql"))?;
        let text = after[..heading_start(after).unwrap_or(after.len())].trim();
        if sections.iter().any(|section| section.version == number) {
            bail!("schema.sql has two sections numbered {number}: give the newer one an unused number");
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
    use crate::base::config::{Config, is_sqlite};
    use crate::db::connect::{self, Mode};
    use crate::test::TestDatabase;
    use sqlx::migrate::{MigrateError, Migrator};
    use std::time::Duration;
    use tokio::time::sleep;

    async fn migrated(url: &str, schema: &'static str) -> Result<DbConnection> {
        let config = Config::from_env(&[("DATABASE_URL", url)].into_iter().collect())?;
        connect::prepare(&config, Mode::Create)?;
        let mut connection = connect::connect(url, Mode::Create).await?;
        apply(&mut connection, is_sqlite(url), schema, &Patience::new()).await.map(|()| connection)
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

    /// In the order of a language, `_` and capitals stand elsewhere.
    #[tokio::test]
    async fn a_section_may_order_text_by_its_bytes_on_both_engines_however_many_replicas_start() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let schema = "-- 1 a\ncreate table a (id text);\ncreate index a_by_id on a (id collate \"binary\");";
        let started = futures_util::future::join_all((0..4).map(|_| migrated(url, schema))).await;
        let mut connections: Vec<_> = started.into_iter().map(|started| started.unwrap()).collect();
        let insert = "insert into a (id) values ('a_b'), ('ab'), ('B'), ('a.b')";
        run(&mut connections[0], insert).await;
        let ordered = sqlx::query_scalar("select id from a order by id collate \"binary\"");
        let ordered: Vec<String> = ordered.fetch_all(&mut connections[1]).await.unwrap();
        assert_eq!(ordered, ["B", "a.b", "a_b", "ab"]);
        migrated(url, "-- 2 b\ncreate table b (id text);").await.unwrap();
    }

    #[tokio::test]
    async fn a_site_does_not_start_with_a_section_that_was_edited_after_it_was_applied() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        migrated(url, "-- 1 a\ncreate table a (id text);").await.unwrap();
        let edited = migrated(url, "-- 1 a\ncreate table a (id text, more text);").await.err().unwrap().to_string();
        assert!(edited.starts_with("section 1 of schema.sql was changed after it was applied"), "{edited}");
        let twice = migrated(url, "-- 1 a\n\n-- 1 b\n").await.err().unwrap().to_string();
        assert!(twice.contains("two sections numbered 1"), "{twice}");
    }

    /// What an earlier version of this program does when it starts, and every other program with the migrations of sqlx.
    async fn migrated_by_sqlx(url: &str, schema: &'static str) -> Result<(), MigrateError> {
        let config = Config::from_env(&[("DATABASE_URL", url)].into_iter().collect()).unwrap();
        connect::prepare(&config, Mode::Create).unwrap();
        let mut connection = connect::connect(url, Mode::Create).await.unwrap();
        let mut migrator = Migrator::with_migrations(sections(schema).unwrap());
        migrator.set_ignore_missing(true);
        migrator.run_direct(None, &mut connection, false).await
    }

    #[tokio::test]
    async fn a_database_of_an_earlier_version_is_taken_over_and_that_version_still_starts() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let earlier = "-- 1 a\ncreate table a (id text);\n-- 10 b\ncreate table b (id text);";
        let later = "-- 1 a\ncreate table a (id text);\n-- 5 c\ncreate table c (id text);";
        migrated_by_sqlx(url, earlier).await.unwrap();
        let connection = &mut migrated(url, later).await.unwrap();
        run(connection, "insert into c (id) select id from a").await;
        migrated_by_sqlx(url, earlier).await.unwrap();
        // Section 10 was left out for a while.
        check(connection, is_sqlite(url), earlier, &Patience::new()).await.unwrap();
        migrated(url, earlier).await.unwrap();
        migrated(url, later).await.unwrap();
        let edited = "-- 1 a\ncreate table a (id text);\n-- 10 b\ncreate table b (id text, more text);";
        assert!(migrated(url, edited).await.err().unwrap().to_string().contains("section 10"));
    }

    #[tokio::test]
    async fn a_section_that_an_earlier_version_applied_and_that_was_edited_since_is_found() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        migrated_by_sqlx(url, "-- 1 a\ncreate table a (id text);\n-- 2 b\ncreate table b (id text);").await.unwrap();
        let edited = "-- 1 a\ncreate table a (id text);\n-- 2 b\ncreate table b (id text, more text);";
        let said = migrated(url, edited).await.err().unwrap().to_string();
        assert!(said.starts_with("section 2 of schema.sql was changed after it was applied"), "{said}");
    }

    #[tokio::test]
    async fn another_program_with_migrations_may_live_in_the_same_database() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        let (theirs, ours) = ("-- 1 theirs\ncreate table theirs (id text);", "-- 1 a\ncreate table a (id text);");
        migrated_by_sqlx(url, theirs).await.unwrap();
        let connection = &mut migrated(url, ours).await.unwrap();
        run(connection, "insert into a (id) select id from theirs").await;
        migrated_by_sqlx(url, theirs).await.unwrap();
        migrated(url, ours).await.unwrap();
    }

    #[tokio::test]
    async fn a_table_of_another_program_is_not_taken_for_ours() {
        for theirs in [
            "create table users (id text)",
            "create view users as select 1 as id",
            "create type users as enum ('ada')",
            "create domain users as text",
        ] {
            let TestDatabase { url, .. } = &TestDatabase::new().await;
            if is_sqlite(url) && (theirs.contains("type") || theirs.contains("domain")) {
                continue;
            }
            run(&mut migrated(url, "").await.unwrap(), theirs).await;
            let ours = "-- 1 first\ncreate table first (id text);\n-- 2 users\ncreate table users (id text);";
            let said = migrated(url, ours).await.err().unwrap().to_string();
            assert!(said.contains("belongs to another application") && said.contains("section 2"), "{said}");
            // Nothing was left behind.
            migrated(url, "-- 1 first\ncreate table first (id text, more text);").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_table_of_another_program_that_has_the_name_of_ours_is_seen_to_be_theirs() {
        let ours = "-- 1 a\ncreate table a (id text);";
        for columns in ["(id bigint)", "(version text, checksum text)", "(version bigint, checksum text)"] {
            let TestDatabase { url, .. } = &TestDatabase::new().await;
            let connection = &mut migrated(url, "").await.unwrap();
            for (table, insert) in [(FORMER_TABLE, true), (TABLE, false)] {
                sqlx::query(AssertSqlSafe(format!("create table {table} {columns}")))
                    .execute(&mut *connection)
                    .await
                    .unwrap();
                if insert {
                    let names = if columns.contains("id") { "(id) values (1)" } else { "(checksum) values ('1')" };
                    let insert = AssertSqlSafe(format!("insert into {table} {names}"));
                    sqlx::query(insert).execute(&mut *connection).await.unwrap();
                    check(connection, is_sqlite(url), "", &Patience::new()).await.unwrap();
                    assert!(
                        pending(connection, is_sqlite(url), &sections(ours).unwrap()).await.is_ok_and(|p| p.len() == 1)
                    );
                }
            }
            let said = migrated(url, ours).await.err().unwrap().to_string();
            assert!(said.contains("latchkey_migrations") && said.contains("another application"), "{said}");
            run(connection, "drop table latchkey_migrations").await;
            migrated(url, ours).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_database_of_an_earlier_version_that_may_not_be_changed_is_served_as_it_is() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        if is_sqlite(url) {
            return;
        }
        let earlier = "-- 1 a\ncreate table a (id text);";
        migrated_by_sqlx(url, earlier).await.unwrap();
        let connection = &mut connect::connect(url, Mode::Create).await.unwrap();
        run(connection, "set default_transaction_read_only = on").await;
        apply(connection, false, earlier, &Patience::new()).await.unwrap();
        let later = "-- 1 a\ncreate table a (id text);\n-- 2 b\ncreate table b (id text);";
        let said = apply(connection, false, later, &Patience::new()).await.unwrap_err().to_string();
        assert!(said.contains("section 2"), "{said}");
        run(connection, "set default_transaction_read_only = off").await;
        apply(connection, false, later, &Patience::new()).await.unwrap();
        assert_eq!(ours(connection, false).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_table_that_somebody_has_locked_is_waited_for() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        if is_sqlite(url) {
            return;
        }
        let schema = "-- 1 a\ncreate table a (id text);";
        let holder = &mut migrated(url, schema).await.unwrap();
        holder.execute("begin; lock table latchkey_migrations in access exclusive mode").await.unwrap();
        let release = async {
            // The server ends what takes three seconds.
            sleep(Duration::from_secs(4)).await;
            holder.execute("rollback").await.unwrap();
        };
        tokio::join!(async { migrated(url, schema).await.map(drop).unwrap() }, release);
    }

    #[tokio::test]
    async fn a_section_that_fails_leaves_nothing_behind() {
        let TestDatabase { url, .. } = &TestDatabase::new().await;
        assert!(migrated(url, "-- 1 a\ncreate table a (id text);\ncreate nonsense;").await.is_err());
        migrated(url, "-- 1 a\ncreate table a (id text);").await.unwrap();
    }
}
