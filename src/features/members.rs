//! Who is here: the list of members and a page for each.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::form::query_parameter;
use crate::page::{ONE_MORE, Page, Template, date, next_page, templates};
use crate::user::{self, Username};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/me", Access::User, me).get("/users", Access::User, index).get(
        "/user/{username}",
        Access::User,
        show,
    );
    Ok(Feature { routes, ..Feature::named("members") })
}

#[derive(Serialize)]
struct Member {
    username: String,
    joined: String,
}

impl From<user::Member> for Member {
    fn from(member: user::Member) -> Member {
        Member { username: member.username, joined: date(member.created_at) }
    }
}

#[derive(Serialize)]
struct MembersPage {
    members: Vec<Member>,
    /// The id after which the next page begins.
    next: Option<String>,
}

impl Template for MembersPage {
    const FILE: &'static str = templates::MEMBERS_INDEX;
}

#[derive(Serialize)]
struct MemberPage {
    member: Member,
    own: bool,
}

impl Template for MemberPage {
    const FILE: &'static str = templates::MEMBERS_SHOW;
}

async fn me(user: User) -> Response {
    see_other(&format!("/user/{}", user.username))
}

async fn index(State(app): State<App>, page: Page, RawQuery(query): RawQuery) -> Result<Response> {
    let after = query_parameter(query.as_deref(), "after");
    let mut members = app.db.read(async |db| user::members(db, after.as_deref(), ONE_MORE).await).await?;
    let next = next_page(&mut members, |member| &member.id);
    page.show(&MembersPage { members: members.into_iter().map(Member::from).collect(), next }).await
}

async fn show(
    State(app): State<App>,
    user: User,
    page: Page,
    Path(username): Path<String>,
) -> Result<Response> {
    let username = Username::parse(&username).map_err(|_| Error::NOT_FOUND)?;
    let member = app.db.read(async |db| user::member(db, &username).await).await?.ok_or(Error::NOT_FOUND)?;
    let own = member.id == user.id;
    page.show(&MemberPage { member: member.into(), own }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::TestApp;

    #[test]
    fn its_pages_render() {
        let ada = || Member { username: "ada".into(), joined: "10 December 1815".into() };
        check(&[
            MembersPage { members: vec![ada(), ada()], next: Some("0190".into()) },
            MembersPage { members: vec![], next: None },
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
        let next = first.link("next");
        let second = reader.get(&next).await;
        second.assert_status(200).assert_contains("/user/member01").assert_contains("/user/member00");
        second.assert_lacks("/user/member02").assert_lacks("rel=\"next\"");
        reader.get("/users?after=%00").await.assert_status(404);
        reader.get("/users?after=nonsense").await.assert_status(200);
    }

    #[tokio::test]
    async fn a_member_has_a_page_and_nobody_has_none() {
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
    async fn strangers_see_no_members() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let stranger = app.visitor();
        stranger.get("/users?after=1").await.assert_redirect("/login?next=%2Fusers%3Fafter%3D1");
        stranger.get("/user/ada").await.assert_redirect("/login?next=%2Fuser%2Fada");
        stranger.get("/user/nobody").await.assert_redirect("/login?next=%2Fuser%2Fnobody");
        stranger.get("/me").await.assert_redirect("/login?next=%2Fme");
    }
}
