//! Members: a list of all users, and a page for each.

use super::feature::Feature;
use crate::accounts::{User, Username};
use crate::base::{Env, Error, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow};
use crate::web::{
    Access, AccountGroup, AccountRow, App, List, ListQuery, ONE_MORE, Page, Query, Redirect, Routes, RowState,
    Template, files, redirect,
};
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;
use sqlx::{FromRow, Row};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/me", Access::User, me).get("/users", Access::User, index).get(
        "/user/{username}",
        Access::User,
        show,
    );
    Ok(Feature { routes, account_row: Some(ROW), ..Feature::named("members") })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Profile, 3, "Public page", "/me", |_, _| {
    RowState::fixed("What other members see", "View")
});

/// A user as other users see them.
#[derive(Serialize)]
struct Member {
    id: String,
    username: String,
    joined: i64,
}

impl FromRow<'_, DbRow> for Member {
    fn from_row(row: &DbRow) -> sqlx::Result<Member> {
        let (id, username) = (row.try_get("id")?, row.try_get("username")?);
        Ok(Member { id, username, joined: row.try_get("created_at")? })
    }
}

#[derive(Serialize)]
struct MembersPage {
    members: List<Member>,
}

impl Template for MembersPage {
    const FILE: &'static str = files::MEMBERS_INDEX;
}

#[derive(Serialize)]
struct MemberPage {
    member: Member,
    own: bool,
}

impl Template for MemberPage {
    const FILE: &'static str = files::MEMBERS_SHOW;
}

async fn me(user: User) -> Redirect {
    redirect(&format!("/user/{}", user.username))
}

async fn index(State(app): State<App>, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let members = app.db.read(async |db| newest(db, query.after(AFTER_ALL_IDS)).await).await?;
    let members = List::new(members, &query, |member| &member.id);
    page.render(&MembersPage { members }).await
}

async fn show(State(app): State<App>, user: User, page: Page, Path(username): Path<String>) -> Result<Response> {
    let username = Username::parse(&username).map_err(|_| Error::NOT_FOUND)?;
    let member = app.db.read(async |db| find(db, &username).await).await?;
    let own = member.id == user.id;
    page.render(&MemberPage { member, own }).await
}

/// The users who came before the one with the id `after`, newest first.
async fn newest(db: &mut Connection, after: &str) -> Result<Vec<Member>> {
    let sql = "select id, username, created_at from users \
               where id < $1 and disabled_at is null order by id desc limit $2";
    Ok(sqlx::query_as(sql).bind(after).bind(ONE_MORE).fetch_all(db).await?)
}

async fn find(db: &mut Connection, username: &Username) -> Result<Member> {
    let sql = "select id, username, created_at from users where username = $1 and disabled_at is null";
    sqlx::query_as(sql).bind(username.as_str()).fetch_optional(db).await?.ok_or(Error::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, check};

    #[test]
    fn its_pages_render() {
        let ada = || Member { id: "0190".into(), username: "ada".into(), joined: 1_777_629_600 };
        check(&[
            MembersPage {
                members: List { rows: vec![ada(), ada()], previous: Some("".into()), next: Some("?after=0190".into()) },
            },
            MembersPage { members: List { rows: vec![], previous: None, next: None } },
        ]);
        check(&[MemberPage { member: ada(), own: true }, MemberPage { member: ada(), own: false }]);
    }

    #[tokio::test]
    async fn members_are_listed_newest_first_fifty_a_page() {
        let app = TestApp::new().await;
        for number in 0..51 {
            app.person(&format!("member{number:02}")).await;
        }
        let reader = app.person("reader").await;
        let first = reader.get("/users").await;
        first.assert_status(200).assert_contains("/user/member50").assert_lacks("/user/member01");
        first.assert_contains(">Older</a>").assert_lacks("rel=\"prev\"");
        let next = first.link("next");
        let second = reader.get(&next).await;
        second.assert_status(200).assert_contains("/user/member01").assert_contains("/user/member00");
        second.assert_lacks("/user/member02").assert_lacks("rel=\"next\"");
        second.assert_contains(">Newer</a>");
        assert_eq!(second.link("prev"), "/users");
        reader.get("/users?after=%00").await.assert_status(404);
        reader.get("/users?after=nonsense").await.assert_status(200);
    }

    #[tokio::test]
    async fn a_member_has_a_page_and_an_unknown_name_is_not_found() {
        let app = TestApp::new().await;
        app.person("bob").await;
        let ada = app.person("ada").await;
        ada.get("/user/bob").await.assert_status(200).assert_contains("<h1>bob</h1>");
        ada.get("/user/BOB").await.assert_status(200);
        for nobody in ["/user/carol", "/user/bo%62b", "/user/%00", "/user/a%20b", "/user/..%2f..%2fetc"] {
            ada.get(nobody).await.assert_status(404);
        }
        ada.get("/user/%ff").await.assert_status(400).assert_lacks("UTF-8");
        ada.get("/me").await.assert_redirect("/user/ada");
    }

    #[tokio::test]
    async fn a_disabled_user_is_not_listed_and_has_no_page() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/users").await.assert_contains("/user/bob");
        app.execute("update users set disabled_at = 1 where username = 'bob'").await;
        ada.get("/users").await.assert_status(200).assert_contains("/user/ada").assert_lacks("bob");
        ada.get("/user/bob").await.assert_status(404).assert_lacks("bob");
    }

    #[tokio::test]
    async fn visitors_see_no_members() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let visitor = app.visitor();
        visitor.get("/users?after=1").await.assert_redirect("/login?next=%2Fusers%3Fafter%3D1");
        visitor.get("/user/ada").await.assert_redirect("/login?next=%2Fuser%2Fada");
        visitor.get("/user/nobody").await.assert_redirect("/login?next=%2Fuser%2Fnobody");
        visitor.get("/me").await.assert_redirect("/login?next=%2Fme");
    }
}
