//! Compares the rows of a file with the users that exist, and makes accounts of them.

use super::row::Row;
use crate::accounts::group::{self, Group};
use crate::accounts::password::table;
use crate::accounts::{Actor, address, user};
use crate::base::{Error, FieldErrors, Result};
use crate::cli::progress::Progress;
use crate::db::{Connection, Database};

/// A line that cannot be imported, and why.
pub type Refusal = (u64, String);

/// The rows whose names or addresses belong to somebody else, or whose groups do not exist.
pub async fn find_refused(db: &Database, rows: &[Row]) -> Result<Vec<Refusal>> {
    let (mut refused, progress) = (Vec::new(), Progress::new("users compared", Some(rows.len() as u64)));
    let groups = db.read(group::all).await?;
    for row in rows {
        let reason = db.read(async |db| reason(db, row, &groups).await).await?;
        refused.extend(reason.map(|sentence| (row.line, sentence)));
        progress.advance(1);
    }
    progress.finish();
    Ok(refused)
}

async fn reason(db: &mut Connection, row: &Row, groups: &[Group]) -> Result<Option<String>> {
    if let Some(name) = row.groups.iter().find(|name| find_group(groups, name).is_none()) {
        return Ok(Some(format!("There is no group {name:?}.")));
    }
    if !user::is_free(db, &row.username).await? {
        return Ok(Some(row.username.taken()));
    }
    let Some(email) = &row.email else { return Ok(None) };
    let owner = address::owner(db, email.as_str()).await?;
    Ok(owner.map(|_| format!("The address {} belongs to another user.", email.as_str())))
}

fn find_group<'a>(groups: &'a [Group], name: &str) -> Option<&'a Group> {
    groups.iter().find(|group| group.name == name)
}

/// Makes all accounts in one transaction. Nothing is mailed.
///
/// # Errors
/// When something has changed since [`find_refused`], so that a row is refused now.
pub async fn make(db: &Database, rows: &[Row]) -> Result<()> {
    let (actor, progress) = (Actor::command_line(), Progress::new("users made", Some(rows.len() as u64)));
    let make = async |db: &mut Connection| {
        let groups = lock_groups(db, rows).await?;
        for row in rows {
            if !make_one(db, row, &groups, &actor).await? {
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

/// The groups that the rows name, which nobody changes until the transaction ends.
async fn lock_groups(db: &mut Connection, rows: &[Row]) -> Result<Vec<Group>> {
    let mut groups = group::all(db).await?;
    groups.retain(|group| rows.iter().any(|row| row.groups.contains(&group.name)));
    for group in &groups {
        group::lock(db, &group.id).await?;
    }
    Ok(groups)
}

async fn make_one(db: &mut Connection, row: &Row, groups: &[Group], actor: &Actor) -> Result<bool> {
    let Some(id) = user::create(db, &row.username, &actor.client).await? else { return Ok(false) };
    if let Some(hash) = &row.hash {
        table::set(db, &id, hash).await?;
    }
    for name in &row.groups {
        let group = find_group(groups, name).ok_or(Error::NOT_FOUND)?;
        group::join(db, &id, group, actor).await?;
    }
    match &row.email {
        Some(email) => address::import(db, &id, email, row.is_confirmed).await,
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::group::GroupName;
    use crate::accounts::{AuthLevel, Client, Email, Username};
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
        let refused = find_refused(&app.app.db, &rows).await.unwrap();
        let lines: Vec<u64> = refused.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(
            refused[1].1.contains("ada is taken") && refused[2].1.contains("belongs to another user"),
            "{refused:?}"
        );
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
        for taken in [row(3, "carol", None), row(3, "dora", Some(("carol@example.com", true)))] {
            let rows = [row(2, "ada", Some(("ada@example.com", true))), taken, row(4, "emil", None)];
            let said = anyhow::Error::from(make(&app.app.db, &rows).await.unwrap_err()).to_string();
            assert_eq!(said, "line 3: somebody has just taken the name or the address");
            assert_eq!(app.count("select count(*) from users").await, 1);
            assert_eq!(app.count("select count(*) from addresses").await, 1);
        }
        make(&app.app.db, &[row(2, "ada", None)]).await.unwrap();
    }

    #[tokio::test]
    async fn users_join_the_groups_that_exist() {
        let app = TestApp::new().await;
        let staff = GroupName::parse("staff").unwrap();
        app.app.db.write(async |db| group::create(db, &staff).await).await.unwrap();
        let in_groups = |line: u64, name: &str, groups: &[&str]| Row {
            groups: groups.iter().map(ToString::to_string).collect(),
            ..row(line, name, None)
        };
        let rows = [in_groups(2, "ada", &["staff", "admin"]), in_groups(3, "bob", &["staff", "crew"])];
        let refused = find_refused(&app.app.db, &rows).await.unwrap();
        assert_eq!(refused, [(3, "There is no group \"crew\".".to_string())]);
        // It is deleted at this moment.
        assert!(make(&app.app.db, &rows).await.is_err());
        assert_eq!(app.count("select count(*) from users").await, 0);
        make(&app.app.db, &rows[..1]).await.unwrap();
        assert_eq!(app.count("select count(*) from user_groups").await, 2);
        assert_eq!(app.count("select count(*) from events where kind = 'group_joined'").await, 2);
    }
}
