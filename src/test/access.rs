//! A walk over all routes, as everybody who may come: who gets in, and who does not.

use super::{Answer, PASSWORD, SECOND_FACTOR, TestApp, Visitor};
use crate::accounts::permission::Permission;
use crate::base::env::Env;
use crate::cli::routes::lines;
use crate::features::{self, Feature};
use crate::web::routes::{Access, Route, Routes};
use axum::http::Method;
use std::collections::BTreeMap;

/// What `latchkey routes` prints, without the files of `public/`. Whoever changes who may enter where changes this file too,
/// so that a reviewer sees it.
const REVIEWED: &str = include_str!("routes.txt");

#[test]
fn who_may_enter_each_route_has_been_reviewed() {
    let features = features::all(&Env::default()).unwrap();
    let printed: Vec<String> = features.iter().flat_map(lines).collect();
    let is_built = |line: &&str| features.iter().any(|feature| line.split(' ').next_back() == Some(feature.name));
    let reviewed: Vec<&str> = REVIEWED.lines().filter(is_built).collect();
    assert_eq!(printed, reviewed, "src/test/routes.txt (right) must have what `latchkey routes` prints (left)");
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    LetIn,
    SentToLogIn,
    /// Sent home from a page for guests.
    SentHome,
    /// Answered as if there were no such path.
    Hidden,
}
use Outcome::{Hidden, LetIn, SentHome, SentToLogIn};

/// An answer without what differs from one request to the next.
fn comparable(answer: &Answer) -> (u16, Vec<(String, Vec<u8>)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "server-timing");
    let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    (answer.status, headers, answer.text())
}

async fn outcome(visitor: &Visitor, method: &Method, path: &str) -> Outcome {
    let unknown = visitor.copy().send(method.clone(), "/admin/nowhere", &[], "").await;
    let answer = visitor.copy().send(method.clone(), path, &[], "").await;
    let location = answer.headers.get("location").map(|location| location.to_str().unwrap().to_string());
    match location.as_deref() {
        Some(to) if to == "/login" || to.starts_with("/login?next=") => SentToLogIn,
        Some("/") if *method == Method::GET => SentHome,
        _ if comparable(&answer) == comparable(&unknown) => Hidden,
        _ => LetIn,
    }
}

/// A site on which every log-in with a password alone waits for a second factor, and one route needs a permission.
async fn site() -> (TestApp, Vec<(Method, String, Access)>) {
    const READ: Permission = Permission::named("test.read", "Read what is secret");
    let mut walked = Vec::new();
    let app = TestApp::with_features(&[], |features| {
        let routes = Routes::new()
            .get("/second", Access::PendingLogin, async || "the second factor")
            .get("/secret", Access::Can(READ), async || "a secret")
            .post("/secret", Access::Can(READ), async || "a secret");
        features.push(Feature {
            routes,
            factor: Some(SECOND_FACTOR),
            login_path: Some("/login"),
            confirm_path: Some("/confirm"),
            ..Feature::named("test")
        });
        let routes = features.iter().flat_map(|feature| feature.routes.iter());
        walked = routes.map(|route| (route.method.clone(), route.example_path(), route.access)).collect();
    });
    (app.await, walked)
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_shows_others_nothing() {
    let (app, routes) = site().await;
    for name in ["ada", "grace", "eve", "mary", "root"] {
        app.person(name).await;
    }
    app.make_admin("root").await;
    app.grant("mary", "something.else").await;
    let disabled = app.browser_of("eve").await;
    app.disable("eve").await;
    let mut wrong = Vec::new();
    for (method, path, access) in &routes {
        let half_way = app.visitor();
        half_way.post("/test/log-in", &[("username", "ada"), ("password", PASSWORD)]).await;
        if let Access::Can(permission) = access {
            app.execute("delete from user_permissions where permission <> 'something.else'").await;
            app.grant("grace", permission.name).await;
        }
        let stranger = match access {
            Access::Public | Access::Guest => LetIn,
            _ => SentToLogIn,
        };
        let user = |can: Outcome| match access {
            Access::Can(_) => can,
            Access::Guest if *method == Method::GET => SentHome,
            Access::PendingLogin => SentToLogIn,
            _ => LetIn,
        };
        let half = if *access == Access::PendingLogin { LetIn } else { stranger_again(access) };
        for (who, visitor, expected) in [
            ("a stranger", app.visitor(), stranger),
            ("half-way", half_way, half),
            ("disabled", disabled.copy(), stranger_again(access)),
            ("a user", app.browser_of("ada").await, user(Hidden)),
            ("with another permission", app.browser_of("mary").await, user(Hidden)),
            ("with the permission", app.browser_of("grace").await, user(LetIn)),
            ("an administrator", app.browser_of("root").await, user(LetIn)),
        ] {
            let found = outcome(&visitor, method, path).await;
            // A public page may lead home, or say that there is nothing at a made-up address.
            let is_public = matches!(access, Access::Public) && found != SentToLogIn;
            // A factor's own page is for those who have that factor.
            let is_pending = *access == Access::PendingLogin && path != "/second";
            if is_pending {
                continue;
            }
            if found != expected && !is_public && !(expected == LetIn && found == SentHome) {
                wrong.push(format!("{method} {path}, {who}: {found:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(routes.len() > 5);
}

/// What happens to whoever is not logged in.
fn stranger_again(access: &Access) -> Outcome {
    if matches!(access, Access::Public | Access::Guest) { LetIn } else { SentToLogIn }
}

/// Fields that no form has for whoever sends them, with the id of somebody else.
fn forged(other: &str) -> BTreeMap<&'static str, String> {
    let admin = ["role", "group", "groups", "is_admin", "admin", "permission", "group.admin", "permission.*"];
    let mut fields: BTreeMap<_, _> = admin.into_iter().map(|name| (name, "admin".to_string())).collect();
    fields.extend(["user_id", "id", "actor_id", "owner"].map(|name| (name, other.to_string())));
    fields.extend(["disabled_at", "confirmed_at", "factors"].map(|name| (name, "1".to_string())));
    fields
}

/// What the forms of the site ask for.
const ASKED: [(&str, &str); 8] = [
    ("username", "lovelace"),
    ("email", "lovelace@example.com"),
    ("current_password", PASSWORD),
    ("password", PASSWORD),
    ("confirm_password", PASSWORD),
    ("text", "A note"),
    ("name", "lovelace"),
    ("theme", "dark"),
];

#[tokio::test]
async fn a_field_that_a_form_does_not_have_changes_nothing_for_its_sender_or_anybody_else() {
    let app = TestApp::new().await;
    app.person("root").await;
    app.make_admin("root").await;
    app.person("other").await;
    app.confirm_address("other", "other@example.com").await;
    let other = app.user("other").await;
    let forged = forged(&other);
    let features = features::all(&Env::default()).unwrap();
    let posts = features.iter().flat_map(|feature| feature.routes.iter()).filter(|route| route.method == Method::POST);
    for (number, path) in posts.map(Route::example_path).enumerate() {
        let name = format!("user{number}");
        let user = app.person(&name).await;
        let manager = format!("manager{number}");
        let one_permission = app.person(&manager).await;
        app.grant(&manager, "users.manage").await;
        for visitor in [app.visitor(), user, one_permission] {
            let mut fields: Vec<(&str, &str)> = forged.iter().map(|(name, value)| (*name, &**value)).collect();
            fields.extend(ASKED);
            if visitor.post(&path, &fields).await.status == 415 {
                let json = serde_json::to_vec(&fields.into_iter().collect::<BTreeMap<_, _>>()).unwrap();
                visitor.post_body(&path, Some("application/json"), &json).await;
            }
        }
    }
    for (rows, sql) in [
        (
            "who is in a group",
            "select count(*) from user_groups where user_id <> (select id from users where username = 'root')",
        ),
        ("what was granted", "select count(*) from user_permissions where permission <> 'users.manage'"),
        ("what groups may do", "select count(*) from group_permissions where group_id <> 'admin'"),
        ("who is disabled", "select count(*) from users where disabled_at is not null"),
    ] {
        assert_eq!(app.count(sql).await, 0, "{rows}");
    }
    assert_eq!(app.count("select count(*) from user_groups").await, 1);
    app.browser_of("other").await.assert_is("other").await;
    assert!(app.is_password_of("other", PASSWORD).await);
    assert_eq!(
        app.count("select count(*) from addresses where email = 'other@example.com' and confirmed_at > 1").await,
        1
    );
}
