//! The first administrator. While a site has none, each start prints a link, with which somebody becomes one.

use super::feature::Feature;
use crate::accounts::{Actor, Client, Session, User, group, permission, setup_link};
use crate::base::{Env, Error, Result, Token};
use crate::db::Connection;
use crate::web::{Access, App, Empty, Flash, Form, Page, Redirect, Routes, Template, factors, files, redirect};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;

const PATH: &str = "/setup/{token}";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Public, show).post(PATH, Access::Recent, accept).once();
    Ok(Feature { routes, flashes: &[DONE], on_start: Some(print_link), ..Feature::named("setup") })
}

const DONE: Flash = Flash { name: "set_up", words: "You are an administrator of this site now." };

/// A user may make the account an administrator's. A visitor sees it only on a site without a form to sign up.
#[derive(Serialize)]
struct SetupPage {
    token: String,
}

impl Template for SetupPage {
    const FILE: &'static str = files::SETUP_SHOW;
}

/// `None` if the site has an administrator. To find that out, the database need not be writable.
async fn issue(app: &App) -> Result<Option<Token>> {
    if app.db.read(async |db| permission::has_admin_besides(db, "").await).await? {
        return Ok(None);
    }
    app.db.write(setup_link::issue).await
}

/// The log shows it unless `RUST_LOG` hides what this module says.
fn print_link(app: &App) -> BoxFuture<'_, Result<()>> {
    async move {
        match issue(app).await {
            Ok(Some(token)) => {
                let link = app.config.link(PATH, &token);
                tracing::info!("this site has no administrator; open this link within 24 hours to become one: {link}");
            }
            Ok(None) => {}
            // A site whose database rejects writes starts nevertheless, and people can read.
            Err(error) => tracing::warn!("no link for the first administrator: {}", anyhow::Error::from(error)),
        }
        Ok(())
    }
    .boxed()
}

async fn show(
    State(app): State<App>,
    user: Option<User>,
    page: Page,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response> {
    let parsed = Token::parse(&token).ok_or(Error::StaleLink)?;
    app.db.read(async |db| setup_link::check(db, &parsed).await).await?;
    match app.features.sign_up {
        Some(show_form) if user.is_none() => show_form(&app, request.into_parts().0, &token, None).await,
        _ => page.render(&SetupPage { token }).await,
    }
}

async fn accept(
    State(app): State<App>,
    session: Session,
    client: Client,
    Path(token): Path<String>,
    _: Form<Empty>,
) -> Result<Redirect> {
    let token = Token::parse(&token).ok_or(Error::StaleLink)?;
    let actor = Actor { user_id: Some(session.user.id.clone()), client };
    let accept = async |db: &mut Connection| {
        let group = setup_link::accept(db, &token).await?;
        factors::lock_confirmed(&app, db, &session).await?;
        group::enter(db, &session.user.id, group, &actor).await
    };
    app.db.write(accept).await?;
    Ok(redirect(app.features.account_path.unwrap_or("/")).flash(DONE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::group::JOINED;
    use crate::accounts::{Admission, Username};
    use crate::db::new_id;
    use crate::features::Feature;
    use crate::test::{SECOND_FACTOR, TestApp, Visitor, check, logged};
    use axum::http::request::Parts;
    use axum::response::IntoResponse;
    use futures_util::future::{join_all, ready};

    const ADMINS: &str = "select count(*) from user_groups where group_id = 'admin'";

    fn show_form<'a>(_: &'a App, _: Parts, invite: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Response>> {
        ready(Ok(format!("the form with {invite}").into_response())).boxed()
    }

    /// A site whose form to sign up says which link it was opened with.
    async fn site(settings: &[(&str, &str)]) -> TestApp {
        TestApp::with_feature(settings, Feature { sign_up: Some(show_form), ..Feature::named("form") }).await
    }

    /// What the log says when the site starts.
    async fn started(app: &TestApp) -> String {
        let (printed, log) = logged(print_link(&app.app)).await;
        printed.unwrap();
        log
    }

    /// The path of a link that a start prints.
    async fn printed(app: &TestApp) -> String {
        let log = started(app).await;
        let (_, path) = log.split_once("http://localhost:8000").unwrap_or_else(|| panic!("no link: {log}"));
        path.trim().to_string()
    }

    /// As the form to sign up does it, without the password.
    async fn sign_up(app: &TestApp, path: &str, name: &str) -> Result<()> {
        let (config, db, client) = (&app.app.config, &app.app.db, Client::local("a browser"));
        let admission = Admission::find(config, db, path.strip_prefix("/setup/")).await?;
        let username = Username::parse(name).unwrap();
        let create = async |db: &mut Connection| {
            admission.create_user(config, db, &new_id(), &username, &client).await.map(drop)
        };
        db.write(create).await
    }

    async fn make_old(app: &TestApp) {
        app.execute("update sessions set confirmed_at = 0").await;
    }

    #[test]
    fn its_page_renders() {
        check(&[SetupPage { token: "token".into() }]);
    }

    #[tokio::test]
    async fn each_start_prints_a_link_until_the_site_has_an_administrator() {
        let app = site(&[]).await;
        let ada = app.person("ada").await;
        let (first, second) = (printed(&app).await, printed(&app).await);
        assert_ne!(first, second);
        for path in [&first, &second] {
            ada.get(path).await.assert_status(200).assert_contains("Make this account the administrator");
        }
        ada.post(&first, &[]).await.assert_redirect("/account");
        assert_eq!(app.count(ADMINS).await, 1);
        assert_eq!(started(&app).await, "");
        // Every link has ended with that.
        for path in [&first, &second] {
            ada.get(path).await.assert_status(404).assert_contains("This link no longer works");
            ada.post(path, &[]).await.assert_status(if path == &first { 303 } else { 404 });
        }
        assert_eq!(app.count("select count(*) from tokens where purpose = 'setup'").await, 0);
        assert_eq!(app.count(ADMINS).await, 1);
    }

    #[tokio::test]
    async fn looking_at_the_link_changes_nothing_and_makes_nobody_an_administrator() {
        let app = site(&[]).await;
        let (ada, path) = (app.person("ada").await, printed(&app).await);
        for _ in 0..3 {
            app.visitor().get(&path).await.assert_status(200);
            ada.get(&path).await.assert_status(200);
        }
        app.visitor().post(&path, &[]).await.assert_redirect("/login?next=%2F");
        assert_eq!(app.count(ADMINS).await, 0);
        ada.post(&path, &[]).await.assert_redirect("/account");
        let joined =
            "select count(*) from events where kind = 'group_joined' and about = 'admin' and user_id = actor_id";
        assert_eq!((app.count(joined).await, JOINED.kind), (1, "group_joined"));
    }

    #[tokio::test]
    async fn a_visitor_gets_the_form_to_sign_up_also_while_sign_ups_are_closed() {
        for sign_ups in ["open", "invite", "closed"] {
            let app = site(&[("SIGNUPS", sign_ups)]).await;
            let path = printed(&app).await;
            let token = path.strip_prefix("/setup/").unwrap();
            app.visitor().get(&path).await.assert_body(&format!("the form with {token}"));
            sign_up(&app, &path, "ada").await.unwrap();
            assert_eq!(app.count(ADMINS).await, 1, "{sign_ups}");
            assert!(matches!(sign_up(&app, &path, "eve").await, Err(Error::StaleLink)));
        }
    }

    #[tokio::test]
    async fn without_a_form_to_sign_up_the_page_says_how_to_go_on() {
        let remove = |features: &mut Vec<Feature>| features.iter_mut().for_each(|feature| feature.sign_up = None);
        let app = TestApp::with_features(&[], remove).await;
        let path = printed(&app).await;
        app.visitor().get(&path).await.assert_status(200).assert_contains("latchkey user grant NAME admin");
    }

    #[tokio::test]
    async fn an_older_log_in_has_to_be_confirmed_before_it_makes_an_administrator() {
        let app = site(&[]).await;
        let (ada, path) = (app.person("ada").await, printed(&app).await);
        make_old(&app).await;
        let page = format!("http://localhost:8000{path}");
        let answer = ada.post_with(&path, &[], &[("referer", &page)]).await;
        answer.assert_redirect(&format!("/confirm?next={}", path.replace('/', "%2F")));
        assert_eq!(app.count(ADMINS).await, 0);
        ada.get(&path).await.assert_contains("You logged in a while ago");
    }

    #[tokio::test]
    async fn a_password_alone_makes_nobody_an_administrator_who_has_a_second_factor() {
        let second = Feature { factor: Some(SECOND_FACTOR), ..Feature::named("second") };
        let app = TestApp::with_feature(&[], second).await;
        let (ada, path) = (app.person("ada").await, printed(&app).await);
        app.execute("update sessions set confirmed_factors = 1").await;
        ada.post(&path, &[]).await.assert_redirect("/confirm?second=yes&next=%2Faccount");
        assert_eq!(app.count(ADMINS).await, 0);
    }

    #[tokio::test]
    async fn a_link_that_is_unknown_or_too_old_is_the_page_of_a_stale_link() {
        let app = site(&[("SIGNUPS", "closed")]).await;
        let (ada, path) = (app.person("ada").await, printed(&app).await);
        app.execute("update tokens set expires_at = expires_at - 24 * 60 * 60 where purpose = 'setup'").await;
        let unknown = format!("/setup/{}", "A".repeat(43));
        for path in [&path, &unknown, "/setup/x"] {
            for person in [&ada, &app.visitor()] {
                person.get(path).await.assert_status(404).assert_contains("This link no longer works");
            }
            ada.post(path, &[]).await.assert_status(404).assert_contains("This link no longer works");
        }
        assert_eq!(app.count(ADMINS).await, 0);
    }

    #[tokio::test]
    async fn of_twenty_at_once_with_two_links_one_becomes_the_administrator() {
        let app = site(&[("SIGNUPS", "closed")]).await;
        let links = [printed(&app).await, printed(&app).await];
        let names: Vec<String> = (0..10).map(|number| format!("ada{number}")).collect();
        let mut users: Vec<Visitor> = Vec::new();
        for name in &names {
            users.push(app.person(name).await);
        }
        let pressed = users.iter().enumerate().map(async |(number, user)| {
            let answer = user.post(&links[number % 2], &[]).await;
            assert!([303, 404].contains(&answer.status), "{answer}");
            answer.status == 303
        });
        let signed_up = (0..10).map(async |number| {
            let signed_up = sign_up(&app, &links[number % 2], &format!("eve{number}")).await;
            assert!(matches!(signed_up, Ok(()) | Err(Error::StaleLink)), "{signed_up:?}");
            signed_up.is_ok()
        });
        let (pressed, signed_up) = tokio::join!(join_all(pressed), join_all(signed_up));
        let accepted = pressed.iter().chain(&signed_up).filter(|accepted| **accepted).count();
        assert_eq!((accepted, app.count(ADMINS).await), (1, 1));
        // Nobody else has an account by a link that had ended.
        let new = app.count("select count(*) from users where username like 'eve%'").await;
        assert_eq!(new, signed_up.iter().filter(|signed_up| **signed_up).count() as i64);
    }
}
