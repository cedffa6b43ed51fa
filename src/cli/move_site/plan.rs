//! What is copied, by the catalogues of the two databases, and the SQL that does it.
//!
//! A row is read and written as a JSON array of texts, which looks the same on both engines.

use super::ends::End;
use crate::db::database::SCHEMA;
use anyhow::{Result, ensure};
use sqlx::Row;
use std::collections::BTreeMap;

pub struct Plan {
    pub tables: Vec<Table>,
    /// Tables and columns of the source that `schema.sql` does not create.
    pub left_behind: Vec<String>,
}

pub struct Table {
    /// Quoted, as the target and the source have it: Postgres has no capitals in a name that is not quoted in `schema.sql`.
    pub name: String,
    pub source: String,
    /// Queries for all rows.
    pub read_source: String,
    pub read_target: String,
    /// Inserts the rows of the JSON array `$1`.
    pub write: String,
}

struct Column {
    /// Quoted, as for a table.
    name: String,
    source: String,
    /// Its types in the source and in the target.
    from: String,
    to: String,
}

/// The tables, and the name and type of each column.
type Catalogue = BTreeMap<String, Vec<(String, String)>>;

const OF_SQLITE: &str = "select t.name as table_name, c.name as column_name, lower(c.type) as kind \
    from pragma_table_list t join pragma_table_info(t.name) c where t.schema = 'main' and t.type in ('table', 'virtual') \
    and t.name not like 'sqlite\\_%' escape '\\' order by t.name, c.cid";

/// Generated columns generate themselves again.
const OF_POSTGRES: &str = "select cast(c.relname as text) as table_name, cast(a.attname as text) as column_name, \
    case when a.attidentity <> '' or pg_get_serial_sequence(cast(cast(c.oid as regclass) as text), a.attname) is not null \
    then 'serial' else format_type(a.atttypid, a.atttypmod) end as kind \
    from pg_class c join pg_attribute a on a.attrelid = c.oid \
    where c.relkind in ('r', 'p') and not c.relispartition and pg_table_is_visible(c.oid) \
    and c.relnamespace <> cast('pg_catalog' as regnamespace) \
    and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by c.relname, a.attnum";

impl Plan {
    /// # Errors
    /// One sentence when a column has a type that cannot be copied.
    pub async fn make(source: &mut End, target: &mut End) -> Result<Plan> {
        let (theirs, ours) = (catalogue(source).await?, catalogue(target).await?);
        let mut plan = Plan { tables: Vec::new(), left_behind: Vec::new() };
        for (name, columns) in theirs.iter().filter(|(name, _)| !MIGRATIONS.contains(&name.as_str())) {
            let known = ours.get_key_value(name).or_else(|| ours.iter().find(|(known, _)| is_same(known, name)));
            let Some((target_name, known)) = known.filter(|_| is_named(name)) else {
                plan.left_behind.push(name.clone());
                continue;
            };
            let mut copied = Vec::new();
            for (column, kind) in columns {
                match known.iter().find(|(known, _)| is_same(known, column)) {
                    Some((target_column, known)) => {
                        let is_possible = match (source.sqlite, target.sqlite) {
                            (false, false) => kind == known && kind != "serial",
                            _ => shared_kind(kind).is_some() && shared_kind(kind) == shared_kind(known),
                        };
                        ensure!(is_possible, "{name}.{column} cannot be copied, because its type is {kind}: {ADVICE}");
                        let (name, source) = (quoted(target_column), quoted(column));
                        copied.push(Column { name, source, from: kind.clone(), to: known.clone() });
                    }
                    None => plan.left_behind.push(format!("{name}.{column}")),
                }
            }
            let (target_name, source_name) = (quoted(target_name), quoted(name));
            plan.tables.push(Table::new(target_name, source_name, &copied, source.sqlite, target.sqlite));
        }
        Ok(plan)
    }
}

/// The new database has its own.
const MIGRATIONS: [&str; 2] = ["latchkey_migrations", "_sqlx_migrations"];

const ADVICE: &str = "only text, bigint and bytea can be, except that pg_dump and pg_restore copy everything between two \
                      Postgres servers, and latchkey backup and restore between two SQLite files";

/// Whether two engines may mean the same by these names.
fn is_same(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

impl Table {
    fn new(name: String, source: String, columns: &[Column], from_sqlite: bool, to_sqlite: bool) -> Table {
        let list = |part: &dyn Fn(usize, &Column) -> String| {
            columns.iter().enumerate().map(|(place, column)| part(place, column)).collect::<Vec<_>>().join(", ")
        };
        let names = list(&|_, column| column.name.clone());
        let from_texts = if to_sqlite {
            let values = list(&|place, column| match shared_kind(&column.to) {
                Some("bytea") => format!("unhex(substr(json_each.value ->> {place}, 3))"),
                Some("bigint") => format!("cast(json_each.value ->> {place} as integer)"),
                _ => format!("json_each.value ->> {place}"),
            });
            format!("select {values} from json_each($1)")
        } else {
            let values = list(&|place, column| format!("cast(texts ->> {place} as {})", column.to));
            format!("select {values} from jsonb_array_elements(cast($1 as jsonb)) as r (texts)")
        };
        let read = |table: &str, name_of: fn(&Column) -> &str, sqlite: bool| {
            let texts = list(&|_, column| match (shared_kind(&column.from), name_of(column)) {
                (Some("bytea"), name) if sqlite => {
                    format!("case when {name} is not null then '\\x' || lower(hex({name})) end")
                }
                (_, name) => format!("cast({name} as text)"),
            });
            match sqlite {
                true => format!("select json_array({texts}) from {table}"),
                false => format!("select cast(to_json(array[{texts}]) as text) from {table}"),
            }
        };
        Table {
            read_source: read(&source, |column| &column.source, from_sqlite),
            read_target: read(&name, |column| &column.name, to_sqlite),
            write: format!("insert into {name} ({names}) {from_texts}"),
            name,
            source,
        }
    }
}

async fn catalogue(end: &mut End) -> Result<Catalogue> {
    let mut catalogue = Catalogue::new();
    let columns = sqlx::query(if end.sqlite { OF_SQLITE } else { OF_POSTGRES }).fetch_all(&mut end.db).await?;
    for column in columns {
        let of_table = catalogue.entry(column.try_get("table_name")?).or_default();
        of_table.push((column.try_get("column_name")?, column.try_get("kind")?));
    }
    Ok(catalogue)
}

/// Whether `schema.sql` has this word. Other tables belong to another program, or to a feature that was removed.
fn is_named(table: &str) -> bool {
    SCHEMA.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word.eq_ignore_ascii_case(table))
}

/// The type of `schema.sql` that holds the values of this type of either engine.
fn shared_kind(kind: &str) -> Option<&'static str> {
    match kind.split('(').next()? {
        "text" | "character varying" | "varchar" => Some("text"),
        "bigint" | "integer" | "int" | "smallint" => Some("bigint"),
        "bytea" | "blob" => Some("bytea"),
        _ => None,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
