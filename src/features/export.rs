//! A copy of all data about a user, as a JSON file.
//!
//! If it fails in the middle, the client's connection is closed before the end of the answer, and no browser takes the part
//! for the whole.

use super::feature::Feature;
use crate::accounts::User;
use crate::base::{Env, Error, Result, explain};
use crate::db::request::{self, Requester};
use crate::web::user_data::{self, Reader};
use crate::web::{Access, AccountGroup, AccountRow, App, Empty, Form, Page, Routes, RowState, Template, files};
use anyhow::ensure;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::future::ready;
use futures_util::{FutureExt, StreamExt, TryFutureExt, stream};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATH: &str = "/account/export";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, show).post(PATH, Access::Recent, create);
    let settings = Some(Box::new(Exporting::default()) as _);
    Ok(Feature { routes, settings, account_row: Some(ROW), ..Feature::named("export") })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Data, 1, "Export", PATH, |_, _| {
    RowState::fixed("A copy of everything, as a file", "Download")
});

/// How many users may export their data at the same time.
const AT_ONCE: usize = 8;

/// How many bytes per second a client has to read, on average over [`WINDOW`].
const MIN_RATE: f64 = 16.0 * 1024.0;

const WINDOW: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct ExportPage {}

impl Template for ExportPage {
    const FILE: &'static str = files::EXPORT_SHOW;
}

async fn show(page: Page) -> Result<Response> {
    page.render(&ExportPage {}).await
}

async fn create(State(app): State<App>, user: User, _: Form<Empty>) -> Result<Response> {
    let turn = app.settings::<Exporting>().begin(&user.id);
    let turn = turn.ok_or(Error::Refused(StatusCode::SERVICE_UNAVAILABLE))?;
    let headers = [
        (CONTENT_TYPE, "application/json".to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}.json\"", user.username)),
    ];
    Ok((headers, body(app, turn, ReadingRate::over(WINDOW))).into_response())
}

/// The users whose exports are on their way.
#[derive(Clone, Default)]
struct Exporting(Arc<Mutex<HashSet<String>>>);

impl Exporting {
    /// `None` while this user has an export on its way, or too many others do.
    fn begin(&self, user_id: &str) -> Option<Turn> {
        let mut users = self.users();
        let begins = users.len() < AT_ONCE && users.insert(user_id.to_string());
        begins.then(|| Turn { exporting: self.clone(), user_id: user_id.to_string() })
    }

    fn users(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user's export, which ends when this is dropped.
struct Turn {
    exporting: Exporting,
    user_id: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.exporting.users().remove(&self.user_id);
    }
}

/// More is written whenever the client asks for it.
fn body(app: App, turn: Turn, rate: ReadingRate) -> Body {
    let (sender, mut pieces) = mpsc::channel(1);
    let writing = write(app, turn, Client { pieces: sender, rate });
    // The body is read after the request has been handled, and takes its turns like it.
    let writing = request::run(Requester::current(), writing).map(|(written, _)| written);
    let writing = writing.inspect_err(|cause| tracing::warn!("an export was ended early: {}", explain(cause)));
    let failure = stream::once(writing).filter_map(|written| ready(written.err().map(Err)));
    let pieces = stream::poll_fn(move |context| pieces.poll_recv(context));
    Body::from_stream(stream::select(pieces.map(Ok), failure))
}

async fn write(app: App, turn: Turn, mut client: Client) -> anyhow::Result<()> {
    user_data::write(&app.db, &app.features.export, &turn.user_id, &mut client).await
}

struct Client {
    pieces: mpsc::Sender<Bytes>,
    rate: ReadingRate,
}

impl Reader for Client {
    /// Returns when the client has taken this piece and asks for the next: nothing polls a query while the client pauses, and
    /// it would keep its connection.
    async fn send(&mut self, piece: Bytes) -> anyhow::Result<()> {
        let (bytes, begun) = (piece.len(), Instant::now());
        self.pieces.send(piece).await?;
        let _taken = self.pieces.reserve().await?;
        self.rate.count(bytes, begun.elapsed())
    }
}

/// How fast the client reads. The time in which the database is read does not count.
struct ReadingRate {
    window: Duration,
    bytes: usize,
    time: Duration,
}

impl ReadingRate {
    fn over(window: Duration) -> ReadingRate {
        ReadingRate { window, bytes: 0, time: Duration::ZERO }
    }

    /// Counts a piece that the client has taken so long for.
    ///
    /// # Errors
    /// At the end of a window in which the client was too slow.
    fn count(&mut self, bytes: usize, time: Duration) -> anyhow::Result<()> {
        self.bytes += bytes;
        self.time += time;
        if self.time >= self.window {
            ensure!(self.bytes as f64 >= MIN_RATE * self.time.as_secs_f64(), "the client reads too slowly");
            *self = ReadingRate::over(self.window);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, Visitor, check};
    use axum::extract::Request;
    use axum::http::Method;
    use axum::http::header::{COOKIE, HOST};
    use http_body_util::BodyExt;
    use serde_json::Value;

    /// Gives every user two thousand events, from 1000NAME to 2999NAME.
    const EVENTS: &str = "with recursive numbers (number) as \
                          (select 1000 union all select number + 1 from numbers where number < 2999) \
                          insert into events (id, user_id, kind, factors, created_at) \
                          select cast(number as text) || username, users.id, 'example', 1, number from users, numbers";

    /// The answer to a request for an export, of which nothing has been read.
    async fn begin(visitor: &Visitor) -> Response {
        let cookie = format!("session_token={}", visitor.cookie("session_token").unwrap());
        let request = Request::post(PATH).header(HOST, "localhost").header(COOKIE, cookie);
        visitor.site.answer(request.body(Body::empty()).unwrap()).await
    }

    #[test]
    fn its_page_renders() {
        check(&[ExportPage {}]);
    }

    #[tokio::test]
    async fn a_user_gets_all_data_about_them_as_a_file_and_no_secrets() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        app.execute("update events set about = 'Pixel 8'").await;
        let answer = ada.post(PATH, &[]).await;
        answer.assert_status(200).assert_header("content-type", "application/json");
        answer.assert_header("content-disposition", "attachment; filename=\"ada.json\"");
        answer.assert_lacks("bob").assert_lacks("pbkdf2").assert_lacks("token");
        let export: Value = serde_json::from_slice(&answer.bytes).unwrap();
        assert_eq!(export["user"][0]["username"], "ada");
        assert_eq!(export["sessions"][0]["address"], "127.0.0.1");
        assert_eq!(export["events"][0]["kind"], "signed_up");
        assert_eq!(export["events"][0]["about"], "Pixel 8");
        let created = export["user"][0]["created_at"].as_str().unwrap();
        assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
        assert_eq!(created.len(), "2026-05-01T10:00:00Z".len());
    }

    #[tokio::test]
    async fn all_rows_come_in_order_and_none_of_other_users() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        app.execute(EVENTS).await;
        let text = ada.post(PATH, &[]).await.assert_status(200).assert_lacks("bob").text();
        let export: Value = serde_json::from_str(&text).unwrap();
        let ids = export["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap());
        let ids: Vec<&str> = ids.filter(|id| id.ends_with("ada")).collect();
        assert_eq!(ids, (1000..3000).map(|number| format!("{number}ada")).collect::<Vec<_>>());
        assert_eq!(text, serde_json::to_string_pretty(&export).unwrap());
    }

    #[tokio::test]
    async fn the_page_offers_the_file_and_is_not_the_file() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_contains("Download my data").assert_no_header("content-disposition");
        for _ in 0..2 {
            let before = app.statements();
            let answer = ada.send(Method::HEAD, PATH, &[], "").await;
            answer.assert_status(200).assert_no_header("content-disposition").assert_body("");
            // The session.
            assert_eq!(app.statements() - before, 1);
        }
    }

    #[tokio::test]
    async fn a_user_has_one_export_at_a_time_and_all_users_together_eight() {
        let app = TestApp::new().await;
        let (ada, ninth) = (app.person("ada").await, app.person("ninth").await);
        let mut exports = vec![begin(&ada).await];
        let refused = ada.post(PATH, &[]).await;
        refused.assert_status(503).assert_header("retry-after", "2").assert_contains("The site is busy");
        for number in 2..9 {
            exports.push(begin(&app.person(&format!("user{number}")).await).await);
        }
        assert!(exports.iter().all(|export| export.status() == 200));
        ninth.post(PATH, &[]).await.assert_status(503);
        drop(exports.pop());
        ninth.post(PATH, &[]).await.assert_status(200);
        ada.post(PATH, &[]).await.assert_status(503);
        exports.swap_remove(0).into_body().collect().await.unwrap();
        ada.post(PATH, &[]).await.assert_status(200);
    }

    #[tokio::test]
    async fn an_export_that_waits_for_its_client_holds_no_connection() {
        let app = TestApp::with_env(&[("DATABASE_POOL", "3")], Routes::new()).await;
        let people = [app.person("ada").await, app.person("bob").await, app.person("cal").await];
        app.execute(EVENTS).await;
        let mut bodies = Vec::new();
        for person in &people {
            let mut body = begin(person).await.into_body();
            assert!(body.frame().await.unwrap().is_ok());
            bodies.push(body);
        }
        people[0].assert_is("ada").await;
        app.execute("update users set created_at = 1").await;
        for body in bodies {
            assert!(body.collect().await.unwrap().to_bytes().ends_with(b"\n}"));
        }
    }

    #[tokio::test]
    async fn an_export_that_fails_in_the_middle_does_not_end_like_a_whole_one() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute(EVENTS).await;
        let mut body = begin(&ada).await.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        app.execute("alter table events rename to lost").await;
        assert!(body.collect().await.is_err());
        app.execute("alter table lost rename to events").await;
        ada.post(PATH, &[]).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_client_that_reads_too_slowly_gets_no_whole_file() {
        let app = TestApp::new().await;
        let (_ada, id) = (app.person("ada").await, app.user("ada").await);
        app.execute(EVENTS).await;
        let turn = app.app.settings::<Exporting>().begin(&id).unwrap();
        let mut body = body(app.app.clone(), turn, ReadingRate::over(Duration::from_secs(1)));
        let end = loop {
            match body.frame().await {
                // 16 KiB each time.
                Some(Ok(_)) => tokio::time::sleep(Duration::from_millis(1200)).await,
                end => break end,
            }
        };
        assert!(end.is_some_and(|end| end.unwrap_err().to_string().contains("too slowly")));
    }

    #[test]
    fn a_client_has_to_read_sixteen_kibibytes_a_second_over_half_a_minute() {
        let seconds = Duration::from_secs;
        let mut rate = ReadingRate::over(WINDOW);
        for _ in 0..99 {
            rate.count(160 * 1024, seconds(10)).unwrap();
        }
        // A pause is made up for by what comes before or after it.
        rate.count(0, seconds(29)).unwrap();
        rate.count(480 * 1024, seconds(1)).unwrap();
        for _ in 0..2 {
            rate.count(159 * 1024, seconds(10)).unwrap();
        }
        assert!(rate.count(159 * 1024, seconds(10)).is_err());
    }

    #[tokio::test]
    async fn a_user_who_logged_in_some_time_ago_has_to_confirm_first() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(PATH).await.assert_status(200);
        ada.post(PATH, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Faccount%2Fexport");
        app.visitor().post(PATH, &[]).await.assert_redirect("/login?next=%2F");
    }
}
