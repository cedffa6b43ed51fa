//! [`Administrator`]: somebody who has the permission that a route asks for, and changes what belongs to others.

use super::{app::App, auth::AuthState, client::client};
use crate::accounts::session::lifecycle;
use crate::accounts::{Actor, Permission, Permissions, Session, User, disabling, permission};
use crate::base::{Error, Result};
use crate::db::Connection;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// The permission by which a request was let in, and all that its user may do.
#[derive(Clone)]
pub struct Granted {
    pub permission: Permission,
    pub permissions: Permissions,
}

/// As an argument of a handler whose route has `Access::Can`.
pub struct Administrator {
    app: App,
    pub session: Session,
    /// Who they are, for events.
    pub actor: Actor,
    granted: Granted,
}

impl FromRequestParts<App> for Administrator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Administrator> {
        let granted = parts.extensions.get().cloned().ok_or(Error::NOT_FOUND)?;
        let session = AuthState::of(parts).session().await?.cloned().ok_or(Error::NOT_FOUND)?;
        let client = client(&app.config, &parts.extensions, &parts.headers);
        let actor = Actor { user_id: Some(session.user.id.clone()), client };
        Ok(Administrator { app: app.clone(), session, actor, granted })
    }
}

const MAY_DO_MORE: &str = "This person has permissions that you do not have, so you cannot change their account.";
const GIVES_MORE: &str = "You can only give or take permissions that you have yourself.";

impl Administrator {
    /// What they may do.
    pub fn permissions(&self) -> &Permissions {
        &self.granted.permissions
    }

    /// Changes something in one transaction. It gets what the administrator may do at this moment, which does not change
    /// until the transaction ends, and nor does who the administrators of the site are.
    ///
    /// # Errors
    /// [`Error::NOT_FOUND`] when the administrator has been logged out in the meantime, [`Error::Hidden`] when they have lost
    /// the permission.
    pub async fn change<T>(&self, change: impl AsyncFnOnce(&mut Connection, &Permissions) -> Result<T>) -> Result<T> {
        let change = async |db: &mut Connection| {
            permission::lock_admins(db).await?;
            lifecycle::lock(db, &self.session).await?;
            let own = Permissions::of_user(db, &self.session.user.id).await?;
            if !own.has(self.granted.permission) {
                return Err(Error::Hidden);
            }
            change(db, &own).await
        };
        self.app.db.write(change).await
    }

    /// As [`Administrator::change`], for the account of the user with this id, whose row is locked.
    ///
    /// # Errors
    /// Also [`Error::NOT_FOUND`] when there is no such user, and [`Error::Forbidden`] when the user may do something that the
    /// administrator may not.
    pub async fn change_user<T>(
        &self,
        user_id: &str,
        change: impl AsyncFnOnce(&mut Connection, &User, &Permissions) -> Result<T>,
    ) -> Result<T> {
        let change = async |db: &mut Connection, own: &Permissions| {
            let user = disabling::lock_any(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
            if !own.cover(&Permissions::of_user(db, user_id).await?) {
                return Err(Error::Forbidden(MAY_DO_MORE));
            }
            change(db, &user, own).await
        };
        self.change(change).await
    }
}

/// Checks that somebody who may do `own` may give or take what allows `others`.
///
/// # Errors
/// [`Error::Forbidden`] otherwise.
pub fn require_cover(own: &Permissions, others: &Permissions) -> Result<()> {
    if own.cover(others) { Ok(()) } else { Err(Error::Forbidden(GIVES_MORE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Event;
    use crate::accounts::event::{self, Cause};
    use crate::features::Feature;
    use crate::test::{Answer, SECOND_FACTOR, TestApp, Visitor};
    use crate::web::{Access, Empty, Form, Routes};
    use axum::extract::{Path, State};
    use axum::http::Method;

    const NUDGE: Permission = Permission::named("test.nudge", "Nudge people");
    const NUDGED: Event = Event::named("nudged", "An administrator nudged you").caused_by(Cause::Administrator);

    async fn list() -> &'static str {
        "everybody who was nudged"
    }

    async fn nudge(administrator: Administrator, Path(id): Path<String>, _: Form<Empty>) -> Result<String> {
        let nudge = async |db: &mut Connection, user: &User, _: &Permissions| {
            event::record(db, &*user.id, NUDGED.by_actor(&administrator.actor)).await?;
            Ok(user.username.clone())
        };
        administrator.change_user(&id, nudge).await
    }

    async fn lose_it(State(app): State<App>, administrator: Administrator, _: Form<Empty>) -> Result<&'static str> {
        let take = async |db: &mut Connection| Ok(sqlx::query("delete from user_permissions").execute(db).await?);
        app.db.write(take).await?;
        administrator.change(async |_, _| Ok("still allowed")).await
    }

    fn feature() -> Feature {
        let routes = Routes::new()
            .get("/nudges", Access::Can(NUDGE), list)
            .post("/nudges/{id}", Access::Can(NUDGE), nudge)
            .post("/lose-it", Access::Can(NUDGE), lose_it);
        Feature { routes, events: &[NUDGED], permissions: &[NUDGE], ..Feature::named("test") }
    }

    async fn app() -> TestApp {
        TestApp::with_feature(&[], feature()).await
    }

    /// Everything that can be told from an answer, apart from the time it took.
    fn all_of(answer: &Answer) -> String {
        let mut headers: Vec<_> = answer.headers.iter().filter(|(name, _)| *name != "server-timing").collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        format!("{} {headers:?} {}", answer.status, answer.text())
    }

    #[tokio::test]
    async fn without_the_permission_a_page_is_byte_for_byte_what_an_unknown_path_is() {
        let app = app().await;
        let ada = app.person("ada").await;
        let large = [("content-length", "1000000")];
        let malformed = [("content-type", "text/csv"), ("sec-fetch-site", "same-origin")];
        for (method, headers) in [
            (Method::GET, &[][..]),
            (Method::HEAD, &[]),
            (Method::POST, &[]),
            (Method::POST, &large),
            (Method::POST, &malformed),
            (Method::PUT, &[]),
            (Method::DELETE, &[]),
            (Method::OPTIONS, &[]),
        ] {
            for (path, unknown) in
                [("/nudges", "/nowhere"), ("/nudges/1", "/nowhere/1"), ("/lose-it?x=1", "/unknown?x=1")]
            {
                let hidden = ada.send(method.clone(), path, headers, "").await;
                let nothing = ada.send(method.clone(), unknown, headers, "").await;
                assert_eq!(all_of(&hidden), all_of(&nothing), "{method} {path}");
                assert_eq!(hidden.status, 404, "{method} {path}");
            }
        }
        let stranger = app.visitor();
        stranger.get("/nudges").await.assert_redirect("/login?next=%2Fnudges");
        stranger.post("/nudges/1", &[]).await.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn what_is_given_or_taken_acts_at_the_next_request() {
        let app = app().await;
        let ada = app.person("ada").await;
        ada.get("/nudges").await.assert_status(404);
        app.grant("ada", NUDGE.name).await;
        ada.get("/nudges").await.assert_status(200);
        app.execute("delete from user_permissions").await;
        ada.get("/nudges").await.assert_status(404);
        app.make_admin("ada").await;
        ada.get("/nudges").await.assert_status(200);
        ada.send(Method::PUT, "/nudges", &[], "").await.assert_status(404);
    }

    #[tokio::test]
    async fn a_page_that_needs_a_permission_costs_one_statement_more_than_any_other() {
        let app = app().await;
        let ada = app.person("ada").await;
        app.grant("ada", NUDGE.name).await;
        ada.get("/private").await;
        let before = app.statements();
        ada.get("/private").await.assert_status(200);
        let other = app.statements() - before;
        ada.get("/nudges").await.assert_status(200);
        assert_eq!((other, app.statements() - before), (1, 3));
    }

    /// Somebody who has logged in with one factor.
    async fn one_factor(app: &TestApp, ada: &Visitor) {
        ada.get("/private").await.assert_status(200);
        app.execute("update sessions set factors = 1, confirmed_factors = 1").await;
    }

    #[tokio::test]
    async fn who_may_do_more_than_others_needs_a_second_factor_first_and_then_a_recent_log_in() {
        let policy = |value: &'static str| async move {
            let feature = Feature { factor: Some(SECOND_FACTOR), ..feature() };
            let app = TestApp::with_feature(&[("REQUIRE_TWO_FACTOR", value)], feature).await;
            let ada = app.person("ada").await;
            app.grant("ada", NUDGE.name).await;
            app.execute("update sessions set confirmed_at = 0").await;
            (app, ada)
        };
        let (app, ada) = policy("admins").await;
        let id = app.user("ada").await;
        one_factor(&app, &ada).await;
        for answer in [ada.get("/nudges").await, ada.post(&format!("/nudges/{id}"), &[]).await] {
            answer.assert_redirect("/set-up");
        }
        // Only what needs a permission is closed.
        ada.get("/private").await.assert_status(200);
        app.execute("update sessions set factors = 2").await;
        ada.get("/nudges").await.assert_status(200);
        ada.post(&format!("/nudges/{id}"), &[]).await.assert_redirect("/confirm?next=%2Faccount");
        assert_eq!(app.count("select count(*) from events where kind = 'nudged'").await, 0);
        let (app, ada) = policy("none").await;
        one_factor(&app, &ada).await;
        ada.get("/nudges").await.assert_status(200);
    }

    #[tokio::test]
    async fn nobody_acts_on_a_person_who_may_do_more() {
        let app = app().await;
        let ada = app.person("ada").await;
        for name in ["grace", "mary", "root"] {
            app.person(name).await;
        }
        app.grant("ada", NUDGE.name).await;
        app.grant("grace", NUDGE.name).await;
        app.grant("mary", "something.else").await;
        app.make_admin("root").await;
        for (name, status) in [("ada", 200), ("grace", 200), ("mary", 403), ("root", 403)] {
            let answer = ada.post(&format!("/nudges/{}", app.user(name).await), &[]).await;
            answer.assert_status(status);
            if status == 403 {
                answer.assert_contains("This person has permissions that you do not have");
            }
        }
        ada.post("/nudges/1", &[]).await.assert_status(404);
        let root = app.browser_of("root").await;
        for name in ["ada", "mary", "root"] {
            root.post(&format!("/nudges/{}", app.user(name).await), &[]).await.assert_status(200).assert_body(name);
        }
    }

    #[tokio::test]
    async fn an_event_says_who_did_it_and_its_owner_does_not_learn_from_where() {
        let app = app().await;
        let root = app.person("root").await;
        app.make_admin("root").await;
        app.person("ada").await;
        root.post(&format!("/nudges/{}", app.user("ada").await), &[]).await.assert_status(200);
        let recorded = "select count(*) from events e join users a on a.id = e.actor_id join users u on u.id = e.user_id \
                        where e.kind = 'nudged' and a.username = 'root' and u.username = 'ada' \
                        and e.address is null and e.device is null";
        assert_eq!(app.count(recorded).await, 1);
    }

    #[tokio::test]
    async fn whoever_loses_the_permission_or_the_session_while_a_request_runs_changes_nothing() {
        let app = app().await;
        let ada = app.person("ada").await;
        let id = app.user("ada").await;
        app.grant("ada", NUDGE.name).await;
        ada.post("/lose-it", &[]).await.assert_status(404);
        app.grant("ada", NUDGE.name).await;
        let path = format!("/nudges/{id}");
        app.ended_meanwhile("ada", ada.post(&path, &[])).await.assert_status(404);
        assert_eq!(app.count("select count(*) from events where kind = 'nudged'").await, 0);
    }
}
