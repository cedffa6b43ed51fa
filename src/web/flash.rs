//! A sentence that the next page shows once, after a redirect: `redirect("/notes").flash(SAVED)`.

use super::cookie;
use crate::base::Config;
use anyhow::{Result, ensure};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponseParts, Response, ResponseParts};
use std::convert::Infallible;
use std::time::Duration;

/// A feature lists its own in `Feature::flashes`. The cookie has only the name, so nobody can make a page say something
/// else.
#[derive(Clone, Copy, Debug)]
pub struct Flash {
    pub name: &'static str,
    pub words: &'static str,
}

/// Core's own.
pub const ALL: [Flash; 3] = [TOO_LATE, CONFIRMED, PRESS_AGAIN];

/// On the page where users confirm what they pressed too late.
pub const TOO_LATE: Flash = Flash { name: "too_late", words: "Nothing has changed yet." };

pub const CONFIRMED: Flash = Flash { name: "confirmed", words: "Confirmed." };

pub const PRESS_AGAIN: Flash =
    Flash { name: "press_again", words: "Confirmed. Nothing has changed yet: please press it once more." };

const COOKIE: &str = "flash";

/// A flash can stand beside any answer: `(SAVED, Json(…))`.
impl IntoResponseParts for Flash {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

/// The flash that came with a request.
pub fn find(config: &Config, headers: &HeaderMap, known: &[Flash]) -> Option<Flash> {
    let names = cookie::values(config, headers, COOKIE);
    names.iter().find_map(|name| known.iter().find(|flash| flash.name == name)).copied()
}

/// Sets the cookie of the flash that an answer carries.
///
/// # Errors
/// When no feature lists it.
pub fn set_cookie(config: &Config, known: &[Flash], response: &mut Response) -> Result<()> {
    let Some(Flash { name, .. }) = response.extensions_mut().remove() else { return Ok(()) };
    ensure!(known.iter().any(|flash| flash.name == name), "no feature lists the flash {name}");
    let cookie = cookie::build(config, COOKIE, name.to_string(), Some(Duration::from_secs(60)));
    response.headers_mut().append(SET_COOKIE, HeaderValue::from_str(&cookie.to_string())?);
    Ok(())
}

/// The cookie that makes the browser forget a flash that has been shown.
pub fn delete_cookie(config: &Config) -> ::cookie::Cookie<'static> {
    cookie::delete(config, COOKIE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Result;
    use crate::features::Feature;
    use crate::test::TestApp;
    use crate::web::{Access, Page, Redirect, Routes, Template, files, redirect};
    use serde::Serialize;

    const SAVED: Flash = Flash { name: "saved", words: "Your note is saved." };
    const UNLISTED: Flash = Flash { name: "unlisted", words: "No feature lists this." };

    #[derive(Serialize)]
    struct TestPage {
        title: &'static str,
        words: &'static str,
        request_id: Option<String>,
        wait: Option<String>,
    }

    impl Template for TestPage {
        const FILE: &'static str = files::ERROR;
    }

    async fn show(page: Page) -> Result<Response> {
        page.render(&TestPage { title: "A page", words: "With words.", request_id: None, wait: None }).await
    }

    async fn save() -> Redirect {
        redirect("/page").flash(SAVED)
    }

    async fn save_by_script() -> Response {
        redirect("/page").flash(SAVED).into_json()
    }

    async fn forget() -> Redirect {
        redirect("/page").flash(UNLISTED)
    }

    async fn app() -> TestApp {
        let routes = Routes::new()
            .get("/page", Access::Public, show)
            .post("/save", Access::Public, save)
            .post("/save-by-script", Access::Public, save_by_script)
            .post("/forget", Access::Public, forget);
        TestApp::with_feature(&[], Feature { routes, flashes: &[SAVED], ..Feature::named("test") }).await
    }

    #[tokio::test]
    async fn the_next_page_shows_a_flash_and_the_one_after_it_does_not() {
        let app = app().await;
        let visitor = app.visitor();
        let saved = visitor.post("/save", &[]).await;
        saved.assert_redirect("/page").assert_cookie("flash=saved; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        let page = visitor.get("/page").await;
        page.assert_status(200).assert_contains("Your note is saved.");
        page.assert_cookie("flash=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
        let again = visitor.get("/page").await;
        again.assert_status(200).assert_lacks("Your note is saved.").assert_no_header("set-cookie");
    }

    #[tokio::test]
    async fn a_cookie_of_another_app_hides_no_flash() {
        let app = app().await;
        for foreign in ["", "unlisted", "Welcome!"] {
            let visitor = app.visitor().with_foreign_cookie("flash", foreign);
            visitor.post("/save", &[]).await;
            visitor.get("/page").await.assert_contains("Your note is saved.");
            visitor.get("/page").await.assert_lacks("class=\"flash\"");
        }
    }

    #[tokio::test]
    async fn a_script_is_answered_with_a_flash_for_the_page_it_goes_to() {
        let app = app().await;
        let visitor = app.visitor();
        let saved = visitor.post("/save-by-script", &[]).await;
        saved.assert_status(200).assert_body(r#"{"next":"/page"}"#);
        visitor.get("/page").await.assert_contains("Your note is saved.");
    }

    #[tokio::test]
    async fn a_flash_that_no_feature_lists_is_a_fault() {
        let app = app().await;
        app.visitor().post("/forget", &[]).await.assert_status(500).assert_no_header("set-cookie");
    }

    #[tokio::test]
    async fn a_cookie_cannot_make_a_page_say_anything_else() {
        let app = app().await;
        for name in ["unlisted", "You have won!", ""] {
            let page = app.visitor().with_cookie("flash", name).get("/page").await;
            page.assert_status(200).assert_lacks("class=\"flash\"");
        }
    }
}
