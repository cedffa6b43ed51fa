//! [`Page`]: answers a request with a page.

use super::flash::{self, Flash};
use super::templates::{PageContext, Template, Theme};
use super::{administration::Granted, app::App, auth::AuthState, cookie};
use crate::accounts::{Permission, Permissions};
use crate::base::{Config, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum_extra::extract::CookieJar;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// As an argument of a handler: `page.render(&NotesPage { … }).await`.
pub struct Page {
    app: App,
    auth: AuthState,
    theme: Theme,
    flash: Option<Flash>,
    path: String,
    confirm_link: ConfirmLink,
    granted: Option<Permissions>,
}

/// Where users confirm first if their log-in is no longer recent and the page has forms that need a recent one.
#[derive(Clone, Default)]
pub struct ConfirmLink(pub Option<String>);

impl Page {
    /// # Errors
    /// When the user cannot be looked up, or the template cannot be rendered.
    pub async fn render<T: Template>(&self, template: &T) -> Result<Response> {
        self.render_with(StatusCode::OK, template).await
    }

    /// Whether it shows this flash.
    pub fn shows(&self, flash: Flash) -> bool {
        self.flash.is_some_and(|shown| shown.name == flash.name)
    }

    /// As [`Page::render`] with status 422: a form with its mistakes, and what was typed. The title says so too.
    ///
    /// # Errors
    /// As [`Page::render`].
    pub async fn render_errors<T: Template>(&self, template: &T) -> Result<Response> {
        self.render_with(StatusCode::UNPROCESSABLE_ENTITY, template).await
    }

    /// As [`Page::render`] with another status.
    ///
    /// # Errors
    /// As [`Page::render`].
    pub async fn render_with<T: Template>(&self, status: StatusCode, template: &T) -> Result<Response> {
        let Page { app, auth, theme, flash, path, confirm_link, granted } = self;
        let has_mistakes = status == StatusCode::UNPROCESSABLE_ENTITY;
        let html = match auth.session().await? {
            None if T::STATIC && flash.is_none() && !has_mistakes && !cfg!(debug_assertions) => {
                app.templates.render_static(template, *theme)?
            }
            session => {
                let is_old = session.is_some_and(|session| !session.is_recent(&app.config));
                let may = granted.as_ref().map(|own| may(&app.features.permissions, own)).unwrap_or_default();
                let context = PageContext {
                    user: session.map(|session| &session.user),
                    theme: *theme,
                    flash: flash.map(|flash| flash.words),
                    path,
                    has_mistakes,
                    confirm_link: confirm_link.0.as_deref().filter(|_| is_old),
                    may: &may,
                };
                app.templates.render(template, context)?.into()
            }
        };
        let shown = flash.map(|_| CookieJar::new().add(flash::delete_cookie(&app.config)));
        Ok((status, shown, Html(html)).into_response())
    }
}

impl FromRequestParts<App> for Page {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Page, Infallible> {
        let (config, headers) = (&app.config, &parts.headers);
        let flash = flash::find(config, headers, &app.features.flashes);
        let (auth, path) = (AuthState::of(parts), parts.uri.path().to_string());
        let confirm_link = parts.extensions.get().cloned().unwrap_or_default();
        let granted = parts.extensions.get().map(|granted: &Granted| granted.permissions.clone());
        Ok(Page { app: app.clone(), auth, theme: theme(config, headers), flash, path, confirm_link, granted })
    }
}

/// What a user may do, in a template: `may.users_manage`.
pub fn may(known: &[Permission], own: &Permissions) -> BTreeMap<String, bool> {
    known.iter().map(|permission| (permission.name.replace('.', "_"), own.has(*permission))).collect()
}

/// The theme that the reader has chosen.
pub fn theme(config: &Config, headers: &HeaderMap) -> Theme {
    cookie::values(config, headers, "theme").iter().find_map(|name| Theme::parse(name)).unwrap_or(Theme::SYSTEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use crate::web::{Access, Routes, files};
    use serde::Serialize;

    #[derive(Serialize)]
    struct FormPage {
        title: &'static str,
        words: &'static str,
        request_id: Option<String>,
        wait: Option<String>,
    }

    impl Template for FormPage {
        const FILE: &'static str = files::ERROR;
    }

    const PAGE: FormPage = FormPage { title: "A form", words: "", request_id: None, wait: None };

    async fn show(page: Page) -> Result<Response> {
        page.render(&PAGE).await
    }

    async fn submit(page: Page) -> Result<Response> {
        page.render_errors(&PAGE).await
    }

    #[tokio::test]
    async fn a_title_ends_with_the_name_of_the_site_and_begins_with_the_error_where_there_is_one() {
        let routes = Routes::new().get("/form", Access::Public, show).post("/form", Access::Public, submit);
        let app = TestApp::with_env(&[("SITE_NAME", "Acme")], routes).await;
        app.visitor().get("/form").await.assert_status(200).assert_contains("<title>A form · Acme</title>");
        app.visitor()
            .post("/form", &[])
            .await
            .assert_status(422)
            .assert_contains("<title>Error: A form · Acme</title>");
    }
}
