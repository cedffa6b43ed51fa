//! Change one's own password: asks the current one, and logs out everywhere else.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::config::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::page::{Flash, Page, Template, templates};
use crate::password::{self, NewPassword, own_words};
use crate::session::{Door, Session};
use crate::user;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/password";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::Recent, show).post(PATH, Access::Recent, update);
    Ok(Feature { routes, flashes: &[CHANGED], ..Feature::named("change_password") })
}

const CHANGED: Flash = Flash {
    name: "password_changed",
    words: "Your password was changed. You are logged out everywhere else.",
};

#[derive(Deserialize, Default)]
#[serde(default)]
struct PasswordForm {
    current_password: String,
    password: String,
    confirm_password: String,
}

#[derive(Serialize)]
struct PasswordPage {
    errors: Errors,
    min_length: usize,
}

impl Template for PasswordPage {
    const FILE: &'static str = templates::CHANGE_PASSWORD_EDIT;
}

async fn show(State(app): State<App>, page: Page) -> Result<Response> {
    page.show(&PasswordPage { errors: Errors::default(), min_length: app.config.password_min_length }).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    Form(form): Form<PasswordForm>,
) -> Result<Response> {
    match change(&app, &session, &door, &form).await? {
        Ok(cookies) => Ok((cookies, see_other(PATH)).into_response()),
        Err((field, sentence)) => {
            let errors = Errors::from((field, sentence));
            page.refuse(&PasswordPage { errors, min_length: app.config.password_min_length }).await
        }
    }
}

/// Answers the cookies of the renewed session, or the field with a mistake and its sentence.
async fn change(
    app: &App,
    session: &Session,
    door: &Door,
    form: &PasswordForm,
) -> Result<Result<CookieJar, (&'static str, String)>> {
    let user = &session.user;
    let new = match NewPassword::parse_twice(&form.password, &form.confirm_password, &app.config) {
        Ok(new) => new,
        Err(mistake) => return Ok(Err(mistake)),
    };
    let Some(proof) = password::check_own(app, door, user, &form.current_password).await? else {
        return Ok(Err(("current_password", "This is not your current password.".into())));
    };
    let email = app.db.read(async |db| user::address(db, &user.id).await).await?;
    let own = own_words(&app.config, &user.username, email.as_deref());
    let hash = match app.gate.hash(new, own).await? {
        Ok(hash) => hash,
        Err(sentence) => return Ok(Err(("password", sentence.into()))),
    };
    let changed = app.db.write(async |db| {
        if !proof.redeem(db).await? {
            return Err(Error::NOT_FOUND);
        }
        password::set(db, &user.id, &hash).await?;
        event::record(db, &*user.id, Event::PasswordChanged, &door.client).await?;
        door.credentials_changed(db, session).await
    });
    Ok(Ok(changed.await?.add(CHANGED.cookie(&app.config))))
}
