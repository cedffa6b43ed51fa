//! [`UserRequest`]: an administrator asks for something about one person, whose id is in the path.

use super::list;
use crate::accounts::{Actor, Permissions};
use crate::base::{Error, MailDelivery, Result};
use crate::db::Connection;
use crate::web::{Administrator, App, Factor, Flash, Redirect, redirect};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::Deserialize;

/// As an argument of a handler whose path has an `{id}`.
pub struct UserRequest {
    pub app: App,
    pub administrator: Administrator,
    /// Of the person.
    pub id: String,
}

impl FromRequestParts<App> for UserRequest {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<UserRequest> {
        let administrator = Administrator::from_request_parts(parts, app).await?;
        let Path(id) = Path::from_request_parts(parts, app).await.map_err(|_| Error::NOT_FOUND)?;
        Ok(UserRequest { app: app.clone(), administrator, id })
    }
}

const OWN: &str = "This is your own account. You can change how you log in, and delete it, on your account page.";

impl UserRequest {
    pub fn actor(&self) -> &Actor {
        &self.administrator.actor
    }

    /// Whether it is the administrator's own account.
    pub fn is_own(&self) -> bool {
        self.administrator.session.user.id == self.id
    }

    /// # Errors
    /// [`Error::Forbidden`] for the administrator's own account, whose page asks for more than a recent log-in.
    pub fn refuse_own(&self) -> Result<()> {
        if self.is_own() { Err(Error::Forbidden(OWN)) } else { Ok(()) }
    }

    /// Changes the account as [`Administrator::change_user`], whose errors it has.
    pub async fn change<T>(&self, change: impl AsyncFnOnce(&mut Connection, &Permissions) -> Result<T>) -> Result<T> {
        self.administrator.change_user(&self.id, async |db, _, own| change(db, own).await).await
    }

    /// Back to the page of the person. Administrators who changed their own account may no longer have access to it.
    pub fn back(&self, flash: Flash) -> Redirect {
        let own = self.app.features.account_path.unwrap_or("/");
        let path = format!("{}/{}", list::PATH, self.id);
        redirect(if self.is_own() { own } else { &path }).flash(flash)
    }

    /// Whether the site can mail a link to choose a password.
    pub fn sends_resets(&self) -> bool {
        self.app.features.reset_path.is_some() && !matches!(self.app.config.mail, MailDelivery::Off)
    }
}

/// Which factor is meant.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct FactorForm {
    factor: String,
}

impl FactorForm {
    /// # Errors
    /// [`Error::NOT_FOUND`] when the site has no such factor.
    pub fn find<'a>(&self, app: &'a App) -> Result<&'a Factor> {
        app.features.factors.iter().find(|factor| factor.name == self.factor).ok_or(Error::NOT_FOUND)
    }
}
