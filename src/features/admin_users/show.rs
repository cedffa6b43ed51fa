//! The page of one person: what belongs to the account, and buttons for what can be done about it.

use super::list::{self, Person};
use super::request::UserRequest;
use crate::accounts::address::{self, Addresses};
use crate::accounts::event::{self, ShownEvent};
use crate::accounts::session::listed::{self, ListedSession};
use crate::accounts::{Permissions, group, group::Group};
use crate::base::Result;
use crate::db::{AFTER_ALL_IDS, Connection};
use crate::web::{App, FactorCounts, Page, Template, files};
use axum::response::Response;
use serde::Serialize;

/// How many events are listed.
const EVENTS: i64 = 20;

#[derive(Serialize)]
struct UserPage {
    person: Person,
    /// Whether it is the account of the administrator who looks at it.
    own: bool,
    /// Whether they may do all that the person may.
    may_change: bool,
    addresses: Addresses,
    has_password: bool,
    factors: Vec<OwnFactor>,
    /// Whether the site can mail a link to choose a password.
    sends_resets: bool,
    sessions: Vec<ListedSession>,
    groups: Vec<Membership>,
    /// In words.
    permissions: Vec<String>,
    events: Vec<ShownEvent>,
}

impl Template for UserPage {
    const FILE: &'static str = files::ADMIN_USERS_SHOW;
}

#[derive(Serialize)]
struct OwnFactor {
    name: &'static str,
    label: &'static str,
    count: i64,
}

#[derive(Serialize)]
struct Membership {
    group: Group,
    is_member: bool,
    /// Whether the administrator may do all that its members may.
    may_change: bool,
}

pub async fn show(request: UserRequest, page: Page) -> Result<Response> {
    page.render(&request.app.db.read(async |db| find(&request, db).await).await?).await
}

async fn find(request: &UserRequest, db: &mut Connection) -> Result<UserPage> {
    let UserRequest { app, administrator, id } = request;
    let person = list::find(db, id).await?;
    let (own, theirs) = (administrator.permissions(), Permissions::of_user(db, id).await?);
    let counts = FactorCounts::of_user(app, db, id).await?;
    let factors = app.features.factors.iter().filter(|factor| counts.get(factor.name) > 0);
    let events = event::newest(db, id, AFTER_ALL_IDS, EVENTS).await?;
    Ok(UserPage {
        own: request.is_own(),
        may_change: own.cover(&theirs),
        addresses: address::of_user(db, id).await?,
        has_password: counts.has_password(),
        factors: factors.map(|&f| OwnFactor { name: f.name, label: f.label, count: counts.get(f.name) }).collect(),
        sends_resets: request.sends_resets(),
        sessions: listed::of_user(db, &app.config, id).await?,
        groups: memberships(db, own, id).await?,
        permissions: in_words(app, &theirs),
        events: events.into_iter().map(|event| ShownEvent::new(event, &app.features.events)).collect(),
        person,
    })
}

async fn memberships(db: &mut Connection, own: &Permissions, user_id: &str) -> Result<Vec<Membership>> {
    let (joined, covered) = (group::of_user(db, user_id).await?, group::all_covered(db, own).await?);
    let membership =
        |group| Membership { is_member: joined.contains(&group), may_change: covered.contains(&group), group };
    Ok(group::all(db).await?.into_iter().map(membership).collect())
}

fn in_words(app: &App, permissions: &Permissions) -> Vec<String> {
    let known = &app.features.permissions;
    let words = |name| known.iter().find(|known| known.name == name).map_or(name, |known| known.words);
    permissions.names().map(|name| if name == "*" { "Everything" } else { words(name) }.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::list::person;
    use super::*;
    use crate::test::{TestApp, check};

    #[test]
    fn its_page_renders() {
        let factor = |count| OwnFactor { name: "code", label: "Authenticator app", count };
        let session = || ListedSession {
            id: "0190".into(),
            device: "Firefox on Linux".into(),
            address: "127.0.0.1".into(),
            began: 1,
            seen: 1,
        };
        let membership = |is_member, may_change| {
            let id = if is_member { "0191".into() } else { "0192".into() };
            Membership { group: Group { id, name: "staff".into() }, is_member, may_change }
        };
        let event = |device: Option<&str>| ShownEvent {
            words: "Logged in".into(),
            at: 1,
            device: device.map(String::from),
            address: device.map(|_| "127.0.0.1".into()),
        };
        let full = || UserPage {
            person: person(false, false),
            own: false,
            may_change: true,
            addresses: Addresses {
                confirmed: Some("ada@example.com".into()),
                pending: Some("ada@xn--strae-oqa.de".into()),
            },
            has_password: true,
            factors: vec![factor(1), factor(2)],
            sends_resets: true,
            sessions: vec![session(), session()],
            groups: vec![membership(true, true), membership(false, false)],
            permissions: vec!["Everything".into(), "notes.read".into()],
            events: vec![event(Some("Firefox on Linux")), event(None)],
        };
        let empty = || UserPage {
            addresses: Addresses::default(),
            has_password: false,
            factors: vec![],
            sessions: vec![],
            permissions: vec![],
            events: vec![],
            ..full()
        };
        check(&[
            full(),
            empty(),
            UserPage { own: true, ..full() },
            UserPage { may_change: false, ..full() },
            UserPage { person: person(true, false), sends_resets: false, ..empty() },
            UserPage { sends_resets: false, ..empty() },
        ]);
    }

    #[tokio::test]
    async fn the_page_of_a_person_has_what_belongs_to_the_account() {
        let app = TestApp::new().await;
        let (boss, _ada) = (app.person("boss").await, app.person("ada").await);
        app.make_admin("boss").await;
        app.confirm_address("ada", "ada@example.com").await;
        app.execute(
            "insert into addresses (user_id, email) select id, 'new@example.com' from users where username = 'ada'",
        )
        .await;
        app.grant("ada", "users.manage").await;
        app.grant("ada", "gone.read").await;
        app.execute("insert into groups (id, name, created_at) values ('s', 'staff', 1)").await;
        app.execute("insert into user_groups (user_id, group_id) select id, 's' from users where username = 'ada'")
            .await;
        app.execute(
            "update sessions set device = 'Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0', address = '192.0.2.7'",
        )
        .await;
        let page = boss.get(&format!("/admin/users/{}", app.user("ada").await)).await;
        page.assert_status(200).assert_contains("<h1>ada</h1>").assert_contains("Joined ");
        page.assert_contains("ada@example.com</strong> <span class=\"mark\">Confirmed")
            .assert_contains("new@example.com");
        page.assert_contains("<strong>Password</strong><span class=\"hint\"><span>Set");
        page.assert_contains("Firefox on Linux").assert_contains("192.0.2.7").assert_contains("last seen");
        page.assert_contains("name=\"group.s\" checked> staff").assert_contains("name=\"group.admin\"> admin");
        page.assert_contains("See and change other people&#39;s accounts");
        page.assert_contains("gone.read").assert_contains("Signed up").assert_contains("Delete account…");
    }

    #[tokio::test]
    async fn the_page_lists_twenty_events_and_sessions_that_have_not_expired() {
        let app = TestApp::new().await;
        let (boss, _ada) = (app.person("boss").await, app.person("ada").await);
        app.make_admin("boss").await;
        let id = app.user("ada").await;
        for _ in 0..25 {
            app.disable("ada").await;
            app.execute("update users set disabled_at = null").await;
        }
        let page = boss.get(&format!("/admin/users/{id}")).await;
        assert_eq!(page.text().matches("An administrator disabled your account").count(), 20);
        page.assert_contains("Not logged in anywhere");
        app.browser_of("ada").await;
        boss.get(&format!("/admin/users/{id}")).await.assert_contains("last seen");
        app.execute("update sessions set seen_at = 0, created_at = 0 where user_id <> (select id from users where username = 'boss')")
            .await;
        boss.get(&format!("/admin/users/{id}")).await.assert_contains("Not logged in anywhere");
    }

    #[tokio::test]
    async fn who_may_do_more_is_shown_without_buttons() {
        let app = TestApp::new().await;
        let (zoe, _boss) = (app.person("zoe").await, app.person("boss").await);
        app.make_admin("boss").await;
        app.grant("zoe", "users.manage").await;
        let page = zoe.get(&format!("/admin/users/{}", app.user("boss").await)).await;
        page.assert_status(200).assert_contains("has permissions that you do not have").assert_contains("Everything");
        page.assert_lacks("Log out everywhere").assert_lacks("Disable account").assert_lacks("Save groups");
        // The groups that zoe may not give are there, and cannot be changed.
        let own = zoe.get(&format!("/admin/users/{}", app.user("zoe").await)).await;
        own.assert_contains("name=\"group.admin\" disabled")
            .assert_contains(">You</span>")
            .assert_lacks("Delete account…");
        zoe.get("/admin/users/nobody").await.assert_status(404);
    }
}
