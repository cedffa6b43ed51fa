//! Events: what happened to an account, recorded in the transaction that does it, and never changed afterwards. Only an
//! attempt that may still succeed is taken back when it does.
//!
//! An event is a constant next to the code that records it. `accounts::EVENTS` lists those of this layer,
//! `Feature::events` those of a feature.

use super::client::{Client, device_name};
use super::{actor::Actor, auth_level::AuthLevel};
use crate::base::Result;
use crate::db::{Connection, DbRow, new_id, now};
use crate::mail::outbox;
use serde::Serialize;
use sqlx::{FromRow, Row};
use std::time::Duration;

/// A kind of event: `Event::named("note_shared", "Note shared")`.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The name in the table.
    pub kind: &'static str,
    /// What recent activity says.
    pub words: &'static str,
    /// What a mail to the owner says, because someone else may have caused the event.
    pub notice: Option<Notice>,
    pub cause: Cause,
    /// Whether its notice is sent even to a user who is disabled.
    pub reaches_disabled_users: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Notice {
    pub subject: &'static str,
    pub sentence: &'static str,
}

/// Who causes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The owner of the account, or someone who has access to it.
    Owner,
    /// Someone who tries to get access. The owner sees where that came from.
    Intruder,
    /// Another user of the site, whose network address and device the owner must not learn.
    OtherUser,
    /// Somebody who runs the site, of whom the owner must not learn more.
    Administrator,
}

impl Event {
    pub const fn named(kind: &'static str, words: &'static str) -> Event {
        Event { kind, words, notice: None, cause: Cause::Owner, reaches_disabled_users: false }
    }

    /// Also notifies the owner by mail.
    pub const fn with_notice(self, subject: &'static str, sentence: &'static str) -> Event {
        Event { notice: Some(Notice { subject, sentence }), ..self }
    }

    pub const fn caused_by(self, cause: Cause) -> Event {
        Event { cause, ..self }
    }

    pub const fn reaching_disabled_users(self) -> Event {
        Event { reaches_disabled_users: true, ..self }
    }

    /// The event caused by `client`, to be recorded.
    pub fn by(self, client: &Client) -> NewEvent<'_> {
        NewEvent { event: self, client, actor_id: None, level: AuthLevel::OneFactor, about: None }
    }

    /// The event caused by somebody else than the owner of the account, to be recorded.
    pub fn by_actor(self, actor: &Actor) -> NewEvent<'_> {
        NewEvent { actor_id: actor.user_id.as_deref(), ..self.by(&actor.client) }
    }
}

/// An event that is about to be recorded.
pub struct NewEvent<'a> {
    event: Event,
    client: &'a Client,
    actor_id: Option<&'a str>,
    level: AuthLevel,
    about: Option<&'a str>,
}

impl<'a> NewEvent<'a> {
    /// With how many factors the user has authenticated. Changes made with two factors cannot be undone with a mail
    /// alone.
    pub fn at(self, level: AuthLevel) -> NewEvent<'a> {
        NewEvent { level, ..self }
    }

    /// What it is about, such as the name of a passkey.
    pub fn about(self, about: &'a str) -> NewEvent<'a> {
        NewEvent { about: Some(about), ..self }
    }
}

/// The kind of mail that notifies users of events. It is about the id of an event.
pub const NOTICE: &str = "notice";

/// The same, also for a user who is disabled.
pub const NOTICE_TO_DISABLED: &str = "notice_to_disabled";

/// Records an event, and queues its notice, if any. `user_id` is `None` for an unknown name.
pub async fn record(db: &mut Connection, user_id: impl Into<Option<&str>>, new: NewEvent<'_>) -> Result<()> {
    let (event, user_id) = (new.event, user_id.into());
    let id = insert(db, user_id, new).await?;
    match event.notice {
        // For an unknown name too, so that it takes the same statements as a known one.
        Some(_) => {
            let kind = if event.reaches_disabled_users { NOTICE_TO_DISABLED } else { NOTICE };
            outbox::queue_to_user(db, kind, user_id.unwrap_or_default(), &id).await
        }
        None => Ok(()),
    }
}

/// Like [`record`], for something that is decided within this time, and may be taken back until then. The notice waits
/// that long. Returns the id.
pub async fn record_provisionally(
    db: &mut Connection,
    user_id: Option<&str>,
    new: NewEvent<'_>,
    within: Duration,
) -> Result<String> {
    let event = new.event;
    let id = insert(db, user_id, new).await?;
    if event.notice.is_some() {
        outbox::queue_to_user_after(db, within, NOTICE, user_id.unwrap_or_default(), &id).await?;
    }
    Ok(id)
}

/// Deletes an event recorded by [`record_provisionally`], and returns whether it existed. Notices of deleted events are
/// not sent.
pub async fn take_back(db: &mut Connection, id: &str) -> Result<bool> {
    let deleted = sqlx::query("delete from events where id = $1").bind(id).execute(db).await?;
    Ok(deleted.rows_affected() > 0)
}

async fn insert(
    db: &mut Connection,
    user_id: Option<&str>,
    NewEvent { event, client, actor_id, level, about }: NewEvent<'_>,
) -> Result<String> {
    let id = new_id();
    let client = matches!(event.cause, Cause::Owner | Cause::Intruder).then_some(client);
    let sql = "insert into events (id, user_id, kind, about, factors, created_at, address, device, actor_id) \
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let query = sqlx::query(sql).bind(&*id).bind(user_id).bind(event.kind).bind(about).bind(level.factors());
    let query = query.bind(now()).bind(client.map(|client| client.address.to_string()));
    query.bind(client.map(|client| &*client.user_agent)).bind(actor_id).execute(db).await?;
    Ok(id)
}

/// Removes everything from a user's events that could identify the user.
pub async fn anonymize(db: &mut Connection, user_id: &str) -> Result<()> {
    let sql = "update events set about = null, address = null, device = null where user_id = $1";
    sqlx::query(sql).bind(user_id).execute(db).await?;
    Ok(())
}

/// An event as stored in the table.
pub struct RecordedEvent {
    pub id: String,
    pub kind: String,
    pub about: Option<String>,
    pub level: AuthLevel,
    pub created_at: i64,
    pub address: Option<String>,
    /// The `User-Agent`.
    pub device: Option<String>,
}

impl FromRow<'_, DbRow> for RecordedEvent {
    fn from_row(row: &DbRow) -> sqlx::Result<RecordedEvent> {
        Ok(RecordedEvent {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            about: row.try_get("about")?,
            level: AuthLevel::from_factors(row.try_get("factors")?),
            created_at: row.try_get("created_at")?,
            address: row.try_get("address")?,
            device: row.try_get("device")?,
        })
    }
}

impl RecordedEvent {
    /// Which of the `known` events it is. `None` if another version of the app recorded it.
    pub fn event<'a>(&self, known: &'a [Event]) -> Option<&'a Event> {
        known.iter().find(|event| event.kind == self.kind)
    }

    /// What recent activity says.
    pub fn words(&self, known: &[Event]) -> String {
        let words = self.event(known).map_or(self.kind.replace('_', " "), |event| event.words.to_string());
        match &self.about {
            Some(about) => format!("{words}: {about}"),
            None => words,
        }
    }
}

/// An event as people see it.
#[derive(Serialize)]
pub struct ShownEvent {
    pub words: String,
    pub at: i64,
    /// As the address, not known of what another user has caused.
    pub device: Option<String>,
    pub address: Option<String>,
}

impl ShownEvent {
    pub fn new(event: RecordedEvent, known: &[Event]) -> ShownEvent {
        let (words, device) = (event.words(known), event.device.as_deref().map(device_name));
        ShownEvent { words, at: event.created_at, device, address: event.address }
    }
}

/// What happened to the user before the event with the id `after`, newest first, `limit` events at most.
pub async fn newest(db: &mut Connection, user_id: &str, after: &str, limit: i64) -> Result<Vec<RecordedEvent>> {
    let sql = "select id, kind, about, factors, created_at, address, device from events \
               where user_id = $1 and id < $2 order by id desc limit $3";
    Ok(sqlx::query_as(sql).bind(user_id).bind(after).bind(limit).fetch_all(db).await?)
}

/// Deletes events from `$1` and before.
pub const PURGE: &str = "delete from events where id in (select id from events where created_at <= $1 limit 1000)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    const SHARED: Event = Event::named("note_shared", "Note shared").caused_by(Cause::OtherUser);
    const ADDED: Event = Event::named("passkey_added", "Passkey added");

    /// Records it for Ada, and returns what the table has.
    async fn recorded(event: NewEvent<'_>) -> RecordedEvent {
        let app = TestApp::new().await;
        app.person("ada").await;
        let (id, kind) = (app.user("ada").await, event.event.kind);
        let recorded = app.app.db.write(async |db| {
            record(db, &*id, event).await?;
            let sql = "select id, kind, about, factors, created_at, address, device from events where kind = $1";
            Ok(sqlx::query_as(sql).bind(kind).fetch_one(db).await?)
        });
        recorded.await.unwrap()
    }

    #[tokio::test]
    async fn what_another_user_does_is_recorded_without_their_address_and_device() {
        let eve = Client::local("Eve's browser");
        let shared = recorded(SHARED.by(&eve)).await;
        assert_eq!((shared.address, shared.device), (None, None));
        let added = recorded(ADDED.by(&eve)).await;
        assert_eq!(added.address.as_deref(), Some("127.0.0.1"));
        assert_eq!(added.device.as_deref(), Some("Eve's browser"));
    }

    #[tokio::test]
    async fn people_read_what_an_event_is_about_also_after_its_feature_was_removed() {
        let ada = Client::local("Ada's browser");
        let added = recorded(ADDED.by(&ada).about("Pixel 8").at(AuthLevel::TwoFactors)).await;
        assert_eq!(added.words(&[SHARED, ADDED]), "Passkey added: Pixel 8");
        assert_eq!(added.words(&[]), "passkey added: Pixel 8");
        assert_eq!(added.level, AuthLevel::TwoFactors);
        assert_eq!(recorded(ADDED.by(&ada)).await.words(&[ADDED]), "Passkey added");
    }

    #[tokio::test]
    async fn only_an_event_with_a_notice_is_mailed_and_only_to_a_confirmed_address() {
        const CHANGED: Event = ADDED.with_notice("A passkey was added", "It can log in.");
        let app = TestApp::new().await;
        app.person("ada").await;
        let (id, ada) = (app.user("ada").await, Client::local("Ada's browser"));
        let happen = async |event: Event| {
            app.app.db.write(async |db| record(db, &*id, event.by(&ada)).await).await.unwrap();
            app.count("select count(*) from mails where kind = 'notice'").await
        };
        assert_eq!(happen(CHANGED).await, 0);
        app.confirm_address("ada", "ada@example.com").await;
        assert_eq!(happen(ADDED).await, 0);
        assert_eq!(happen(CHANGED).await, 1);
        let about = "select count(*) from mails m join events e on e.id = m.about where e.kind = 'passkey_added'";
        assert_eq!(app.count(about).await, 1);
    }
}
