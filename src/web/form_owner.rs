//! Whose form it is. A form that one person opened, and that is sent after another has logged in with the same browser, is
//! not meant for the other's account. So every form of a user says whose it is, by the line `{{ <for_user id={user_id} /> }}`.
//!
//! This protects people from a mix-up, not from attackers: a form that does not say it is accepted.

use super::form::{Json, find_field};
use super::security::own_referer;
use super::templates::{Template, files};
use super::{app::App, auth::AuthState, page::Page};
use crate::base::Result;
use crate::db::Connection;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

#[derive(Serialize)]
struct FormOwnerPage {
    /// Who opened the form, if the account still exists.
    owner: Option<String>,
    /// The page that the form stood on.
    back: String,
}

impl Template for FormOwnerPage {
    const FILE: &'static str = files::FORM_OWNER;
}

/// The answer to a form that another user opened.
pub async fn refuse_anothers(app: &App, parts: &mut Parts, body: &Bytes) -> Result<Option<Response>> {
    let Some((field, is_json)) = find_field(&parts.headers, body, "for").await else { return Ok(None) };
    let auth = AuthState::of(parts);
    let Some(user) = auth.user().await? else { return Ok(None) };
    let owner = Uuid::parse_str(&field).ok().map(|id| id.to_string());
    if owner.as_ref() == Some(&user.id) {
        return Ok(None);
    }
    let owner = match owner {
        Some(id) => app.db.read(async |db| username(db, &id).await).await?,
        None => None,
    };
    if is_json {
        let owner = owner.as_deref().unwrap_or("Someone else");
        let sentence =
            format!("{owner} opened this page, and {} has logged in since. Please reload it.", user.username);
        return Ok(Some((StatusCode::CONFLICT, Json(json!({ "error": sentence }))).into_response()));
    }
    let back = app.resolve(own_referer(&app.config, &parts.headers).as_ref()).into();
    let Ok(page) = Page::from_request_parts(parts, app).await;
    page.render_with(StatusCode::CONFLICT, &FormOwnerPage { owner, back }).await.map(Some)
}

async fn username(db: &mut Connection, id: &str) -> Result<Option<String>> {
    let sql = "select username from users where id = $1";
    Ok(sqlx::query_scalar(sql).bind(id).fetch_optional(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Answer, TestApp, Visitor, check};
    use crate::web::{Access, Routes};
    use axum::http::Method;

    async fn accept() -> &'static str {
        "accepted"
    }

    async fn app() -> TestApp {
        let routes = Routes::new()
            .get("/user", Access::User, accept)
            .post("/user", Access::User, accept)
            .post("/recent", Access::Recent, accept)
            .post("/guest", Access::Guest, accept)
            .post("/public", Access::Public, accept);
        TestApp::with(routes).await
    }

    async fn send(visitor: &Visitor, path: &str, owner: &str) -> Answer {
        let headers = [("referer", "http://localhost/user?page=2")];
        visitor.post_with(path, &[("for", owner), ("text", "hello")], &headers).await
    }

    #[test]
    fn its_page_renders() {
        for owner in [None, Some("ada".to_string())] {
            check(&[FormOwnerPage { owner, back: "/notes".into() }]);
        }
    }

    #[tokio::test]
    async fn a_form_that_another_opened_before_does_nothing_and_its_answer_names_both() {
        let app = app().await;
        let (_, bob) = (app.person("ada").await, app.person("bob").await);
        let ada = app.user("ada").await;
        for path in ["/user", "/recent"] {
            let answer = send(&bob, path, &ada).await;
            answer.assert_status(409).assert_lacks("accepted");
            answer.assert_contains("<strong>ada</strong> opened this form");
            answer.assert_contains("<strong>bob</strong> has logged in");
            answer.assert_contains("href=\"/user?page=2\"");
        }
        let multipart = bob.post_multipart("/user", &[("text", "hello"), ("for", &ada)]).await;
        multipart.assert_status(409).assert_contains("<strong>ada</strong> opened").assert_contains("href=\"/\"");
        let with_file = format!(
            "--x\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"a.png\"\r\n\r\n\u{1}\r\n\
             --x\r\nContent-Disposition: form-data; name=\"for\"\r\n\r\n{ada}\r\n--x--\r\n"
        );
        let kind = Some("multipart/form-data; boundary=x");
        bob.post_body("/user", kind, with_file.as_bytes()).await.assert_status(409);
        let json = format!(r#"{{"for":"{ada}","text":"hello"}}"#);
        let json = bob.post_body("/user", Some("application/json"), json.as_bytes()).await;
        json.assert_status(409).assert_header("content-type", "application/json");
        json.assert_body(r#"{"error":"ada opened this page, and bob has logged in since. Please reload it."}"#);
    }

    #[tokio::test]
    async fn ones_own_form_costs_no_statement_and_anothers_one() {
        let app = app().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let id = app.user("ada").await;
        let count = async |visitor: &Visitor, owner: &str, status| {
            let before = app.statements();
            send(visitor, "/user", owner).await.assert_status(status);
            app.statements() - before
        };
        let without = count(&ada, "", 200).await;
        assert_eq!(count(&ada, &id, 200).await, without);
        assert_eq!(count(&bob, &id, 409).await, without + 1);
        assert_eq!(count(&bob, "nobody", 409).await, without);
    }

    #[tokio::test]
    async fn a_form_that_does_not_say_whose_it_is_is_accepted() {
        let app = app().await;
        let ada = app.person("ada").await;
        for path in ["/user", "/recent"] {
            ada.post(path, &[("text", "hello")]).await.assert_body("accepted");
            ada.post(path, &[]).await.assert_body("accepted");
            send(&ada, path, "").await.assert_body("accepted");
            ada.post_multipart(path, &[("text", "hello")]).await.assert_body("accepted");
            for json in ["{}", "[]", "{\"for\":null}", "{"] {
                ada.post_body(path, Some("application/json"), json.as_bytes()).await.assert_body("accepted");
            }
            ada.post_body(path, Some("text/plain"), b"for=somebody").await.assert_body("accepted");
            ada.post_body(path, None, b"for=somebody").await.assert_body("accepted");
        }
    }

    #[tokio::test]
    async fn who_is_no_user_any_more_or_never_was_is_not_named() {
        let app = app().await;
        let ada = app.person("ada").await;
        let id = app.user("ada").await;
        let unknown = Uuid::now_v7().to_string();
        let long = "1".repeat(60_000);
        for owner in ["ada", "0", " ", "null", "\0", "Ω", "' or 1=1 --", "{}", &format!("{id} "), &unknown, &long] {
            send(&ada, "/user", owner).await.assert_status(409).assert_contains("Someone else opened this form");
            let multipart = ada.post_multipart("/user", &[("for", owner)]).await;
            multipart.assert_status(409).assert_contains("Someone else opened this form");
        }
        for json in [r#"{"for":1}"#, r#"{"for":["a"]}"#, r#"{"for":{"a":1}}"#] {
            let json = ada.post_body("/user", Some("application/json"), json.as_bytes()).await;
            json.assert_status(409).assert_contains("Someone else opened this page");
        }
        send(&ada, "/user", &id.to_uppercase()).await.assert_body("accepted");
    }

    #[tokio::test]
    async fn pages_forms_of_guests_and_those_that_anybody_may_send_are_everybodys() {
        let app = app().await;
        let (_, bob) = (app.person("ada").await, app.person("bob").await);
        let ada = app.user("ada").await;
        for path in ["/guest", "/public"] {
            send(&bob, path, &ada).await.assert_body("accepted");
            send(&app.visitor(), path, &ada).await.assert_body("accepted");
        }
        let body = format!("for={ada}");
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        bob.send(Method::GET, "/user", &kind, body).await.assert_body("accepted");
        send(&app.visitor(), "/user", &ada).await.assert_redirect("/login?next=%2Fuser%3Fpage%3D2");
    }
}
