//! The order of things.
//!
//! The target is marked first. Then everything happens in one transaction, which ends with the removal of the mark: a move
//! that is interrupted leaves an empty, marked database.

use super::copy::{checksum, copy};
use super::ends::End;
use super::plan::{Plan, Table};
use crate::base::seal::DEVELOPMENT_KEY_FILE;
use crate::base::{Config, Env, explain};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::db::exclusive::ensure_alone;
use crate::db::unfinished_move::UNMARK;
use anyhow::{Context, Error, Result, anyhow, ensure};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::time::Instant;

/// # Errors
/// One sentence. Nothing was changed, or the target is marked and empty.
pub async fn run(env: &Env, to: &str) -> Result<()> {
    let (config, started) = (Config::from_env(env)?, Instant::now());
    let to = env.with("DATABASE_URL", to).with("DATABASE_DIRECT_URL", to);
    let to = Config::from_env(&to).map_err(about_target)?;
    let mut source = End::source(&config).await?;
    let mut target = End::target(&to, &config, &mut source).await.map_err(about_target)?;
    let plan = Plan::make(&mut source, &mut target).await?;
    for name in &plan.left_behind {
        say(format!("{name} stays behind, because schema.sql does not create it."))?;
    }
    let rows = copy_all(&plan.tables, &mut source, &mut target).await?;
    source.db.close().await?;
    if !target.sqlite {
        // Otherwise the server plans its first queries as if the tables were empty.
        let _ = target.db.execute("analyze").await;
    }
    target.db.close().await?;
    let (tables, seconds) = (plan.tables.len(), started.elapsed().as_secs_f64());
    let rate = (rows as f64 / seconds) as u64;
    say(format!("{rows} rows of {tables} tables were copied and compared in {seconds:.1} s ({rate} rows a second)."))?;
    let key = if config.secret_keys.is_empty() { DEVELOPMENT_KEY_FILE } else { "SECRET_KEY" };
    say(format!("Now set DATABASE_URL to the new database, and start the site with the same {key} as before."))
}

/// What is wrong with its address is said in the words that its variable has.
fn about_target(error: Error) -> Error {
    anyhow!(explain(&error).replace("DATABASE_DIRECT_URL", "--to").replace("DATABASE_URL", "--to"))
}

/// Returns how many rows there were.
async fn copy_all(tables: &[Table], source: &mut End, target: &mut End) -> Result<u64> {
    begin_reading(tables, source).await?;
    let constraints = begin_writing(tables, target).await?;
    let mut total = 0;
    for table in tables {
        total += source.count(&table.source).await?.unsigned_abs();
    }
    let progress = Progress::new("rows copied", Some(total));
    let mut read = Vec::new();
    for table in tables {
        read.push(copy(table, &mut source.db, &mut target.db, &progress).await?);
    }
    progress.finish();
    let progress = Progress::new("rows compared", Some(total));
    for (table, read) in tables.iter().zip(&read) {
        let found = checksum(table, &mut target.db, &progress).await?;
        ensure!(found == *read, "the copy of {} differs from the original: run latchkey move again", table.name);
    }
    progress.finish();
    // Whoever has come meanwhile may have written something that is not in the snapshot.
    if !source.sqlite {
        ensure_alone("DATABASE_URL", &mut source.db, false).await?;
    }
    end_writing(&constraints, target).await?;
    Ok(read.iter().map(|read| read.rows).sum())
}

fn names(tables: &[Table], name_of: fn(&Table) -> &str) -> String {
    tables.iter().map(name_of).collect::<Vec<_>>().join(", ")
}

/// Begins a transaction that sees one state of the database. Nobody can write.
async fn begin_reading(tables: &[Table], source: &mut End) -> Result<()> {
    if source.sqlite {
        source.db.execute("begin").await?;
        return Ok(());
    }
    source.db.execute("begin isolation level repeatable read").await?;
    source
        .db
        .execute(AssertSqlSafe(format!("lock table {} in share mode", names(tables, |table| &table.source))))
        .await?;
    Ok(())
}

/// The foreign keys that are checked at every row.
const CONSTRAINTS: &str = "select cast(cast(conrelid as regclass) as text) as table_name, \
    format('alter table %s alter constraint %I', cast(conrelid as regclass), conname) as statement from pg_constraint \
    where contype = 'f' and not condeferrable and conparentid = 0 and pg_table_is_visible(conrelid)";

/// Begins a transaction, in which the tables are empty and references are checked at the end, because those of a table may
/// lead to itself, or in a circle. Returns the beginnings of the statements that changed foreign keys.
async fn begin_writing(tables: &[Table], target: &mut End) -> Result<Vec<String>> {
    let db = &mut target.db;
    if target.sqlite {
        db.execute("begin immediate; pragma defer_foreign_keys = on").await?;
        for table in tables {
            db.execute(AssertSqlSafe(format!("delete from {}", table.name))).await?;
        }
        return Ok(Vec::new());
    }
    db.execute("begin isolation level read committed").await?;
    db.execute(AssertSqlSafe(format!("truncate {}", names(tables, |table| &table.name)))).await?;
    let constraints: Vec<(String, String)> = sqlx::query_as(CONSTRAINTS).fetch_all(&mut *db).await?;
    let is_ours = |name: &str| tables.iter().any(|table| table.name.trim_matches('"') == name.trim_matches('"'));
    let ours = constraints.into_iter().filter(|(table, _)| is_ours(table)).map(|(_, statement)| statement);
    let constraints: Vec<String> = ours.collect();
    for constraint in &constraints {
        db.execute(AssertSqlSafe(format!("{constraint} deferrable"))).await?;
    }
    db.execute("set constraints all deferred").await?;
    Ok(constraints)
}

/// Checks all references, removes the mark, and commits.
async fn end_writing(constraints: &[String], target: &mut End) -> Result<()> {
    let db = &mut target.db;
    if !target.sqlite {
        let checked = db.execute("set constraints all immediate").await;
        checked.context("a row of the site refers to one that does not exist")?;
    }
    for constraint in constraints {
        db.execute(AssertSqlSafe(format!("{constraint} not deferrable"))).await?;
    }
    db.execute(UNMARK).await?;
    db.execute("commit").await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::connect::{self, Mode};
    use crate::db::unfinished_move::MARK;
    use crate::test::TestDatabase;

    /// Two databases with these tables, whose names have to be words of schema.sql.
    async fn pair(tables: &'static str) -> ([End; 2], [TestDatabase; 2]) {
        let databases = [TestDatabase::new().await, TestDatabase::new().await];
        let ends = [made(&databases[0].url, tables).await, made(&databases[1].url, tables).await];
        (ends, databases)
    }

    async fn made(url: &str, tables: &'static str) -> End {
        let config = Config::from_env(&[("DATABASE_URL", url)].into_iter().collect()).unwrap();
        connect::prepare(&config, Mode::Create).unwrap();
        let mut end = End::connect("DATABASE_URL", url, Mode::Create).await.unwrap();
        end.db.execute(tables).await.unwrap();
        end
    }

    async fn copy_between([source, target]: &mut [End; 2]) -> Result<(u64, Vec<String>)> {
        let plan = Plan::make(source, target).await?;
        target.db.execute(MARK).await?;
        Ok((copy_all(&plan.tables, source, target).await?, plan.left_behind))
    }

    async fn run_on(end: &mut End, sql: &'static str) -> sqlx::Result<()> {
        end.db.execute(sql).await.map(drop)
    }

    const CIRCLE: &str = "create table codes (id text primary key, parent text references codes (id), \"from\" bigint); \
        create table binding (id text primary key, \"a code\" text references codes (id), bytes bytea); \
        alter table codes add column of_binding text references binding (id); create table unheard_of (id text)";

    #[tokio::test]
    async fn tables_of_ones_own_that_refer_to_themselves_and_to_each_other_are_copied() {
        let (mut ends, _databases) = pair(CIRCLE).await;
        let rows = "insert into codes (id, \"from\") values ('a', 1), ('b', -2); \
                    insert into binding (id, \"a code\") values ('x', 'a'); update codes set parent = 'b' where id = 'a'; \
                    update codes set parent = 'a', of_binding = 'x' where id = 'b'";
        run_on(&mut ends[0], rows).await.unwrap();
        run_on(&mut ends[1], "insert into codes (id) values ('of a move that was interrupted')").await.unwrap();
        assert_eq!(copy_between(&mut ends).await.unwrap(), (3, vec!["unheard_of".to_string()]));
        assert_eq!(ends[1].count("codes where parent = 'a' and of_binding = 'x' and \"from\" = -2").await.unwrap(), 1);
        // References are checked as before.
        run_on(&mut ends[1], "insert into codes (id, parent) values ('c', 'nobody')").await.unwrap_err();
    }

    #[tokio::test]
    async fn names_that_differ_in_their_capitals_alone_are_the_same_because_postgres_has_none() {
        let (mut ends, _databases) = pair("create table about (id text)").await;
        let with_capitals = "create table \"Codes\" (id text primary key, \"createdAt\" bigint)";
        run_on(&mut ends[0], with_capitals).await.unwrap();
        run_on(&mut ends[1], "create table codes (id text primary key, createdat bigint)").await.unwrap();
        run_on(&mut ends[0], "insert into \"Codes\" values ('a', 7)").await.unwrap();
        assert_eq!(copy_between(&mut ends).await.unwrap(), (1, vec![]));
        assert_eq!(ends[1].count("codes where createdat = 7").await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_virtual_table_stays_behind_and_is_named() {
        let (mut ends, _databases) = pair("create table about (id text)").await;
        if !ends[0].sqlite {
            return;
        }
        run_on(&mut ends[0], "create virtual table words_of_notes using fts5 (text)").await.unwrap();
        assert_eq!(copy_between(&mut ends).await.unwrap(), (0, vec!["words_of_notes".to_string()]));
    }

    #[tokio::test]
    async fn a_row_that_refers_to_one_that_does_not_exist_is_not_copied() {
        let (mut ends, _databases) = pair(CIRCLE).await;
        if !ends[0].sqlite {
            return;
        }
        run_on(&mut ends[0], "pragma foreign_keys = off; insert into codes (id, parent) values ('a', 'b')")
            .await
            .unwrap();
        let said = explain(&copy_between(&mut ends).await.unwrap_err());
        assert!(said.contains("FOREIGN KEY"), "{said}");
    }

    #[tokio::test]
    async fn other_types_are_copied_from_postgres_to_postgres_and_are_refused_by_name_elsewhere() {
        let (mut ends, _databases) = pair("create table codes (id text, amount real)").await;
        if ends[0].sqlite {
            let said = copy_between(&mut ends).await.unwrap_err().to_string();
            assert!(said.starts_with("codes.amount cannot be copied, because its type is real"), "{said}");
            return;
        }
        let types = "create table about (id uuid primary key, at timestamptz, tags text[], body jsonb, amount numeric(10,2), \
                     gone boolean, half double precision, twice bigint generated always as (2) stored)";
        for end in &mut ends {
            run_on(end, types).await.unwrap();
        }
        let rows = "insert into about values ('0199c0de-0000-7000-8000-000000000000', '2026-11-27 12:00:00.123456+02', \
                    array['a', null, '\"é'], '{\"a\": [1, null]}', 12.30, false, 0.1); \
                    insert into about (id) values ('0199c0de-0000-7000-8000-000000000001')";
        run_on(&mut ends[0], rows).await.unwrap();
        assert_eq!(copy_between(&mut ends).await.unwrap().0, 2);
        run_on(&mut ends[0], "create table binding (id bigserial)").await.unwrap();
        run_on(&mut ends[1], "create table binding (id bigserial)").await.unwrap();
        let said = copy_between(&mut ends).await.unwrap_err().to_string();
        assert!(said.starts_with("binding.id cannot be copied, because its type is serial"), "{said}");
    }
}
