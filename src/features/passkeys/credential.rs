//! The passkeys of users: the table, and the verification.

use super::aaguid::authenticator_name;
use super::ceremony::{self, Purpose};
use super::relying_party::{not_good, relying_party};
use crate::accounts::client::device_name;
use crate::accounts::{Client, user};
use crate::base::{Config, Error, FieldErrors, Result};
use crate::db::{Connection, DbRow, new_id, now};
use crate::web::{AddedCredentials, App, format::date};
use axum::http::HeaderMap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, Row};
use uuid::Uuid;
use webauthn_rs::prelude::{
    CredentialID, DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential,
};

/// How many a user may have.
const MOST: usize = 20;

const TOO_MANY: &str = "You have 20 passkeys, which is the most you can have. Please remove one first.";

pub const EXPORT: (&str, &str) = (
    "passkeys",
    "select id, name, created_at, used_at from passkeys where user_id = $1 and id > $2 order by id limit $3",
);

pub const COUNT: &str = "select count(*) from passkeys where user_id = $1";

pub const UNDO: &str = "delete from passkeys where user_id = $1 and created_at >= $2";

pub const ADDED: AddedCredentials = AddedCredentials { list, remove: "delete from passkeys where user_id = $1" };

fn list<'a>(db: &'a mut Connection, user_id: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
    async move {
        let words = |ListedPasskey { name, added, .. }| format!("The passkey “{name}”, added on {}", date(added));
        Ok(of_user(db, user_id).await?.into_iter().map(words).collect())
    }
    .boxed()
}

/// A passkey as its user sees it.
#[derive(Serialize)]
pub struct ListedPasskey {
    pub id: String,
    pub name: String,
    pub added: i64,
    pub used: Option<i64>,
}

impl FromRow<'_, DbRow> for ListedPasskey {
    fn from_row(row: &DbRow) -> sqlx::Result<ListedPasskey> {
        let (id, name) = (row.try_get("id")?, row.try_get("name")?);
        Ok(ListedPasskey { id, name, added: row.try_get("created_at")?, used: row.try_get("used_at")? })
    }
}

pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Vec<ListedPasskey>> {
    let sql = "select id, name, created_at, used_at from passkeys where user_id = $1 order by id";
    Ok(sqlx::query_as(sql).bind(user_id).fetch_all(db).await?)
}

/// The ids of the user's passkeys, for a user who wants another.
///
/// # Errors
/// [`Error::Invalid`] when there are as many as may be.
pub async fn known_ids(db: &mut Connection, user_id: &str) -> Result<Vec<CredentialID>> {
    let sql = "select credential_id from passkeys where user_id = $1";
    let ids: Vec<CredentialID> = sqlx::query_scalar(sql).bind(user_id).fetch_all(db).await?;
    if ids.len() >= MOST {
        return Err(Error::invalid(FieldErrors::FORM, TOO_MANY));
    }
    Ok(ids)
}

/// A passkey that an authenticator has created for this site.
pub struct NewPasskey {
    passkey: Passkey,
    /// The authenticator's name, if it is known.
    name: Option<&'static str>,
}

/// # Errors
/// [`not_good`] for whatever may be wrong with it.
pub fn created(
    config: &Config,
    answer: &RegisterPublicKeyCredential,
    state: &PasskeyRegistration,
) -> Result<NewPasskey> {
    let passkey = relying_party(config)?.finish_passkey_registration(answer, state).map_err(|_| not_good())?;
    let name = authenticator_name(&answer.response.attestation_object);
    // WebAuthn Level 3, 7.1, step 25.
    if (1..=1023).contains(&passkey.cred_id().len()) { Ok(NewPasskey { passkey, name }) } else { Err(not_good()) }
}

/// Adds a passkey to a user whose row is locked by [`user::lock`]. Returns its name, which is that of the authenticator or,
/// if that is not known, of the device.
///
/// # Errors
/// As [`known_ids`]; [`not_good`] when it is in use already.
pub async fn add(db: &mut Connection, user_id: &str, new: &NewPasskey, client: &Client) -> Result<String> {
    known_ids(db, user_id).await?;
    let NewPasskey { passkey, name } = new;
    let sql = "select name from passkeys where user_id = $1";
    let names: Vec<String> = sqlx::query_scalar(sql).bind(user_id).fetch_all(&mut *db).await?;
    let name = name.map_or_else(|| device_name(&client.user_agent), String::from);
    let name = free_name(&name, &names);
    let sql = "insert into passkeys (id, user_id, credential_id, name, credential, created_at) \
               values ($1, $2, $3, $4, $5, $6) on conflict (credential_id) do nothing";
    let query = sqlx::query(sql).bind(new_id()).bind(user_id).bind(passkey.cred_id().to_vec());
    let added = query.bind(&*name).bind(to_json(passkey)?).bind(now()).execute(db).await?;
    if added.rows_affected() > 0 { Ok(name) } else { Err(not_good()) }
}

fn free_name(device: &str, taken: &[String]) -> String {
    let (mut name, mut number) = (device.to_string(), 1);
    while taken.contains(&name) {
        number += 1;
        name = format!("{device} {number}");
    }
    name
}

fn to_json(passkey: &Passkey) -> Result<String> {
    Ok(serde_json::to_string(passkey).map_err(anyhow::Error::from)?)
}

/// # Errors
/// [`Error::NOT_FOUND`] when the user has no such passkey.
pub async fn rename(db: &mut Connection, user_id: &str, id: &str, name: &str) -> Result<()> {
    let sql = "update passkeys set name = $1 where id = $2 and user_id = $3";
    let renamed = sqlx::query(sql).bind(name).bind(id).bind(user_id).execute(db).await?;
    if renamed.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

/// The user's passkey with this id.
///
/// # Errors
/// As [`rename`].
pub async fn find(db: &mut Connection, user_id: &str, id: &str) -> Result<ListedPasskey> {
    of_user(db, user_id).await?.into_iter().find(|passkey| passkey.id == id).ok_or(Error::NOT_FOUND)
}

/// What is left to say about a passkey that was removed.
pub struct RemovedPasskey {
    pub name: String,
    pub credential_id: Vec<u8>,
}

impl FromRow<'_, DbRow> for RemovedPasskey {
    fn from_row(row: &DbRow) -> sqlx::Result<RemovedPasskey> {
        Ok(RemovedPasskey { name: row.try_get("name")?, credential_id: row.try_get("credential_id")? })
    }
}

/// # Errors
/// As [`rename`].
pub async fn remove(db: &mut Connection, user_id: &str, id: &str) -> Result<RemovedPasskey> {
    let sql = "delete from passkeys where id = $1 and user_id = $2 returning name, credential_id";
    let removed = sqlx::query_as(sql).bind(id).bind(user_id).fetch_optional(db).await?;
    removed.ok_or(Error::NOT_FOUND)
}

struct StoredPasskey {
    id: String,
    user_id: String,
    credential: String,
}

impl FromRow<'_, DbRow> for StoredPasskey {
    fn from_row(row: &DbRow) -> sqlx::Result<StoredPasskey> {
        Ok(StoredPasskey {
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            credential: row.try_get("credential")?,
        })
    }
}

/// A passkey that has answered a challenge, for the transaction that acts on it.
pub struct VerifiedPasskey {
    stored: StoredPasskey,
    /// What takes the place of the stored credential, with the new counter.
    updated: String,
}

impl VerifiedPasskey {
    pub fn user_id(&self) -> &str {
        &self.stored.user_id
    }

    /// Locks the user's row, and stores the counter and the time.
    ///
    /// # Errors
    /// [`not_good`] when the passkey has been removed or used in the meantime. Only a copy of it could be used at the same
    /// time.
    pub async fn recheck(&self, db: &mut Connection) -> Result<()> {
        let StoredPasskey { id, user_id, credential } = &self.stored;
        let sql = "update passkeys set credential = $1, used_at = $2 where id = $3 and credential = $4";
        let query = sqlx::query(sql).bind(&*self.updated).bind(now()).bind(&**id).bind(&**credential);
        let is_unchanged = user::lock(db, user_id).await?.is_some() && query.execute(db).await?.rows_affected() > 0;
        if is_unchanged { Ok(()) } else { Err(not_good()) }
    }
}

/// Verifies the answer to a challenge for this purpose.
///
/// # Errors
/// [`not_good`] for whatever may be wrong with it.
pub async fn verify(
    app: &App,
    headers: &HeaderMap,
    purpose: Purpose<'_>,
    answer: &PublicKeyCredential,
) -> Result<VerifiedPasskey> {
    let challenge: DiscoverableAuthentication =
        ceremony::take(app, headers, purpose, &answer.response.client_data_json).await?;
    let find = async |db: &mut Connection| {
        let sql = "select id, user_id, credential from passkeys where credential_id = $1";
        Ok(sqlx::query_as(sql).bind(answer.get_credential_id()).fetch_optional(db).await?)
    };
    let found: Option<StoredPasskey> = app.db.read(find).await?;
    let stored = found.filter(|stored| is_handle_of(answer, &stored.user_id)).ok_or_else(not_good)?;
    let mut passkey: Passkey = serde_json::from_str(&stored.credential).map_err(anyhow::Error::from)?;
    // Refuses a counter that has not grown, too.
    let verified = relying_party(&app.config)?.finish_discoverable_authentication_v2(answer, challenge, &passkey);
    passkey.update_credential(&verified.map_err(|_| not_good())?);
    Ok(VerifiedPasskey { stored, updated: to_json(&passkey)? })
}

/// Whether the authenticator, too, says that the passkey is this user's.
fn is_handle_of(answer: &PublicKeyCredential, user_id: &str) -> bool {
    let handle = answer.get_user_unique_id();
    Uuid::parse_str(user_id).is_ok_and(|id| handle == Some(id.as_bytes()))
}
