//! [`App`]: what all requests share.

use super::{flash::Flash, redirect::Redirect, request_tasks::RequestTasks, templates::Templates};
use crate::accounts::{AuthLevel, Client, Event, Passwords, Session, Sessions, User};
use crate::base::{Config, Rate, Result, Sealed, Seals, Tokens};
use crate::db::rate_limit::AddressLimit;
use crate::db::{Connection, Database};
use crate::mail::{Mail, MailContent};
use axum::http::HeaderMap;
use futures_util::future::BoxFuture;
use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

/// What all requests share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub config: Config,
    pub db: Database,
    pub templates: Templates,
    pub sessions: Sessions,
    pub passwords: Passwords,
    pub seals: Seals,
    pub features: FeatureParts,
    pub tasks: RequestTasks,
}

/// Kinds of acts for [`App::count_by_address`] that several features share, and with them one count.
pub const REQUESTED_MAIL: &str = "mail";
pub const SIGN_UP: &str = "signup";

/// Everything that the features have registered, merged into one list of each kind.
#[derive(Default)]
pub struct FeatureParts {
    /// Core's events and those of the features.
    pub events: Vec<Event>,
    pub factors: Vec<Factor>,
    pub credentials: Vec<AddedCredentials>,
    pub mails: Vec<(&'static str, WriteMail)>,
    pub flashes: Vec<Flash>,
    pub on_session_start: Vec<OnSessionStart>,
    pub purge: Vec<&'static str>,
    pub export: Vec<(&'static str, &'static str)>,
    pub sealed: Vec<Sealed>,
    pub settings: Vec<Settings>,
    pub login_path: Option<&'static str>,
    pub confirm_path: Option<&'static str>,
    pub account_path: Option<&'static str>,
    pub reset_path: Option<&'static str>,
    pub any_host: Vec<&'static str>,
}

/// What `feature(env)` has read of a feature's own variables.
pub type Settings = Box<dyn Any + Send + Sync>;

impl App {
    pub fn new(parts: Parts) -> App {
        App(Arc::new(parts))
    }

    /// The settings of a feature, which only its own handlers ask for.
    ///
    /// # Panics
    /// When no feature has settings of this type.
    pub fn settings<T: Any>(&self) -> &T {
        let mut settings = self.features.settings.iter();
        settings.find_map(|settings| settings.downcast_ref()).expect("feature(env) has added its settings")
    }

    /// Counts one act of this kind from the client's network address.
    ///
    /// # Errors
    /// [`Error::TooMany`](crate::base::Error::TooMany) when the rate allows no more.
    pub async fn count_by_address(&self, kind: &str, client: &Client, rate: Rate) -> Result<()> {
        AddressLimit::new(kind, client.address, rate).take_alone(&self.db).await
    }

    /// Where people log in; without such a page, the start of the site.
    pub fn login_path(&self) -> &'static str {
        self.features.login_path.unwrap_or("/")
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Writes a mail, or decides that there is none to send. If it was queued for a user, the user exists and the row is locked.
pub type WriteMail =
    for<'a> fn(&'a App, &'a mut Connection, &'a Mail, Option<User>) -> BoxFuture<'a, Result<Option<MailContent>>>;

/// Something by which users authenticate, besides the password.
#[derive(Clone, Copy)]
pub struct Factor {
    /// Also the form field in which it is sent.
    pub name: &'static str,
    /// A query for how many of it the user with the id `$1` has.
    pub count: &'static str,
    /// Whether it is enough to log in.
    pub suffices: bool,
    pub verify: VerifyFactor,
    pub next: NextFactor,
    /// The page below which it is set up.
    pub set_up_path: &'static str,
    /// The event of adding one to an account.
    pub added: Event,
    /// A statement that removes those added to the account `$1` at the time `$2` or later.
    pub undo: &'static str,
}

/// What a feature keeps that lets people in to an account, or keeps them out. Somebody else may have added it, before the
/// account was its owner's.
#[derive(Clone, Copy)]
pub struct AddedCredentials {
    pub list: ListCredentials,
    /// A statement that removes all that the account `$1` has of it.
    pub remove: &'static str,
}

/// Lists what the user with this id has of it, each in words that begin with a capital.
pub type ListCredentials = for<'a> fn(&'a mut Connection, &'a str) -> BoxFuture<'a, Result<Vec<String>>>;

/// Verifies what a logged-in user has sent, or fails with a sentence for the field. A value that works once is used up.
pub type VerifyFactor = for<'a> fn(&'a App, FactorAttempt<'a>) -> BoxFuture<'a, Result<()>>;

pub struct FactorAttempt<'a> {
    pub session: &'a Session,
    pub client: &'a Client,
    pub headers: &'a HeaderMap,
    pub value: &'a str,
}

/// Asked before a session starts for the user with this id, who has authenticated at this level: the page to go to first,
/// if the user has to authenticate by this factor too.
pub type NextFactor =
    for<'a> fn(&'a App, &'a mut Connection, &'a str, AuthLevel) -> BoxFuture<'a, Result<Option<&'static str>>>;

/// Called in the transaction in which a session starts, before the one that it replaces ends. Returns the redirect, to
/// which it may add cookies and a flash.
pub type OnSessionStart = for<'a> fn(&'a mut Connection, SessionStart<'a>, Redirect) -> BoxFuture<'a, Result<Redirect>>;

#[derive(Clone, Copy)]
pub struct SessionStart<'a> {
    pub config: &'a Config,
    pub headers: &'a HeaderMap,
    pub user_id: &'a str,
    pub session_id: &'a str,
    /// The tokens of the sessions that came with the request.
    pub replaced: &'a Tokens,
}
