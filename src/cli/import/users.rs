//! Compares the rows of a file with the users that exist, and makes accounts of them.

use super::row::Row;
use crate::accounts::{Client, address, password::table, user};
use crate::base::{Error, FieldErrors, Result};
use crate::cli::progress::Progress;
use crate::db::{Connection, Database};

/// How many rows are compared at a time.
const ROWS: usize = 100;

/// A line that cannot be imported, and why.
pub type Refusal = (u64, String);

/// The rows whose names or addresses belong to somebody else.
pub async fn find_taken(db: &Database, rows: &[Row]) -> Result<Vec<Refusal>> {
    let (mut taken, progress) = (Vec::new(), Progress::new("users compared", Some(rows.len() as u64)));
    for rows in rows.chunks(ROWS) {
        let compare = async |db: &mut Connection| {
            let mut taken = Vec::new();
            for row in rows {
                if let Some(sentence) = reason(db, row).await? {
                    taken.push((row.line, sentence));
                }
            }
            Ok(taken)
        };
        taken.extend(db.read(compare).await?);
        progress.advance(rows.len() as u64);
    }
    progress.finish();
    Ok(taken)
}

async fn reason(db: &mut Connection, row: &Row) -> Result<Option<String>> {
    if !user::is_free(db, &row.username).await? {
        return Ok(Some(row.username.taken()));
    }
    let Some(email) = &row.email else { return Ok(None) };
    let owner = address::owner(db, email.as_str()).await?;
    Ok(owner.map(|_| format!("The address {} belongs to another user.", email.as_str())))
}

/// Makes all accounts in one transaction. Nothing is mailed.
///
/// # Errors
/// When a name or an address has been taken since [`find_taken`].
pub async fn make(db: &Database, rows: &[Row]) -> Result<()> {
    let (here, progress) = (Client::local("command line"), Progress::new("users made", Some(rows.len() as u64)));
    let make = async |db: &mut Connection| {
        for row in rows {
            if !make_one(db, row, &here).await? {
                let sentence = format!("line {}: somebody has just taken the name or the address", row.line);
                return Err(Error::invalid(FieldErrors::FORM, sentence));
            }
            progress.advance(1);
        }
        Ok(())
    };
    let made = db.write_at_length(make).await;
    progress.finish();
    made
}

async fn make_one(db: &mut Connection, row: &Row, client: &Client) -> Result<bool> {
    let Some(id) = user::create(db, &row.username, client).await? else { return Ok(false) };
    if let Some(hash) = &row.hash {
        table::set(db, &id, hash).await?;
    }
    match &row.email {
        Some(email) => address::import(db, &id, email, row.is_confirmed).await,
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AuthLevel, Email, Username};
    use crate::test::TestApp;
    use std::time::Duration;

    fn row(line: u64, name: &str, email: Option<(&str, bool)>) -> Row {
        let (username, is_confirmed) = (Username::parse(name).unwrap(), email.is_some_and(|(_, confirmed)| confirmed));
        let email = email.map(|(email, _)| Email::parse(email).unwrap());
        Row { line, username, email, is_confirmed, hash: None, groups: Vec::new() }
    }

    #[tokio::test]
    async fn names_and_addresses_that_are_somebody_elses_are_found_before_anything_is_written() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let (id, here) = (app.user("ada").await, Client::local("a browser"));
        let renamed = async |db: &mut Connection| {
            user::rename(db, &id, &Username::parse("lovelace").unwrap(), Duration::from_secs(60), &here).await
        };
        assert!(app.app.db.write(renamed).await.unwrap());
        let rows = [
            row(2, "lovelace", None),
            // She has given it up, and may take it back.
            row(3, "ada", None),
            row(4, "bob", Some(("ada@example.com", true))),
            row(5, "carol", Some(("ada@example.com", false))),
            row(6, "dora", Some(("dora@example.com", true))),
        ];
        let taken = find_taken(&app.app.db, &rows).await.unwrap();
        let lines: Vec<u64> = taken.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(taken[1].1.contains("ada is taken") && taken[2].1.contains("belongs to another user"), "{taken:?}");
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn imported_users_have_what_the_file_says_and_get_no_mail() {
        let app = TestApp::new().await;
        app.person("eve").await;
        let (eve, shared) = (app.user("eve").await, Email::parse("bob@example.com").unwrap());
        let claim = async |db: &mut Connection| address::set_pending(db, &eve, &shared, AuthLevel::OneFactor).await;
        app.app.db.write(claim).await.unwrap();
        let before = app.count("select count(*) from mails").await;
        let hashed = Row { hash: Some("pbkdf2_sha256$1000$a$b".into()), ..row(2, "ada", None) };
        let rows = [
            hashed,
            row(3, "bob", Some(("bob@example.com", true))),
            row(4, "carol", Some(("shared@example.com", false))),
            row(5, "dora", Some(("shared@example.com", false))),
        ];
        make(&app.app.db, &rows).await.unwrap();
        assert_eq!(app.count("select count(*) from users").await, 5);
        assert_eq!(app.count("select count(*) from passwords where hash = 'pbkdf2_sha256$1000$a$b'").await, 1);
        // Eve had asked for Bob's address, and had not proven it.
        assert_eq!(app.count("select count(*) from addresses where email = 'bob@example.com'").await, 1);
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, 1);
        assert_eq!(app.count("select count(*) from addresses where email = 'shared@example.com'").await, 2);
        assert_eq!(app.count("select count(*) from events where device = 'command line'").await, 4);
        assert_eq!(app.count("select count(*) from mails").await, before);
    }

    #[tokio::test]
    async fn if_one_user_cannot_be_made_none_is() {
        let app = TestApp::new().await;
        app.person("carol").await;
        app.confirm_address("carol", "carol@example.com").await;
        for taken in [
            row(3, "carol", None),
            row(3, "dora", Some(("carol@example.com", true))),
            row(3, "dora", Some(("carol@example.com", false))),
        ] {
            let rows = [row(2, "ada", Some(("ada@example.com", true))), taken, row(4, "emil", None)];
            let said = anyhow::Error::from(make(&app.app.db, &rows).await.unwrap_err()).to_string();
            assert_eq!(said, "line 3: somebody has just taken the name or the address");
            assert_eq!(app.count("select count(*) from users").await, 1);
            assert_eq!(app.count("select count(*) from addresses").await, 1);
        }
        make(&app.app.db, &[row(2, "ada", None)]).await.unwrap();
    }
}
