//! Delete one's own account: asks the password, and everything that belongs to the account goes with it.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::form::{Errors, Form};
use crate::page::{Page, Template, templates};
use crate::session::Door;
use crate::{password, user};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/delete", Access::User, show).post("/delete", Access::User, destroy);
    Ok(Feature { name: "delete_account", routes })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DeleteForm {
    password: String,
}

#[derive(Serialize)]
struct DeletePage {
    errors: Errors,
}

impl Template for DeletePage {
    const FILE: &'static str = templates::DELETE_ACCOUNT_SHOW;
}

async fn show(page: Page) -> Result<Response> {
    page.show(&DeletePage { errors: Errors::default() }).await
}

async fn destroy(
    State(app): State<App>,
    user: User,
    door: Door,
    page: Page,
    Form(form): Form<DeleteForm>,
) -> Result<Response> {
    if !password::check_own(&app, &user, &form.password).await? {
        let sentence = "This is not your password. Nothing was deleted.".to_string();
        return page.refuse(&DeletePage { errors: Errors::from(("password", sentence)) }).await;
    }
    app.db.write(async |db| user::delete(db, &user.id, &door.client).await).await?;
    Ok((door.farewell(), see_other("/")).into_response())
}
