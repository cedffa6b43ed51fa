//! Change one's own username. The old one rests before anyone can take it.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::env::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::guard::Client;
use crate::page::{Flash, Page, Template, templates};
use crate::session::{self, Session};
use crate::user::{self, Username};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/username";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Recent, show).post(PATH, Access::Recent, update);
    Ok(Feature { routes, flashes: &[CHANGED], ..Feature::named("change_username") })
}

const CHANGED: Flash = Flash { name: "username_changed", words: "Your username was changed." };

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct UsernameForm {
    username: String,
}

#[derive(Serialize)]
struct UsernamePage {
    form: UsernameForm,
    errors: Errors,
}

impl Template for UsernamePage {
    const FILE: &'static str = templates::CHANGE_USERNAME_EDIT;
}

async fn show(page: Page) -> Result<Response> {
    page.show(&UsernamePage { form: UsernameForm::default(), errors: Errors::default() }).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    client: Client,
    page: Page,
    Form(form): Form<UsernameForm>,
) -> Result<Response> {
    match change(&app, &session, &client, &form.username).await? {
        Ok(()) => Ok((CookieJar::new().add(CHANGED.cookie(&app.config)), see_other(PATH)).into_response()),
        Err(sentence) => {
            page.refuse(&UsernamePage { form, errors: Errors::from(("username", sentence)) }).await
        }
    }
}

/// `Err` is the sentence to show beside the field.
async fn change(app: &App, session: &Session, client: &Client, typed: &str) -> Result<Result<(), String>> {
    let user = &session.user;
    let name = match Username::parse(typed).and_then(|name| name.unreserved(&app.config.site_name)) {
        Ok(name) => name,
        Err(sentence) => return Ok(Err(sentence)),
    };
    if name.as_str() == user.username {
        return Ok(Err("This is your username already.".into()));
    }
    let rest = app.config.name_rest;
    let had = app.db.write(async |db| {
        session::hold(db, session).await?;
        user::rename(db, user, &name, rest, client).await
    });
    Ok(if had.await? { Ok(()) } else { Err(name.is_taken()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::check;
    use crate::test::{Answer, TestApp, Visitor};

    async fn rename(visitor: &Visitor, name: &str) -> Answer {
        visitor.post(PATH, &[("username", name)]).await
    }

    #[test]
    fn its_page_renders() {
        let form = || UsernameForm { username: "a\"b".into() };
        check(&[
            UsernamePage { form: UsernameForm::default(), errors: Errors::default() },
            UsernamePage { form: form(), errors: Errors::from(("username", "No.".to_string())) },
        ]);
    }

    #[tokio::test]
    async fn a_new_name_holds_at_once_and_everywhere() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        rename(&ada, "Lovelace").await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("Your username was changed.");
        ada.assert_is("lovelace").await;
        elsewhere.assert_is("lovelace").await;
        assert_eq!(app.count("select count(*) from events where kind = 'username_changed'").await, 1);
    }

    #[tokio::test]
    async fn a_name_given_up_rests_for_its_former_owner_too_until_the_time_is_over() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        rename(&ada, "lovelace").await.assert_redirect(PATH);
        for who in [&eve, &ada] {
            rename(who, "ada").await.assert_status(422).assert_contains("The name ada is taken.");
        }
        eve.assert_is("eve").await;
        app.execute("update limits set free_at = free_at - 7776000000").await;
        rename(&eve, "ada").await.assert_redirect(PATH);
        eve.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_name_rests_also_when_two_requests_change_it_at_once() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (one, two) = tokio::join!(rename(&ada, "lovelace"), rename(&ada, "countess"));
        one.assert_redirect(PATH);
        two.assert_redirect(PATH);
        let mut free = 0;
        for name in ["ada", "lovelace", "countess"] {
            free += i32::from(rename(&eve, name).await.status != 422);
        }
        assert_eq!(free, 0);
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_had_says_why_and_stands_in_the_field() {
        let app = TestApp::new().await;
        let (ada, _eve) = (app.person("ada").await, app.person("eve").await);
        for (name, sentence) in [
            ("", "choose a username"),
            ("eve", "is taken"),
            ("EVE", "is taken"),
            ("admin", "kept for the people who run this site"),
            ("a b", "without spaces"),
            ("ada", "your username already"),
        ] {
            let answer = rename(&ada, name).await;
            answer.assert_status(422).assert_contains(sentence).assert_contains(name);
        }
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_log_in_of_some_time_ago_and_a_stranger_rename_nobody() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        rename(&ada, "lovelace").await.assert_redirect("/confirm?next=%2Faccount");
        rename(&app.visitor(), "lovelace").await.assert_redirect("/login?next=%2F");
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_renames_nobody() {
        let app = TestApp::new().await;
        let thief = app.person("ada").await;
        let answer = app.ended_meanwhile("ada", rename(&thief, "thief")).await;
        answer.assert_status(404);
        assert_eq!(app.count("select count(*) from users where username = 'ada'").await, 1);
    }
}
