//! Starts, renews and ends sessions.

use super::row::Session;
use crate::accounts::device::{self, RememberedDevice};
use crate::accounts::event::{self, Event};
use crate::accounts::{auth_level::AuthLevel, client::Client, invitation, link, pending_login, user};
use crate::base::{Error, Result, Token, TokenHashes, Tokens};
use crate::db::{Connection, new_id, now};

pub const LOGGED_IN: Event = Event::named("logged_in", "Logged in");
pub const NEW_BROWSER: Event = Event::named("new_browser", "Logged in with a new browser")
    .with_notice("Someone logged in with a new browser", "This browser had not been used for your account before.");
pub const LOGGED_OUT: Event = Event::named("logged_out", "Logged out");
pub const CONFIRMED: Event = Event::named("confirmed", "Confirmed it was you");

/// A session that is about to start.
pub struct NewSession<'a> {
    pub user_id: &'a str,
    pub level: AuthLevel,
    /// Whether the cookie outlives the browser.
    pub stay: bool,
    pub client: &'a Client,
    /// The device tokens of the request.
    pub devices: &'a Tokens,
    /// How many sessions and devices a user may have.
    pub kept: i64,
}

pub struct StartedSession {
    pub id: String,
    pub token: Token,
    pub device: RememberedDevice,
}

/// Starts a session. The user's row is locked by [`user::lock`]. To be followed by [`finish_login`].
pub async fn start(db: &mut Connection, new: &NewSession<'_>) -> Result<StartedSession> {
    let device = device::remember(db, new.devices, new.user_id, new.kept).await?;
    let (id, token) = (new_id(), Token::random()?);
    let sql = "insert into sessions (id, token_hash, user_id, created_at, seen_at, confirmed_at, stay, address, device, \
               device_id, factors, confirmed_factors) values ($1, $2, $3, $4, $4, $4, $5, $6, $7, $8, $9, $9)";
    let query = sqlx::query(sql).bind(&*id).bind(token.hash().to_vec()).bind(new.user_id).bind(now());
    let query = query.bind(i64::from(new.stay)).bind(new.client.address.to_string());
    let query = query.bind(&*new.client.user_agent).bind(&*device.id).bind(new.level.factors());
    query.execute(db).await?;
    Ok(StartedSession { id, token, device })
}

/// Ends the sessions that came with the request, and the user's oldest ones beyond the limit; records the log-in.
pub async fn finish_login(
    db: &mut Connection,
    new: &NewSession<'_>,
    started: &StartedSession,
    replaced: &Tokens,
) -> Result<()> {
    if !replaced.is_empty() {
        delete(db, &replaced.hashes()).await?;
    }
    delete_oldest(db, new.user_id, new.kept).await?;
    event::record(db, new.user_id, LOGGED_IN.by(new.client)).await?;
    if started.device.is_new {
        event::record(db, new.user_id, NEW_BROWSER.by(new.client)).await?;
    }
    Ok(())
}

/// Gives a session a new token, because its user has just authenticated at `level`. Returns the token, and whether its
/// cookie outlives the browser.
///
/// # Errors
/// [`Error::NOT_FOUND`] when the session has ended in the meantime.
pub async fn renew(db: &mut Connection, old: &Session, level: AuthLevel) -> Result<(Token, bool)> {
    let token = Token::random()?;
    let sql = "update sessions set token_hash = $1, confirmed_at = $2, seen_at = $2, confirmed_factors = $4, \
               factors = case when factors > $4 then factors else $4 end where token_hash = $3 returning stay";
    let query = sqlx::query_scalar(sql).bind(token.hash().to_vec()).bind(now());
    let query = query.bind(old.token_hash.to_vec()).bind(level.factors());
    let stay: i64 = query.fetch_optional(db).await?.ok_or(Error::NOT_FOUND)?;
    Ok((token, stay != 0))
}

/// Takes back that the user has authenticated with two factors, so that policies ask for a second one again.
pub async fn lower(db: &mut Connection, session: &Session) -> Result<()> {
    let sql = "update sessions set factors = 1, confirmed_factors = 1 where id = $1";
    sqlx::query(sql).bind(&*session.id).execute(db).await?;
    Ok(())
}

async fn delete_oldest(db: &mut Connection, user_id: &str, kept: i64) -> Result<()> {
    let sql = "delete from sessions where user_id = $1 and id not in \
               (select id from sessions where user_id = $1 order by id desc limit $2)";
    sqlx::query(sql).bind(user_id).bind(kept).execute(db).await?;
    Ok(())
}

/// Starts another session like the one with this token, for a request that was sent twice. Returns the tokens of the
/// session and of its device, and whether the cookie outlives the browser; `None` when the first has ended or was renewed.
pub async fn start_another(
    db: &mut Connection,
    first: &Token,
    devices: &Tokens,
    kept: i64,
) -> Result<Option<(Token, Token, bool)>> {
    let first = first.hash().to_vec();
    let sql = "select user_id from sessions where token_hash = $1";
    let user_id: Option<String> = sqlx::query_scalar(sql).bind(&*first).fetch_optional(&mut *db).await?;
    let Some(user_id) = user_id else { return Ok(None) };
    if user::lock(db, &user_id).await?.is_none() {
        return Ok(None);
    }
    let token = Token::random()?;
    let device = device::remember(db, devices, &user_id, kept).await?;
    let sql = "insert into sessions (id, token_hash, user_id, created_at, seen_at, confirmed_at, stay, address, device, \
               device_id, factors, confirmed_factors) select $2, $3, user_id, created_at, seen_at, confirmed_at, stay, \
               address, device, $4, factors, confirmed_factors from sessions where token_hash = $1 returning stay";
    let query = sqlx::query_scalar(sql).bind(&*first).bind(new_id()).bind(token.hash().to_vec()).bind(&*device.id);
    let stay: Option<i64> = query.fetch_optional(&mut *db).await?;
    delete_oldest(db, &user_id, kept).await?;
    Ok(stay.map(|stay| (token, device.token, stay != 0)))
}

/// Whether the cookie of the session with this token outlives the browser. `None` when there is no such session.
pub async fn find_stay(db: &mut Connection, token: &Token) -> Result<Option<bool>> {
    let sql = "select stay from sessions where token_hash = $1";
    let stay: Option<i64> = sqlx::query_scalar(sql).bind(token.hash().to_vec()).fetch_optional(db).await?;
    Ok(stay.map(|stay| stay != 0))
}

/// Whether there is a session with one of these tokens, even an expired one.
pub async fn exists(db: &mut Connection, tokens: &Tokens) -> Result<bool> {
    let sql = "select 1 from sessions where token_hash in ($1, $2, $3, $4)";
    let [a, b, c, d] = tokens.hashes();
    let query = sqlx::query(sql).bind(a).bind(b).bind(c).bind(d);
    Ok(query.fetch_optional(db).await?.is_some())
}

/// Ends the sessions with these token hashes.
pub async fn log_out(db: &mut Connection, hashes: &TokenHashes, client: &Client) -> Result<()> {
    for user_id in delete(db, hashes).await? {
        event::record(db, &*user_id, LOGGED_OUT.by(client)).await?;
    }
    Ok(())
}

/// Returns the users of these sessions.
async fn delete(db: &mut Connection, [a, b, c, d]: &TokenHashes) -> Result<Vec<String>> {
    let sql = "delete from sessions where token_hash in ($1, $2, $3, $4) returning user_id";
    let query = sqlx::query_scalar(sql).bind(&**a).bind(&**b).bind(&**c).bind(&**d);
    Ok(query.fetch_all(db).await?)
}

/// Locks the user's row, which prevents the session from ending before the transaction does.
///
/// # Errors
/// [`Error::NOT_FOUND`] when it has ended since the request was authorized: the user may have ended it because someone
/// else was using it.
pub async fn lock(db: &mut Connection, session: &Session) -> Result<()> {
    let sql = "select 1 from sessions where id = $1";
    let exists = user::lock(db, &session.user.id).await?.is_some()
        && sqlx::query(sql).bind(&*session.id).fetch_optional(db).await?.is_some();
    if exists { Ok(()) } else { Err(Error::NOT_FOUND) }
}

/// Ends one of the user's sessions, and forgets its device.
///
/// # Errors
/// [`Error::NOT_FOUND`] when the user has no such session.
pub async fn revoke(db: &mut Connection, user_id: &str, id: &str) -> Result<()> {
    user::lock(db, user_id).await?;
    let sql = "delete from sessions where id = $1 and user_id = $2 returning device_id";
    let query = sqlx::query_scalar(sql).bind(id).bind(user_id);
    let device_id: String = query.fetch_optional(&mut *db).await?.ok_or(Error::NOT_FOUND)?;
    device::delete(db, &device_id).await
}

/// Ends all of the user's sessions except this one, and pending log-ins, and forgets the other devices. Returns whether
/// there were any.
///
/// # Errors
/// As [`lock`].
pub async fn revoke_others(db: &mut Connection, session: &Session) -> Result<bool> {
    lock(db, session).await?;
    let sql = "delete from sessions where user_id = $1 and id <> $2";
    let query = sqlx::query(sql).bind(&*session.user.id).bind(&*session.id);
    let sessions = query.execute(&mut *db).await?.rows_affected();
    let pending = pending_login::delete_all(db, &session.user.id).await?;
    let devices = device::delete_without_session(db, &session.user.id).await?;
    Ok(sessions + pending + devices > 0)
}

/// Ends all of the user's sessions, pending log-ins, links and invitations, and forgets all devices. Returns whether there
/// were any sessions or invitations. The user's row is locked by [`user::lock`].
pub async fn revoke_all(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "delete from sessions where user_id = $1";
    let sessions = sqlx::query(sql).bind(user_id).execute(&mut *db).await?.rows_affected();
    pending_login::delete_all(db, user_id).await?;
    device::delete_without_session(db, user_id).await?;
    let invitations = invitation::revoke_all(db, user_id).await?;
    link::revoke_pending(db, user_id).await?;
    Ok(sessions + invitations > 0)
}

/// Corrects sessions that were used while a clock was ahead; `$1` is the latest possible time.
pub const CORRECT: &str = "update sessions set seen_at = $1, \
     created_at = case when created_at > $1 then $1 else created_at end \
     where seen_at > $1 and id in (select id from sessions where seen_at > $1 limit 1000)";

/// Deletes sessions that started at `$1` or before, and those that were last used at `$1` or before.
pub const PURGE_OLD: &str =
    "delete from sessions where id in (select id from sessions where created_at <= $1 limit 1000)";
pub const PURGE_IDLE: &str =
    "delete from sessions where seen_at <= $1 and id in (select id from sessions where seen_at <= $1 limit 1000)";

#[cfg(test)]
mod tests {
    use crate::test::{PASSWORD, TestApp, Visitor};
    use crate::web::Routes;

    async fn log_in_as_ada(visitor: &Visitor, headers: &[(&str, &str)]) {
        let fields = [("username", "ada"), ("password", PASSWORD)];
        visitor.post_with("/test/log-in", &fields, headers).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn the_oldest_sessions_of_a_user_with_too_many_end() {
        let app = TestApp::with_env(&[("SESSIONS_PER_USER", "3")], Routes::new()).await;
        let first = app.person("ada").await;
        let browsers: Vec<Visitor> = (0..3).map(|_| app.visitor()).collect();
        for browser in &browsers {
            log_in_as_ada(browser, &[]).await;
        }
        first.assert_is("nobody").await;
        for browser in &browsers {
            browser.assert_is("ada").await;
        }
        let bob = app.person("bob").await;
        log_in_as_ada(&app.visitor(), &[]).await;
        bob.assert_is("bob").await;
    }

    #[tokio::test]
    async fn a_session_is_stored_with_its_network_address_and_browser() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let agent = format!("Browser\u{9} {}", "x".repeat(300));
        log_in_as_ada(&app.visitor(), &[("user-agent", &agent)]).await;
        let sql = "select count(*) from sessions where address = '127.0.0.1' and length(device) = 200";
        assert_eq!(app.count(sql).await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'logged_in'").await, 2);
    }
}
