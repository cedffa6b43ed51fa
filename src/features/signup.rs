//! Sign up: a username, a password typed twice, and an e-mail address if one likes. Whoever signs up is logged in.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::config::{Config, Env};
use crate::error::Result;
use crate::features::Feature;
use crate::form::{Errors, Form, query_parameter};
use crate::guard::local_path;
use crate::page::{Page, Template, templates};
use crate::password::{self, NewPassword};
use crate::session::Door;
use crate::user::{self, Email, Username};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get("/signup", Access::Guest, new).post("/signup", Access::Guest, create);
    Ok(Feature { name: "signup", routes })
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct SignupForm {
    username: String,
    email: Option<String>,
    #[serde(skip_serializing)]
    password: String,
    #[serde(skip_serializing)]
    confirm_password: String,
    /// Where to go afterwards.
    next: Option<String>,
}

/// A form without mistakes.
struct NewAccount {
    username: Username,
    email: Option<Email>,
    password: NewPassword,
}

impl SignupForm {
    fn judge(&self, config: &Config) -> Result<NewAccount, Errors> {
        let mut errors = Errors::default();
        let username = Username::parse(&self.username).and_then(|name| name.unreserved(&config.site_name));
        let username = errors.take("username", username);
        let email = errors.take("email", self.email.as_deref().map(Email::parse).transpose());
        let password = NewPassword::parse_twice(&self.password, &self.confirm_password, config);
        let password = password.map_err(|(field, sentence)| errors.add(field, sentence)).ok();
        match (username, email, password) {
            (Some(username), Some(email), Some(password)) => Ok(NewAccount { username, email, password }),
            _ => Err(errors),
        }
    }
}

#[derive(Serialize)]
struct SignupPage {
    form: SignupForm,
    errors: Errors,
    min_length: usize,
}

impl SignupPage {
    fn new(app: &App, form: SignupForm, errors: Errors) -> SignupPage {
        SignupPage { form, errors, min_length: app.config.password_min_length }
    }
}

impl Template for SignupPage {
    const FILE: &'static str = templates::SIGNUP_NEW;
}

async fn new(State(app): State<App>, page: Page, RawQuery(query): RawQuery) -> Result<Response> {
    let next = query_parameter(query.as_deref(), "next");
    let blank = SignupForm { next, ..SignupForm::default() };
    page.show(&SignupPage::new(&app, blank, Errors::default())).await
}

async fn create(
    State(app): State<App>,
    door: Door,
    page: Page,
    Form(form): Form<SignupForm>,
) -> Result<Response> {
    let NewAccount { username, email, password } = match form.judge(&app.config) {
        Ok(account) => account,
        Err(errors) => return page.refuse(&SignupPage::new(&app, form, errors)).await,
    };
    let hash = app.gate.hash(password).await?;
    let begun = app.db.write(async |db| {
        let Some(user_id) = user::create(db, &username, &door.client).await? else { return Ok(None) };
        password::set(db, &user_id, &hash).await?;
        if let Some(email) = &email {
            user::add_address(db, &user_id, email).await?;
        }
        door.log_in(db, &user_id, false).await
    });
    let Some(cookie) = begun.await? else {
        let sentence = format!("The name {username} is taken. Please choose another.");
        return page.refuse(&SignupPage::new(&app, form, Errors::from(("username", sentence)))).await;
    };
    Ok((CookieJar::new().add(cookie), see_other(local_path(form.next.as_deref()))).into_response())
}
