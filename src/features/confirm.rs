//! Prove it is you again: what asks for a recent log-in leads here and is led back to.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::features::Feature;
use crate::form::{Errors, Form, query_parameter};
use crate::guard::LocalPath;
use crate::page::{Page, Template, templates};
use crate::password;
use crate::session::Door;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/confirm", Access::User, show).post("/confirm", Access::User, create);
    Ok(Feature { routes, ..Feature::named("confirm") })
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct ConfirmForm {
    #[serde(skip_serializing)]
    password: String,
    /// Where to go afterwards.
    next: LocalPath,
}

#[derive(Serialize)]
struct ConfirmPage {
    form: ConfirmForm,
    errors: Errors,
}

impl Template for ConfirmPage {
    const FILE: &'static str = templates::CONFIRM_NEW;
}

async fn show(page: Page, RawQuery(query): RawQuery) -> Result<Response> {
    let next = LocalPath::from(query_parameter(query.as_deref(), "next"));
    let form = ConfirmForm { next, ..ConfirmForm::default() };
    page.show(&ConfirmPage { form, errors: Errors::default() }).await
}

async fn create(
    State(app): State<App>,
    user: User,
    door: Door,
    page: Page,
    Form(form): Form<ConfirmForm>,
) -> Result<Response> {
    let Some(proof) = password::check_own(&app, &door, &user, &form.password).await? else {
        let errors = Errors::from(("password", "This is not your password.".to_string()));
        return page.refuse(&ConfirmPage { form, errors }).await;
    };
    let confirmed = app.db.write(async |db| {
        if !proof.redeem(db).await? {
            return Err(Error::NOT_FOUND);
        }
        event::record(db, &*user.id, Event::Confirmed, &door.client).await?;
        door.renew(db).await
    });
    Ok((confirmed.await?, see_other(&form.next)).into_response())
}
