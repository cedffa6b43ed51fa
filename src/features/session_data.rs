//! Session data: values that a feature of yours keeps for whoever is there, a stranger too: a basket, a half-filled form.
//!
//! ```ignore
//! const BASKET: Key<Vec<Item>> = Key::new("basket");
//!
//! async fn add(data: SessionData, Form(item): Form<Item>) -> Result<Response> {
//!     let cookies = data.change(BASKET, |basket| basket.push(item)).await?;
//!     Ok((cookies, see_other("/basket")).into_response())
//! }
//! ```
//!
//! The values stand in a row, and the first that is kept makes it: until then there is neither row nor cookie, and a page
//! that does not ask costs no statement. A stranger's row is found by the cookie `visitor`, a user's by the session. A
//! log-in takes along what the stranger had kept, under the new session; log-out, and a log-in over somebody else's
//! session, drop it.

// Nothing in the template uses it: it is for what is built on it.
#![allow(dead_code)]

use crate::app::App;
use crate::auth::AuthState;
use crate::database::{Connection, new_id, now};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::guard;
use crate::session::Door;
use crate::token::{Token, TokenHash};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum_extra::extract::CookieJar;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::marker::PhantomData;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { purge: &[PURGE], session_begins: Some(move_in), ..Feature::named("session_data") })
}

/// The most bytes that the values of one visitor may have, as JSON.
const MOST: usize = 64 * 1024;

/// How long a stranger's values are kept after the last change, in seconds.
const KEPT: i64 = 30 * 24 * 60 * 60;

const PURGE: &str = "delete from session_data where expires_at <= $1 and id in \
     (select id from session_data where session_id is null and expires_at <= $1 limit 1000)";

const COOKIE: &str = "visitor";

/// The name of a value and its type, which must be one that JSON can hold.
pub struct Key<T> {
    name: &'static str,
    value: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Key<T> {
    pub const fn new(name: &'static str) -> Key<T> {
        Key { name, value: PhantomData }
    }
}

/// The values of whoever sent the request: an extractor.
pub struct SessionData {
    app: App,
    auth: AuthState,
    visitor: Option<Token>,
}

impl FromRequestParts<App> for SessionData {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<SessionData, Self::Rejection> {
        let visitor = guard::cookie(&app.config, &parts.headers, COOKIE);
        let visitor = visitor.and_then(|text| Token::parse(&text));
        Ok(SessionData { app: app.clone(), auth: AuthState::of(parts), visitor })
    }
}

/// Whose values they are.
enum Owner {
    Session(String),
    Visitor(TokenHash),
}

impl SessionData {
    /// The value, if there is one of this type.
    pub async fn get<T: DeserializeOwned>(&self, key: Key<T>) -> Result<Option<T>> {
        let Some(owner) = self.owner().await? else { return Ok(None) };
        let row = self.app.db.read(async |db| find(db, &owner).await).await?;
        Ok(row.and_then(|(_, mut values)| read(values.remove(key.name))))
    }

    /// Changes the value, which begins as its type's default, in one transaction: of two changes at once neither is lost.
    /// Answers cookies that belong to the response.
    ///
    /// # Errors
    /// 413 when there would be more than 64 KiB; then nothing has changed.
    pub async fn change<T: Serialize + DeserializeOwned + Default>(
        &self,
        key: Key<T>,
        change: impl FnOnce(&mut T),
    ) -> Result<CookieJar> {
        self.edit(|values| {
            let mut value = read(values.get(key.name).cloned()).unwrap_or_default();
            change(&mut value);
            values.insert(key.name.into(), serde_json::to_value(value)?);
            Ok(())
        })
        .await
    }

    /// Takes the value away. As [`SessionData::change`].
    pub async fn remove<T>(&self, key: Key<T>) -> Result<CookieJar> {
        self.edit(|values| {
            values.remove(key.name);
            Ok(())
        })
        .await
    }

    async fn edit(
        &self,
        edit: impl FnOnce(&mut Map<String, Value>) -> serde_json::Result<()>,
    ) -> Result<CookieJar> {
        let owner = self.owner().await?;
        let edit_row = self.app.db.write(async |db| {
            let row = match &owner {
                Some(owner) => lock_and_find(db, owner).await?,
                None => None,
            };
            let (id, before) = row.unzip();
            let before = before.unwrap_or_default();
            let mut values = before.clone();
            edit(&mut values).map_err(anyhow::Error::from)?;
            if values == before {
                return Ok(CookieJar::new());
            }
            let text = Value::Object(values).to_string();
            if text.len() > MOST {
                return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
            }
            match (id, owner) {
                (Some(id), _) => {
                    update(db, &id, &text).await?;
                    Ok(CookieJar::new())
                }
                (None, Some(owner @ Owner::Session(_))) => {
                    insert(db, &owner, &text).await?;
                    Ok(CookieJar::new())
                }
                (None, _) => {
                    let token = Token::random()?;
                    insert(db, &Owner::Visitor(token.hash()), &text).await?;
                    let cookie = guard::set_cookie(&self.app.config, COOKIE, token.text());
                    let kept = ::cookie::time::Duration::seconds(KEPT);
                    Ok(CookieJar::new().add(cookie.max_age(kept).build()))
                }
            }
        });
        edit_row.await
    }

    async fn owner(&self) -> Result<Option<Owner>> {
        let session = self.auth.session().await?.map(|session| Owner::Session(session.id.clone()));
        Ok(session.or_else(|| self.visitor.as_ref().map(|token| Owner::Visitor(token.hash()))))
    }
}

/// A value that is not of the type it is asked for, because the app has changed, is as good as none.
fn read<T: DeserializeOwned>(value: Option<Value>) -> Option<T> {
    value.and_then(|value| serde_json::from_value(value).ok())
}

/// A session takes over the values of the one it replaces, if that was the same user's, or else those of the stranger
/// who logs in.
fn move_in<'a>(
    db: &'a mut Connection,
    door: &'a Door,
    user_id: &'a str,
    session_id: &'a str,
    cookies: CookieJar,
) -> BoxFuture<'a, Result<CookieJar>> {
    async move {
        if let Some(token) = door.token() {
            // The session's row comes first here as in every change.
            let sql = "update sessions set id = id where token_hash = $1";
            sqlx::query(sql).bind(token.hash().to_vec()).execute(&mut *db).await?;
            let sql = "update session_data set session_id = $1 where session_id = \
                       (select id from sessions where token_hash = $2 and user_id = $3)";
            let query = sqlx::query(sql).bind(session_id).bind(token.hash().to_vec()).bind(user_id);
            if query.execute(&mut *db).await?.rows_affected() > 0 {
                return Ok(cookies);
            }
        }
        let Some(visitor) = door.request_cookie(COOKIE).and_then(|text| Token::parse(&text)) else {
            return Ok(cookies);
        };
        let sql = "update session_data set session_id = $1, token_hash = null \
                   where token_hash = $2 and expires_at > $3";
        let query = sqlx::query(sql).bind(session_id).bind(visitor.hash().to_vec()).bind(now());
        query.execute(db).await?;
        Ok(cookies.add(guard::clear_cookie(door.config(), COOKIE)))
    }
    .boxed()
}

type Found = Option<(String, Map<String, Value>)>;

async fn find(db: &mut Connection, owner: &Owner) -> Result<Found> {
    let row: Option<(String, String)> = match owner {
        Owner::Session(id) => {
            let sql = "select id, data from session_data where session_id = $1";
            sqlx::query_as(sql).bind(&**id).fetch_optional(db).await?
        }
        Owner::Visitor(hash) => {
            let sql = "select id, data from session_data where token_hash = $1 and expires_at > $2";
            sqlx::query_as(sql).bind(hash.to_vec()).bind(now()).fetch_optional(db).await?
        }
    };
    Ok(row.map(|(id, data)| (id, serde_json::from_str(&data).unwrap_or_default())))
}

/// As [`find`], in a transaction in which nobody else changes the row.
async fn lock_and_find(db: &mut Connection, owner: &Owner) -> Result<Found> {
    match owner {
        Owner::Session(id) => {
            // The session's row stands for values that are not there yet, and for a session that is about to end.
            let sql = "update sessions set id = id where id = $1";
            if sqlx::query(sql).bind(&**id).execute(&mut *db).await?.rows_affected() == 0 {
                return Err(Error::NOT_FOUND);
            }
        }
        Owner::Visitor(hash) => {
            let sql = "update session_data set id = id where token_hash = $1";
            sqlx::query(sql).bind(hash.to_vec()).execute(&mut *db).await?;
        }
    }
    find(db, owner).await
}

async fn insert(db: &mut Connection, owner: &Owner, data: &str) -> Result<()> {
    let (session_id, token_hash) = match owner {
        Owner::Session(id) => (Some(id.clone()), None),
        Owner::Visitor(hash) => (None, Some(hash.to_vec())),
    };
    let sql =
        "insert into session_data (id, session_id, token_hash, data, expires_at) values ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(new_id()).bind(session_id).bind(token_hash).bind(data);
    query.bind(now() + KEPT).execute(db).await?;
    Ok(())
}

async fn update(db: &mut Connection, id: &str, data: &str) -> Result<()> {
    let sql = "update session_data set data = $1, expires_at = $2 where id = $3";
    sqlx::query(sql).bind(data).bind(now() + KEPT).bind(id).execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::factor::Proven;
    use crate::test::{Answer, TestApp, Visitor};
    use axum::extract::State;
    use axum::response::{IntoResponse, Response};
    use futures_util::future::join_all;

    const COUNTER: Key<u64> = Key::new("counter");
    const TEXT: Key<String> = Key::new("text");

    async fn count(data: SessionData) -> Result<Response> {
        Ok((data.change(COUNTER, |counter| *counter += 1).await?, "counted").into_response())
    }

    async fn counted(data: SessionData) -> Result<String> {
        Ok(data.get(COUNTER).await?.map_or("nothing".into(), |counter| counter.to_string()))
    }

    async fn forget(data: SessionData) -> Result<Response> {
        Ok((data.remove(COUNTER).await?, "forgotten").into_response())
    }

    async fn fill(data: SessionData) -> Result<Response> {
        Ok((data.change(TEXT, |text| *text = "x".repeat(64 * 1024)).await?, "filled").into_response())
    }

    async fn touch(data: SessionData) -> Result<Response> {
        Ok((data.change(COUNTER, |_| ()).await?, "touched").into_response())
    }

    /// Logs in whoever was made first.
    async fn enter(State(app): State<App>, door: Door) -> Result<Response> {
        let begun = app.db.write(async |db| {
            let sql = "select id from users order by id limit 1";
            let (id,): (String,) = sqlx::query_as(sql).fetch_one(&mut *db).await?;
            door.log_in(db, &id, false, Proven::TwoFactors, "/").await
        });
        Ok((begun.await?.map(|entry| entry.cookies), "in").into_response())
    }

    async fn leave(door: Door) -> Result<Response> {
        door.log_out().await?;
        Ok(door.farewell().into_response())
    }

    async fn app() -> TestApp {
        let routes =
            Routes::new().get("/counter", Access::Public, counted).post("/counter", Access::Public, count);
        let routes = routes.post("/forget", Access::Public, forget).post("/fill", Access::Public, fill);
        let routes = routes.post("/touch", Access::Public, touch);
        TestApp::with(routes.post("/enter", Access::Public, enter).post("/leave", Access::Public, leave))
            .await
    }

    async fn post(visitor: &Visitor, path: &str) -> Answer {
        visitor.post(path, &[]).await
    }

    #[track_caller]
    fn assert_counter(visitor: &Visitor, value: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(visitor.get("/counter").await.text(), value, "at {caller}") }
    }

    #[tokio::test]
    async fn a_stranger_who_stores_nothing_has_no_row_and_no_cookie() {
        let app = app().await;
        let stranger = app.visitor();
        let before = app.statements();
        stranger.get("/counter").await.assert_body("nothing").assert_no_header("set-cookie");
        stranger.get("/whoami").await.assert_no_header("set-cookie");
        assert_eq!(app.statements() - before, 0);
        post(&stranger, "/forget").await.assert_status(200).assert_no_header("set-cookie");
        assert_eq!(app.count("select count(*) from session_data").await, 0);
    }

    #[tokio::test]
    async fn what_a_stranger_stores_is_there_at_the_next_request_and_nobody_elses() {
        let app = app().await;
        let (one, two) = (app.visitor(), app.visitor());
        let first = post(&one, "/counter").await;
        first.assert_cookie("visitor=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        post(&one, "/counter").await.assert_no_header("set-cookie");
        assert_counter(&one, "2").await;
        assert_counter(&two, "nothing").await;
        let forged = app.visitor().with_cookie("visitor", &"A".repeat(43));
        assert_counter(&forged, "nothing").await;
        post(&forged, "/counter")
            .await
            .assert_cookie("visitor=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        assert_ne!(forged.cookie("visitor"), Some("A".repeat(43)));
        post(&one, "/forget").await.assert_status(200);
        assert_counter(&one, "nothing").await;
    }

    #[tokio::test]
    async fn a_log_in_takes_along_what_the_stranger_stored_under_a_new_id() {
        let app = app().await;
        app.person("ada").await;
        let browser = app.visitor();
        post(&browser, "/counter").await;
        let before = browser.copy();
        let answer = post(&browser, "/enter").await;
        answer.assert_cookie("visitor=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        assert_counter(&browser, "1").await;
        assert_counter(&before, "nothing").await;
        // A log-in over one's own session keeps it too.
        post(&browser, "/enter").await;
        assert_counter(&browser, "1").await;
    }

    #[tokio::test]
    async fn a_log_in_over_somebody_elses_session_and_a_log_out_drop_it() {
        let app = app().await;
        app.person("ada").await;
        let eve = app.person("eve").await;
        post(&eve, "/counter").await;
        post(&eve, "/enter").await;
        eve.assert_is("ada").await;
        assert_counter(&eve, "nothing").await;
        post(&eve, "/counter").await;
        post(&eve, "/leave").await;
        assert_counter(&eve, "nothing").await;
        assert_eq!(app.count("select count(*) from session_data").await, 0);
    }

    #[tokio::test]
    async fn of_many_changes_at_once_none_is_lost() {
        let app = app().await;
        let (ada, stranger) = (app.person("ada").await, app.visitor());
        post(&stranger, "/counter").await;
        join_all((0..20).flat_map(|_| [post(&ada, "/counter"), post(&stranger, "/counter")])).await;
        assert_counter(&ada, "20").await;
        assert_counter(&stranger, "21").await;
    }

    #[tokio::test]
    async fn more_than_64_kib_and_what_has_not_changed_are_not_saved() {
        let app = app().await;
        let ada = app.person("ada").await;
        post(&ada, "/counter").await;
        post(&ada, "/fill").await.assert_status(413);
        app.execute("update session_data set expires_at = 1").await;
        post(&ada, "/touch").await.assert_status(200);
        assert_eq!(app.count("select count(*) from session_data where expires_at = 1").await, 1);
        assert_counter(&ada, "1").await;
    }

    #[tokio::test]
    async fn what_a_stranger_left_is_purged_when_its_time_is_over() {
        let app = app().await;
        let (ada, stranger) = (app.person("ada").await, app.visitor());
        post(&ada, "/counter").await;
        post(&stranger, "/counter").await;
        app.execute("update session_data set expires_at = 1").await;
        assert_counter(&stranger, "nothing").await;
        crate::purge::purge(&app.app).await.unwrap();
        assert_eq!(app.count("select count(*) from session_data").await, 1);
        assert_counter(&ada, "1").await;
    }
}
