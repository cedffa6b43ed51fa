//! E-mail addresses. A user has at most one that is confirmed, and at most one that waits for it.
//!
//! An address that waits proves nothing: any number of users may have it waiting. Whoever proves first, by the link that
//! is mailed there, that it is theirs has it, and what others had begun with it ends.

use crate::database::{Connection, now};
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::Proven;
use crate::guard::Client;
use crate::mail;
use crate::token::{self, Link, Purpose};

/// An e-mail address, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// RFC 5321, 4.5.3.1.3, less the angle brackets.
    pub const MAX_LENGTH: usize = 254;

    /// Accepts what both the HTML standard's `<input type="email">` and the library that sends mails accept, with a dot
    /// in the domain.
    ///
    /// # Errors
    /// The sentence to show beside the field.
    pub fn parse(text: &str) -> Result<Email, String> {
        let wrong = || "This does not look like an address.".to_string();
        let (local, domain) = text.split_once('@').ok_or_else(wrong)?;
        let mark = |byte| b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let well_formed = !local.is_empty()
            && local.len() <= 64
            && local.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
            && domain.contains('.')
            && domain.split('.').all(label)
            && text.len() <= Email::MAX_LENGTH
            && text.parse::<lettre::Address>().is_ok();
        if well_formed { Ok(Email(text.to_ascii_lowercase())) } else { Err(wrong()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a user has.
#[derive(Default)]
pub struct Addresses {
    pub confirmed: Option<String>,
    /// Waits to be confirmed; then it takes the other's place.
    pub pending: Option<String>,
}

impl Addresses {
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.confirmed.iter().chain(&self.pending).map(String::as_str)
    }
}

pub async fn of_user(db: &mut Connection, user_id: &str) -> Result<Addresses> {
    let sql = "select email, confirmed_at from addresses where user_id = $1";
    let rows: Vec<(String, Option<i64>)> = sqlx::query_as(sql).bind(user_id).fetch_all(db).await?;
    let mut addresses = Addresses::default();
    for (email, confirmed_at) in rows {
        *(if confirmed_at.is_some() { &mut addresses.confirmed } else { &mut addresses.pending }) =
            Some(email);
    }
    Ok(addresses)
}

/// The user who has confirmed this address, who may be disabled: then it is still theirs.
pub async fn owner(db: &mut Connection, email: &str) -> Result<Option<String>> {
    let sql = "select user_id from addresses where email = $1 and confirmed_at is not null";
    let row: Option<(String,)> = sqlx::query_as(sql).bind(email).fetch_optional(db).await?;
    Ok(row.map(|(id,)| id))
}

/// The kind of the mail that asks whether an address is the user's.
pub const CONFIRM: &str = "confirm_address";

/// Has an address wait to be confirmed, in place of another that waited, and mails it a link. The user has `proven` so much,
/// and their row is [`crate::user::lock`]ed.
pub async fn begin(db: &mut Connection, user_id: &str, email: &Email, proven: Proven) -> Result<()> {
    let sql = "delete from addresses where user_id = $1 and confirmed_at is null";
    sqlx::query(sql).bind(user_id).execute(&mut *db).await?;
    let sql = "insert into addresses (user_id, email, factors) values ($1, $2, $3)";
    let query = sqlx::query(sql).bind(user_id).bind(email.as_str()).bind(proven.count());
    query.execute(&mut *db).await?;
    token::end_for_other_addresses(db, user_id, email.as_str()).await?;
    mail::queue(db, CONFIRM, Some(user_id), email.as_str()).await
}

/// Makes the address that waits the user's own. The old one is told.
///
/// # Errors
/// [`Error::StaleLink`] when it does not wait any more, or somebody else has proved it first.
pub async fn confirm(db: &mut Connection, link: &Link, client: &Client) -> Result<()> {
    // Takes every row of the address, so that those who prove it at the same time follow one another.
    let sql = "update addresses set email = $1 where email = $1";
    sqlx::query(sql).bind(&*link.email).execute(&mut *db).await?;
    let old = of_user(db, &link.user_id).await?;
    if old.pending.as_ref() != Some(&link.email) || owner(db, &link.email).await?.is_some() {
        return Err(Error::StaleLink);
    }
    // Before it is done, while the old address is the one to be told.
    let event = if old.confirmed.is_some() { Event::AddressChanged } else { Event::AddressConfirmed };
    let sql = "select factors from addresses where user_id = $1 and confirmed_at is null";
    let (factors,): (i64,) = sqlx::query_as(sql).bind(&*link.user_id).fetch_one(&mut *db).await?;
    event::record_proven(db, &*link.user_id, event, Proven::of(factors), client).await?;
    // Somebody who takes an account back may have got it at this moment.
    if make_own(db, &link.user_id, &link.email).await? { Ok(()) } else { Err(Error::StaleLink) }
}

/// Makes an address that has been proved the only one of its user, and ends what others had begun with it. Answers whether
/// it could be: one that somebody else has confirmed cannot.
pub async fn make_own(db: &mut Connection, user_id: &str, email: &str) -> Result<bool> {
    let sql = "delete from addresses where user_id = $1 or email = $2 and confirmed_at is null";
    sqlx::query(sql).bind(user_id).bind(email).execute(&mut *db).await?;
    let sql = "insert into addresses (user_id, email, confirmed_at) values ($1, $2, $3) \
               on conflict (email) where confirmed_at is not null do nothing";
    let made = sqlx::query(sql).bind(user_id).bind(email).bind(now()).execute(&mut *db).await?;
    // Links to the addresses that the user had before.
    token::end(db, user_id, Purpose::Confirm).await?;
    token::end(db, user_id, Purpose::Reset).await?;
    Ok(made.rows_affected() > 0)
}

/// Takes an address from the user, confirmed or not, who has `proven` so much. One that was confirmed is told.
pub async fn remove(
    db: &mut Connection,
    user_id: &str,
    email: &str,
    proven: Proven,
    client: &Client,
) -> Result<()> {
    if of_user(db, user_id).await?.confirmed.as_deref() == Some(email) {
        event::record_proven(db, user_id, Event::AddressRemoved, proven, client).await?;
    }
    let sql = "delete from addresses where user_id = $1 and email = $2";
    sqlx::query(sql).bind(user_id).bind(email).execute(&mut *db).await?;
    token::end(db, user_id, Purpose::Confirm).await?;
    token::end(db, user_id, Purpose::Reset).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_address() {
        assert_eq!(
            Email::parse("Ada.Lovelace+notes@Example.COM").unwrap().as_str(),
            "ada.lovelace+notes@example.com"
        );
        let long = format!("{}@example.com", "a".repeat(300));
        for wrong in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "a@b.com,c@d.com",
            "a@b.com\r\nBcc: c@d.com",
            "a b@c.com",
            "a@b@c.com",
            "ada@example..com",
            "ada..lovelace@example.com",
            "ada@-example.com",
            "adа@example.com",
            "ada@exampıe.com",
            "<a@b.com>",
            &long,
        ] {
            assert!(Email::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
