//! Factors: by what people show who they are. Core has the password; features bring others.

use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::error::Result;
use crate::password;
use crate::session::{Door, Session};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How much somebody has shown of who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proven {
    /// A password, or a link.
    OneFactor,
    /// A password and a code, or a passkey that has verified who uses it.
    TwoFactors,
}

impl Proven {
    /// How the tables have it.
    pub fn count(self) -> i64 {
        match self {
            Proven::OneFactor => 1,
            Proven::TwoFactors => 2,
        }
    }

    pub fn of(count: i64) -> Proven {
        if count >= 2 { Proven::TwoFactors } else { Proven::OneFactor }
    }
}

/// A kind of factor.
pub struct Factor {
    /// Also the form field in which it is sent.
    pub name: &'static str,
    /// A query for how many of it the user with the id `$1` has.
    pub count: &'static str,
    /// Whether it is enough to log in.
    pub suffices: bool,
    pub check: Check,
    /// What to say beside the field when it is wrong.
    pub refusal: &'static str,
}

/// Whether what was sent shows that it is this user, who is logged in. What works once is used up by it.
pub type Check = for<'a> fn(&'a App, &'a Door, &'a User, &'a str) -> BoxFuture<'a, Result<bool>>;

/// Asked before a session begins, whatever has been shown so far: where the browser has to go for another factor.
pub type NextFactor =
    for<'a> fn(&'a App, &'a mut Connection, &'a str, Proven) -> BoxFuture<'a, Result<Option<&'static str>>>;

/// The field in which a password is sent, and its name among the factors.
pub const PASSWORD: &str = "password";

/// How many the user has of each kind of factor.
pub async fn held(app: &App, db: &mut Connection, user_id: &str) -> Result<BTreeMap<&'static str, i64>> {
    let mut held = BTreeMap::new();
    for (name, count) in [(PASSWORD, password::COUNT)]
        .into_iter()
        .chain(factors(app).map(|factor| (factor.name, factor.count)))
    {
        let (number,): (i64,) = sqlx::query_as(count).bind(user_id).fetch_one(&mut *db).await?;
        held.insert(name, number);
    }
    Ok(held)
}

/// In how many ways the user can log in. The last is not to be removed; the user's row is [`crate::user::lock`]ed by whoever
/// is about to remove one.
pub async fn ways_in(app: &App, db: &mut Connection, user_id: &str) -> Result<i64> {
    let held = held(app, db, user_id).await?;
    let suffice = factors(app).filter(|factor| factor.suffices).map(|factor| factor.name);
    Ok(suffice.chain([PASSWORD]).filter_map(|name| held.get(name)).sum())
}

/// What people send to show once more that it is them: any of the factors, each in its field.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub struct Sent(BTreeMap<String, String>);

/// That somebody has shown once more who they are, for the transaction that acts on it: with the password, or with a factor
/// that is used up already.
pub struct Shown(Option<password::Proof>);

impl Shown {
    /// Answers whether it still stands, as [`password::Proof::redeem`].
    pub async fn redeem(&self, db: &mut Connection) -> Result<bool> {
        match &self.0 {
            Some(proof) => proof.redeem(db).await,
            None => Ok(true),
        }
    }

    /// What the session has shown with it, of which the first factor was another.
    pub fn proven(&self) -> Proven {
        if self.0.is_some() { Proven::OneFactor } else { Proven::TwoFactors }
    }
}

/// Judges what a user has sent. Or answers the field with a mistake and its sentence.
///
/// # Errors
/// [`crate::error::Error::TooMany`] when there have been too many attempts.
pub async fn check(
    app: &App,
    door: &Door,
    user: &User,
    sent: &Sent,
) -> Result<Result<Shown, (&'static str, String)>> {
    for factor in factors(app) {
        if let Some(typed) = sent.0.get(factor.name) {
            let is_right = (factor.check)(app, door, user, typed).await?;
            return Ok(if is_right { Ok(Shown(None)) } else { Err((factor.name, factor.refusal.into())) });
        }
    }
    let typed = sent.0.get(PASSWORD).map_or("", String::as_str);
    let proof = password::check_own(app, door, user, typed).await?;
    Ok(proof.map(|proof| Shown(Some(proof))).ok_or((PASSWORD, "This is not your password.".into())))
}

/// Ends everything by which somebody could come in that was added to the account since this time.
pub async fn end_since(app: &App, db: &mut Connection, user_id: &str, time: i64) -> Result<()> {
    for &sql in app.features.iter().flat_map(|feature| feature.undo) {
        sqlx::query(sql).bind(user_id).bind(time).execute(&mut *db).await?;
    }
    Ok(())
}

/// Where somebody has to go who may do nothing else before there is a second factor.
pub fn set_up(app: &App, session: &Session, path: &str) -> Option<&'static str> {
    if !app.config.require_two_factor.of_everybody() || session.proven == Proven::TwoFactors {
        return None;
    }
    let below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut places = app.features.iter().filter_map(|feature| feature.set_up);
    let first = places.clone().next();
    first.filter(|_| !below("/confirm") && !places.any(below))
}

fn factors(app: &App) -> impl Iterator<Item = &Factor> {
    app.features.iter().filter_map(|feature| feature.factor.as_ref())
}
