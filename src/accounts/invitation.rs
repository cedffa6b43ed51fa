//! Invitations: links with which people may sign up. Each is counted and expires. One for an address is only mailed there.

use super::permission::{Permission, Permissions};
use crate::base::{Error, Result, Token};
use crate::db::{Connection, DbRow, new_id, now};
use sqlx::{FromRow, Row};
use std::time::Duration;

pub const INVITE: Permission = Permission::named("invitations.manage", "Invite people, and withdraw invitations");

/// The kind of mail that invites somebody. It is about the id of an invitation.
pub const INVITATION_MAIL: &str = "invitation";

/// An invitation that is about to be made.
pub struct NewInvitation<'a> {
    pub email: Option<&'a str>,
    pub group_id: Option<&'a str>,
    pub uses: i64,
    pub lifetime: Duration,
    /// `None` for a command.
    pub created_by: Option<&'a str>,
}

/// What an invitation that still works says.
#[derive(Clone, Debug)]
pub struct Invitation {
    pub id: String,
    pub email: Option<String>,
    pub group_id: Option<String>,
    pub created_by: Option<String>,
}

impl FromRow<'_, DbRow> for Invitation {
    fn from_row(row: &DbRow) -> sqlx::Result<Invitation> {
        Ok(Invitation {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            group_id: row.try_get("group_id")?,
            created_by: row.try_get("created_by")?,
        })
    }
}

/// Makes an invitation and returns its id. It has no token yet: see [`renew`].
pub async fn create(db: &mut Connection, new: &NewInvitation<'_>) -> Result<String> {
    let (id, now) = (new_id(), now());
    let sql = "insert into invitations (id, email, group_id, uses, used, created_by, created_at, expires_at) \
               values ($1, $2, $3, $4, 0, $5, $6, $7)";
    let query = sqlx::query(sql).bind(&*id).bind(new.email).bind(new.group_id).bind(new.uses);
    let query = query.bind(new.created_by).bind(now).bind(now + new.lifetime.as_secs() as i64);
    query.execute(db).await?;
    Ok(id)
}

/// Gives an invitation a new token; an earlier one no longer works. `None` if the invitation has ended.
pub async fn renew(db: &mut Connection, id: &str) -> Result<Option<Token>> {
    let token = Token::random()?;
    let sql = "update invitations set token_hash = $2 where id = $1 and used < uses and expires_at > $3";
    let query = sqlx::query(sql).bind(id).bind(token.hash().to_vec()).bind(now());
    Ok((query.execute(db).await?.rows_affected() > 0).then_some(token))
}

/// The invitation with this token.
///
/// # Errors
/// [`Error::StaleLink`] when it is used up, expired or withdrawn, or whoever made it could not make it now.
pub async fn find(db: &mut Connection, token: &Token) -> Result<Invitation> {
    let sql = "select id, email, group_id, created_by from invitations \
               where token_hash = $1 and used < uses and expires_at > $2";
    let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(now());
    let invitation: Invitation = query.fetch_optional(&mut *db).await?.ok_or(Error::StaleLink)?;
    if is_still_allowed(db, &invitation).await? { Ok(invitation) } else { Err(Error::StaleLink) }
}

/// Uses the invitation with this token once. Of many at once, only as many succeed as it has uses.
///
/// # Errors
/// As [`find`].
pub async fn accept(db: &mut Connection, token: &Token) -> Result<Invitation> {
    let sql = "update invitations set used = used + 1 where token_hash = $1 and used < uses and expires_at > $2 \
               returning id, email, group_id, created_by";
    let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(now());
    let invitation: Invitation = query.fetch_optional(&mut *db).await?.ok_or(Error::StaleLink)?;
    if is_still_allowed(db, &invitation).await? { Ok(invitation) } else { Err(Error::StaleLink) }
}

/// Whether whoever made it may still invite, and into that group. Who is disabled has no invitations.
async fn is_still_allowed(db: &mut Connection, invitation: &Invitation) -> Result<bool> {
    let Some(maker) = &invitation.created_by else { return Ok(true) };
    let own = Permissions::of_user(db, maker).await?;
    let given = match &invitation.group_id {
        Some(group) => Permissions::of_group(db, group).await?,
        None => Permissions::default(),
    };
    Ok(own.has(INVITE) && own.cover(&given))
}

/// Withdraws all invitations by a user, because somebody else may have made them in their name. Returns how many.
pub async fn revoke_all(db: &mut Connection, user_id: &str) -> Result<u64> {
    let sql = "delete from invitations where created_by = $1";
    Ok(sqlx::query(sql).bind(user_id).execute(db).await?.rows_affected())
}

/// What people get who accept the invitation with this id, together with what its maker may do. Whoever lacks any of that
/// may not withdraw it.
pub async fn permissions(db: &mut Connection, id: &str) -> Result<Permissions> {
    let sql = "select group_id, created_by from invitations where id = $1";
    let found: Option<(Option<String>, Option<String>)> = sqlx::query_as(sql).bind(id).fetch_optional(&mut *db).await?;
    let (group_id, created_by) = found.unwrap_or_default();
    let given = Permissions::of_group(db, &group_id.unwrap_or_default()).await?;
    Ok(given.and(Permissions::of_user(db, &created_by.unwrap_or_default()).await?))
}

/// Deletes invitations that expired at `$1` or before.
pub const PURGE: &str =
    "delete from invitations where id in (select id from invitations where expires_at <= $1 limit 1000)";
