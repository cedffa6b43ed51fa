//! The theme: light, dark, or as the reader's system says, kept in a cookie that `web/page.rs` reads.

use super::feature::Feature;
use crate::base::{Env, Result};
use crate::web::security::own_referer;
use crate::web::{Access, App, Form, LocalPath, Page, Routes, Template, Theme, cookie, files, redirect};
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Public, show).post(PATH, Access::Public, create);
    Ok(Feature { routes, ..Feature::named("theme") })
}

const PATH: &str = "/theme";

/// The form is at the foot of every page, and so of this one.
#[derive(Serialize)]
struct ThemePage {}

impl Template for ThemePage {
    const FILE: &'static str = files::THEME_SHOW;
}

async fn show(page: Page) -> Result<Response> {
    page.render(&ThemePage {}).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ThemeForm {
    theme: String,
    next: Option<LocalPath>,
}

const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    page: Page,
    Form(form): Form<ThemeForm>,
) -> Result<Response> {
    let Some(theme) = Theme::parse(&form.theme) else { return page.render_errors(&ThemePage {}).await };
    let cookie = cookie::build(&app.config, "theme", theme.name().to_string(), Some(LIFETIME));
    // theme.js has changed the page already, and a redirect would fetch another, with the flash that was meant for it.
    if headers.get(ACCEPT).is_some_and(|accept| accept == "application/json") {
        return Ok((CookieJar::new().add(cookie), StatusCode::NO_CONTENT).into_response());
    }
    let next = form.next.or_else(|| own_referer(&app.config, &headers));
    Ok(redirect(app.resolve(next.as_ref())).cookie(cookie).into_response())
}

#[cfg(test)]
mod tests {
    use super::ThemePage;
    use crate::test::{TestApp, check};

    #[test]
    fn its_page_renders() {
        check(&[ThemePage {}]);
    }

    #[tokio::test]
    async fn a_theme_is_kept_for_a_year_and_leads_back_to_the_page() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        visitor.get("/nowhere").await.assert_contains("data-theme=\"system\"");
        let here = [("referer", "http://localhost/whoami?a=b")];
        let chosen = visitor.post_with("/theme", &[("theme", "dark")], &here).await;
        chosen.assert_redirect("/whoami?a=b");
        chosen.assert_cookie("theme=dark; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000");
        visitor.get("/nowhere").await.assert_contains("data-theme=\"dark\"").assert_no_header("set-cookie");
    }

    #[tokio::test]
    async fn a_cookie_of_another_app_hides_no_theme() {
        let app = TestApp::new().await;
        for foreign in ["solarized", "", "DARK"] {
            let visitor = app.visitor().with_foreign_cookie("theme", foreign);
            visitor.get("/nowhere").await.assert_contains("data-theme=\"system\"");
            visitor.post("/theme", &[("theme", "dark")]).await;
            visitor.get("/nowhere").await.assert_contains("data-theme=\"dark\"");
        }
    }

    #[tokio::test]
    async fn a_theme_that_does_not_exist_is_refused_and_none_leads_to_another_site() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        visitor.post("/theme", &[("theme", "\"><script>")]).await.assert_status(422).assert_no_header("set-cookie");
        visitor.post("/theme", &[]).await.assert_status(422).assert_contains("action=\"/theme\"");
        visitor.get("/theme").await.assert_status(200).assert_contains("action=\"/theme\"");
        let elsewhere = [("theme", "light"), ("next", "//evil.example")];
        visitor.post("/theme", &elsewhere).await.assert_redirect("/");
        let elsewhere = [("referer", "http://evil.example/nowhere")];
        visitor.post_with("/theme", &[("theme", "light")], &elsewhere).await.assert_redirect("/");
        visitor.post("/theme", &[("theme", "light"), ("next", "/whoami")]).await.assert_redirect("/whoami");
    }
    #[tokio::test]
    async fn a_theme_chosen_on_the_answer_to_a_form_leads_to_a_page() {
        let app = TestApp::new().await;
        for (path, page) in [("/test/log-in", "/"), ("/nowhere", "/"), ("/whoami", "/whoami")] {
            let here = [("referer", &*format!("http://localhost{path}"))];
            app.visitor().post_with("/theme", &[("theme", "dark")], &here).await.assert_redirect(page);
            let next = [("theme", "dark"), ("next", path)];
            app.visitor().post("/theme", &next).await.assert_redirect(page);
        }
    }

    #[tokio::test]
    async fn a_script_that_sends_a_theme_is_led_nowhere() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        let chosen = visitor.post_with("/theme", &[("theme", "dark")], &[("accept", "application/json")]).await;
        chosen.assert_status(204).assert_no_header("location").assert_body("");
        visitor.get("/nowhere").await.assert_contains("data-theme=\"dark\"");
    }
}
