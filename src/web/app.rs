//! [`App`]: what all requests share.

use super::redirect::{LocalPath, Redirect};
use super::{flash::Flash, request_tasks::RequestTasks, site_map::SiteMap, templates::Templates};
use crate::accounts::{AuthLevel, Client, Event, Passwords, Permission, Permissions, Session, Sessions, User};
use crate::base::{Config, Rate, Result, Sealed, Seals, Tokens};
use crate::db::rate_limit::AddressLimit;
use crate::db::refunds::{Counted, Refunds};
use crate::db::{Connection, Database};
use crate::mail::{Mail, MailContent};
use axum::http::HeaderMap;
use axum::http::request::Parts as RequestParts;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use serde::Serialize;
use std::any::Any;
use std::collections::BTreeMap;
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
    pub refunds: Refunds,
}

/// Kinds of acts for [`App::count_by_address`] that several features share, and with them one count.
pub const REQUESTED_MAIL: &str = "mail";
pub const SIGN_UP: &str = "signup";

/// Everything that the features have registered, merged into one list of each kind.
#[derive(Default)]
pub struct FeatureParts {
    /// Core's events and those of the features.
    pub events: Vec<Event>,
    pub permissions: Vec<Permission>,
    pub factors: Vec<Factor>,
    pub credentials: Vec<AddedCredentials>,
    pub mails: Vec<(&'static str, WriteMail)>,
    pub flashes: Vec<Flash>,
    pub on_session_start: Vec<OnSessionStart>,
    pub on_start: Vec<OnStart>,
    pub background: Vec<Background>,
    pub sign_up: Option<ShowSignUp>,
    pub invite_path: Option<&'static str>,
    /// In the order of the account page.
    pub account_rows: Vec<AccountRow>,
    pub purge: Vec<&'static str>,
    pub export: Vec<(&'static str, &'static str)>,
    pub owned: Vec<Owned>,
    pub sealed: Vec<Sealed>,
    pub settings: Vec<Settings>,
    pub map: SiteMap,
    pub login_path: Option<&'static str>,
    pub confirm_path: Option<&'static str>,
    pub account_path: Option<&'static str>,
    pub reset_path: Option<&'static str>,
    pub recovery_codes_path: Option<&'static str>,
    pub any_host: Vec<&'static str>,
}

/// What `feature(env)` has read from a feature's own variables.
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

    /// Counts one act of this kind from the client's network address, before it is carried out.
    ///
    /// # Errors
    /// [`Error::TooMany`](crate::base::Error::TooMany) when the rate allows no more.
    pub async fn count_by_address(&self, kind: &str, client: &Client, rate: Rate) -> Result<Counted> {
        self.refunds.settle().await;
        let limit = Arc::new(AddressLimit::new(kind, client.address, rate));
        limit.take_alone(&self.db).await?;
        Ok(self.refunds.counted(move |db| {
            let limit = limit.clone();
            async move { limit.give_back(db).await }.boxed()
        }))
    }

    /// What a user has several of, such as "4 notes". It goes with the account.
    pub async fn owned_by(&self, db: &mut Connection, user_id: &str) -> Result<Vec<String>> {
        let mut owned = Vec::new();
        for Owned { one, many, count } in &self.features.owned {
            match sqlx::query_scalar(*count).bind(user_id).fetch_one(&mut *db).await? {
                0_i64 => {}
                1 => owned.push(format!("1 {one}")),
                number => owned.push(format!("{number} {many}")),
            }
        }
        Ok(owned)
    }

    /// The page at a path that came with a request, or the home page if there is none.
    pub fn resolve<'a>(&self, next: Option<&'a LocalPath>) -> &'a str {
        self.find_page(next).unwrap_or("/")
    }

    /// As [`App::resolve`]. `None` when there is no such page.
    pub fn find_page<'a>(&self, next: Option<&'a LocalPath>) -> Option<&'a str> {
        next?.find_in(&self.features.map)
    }

    /// Where people log in; without such a page, the home page.
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

/// A row of the account page, which leads to a page of the feature and shows the present value:
/// `AccountRow::new(AccountGroup::Profile, 4, "Signature", "/signature", |_, _| RowState::fixed("Below your notes", "Change"))`
#[derive(Clone, Copy)]
pub struct AccountRow {
    pub group: AccountGroup,
    /// Rows of a group are ordered by this.
    pub place: u8,
    pub label: &'static str,
    pub path: &'static str,
    pub state: FindRowState,
    /// Whether it leads to something that cannot be undone.
    pub is_dangerous: bool,
    /// The permission that a user needs to see it.
    pub needs: Option<Permission>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountGroup {
    Profile,
    SigningIn,
    Devices,
    Data,
    Administration,
}

/// Finds the present value for a user, with one statement at most.
pub type FindRowState = for<'a> fn(&'a mut Connection, RowContext<'a>) -> BoxFuture<'a, Result<RowState>>;

/// Whose row it is.
#[derive(Clone, Copy)]
pub struct RowContext<'a> {
    pub app: &'a App,
    pub session: &'a Session,
    /// How many of each factor the user has.
    pub factors: &'a BTreeMap<&'static str, i64>,
    pub permissions: &'a Permissions,
}

impl RowContext<'_> {
    pub fn has(&self, factor: &str) -> bool {
        self.count(factor) > 0
    }

    pub fn count(&self, factor: &str) -> i64 {
        self.factors.get(factor).copied().unwrap_or(0)
    }
}

impl AccountRow {
    pub const fn new(
        group: AccountGroup,
        place: u8,
        label: &'static str,
        path: &'static str,
        state: FindRowState,
    ) -> AccountRow {
        AccountRow { group, place, label, path, state, is_dangerous: false, needs: None }
    }

    pub const fn dangerous(self) -> AccountRow {
        AccountRow { is_dangerous: true, ..self }
    }

    pub const fn needing(self, permission: Permission) -> AccountRow {
        AccountRow { needs: Some(permission), ..self }
    }
}

/// The present value for one user.
#[derive(Serialize)]
pub struct RowState {
    pub value: String,
    /// The time with which the value ends.
    pub at: Option<i64>,
    /// Whether the user should do something about it.
    pub is_warning: bool,
    /// What users can do there, in a word.
    pub action: &'static str,
}

impl RowState {
    pub fn new(value: impl Into<String>, action: &'static str) -> RowState {
        RowState { value: value.into(), at: None, is_warning: false, action }
    }

    /// The same for everybody.
    pub fn fixed<'a>(value: &'static str, action: &'static str) -> BoxFuture<'a, Result<RowState>> {
        ready(Ok(RowState::new(value, action))).boxed()
    }

    pub fn at(self, seconds: i64) -> RowState {
        RowState { at: Some(seconds), ..self }
    }

    pub fn warning(self) -> RowState {
        RowState { is_warning: true, ..self }
    }
}

/// Something that a user may have several of, such as notes.
#[derive(Clone, Copy)]
pub struct Owned {
    pub one: &'static str,
    pub many: &'static str,
    /// A query for how many the user with the id `$1` has.
    pub count: &'static str,
}

/// Writes a mail, or decides that there is none to send. If it was queued for a user, the user exists and the row is locked.
pub type WriteMail =
    for<'a> fn(&'a App, &'a mut Connection, &'a Mail, Option<User>) -> BoxFuture<'a, Result<Option<MailContent>>>;

/// Something that users authenticate with, besides the password.
#[derive(Clone, Copy)]
pub struct Factor {
    /// Also the form field in which it is sent.
    pub name: &'static str,
    /// What administrators read, with a capital letter.
    pub label: &'static str,
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

/// What a feature stores that lets people into an account, or keeps them out. Someone else may have added it before the
/// account was its owner's.
#[derive(Clone, Copy)]
pub struct AddedCredentials {
    pub list: ListCredentials,
    /// A statement that removes all that the account `$1` has of it.
    pub remove: &'static str,
}

/// Lists what the user with this id has of it, each in words that start with a capital letter.
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

/// Called when the site is about to serve, after the migrations.
pub type OnStart = for<'a> fn(&'a App) -> BoxFuture<'a, Result<()>>;

/// Work that goes on as long as the site runs. Every replica does it.
pub type Background = fn(App) -> BoxFuture<'static, ()>;

/// Answers a request of somebody who has followed a link with the form to sign up, with the value of its field `invite` and
/// the address that the link was mailed to.
pub type ShowSignUp = for<'a> fn(&'a App, RequestParts, &'a str, Option<&'a str>) -> BoxFuture<'a, Result<Response>>;

#[derive(Clone, Copy)]
pub struct SessionStart<'a> {
    pub config: &'a Config,
    pub headers: &'a HeaderMap,
    pub user_id: &'a str,
    pub session_id: &'a str,
    /// The tokens of the sessions that came with the request.
    pub replaced: &'a Tokens,
}
