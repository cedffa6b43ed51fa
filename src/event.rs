//! What happened to whom: recorded in the transaction that does it, and never changed afterwards.

use crate::database::{BEHIND_ALL_IDS, Connection, new_id, now};
use crate::error::Result;
use crate::factor::Proven;
use crate::guard::Client;
use crate::mail;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    SignedUp,
    LoggedIn,
    LogInFailed,
    /// Log-ins failed so often that the next have to wait.
    Throttled,
    LoggedOut,
    Confirmed,
    PasswordChanged,
    UsernameChanged,
    SessionEnded,
    OtherSessionsEnded,
    /// A session was used by another browser than the one it began with.
    OtherBrowser,
    /// A log-in with a browser that the user had not logged in with before.
    NewBrowser,
    /// A new password was chosen by a link, without the old one.
    PasswordReset,
    AddressConfirmed,
    AddressChanged,
    AddressRemoved,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    PasswordRemoved,
    TwoFactorOn,
    TwoFactorOff,
    WrongCode,
    /// Codes were wrong so often that the next have to wait.
    CodesLocked,
    PasskeyAdded,
    PasskeyRemoved,
    /// By the owner of an address that the account had had.
    Undone,
    Deleted,
}

/// Every event: how the table has it, and what it says to the person it happened to.
const WORDS: [(Event, &str, &str); 27] = [
    (Event::SignedUp, "signed_up", "You signed up"),
    (Event::LoggedIn, "logged_in", "Logged in"),
    (Event::LogInFailed, "log_in_failed", "A password was wrong"),
    (Event::Throttled, "throttled", "Too many wrong passwords: the next attempts have to wait"),
    (Event::LoggedOut, "logged_out", "Logged out"),
    (Event::Confirmed, "confirmed", "Confirmed who you are"),
    (Event::PasswordChanged, "password_changed", "Password changed"),
    (Event::UsernameChanged, "username_changed", "Username changed"),
    (Event::SessionEnded, "session_ended", "A session was ended"),
    (Event::OtherSessionsEnded, "other_sessions_ended", "Logged out everywhere else"),
    (Event::OtherBrowser, "other_browser", "A session was used by another browser"),
    (Event::NewBrowser, "new_browser", "Logged in with a new browser"),
    (Event::PasswordReset, "password_reset", "A new password was chosen by a link"),
    (Event::AddressConfirmed, "address_confirmed", "E-mail address confirmed"),
    (Event::AddressChanged, "address_changed", "E-mail address changed"),
    (Event::AddressRemoved, "address_removed", "E-mail address removed"),
    (Event::RecoveryCodesMade, "recovery_codes_made", "New recovery codes were made"),
    (Event::RecoveryCodeUsed, "recovery_code_used", "A recovery code was used"),
    (Event::PasswordRemoved, "password_removed", "Password removed"),
    (Event::TwoFactorOn, "two_factor_on", "Two-factor turned on"),
    (Event::TwoFactorOff, "two_factor_off", "Two-factor turned off"),
    (Event::WrongCode, "wrong_code", "A code was wrong"),
    (Event::CodesLocked, "codes_locked", "Too many wrong codes: the next attempts have to wait"),
    (Event::PasskeyAdded, "passkey_added", "Passkey added"),
    (Event::PasskeyRemoved, "passkey_removed", "Passkey removed"),
    (Event::Undone, "undone", "Changes were undone by a link in a mail"),
    (Event::Deleted, "deleted", "Account deleted"),
];

/// What people are told by mail, because somebody else may have done it.
const TOLD: [Event; 16] = [
    Event::Throttled,
    Event::NewBrowser,
    Event::PasswordChanged,
    Event::PasswordReset,
    Event::UsernameChanged,
    Event::AddressChanged,
    Event::AddressRemoved,
    Event::RecoveryCodesMade,
    Event::RecoveryCodeUsed,
    Event::PasswordRemoved,
    Event::TwoFactorOn,
    Event::TwoFactorOff,
    Event::CodesLocked,
    Event::PasskeyAdded,
    Event::PasskeyRemoved,
    Event::Undone,
];

impl Event {
    /// How the table has it.
    pub fn kind(self) -> &'static str {
        WORDS.iter().find(|(event, ..)| *event == self).map_or("", |(_, kind, _)| kind)
    }
}

/// `user_id` is `None` for what happened to a name that nobody has.
pub async fn record(
    db: &mut Connection,
    user_id: impl Into<Option<&str>>,
    event: Event,
    client: &Client,
) -> Result<()> {
    record_proven(db, user_id, event, Proven::OneFactor, client).await
}

/// As [`record`], of somebody who has shown so much of who they are: what was done with two factors a mailbox alone does not
/// undo.
pub async fn record_proven(
    db: &mut Connection,
    user_id: impl Into<Option<&str>>,
    event: Event,
    proven: Proven,
    client: &Client,
) -> Result<()> {
    let (id, user_id) = (new_id(), user_id.into());
    let sql = "insert into events (id, user_id, kind, factors, created_at, address, device) \
               values ($1, $2, $3, $4, $5, $6, $7)";
    let query = sqlx::query(sql).bind(&*id).bind(user_id).bind(event.kind()).bind(proven.count()).bind(now());
    query.bind(client.address.to_string()).bind(client.device()).execute(&mut *db).await?;
    if TOLD.contains(&event) { mail::tell(db, user_id, &id).await } else { Ok(()) }
}

/// Takes from a user's events all that could tell who they were.
pub async fn forget_details(db: &mut Connection, user_id: &str) -> Result<()> {
    let sql = "update events set address = null, device = null where user_id = $1";
    sqlx::query(sql).bind(user_id).execute(db).await?;
    Ok(())
}

/// An event as the person it happened to is told of it.
pub struct Told {
    pub id: String,
    /// None when it is from another version of the app; then its words are its name.
    pub event: Option<Event>,
    pub words: String,
    pub proven: Proven,
    pub created_at: i64,
    pub address: String,
    /// The `User-Agent`.
    pub device: String,
}

/// What the table has of an event.
type Columns = (String, String, i64, i64, String, String);

impl From<Columns> for Told {
    fn from((id, kind, factors, created_at, address, device): Columns) -> Told {
        let known = WORDS.iter().find(|(_, known, _)| *known == kind);
        let words = known.map_or(kind.replace('_', " "), |(_, _, words)| words.to_string());
        let (event, proven) = (known.map(|&(event, ..)| event), Proven::of(factors));
        Told { id, event, words, proven, created_at, address, device }
    }
}

pub async fn find(db: &mut Connection, id: &str) -> Result<Option<Told>> {
    let sql = "select id, kind, factors, created_at, coalesce(address, ''), coalesce(device, '') from events \
               where id = $1";
    let row: Option<Columns> = sqlx::query_as(sql).bind(id).fetch_optional(db).await?;
    Ok(row.map(Told::from))
}

/// What happened to a user before `after`, newest first.
pub async fn history(
    db: &mut Connection,
    user_id: &str,
    after: Option<&str>,
    most: i64,
) -> Result<Vec<Told>> {
    let sql = "select id, kind, factors, created_at, coalesce(address, ''), coalesce(device, '') from events \
               where user_id = $1 and id < $2 order by id desc limit $3";
    let query = sqlx::query_as(sql).bind(user_id).bind(after.unwrap_or(BEHIND_ALL_IDS)).bind(most);
    let rows: Vec<Columns> = query.fetch_all(db).await?;
    Ok(rows.into_iter().map(Told::from).collect())
}

/// Events older than `$1`.
pub const PURGE: &str =
    "delete from events where id in (select id from events where created_at <= $1 limit 1000)";
