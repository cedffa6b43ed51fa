//! E-mail addresses. A user has at most one that is confirmed, and at most one that is pending.
//!
//! A pending address proves nothing: any number of users can have the same one. The first to confirm it with the link
//! that is mailed there gets it; it is then deleted from the others.

use super::event::{self, Event};
use super::link::{self, Link};
use super::{auth_level::AuthLevel, client::Client, domain};
use crate::base::{Error, Result};
use crate::db::{Connection, now};
use crate::mail::{message, outbox};
use serde::Serialize;

pub const CONFIRMED: Event = Event::named("address_confirmed", "E-mail address confirmed");
pub const CHANGED: Event = Event::named("address_changed", "E-mail address changed").with_notice(
    "Your e-mail address was changed",
    "Another address has replaced this one. Mail about your account will go there from now on.",
);
pub const REMOVED: Event = Event::named("address_removed", "E-mail address removed").with_notice(
    "Your e-mail address was removed",
    "The account has no confirmed address now, so this is the last mail about it.",
);

/// An e-mail address, in lower case and in ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// RFC 5321, 4.5.3.1.3, less the angle brackets.
    pub const MAX_LENGTH: usize = 254;

    /// Accepts what both the HTML standard's `<input type="email">` and the mail library accept, with a dot in the
    /// domain. Outer spaces are ignored: phone keyboards add one after a suggestion.
    ///
    /// # Errors
    /// The message to show next to the field.
    pub fn parse(text: &str) -> Result<Email, String> {
        let too_long = || format!("An e-mail address can have at most {} characters.", Email::MAX_LENGTH);
        if text.chars().count() > Email::MAX_LENGTH {
            return Err(too_long());
        }
        let wrong = || "This does not look like an e-mail address.".to_string();
        let (local, domain) = text.trim_end_matches(' ').split_once('@').ok_or_else(wrong)?;
        if !local.is_ascii() {
            return Err("Before the @, only plain letters from a to z, digits and punctuation are allowed.".into());
        }
        let domain = domain::to_ascii(domain).ok_or_else(wrong)?;
        let mark = |byte| b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let email = format!("{}@{domain}", local.to_ascii_lowercase());
        if email.len() > Email::MAX_LENGTH {
            return Err(too_long());
        }
        let well_formed = !local.is_empty()
            && local.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
            && message::recipient(&email).is_ok();
        if well_formed { Ok(Email(email)) } else { Err(wrong()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An address for display. Anything else is returned unchanged.
pub fn readable(email: &str) -> String {
    match email.split_once('@') {
        Some((local, ascii)) if ascii.contains("xn--") => format!("{local}@{}", domain::to_unicode(ascii)),
        _ => email.to_string(),
    }
}

/// The addresses of a user.
#[derive(Default, Serialize)]
pub struct Addresses {
    pub confirmed: Option<String>,
    /// Replaces the confirmed one when it is confirmed.
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
        *(if confirmed_at.is_some() { &mut addresses.confirmed } else { &mut addresses.pending }) = Some(email);
    }
    Ok(addresses)
}

/// The user who has confirmed this address. Disabled users keep theirs.
pub async fn owner(db: &mut Connection, email: &str) -> Result<Option<String>> {
    let sql = "select user_id from addresses where email = $1 and confirmed_at is not null";
    Ok(sqlx::query_scalar(sql).bind(email).fetch_optional(db).await?)
}

/// Whether the user has or had a confirmed address, as far back as events are kept.
pub async fn was_ever_confirmed(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select (select count(*) from addresses where user_id = $1 and confirmed_at is not null) \
               + (select count(*) from events where user_id = $1 and kind in ($2, $3, $4))";
    let query = sqlx::query_scalar(sql).bind(user_id).bind(CONFIRMED.kind).bind(CHANGED.kind).bind(REMOVED.kind);
    Ok(query.fetch_one(db).await.map(|count: i64| count > 0)?)
}

/// Makes this the user's pending address, and mails it a link. The user has authenticated at `level`, and the row is
/// locked by [`super::user::lock`].
pub async fn set_pending(db: &mut Connection, user_id: &str, email: &Email, level: AuthLevel) -> Result<()> {
    let sql = "delete from addresses where user_id = $1 and confirmed_at is null";
    sqlx::query(sql).bind(user_id).execute(&mut *db).await?;
    let sql = "insert into addresses (user_id, email, factors) values ($1, $2, $3)";
    let query = sqlx::query(sql).bind(user_id).bind(email.as_str()).bind(level.factors());
    query.execute(&mut *db).await?;
    link::revoke_for_other_addresses(db, user_id, email.as_str()).await?;
    outbox::queue(db, link::CONFIRM_MAIL, Some(user_id), email.as_str(), "").await
}

/// Confirms the pending address. The old one is notified.
///
/// # Errors
/// [`Error::StaleLink`] when it is no longer pending, or another user has confirmed it first.
pub async fn confirm(db: &mut Connection, link: &Link, client: &Client) -> Result<()> {
    // Locks every row of the address, so that users who confirm it at the same time take turns.
    let sql = "update addresses set email = $1 where email = $1";
    sqlx::query(sql).bind(&*link.email).execute(&mut *db).await?;
    let old = of_user(db, &link.user_id).await?;
    if old.pending.as_ref() != Some(&link.email) || owner(db, &link.email).await?.is_some() {
        return Err(Error::StaleLink);
    }
    // Recorded before the change, so that the notice goes to the old address.
    let event = if old.confirmed.is_some() { CHANGED } else { CONFIRMED };
    let sql = "select factors from addresses where user_id = $1 and confirmed_at is null";
    let factors = sqlx::query_scalar(sql).bind(&*link.user_id).fetch_one(&mut *db).await?;
    let event = event.by(client).at(AuthLevel::from_factors(factors));
    event::record(db, &*link.user_id, event).await?;
    // Another user may have got it at this moment by taking an account back.
    if set_confirmed(db, &link.user_id, &link.email).await? { Ok(()) } else { Err(Error::StaleLink) }
}

/// Gives a new user the address that they had in another system, where it was confirmed or not. Nothing is mailed. Returns
/// `false` if another user has confirmed it.
pub async fn import(db: &mut Connection, user_id: &str, email: &Email, is_confirmed: bool) -> Result<bool> {
    if is_confirmed {
        let sql = "delete from addresses where email = $1 and confirmed_at is null";
        sqlx::query(sql).bind(email.as_str()).execute(&mut *db).await?;
    }
    let sql = "insert into addresses (user_id, email, confirmed_at) values ($1, $2, $3) \
               on conflict (email) where confirmed_at is not null do nothing";
    let query = sqlx::query(sql).bind(user_id).bind(email.as_str()).bind(is_confirmed.then(now));
    Ok(query.execute(db).await?.rows_affected() > 0)
}

/// Makes a proven address the only one of its user, and ends what others had started with it. Returns `false` if
/// another user has confirmed it.
pub async fn set_confirmed(db: &mut Connection, user_id: &str, email: &str) -> Result<bool> {
    let sql = "delete from addresses where user_id = $1 or email = $2 and confirmed_at is null";
    sqlx::query(sql).bind(user_id).bind(email).execute(&mut *db).await?;
    let sql = "insert into addresses (user_id, email, confirmed_at) values ($1, $2, $3) \
               on conflict (email) where confirmed_at is not null do nothing";
    let made = sqlx::query(sql).bind(user_id).bind(email).bind(now()).execute(&mut *db).await?;
    link::revoke_pending(db, user_id).await?;
    Ok(made.rows_affected() > 0)
}

/// Removes an address of the user, who has authenticated at `level`. A confirmed one is notified.
pub async fn remove(db: &mut Connection, user_id: &str, email: &str, level: AuthLevel, client: &Client) -> Result<()> {
    if of_user(db, user_id).await?.confirmed.as_deref() == Some(email) {
        event::record(db, user_id, REMOVED.by(client).at(level)).await?;
    }
    let sql = "delete from addresses where user_id = $1 and email = $2";
    sqlx::query(sql).bind(user_id).bind(email).execute(&mut *db).await?;
    link::revoke_pending(db, user_id).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    #[tokio::test]
    async fn a_link_that_waits_in_the_outbox_does_not_go_to_an_address_that_the_user_has_replaced_or_removed() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", "old@example.com").await;
        let id = app.user("ada").await;
        let queue = async |email: &str| {
            let queue = async |db: &mut Connection| outbox::queue(db, link::RESET_MAIL, Some(&id), email, "").await;
            app.app.db.write(queue).await.unwrap();
        };
        let waiting = "select count(*) from mails where kind = 'password_reset'";
        queue("old@example.com").await;
        app.confirm_address("ada", "new@example.com").await;
        assert_eq!(app.count(waiting).await, 0);
        queue("new@example.com").await;
        let client = app.login().await.client;
        let removed =
            app.app.db.write(async |db| remove(db, &id, "new@example.com", AuthLevel::OneFactor, &client).await);
        removed.await.unwrap();
        assert_eq!(app.count(waiting).await, 0);
    }

    #[test]
    fn an_email_is_one_address_and_nothing_else() {
        assert_eq!(Email::parse("Ada.Lovelace+notes@Example.COM").unwrap().as_str(), "ada.lovelace+notes@example.com");
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
            "ada@-example.com",
            "ada＠example.com",
            " ada@example.com",
            "ada@example.com\n",
            "ada@example.com\u{200b}",
            "ada@[127.0.0.1]",
            "<a@b.com>",
            "\"a..b\"@c.com",
        ] {
            assert_eq!(Email::parse(wrong), Err("This does not look like an e-mail address.".into()), "{wrong:?}");
        }
        for too_long in [&long, &format!("ada@{}.de", "ü".repeat(245)), &format!("{}@münchen.de", "a".repeat(240))] {
            assert!(Email::parse(too_long).is_err(), "{too_long}");
        }
    }

    #[test]
    fn an_address_is_the_same_however_its_domain_is_written() {
        for text in ["ada@münchen.de", "Ada@MÜNCHEN.de", "ada@xn--mnchen-3ya.de", "ada@mu\u{308}nchen。de "] {
            let email = Email::parse(text).unwrap();
            assert_eq!((email.as_str(), &*readable(email.as_str())), ("ada@xn--mnchen-3ya.de", "ada@münchen.de"));
        }
        for as_it_is in ["Ada@example.com", "ada", "ada@", "xn--mnchen-3ya@", "ada@xn--a.de", "ada@münchen.de"] {
            assert_eq!(readable(as_it_is), as_it_is);
        }
    }

    #[test]
    fn other_letters_before_the_at_sign_have_a_sentence_of_their_own() {
        for text in ["jörg@example.com", "adа@example.com", "ａｄａ@example.com", "用户@例え.jp"] {
            assert!(Email::parse(text).unwrap_err().contains("plain letters from a to z"), "{text}");
        }
    }

    #[test]
    fn dots_may_stand_where_some_providers_allow_them() {
        for text in ["a..b@docomo.ne.jp", "x.@docomo.ne.jp", ".y@ezweb.ne.jp", "...@docomo.ne.jp"] {
            assert_eq!(Email::parse(text).unwrap().as_str(), text);
        }
    }
}
