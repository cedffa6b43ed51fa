//! Users change their own username, a few times a month. The old one is reserved for a while.

use super::feature::Feature;
use crate::accounts::{Client, Session, Username, session, user};
use crate::base::{Env, Error, FieldErrors, Rate, Result};
use crate::db::rate_limit::{self, Key};
use crate::web::format::duration;
use crate::web::{
    Access, AccountGroup, AccountRow, App, Flash, Form, Page, Routes, RowState, Template, files, redirect,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::ready;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/username";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, show).post(PATH, Access::Recent, update);
    let renames = Renames(env.rate("RENAMES", "3/30d")?);
    Ok(Feature {
        routes,
        flashes: &[CHANGED],
        account_row: Some(ROW),
        settings: Some(Box::new(renames)),
        ..Feature::named("change_username")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Profile, 1, "Username", PATH, |_, context| {
    ready(Ok(RowState::new(&*context.session.user.username, "Change"))).boxed()
});

/// How often a user may change the name. Each change reserves one more name for `NAME_REST`.
struct Renames(Rate);

const CHANGED: Flash = Flash { name: "username_changed", words: "Username changed." };

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct UsernameForm {
    username: String,
}

impl UsernameForm {
    fn validate(&self, site_name: &str, current: &str) -> Result<Username, String> {
        let name = Username::parse(&self.username)?.unreserved(site_name)?;
        if name.as_str() == current { Err("This is already your username.".into()) } else { Ok(name) }
    }
}

#[derive(Serialize)]
struct UsernamePage {
    form: UsernameForm,
    errors: FieldErrors,
    /// How long nobody else can take the old name.
    reserved: String,
}

impl Template for UsernamePage {
    const FILE: &'static str = files::CHANGE_USERNAME_EDIT;
}

impl UsernamePage {
    fn new(app: &App, form: UsernameForm, errors: FieldErrors) -> UsernamePage {
        UsernamePage { form, errors, reserved: duration(app.config.name_rest) }
    }
}

async fn show(State(app): State<App>, page: Page) -> Result<Response> {
    page.render(&UsernamePage::new(&app, UsernameForm::default(), FieldErrors::default())).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    client: Client,
    page: Page,
    Form(form): Form<UsernameForm>,
) -> Result<Response> {
    match change(&app, &session, &client, &form).await {
        Ok(()) => Ok(redirect(PATH).flash(CHANGED).into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&UsernamePage::new(&app, form, errors)).await
        }
    }
}

async fn change(app: &App, session: &Session, client: &Client, form: &UsernameForm) -> Result<()> {
    let (user, invalid) = (&session.user, |sentence| Error::invalid("username", sentence));
    let name = form.validate(&app.config.site_name, &user.username).map_err(invalid)?;
    let (key, Renames(rate)) = (Key::new("rename", &user.id), app.settings());
    let renamed = app.db.write(async |db| {
        session::lifecycle::lock(db, session).await?;
        rate_limit::take(db, &key, *rate).await?;
        // A name that is taken is an error here, so that it does not count.
        let is_free = user::rename(db, &user.id, &name, app.config.name_rest, client).await?;
        if is_free { Ok(()) } else { Err(invalid(name.taken())) }
    });
    renamed.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Answer, TestApp, Visitor, check};

    async fn rename(visitor: &Visitor, name: &str) -> Answer {
        visitor.post(PATH, &[("username", name)]).await
    }

    #[test]
    fn its_page_renders() {
        let page = |name: &str, errors| {
            let form = UsernameForm { username: name.into() };
            UsernamePage { form, errors, reserved: "90 days".into() }
        };
        check(&[page("", FieldErrors::default()), page("a\"b", FieldErrors::of("username", "No."))]);
    }

    #[tokio::test]
    async fn a_new_name_applies_at_once_in_every_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        rename(&ada, "Lovelace").await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("Username changed.");
        ada.assert_is("lovelace").await;
        elsewhere.assert_is("lovelace").await;
        assert_eq!(app.count("select count(*) from events where kind = 'username_changed'").await, 1);
    }

    #[tokio::test]
    async fn a_name_that_was_given_up_is_reserved_for_a_while_for_its_former_owner() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        rename(&ada, "lovelace").await.assert_redirect(PATH);
        rename(&eve, "ada").await.assert_status(422).assert_contains("The name ada is taken.");
        eve.assert_is("eve").await;
        rename(&ada, "ada").await.assert_redirect(PATH);
        rename(&ada, "countess").await.assert_redirect(PATH);
        rename(&eve, "ada").await.assert_status(422).assert_contains("The name ada is taken.");
        app.execute("update limits set free_at = free_at - 7776000000").await;
        rename(&eve, "ada").await.assert_redirect(PATH);
        eve.assert_is("ada").await;
    }

    #[tokio::test]
    async fn the_fourth_change_in_thirty_days_is_refused_and_mistakes_do_not_count() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        for name in ["eve", "admin", "a b", "ada", "eve"] {
            rename(&ada, name).await.assert_status(422);
        }
        rename(&ada, "countess").await.assert_redirect(PATH);
        rename(&ada, "lovelace").await.assert_redirect(PATH);
        // To take one's own name back is a change like any other.
        rename(&ada, "ada").await.assert_redirect(PATH);
        let rows = "select (select count(*) from events) + (select count(*) from limits)";
        let before = app.count(rows).await;
        let refused = rename(&ada, "enchantress").await;
        refused.assert_status(429).assert_contains("You can try again in 10 days.");
        assert_eq!(app.count(rows).await, before);
        ada.assert_is("ada").await;
        rename(&eve, "enchantress").await.assert_redirect(PATH);
    }

    #[tokio::test]
    async fn a_site_decides_how_often_names_are_changed() {
        let app = TestApp::with_env(&[("RENAMES", "1/1h")], Routes::new()).await;
        let ada = app.person("ada").await;
        rename(&ada, "countess").await.assert_redirect(PATH);
        rename(&ada, "lovelace").await.assert_status(429).assert_contains("You can try again in 60 minutes.");
        let wrong = feature(&[("RENAMES", "often")].into_iter().collect()).err().unwrap();
        assert!(wrong.to_string().starts_with("RENAMES must be a rate"), "{wrong}");
    }

    #[tokio::test]
    async fn names_are_reserved_also_when_two_requests_change_them_at_once() {
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
    async fn a_refused_name_stays_in_the_field_with_the_reason() {
        let app = TestApp::new().await;
        let (ada, _eve) = (app.person("ada").await, app.person("eve").await);
        for (name, sentence) in [
            ("", "choose a username"),
            ("eve", "is taken"),
            ("EVE", "is taken"),
            ("admin", "reserved for the people who run this site"),
            ("a b", "without spaces"),
            ("ada", "already your username"),
        ] {
            let answer = rename(&ada, name).await;
            answer.assert_status(422).assert_contains(sentence).assert_contains(name);
        }
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn neither_an_old_log_in_nor_a_visitor_renames_anybody() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(PATH).await.assert_status(200).assert_contains("Nobody else can use your old name for 90 days");
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Faccount%2Fusername");
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

    #[tokio::test]
    async fn the_account_page_says_the_name() {
        let app = TestApp::new().await;
        let (ada, _bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Username · ada · Change\n").assert_lacks("bob");
    }
}
