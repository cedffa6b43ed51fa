//! [`Page`]: answers a request with a page.

use super::templates::{Template, Theme};
use super::{app::App, auth::AuthState, cookie, flash};
use crate::base::{Config, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum_extra::extract::CookieJar;
use std::convert::Infallible;

/// As an argument of a handler: `page.render(&NotesPage { … }).await`.
pub struct Page {
    app: App,
    auth: AuthState,
    theme: Theme,
    flash: Option<&'static str>,
}

impl Page {
    /// # Errors
    /// When the user cannot be looked up, or the template cannot be rendered.
    pub async fn render<T: Template>(&self, template: &T) -> Result<Response> {
        let Page { app, auth, theme, flash } = self;
        let html = match auth.user().await? {
            None if size_of::<T>() == 0 && flash.is_none() && !cfg!(debug_assertions) => {
                app.templates.render_static(template, *theme)?
            }
            user => app.templates.render(template, user, *theme, *flash)?.into(),
        };
        let shown = flash.map(|_| CookieJar::new().add(flash::delete_cookie(&app.config)));
        Ok((shown, Html(html)).into_response())
    }

    /// As [`Page::render`] with status 422: a form with its mistakes, and what was typed.
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
        Ok((status, self.render(template).await?).into_response())
    }
}

impl FromRequestParts<App> for Page {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Page, Infallible> {
        let (config, headers) = (&app.config, &parts.headers);
        let flash = flash::find(config, headers, &app.features.flashes);
        Ok(Page { app: app.clone(), auth: AuthState::of(parts), theme: theme(config, headers), flash })
    }
}

/// The theme that the reader has chosen.
pub fn theme(config: &Config, headers: &HeaderMap) -> Theme {
    cookie::values(config, headers, "theme").iter().find_map(|name| Theme::parse(name)).unwrap_or(Theme::SYSTEM)
}
