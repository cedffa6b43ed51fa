//! The theme: light, dark, or as the reader's system says, kept in a cookie that `web/page.rs` reads.

use super::feature::Feature;
use crate::base::{Env, Error, Result};
use crate::web::security::own_referer;
use crate::web::{Access, App, Form, LocalPath, Redirect, Routes, Theme, cookie, redirect};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use std::time::Duration;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature { routes: Routes::new().post("/theme", Access::Public, create), ..Feature::named("theme") })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ThemeForm {
    theme: String,
    next: Option<LocalPath>,
}

const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

async fn create(State(app): State<App>, headers: HeaderMap, Form(form): Form<ThemeForm>) -> Result<Redirect> {
    let theme = Theme::parse(&form.theme).ok_or(Error::Refused(StatusCode::UNPROCESSABLE_ENTITY))?;
    let cookie = cookie::build(&app.config, "theme", theme.name().to_string(), Some(LIFETIME));
    let next = form.next.unwrap_or_else(|| LocalPath::from(own_referer(&app.config, &headers)));
    Ok(redirect(&next).cookie(cookie))
}

#[cfg(test)]
mod tests {
    use crate::test::TestApp;

    #[tokio::test]
    async fn a_theme_is_kept_for_a_year_and_leads_back_to_the_page() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        visitor.get("/nowhere").await.assert_contains("data-theme=\"system\"");
        let here = [("referer", "http://localhost/nowhere?a=b")];
        let chosen = visitor.post_with("/theme", &[("theme", "dark")], &here).await;
        chosen.assert_redirect("/nowhere?a=b");
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
        visitor.post("/theme", &[]).await.assert_status(422);
        let elsewhere = [("theme", "light"), ("next", "//evil.example")];
        visitor.post("/theme", &elsewhere).await.assert_redirect("/");
        let elsewhere = [("referer", "http://evil.example/nowhere")];
        visitor.post_with("/theme", &[("theme", "light")], &elsewhere).await.assert_redirect("/");
        visitor.post("/theme", &[("theme", "light"), ("next", "/here")]).await.assert_redirect("/here");
    }
}
