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

const MAY_DO_MORE: &str = "This person may do something that you may not, so you cannot change their account.";
const GIVES_MORE: &str = "You can only give or take what you may do yourself.";

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
