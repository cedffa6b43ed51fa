//! Half-way: a log-in in progress. The first factor is shown and the second is not, so there is no session, and no page
//! takes the browser for anybody; only routes with [`crate::access::Access::HalfWay`] know who is about to come in.

use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::{Connection, now};
use crate::error::{Error, Result};
use crate::guard;
use crate::token::Token;
use crate::user;
use ::cookie::Cookie;
use ::cookie::time::Duration;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum_extra::extract::CookieJar;

const COOKIE: &str = "login";

/// A log-in in progress: an extractor, for handlers whose route is `Access::HalfWay`.
pub struct HalfWay {
    token: Token,
    pub user: User,
    /// Whether the session is to outlive the browser.
    pub stay: bool,
    /// Where to go afterwards.
    pub next: String,
}

impl FromRequestParts<App> for HalfWay {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<HalfWay> {
        find(app, &parts.headers).await?.ok_or(Error::NOT_FOUND)
    }
}

/// The log-in that this browser is about to complete.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<HalfWay>> {
    let Some(token) = token(&app.config, headers) else { return Ok(None) };
    let find = async |db: &mut Connection| {
        let sql = "select u.id, u.username, l.stay, l.next from logins l join users u on u.id = l.user_id \
                   where l.token_hash = $1 and l.expires_at > $2 and u.disabled_at is null";
        let query = sqlx::query_as(sql).bind(token.hash().to_vec()).bind(now());
        let found: Option<(String, String, i64, String)> = query.fetch_optional(db).await?;
        Ok(found)
    };
    let Some((id, username, stay, next)) = app.db.read(find).await? else { return Ok(None) };
    Ok(Some(HalfWay { user: User { id, username }, stay: stay != 0, next, token }))
}

pub fn token(config: &Config, headers: &HeaderMap) -> Option<Token> {
    Token::parse(&guard::cookie(config, headers, COOKIE)?)
}

/// Begins one, and answers the cookie by which the browser goes on with it.
pub async fn begin(
    db: &mut Connection,
    config: &Config,
    user_id: &str,
    stay: bool,
    next: &str,
) -> Result<Cookie<'static>> {
    let (token, lifetime) = (Token::random()?, config.login_lifetime.as_secs() as i64);
    let sql = "insert into logins (token_hash, user_id, stay, next, wrong, expires_at) values ($1, $2, $3, $4, 0, $5)";
    let query = sqlx::query(sql).bind(token.hash().to_vec()).bind(user_id).bind(i64::from(stay));
    query.bind(next).bind(now() + lifetime).execute(db).await?;
    Ok(guard::set_cookie(config, COOKIE, token.text()).max_age(Duration::seconds(lifetime)).build())
}

impl HalfWay {
    /// Takes the user's row and this one, before a factor is judged that works once. Answers whether it still stands.
    pub async fn hold(&self, db: &mut Connection) -> Result<bool> {
        let sql = "update logins set wrong = wrong where token_hash = $1";
        Ok(user::lock(db, &self.user.id).await?
            && sqlx::query(sql).bind(self.token.hash().to_vec()).execute(db).await?.rows_affected() > 0)
    }

    /// Answers whether it was still there: of those who complete one at the same time one does.
    pub async fn spend(&self, db: &mut Connection) -> Result<bool> {
        end(db, &self.token).await
    }

    /// Counts a wrong factor, and answers whether it goes on: after `most` of them it does not.
    pub async fn note_wrong(&self, db: &mut Connection, most: i64) -> Result<bool> {
        let sql = "update logins set wrong = wrong + 1 where token_hash = $1 returning wrong";
        let query = sqlx::query_as(sql).bind(self.token.hash().to_vec());
        let counted: Option<(i64,)> = query.fetch_optional(&mut *db).await?;
        let goes_on = counted.is_some_and(|(wrong,)| wrong < most);
        if !goes_on {
            self.spend(db).await?;
        }
        Ok(goes_on)
    }
}

/// Ends the one that this browser has begun, because a session begins, and has the browser forget its cookie.
pub async fn end_begun(
    db: &mut Connection,
    config: &Config,
    headers: &HeaderMap,
    cookies: CookieJar,
) -> Result<CookieJar> {
    let Some(token) = token(config, headers) else { return Ok(cookies) };
    end(db, &token).await?;
    Ok(cookies.add(guard::clear_cookie(config, COOKIE)))
}

/// Answers whether there was one.
pub async fn end(db: &mut Connection, token: &Token) -> Result<bool> {
    let sql = "delete from logins where token_hash = $1 and expires_at > $2";
    let ended = sqlx::query(sql).bind(token.hash().to_vec()).bind(now()).execute(db).await?;
    Ok(ended.rows_affected() > 0)
}

/// Whatever anybody has begun as this user ends.
pub async fn end_all(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from logins where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}

/// Those that have expired; `$1` is the time.
pub const PURGE: &str = "delete from logins where token_hash in (select token_hash from logins where expires_at <= $1 limit 1000)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::database::Connection;
    use crate::factor::Proven;
    use crate::features::Feature;
    use crate::session::Door;
    use crate::test::{TestApp, Visitor, ask_for_second};
    use axum::extract::State;
    use axum::http::Method;
    use axum::response::{IntoResponse, Response};

    async fn first(State(app): State<App>, door: Door) -> Result<Response> {
        let log_in = async |db: &mut Connection| {
            let sql = "select id from users order by id limit 1";
            let (id,): (String,) = sqlx::query_as(sql).fetch_one(&mut *db).await?;
            door.log_in(db, &id, true, Proven::OneFactor, "/private?a=b").await
        };
        Ok(app.db.write(log_in).await?.ok_or(Error::NOT_FOUND)?.into_response())
    }

    async fn asked(half_way: HalfWay) -> String {
        format!("{} is half-way", half_way.user.username)
    }

    async fn second(State(app): State<App>, door: Door, half_way: HalfWay) -> Result<Response> {
        let entry = app.db.write(async |db| door.complete(db, &half_way).await).await?;
        Ok(entry.ok_or(Error::NOT_FOUND)?.into_response())
    }

    async fn wrong(State(app): State<App>, half_way: HalfWay) -> Result<String> {
        Ok(app.db.write(async |db| half_way.note_wrong(db, 5).await).await?.to_string())
    }

    async fn leave(door: Door) -> Result<&'static str> {
        door.log_out().await?;
        Ok("left")
    }

    async fn app() -> TestApp {
        let routes = Routes::new()
            .post("/leave", Access::Public, leave)
            .post("/first", Access::Public, first)
            .get("/second", Access::HalfWay, asked)
            .post("/second", Access::HalfWay, second)
            .post("/second/wrong", Access::HalfWay, wrong);
        let app = TestApp::with_feature(
            &[],
            Feature { routes, next_factor: Some(ask_for_second), ..Feature::named("test") },
        );
        let app = app.await;
        app.person("ada").await;
        app
    }

    async fn half_way(app: &TestApp) -> Visitor {
        let browser = app.visitor();
        let answer = browser.post("/first", &[]).await;
        answer.assert_redirect("/second");
        answer.assert_cookie("login=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=300");
        assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 1, "{answer}");
        browser
    }

    #[tokio::test]
    async fn with_one_factor_there_is_no_session_and_the_second_leads_to_where_one_wanted_to_go() {
        let app = app().await;
        let browser = half_way(&app).await;
        browser.assert_is("nobody").await;
        browser.get("/second").await.assert_body("ada is half-way");
        let answer = browser.post("/second", &[]).await;
        answer.assert_redirect("/private?a=b");
        // As was chosen with the first.
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        answer.assert_cookie("login=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        browser.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from logins").await, 0);
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 2);
    }

    #[tokio::test]
    async fn whoever_is_half_way_is_nobody_on_every_route() {
        let app = app().await;
        let browser = half_way(&app).await;
        let env = [("BASE_URL", "http://localhost")].into_iter().collect();
        for route in crate::features::all(&env).unwrap().iter().flat_map(|feature| feature.routes.iter()) {
            let path = route.path.replace("{username}", "ada").replace("{id}", "1").replace("{token}", "x");
            let (half_way, stranger) = (browser.copy(), app.visitor());
            let as_half_way = half_way.send(route.method.clone(), &path, &[], "").await;
            let as_stranger = stranger.send(route.method.clone(), &path, &[], "").await;
            if route.access != Access::HalfWay {
                assert_eq!(as_half_way.status, as_stranger.status, "{as_half_way}");
                let to = |answer: &crate::test::Answer| answer.headers.get("location").cloned();
                assert_eq!(to(&as_half_way), to(&as_stranger), "{as_half_way}");
            }
            half_way.assert_is("nobody").await;
            as_half_way.assert_lacks("Logged in: ada");
        }
        for method in [Method::GET, Method::POST] {
            let answer = browser.send(method, "/private", &[], "").await;
            assert!(answer.status == 405 || answer.header("location").starts_with("/login"), "{answer}");
        }
        assert_eq!(app.count("select count(*) from sessions").await, 1);
    }

    #[tokio::test]
    async fn without_a_first_factor_there_is_no_second() {
        let app = app().await;
        let made_up = app.visitor().with_cookie("login", &Token::random().unwrap().text());
        let of_a_session = app.browser_of("ada").await;
        let session = of_a_session.cookie("session_token").unwrap();
        for browser in [app.visitor(), made_up, of_a_session, app.visitor().with_cookie("login", &session)] {
            browser.get("/second").await.assert_redirect("/login");
            browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
        }
    }

    #[tokio::test]
    async fn it_ends_after_a_while_and_with_whatever_ends_sessions() {
        let app = app().await;
        for end in ["expire", "disable", "log out everywhere"] {
            let browser = half_way(&app).await;
            match end {
                "expire" => app.execute("update logins set expires_at = expires_at - 300").await,
                "disable" => app.execute("update users set disabled_at = 1").await,
                _ => {
                    let id = app.user("ada").await;
                    app.app.db.write(async |db| crate::session::end_all(db, &id).await).await.unwrap();
                }
            }
            browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
            app.execute("update users set disabled_at = null").await;
        }
    }

    #[tokio::test]
    async fn after_five_wrong_ones_it_is_over() {
        let app = app().await;
        let browser = half_way(&app).await;
        let another = half_way(&app).await;
        for goes_on in [true, true, true, true, false] {
            browser.post("/second/wrong", &[]).await.assert_body(&goes_on.to_string());
        }
        browser.post("/second", &[]).await.assert_redirect("/login");
        another.post("/second", &[]).await.assert_redirect("/private?a=b");
    }

    #[tokio::test]
    async fn of_twenty_who_complete_one_at_once_one_comes_in() {
        let app = app().await;
        let browser = half_way(&app).await;
        let copies: Vec<Visitor> = (0..20).map(|_| browser.copy()).collect();
        let answers =
            futures_util::future::join_all(copies.iter().map(|copy| copy.post("/second", &[]))).await;
        let entered = answers.iter().filter(|answer| answer.headers.contains_key("location"));
        assert_eq!(entered.filter(|answer| answer.header("location") == "/private?a=b").count(), 1);
        assert_eq!(app.count("select count(*) from sessions").await, 2);
    }

    #[tokio::test]
    async fn whoever_logs_out_half_way_begins_anew() {
        let app = app().await;
        let browser = half_way(&app).await;
        let another = half_way(&app).await;
        browser.post("/leave", &[]).await.assert_body("left");
        browser.post("/second", &[]).await.assert_redirect("/login").assert_no_header("set-cookie");
        another.post("/second", &[]).await.assert_redirect("/private?a=b");
    }
}
