//! A copy of all data about a user, as JSON. Features add theirs in `Feature::export`.
//!
//! It is written while it is read, a page of rows at a time. So even a long one takes little memory, and while it waits for
//! its reader it holds no connection to the database.

use super::format::rfc3339;
use crate::base;
use crate::db::{Connection, Database, DbRow};
use anyhow::Result;
use axum::body::Bytes;
use serde_json::Value;
use sqlx::{Column, Row};
use std::mem::take;

/// A list of the copy: its name, and a query for a page, which is the first `$3` rows of the user `$1` after the key `$2`.
pub type ListQuery = (&'static str, &'static str);

/// What core stores about a user, without secrets.
pub const CORE: [ListQuery; 8] = [
    ("user", "select id, username, created_at from users where id = $1 and id > $2 order by id limit $3"),
    (
        "addresses",
        "select email, confirmed_at from addresses where user_id = $1 and email > $2 order by email limit $3",
    ),
    (
        "sessions",
        "select id, created_at, seen_at, address, device from sessions where user_id = $1 and id > $2 \
         order by id limit $3",
    ),
    (
        "groups",
        "select g.name from user_groups m join groups g on g.id = m.group_id where m.user_id = $1 and g.name > $2 \
         order by g.name limit $3",
    ),
    (
        "permissions",
        "select permission from user_permissions where user_id = $1 and permission > $2 order by permission limit $3",
    ),
    (
        "invitations",
        "select id, email, uses, used, created_at, expires_at from invitations where created_by = $1 and id > $2 \
         order by id limit $3",
    ),
    ("mails", "select id, kind, email, created_at from mails where user_id = $1 and id > $2 order by id limit $3"),
    (
        "events",
        "select id, kind, about, created_at, address, device from events where user_id = $1 and id > $2 \
         order by id limit $3",
    ),
];

/// How many rows are read at once. A note may have 40,000 bytes.
const ROWS: usize = 20;

/// How many bytes are sent at once, or a little more.
const PIECE: usize = 16 * 1024;

/// Where the copy goes.
pub trait Reader {
    /// Returns when the reader wants more. No query begins before that.
    fn send(&mut self, piece: Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// Writes all of it, as `serde_json::to_string_pretty` would.
///
/// # Errors
/// When the database does not answer, or the reader fails.
pub async fn write(db: &Database, of_features: &[ListQuery], user_id: &str, reader: &mut impl Reader) -> Result<()> {
    let mut queries = [&CORE, of_features].concat();
    queries.sort();
    let mut file = File { reader, unsent: Vec::new() };
    let mut before = "{";
    for (name, sql) in queries {
        file.write(&format!("{before}\n  \"{name}\": [")).await?;
        write_rows(db, sql, user_id, &mut file).await?;
        before = ",";
    }
    file.write("\n}").await?;
    file.send().await
}

async fn write_rows(db: &Database, sql: &'static str, user_id: &str, file: &mut File<'_, impl Reader>) -> Result<()> {
    let (mut before, mut after) = ("", "]");
    let mut key = String::new();
    loop {
        let rows = db.read(async |db| page(db, sql, user_id, &key).await).await?;
        for row in &rows {
            let json = serde_json::to_string_pretty(&object(row))?.replace('\n', "\n    ");
            file.write(&format!("{before}\n    {json}")).await?;
            (before, after) = (",", "\n  ]");
        }
        match rows.last() {
            Some(last) if rows.len() == ROWS => key = last.try_get(0)?,
            _ => return file.write(after).await,
        }
    }
}

/// The rows that follow the one with this key.
async fn page(db: &mut Connection, sql: &'static str, user_id: &str, key: &str) -> base::Result<Vec<DbRow>> {
    Ok(sqlx::query(sql).bind(user_id).bind(key).bind(ROWS as i64).fetch_all(db).await?)
}

/// A row as an object with its columns.
fn object(row: &DbRow) -> Value {
    row.columns().iter().map(|column| (column.name().to_string(), value(row, column))).collect()
}

/// Text and numbers as they are, times as in RFC 3339.
fn value(row: &DbRow, column: &impl Column) -> Value {
    match row.try_get::<Option<i64>, _>(column.ordinal()) {
        Ok(Some(seconds)) if column.name().ends_with("_at") => Value::from(rfc3339(seconds)),
        Ok(number) => Value::from(number),
        Err(_) => Value::from(row.try_get::<Option<String>, _>(column.ordinal()).unwrap_or_default()),
    }
}

/// The copy on its way to its reader.
struct File<'a, R> {
    reader: &'a mut R,
    unsent: Vec<u8>,
}

impl<R: Reader> File<'_, R> {
    async fn write(&mut self, text: &str) -> Result<()> {
        self.unsent.extend_from_slice(text.as_bytes());
        if self.unsent.len() < PIECE { Ok(()) } else { self.send().await }
    }

    async fn send(&mut self) -> Result<()> {
        self.reader.send(take(&mut self.unsent).into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    impl Reader for Vec<u8> {
        async fn send(&mut self, piece: Bytes) -> Result<()> {
            self.extend(piece);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_copy_has_what_core_and_the_features_store_about_one_user_and_no_secrets() {
        let app = TestApp::new().await;
        let (_ada, _bob) = (app.person("ada").await, app.person("bob").await);
        let of_features =
            [("names", "select username from users where id = $1 and username > $2 order by username limit $3")];
        let id = async |db: &mut Connection| {
            Ok(sqlx::query_scalar("select id from users where username = 'ada'").fetch_one(db).await?)
        };
        let (db, mut copy) = (&app.app.db, Vec::new());
        let id: String = db.read(id).await.unwrap();
        write(db, &of_features, &id, &mut copy).await.unwrap();
        let text = String::from_utf8(copy).unwrap();
        for word in ["bob", "pbkdf2", "hash"] {
            assert!(!text.contains(word), "{text}");
        }
        let copy: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&copy["user"][0]["id"], &copy["names"][0]["username"]), (&id.into(), &"ada".into()));
        assert_eq!(text, serde_json::to_string_pretty(&copy).unwrap());
    }
}
