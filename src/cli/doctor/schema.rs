//! Checks whether the sections of `schema.sql` are applied, and what they created still exists.

use super::made::{Index, Made, made_by};
use super::report::Report;
use crate::base::{Config, config::is_sqlite, explain};
use crate::db::database::SCHEMA;
use crate::db::engine::DbConnection;
use crate::db::migrate::{self, Seen};
use anyhow::Result;
use sqlx::migrate::Migration;
use std::collections::{BTreeMap, BTreeSet};

/// Whether both connections are to the same database, judging by its name and its applied sections.
pub async fn is_same(db: &mut DbConnection, direct: &mut DbConnection, sqlite: bool) -> Result<bool> {
    let name = if sqlite {
        "select file from pragma_database_list where name = 'main'"
    } else {
        "select cast(current_database() as text)"
    };
    let (sections, mut seen) = (migrate::sections(SCHEMA)?, Vec::new());
    for db in [db, direct] {
        let name: String = sqlx::query_scalar(name).fetch_one(&mut *db).await?;
        seen.push((name, BTreeSet::from_iter(migrate::applied(db, sqlite, &sections).await?)));
    }
    Ok(seen[0] == seen[1])
}

/// Returns whether every table exists with its columns, so that the rest can be checked.
pub async fn look(report: &mut Report, db: &mut DbConnection, config: &Config) -> Result<bool> {
    let sections = match migrate::sections(SCHEMA) {
        Ok(sections) => sections,
        Err(error) => return report.wrong("schema", explain(&error)).map(|()| false),
    };
    let present = Present::read(db, is_sqlite(&config.database_url)).await?;
    let applied = migrate::applied(db, is_sqlite(&config.database_url), &sections).await?;
    let is_applied = |section: &&Migration| applied.iter().any(|(number, _)| *number == section.version);
    let (there, waiting): (Vec<&Migration>, Vec<&Migration>) = sections.iter().partition(is_applied);
    for section in &there {
        if applied.iter().any(|(number, checksum)| *number == section.version && **checksum != *section.checksum) {
            report.wrong("schema", migrate::edited(section.version))?;
        }
    }
    if !waiting.is_empty() {
        say_what_waits(report, db, config, &present, &waiting, applied.is_empty()).await?;
    }
    if applied.is_empty() {
        return Ok(false);
    }
    say_what_is_unknown(report, &applied, &sections)?;
    compare(report, &present, &made_by(there.iter().map(|section| section.sql.as_str())))
}

/// The next start applies it, if it is allowed to and nothing prevents it.
async fn say_what_waits(
    report: &mut Report,
    db: &mut DbConnection,
    config: &Config,
    present: &Present,
    waiting: &[&Migration],
    is_new: bool,
) -> Result<()> {
    let made = made_by(waiting.iter().map(|section| section.sql.as_str()));
    let numbers = list(waiting.iter().map(|section| section.version));
    if let Some(name) = made.new_names.iter().find(|name| present.names.contains(*name)) {
        let sentence = if is_new && !present.names.contains(MIGRATIONS) {
            format!(
                "the database belongs to another program, which has {name} too: set DATABASE_URL to a database that \
                 only the site uses"
            )
        } else {
            format!(
                "{MIGRATIONS} lacks section {numbers}, but {name} exists, so the site does not start: restore the \
                 rows of {MIGRATIONS} from a backup, or drop {name} if it is not the site's"
            )
        };
        return report.wrong("schema", sentence);
    }
    let what = if is_new {
        "no section of schema.sql is applied yet".to_string()
    } else {
        format!("not applied yet: section {numbers} of schema.sql")
    };
    // Otherwise another role applies it.
    let is_same_role = config.database_url == config.database_direct_url;
    if !is_sqlite(&config.database_url) && is_same_role {
        let sql = "select coalesce(has_schema_privilege(current_schema(), 'create'), false)";
        let may_create: bool = sqlx::query_scalar(sql).fetch_one(db).await?;
        if !may_create {
            let cure = "set DATABASE_DIRECT_URL to the address with a role that may, and start the site";
            return report.wrong("schema", format!("{what}, and the role may not create tables: {cure}"));
        }
    }
    report.warning("schema", format!("{what}: start the site, which does it"))
}

/// The table in which [`migrate`] records what is applied.
pub const MIGRATIONS: &str = "latchkey_migrations";

/// The tables that the site writes.
///
/// # Errors
/// When schema.sql cannot be split into sections.
pub fn tables() -> Result<BTreeMap<String, Vec<String>>> {
    Ok(made_by(migrate::sections(SCHEMA)?.iter().map(|section| section.sql.as_str())).tables)
}

fn say_what_is_unknown(report: &mut Report, applied: &[Seen], sections: &[Migration]) -> Result<()> {
    let is_known = |number: i64| sections.iter().any(|section| section.version == number);
    let numbers = list(applied.iter().map(|(number, _)| *number).filter(|number| !is_known(*number)));
    if numbers.is_empty() {
        return Ok(());
    }
    let sentence = format!(
        "the database has sections that this program does not know, {numbers}: run the newer program that applied \
         them, unless you removed that feature"
    );
    report.warning("schema", sentence)
}

fn list(numbers: impl Iterator<Item = i64>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

fn compare(report: &mut Report, present: &Present, made: &Made) -> Result<bool> {
    let (mut whole, mut wrong) = (true, 0);
    for (table, columns) in &made.tables {
        let missing: Vec<_> =
            columns.iter().filter(|column| !present.has_column(table, column)).map(|name| &**name).collect();
        let sentence = match missing.len() {
            0 => continue,
            count if count == columns.len() => {
                format!(
                    "the table {table} is missing: restore it from a backup, or create it again, without rows, as in \
                     schema.sql"
                )
            }
            _ => {
                let missing = missing.join(", ");
                format!("the table {table} lacks {missing}: restore it from a backup, or add it as in schema.sql")
            }
        };
        whole = false;
        wrong += 1;
        report.wrong("schema", sentence)?;
    }
    for index in made.indexes.iter().filter(|index| present.has_table(&index.table)) {
        if present.has_index(index) {
            continue;
        }
        wrong += 1;
        report.wrong("schema", present.describe_missing(index))?;
    }
    if wrong == 0 {
        let sentence = format!("{} tables and {} indexes are as in schema.sql", made.tables.len(), made.indexes.len());
        report.ok("schema", sentence)?;
    }
    Ok(whole)
}

/// What the database has.
struct Present {
    /// All names that tables and indexes must not have.
    names: BTreeSet<String>,
    /// Tables and their columns.
    columns: BTreeSet<(String, String)>,
    /// Shapes and names, as [`Index`] has them.
    indexes: Vec<(String, String)>,
}

const SQLITE_COLUMNS: &str = "select m.name as table_name, c.name as column_name from sqlite_master m join pragma_table_info(m.name) c where m.type = 'table'";

const SQLITE_INDEXES: &str = "select case i.\"unique\" when 1 then 'unique ' else '' end || m.name || '(' \
     || coalesce((select group_concat(name, ',') from pragma_index_info(i.name)), '') || ')' as shape, i.name as name \
     from sqlite_master m join pragma_index_list(m.name) i where m.type = 'table'";

const POSTGRES_COLUMNS: &str = "select cast(c.relname as text) as table_name, cast(a.attname as text) as column_name \
     from pg_attribute a join pg_class c on c.oid = a.attrelid \
     where c.relkind in ('r', 'p') and pg_table_is_visible(c.oid) and a.attnum > 0 and not a.attisdropped \
     and c.relnamespace <> cast('pg_catalog' as regnamespace)";

/// An index whose creation was interrupted does not count.
const POSTGRES_INDEXES: &str = "select case when x.indisunique then 'unique ' else '' end || c.relname || '(' || \
     coalesce((select string_agg(cast(a.attname as text), ',' order by k.place) \
     from unnest(x.indkey) with ordinality as k (number, place) \
     join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.number), '') || ')' as shape, cast(i.relname as text) as name \
     from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid \
     where pg_table_is_visible(c.oid) and x.indisvalid and c.relnamespace <> cast('pg_catalog' as regnamespace)";

const SQLITE_NAMES: &str = "select name from sqlite_master where type <> 'trigger'";

const POSTGRES_NAMES: &str = "select cast(c.relname as text) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = current_schema() \
     union select cast(t.typname as text) from pg_type t join pg_namespace n on n.oid = t.typnamespace \
     where n.nspname = current_schema()";

impl Present {
    async fn read(db: &mut DbConnection, sqlite: bool) -> Result<Present> {
        let (names, columns, indexes) = if sqlite {
            (SQLITE_NAMES, SQLITE_COLUMNS, SQLITE_INDEXES)
        } else {
            (POSTGRES_NAMES, POSTGRES_COLUMNS, POSTGRES_INDEXES)
        };
        let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut *db).await?;
        let columns: Vec<(String, String)> = sqlx::query_as(columns).fetch_all(&mut *db).await?;
        let indexes = sqlx::query_as(indexes).fetch_all(db).await?;
        Ok(Present { names: names.into_iter().collect(), columns: columns.into_iter().collect(), indexes })
    }

    fn describe_missing(&self, index: &Index) -> String {
        let Index { table, shape, name, statement } = index;
        let is_unique = shape.starts_with("unique ");
        let first = if is_unique { ", after you have deleted the rows that it does not allow" } else { "" };
        let Some(name) = name.as_ref().filter(|name| self.names.contains(*name)) else {
            return format!("an index of {table} is missing{first}: run {statement};");
        };
        let is_of_table = |shape: &str| shape.trim_start_matches("unique ").split('(').next() == Some(table);
        if self.indexes.iter().any(|(shape, other)| other == name && is_of_table(shape)) {
            return format!("the index {name} differs from schema.sql{first}: run drop index {name}; {statement};");
        }
        format!(
            "an index of {table} is missing, and something else has its name, {name}: rename that, and then run \
             {statement};"
        )
    }

    fn has_table(&self, table: &str) -> bool {
        self.columns.iter().any(|(name, _)| name == table)
    }

    fn has_index(&self, index: &Index) -> bool {
        let is_named = |name: &String| index.name.as_ref().is_none_or(|own| own == name);
        self.indexes.iter().any(|(shape, name)| *shape == index.shape && is_named(name))
    }

    fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.iter().any(|(of, name)| of == table && name == column)
    }
}
