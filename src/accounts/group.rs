//! Groups of users, and the permissions that users have by them or directly.

use super::actor::Actor;
use super::event::{self, Cause, Event};
use super::permission::{self, ADMIN, Permissions};
use crate::base::{Error, Result};
use crate::db::{Connection, DbRow, new_id, now};
use serde::Serialize;
use sqlx::{FromRow, Row};

pub const JOINED: Event =
    Event::named("group_joined", "An administrator added you to a group").caused_by(Cause::Administrator);
pub const LEFT: Event =
    Event::named("group_left", "An administrator removed you from a group").caused_by(Cause::Administrator);
pub const GRANTED: Event =
    Event::named("permission_granted", "An administrator gave you a permission").caused_by(Cause::Administrator);
pub const REVOKED: Event =
    Event::named("permission_revoked", "An administrator took a permission from you").caused_by(Cause::Administrator);

const BUILT_IN: &str =
    "The group admin is built in. It cannot be renamed, changed or deleted; only its members can change.";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub id: String,
    pub name: String,
}

/// From the columns `group_id` and `group_name`.
impl FromRow<'_, DbRow> for Group {
    fn from_row(row: &DbRow) -> sqlx::Result<Group> {
        Ok(Group { id: row.try_get("group_id")?, name: row.try_get("group_name")? })
    }
}

impl Group {
    /// Whether it is the one that is built in, which cannot be deleted, renamed or changed.
    pub fn is_admin(&self) -> bool {
        self.id == ADMIN
    }

    /// # Errors
    /// [`Error::Forbidden`] when it is the one that is built in.
    pub fn require_changeable(&self) -> Result<()> {
        if self.is_admin() { Err(Error::Forbidden(BUILT_IN)) } else { Ok(()) }
    }
}

/// The name of a group: 1 to 40 of `0-9a-z-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupName(String);

impl GroupName {
    pub const MAX_LENGTH: usize = 40;

    /// The message to show next to the field when the name is taken.
    pub const TAKEN: &str = "There is a group with this name already. Please choose another.";

    /// # Errors
    /// The sentence to show beside the field.
    pub fn parse(text: &str) -> Result<GroupName, String> {
        let name = text.to_ascii_lowercase();
        if name.is_empty() {
            return Err("Please choose a name for the group.".into());
        }
        if !name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-') {
            return Err("The name of a group can only have letters from a to z, digits and hyphens.".into());
        }
        if name.len() > GroupName::MAX_LENGTH {
            return Err(format!("The name of a group can have at most {} characters.", GroupName::MAX_LENGTH));
        }
        Ok(GroupName(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All groups, by name.
pub async fn all(db: &mut Connection) -> Result<Vec<Group>> {
    let sql = "select id as group_id, name as group_name from groups order by name";
    Ok(sqlx::query_as(sql).fetch_all(db).await?)
}

/// The groups that allow nothing which is not among these permissions, by name.
pub async fn all_covered(db: &mut Connection, own: &Permissions) -> Result<Vec<Group>> {
    let sql = "select group_id, permission from group_permissions";
    let given: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut *db).await?;
    let is_covered = |group: &Group| given.iter().all(|(id, name)| *id != group.id || own.has_named(name));
    Ok(all(db).await?.into_iter().filter(is_covered).collect())
}

pub async fn find(db: &mut Connection, id: &str) -> Result<Option<Group>> {
    let sql = "select id as group_id, name as group_name from groups where id = $1";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(db).await?)
}

pub async fn find_by_name(db: &mut Connection, name: &str) -> Result<Option<Group>> {
    let sql = "select id as group_id, name as group_name from groups where name = $1";
    Ok(sqlx::query_as(sql).bind(name).fetch_optional(db).await?)
}

/// The groups that a user is in, by name.
pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Vec<Group>> {
    let sql = "select g.id as group_id, g.name as group_name from user_groups m join groups g on g.id = m.group_id \
               where m.user_id = $1 order by g.name";
    Ok(sqlx::query_as(sql).bind(user_id).fetch_all(db).await?)
}

/// Locks a group until the transaction ends, so that nobody changes what its members may do. `None` if it does not exist.
/// Groups are locked before users.
pub async fn lock(db: &mut Connection, id: &str) -> Result<Option<Group>> {
    let sql = "update groups set id = id where id = $1 returning id as group_id, name as group_name";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(db).await?)
}

/// Creates a group and returns its id. `None` if the name is taken.
pub async fn create(db: &mut Connection, name: &GroupName) -> Result<Option<String>> {
    let sql =
        "insert into groups (id, name, created_at) values ($1, $2, $3) on conflict (name) do nothing returning id";
    Ok(sqlx::query_scalar(sql).bind(new_id()).bind(name.as_str()).bind(now()).fetch_optional(db).await?)
}

/// Gives a group, which is locked by [`lock`], another name.
///
/// # Errors
/// [`Error::Invalid`] when the name is taken.
pub async fn rename(db: &mut Connection, id: &str, name: &GroupName) -> Result<()> {
    let sql = "update groups set name = $2 where id = $1";
    match sqlx::query(sql).bind(id).bind(name.as_str()).execute(db).await {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(Error::invalid("name", GroupName::TAKEN))
        }
        renamed => Ok(renamed.map(drop)?),
    }
}

/// Lets the members of a group do this, or no more by this group.
pub async fn allow(db: &mut Connection, id: &str, permission: &str, allowed: bool) -> Result<()> {
    let sql = match allowed {
        true => "insert into group_permissions (group_id, permission) values ($1, $2) on conflict do nothing",
        false => "delete from group_permissions where group_id = $1 and permission = $2",
    };
    sqlx::query(sql).bind(id).bind(permission).execute(db).await?;
    Ok(())
}

/// Deletes a group. Returns whether it is gone: of a large one, only its permissions and 5,000 of its members are, because
/// a transaction has little time. Then this is called again in another.
pub async fn delete(db: &mut Connection, id: &str) -> Result<bool> {
    for sql in [
        // First, because whoever accepts an invitation locks it before the group.
        "delete from invitations where group_id = $1",
        "delete from group_permissions where group_id = $1",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *db).await?;
    }
    let sql = "delete from user_groups where group_id = $1 and user_id <= \
               (select user_id from user_groups where group_id = $1 order by user_id limit 1 offset 4999)";
    if sqlx::query(sql).bind(id).execute(&mut *db).await?.rows_affected() > 0 {
        return Ok(false);
    }
    sqlx::query("delete from groups where id = $1").bind(id).execute(db).await?;
    Ok(true)
}

/// Adds a user to a group. Returns whether they were not in it before. The group is locked by [`lock`].
pub async fn join(db: &mut Connection, user_id: &str, group: &Group, actor: &Actor) -> Result<bool> {
    let sql = "insert into user_groups (user_id, group_id) values ($1, $2) on conflict do nothing";
    let joined = sqlx::query(sql).bind(user_id).bind(&*group.id).execute(&mut *db).await?.rows_affected() > 0;
    if joined {
        event::record(db, user_id, JOINED.by_actor(actor).about(&group.name)).await?;
    }
    Ok(joined)
}

/// Removes a user from a group. Returns whether they were in it.
///
/// # Errors
/// [`Error::LastAdmin`] when the site would be left without an administrator.
pub async fn leave(db: &mut Connection, user_id: &str, group: &Group, actor: &Actor) -> Result<bool> {
    if group.is_admin() {
        permission::keep_another_admin(db, user_id).await?;
    }
    let sql = "delete from user_groups where user_id = $1 and group_id = $2";
    let left = sqlx::query(sql).bind(user_id).bind(&*group.id).execute(&mut *db).await?.rows_affected() > 0;
    if left {
        event::record(db, user_id, LEFT.by_actor(actor).about(&group.name)).await?;
    }
    Ok(left)
}

/// Gives a user a permission directly. Returns whether they did not have it directly before.
pub async fn grant(db: &mut Connection, user_id: &str, permission: &str, actor: &Actor) -> Result<bool> {
    let sql = "insert into user_permissions (user_id, permission) values ($1, $2) on conflict do nothing";
    let granted = sqlx::query(sql).bind(user_id).bind(permission).execute(&mut *db).await?.rows_affected() > 0;
    if granted {
        event::record(db, user_id, GRANTED.by_actor(actor).about(permission)).await?;
    }
    Ok(granted)
}

/// Takes a permission that a user has directly. Returns whether they had it.
pub async fn revoke(db: &mut Connection, user_id: &str, permission: &str, actor: &Actor) -> Result<bool> {
    let sql = "delete from user_permissions where user_id = $1 and permission = $2";
    let revoked = sqlx::query(sql).bind(user_id).bind(permission).execute(&mut *db).await?.rows_affected() > 0;
    if revoked {
        event::record(db, user_id, REVOKED.by_actor(actor).about(permission)).await?;
    }
    Ok(revoked)
}

/// Adds a user to the group that a sign-up or a link names. Nothing is checked; `actor` is recorded as having done it.
///
/// # Errors
/// [`Error::StaleLink`] when the group has been deleted in the meantime.
pub async fn enter(db: &mut Connection, user_id: &str, group_id: &str, actor: &Actor) -> Result<()> {
    let group = find(db, group_id).await?.ok_or(Error::StaleLink)?;
    join(db, user_id, &group, actor).await?;
    Ok(())
}
