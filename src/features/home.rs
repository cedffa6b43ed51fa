//! The home page: your app starts here. In development, until it is replaced, a page that shows what there is.

use super::feature::Feature;
use crate::base::{Config, Env, Result, config::is_sqlite};
use crate::db::{database::SCHEMA, migrate};
use crate::web::{Access, App, Page, Routes, Template, files, templates};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use url::Url;

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let settings = Some(Box::new(Setup::from_env(env)?) as _);
    Ok(Feature { routes: Routes::new().get("/", Access::Public, show), settings, ..Feature::named("home") })
}

#[derive(Serialize)]
struct HomePage {}

impl Template for HomePage {
    const FILE: &'static str = files::HOME_SHOW;
}

/// How the template of [`HomePage`] begins until it is replaced.
const ORIGINAL: &str = "{# Yours to replace.";

async fn show(State(app): State<App>, page: Page) -> Result<Response> {
    if app.config.development() && templates::text(HomePage::FILE).starts_with(ORIGINAL) {
        let needs_key = app.config.secret_keys.is_empty() && !app.features.sealed.is_empty();
        return page.render(&DevelopmentPage { setup: app.settings(), needs_key }).await;
    }
    page.render(&HomePage {}).await
}

/// What the page in development says of the site, as it is as long as the process runs.
#[derive(Serialize)]
struct Setup {
    /// Whether the site can be reached from outside.
    forwarded: bool,
    engine: &'static str,
    /// The file, or the host and the name.
    database: String,
    sections: usize,
    /// Whether `SITE_NAME` is set.
    named: bool,
    /// The variables that production needs besides.
    missing: Vec<&'static str>,
}

impl Setup {
    fn from_env(env: &Env) -> anyhow::Result<Setup> {
        let config = Config::from_env(env)?;
        let mut missing = vec!["BASE_URL"];
        for name in ["TRUSTED_PROXIES", "SMTP_URL"] {
            if env.text(name)?.is_none() {
                missing.push(name);
            }
        }
        let (engine, database) = describe(&config.database_url);
        let (sections, named) = (migrate::sections(SCHEMA)?.len(), env.text("SITE_NAME")?.is_some());
        Ok(Setup { forwarded: config.is_forwarded(), engine, database, sections, named, missing })
    }
}

#[derive(Serialize)]
struct DevelopmentPage<'a> {
    #[serde(flatten)]
    setup: &'a Setup,
    /// Whether `SECRET_KEY` is to be set too.
    needs_key: bool,
}

impl Template for DevelopmentPage<'_> {
    const FILE: &'static str = files::HOME_DEVELOPMENT;
    const STATIC: bool = true;
}

/// The engine and the place of a database, without its password.
fn describe(url: &str) -> (&'static str, String) {
    if is_sqlite(url) {
        let file = url.trim_start_matches("sqlite:").trim_start_matches("//");
        return ("SQLite", file.split('?').next().unwrap_or_default().to_string());
    }
    let place = Url::parse(url).ok().and_then(|url| Some(url.host_str()?.to_string() + url.path()));
    ("Postgres", place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{PRODUCTION, TestApp, check};

    #[test]
    fn its_pages_render() {
        check(&[HomePage {}]);
        let setup = |forwarded, database: &str, named| Setup {
            forwarded,
            engine: "SQLite",
            database: database.into(),
            sections: 13,
            named,
            missing: vec!["BASE_URL", "SMTP_URL"],
        };
        let (new, known) = (setup(false, "data/latchkey.db", false), setup(true, "", true));
        let page = |setup, needs_key| DevelopmentPage { setup, needs_key };
        check(&[page(&new, true), page(&known, false)]);
    }

    #[tokio::test]
    async fn it_greets_visitors_without_asking_the_database_and_users_by_name() {
        for settings in [&[][..], &PRODUCTION] {
            let app = TestApp::with_env(settings, Routes::new()).await;
            let before = app.statements();
            app.visitor().get("/").await.assert_status(200).assert_lacks("Logged in");
            app.visitor().with_cookie("session_token", "no token").get("/").await.assert_status(200);
            assert_eq!(app.statements() - before, 0);

            let ada = app.person("ada").await;
            let before = app.statements();
            ada.get("/").await.assert_status(200).assert_contains("Logged in: ada");
            assert_eq!(app.statements() - before, 1);
        }
    }

    #[tokio::test]
    async fn in_development_it_says_what_runs_and_what_is_still_to_do() {
        let app = TestApp::new().await;
        let page = app.visitor().get("/").await;
        page.assert_contains("Development · only you see this page").assert_contains("Latchkey runs.");
        page.assert_contains("<code>SITE_NAME=Acme</code>");
        page.assert_contains(
            "Still to set: <code>BASE_URL</code>, <code>TRUSTED_PROXIES</code>, <code>SMTP_URL</code><",
        );
        let done = |page: &str| page.matches("<li class=\"done\">").count();
        assert_eq!(done(&page.text()), 1);
        assert_eq!(done(&app.person("ada").await.get("/").await.text()), 2);

        let settings = [("SITE_NAME", "Acme"), ("TRUSTED_PROXIES", "none")];
        let page = TestApp::with_env(&settings, Routes::new()).await.visitor().get("/").await;
        page.assert_contains("Acme runs.").assert_lacks("SITE_NAME").assert_lacks("TRUSTED_PROXIES");
        assert_eq!(done(&page.text()), 2);
    }

    #[tokio::test]
    async fn everyone_who_sees_it_through_a_tunnel_is_mentioned() {
        let tunnel = [("DEVELOPMENT_URL", "https://tunnel.example")];
        let page = TestApp::with_env(&tunnel, Routes::new()).await.visitor().get("/").await;
        page.assert_contains("everyone who knows").assert_lacks("only you");
    }

    #[tokio::test]
    async fn in_production_it_is_the_sites_own_and_says_nothing_of_how_it_was_made() {
        let settings = [&PRODUCTION[..], &[("SITE_NAME", "Acme")]].concat();
        let page = TestApp::with_env(&settings, Routes::new()).await.visitor().get("/").await;
        page.assert_status(200).assert_contains("<h1>Acme</h1>");
        for word in ["atchkey", "templates/", "src/", "evelopment", "Yours to replace"] {
            page.assert_lacks(word);
        }
    }

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, engine, place) in [
            ("sqlite://data/latchkey.db", "SQLite", "data/latchkey.db"),
            ("sqlite:data/a.db?mode=rwc", "SQLite", "data/a.db"),
            ("sqlite:///srv/a.db", "SQLite", "/srv/a.db"),
            ("postgres://ada:swordfish@127.0.0.1:5432/site?sslmode=require", "Postgres", "127.0.0.1/site"),
            ("postgres:///site", "Postgres", ""),
        ] {
            assert_eq!(describe(url), (engine, place.to_string()));
        }
    }

    #[tokio::test]
    async fn it_is_small() {
        let app = TestApp::new().await;
        for page in [app.visitor().get("/").await, app.person("ada").await.get("/").await] {
            assert!(page.bytes.len() <= 6 * 1024, "{} bytes", page.bytes.len());
        }
    }
}
