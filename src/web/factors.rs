//! Authentication factors: the password, and those that features bring.

use super::app::{App, Factor};
use crate::accounts::{AuthLevel, Permission, Session, password::table, session};
use crate::base::{Config, Error, Result, TwoFactorPolicy};
use crate::db::{Connection, DEADLINE};
use anyhow::ensure;
use serde::Serialize;
use std::collections::BTreeMap;

/// The field in which a password is sent, and its name among the factors.
pub const PASSWORD: &str = "password";

/// How many of each factor a user has. In a template: `factors.password`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct FactorCounts(pub BTreeMap<&'static str, i64>);

impl FactorCounts {
    pub async fn of_user(app: &App, db: &mut Connection, user_id: &str) -> Result<FactorCounts> {
        let features = app.features.factors.iter().map(|factor| (factor.name, factor.count));
        let mut counts = BTreeMap::new();
        for (name, sql) in [(PASSWORD, table::COUNT)].into_iter().chain(features) {
            counts.insert(name, sqlx::query_scalar(sql).bind(user_id).fetch_one(&mut *db).await?);
        }
        Ok(FactorCounts(counts))
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn has_password(&self) -> bool {
        self.get(PASSWORD) > 0
    }

    /// In how many ways the user can log in. The last must not be removed: a handler that removes one checks this in the same
    /// transaction, with the user's row locked.
    pub fn login_methods(&self, app: &App) -> i64 {
        let sufficient = app.features.factors.iter().filter(|factor| factor.suffices);
        self.get(PASSWORD) + sufficient.map(|factor| self.get(factor.name)).sum::<i64>()
    }

    /// Whether the user has anything besides a password.
    pub fn has_second_factor(&self, app: &App) -> bool {
        app.features.factors.iter().any(|factor| self.get(factor.name) > 0)
    }
}

/// Where a user who has authenticated at this level has to go for another factor, if one is required.
pub async fn next(app: &App, db: &mut Connection, user_id: &str, level: AuthLevel) -> Result<Option<&'static str>> {
    for factor in &app.features.factors {
        if let Some(path) = (factor.next)(app, db, user_id, level).await? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// If this user must log in with two factors, a password alone is not enough to confirm a change that could let somebody
/// take the account over.
///
/// # Errors
/// [`Error::TooLate`], with the page that asks for more when the session was last confirmed by a password alone.
pub async fn require_confirmed(app: &App, db: &mut Connection, session: &Session) -> Result<()> {
    if next(app, db, &session.user.id, session.confirmed).await?.is_none() {
        return Ok(());
    }
    let path = app.features.confirm_path.or(app.features.login_path).ok_or(Error::NOT_FOUND)?;
    Err(Error::TooLate(format!("{path}?second=yes")))
}

/// Locks the session as [`session::lifecycle::lock`], for a change that could take the account from its owner.
///
/// # Errors
/// As [`require_confirmed`] and [`session::lifecycle::lock`].
pub async fn lock_confirmed(app: &App, db: &mut Connection, session: &Session) -> Result<()> {
    session::lifecycle::lock(db, session).await?;
    require_confirmed(app, db, session).await
}

/// Removes the factors that were added since this event by somebody who had authenticated with one factor, and all added
/// after the first of them. What an owner adds with two factors cannot be undone by somebody who reads the owner's mail.
pub async fn undo_added_since(app: &App, db: &mut Connection, user_id: &str, event_id: &str) -> Result<()> {
    let mut first: Option<i64> = None;
    for Factor { added, .. } in &app.features.factors {
        let sql = "select min(created_at) from events \
                   where user_id = $1 and id >= $2 and factors = 1 and kind = $3";
        let query = sqlx::query_scalar(sql).bind(user_id).bind(event_id).bind(added.kind);
        let added_at: Option<i64> = query.fetch_one(&mut *db).await?;
        first = first.into_iter().chain(added_at).min();
    }
    let Some(first) = first else { return Ok(()) };
    // An event is recorded a little after the row that it is about.
    let since = first - DEADLINE.as_secs() as i64 - 1;
    for factor in &app.features.factors {
        sqlx::query(factor.undo).bind(user_id).bind(since).execute(&mut *db).await?;
    }
    Ok(())
}

/// Checks that users can meet `REQUIRE_TWO_FACTOR`.
///
/// # Errors
/// One sentence that says what to set.
pub fn check_policy(config: &Config, factors: &[Factor]) -> anyhow::Result<()> {
    ensure!(
        !factors.is_empty() || !config.require_two_factor.applies_to_everyone(),
        "REQUIRE_TWO_FACTOR=all requires what no feature of this site offers: set it to none, or build the site with \
         two-factor log-in or passkeys"
    );
    Ok(())
}

/// Whether the user still has to set a second factor up.
pub fn lacks_required_factor(config: &Config, session: &Session) -> bool {
    config.require_two_factor.applies_to_everyone() && session.level == AuthLevel::OneFactor
}

/// Where a user has to go first who may do more than everybody, by `REQUIRE_TWO_FACTOR=admins`, and has authenticated with
/// one factor alone.
pub fn set_up_path_for_permission(app: &App, session: &Session, permission: Permission) -> Option<&'static str> {
    let is_required = app.config.require_two_factor != TwoFactorPolicy::Nobody && !permission.is_for_everyone;
    let lacks_it = is_required && session.level == AuthLevel::OneFactor;
    app.features.factors.first().map(|factor| factor.set_up_path).filter(|_| lacks_it)
}

/// Where a user has to go who must set a second factor up before doing anything else.
pub fn set_up_path(app: &App, session: &Session, path: &str) -> Option<&'static str> {
    if !lacks_required_factor(&app.config, session) {
        return None;
    }
    let is_below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut allowed = app.features.factors.iter().map(|factor| factor.set_up_path).chain(app.features.confirm_path);
    let first = app.features.factors.first()?.set_up_path;
    if allowed.any(is_below) { None } else { Some(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Feature;
    use crate::test::{self, SECOND_FACTOR, TestApp, Visitor};
    use crate::web::{Access, Routes};
    use axum::extract::State;

    async fn page() -> &'static str {
        "a page"
    }

    /// A site where everybody must have two factors, which are set up at /set-up.
    async fn strict() -> TestApp {
        let routes = Routes::new()
            .get("/set-up", Access::Recent, page)
            .get("/set-up/more", Access::Recent, page)
            .get("/set-upper", Access::User, page)
            .get("/settings", Access::Recent, page);
        let feature = Feature { routes, factor: Some(SECOND_FACTOR), ..Feature::named("test") };
        TestApp::with_feature(&[("REQUIRE_TWO_FACTOR", "all")], feature).await
    }

    /// Somebody who has logged in with no more than a password.
    async fn with_one_factor(app: &TestApp, name: &str) -> Visitor {
        let person = app.person(name).await;
        app.execute("update sessions set factors = 1").await;
        person
    }

    #[tokio::test]
    async fn users_who_must_have_two_factors_set_them_up_before_anything_else() {
        let app = strict().await;
        let ada = with_one_factor(&app, "ada").await;
        for path in ["/private", "/settings", "/set-upper"] {
            ada.get(path).await.assert_redirect("/set-up");
        }
        for path in ["/set-up", "/set-up/more"] {
            ada.get(path).await.assert_status(200);
        }
        ada.get("/whoami").await.assert_body("ada");
        // By an older log-in it is set up no more than anywhere else.
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get("/set-up").await.assert_redirect("/confirm?next=%2Fset-up");
        ada.get("/settings").await.assert_redirect("/confirm?next=%2Fsettings");
        app.execute("update sessions set factors = 2, confirmed_at = confirmed_at + 600").await;
        ada.get("/settings").await.assert_status(200);
    }

    async fn risk(State(app): State<App>, session: Session) -> Result<&'static str> {
        app.db.write(async |db| lock_confirmed(&app, db, &session).await).await?;
        Ok("done")
    }

    #[tokio::test]
    async fn where_a_log_in_requires_two_factors_a_password_alone_does_not_confirm_risky_changes() {
        let routes = Routes::new().post("/risk", Access::Recent, risk);
        let feature = Feature { routes, factor: Some(SECOND_FACTOR), ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let ada = app.person("ada").await;
        ada.post("/risk", &[]).await.assert_body("done");
        ada.post("/test/reauthenticate", &[("password", test::PASSWORD)]).await.assert_status(200);
        assert_eq!(app.count("select count(*) from sessions where confirmed_factors = 1").await, 1);
        ada.post("/risk", &[]).await.assert_redirect("/confirm?second=yes&next=%2Faccount");
        ada.assert_is("ada").await;
        ada.post("/test/reauthenticate", &[("word", "ada's word")]).await.assert_status(200);
        ada.post("/risk", &[]).await.assert_body("done");
    }

    #[tokio::test]
    async fn a_user_who_has_to_confirm_again_is_redirected_to_the_page_that_can_do_it() {
        for (paths, location) in [
            ([Some("/enter"), Some("/again"), Some("/settings")], Some("/again?second=yes&next=%2Fsettings")),
            ([Some("/enter"), Some("/again"), None], Some("/again?second=yes&next=%2F")),
            ([Some("/enter"), None, Some("/settings")], Some("/enter?second=yes&next=%2Fsettings")),
            ([None, None, Some("/settings")], None),
        ] {
            let [login_path, confirm_path, account_path] = paths;
            let routes = Routes::new().post("/risk", Access::User, risk).get("/enter", Access::Guest, page);
            let factor = Some(SECOND_FACTOR);
            let feature = Feature { routes, factor, login_path, confirm_path, account_path, ..Feature::named("test") };
            let app = TestApp::with_features(&[], |features| *features = vec![feature]).await;
            let ada = app.person("ada").await;
            app.execute("update sessions set confirmed_factors = 1").await;
            let answer = ada.post("/risk", &[]).await;
            match location {
                Some(location) => answer.assert_redirect(location),
                None => answer.assert_status(404).assert_contains("Page not found"),
            };
            // Without a page to confirm at, the log-in page is open although the session is recent.
            if let Some(location) = location.filter(|_| confirm_path.is_none()) {
                ada.get(location).await.assert_body("a page");
            }
        }
    }

    #[test]
    fn a_site_that_requires_two_factors_and_offers_none_does_not_start() {
        let config = |value| Config::from_env(&[("REQUIRE_TWO_FACTOR", value)].into_iter().collect()).unwrap();
        assert!(check_policy(&config("all"), &[SECOND_FACTOR]).is_ok());
        assert!(check_policy(&config("admins"), &[]).is_ok());
        let error = check_policy(&config("all"), &[]).unwrap_err().to_string();
        assert!(error.contains("set it to none"), "{error}");
    }

    #[tokio::test]
    async fn nobody_else_is_asked_to_set_them_up() {
        let app = TestApp::new().await;
        let ada = with_one_factor(&app, "ada").await;
        ada.get("/private").await.assert_status(200);
        let app = strict().await;
        app.person("ada").await.get("/private").await.assert_status(200);
        app.visitor().get("/private").await.assert_redirect("/login?next=%2Fprivate");
    }

    #[tokio::test]
    async fn a_user_can_log_in_by_a_password_and_by_every_factor_that_suffices() {
        for suffices in [false, true] {
            let factor = Some(Factor { suffices, ..SECOND_FACTOR });
            let app = TestApp::with_feature(&[], Feature { factor, ..Feature::named("test") }).await;
            app.person("ada").await;
            let id = app.user("ada").await;
            let counts = async || {
                let counts = async |db: &mut Connection| FactorCounts::of_user(&app.app, db, &id).await;
                let counts = app.app.db.read(counts).await.unwrap();
                (counts.get(PASSWORD), counts.get("word"), counts.login_methods(&app.app))
            };
            assert_eq!(counts().await, (1, 0, 1));
            app.execute("insert into recovery_codes (code_hash, user_id) select 'x', id from users").await;
            assert_eq!(counts().await, (1, 1, if suffices { 2 } else { 1 }));
            app.remove_password("ada").await;
            assert_eq!(counts().await, (0, 1, if suffices { 1 } else { 0 }));
        }
    }
}
