//! What the statements of `schema.sql` create: tables, columns and indexes.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Made {
    /// The columns of each table.
    pub tables: BTreeMap<String, Vec<String>>,
    pub indexes: Vec<Index>,
    /// Names of tables and indexes that must not exist before the first statement.
    pub new_names: BTreeSet<String>,
    /// Names that a statement has freed.
    freed: BTreeSet<String>,
}

pub struct Index {
    pub table: String,
    /// Such as `unique users(username)` or `users(username)`.
    pub shape: String,
    /// `None` if the engine names it.
    pub name: Option<String>,
    /// Creates it again.
    pub statement: String,
}

/// Follows the statements of these texts, and ignores those it does not know.
pub fn made_by<'a>(texts: impl Iterator<Item = &'a str>) -> Made {
    let mut made = Made::default();
    for text in texts {
        let code: String = text.lines().map(|line| line.split("--").next().unwrap_or("")).collect::<Vec<_>>().join(" ");
        for statement in code.split(';') {
            let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            made.follow_names(&statement);
            made.follow(&statement.replacen(" if not exists", "", 1).replacen(" if exists", "", 1));
        }
    }
    made
}

impl Made {
    fn follow_names(&mut self, statement: &str) {
        match statement.split([' ', '(']).collect::<Vec<_>>()[..] {
            [_, "table" | "index" | "unique", "if", "not", ..] | [_, "unique", "index", "if", ..] => {}
            ["create", "unique", "index", name, ..] | ["create", "table" | "index", name, ..]
                if !self.freed.contains(name) =>
            {
                self.new_names.insert(name.into());
            }
            ["drop", _, "if", "exists", name, ..]
            | ["drop", _, name, ..]
            | ["alter", "table", name, "rename", "to", ..] => {
                self.freed.insert(name.into());
            }
            _ => {}
        }
    }

    fn follow(&mut self, statement: &str) {
        let words: Vec<&str> = statement.split([' ', '(']).collect();
        match words[..] {
            ["create", "table", table, ..] => self.create_table(table, statement),
            ["create", "unique", "index", name, "on", table, ..] => self.add_index(Some(name), table, true, statement),
            ["create", "index", name, "on", table, ..] => self.add_index(Some(name), table, false, statement),
            ["alter", "table", table, "add", "column", column, ..] => self.add_column(table, column),
            ["alter", "table", table, "drop", "column", column, ..] => {
                self.tables.entry(table.into()).or_default().retain(|name| name != column);
                self.indexes.retain(|index| index.table != table || !columns(&index.shape).contains(&column));
            }
            ["alter", "table", table, "add", column, ..] if !is_constraint(column) => self.add_column(table, column),
            ["alter", "table", table, ..] | ["drop", "table", table, ..] => {
                self.tables.remove(table);
                self.indexes.retain(|index| index.table != table);
            }
            ["drop", "index", name, ..] => self.indexes.retain(|index| index.name.as_deref() != Some(name)),
            _ => {}
        }
    }

    fn create_table(&mut self, table: &str, statement: &str) {
        self.tables.insert(table.into(), Vec::new());
        for part in parts(statement) {
            let word = part.split([' ', '(']).next().unwrap_or("");
            let is_key = part.contains("primary key") || part.split([' ', '(']).any(|word| word == "unique");
            if !is_constraint(word) {
                self.add_column(table, word);
            }
            if is_key {
                let of = if is_constraint(word) { columns(part).join(",") } else { word.to_string() };
                let statement = format!("create unique index {table}_{}_key on {table} ({of})", of.replace(',', "_"));
                self.indexes.push(Index {
                    table: table.into(),
                    shape: format!("unique {table}({of})"),
                    name: None,
                    statement,
                });
            }
        }
    }

    fn add_column(&mut self, table: &str, column: &str) {
        self.tables.entry(table.into()).or_default().push(column.into());
    }

    fn add_index(&mut self, name: Option<&str>, table: &str, unique: bool, statement: &str) {
        let unique = if unique { "unique " } else { "" };
        let shape = format!("{unique}{table}({})", columns(statement).join(","));
        let name = name.map(String::from);
        self.indexes.push(Index { table: table.into(), shape, name, statement: statement.into() });
    }
}

fn is_constraint(word: &str) -> bool {
    ["unique", "primary", "foreign", "check", "constraint"].contains(&word)
}

/// The text in the first parentheses, split at its commas.
fn parts(text: &str) -> Vec<&str> {
    let Some((_, rest)) = text.split_once('(') else { return Vec::new() };
    let mut depth = 0;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0
    });
    let mut depth = 0;
    let divided = rest[..end.unwrap_or(rest.len())].split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    divided.map(str::trim).collect()
}

/// The names of the columns in the first parentheses.
fn columns(text: &str) -> Vec<&str> {
    parts(text).into_iter().map(|part| part.split(' ').next().unwrap_or("")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_followed_to_what_is_there_in_the_end() {
        let text = "create table if not exists notes (\n    id text primary key, -- one\n    owner text not null references users (id),\n    \
                    part text check (part in ('a', 'b')),\n    old text,\n    unique (owner, part)\n);\n\
                    create unique index notes_first on notes (owner, id desc) where part = 'a';\n\
                    create index notes_old on notes (old); create table gone (id text);";
        let later = "alter table notes add column more bigint; alter table notes drop column old; drop table gone;";
        let made = made_by([text, later].into_iter());
        let tables: Vec<_> =
            made.tables.iter().map(|(table, columns)| format!("{table}: {}", columns.join(" "))).collect();
        assert_eq!(tables, ["notes: id owner part more"]);
        let indexes: Vec<_> = made.indexes.iter().map(|index| (&*index.shape, &*index.statement)).collect();
        assert_eq!(
            indexes,
            [
                ("unique notes(id)", "create unique index notes_id_key on notes (id)"),
                ("unique notes(owner,part)", "create unique index notes_owner_part_key on notes (owner,part)"),
                (
                    "unique notes(owner,id)",
                    "create unique index notes_first on notes (owner, id desc) where part = 'a'"
                ),
            ]
        );
    }
}
