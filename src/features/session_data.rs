//! Session data: values that a feature of yours keeps for a visitor or a user, such as a basket or a half-filled form.
//!
//! ```ignore
//! const BASKET: Key<Vec<Item>> = Key::new("basket");
//!
//! async fn add(data: SessionData, Form(item): Form<Item>) -> Result<(CookieJar, Redirect)> {
//!     let cookies = data.change(BASKET, |basket| basket.push(item)).await?;
//!     Ok((cookies, redirect("/basket")))
//! }
//! ```
//!
//! The values are in one row, which the first of them creates: until then there is neither row nor cookie, and a page that
//! does not ask for a value costs no statement. A visitor's row is found by the cookie `visitor`, a user's by the session.
//! A log-in moves the visitor's values to the new session; a log-out, or a log-in over another user's session, drops them.

// Nothing in the template uses it: it is for what is built on it.
#![allow(dead_code)]

use super::feature::Feature;
use crate::base::{Env, Error, Result, Token, Tokens};
use crate::db::{Connection, DbRow, new_id, now};
use crate::web::app::SessionStart;
use crate::web::{App, AuthState, Redirect, cookie};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum_extra::extract::CookieJar;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::{FromRow, Row};
use std::convert::Infallible;
use std::marker::PhantomData;
use std::time::Duration;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { purge: &[PURGE], on_session_start: Some(transfer), ..Feature::named("session_data") })
}

/// The most bytes that all values of a visitor or a session may have, as JSON.
const MAX_BYTES: usize = 64 * 1024;

/// How long a visitor's values are kept after the last change, in seconds.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const PURGE: &str = "delete from session_data where expires_at <= $1 and id in \
     (select id from session_data where token_hash is not null and expires_at <= $1 limit 1000)";

const COOKIE: &str = "visitor";

/// The name of a value and its type, which serializes as JSON.
pub struct Key<T> {
    name: &'static str,
    value: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Key<T> {
    pub const fn new(name: &'static str) -> Key<T> {
        Key { name, value: PhantomData }
    }
}

/// As an argument of a handler: the values of the visitor or user who sent the request.
pub struct SessionData {
    app: App,
    auth: AuthState,
    visitor: Tokens,
}

impl FromRequestParts<App> for SessionData {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<SessionData, Infallible> {
        let visitor = cookie::tokens(&app.config, &parts.headers, COOKIE);
        Ok(SessionData { app: app.clone(), auth: AuthState::of(parts), visitor })
    }
}

/// Whose values they are.
enum Owner {
    Session(String),
    Visitor(Tokens),
}

impl SessionData {
    /// The value, if there is one of this type.
    pub async fn get<T: DeserializeOwned>(&self, key: Key<T>) -> Result<Option<T>> {
        let Some(owner) = self.owner().await? else { return Ok(None) };
        let row = self.app.db.read(async |db| find(db, &owner).await).await?;
        Ok(row.and_then(|mut row| parse(row.values.remove(key.name))))
    }

    /// Changes the value, which starts as its type's default, in one transaction: of two changes at once neither is lost.
    /// Returns cookies that belong to the response.
    ///
    /// # Errors
    /// 413 when there would be more than 64 KiB; then nothing has changed.
    pub async fn change<T: Serialize + DeserializeOwned + Default>(
        &self,
        key: Key<T>,
        change: impl FnOnce(&mut T),
    ) -> Result<CookieJar> {
        self.edit(|values| {
            let mut value = parse(values.get(key.name).cloned()).unwrap_or_default();
            change(&mut value);
            values.insert(key.name.into(), serde_json::to_value(value)?);
            Ok(())
        })
        .await
    }

    /// Removes the value. As [`SessionData::change`].
    pub async fn remove<T>(&self, key: Key<T>) -> Result<CookieJar> {
        self.edit(|values| {
            values.remove(key.name);
            Ok(())
        })
        .await
    }

    async fn edit(&self, edit: impl FnOnce(&mut Map<String, Value>) -> serde_json::Result<()>) -> Result<CookieJar> {
        let owner = self.owner().await?;
        let edited = self.app.db.write(async |db| {
            let row = match &owner {
                Some(owner) => lock_and_find(db, owner).await?,
                None => None,
            };
            let (id, before) = row.map(|row| (row.id, row.values)).unzip();
            let before = before.unwrap_or_default();
            let mut values = before.clone();
            edit(&mut values).map_err(anyhow::Error::from)?;
            if values == before {
                return Ok(CookieJar::new());
            }
            let data = Value::Object(values).to_string();
            if data.len() > MAX_BYTES {
                return Err(Error::Refused(StatusCode::PAYLOAD_TOO_LARGE));
            }
            self.save(db, owner, id, &data).await
        });
        edited.await
    }

    /// Saves the values in the row with this id, or in a new one.
    async fn save(
        &self,
        db: &mut Connection,
        owner: Option<Owner>,
        id: Option<String>,
        data: &str,
    ) -> Result<CookieJar> {
        let cookies = CookieJar::new();
        match (id, owner) {
            (Some(id), _) => update(db, &id, data).await?,
            (None, Some(Owner::Session(id))) => insert(db, Some(&id), None, data).await?,
            // The token of a cookie without a row may be somebody else's choice, so the row gets its own.
            (None, _) => {
                let token = Token::random()?;
                insert(db, None, Some(&token), data).await?;
                return Ok(cookies.add(cookie::build(&self.app.config, COOKIE, token.text(), Some(KEPT))));
            }
        }
        Ok(cookies)
    }

    async fn owner(&self) -> Result<Option<Owner>> {
        let session = self.auth.session().await?.map(|session| Owner::Session(session.id.clone()));
        Ok(session.or_else(|| (!self.visitor.is_empty()).then(|| Owner::Visitor(self.visitor.clone()))))
    }
}

/// A value of another type, because the app has changed, counts as none.
fn parse<T: DeserializeOwned>(value: Option<Value>) -> Option<T> {
    value.and_then(|value| serde_json::from_value(value).ok())
}

/// Moves the values of a session that is replaced, if it is the same user's, or else those of the visitor who logs in, to
/// the new session.
fn transfer<'a>(
    db: &'a mut Connection,
    start: SessionStart<'a>,
    redirect: Redirect,
) -> BoxFuture<'a, Result<Redirect>> {
    Box::pin(async move {
        if !start.replaced.is_empty() {
            // The session's row is locked first here, as in every change.
            let sql = "update sessions set id = id where token_hash in ($1, $2, $3, $4)";
            let [a, b, c, d] = start.replaced.hashes();
            sqlx::query(sql).bind(a).bind(b).bind(c).bind(d).execute(&mut *db).await?;
            let sql = "update session_data set session_id = $5 where id = \
                       (select max(d.id) from session_data d join sessions s on s.id = d.session_id \
                       where s.token_hash in ($1, $2, $3, $4) and s.user_id = $6)";
            let [a, b, c, d] = start.replaced.hashes();
            let query = sqlx::query(sql).bind(a).bind(b).bind(c).bind(d).bind(start.session_id);
            if query.bind(start.user_id).execute(&mut *db).await?.rows_affected() > 0 {
                return Ok(redirect);
            }
        }
        let visitor = cookie::tokens(start.config, start.headers, COOKIE);
        if visitor.is_empty() {
            return Ok(redirect);
        }
        let sql = "update session_data set session_id = $5, token_hash = null where id = \
                   (select max(id) from session_data where token_hash in ($1, $2, $3, $4) and expires_at > $6)";
        let [a, b, c, d] = visitor.hashes();
        sqlx::query(sql).bind(a).bind(b).bind(c).bind(d).bind(start.session_id).bind(now()).execute(db).await?;
        Ok(redirect.cookie(cookie::delete(start.config, COOKIE)))
    })
}

/// The values of one visitor or session.
struct StoredValues {
    id: String,
    values: Map<String, Value>,
}

impl FromRow<'_, DbRow> for StoredValues {
    fn from_row(row: &DbRow) -> sqlx::Result<StoredValues> {
        let data: String = row.try_get("data")?;
        Ok(StoredValues { id: row.try_get("id")?, values: serde_json::from_str(&data).unwrap_or_default() })
    }
}

async fn find(db: &mut Connection, owner: &Owner) -> Result<Option<StoredValues>> {
    Ok(match owner {
        Owner::Session(id) => {
            let sql = "select id, data from session_data where session_id = $1";
            sqlx::query_as(sql).bind(&**id).fetch_optional(db).await?
        }
        Owner::Visitor(tokens) => {
            let sql = "select id, data from session_data where token_hash in ($1, $2, $3, $4) and expires_at > $5 \
                       order by id desc limit 1";
            let [a, b, c, d] = tokens.hashes();
            let query = sqlx::query_as(sql).bind(a).bind(b).bind(c).bind(d);
            query.bind(now()).fetch_optional(db).await?
        }
    })
}

/// As [`find`], and nobody else changes the row before the transaction ends.
async fn lock_and_find(db: &mut Connection, owner: &Owner) -> Result<Option<StoredValues>> {
    match owner {
        Owner::Session(id) => {
            // Locks the session's row, because that of the values may not exist yet, and the session may be ending.
            let sql = "update sessions set id = id where id = $1";
            if sqlx::query(sql).bind(&**id).execute(&mut *db).await?.rows_affected() == 0 {
                return Err(Error::NOT_FOUND);
            }
        }
        Owner::Visitor(tokens) => {
            let sql = "update session_data set id = id where token_hash in ($1, $2, $3, $4)";
            let [a, b, c, d] = tokens.hashes();
            sqlx::query(sql).bind(a).bind(b).bind(c).bind(d).execute(&mut *db).await?;
        }
    }
    find(db, owner).await
}

async fn insert(db: &mut Connection, session_id: Option<&str>, token: Option<&Token>, data: &str) -> Result<()> {
    let token_hash = token.map(|token| token.hash().to_vec());
    let sql = "insert into session_data (id, session_id, token_hash, data, expires_at) values ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(new_id()).bind(session_id).bind(token_hash).bind(data);
    query.bind(now() + KEPT.as_secs() as i64).execute(db).await?;
    Ok(())
}

async fn update(db: &mut Connection, id: &str, data: &str) -> Result<()> {
    let sql = "update session_data set data = $1, expires_at = $2 where id = $3";
    sqlx::query(sql).bind(data).bind(now() + KEPT.as_secs() as i64).bind(id).execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AuthLevel, Choices};
    use crate::server::purge::purge;
    use crate::test::{Answer, TestApp, Visitor};
    use crate::web::{Access, Login, Routes, redirect};
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

    /// Logs in the user who signed up first.
    async fn enter(State(app): State<App>, login: Login) -> Result<Redirect> {
        let logged_in = app.db.write(async |db| {
            let id: String = sqlx::query_scalar("select id from users order by id limit 1").fetch_one(&mut *db).await?;
            login.log_in(db, &id, AuthLevel::TwoFactors, &Choices { stay: false, next: "/".into() }).await
        });
        Ok(logged_in.await?.expect("the user may log in"))
    }

    async fn leave(login: Login) -> Response {
        login.log_out(redirect("/")).await
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/counter", Access::Public, counted).post("/counter", Access::Public, count);
        let routes = routes.post("/forget", Access::Public, forget).post("/fill", Access::Public, fill);
        let routes = routes.post("/touch", Access::Public, touch);
        TestApp::with(routes.post("/enter", Access::Public, enter).post("/leave", Access::Public, leave)).await
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
    async fn a_visitor_who_stores_nothing_has_no_row_and_no_cookie() {
        let app = app().await;
        let visitor = app.visitor();
        let before = app.statements();
        visitor.get("/counter").await.assert_body("nothing").assert_no_header("set-cookie");
        visitor.get("/whoami").await.assert_no_header("set-cookie");
        assert_eq!(app.statements() - before, 0);
        post(&visitor, "/forget").await.assert_status(200).assert_no_header("set-cookie");
        assert_eq!(app.count("select count(*) from session_data").await, 0);
    }

    #[tokio::test]
    async fn what_a_visitor_stores_is_there_at_the_next_request_and_for_nobody_else() {
        let app = app().await;
        let (one, two) = (app.visitor(), app.visitor());
        let first = post(&one, "/counter").await;
        first.assert_cookie("visitor=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        post(&one, "/counter").await.assert_no_header("set-cookie");
        assert_counter(&one, "2").await;
        assert_counter(&two, "nothing").await;
        let forged = app.visitor().with_cookie("visitor", &"A".repeat(43));
        assert_counter(&forged, "nothing").await;
        post(&forged, "/counter").await.assert_cookie("visitor=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        assert_ne!(forged.cookie("visitor"), Some("A".repeat(43)));
        post(&one, "/forget").await.assert_status(200);
        assert_counter(&one, "nothing").await;
    }

    #[tokio::test]
    async fn a_stale_cookie_hides_nothing_that_a_visitor_stored() {
        let app = app().await;
        app.person("ada").await;
        for stale in ["stale", "", &"A".repeat(43)] {
            let visitor = app.visitor().with_foreign_cookie("visitor", stale);
            post(&visitor, "/counter").await;
            post(&visitor, "/counter").await.assert_no_header("set-cookie");
            assert_counter(&visitor, "2").await;
            post(&visitor, "/enter").await.assert_redirect("/");
            assert_counter(&visitor, "2").await;
        }
    }

    #[tokio::test]
    async fn of_two_visitors_and_two_sessions_in_one_browser_the_values_of_one_are_kept() {
        let app = app().await;
        let (ada, again) = (app.person("ada").await, app.browser_of("ada").await);
        let (one, two) = (app.visitor(), app.visitor());
        for owner in [&ada, &again, &again, &one, &two, &two] {
            post(owner, "/counter").await;
        }
        let visitor = one.with_foreign_cookie("visitor", &two.cookie("visitor").unwrap());
        post(&visitor, "/enter").await.assert_redirect("/");
        assert_counter(&visitor, "2").await;
        let user = ada.with_foreign_cookie("session_token", &again.cookie("session_token").unwrap());
        post(&user, "/enter").await.assert_redirect("/");
        assert_counter(&user, "2").await;
    }

    #[tokio::test]
    async fn a_log_in_moves_what_the_visitor_stored_to_the_new_session() {
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
    async fn a_log_in_over_another_users_session_and_a_log_out_drop_the_values() {
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
        let (ada, visitor) = (app.person("ada").await, app.visitor());
        post(&visitor, "/counter").await;
        join_all((0..20).flat_map(|_| [post(&ada, "/counter"), post(&visitor, "/counter")])).await;
        assert_counter(&ada, "20").await;
        assert_counter(&visitor, "21").await;
    }

    #[tokio::test]
    async fn more_than_64_kib_and_unchanged_values_are_not_saved() {
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
    async fn what_a_visitor_stored_is_purged_once_it_has_expired() {
        let app = app().await;
        let (ada, visitor) = (app.person("ada").await, app.visitor());
        post(&ada, "/counter").await;
        post(&visitor, "/counter").await;
        app.execute("update session_data set expires_at = 1").await;
        assert_counter(&visitor, "nothing").await;
        purge(&app.app).await.unwrap();
        assert_eq!(app.count("select count(*) from session_data").await, 1);
        assert_counter(&ada, "1").await;
    }
}
