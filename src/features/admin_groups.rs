//! Groups: which there are, what their members may do, and who they are.
//!
//! List and create at `/admin/groups`; rename, permissions, members and delete at `/admin/groups/{id}`. Nobody gives or takes
//! what they may not do themselves, so nobody rises by what they do here.

use super::feature::Feature;
use crate::accounts::event::{self, Cause};
use crate::accounts::group::{self, Group, GroupName};
use crate::accounts::{Event, Permission, Permissions, User, Username, user};
use crate::base::{Env, Error, FieldErrors, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow};
use crate::web::{
    Access, AccountGroup, AccountRow, Administrator, App, Empty, Flash, Form, List, ListQuery, ONE_MORE, Page, Query,
    Redirect, Routes, RowState, Template, files, redirect, require_cover,
};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;

const PATH: &str = "/admin/groups";

const MANAGE: Permission =
    Permission::named("groups.manage", "Create groups, and choose their members and permissions");
const CAN: Access = Access::Can(MANAGE);

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, CAN, index)
        .post(PATH, CAN, create)
        .once()
        .bounded_by("100 groups")
        .get("/admin/groups/{id}", CAN, show)
        .post("/admin/groups/{id}", CAN, update)
        // A mistake in the form that adds somebody is shown there.
        .get("/admin/groups/{id}/members", CAN, show)
        .post("/admin/groups/{id}/members", CAN, add)
        .once()
        .bounded_by("a row for each user and group")
        .post("/admin/groups/{id}/members/remove", CAN, remove)
        .get("/admin/groups/{id}/delete", CAN, confirm_delete)
        .post("/admin/groups/{id}/delete", CAN, destroy);
    Ok(Feature {
        routes,
        events: &[GROUP_CREATED, GROUP_CHANGED, GROUP_DELETED],
        permissions: &[MANAGE],
        flashes: &[SAVED, DELETED],
        account_row: Some(ROW),
        ..Feature::named("admin_groups")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 3, "Groups", PATH, |db, _| {
    async move { Ok(RowState::new(group::all(db).await?.len().to_string(), "Manage")) }.boxed()
})
.needing(MANAGE);

pub const GROUP_CREATED: Event = Event::named("group_created", "Group created").caused_by(Cause::Administrator);
pub const GROUP_CHANGED: Event = Event::named("group_changed", "Group changed").caused_by(Cause::Administrator);
pub const GROUP_DELETED: Event = Event::named("group_deleted", "Group deleted").caused_by(Cause::Administrator);

const SAVED: Flash = Flash { name: "group_saved", words: "Group saved." };
const DELETED: Flash = Flash { name: "group_deleted", words: "Group deleted." };

/// How many groups there can be. All are on one page.
const MAX_GROUPS: usize = 100;

/// Members are counted up to this number.
const MOST_COUNTED: i64 = 1_000;

/// A group in the list.
#[derive(Serialize)]
struct ListedGroup {
    id: String,
    name: String,
    members: i64,
    may: Vec<String>,
}

impl FromRow<'_, DbRow> for ListedGroup {
    fn from_row(row: &DbRow) -> sqlx::Result<ListedGroup> {
        let (id, name) = (row.try_get("id")?, row.try_get("name")?);
        Ok(ListedGroup { id, name, members: row.try_get("members")?, may: Vec::new() })
    }
}

#[derive(Serialize)]
struct GroupsPage {
    groups: Vec<ListedGroup>,
    /// What was typed.
    name: String,
    errors: FieldErrors,
}

impl Template for GroupsPage {
    const FILE: &'static str = files::ADMIN_GROUPS_INDEX;
}

/// What is typed into the small forms.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Typed {
    /// Of a new group.
    name: String,
    /// Of who is to be added.
    username: String,
    /// The id of who is to be removed.
    user: String,
}

async fn index(State(app): State<App>, page: Page) -> Result<Response> {
    let groups = list(&app).await?;
    page.render(&GroupsPage { groups, name: String::new(), errors: FieldErrors::default() }).await
}

async fn create(
    State(app): State<App>,
    admin: Administrator,
    page: Page,
    Form(Typed { name, .. }): Form<Typed>,
) -> Result<Response> {
    match insert(&admin, &name).await {
        Ok(id) => Ok(redirect(&format!("{PATH}/{id}")).flash(SAVED).into_response()),
        Err(error) => {
            let (errors, groups) = (error.field_errors()?, list(&app).await?);
            page.render_errors(&GroupsPage { groups, name, errors }).await
        }
    }
}

async fn insert(admin: &Administrator, name: &str) -> Result<String> {
    let name = GroupName::parse(name).map_err(|sentence| Error::invalid("name", sentence))?;
    let insert = async |db: &mut Connection, _: &Permissions| {
        if group::all(db).await?.len() >= MAX_GROUPS {
            return Err(Error::invalid("name", "There are 100 groups, and there is no room for more."));
        }
        let id = group::create(db, &name).await?.ok_or_else(|| Error::invalid("name", GroupName::TAKEN))?;
        event::record(db, None, GROUP_CREATED.by_actor(&admin.actor).about(name.as_str())).await?;
        Ok(id)
    };
    admin.change(insert).await
}

/// A permission that a group can have.
#[derive(Serialize)]
struct Choice {
    name: String,
    words: String,
    is_given: bool,
    /// Whether the administrator may give and take it.
    is_free: bool,
}

#[derive(Serialize)]
struct Member {
    id: String,
    username: String,
}

#[derive(Serialize)]
struct GroupPage {
    id: String,
    group: String,
    /// Whether the administrator may do all that the members may.
    is_covered: bool,
    choices: Vec<Choice>,
    members: List<Member>,
    /// What was typed: a new name for the group, and the name of somebody to add.
    name: String,
    username: String,
    errors: FieldErrors,
}

impl Template for GroupPage {
    const FILE: &'static str = files::ADMIN_GROUPS_SHOW;
}

impl GroupPage {
    async fn find(app: &App, own: &Permissions, id: &str, query: &ListQuery) -> Result<GroupPage> {
        let find = async |db: &mut Connection| {
            let group = group::find(db, id).await?.ok_or(Error::NOT_FOUND)?;
            let may = Permissions::of_group(db, id).await?;
            let members = List::new(members(db, id, query).await?, query, |user| &user.id);
            Ok(GroupPage {
                is_covered: own.cover(&may),
                choices: choices(&app.features.permissions, own, &may),
                members: members.map(|user| Member { id: user.id, username: user.username }),
                name: group.name.clone(),
                username: String::new(),
                errors: FieldErrors::default(),
                id: group.id,
                group: group.name,
            })
        };
        app.db.read(find).await
    }
}

fn choices(known: &[Permission], own: &Permissions, may: &Permissions) -> Vec<Choice> {
    let choice = |name: &str| Choice {
        name: name.to_string(),
        words: words(known, name),
        is_given: may.has_named(name),
        is_free: own.has_named(name),
    };
    let known_names = known.iter().filter(|permission| !permission.is_for_everyone).map(|permission| permission.name);
    let unknown = may.names().filter(|name| known.iter().all(|permission| permission.name != *name));
    known_names.chain(unknown).map(choice).collect()
}

fn words(known: &[Permission], name: &str) -> String {
    let found = known.iter().find(|permission| permission.name == name);
    let unknown = || format!("{name}, which this version of the site does not have");
    found.map_or_else(unknown, |permission| permission.words.into())
}

async fn show(
    State(app): State<App>,
    admin: Administrator,
    page: Page,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    page.render(&GroupPage::find(&app, admin.permissions(), &id, &query).await?).await
}

/// The field `name`, and a field `permission.NAME` for each permission that the members may have.
type Fields = BTreeMap<String, String>;

fn is_chosen(fields: &Fields, permission: &str) -> bool {
    fields.contains_key(&format!("permission.{permission}"))
}

async fn update(
    State(app): State<App>,
    admin: Administrator,
    page: Page,
    Path(id): Path<String>,
    Form(mut fields): Form<Fields>,
) -> Result<Response> {
    match change(&app, &admin, &id, &fields).await {
        Ok(()) => Ok(redirect(&format!("{PATH}/{id}")).flash(SAVED).into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            let mut shown = GroupPage::find(&app, admin.permissions(), &id, &ListQuery::default()).await?;
            for choice in &mut shown.choices {
                choice.is_given = is_chosen(&fields, &choice.name);
            }
            page.render_errors(&GroupPage { errors, name: fields.remove("name").unwrap_or_default(), ..shown }).await
        }
    }
}

async fn change(app: &App, admin: &Administrator, id: &str, fields: &Fields) -> Result<()> {
    let change = async |db: &mut Connection, own: &Permissions| {
        let group = lock(db, own, id).await?;
        group.require_changeable()?;
        let name = GroupName::parse(fields.get("name").map_or("", String::as_str));
        let name = name.map_err(|sentence| Error::invalid("name", sentence))?;
        let mut changes = vec![name.as_str().to_string()];
        if name.as_str() != group.name {
            group::rename(db, id, &name).await?;
            changes.push(format!("renamed from {}", group.name));
        }
        let may = Permissions::of_group(db, id).await?;
        for Choice { name, is_given, .. } in choices(&app.features.permissions, own, &may) {
            let is_chosen = is_chosen(fields, &name);
            if is_chosen != is_given {
                group::allow(db, id, &name, is_chosen).await?;
                changes.push(format!("{} {name}", if is_chosen { "may" } else { "may not" }));
            }
        }
        require_cover(own, &Permissions::of_group(db, id).await?)?;
        if changes.len() == 1 {
            return Ok(());
        }
        event::record(db, None, GROUP_CHANGED.by_actor(&admin.actor).about(&changes.join(", "))).await
    };
    admin.change(change).await
}

/// Locks a group whose members may do nothing that its administrator may not.
async fn lock(db: &mut Connection, own: &Permissions, id: &str) -> Result<Group> {
    let group = group::lock(db, id).await?.ok_or(Error::NOT_FOUND)?;
    require_cover(own, &Permissions::of_group(db, id).await?)?;
    Ok(group)
}

async fn add(
    State(app): State<App>,
    admin: Administrator,
    page: Page,
    Path(id): Path<String>,
    Form(Typed { username, .. }): Form<Typed>,
) -> Result<Response> {
    match add_by_name(&app, &admin, &id, &username).await {
        Ok(()) => Ok(redirect(&format!("{PATH}/{id}")).flash(SAVED).into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            let shown = GroupPage::find(&app, admin.permissions(), &id, &ListQuery::default()).await?;
            page.render_errors(&GroupPage { errors, username, ..shown }).await
        }
    }
}

async fn add_by_name(app: &App, admin: &Administrator, id: &str, username: &str) -> Result<()> {
    let invalid = |sentence: String| Error::invalid("username", sentence);
    let name = Username::parse(username).map_err(invalid)?;
    let user = app.db.read(async |db| user::find(db, &name).await).await?;
    let user = user.ok_or_else(|| invalid(format!("There is nobody with the name {name} who may log in.")))?;
    let join = async |db: &mut Connection, user: &User, own: &Permissions| {
        let group = lock(db, own, id).await?;
        let has_joined = group::join(db, &user.id, &group, &admin.actor).await?;
        if has_joined { Ok(()) } else { Err(invalid(format!("{name} is in this group already."))) }
    };
    admin.change_user(&user.id, join).await
}

async fn remove(admin: Administrator, Path(id): Path<String>, Form(form): Form<Typed>) -> Result<Redirect> {
    let leave = async |db: &mut Connection, user: &User, own: &Permissions| {
        let group = lock(db, own, &id).await?;
        group::leave(db, &user.id, &group, &admin.actor).await
    };
    admin.change_user(&form.user, leave).await?;
    Ok(redirect(&format!("{PATH}/{id}")).flash(SAVED))
}

#[derive(Serialize)]
struct DeletePage {
    id: String,
    group: String,
}

impl Template for DeletePage {
    const FILE: &'static str = files::ADMIN_GROUPS_DELETE;
}

async fn confirm_delete(State(app): State<App>, page: Page, Path(id): Path<String>) -> Result<Response> {
    let group = app.db.read(async |db| group::find(db, &id).await).await?.ok_or(Error::NOT_FOUND)?;
    group.require_changeable()?;
    page.render(&DeletePage { id, group: group.name }).await
}

async fn destroy(admin: Administrator, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    let delete = async |db: &mut Connection, own: &Permissions| {
        let group = lock(db, own, &id).await?;
        group.require_changeable()?;
        let is_gone = group::delete(db, &id).await?;
        if is_gone {
            event::record(db, None, GROUP_DELETED.by_actor(&admin.actor).about(&group.name)).await?;
        }
        Ok(is_gone)
    };
    while !admin.change(delete).await? {}
    Ok(redirect(PATH).flash(DELETED))
}

/// All groups, by name, with as many members as are counted.
async fn list(app: &App) -> Result<Vec<ListedGroup>> {
    let list = async |db: &mut Connection| {
        // In order, so that Postgres finds the members by the index.
        let sql = "select g.id, g.name, (select count(*) from (select 1 as one from user_groups m \
                   where m.group_id = g.id order by m.user_id limit $1) counted) as members from groups g order by g.name";
        let mut groups: Vec<ListedGroup> = sqlx::query_as(sql).bind(MOST_COUNTED + 1).fetch_all(&mut *db).await?;
        let sql = "select group_id, permission from group_permissions order by permission";
        let given: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(db).await?;
        for group in &mut groups {
            let own = given.iter().filter(|(group_id, _)| *group_id == group.id);
            group.may = own.map(|(_, name)| words(&app.features.permissions, name)).collect();
        }
        Ok(groups)
    };
    app.db.read(list).await
}

/// A page of the members, those who signed up last first.
async fn members(db: &mut Connection, id: &str, query: &ListQuery) -> Result<Vec<User>> {
    let sql = "select u.id as user_id, u.username from user_groups m join users u on u.id = m.user_id \
               where m.group_id = $1 and m.user_id < $2 order by m.user_id desc limit $3";
    let query = sqlx::query_as(sql).bind(id).bind(query.after(AFTER_ALL_IDS)).bind(ONE_MORE);
    Ok(query.fetch_all(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Answer, TestApp, Visitor, check};
    use axum::http::Method;
    use futures_util::future::join_all;

    /// Makes a group and returns the path of its page.
    async fn make(admin: &Visitor, name: &str) -> String {
        let answer = admin.post(PATH, &[("name", name)]).await;
        assert_eq!(answer.status, 303, "{answer}");
        answer.header("location").to_string()
    }

    /// Saves a group with this name, whose members may do this.
    async fn save(admin: &Visitor, path: &str, name: &str, permissions: &[&str]) -> Answer {
        let fields: Vec<String> = permissions.iter().map(|permission| format!("permission.{permission}")).collect();
        let chosen = fields.iter().map(|field| (&**field, "yes"));
        admin.post(path, &[("name", name)].into_iter().chain(chosen).collect::<Vec<_>>()).await
    }

    async fn add(admin: &Visitor, path: &str, name: &str) -> Answer {
        admin.post(&format!("{path}/members"), &[("username", name)]).await
    }

    async fn remove(app: &TestApp, admin: &Visitor, path: &str, name: &str) -> Answer {
        admin.post(&format!("{path}/members/remove"), &[("user", &app.user(name).await)]).await
    }

    /// An app with an administrator.
    async fn app_of_ada() -> (TestApp, Visitor) {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.make_admin("ada").await;
        (app, ada)
    }

    const ADMINS: &str = "/admin/groups/admin";

    #[test]
    fn its_pages_render() {
        let listed = |number| ListedGroup {
            id: "0190".into(),
            name: "editors".into(),
            members: number,
            may: vec!["See <b>".into()],
        };
        let page = |groups, errors| GroupsPage { groups, name: "typed".into(), errors };
        check(&[
            page(vec![listed(1)], FieldErrors::default()),
            page([0, 2, 1_000, 1_001].map(listed).into(), FieldErrors::of("name", "No.")),
        ]);
        let choice = |is_given, is_free| Choice {
            name: format!("{is_given}.{is_free}"),
            words: "See <b>".into(),
            is_given,
            is_free,
        };
        let member = |id: &str| Member { id: id.into(), username: "bob".into() };
        let page = |id: &str, is_covered| GroupPage {
            id: id.into(),
            group: "editors".into(),
            is_covered,
            choices: vec![choice(true, true), choice(false, false)],
            members: List { rows: vec![member("1"), member("2")], previous: None, next: Some("?after=2".into()) },
            name: "typed".into(),
            username: "typed".into(),
            errors: FieldErrors::default(),
        };
        let mut errors = FieldErrors::of("name", "No.");
        errors.add("username", "No.");
        let none = List { rows: vec![], previous: None, next: None };
        let with_mistakes = GroupPage { errors, members: none, ..page("0190", true) };
        check(&[page("0190", true), page("admin", true), page("0190", false), with_mistakes]);
        check(&[DeletePage { id: "0190".into(), group: "editors".into() }]);
    }

    #[tokio::test]
    async fn a_group_is_made_changed_and_deleted_and_each_is_recorded_with_who_did_it() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "Editors").await;
        ada.get(&path).await.assert_status(200).assert_contains("Group saved.").assert_contains("<h1>editors</h1>");
        ada.get(PATH).await.assert_contains(">editors</a>").assert_contains("0 members");
        save(&ada, &path, "authors", &["groups.manage"]).await.assert_redirect(&path);
        ada.get(PATH).await.assert_contains(">authors</a>").assert_contains(MANAGE.words);
        ada.get(&path).await.assert_contains("value=\"yes\" checked>");
        // To save it as it is changes nothing.
        save(&ada, &path, "authors", &["groups.manage"]).await.assert_redirect(&path);
        save(&ada, &path, "authors", &[]).await.assert_redirect(&path);
        ada.get(PATH).await.assert_lacks(MANAGE.words);
        ada.get(&format!("{path}/delete")).await.assert_status(200).assert_contains("“authors”");
        ada.post(&format!("{path}/delete"), &[]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("Group deleted.").assert_lacks("authors");
        ada.get(&path).await.assert_status(404);
        ada.post(&format!("{path}/delete"), &[]).await.assert_status(404);
        let sql = "select kind || ': ' || about from events where user_id is null and address is null \
                   and actor_id = (select id from users where username = 'ada') order by id";
        let recorded: Vec<String> =
            app.app.db.read(async |db| Ok(sqlx::query_scalar(sql).fetch_all(db).await?)).await.unwrap();
        assert_eq!(
            recorded,
            [
                "group_created: editors",
                "group_changed: authors, renamed from editors, may groups.manage",
                "group_changed: authors, may not groups.manage",
                "group_deleted: authors",
            ]
        );
    }

    #[tokio::test]
    async fn members_may_at_once_what_their_group_may_and_no_longer_than_they_are_in_it() {
        let (app, ada) = app_of_ada().await;
        let bob = app.person("bob").await;
        let path = make(&ada, "managers").await;
        save(&ada, &path, "managers", &["groups.manage"]).await.assert_redirect(&path);
        bob.get(PATH).await.assert_status(404);
        add(&ada, &path, "BOB").await.assert_redirect(&path);
        bob.get(PATH).await.assert_status(200);
        ada.get(&path).await.assert_contains("Group saved.").assert_contains("<strong>bob</strong>");
        ada.get(PATH).await.assert_contains("1 member");
        app.end_repeats().await;
        add(&ada, &path, "bob").await.assert_status(422).assert_contains("bob is in this group already.");
        remove(&app, &ada, &path, "bob").await.assert_redirect(&path);
        bob.get(PATH).await.assert_status(404);
        remove(&app, &ada, &path, "bob").await.assert_redirect(&path);
        app.end_repeats().await;
        add(&ada, &path, "bob").await.assert_redirect(&path);
        ada.post(&format!("{path}/delete"), &[]).await.assert_redirect(PATH);
        bob.get(PATH).await.assert_status(404);
        let bobs = "select count(*) from events e join users u on u.id = e.user_id where u.username = 'bob' \
                    and e.about = 'managers' and e.actor_id = (select id from users where username = 'ada') \
                    and e.kind in ('group_joined', 'group_left')";
        assert_eq!(app.count(bobs).await, 3);
    }

    #[tokio::test]
    async fn nobody_rises_by_groups_whatever_they_try() {
        let (app, ada) = app_of_ada().await;
        let (eve, _bob, _carol) = (app.person("eve").await, app.person("bob").await, app.person("carol").await);
        app.grant("eve", "groups.manage").await;
        app.grant("bob", "users.manage").await;
        let high = make(&ada, "high").await;
        app.execute(
            "insert into group_permissions (group_id, permission) select id, 'users.manage' from groups \
                     where name = 'high'",
        )
        .await;
        add(&ada, &high, "carol").await.assert_redirect(&high);
        let own = make(&eve, "own").await;
        save(&eve, &own, "own", &["groups.manage"]).await.assert_redirect(&own);
        let rows = "select (select count(*) from user_groups) * 10000 + (select count(*) from group_permissions) * 100 \
                    + (select count(*) from user_permissions) * 10 + (select count(*) from groups)";
        let before = app.count(rows).await;
        for path in [ADMINS, &high] {
            for name in ["eve", "bob"] {
                add(&eve, path, name).await.assert_status(403).assert_contains("permissions that you");
            }
            save(&eve, path, "own2", &["groups.manage"]).await.assert_status(403);
            save(&eve, path, "own2", &[]).await.assert_status(403);
            eve.post(&format!("{path}/delete"), &[]).await.assert_status(403);
            let page = eve.get(path).await;
            page.assert_status(200).assert_lacks("<button class=\"danger\"").assert_lacks("name=\"username\"");
        }
        remove(&app, &eve, ADMINS, "ada").await.assert_status(403);
        remove(&app, &eve, &high, "carol").await.assert_status(403);
        // Neither somebody who may do more.
        add(&eve, &own, "bob").await.assert_status(403).assert_contains("so you cannot change their account");
        add(&eve, &own, "ada").await.assert_status(403);
        for name in ["*", "group.*", "admin", "groups.manage "] {
            save(&eve, &own, "own", &["groups.manage", name]).await.assert_redirect(&own);
        }
        save(&eve, &own, "own", &["groups.manage", "users.manage"]).await;
        save(&eve, &own, "Admin", &["groups.manage"])
            .await
            .assert_status(422)
            .assert_contains("with this name already");
        for field in ["permission", "permissions", "group", "user", "is_admin", "role", "id"] {
            eve.post(&own, &[("name", "own"), ("permission.groups.manage", "yes"), (field, "admin")]).await;
            eve.post(&format!("{own}/members"), &[("username", "eve"), (field, "admin")]).await;
            app.end_repeats().await;
            remove(&app, &eve, &own, "eve").await;
        }
        assert_eq!(app.count(rows).await, before);
        assert_eq!(app.count("select count(*) from groups where name in ('admin', 'high', 'own')").await, 3);
    }

    #[tokio::test]
    async fn a_permission_that_this_site_has_is_given_only_by_those_who_have_it() {
        const PUBLISH: Permission = Permission::named("test.publish", "Publish everything");
        const READ: Permission = Permission::named("test.read", "Read everything").for_everyone();
        let feature = Feature { permissions: &[PUBLISH, READ], ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let eve = app.person("eve").await;
        app.grant("eve", "groups.manage").await;
        let path = make(&eve, "editors").await;
        let page = eve.get(&path).await;
        page.assert_contains("name=\"permission.test.publish\" value=\"yes\" disabled> Publish everything");
        page.assert_lacks("Read everything");
        let refused = save(&eve, &path, "renamed", &["test.publish"]).await;
        refused.assert_status(403).assert_contains("You can only give or take permissions that you have yourself.");
        assert_eq!(app.count("select count(*) from group_permissions where permission = 'test.publish'").await, 0);
        eve.get(&path).await.assert_contains("<h1>editors</h1>");
        app.grant("eve", "test.publish").await;
        save(&eve, &path, "editors", &["test.publish", "test.read"]).await.assert_redirect(&path);
        eve.get(PATH).await.assert_contains("Publish everything");
        assert_eq!(app.count("select count(*) from group_permissions where permission = 'test.read'").await, 0);
    }

    #[tokio::test]
    async fn a_permission_that_this_version_does_not_have_is_shown_as_such_and_can_be_taken() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "editors").await;
        app.execute(
            "insert into group_permissions (group_id, permission) select id, 'old.news' from groups \
                     where name = 'editors'",
        )
        .await;
        for page in [PATH, &path] {
            ada.get(page).await.assert_contains("old.news, which this version of the site does not have");
        }
        save(&ada, &path, "editors", &["old.news"]).await.assert_redirect(&path);
        ada.get(PATH).await.assert_contains("old.news");
        save(&ada, &path, "editors", &[]).await.assert_redirect(&path);
        ada.get(PATH).await.assert_lacks("old.news");
        save(&ada, &path, "editors", &["old.news"]).await.assert_redirect(&path);
        ada.get(PATH).await.assert_lacks("old.news");
    }

    #[tokio::test]
    async fn the_group_of_administrators_stays_as_it_is_and_has_a_member() {
        let (app, ada) = app_of_ada().await;
        let bob = app.person("bob").await;
        let page = ada.get(ADMINS).await;
        page.assert_status(200).assert_contains("This group is built in.").assert_lacks("permission.");
        ada.get(PATH).await.assert_contains("Everything");
        save(&ada, ADMINS, "owners", &[]).await.assert_status(403).assert_contains("The group admin is built in.");
        save(&ada, ADMINS, "admin", &["groups.manage"]).await.assert_status(403);
        ada.post(&format!("{ADMINS}/delete"), &[])
            .await
            .assert_status(403)
            .assert_contains("The group admin is built in.");
        ada.get(&format!("{ADMINS}/delete")).await.assert_status(403);
        remove(&app, &ada, ADMINS, "ada").await.assert_status(409);
        add(&ada, ADMINS, "bob").await.assert_redirect(ADMINS);
        bob.get(PATH).await.assert_status(200);
        remove(&app, &ada, ADMINS, "ada").await.assert_redirect(ADMINS);
        ada.get(PATH).await.assert_status(404);
        remove(&app, &bob, ADMINS, "bob").await.assert_status(409);
        assert_eq!(app.count("select count(*) from group_permissions where permission = '*'").await, 1);
    }

    #[tokio::test]
    async fn of_two_administrators_who_remove_each_other_at_once_one_is_left() {
        for _ in 0..20 {
            let (app, ada) = app_of_ada().await;
            let bob = app.person("bob").await;
            app.make_admin("bob").await;
            tokio::join!(remove(&app, &ada, ADMINS, "bob"), remove(&app, &bob, ADMINS, "ada"));
            assert_eq!(app.count("select count(*) from user_groups where group_id = 'admin'").await, 1);
        }
    }

    #[tokio::test]
    async fn a_mistake_has_its_sentence_beside_its_field_and_what_was_typed_is_still_there() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "editors").await;
        let long = "a".repeat(41);
        for (name, sentence) in [
            ("", "Please choose a name for the group."),
            ("the editors", "only have letters from a to z, digits and hyphens."),
            (&*long, "at most 40 characters."),
            ("admin", "There is a group with this name already."),
        ] {
            let made = ada.post(PATH, &[("name", name)]).await;
            made.assert_status(422).assert_contains(sentence).assert_contains("id=\"name-error\"");
            let saved = save(&ada, &path, name, &["groups.manage"]).await;
            saved.assert_status(422).assert_contains(sentence).assert_contains("value=\"yes\" checked>");
            if !name.is_empty() {
                made.assert_contains(&format!("value=\"{name}\""));
                saved.assert_contains(&format!("value=\"{name}\""));
            }
        }
        for (name, sentence) in [
            ("", "Please choose a username."),
            ("a b", "A username can only have letters"),
            ("nobody", "There is nobody with the name nobody who may log in."),
        ] {
            let added = add(&ada, &path, name).await;
            added.assert_status(422).assert_contains(sentence).assert_contains("id=\"username-error\"");
        }
        ada.get(&format!("{path}/members")).await.assert_status(200).assert_contains("<h1>editors</h1>");
        add(&ada, "/admin/groups/none", "ada").await.assert_status(404);
        save(&ada, "/admin/groups/none", "name", &[]).await.assert_status(404);
        assert_eq!(app.count("select count(*) from group_permissions").await, 1);
    }

    #[tokio::test]
    async fn members_are_listed_fifty_a_page_and_counted_up_to_a_thousand() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "crowd").await;
        app.execute(
            "insert into users (id, username, created_at) \
                     with recursive n(i) as (select 10000 union all select i + 1 from n where i < 11000) \
                     select '0' || i, 'm' || i, 1 from n",
        )
        .await;
        app.execute(
            "insert into user_groups (user_id, group_id) select u.id, g.id from users u, groups g \
                     where u.username like 'm1%' and g.name = 'crowd'",
        )
        .await;
        ada.get(PATH).await.assert_contains("more than 1,000 members");
        let first = ada.get(&path).await;
        first.assert_contains("<strong>m11000</strong>");
        first.assert_contains("<strong>m10951</strong>").assert_lacks("m10950");
        let next = first.link("next");
        assert!(next.starts_with(&path), "{next}");
        let second = ada.get(&next).await;
        second
            .assert_contains("<strong>m10950</strong>")
            .assert_contains("<strong>m10901</strong>")
            .assert_lacks("m10951");
        app.execute("delete from user_groups where user_id = '011000'").await;
        ada.get(PATH).await.assert_contains("1000 members");
    }

    #[tokio::test]
    async fn a_large_group_is_deleted_in_steps_and_its_members_may_nothing_from_the_first() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "crowd").await;
        save(&ada, &path, "crowd", &["groups.manage"]).await.assert_redirect(&path);
        for _ in 0..7 {
            app.execute(
                "insert into users (id, username, created_at) \
                 with recursive n(i) as (select 100000 + count(*) from users union all select i + 1 from n) \
                 select 'u' || i, 'm' || i, 1 from n limit 1000",
            )
            .await;
            app.execute(
                "insert into user_groups (user_id, group_id) select u.id, g.id from users u, groups g \
                 where u.id like 'u%' and g.name = 'crowd' \
                 and not exists (select 1 from user_groups m where m.user_id = u.id)",
            )
            .await;
        }
        let id = path.rsplit('/').next().unwrap();
        let step = async || app.app.db.write(async |db| group::delete(db, id).await).await.unwrap();
        assert!(!step().await);
        assert_eq!(app.count("select count(*) from user_groups").await, 2_001);
        assert_eq!(app.count("select count(*) from group_permissions").await, 1);
        ada.post(&format!("{path}/delete"), &[]).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from user_groups").await, 1);
        assert_eq!(app.count("select count(*) from groups").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'group_deleted'").await, 1);
    }

    #[tokio::test]
    async fn there_is_room_for_a_hundred_groups() {
        let (app, ada) = app_of_ada().await;
        app.execute(
            "insert into groups (id, name, created_at) \
                     with recursive n(i) as (select 1 union all select i + 1 from n where i < 98) \
                     select 'g' || i, 'g' || i, 1 from n",
        )
        .await;
        let make = async |name| ada.post(PATH, &[("name", name)]).await.status;
        assert!(join_all(["one", "two", "three"].map(make)).await.contains(&303));
        assert_eq!(app.count("select count(*) from groups").await, 100);
        ada.post(PATH, &[("name", "four")]).await.assert_status(422).assert_contains("There are 100 groups");
    }

    #[tokio::test]
    async fn without_the_permission_the_pages_are_what_an_unknown_path_is() {
        let (app, ada) = app_of_ada().await;
        let bob = app.person("bob").await;
        app.grant("bob", "another.permission").await;
        let path = make(&ada, "editors").await;
        let paths =
            [PATH, &path, &format!("{path}/members"), &format!("{path}/members/remove"), &format!("{path}/delete")];
        for path in paths {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let kind = [("content-type", "application/x-www-form-urlencoded")];
                let refused = bob.send(method.clone(), path, &kind, "name=x&username=bob").await;
                let unknown = bob.send(method.clone(), "/admin/unknown", &kind, "name=x&username=bob").await;
                assert_eq!(refused.assert_status(404).text(), unknown.text(), "{method} {path}");
                let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
                assert_eq!(names(&refused), names(&unknown), "{method} {path}");
            }
        }
        bob.get("/test/account").await.assert_lacks("Groups");
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Fadmin%2Fgroups");
        assert_eq!(app.count("select count(*) from groups").await, 2);
        ada.get("/test/account").await.assert_contains("Groups · 2 · Manage\n");
    }

    #[tokio::test]
    async fn an_old_log_in_changes_no_group() {
        let (app, ada) = app_of_ada().await;
        let path = make(&ada, "editors").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in
            [PATH, &path, &format!("{path}/members"), &format!("{path}/members/remove"), &format!("{path}/delete")]
        {
            ada.post(path, &[("name", "other"), ("username", "ada")]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        assert_eq!(app.count("select count(*) from groups where name in ('admin', 'editors')").await, 2);
    }
}
