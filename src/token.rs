//! Tokens: what is handed out, and what is kept of it. Those of links in mails work once, for one purpose, for a while.

use crate::database::{Connection, now};
use crate::error::{Error, Result};
use crate::{address, mail, password, user};
use anyhow::anyhow;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use getrandom::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// 256 random bits that open something. Neither printed nor stored.
pub struct Token([u8; 32]);

/// The SHA-256 of a [`Token`]: what a table holds. Without a salt, because nobody can guess 256 bits.
pub type TokenHash = [u8; 32];

impl Token {
    pub fn random() -> Result<Token> {
        random().map(Token)
    }

    /// Reads the 43 characters of [`Token::text`]; anything else is no token.
    pub fn parse(text: &str) -> Option<Token> {
        BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Token)
    }

    /// As a browser holds it: 43 characters of base64url.
    pub fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    pub fn hash(&self) -> TokenHash {
        Sha256::digest(self.0).into()
    }
}

/// Bytes from a ChaCha20 generator that the operating system has just seeded with 256 bits.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let seeded = ChaCha20Rng::try_from_rng(&mut SysRng);
    let mut generator = seeded.map_err(|error| Error::Fault(anyhow!("no randomness: {error}")))?;
    let mut bytes = [0; N];
    generator.fill_bytes(&mut bytes);
    Ok(bytes)
}

/// What a link in a mail is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To choose a new password.
    Reset,
    /// To confirm an address.
    Confirm,
    /// To undo what was done to an account.
    Undo,
}

impl Purpose {
    /// How the table has it.
    fn name(self) -> &'static str {
        match self {
            Purpose::Reset => "reset",
            Purpose::Confirm => "confirm",
            Purpose::Undo => "undo",
        }
    }
}

/// What the token of a link stands for.
#[derive(Debug)]
pub struct Link {
    pub user_id: String,
    pub username: String,
    /// The address that it was mailed to, or nothing.
    pub email: String,
    /// The event or the mail that it is about, or nothing.
    pub event_id: String,
}

/// Makes a one-time token for what it is about: an event, the mail that it goes with, or nothing. Of those to reset and to
/// confirm that go to one place the newest is the only one that works, so that nobody ends what a recovery code has opened by
/// asking for a mail; and of a mail that was sent twice both: programs show one of two mails with
/// one Message-ID, whichever they like. Those to undo stand beside each other, so that nobody can make an owner's worthless
/// by causing another.
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
    let sql = "insert into tokens (token_hash, purpose, user_id, email, event_id, expires_at) \
               values ($1, $2, $3, $4, $5, $6)";
    let query = sqlx::query(sql).bind(token.hash().to_vec()).bind(purpose.name()).bind(user_id);
    let query = query.bind(email).bind(event_id).bind(now() + lifetime.as_secs() as i64);
    query.execute(db).await?;
    Ok(token)
}

/// What the token in a path stands for, which stays as it is: mail scanners and previews follow links too. One to confirm an
/// address is good as long as the address waits; so whoever proves theirs needs not end the links of others, who may be
/// about to spend them and wait for the same address.
///
/// # Errors
/// [`Error::StaleLink`] when it is unknown, spent, expired, displaced, or its user may not log in.
pub async fn find(db: &mut Connection, purpose: Purpose, text: &str) -> Result<Link> {
    let token = Token::parse(text).ok_or(Error::StaleLink)?;
    let sql = "select u.id, u.username, t.email, t.event_id from tokens t join users u on u.id = t.user_id \
               where t.token_hash = $1 and t.purpose = $2 and t.expires_at > $3 and u.disabled_at is null \
               and (t.purpose <> 'confirm' or exists (select 1 from addresses a \
               where a.user_id = t.user_id and a.email = t.email and a.confirmed_at is null))";
    let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(purpose.name()).bind(now());
    let row: Option<(String, String, String, String)> = query.fetch_optional(db).await?;
    let (user_id, username, email, event_id) = row.ok_or(Error::StaleLink)?;
    Ok(Link { user_id, username, email, event_id })
}

/// As [`find`], and nobody can use it again. Takes the user's row first, as everything does that changes a user.
///
/// # Errors
/// As [`find`].
pub async fn spend(db: &mut Connection, purpose: Purpose, text: &str) -> Result<Link> {
    let link = find(db, purpose, text).await?;
    let hash = Token::parse(text).ok_or(Error::StaleLink)?.hash().to_vec();
    let spent = user::lock(db, &link.user_id).await?
        && sqlx::query("delete from tokens where token_hash = $1")
            .bind(hash)
            .execute(db)
            .await?
            .rows_affected()
            > 0;
    if spent { Ok(link) } else { Err(Error::StaleLink) }
}

/// The user's links for this purpose do not work any more.
pub async fn end(db: &mut Connection, user_id: &str, purpose: Purpose) -> Result<()> {
    let sql = "delete from tokens where user_id = $1 and purpose = $2";
    sqlx::query(sql).bind(user_id).bind(purpose.name()).execute(db).await?;
    Ok(())
}

/// Links to confirm another address of the user's do not work any more. One to this address does until a newer is sent:
/// whoever asks once too often is sent none.
pub async fn end_for_other_addresses(db: &mut Connection, user_id: &str, email: &str) -> Result<()> {
    let sql = "delete from tokens where user_id = $1 and purpose = 'confirm' and email <> $2";
    sqlx::query(sql).bind(user_id).bind(email).execute(db).await?;
    Ok(())
}

/// Links that are on their way to reset and to confirm do not work any more, and none that is yet to be mailed will.
pub async fn end_begun(db: &mut Connection, user_id: &str) -> Result<()> {
    end(db, user_id, Purpose::Reset).await?;
    end(db, user_id, Purpose::Confirm).await?;
    mail::drop_unsent(db, user_id, password::RESET).await?;
    mail::drop_unsent(db, user_id, address::CONFIRM).await
}

/// The user's links to undo what was done from this event on do not work any more, and none that is yet to be mailed will.
pub async fn end_undos_since(db: &mut Connection, user_id: &str, event_id: &str) -> Result<()> {
    let sql = "delete from tokens where user_id = $1 and purpose = 'undo' and event_id >= $2";
    sqlx::query(sql).bind(user_id).bind(event_id).execute(&mut *db).await?;
    mail::drop_untold_since(db, user_id, event_id).await
}

/// Tokens that have expired; `$1` is the time.
pub const PURGE: &str = "delete from tokens where token_hash in (select token_hash from tokens where expires_at <= $1 limit 1000)";
