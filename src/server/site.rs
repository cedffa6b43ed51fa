//! [`Site`]: the app with its routes.

use super::mails;
use crate::accounts::{EVENTS, Passwords, Sessions};
use crate::base::{Config, Error, Seals};
use crate::db::{Database, rate_limit, refunds::Refunds};
use crate::features::Feature;
use crate::mail::Outbox;
use crate::web::app::{FeatureParts, Parts};
use crate::web::error_pages::{self, ErrorContext};
use crate::web::request_tasks::RequestTasks;
use crate::web::security::is_for_programs;
use crate::web::{Access, App, AuthState, Routes, factors, flash, security, templates::Templates};
use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tower::Service;

#[derive(Clone)]
pub struct Site {
    pub app: App,
    pub outbox: Outbox,
    router: Router,
}

impl Site {
    /// # Errors
    /// When the database cannot be opened or a template cannot be parsed; one sentence.
    pub async fn open(config: Config, features: Vec<Feature>) -> Result<Site> {
        let templates = Templates::load(&config, features.iter().map(|feature| feature.name))?;
        check_routes(&features)?;
        let deliver = features.iter().find_map(|feature| feature.deliver.clone());
        let seals = features.iter().any(Feature::seals);
        let (router, features) = take_apart(features);
        factors::check_policy(&config, &features.factors)?;
        let seals = Seals::load(&config, seals)?;
        let db = Database::open(&config).await?;
        let salt = rate_limit::salt(&db).await?;
        let refunds = Refunds::new(&db);
        let secret_key = config.secret_keys.first().cloned().unwrap_or_default();
        let app = App::new(Parts {
            templates,
            sessions: Sessions::start(&config, &db),
            passwords: Passwords::new(&config, &db, &refunds, [salt, secret_key.into_bytes()].concat()),
            refunds,
            tasks: RequestTasks::default(),
            seals,
            features,
            config,
            db,
        });
        let outbox = mails::outbox(&app, deliver)?;
        Ok(Site { router: router.with_state(app.clone()), outbox, app })
    }

    /// Answers a request. This is all of the middleware, from the outside in, except for `web/routes.rs`, which wraps
    /// each handler.
    pub async fn answer(&self, mut request: Request) -> Response {
        let Site { app, router, .. } = self;
        let context = ErrorContext::new(app, &request);
        let rest = async {
            if let Err(refusal) = security::check(&app.config, &app.features.any_host, &request) {
                return refusal.into_response();
            }
            security::drop_cookies(&mut request);
            let auth = AuthState::new(app, request.extensions(), request.headers());
            request.extensions_mut().insert(auth.clone());
            let is_options = request.method() == Method::OPTIONS;
            let is_hidden = app.features.map.is_hidden(request.uri().path());
            let Ok(mut response) = router.clone().call(request).await;
            if is_hidden && response.status() == StatusCode::METHOD_NOT_ALLOWED {
                return Error::Hidden.into_response();
            }
            response.extensions_mut().insert(auth);
            if is_options { allowed_methods(response) } else { response }
        };
        let mut response = error_pages::run(app, context, rest).await;
        security::add_headers(&app.config, &mut response);
        response
    }
}

/// The response to OPTIONS, for which there are no routes: the router rejects it, and names the methods of the path.
fn allowed_methods(refusal: Response) -> Response {
    match refusal.headers().get(ALLOW) {
        Some(methods) => (StatusCode::NO_CONTENT, [(ALLOW, methods.clone())]).into_response(),
        None => refusal,
    }
}

/// # Errors
/// When a route of the API requires a cookie.
fn check_routes(features: &[Feature]) -> Result<()> {
    for route in features.iter().flat_map(|feature| feature.routes.iter()) {
        ensure!(
            !is_for_programs(route.path) || route.access == Access::Public,
            "{} is a path for programs, where cookies have no effect: its access must be Public",
            route.path
        );
    }
    Ok(())
}

/// The routes of all features and of `public/`, and the other parts.
fn take_apart(features: Vec<Feature>) -> (Router<App>, FeatureParts) {
    let mut parts = FeatureParts { events: EVENTS.to_vec(), flashes: flash::ALL.to_vec(), ..FeatureParts::default() };
    let assets = Routes::assets();
    assets.enter(&mut parts.map);
    let mut router = assets.router();
    for feature in features {
        feature.routes.enter(&mut parts.map);
        router = router.merge(feature.routes.router());
        parts.events.extend(feature.events);
        parts.permissions.extend(feature.permissions);
        parts.factors.extend(feature.factor);
        parts.credentials.extend(feature.credentials);
        parts.mails.extend(feature.mails);
        parts.flashes.extend(feature.flashes);
        parts.on_session_start.extend(feature.on_session_start);
        parts.account_rows.extend(feature.account_row);
        parts.purge.extend(feature.purge);
        parts.on_start.extend(feature.on_start);
        parts.background.extend(feature.background);
        parts.export.extend(feature.export);
        parts.owned.extend(feature.owned);
        parts.sealed.extend(feature.sealed);
        parts.settings.extend(feature.settings);
        parts.login_path = parts.login_path.or(feature.login_path);
        parts.confirm_path = parts.confirm_path.or(feature.confirm_path);
        parts.account_path = parts.account_path.or(feature.account_path);
        parts.reset_path = parts.reset_path.or(feature.reset_path);
        parts.sign_up = parts.sign_up.or(feature.sign_up);
        parts.invite_path = parts.invite_path.or(feature.invite_path);
        parts.recovery_codes_path = parts.recovery_codes_path.or(feature.recovery_codes_path);
        parts.any_host.extend(feature.any_host);
    }
    parts.account_rows.sort_by_key(|row| row.place);
    (router, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::test::{TestApp, Visitor};

    #[tokio::test]
    async fn a_site_whose_route_for_programs_asks_for_a_cookie_does_not_start() {
        let wrong = async |routes: Routes| {
            let config = Config::from_env(&Env::default()).unwrap();
            let right = Routes::new().get("/api/right", Access::Public, async || "the notes");
            let features = vec![
                Feature { routes: right, ..Feature::named("right") },
                Feature { routes, ..Feature::named("wrong") },
            ];
            Site::open(config, features).await.err().expect("it must not start").to_string()
        };
        for access in [Access::Guest, Access::PendingLogin, Access::User, Access::Recent] {
            for path in ["/api/notes", "/api/{id}", "/api/", "/api/{*path}"] {
                let sentence = format!("{path} is a path for programs, where cookies have no effect");
                for routes in [
                    Routes::new().get(path, access, async || "the notes"),
                    Routes::new().post(path, access, async || "the notes"),
                ] {
                    let refusal = wrong(routes).await;
                    assert!(refusal.starts_with(&sentence), "{refusal}");
                }
            }
        }
    }

    /// The app without these features and with a front page of its own, and its routes.
    async fn app_without(names: &[&str]) -> (TestApp, Vec<(Method, String, Access)>) {
        let mut routes = Vec::new();
        let app = TestApp::with_features(&[], |features| {
            features.retain(|feature| feature.name != "home" && !names.contains(&feature.name));
            let front_page = Routes::new().get("/", Access::Public, async || "The front page");
            features.push(Feature { routes: front_page, ..Feature::named("front_page") });
            for route in features.iter().flat_map(|feature| feature.routes.iter()) {
                routes.push((route.method.clone(), route.example_path(), route.access));
            }
        });
        (app.await, routes)
    }

    /// Where the redirects of an answer end, and with which status. `None` when it is not a redirect.
    async fn follow(visitor: &Visitor, method: &Method, path: &str) -> Option<(String, u16)> {
        let mut end = None;
        let mut answer = visitor.send(method.clone(), path, &[], "").await;
        for _ in 0..10 {
            let Some(location) = answer.headers.get("location") else { return end };
            let location = location.to_str().unwrap().to_string();
            answer = visitor.get(&location).await;
            end = Some((location, answer.status));
        }
        panic!("{method} {path} redirects in a circle, or too often: {answer}");
    }

    #[tokio::test]
    async fn without_log_in_confirm_or_account_no_redirect_leads_nowhere() {
        let mut nowhere = Vec::new();
        for missing in [
            &[][..],
            &["login"],
            &["confirm"],
            &["account"],
            &["login", "confirm"],
            &["login", "account"],
            &["confirm", "account"],
            &["login", "confirm", "account"],
        ] {
            let (app, routes) = app_without(missing).await;
            app.person("ada").await;
            // Where nobody can log in, pages for users are 404 to everybody else.
            let has_login = routes.iter().any(|(_, path, _)| path == "/login");
            let is_closed = |end: &str| {
                let for_users = |access: &Access| access.is_for_users();
                !has_login && routes.iter().any(|(_, path, access)| path == end && for_users(access))
            };
            for (method, path, _) in &routes {
                // New browsers for each route, because some end a session.
                let (user, old) = (app.browser_of("ada").await, app.browser_of("ada").await);
                app.execute("update sessions set confirmed_at = 0 where id = (select max(id) from sessions)").await;
                for (who, browser) in [("a visitor", app.visitor()), ("a user", user), ("a user of old", old)] {
                    if let Some((end, 404)) = follow(&browser, method, path).await
                        && !is_closed(&end)
                    {
                        nowhere.push(format!("{who} without {missing:?}: {method} {path} leads to {end}"));
                    }
                }
            }
        }
        assert!(nowhere.is_empty(), "\n{}", nowhere.join("\n"));
    }
}
