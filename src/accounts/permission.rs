//! Permissions: what some users may do and others may not.
//!
//! A permission is a constant beside the feature that asks for it. Users have permissions by their groups and directly.
//! Nothing of that is kept in a session or a cookie, so a change acts at the next request.

use crate::base::{Error, Result};
use crate::db::Connection;
use std::collections::BTreeSet;

/// `Permission::named("users.manage", "See and change other people's accounts")`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The name in the tables, on the command line and in the list of routes.
    pub name: &'static str,
    /// What it allows, for the people who give it to others.
    pub words: &'static str,
    /// Whether every user has it, so that only the tokens of programs have to name it.
    pub is_for_everyone: bool,
}

impl Permission {
    pub const fn named(name: &'static str, words: &'static str) -> Permission {
        Permission { name, words, is_for_everyone: false }
    }

    pub const fn for_everyone(self) -> Permission {
        Permission { is_for_everyone: true, ..self }
    }
}

/// Id and name of the group of administrators. It is built in and has all permissions.
pub const ADMIN: &str = "admin";

/// Stands for all permissions. Only the group of administrators has it.
const ALL: &str = "*";

/// What a user may do, besides what everybody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(BTreeSet<String>);

impl Permissions {
    /// What the user has directly and by groups.
    pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Permissions> {
        let sql = "select permission from user_permissions where user_id = $1 union select p.permission \
                   from user_groups m join group_permissions p on p.group_id = m.group_id where m.user_id = $1";
        let names: Vec<String> = sqlx::query_scalar(sql).bind(user_id).fetch_all(db).await?;
        Ok(Permissions(names.into_iter().collect()))
    }

    /// What the members of a group have by it.
    pub async fn of_group(db: &mut Connection, group_id: &str) -> Result<Permissions> {
        let sql = "select permission from group_permissions where group_id = $1";
        let names: Vec<String> = sqlx::query_scalar(sql).bind(group_id).fetch_all(db).await?;
        Ok(Permissions(names.into_iter().collect()))
    }

    pub fn has(&self, permission: Permission) -> bool {
        permission.is_for_everyone || self.has_named(permission.name)
    }

    /// As [`Permissions::has`], for a name from a form or a table. Only administrators have a permission that this version of
    /// the site does not know.
    pub fn has_named(&self, name: &str) -> bool {
        self.0.contains(ALL) || self.0.contains(name)
    }

    /// Whether all of the `others` are among these. Who lacks one of somebody's permissions may not act on that person, and
    /// may not give or take a group that has it: otherwise people could rise by what they may do.
    pub fn cover(&self, others: &Permissions) -> bool {
        self.0.contains(ALL) || others.0.is_subset(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Whether the user is an administrator who may log in.
pub async fn is_admin(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select 1 from user_groups m join users u on u.id = m.user_id \
               where m.group_id = 'admin' and m.user_id = $1 and u.disabled_at is null";
    Ok(sqlx::query(sql).bind(user_id).fetch_optional(db).await?.is_some())
}

/// Whether the site has an administrator who may log in, besides the user with this id, which may be empty.
pub async fn has_admin_besides(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select 1 from user_groups m join users u on u.id = m.user_id \
               where m.group_id = 'admin' and m.user_id <> $1 and u.disabled_at is null limit 1";
    Ok(sqlx::query(sql).bind(user_id).fetch_optional(db).await?.is_some())
}

/// Locks the group of administrators until the transaction ends. What may add the first of them or remove the last begins
/// with this, before it locks a user.
pub async fn lock_admins(db: &mut Connection) -> Result<()> {
    sqlx::query("update groups set id = id where name = 'admin'").execute(db).await?;
    Ok(())
}

/// As [`lock_admins`], before something that makes this user an administrator no more, if they are one.
///
/// # Errors
/// [`Error::LastAdmin`] when the site would be left without an administrator.
pub async fn keep_another_admin(db: &mut Connection, user_id: &str) -> Result<()> {
    lock_admins(db).await?;
    if is_admin(db, user_id).await? && !has_admin_besides(db, user_id).await? {
        return Err(Error::LastAdmin);
    }
    Ok(())
}
