//! What happened to whom: recorded in the transaction that does it, and never changed afterwards.

use crate::database::{Connection, new_id, now};
use crate::error::Result;
use crate::guard::Client;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    SignedUp,
    LoggedIn,
    LoggedOut,
    Deleted,
}

impl Event {
    /// How the table has it.
    pub fn kind(self) -> &'static str {
        match self {
            Event::SignedUp => "signed_up",
            Event::LoggedIn => "logged_in",
            Event::LoggedOut => "logged_out",
            Event::Deleted => "deleted",
        }
    }
}

pub async fn record(db: &mut Connection, user_id: &str, event: Event, client: &Client) -> Result<()> {
    let sql =
        "insert into events (id, user_id, kind, created_at, address, device) values ($1, $2, $3, $4, $5, $6)";
    let query = sqlx::query(sql).bind(new_id()).bind(user_id).bind(event.kind()).bind(now());
    query.bind(client.address.to_string()).bind(&*client.device).execute(db).await?;
    Ok(())
}

/// Takes from a user's events all that could tell who they were.
pub async fn forget_details(db: &mut Connection, user_id: &str) -> Result<()> {
    let sql = "update events set address = null, device = null where user_id = $1";
    sqlx::query(sql).bind(user_id).execute(db).await?;
    Ok(())
}
