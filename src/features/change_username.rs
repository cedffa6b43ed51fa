//! Change one's own username. The old one rests before anyone can take it.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::guard::Client;
use crate::page::{Flash, Page, Template, templates};
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
    user: User,
    client: Client,
    page: Page,
    Form(form): Form<UsernameForm>,
) -> Result<Response> {
    match change(&app, &user, &client, &form.username).await? {
        Ok(()) => Ok((CookieJar::new().add(CHANGED.cookie(&app.config)), see_other(PATH)).into_response()),
        Err(sentence) => {
            page.refuse(&UsernamePage { form, errors: Errors::from(("username", sentence)) }).await
        }
    }
}

/// `Err` is the sentence to show beside the field.
async fn change(app: &App, user: &User, client: &Client, typed: &str) -> Result<Result<(), String>> {
    let name = match Username::parse(typed).and_then(|name| name.unreserved(&app.config.site_name)) {
        Ok(name) => name,
        Err(sentence) => return Ok(Err(sentence)),
    };
    if name.as_str() == user.username {
        return Ok(Err("This is your username already.".into()));
    }
    let rest = app.config.name_rest;
    let had = app.db.write(async |db| user::rename(db, user, &name, rest, client).await).await?;
    Ok(if had { Ok(()) } else { Err(name.is_taken()) })
}
