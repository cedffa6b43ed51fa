//! Log in with a username (or a confirmed e-mail address) and a password; log out.
//!
//! Every failure has the same sentence, status and cost, so that nobody learns here who has an account.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::config::Env;
use crate::error::Result;
use crate::features::Feature;
use crate::form::{Errors, Form, query_parameter};
use crate::guard::local_path;
use crate::page::{Page, Template, templates};
use crate::password;
use crate::session::Door;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/login", Access::Guest, new).post("/login", Access::Guest, create).post(
        "/logout",
        Access::Public,
        destroy,
    );
    Ok(Feature { name: "login", routes })
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct LoginForm {
    username: String,
    #[serde(skip_serializing)]
    password: String,
    /// Where to go afterwards.
    next: Option<String>,
    /// Sent with any value, the session outlives the browser.
    stay: Option<String>,
}

#[derive(Serialize)]
struct LoginPage {
    form: LoginForm,
    errors: Errors,
}

impl Template for LoginPage {
    const FILE: &'static str = templates::LOGIN_NEW;
}

async fn new(page: Page, RawQuery(query): RawQuery) -> Result<Response> {
    let next = query_parameter(query.as_deref(), "next");
    page.show(&LoginPage { form: LoginForm { next, ..LoginForm::default() }, errors: Errors::default() })
        .await
}

async fn create(
    State(app): State<App>,
    door: Door,
    page: Page,
    Form(form): Form<LoginForm>,
) -> Result<Response> {
    let stay = form.stay.is_some();
    let begun = match password::check(&app, &form.username, &form.password).await? {
        Some(user) => app.db.write(async |db| door.log_in(db, &user.id, stay).await).await?,
        None => None,
    };
    let Some(cookie) = begun else {
        let sentence = "This username and password do not belong together.".to_string();
        return page.refuse(&LoginPage { form, errors: Errors::from(("password", sentence)) }).await;
    };
    Ok((CookieJar::new().add(cookie), see_other(local_path(form.next.as_deref()))).into_response())
}

async fn destroy(door: Door) -> Result<Response> {
    door.log_out().await?;
    Ok((door.farewell(), see_other("/")).into_response())
}
