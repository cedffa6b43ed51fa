//! A session as stored in the table, and the query that finds it.

use crate::accounts::{auth_level::AuthLevel, user::User};
use crate::base::{Config, Result, TokenHash};
use crate::db::{Connection, DbRow, ago, is_in_the_future};
use sqlx::{FromRow, Row};

/// A valid session and its user. As an argument of a handler: the session that the request belongs to.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: String,
    pub token_hash: TokenHash,
    pub user: User,
    /// When its user last authenticated, in seconds since 1970.
    pub confirmed_at: i64,
    /// The level of that last authentication.
    pub confirmed: AuthLevel,
    /// The highest level reached in this session.
    pub level: AuthLevel,
}

impl Session {
    /// Whether its user has authenticated within `CONFIRM_LIFETIME`.
    pub fn is_recent(&self, config: &Config) -> bool {
        self.confirmed_at > ago(config.confirm_lifetime) && !is_in_the_future(self.confirmed_at)
    }
}

/// A session, which may have expired.
#[derive(Clone)]
pub struct SessionRow {
    pub session: Session,
    pub created_at: i64,
    pub seen_at: i64,
    /// The `User-Agent` that it was last used with.
    pub device: String,
}

impl FromRow<'_, DbRow> for SessionRow {
    fn from_row(row: &DbRow) -> sqlx::Result<SessionRow> {
        let hash: Vec<u8> = row.try_get("token_hash")?;
        let session = Session {
            id: row.try_get("id")?,
            token_hash: hash.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))?,
            user: User::from_row(row)?,
            confirmed_at: row.try_get("confirmed_at")?,
            confirmed: AuthLevel::from_factors(row.try_get("confirmed_factors")?),
            level: AuthLevel::from_factors(row.try_get("factors")?),
        };
        Ok(SessionRow {
            session,
            created_at: row.try_get("created_at")?,
            seen_at: row.try_get("seen_at")?,
            device: row.try_get("device")?,
        })
    }
}

/// How many sessions [`find_all`] can find at once.
pub const MOST_AT_ONCE: usize = 32;

const ONE: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, s.confirmed_at, s.device, s.confirmed_factors, s.factors, \
     s.user_id, u.username from sessions s join users u on u.id = s.user_id \
     where u.disabled_at is null and s.token_hash in ($1)";

const MANY: &str = "select s.token_hash, s.id, s.created_at, s.seen_at, s.confirmed_at, s.device, s.confirmed_factors, s.factors, \
     s.user_id, u.username from sessions s join users u on u.id = s.user_id \
     where u.disabled_at is null and s.token_hash in \
     ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
     $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)";

/// The sessions with these token hashes, at most [`MOST_AT_ONCE`], joined to their users. A short list is padded by
/// repeating its first hash, so that two prepared statements serve every length.
pub async fn find_all(db: &mut Connection, hashes: &[&TokenHash]) -> Result<Vec<SessionRow>> {
    let Some(&first) = hashes.first() else { return Ok(Vec::new()) };
    let (sql, length) = if hashes.len() == 1 { (ONE, 1) } else { (MANY, MOST_AT_ONCE) };
    let padded = hashes.iter().copied().chain(std::iter::repeat(first)).take(length);
    let query = padded.fold(sqlx::query_as(sql), |query, hash| query.bind(&hash[..]));
    Ok(query.fetch_all(db).await?)
}
