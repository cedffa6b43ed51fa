//! The passkeys of users: the table, and the check of one that is shown.

use super::ceremony::{self, Kind};
use super::{not_good, relying_party};
use crate::app::App;
use crate::config::Config;
use crate::database::{Connection, new_id, now};
use crate::device;
use crate::error::{Error, Result};
use crate::guard::Client;
use crate::page::date;
use crate::session::Door;
use crate::user;
use serde::Serialize;
use uuid::Uuid;
use webauthn_rs::prelude::{
    CredentialID, DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential,
};

/// How many a user may have.
const MOST: usize = 20;

pub const EXPORT: (&str, &str) =
    ("passkeys", "select id, name, created_at, used_at from passkeys where user_id = $1 order by id");

/// How many the user `$1` has.
pub const COUNT: &str = "select count(*) from passkeys where user_id = $1";

/// Those that were added to the account `$1` at the time `$2` or later.
pub const UNDO: &str = "delete from passkeys where user_id = $1 and created_at >= $2";

/// A passkey as its user sees it.
#[derive(Serialize)]
pub struct Listed {
    pub id: String,
    pub name: String,
    pub added: String,
    pub used: Option<String>,
    /// What stands in the field for a new name, and why it cannot be had.
    pub typed: String,
    pub mistake: Option<&'static str>,
}

pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Vec<Listed>> {
    let sql = "select id, name, created_at, used_at from passkeys where user_id = $1 order by id";
    let rows: Vec<(String, String, i64, Option<i64>)> =
        sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    let listed = |(id, name, added, used): (_, String, _, Option<i64>)| Listed {
        id,
        typed: name.clone(),
        name,
        added: date(added),
        used: used.map(date),
        mistake: None,
    };
    Ok(rows.into_iter().map(listed).collect())
}

/// What the user's authenticators must not make a second time.
///
/// # Errors
/// The sentence that there are enough.
pub async fn known(db: &mut Connection, user_id: &str) -> Result<Vec<CredentialID>> {
    let sql = "select credential_id from passkeys where user_id = $1";
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    if rows.len() >= MOST {
        let sentence = "You have as many passkeys as anybody can have here. Please remove one first.";
        return Err(Error::Mistake(sentence.into()));
    }
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// The passkey that was made for this site.
///
/// # Errors
/// [`not_good`] for whatever may be wrong with it.
pub fn made(
    config: &Config,
    answer: &RegisterPublicKeyCredential,
    state: &PasskeyRegistration,
) -> Result<Passkey> {
    let passkey =
        relying_party(config)?.finish_passkey_registration(answer, state).map_err(|_| not_good())?;
    // WebAuthn Level 3, 7.1, step 25.
    if (1..=1023).contains(&passkey.cred_id().len()) { Ok(passkey) } else { Err(not_good()) }
}

/// Gives a user, whose row is [`user::lock`]ed, a passkey, named after the device that it was made on.
///
/// # Errors
/// As [`known`]; [`not_good`] when somebody has it.
pub async fn add(db: &mut Connection, user_id: &str, passkey: &Passkey, client: &Client) -> Result<()> {
    known(db, user_id).await?;
    let names: Vec<String> = of_user(db, user_id).await?.into_iter().map(|passkey| passkey.name).collect();
    let sql = "insert into passkeys (id, user_id, credential_id, name, credential, created_at) \
               values ($1, $2, $3, $4, $5, $6) on conflict (credential_id) do nothing";
    let query = sqlx::query(sql).bind(new_id()).bind(user_id).bind(passkey.cred_id().to_vec());
    let query = query.bind(free_name(&device::words(&client.device()), &names)).bind(stored(passkey)?);
    let added = query.bind(now()).execute(db).await?.rows_affected() > 0;
    if added { Ok(()) } else { Err(not_good()) }
}

fn free_name(device: &str, taken: &[String]) -> String {
    let (mut name, mut number) = (device.to_string(), 1);
    while taken.contains(&name) {
        number += 1;
        name = format!("{device} {number}");
    }
    name
}

/// How the table has it.
fn stored(passkey: &Passkey) -> Result<String> {
    Ok(serde_json::to_string(passkey).map_err(anyhow::Error::from)?)
}

/// # Errors
/// [`Error::NOT_FOUND`] when the user has no such passkey.
pub async fn rename(db: &mut Connection, user_id: &str, id: &str, name: &str) -> Result<()> {
    let sql = "update passkeys set name = $1 where id = $2 and user_id = $3";
    let done = sqlx::query(sql).bind(name).bind(id).bind(user_id).execute(db).await?;
    if done.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

/// # Errors
/// [`Error::NOT_FOUND`] when the user has no such passkey.
pub async fn remove(db: &mut Connection, user_id: &str, id: &str) -> Result<()> {
    let sql = "delete from passkeys where id = $1 and user_id = $2";
    let done = sqlx::query(sql).bind(id).bind(user_id).execute(db).await?;
    if done.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

/// A passkey that was shown, and was right. What follows from it begins with [`Shown::redeem`].
pub struct Shown {
    pub user_id: String,
    id: String,
    /// As the table had it when it was judged, and as it is to be from now on.
    before: String,
    after: String,
}

impl Shown {
    /// Notes that it was used, and takes the user's row.
    ///
    /// # Errors
    /// [`not_good`] when it does not stand any more: it was removed, or somebody has shown the same state of it at the same
    /// time, which only a copy of it can do.
    pub async fn redeem(&self, db: &mut Connection) -> Result<()> {
        let sql = "update passkeys set credential = $1, used_at = $2 where id = $3 and credential = $4";
        let query = sqlx::query(sql).bind(&*self.after).bind(now()).bind(&*self.id).bind(&*self.before);
        let stands = user::lock(db, &self.user_id).await? && query.execute(db).await?.rows_affected() > 0;
        if stands { Ok(()) } else { Err(not_good()) }
    }
}

/// The passkey that answers a challenge of this kind.
///
/// # Errors
/// [`not_good`] for whatever may be wrong with it.
pub async fn judge(app: &App, door: &Door, kind: Kind, answer: &PublicKeyCredential) -> Result<Shown> {
    let challenge: DiscoverableAuthentication =
        ceremony::end(app, door, kind, &answer.response.client_data_json).await?;
    let sql = "select id, user_id, credential from passkeys where credential_id = $1";
    let find = async |db: &mut Connection| {
        Ok(sqlx::query_as(sql).bind(answer.get_credential_id()).fetch_optional(db).await?)
    };
    let found: Option<(String, String, String)> = app.db.read(find).await?;
    let (id, user_id, before) =
        found.filter(|(_, user_id, _)| is_handle_of(answer, user_id)).ok_or_else(not_good)?;
    let mut passkey: Passkey = serde_json::from_str(&before).map_err(anyhow::Error::from)?;
    let party = relying_party(&app.config)?;
    // Refuses a counter that has not grown, too.
    let judged = party.finish_discoverable_authentication_v2(answer, challenge, &passkey);
    passkey.update_credential(&judged.map_err(|_| not_good())?);
    Ok(Shown { user_id, id, before, after: stored(&passkey)? })
}

/// Whether the authenticator takes its passkey for this user's, too.
fn is_handle_of(answer: &PublicKeyCredential, user_id: &str) -> bool {
    let handle = answer.get_user_unique_id();
    Uuid::parse_str(user_id).is_ok_and(|id| handle == Some(id.as_bytes()))
}
