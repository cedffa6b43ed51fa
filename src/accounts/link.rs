//! Links in mails: each has a token that works once, for one purpose, for a limited time.

use super::stored_token::{self, NewToken};
use super::{event, user};
use crate::base::{Config, Error, Result, Token};
use crate::db::rate_limit::{self, Key};
use crate::db::{Connection, DbRow, now};
use crate::mail::outbox::{self, Mail};
use sqlx::{FromRow, Row};
use std::time::Duration;

/// The purpose of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To set a new password.
    Reset,
    /// To confirm an address.
    Confirm,
    /// To undo changes of an account.
    Undo,
}

impl Purpose {
    /// The name in the table.
    fn name(self) -> &'static str {
        match self {
            Purpose::Reset => "reset",
            Purpose::Confirm => "confirm",
            Purpose::Undo => "undo",
        }
    }
}

/// Counts a mail to this user by `MAILS_PER_ACCOUNT`, and to its address by `MAILS_PER_ADDRESS`. Returns whether it may
/// be sent. A retry was counted before.
pub async fn count_mail(config: &Config, db: &mut Connection, mail: &Mail, user_id: &str) -> Result<bool> {
    let (account, address) = (Key::new(&mail.kind, user_id), Key::new(&mail.kind, &mail.email));
    Ok(mail.is_retry()
        || rate_limit::try_take(db, &account, config.mails_per_account).await?
            && rate_limit::try_take(db, &address, config.mails_per_address).await?)
}

/// The kinds of mails with links to reset and to confirm.
pub const RESET_MAIL: &str = "password_reset";
pub const CONFIRM_MAIL: &str = "confirm_address";

/// What the token of a link stands for.
#[derive(Debug)]
pub struct Link {
    pub user_id: String,
    pub username: String,
    /// The address that it was mailed to, or empty.
    pub email: String,
    /// The event or the mail that it is about, or empty.
    pub event_id: String,
}

impl FromRow<'_, DbRow> for Link {
    fn from_row(row: &DbRow) -> sqlx::Result<Link> {
        Ok(Link {
            user_id: row.try_get("user_id")?,
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            event_id: row.try_get("event_id")?,
        })
    }
}

/// Creates the token of a link. `event_id` is the event or the mail that it is about, or empty.
///
/// Of the links to reset and to confirm that were mailed to one address, only the newest works. They do not affect
/// links for another address, so requesting a mail does not cancel the link of a recovery code. If a mail is sent
/// twice, both links work, because a mail program may show either copy. Links to undo do not replace each other, so an
/// attacker cannot cancel the owner's link by causing another.
pub async fn issue(
    db: &mut Connection,
    purpose: Purpose,
    user_id: &str,
    email: &str,
    event_id: &str,
    lifetime: Duration,
) -> Result<Token> {
    if purpose != Purpose::Undo {
        let sql = "delete from tokens where user_id = $1 and purpose = $2 and email = $3 \
                   and (event_id <> $4 or $4 = '')";
        let query = sqlx::query(sql).bind(user_id).bind(purpose.name()).bind(email).bind(event_id);
        query.execute(&mut *db).await?;
    }
    let token = Token::random()?;
    let new = NewToken {
        purpose: purpose.name(),
        user_id: Some(user_id),
        email: Some(email),
        event_id: Some(event_id),
        lifetime,
        ..NewToken::default()
    };
    stored_token::insert(db, &token.hash(), new).await?;
    Ok(token)
}

/// When the newest link for this purpose was sent there. `None` if it does not work any more.
pub async fn sent_at(
    db: &mut Connection,
    purpose: Purpose,
    user_id: &str,
    email: &str,
    lifetime: Duration,
) -> Result<Option<i64>> {
    let sql =
        "select max(expires_at) from tokens where user_id = $1 and purpose = $2 and email = $3 and expires_at > $4";
    let query = sqlx::query_scalar(sql).bind(user_id).bind(purpose.name()).bind(email).bind(now());
    let expires_at: Option<i64> = query.fetch_one(db).await?;
    Ok(expires_at.map(|expires_at| expires_at - lifetime.as_secs() as i64))
}

/// What the token in a path stands for. It stays valid, because mail scanners and previews follow links too. A link to
/// confirm an address is valid while the address is pending.
///
/// # Errors
/// [`Error::StaleLink`] when it is unknown, used, expired or replaced, or its user may not log in.
pub async fn find(db: &mut Connection, purpose: Purpose, text: &str) -> Result<Link> {
    let token = Token::parse(text).ok_or(Error::StaleLink)?;
    let sql = "select u.id as user_id, u.username, t.email, t.event_id from tokens t join users u on u.id = t.user_id \
               where t.token_hash = $1 and t.purpose = $2 and t.expires_at > $3 and u.disabled_at is null \
               and (t.purpose <> 'confirm' or exists (select 1 from addresses a \
               where a.user_id = t.user_id and a.email = t.email and a.confirmed_at is null))";
    let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(purpose.name()).bind(now());
    query.fetch_optional(db).await?.ok_or(Error::StaleLink)
}

/// Like [`find`], and invalidates the token. Locks the user's row first, as everything that changes a user does.
///
/// # Errors
/// As [`find`].
pub async fn consume(db: &mut Connection, purpose: Purpose, text: &str) -> Result<Link> {
    let link = find(db, purpose, text).await?;
    let token = Token::parse(text).ok_or(Error::StaleLink)?;
    let consumed = user::lock(db, &link.user_id).await?.is_some()
        && stored_token::delete(db, &token.hash(), purpose.name()).await?;
    if consumed { Ok(link) } else { Err(Error::StaleLink) }
}

/// Invalidates the user's links for this purpose.
pub async fn revoke(db: &mut Connection, user_id: &str, purpose: Purpose) -> Result<()> {
    stored_token::delete_all(db, user_id, purpose.name()).await?;
    Ok(())
}

/// Invalidates links to confirm other addresses of the user. A link to this address stays valid until a newer one is
/// sent, because over the limit none is sent.
pub async fn revoke_for_other_addresses(db: &mut Connection, user_id: &str, email: &str) -> Result<()> {
    let sql = "delete from tokens where user_id = $1 and purpose = 'confirm' and email <> $2";
    sqlx::query(sql).bind(user_id).bind(email).execute(db).await?;
    Ok(())
}

/// Invalidates the user's links to reset and to confirm, and cancels mails that would contain more.
pub async fn revoke_pending(db: &mut Connection, user_id: &str) -> Result<()> {
    revoke(db, user_id, Purpose::Reset).await?;
    revoke(db, user_id, Purpose::Confirm).await?;
    outbox::cancel(db, user_id, RESET_MAIL).await?;
    outbox::cancel(db, user_id, CONFIRM_MAIL).await
}

/// Invalidates the user's links to undo this event and later ones, and cancels mails that would contain more.
pub async fn revoke_undo_since(db: &mut Connection, user_id: &str, event_id: &str) -> Result<()> {
    let sql = "delete from tokens where user_id = $1 and purpose = 'undo' and event_id >= $2";
    sqlx::query(sql).bind(user_id).bind(event_id).execute(&mut *db).await?;
    outbox::cancel_since(db, user_id, event::NOTICE, event_id).await
}
