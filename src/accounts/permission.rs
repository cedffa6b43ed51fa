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

    /// These and the others.
    pub fn and(mut self, others: Permissions) -> Permissions {
        self.0.extend(others.0);
        self
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::actor::Actor;
    use crate::accounts::group::{self, GroupName};
    use crate::accounts::{disabling, user};
    use crate::test::TestApp;
    use std::time::Duration;

    const READ: Permission = Permission::named("test.read", "Read");
    const WRITE: Permission = Permission::named("test.write", "Write");
    const LOOK: Permission = Permission::named("test.look", "Look").for_everyone();

    async fn permissions(app: &TestApp, name: &str) -> Permissions {
        let id = app.user(name).await;
        app.app.db.read(async |db| Permissions::of_user(db, &id).await).await.unwrap()
    }

    #[tokio::test]
    async fn people_have_permissions_directly_and_by_their_groups_and_administrators_have_all() {
        let app = TestApp::new().await;
        for name in ["ada", "grace", "root"] {
            app.person(name).await;
        }
        app.grant("ada", READ.name).await;
        app.make_admin("root").await;
        let id = app.user("ada").await;
        let made = app.app.db.write(async |db| {
            let group_id = group::create(db, &GroupName::parse("writers").unwrap()).await?.unwrap();
            sqlx::query("insert into group_permissions (group_id, permission) values ($1, 'test.write')")
                .bind(&*group_id)
                .execute(&mut *db)
                .await?;
            group::enter(db, &id, &group_id, &Actor::command_line()).await
        });
        made.await.unwrap();
        let (ada, grace, root) =
            (permissions(&app, "ada").await, permissions(&app, "grace").await, permissions(&app, "root").await);
        for (own, expected) in [(&ada, [true, true]), (&grace, [false, false]), (&root, [true, true])] {
            assert_eq!([own.has(READ), own.has(WRITE)], expected, "{own:?}");
            assert!(own.has(LOOK));
        }
        assert_eq!(ada.names().collect::<Vec<_>>(), ["test.read", "test.write"]);
        assert!(!ada.has_named("test") && !ada.has_named("*") && root.has_named("of a later version"));
        assert!(ada.cover(&grace) && ada.cover(&ada) && root.cover(&ada) && root.cover(&root));
        assert!(!grace.cover(&ada) && !ada.cover(&root));
    }

    /// What the last administrator could do to be none any more.
    async fn step_down(app: &TestApp, way: usize, name: &str) -> Result<()> {
        let (id, actor) = (app.user(name).await, Actor::command_line());
        let step = app.app.db.write(async |db| match way {
            0 => {
                let admins = group::find(db, ADMIN).await?.unwrap();
                group::leave(db, &id, &admins, &actor).await.map(drop)
            }
            1 => disabling::disable(db, &id, &actor).await.map(drop),
            _ => user::delete(db, &id, Duration::ZERO, user::DELETED.by(&actor.client)).await,
        });
        step.await
    }

    #[tokio::test]
    async fn the_last_administrator_stays_and_any_other_may_go() {
        let app = TestApp::new().await;
        for way in 0..3 {
            for name in ["root", "second"] {
                app.person(name).await;
                app.make_admin(name).await;
            }
            step_down(&app, way, "second").await.unwrap();
            for way in 0..3 {
                assert!(matches!(step_down(&app, way, "root").await, Err(Error::LastAdmin)), "{way}");
            }
            app.execute("delete from users").await;
            app.execute("delete from limits").await;
        }
        app.person("ada").await;
        step_down(&app, 2, "ada").await.unwrap();
    }

    #[tokio::test]
    async fn of_two_administrators_who_go_at_the_same_time_one_stays() {
        let app = TestApp::new().await;
        for round in 0..12 {
            for name in ["root", "second"] {
                app.person(name).await;
                app.make_admin(name).await;
            }
            let (first, second) = tokio::join!(
                step_down(&app, round % 3, "root"),
                step_down(&app, (round + 1 + round / 3) % 3, "second")
            );
            let gone = [first, second].iter().filter(|step| step.is_ok()).count();
            let left = app.app.db.read(async |db| has_admin_besides(db, "").await).await.unwrap();
            assert_eq!((gone, left), (1, true), "round {round}");
            app.execute("delete from users").await;
            app.execute("delete from limits").await;
        }
    }
}
