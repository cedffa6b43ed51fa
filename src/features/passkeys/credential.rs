//! The passkeys of users: the table, and the check of one that is shown.

use super::ceremony::{self, Kind};
use super::{NOT_GOOD, relying_party};
use crate::app::App;
use crate::database::{Connection, new_id, now};
use crate::device;
use crate::error::Result;
use crate::guard::Client;
use crate::session::Door;
use crate::user;
use uuid::Uuid;
use webauthn_rs::prelude::{CredentialID, DiscoverableAuthentication, Passkey, PublicKeyCredential};

/// How many a user may have.
const MOST: usize = 20;

const ENOUGH: &str = "You have as many passkeys as anybody can have here. Please remove one first.";

pub const EXPORT: (&str, &str) =
    ("passkeys", "select id, name, created_at, used_at from passkeys where user_id = $1 order by id");

/// How many the user `$1` has.
pub const COUNT: &str = "select count(*) from passkeys where user_id = $1";

/// Those that were added to the account `$1` at the time `$2` or later.
pub const UNDO: &str = "delete from passkeys where user_id = $1 and created_at >= $2";

/// A passkey as its user sees it.
pub struct Listed {
    pub id: String,
    pub name: String,
    pub created_at: i64,
    pub used_at: Option<i64>,
}

pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Vec<Listed>> {
    let sql = "select id, name, created_at, used_at from passkeys where user_id = $1 order by id";
    let rows: Vec<(String, String, i64, Option<i64>)> =
        sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    let listed = |(id, name, created_at, used_at)| Listed { id, name, created_at, used_at };
    Ok(rows.into_iter().map(listed).collect())
}

/// What the user's authenticators must not make a second time. Or the sentence that there are enough.
pub async fn known(db: &mut Connection, user_id: &str) -> Result<Result<Vec<CredentialID>, &'static str>> {
    let sql = "select credential_id from passkeys where user_id = $1";
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    let ids: Vec<CredentialID> = rows.into_iter().map(|(id,)| id).collect();
    Ok(if ids.len() < MOST { Ok(ids) } else { Err(ENOUGH) })
}

/// Gives a user, whose row is [`user::lock`]ed, a passkey, named after the device that it was made on. Or answers the
/// sentence that says why not: also nobody may bring what somebody else has.
pub async fn add(
    db: &mut Connection,
    user_id: &str,
    passkey: &Passkey,
    client: &Client,
) -> Result<Result<(), &'static str>> {
    let names: Vec<String> = of_user(db, user_id).await?.into_iter().map(|passkey| passkey.name).collect();
    if names.len() >= MOST {
        return Ok(Err(ENOUGH));
    }
    let sql = "insert into passkeys (id, user_id, credential_id, name, credential, created_at) \
               values ($1, $2, $3, $4, $5, $6) on conflict (credential_id) do nothing";
    let query = sqlx::query(sql).bind(new_id()).bind(user_id).bind(passkey.cred_id().to_vec());
    let query = query.bind(free_name(&device::words(&client.device()), &names)).bind(stored(passkey)?);
    let added = query.bind(now()).execute(db).await?.rows_affected() > 0;
    Ok(if added { Ok(()) } else { Err(NOT_GOOD) })
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

/// Answers whether the user has such a passkey.
pub async fn rename(db: &mut Connection, user_id: &str, id: &str, name: &str) -> Result<bool> {
    let sql = "update passkeys set name = $1 where id = $2 and user_id = $3";
    let renamed = sqlx::query(sql).bind(name).bind(id).bind(user_id).execute(db).await?;
    Ok(renamed.rows_affected() > 0)
}

/// Answers whether the user had such a passkey.
pub async fn remove(db: &mut Connection, user_id: &str, id: &str) -> Result<bool> {
    let sql = "delete from passkeys where id = $1 and user_id = $2";
    Ok(sqlx::query(sql).bind(id).bind(user_id).execute(db).await?.rows_affected() > 0)
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
    /// Notes that it was used, and takes the user's row. Answers whether it still stands: it may have been removed, or
    /// somebody may have shown the same state of it at the same time, which only a copy of it can do.
    pub async fn redeem(&self, db: &mut Connection) -> Result<bool> {
        if !user::lock(db, &self.user_id).await? {
            return Ok(false);
        }
        let sql = "update passkeys set credential = $1, used_at = $2 where id = $3 and credential = $4";
        let query = sqlx::query(sql).bind(&*self.after).bind(now()).bind(&*self.id).bind(&*self.before);
        Ok(query.execute(db).await?.rows_affected() > 0)
    }
}

/// The passkey that answers a challenge of this kind. `None` for whatever may be wrong with it.
pub async fn judge(
    app: &App,
    door: &Door,
    kind: Kind,
    answer: &PublicKeyCredential,
) -> Result<Option<Shown>> {
    let challenge = ceremony::end(app, door, kind, &answer.response.client_data_json).await?;
    let Some(challenge): Option<DiscoverableAuthentication> = challenge else { return Ok(None) };
    let Some((id, user_id, before)) = find(app, answer.get_credential_id()).await? else { return Ok(None) };
    if !is_handle_of(answer, &user_id) {
        return Ok(None);
    }
    let mut passkey: Passkey = serde_json::from_str(&before).map_err(anyhow::Error::from)?;
    let party = relying_party(&app.config)?;
    // Refuses a counter that has not grown, too.
    let Ok(result) = party.finish_discoverable_authentication_v2(answer, challenge, &passkey) else {
        return Ok(None);
    };
    passkey.update_credential(&result);
    Ok(Some(Shown { user_id, id, before, after: stored(&passkey)? }))
}

async fn find(app: &App, credential_id: &[u8]) -> Result<Option<(String, String, String)>> {
    let sql = "select id, user_id, credential from passkeys where credential_id = $1";
    let find = async |db: &mut Connection| {
        Ok(sqlx::query_as(sql).bind(credential_id.to_vec()).fetch_optional(db).await?)
    };
    app.db.read(find).await
}

/// Whether the authenticator takes its passkey for this user's, too.
fn is_handle_of(answer: &PublicKeyCredential, user_id: &str) -> bool {
    let handle = answer.get_user_unique_id();
    Uuid::parse_str(user_id).is_ok_and(|id| handle == Some(id.as_bytes()))
}
