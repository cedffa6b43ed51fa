//! One's passkeys: see them, add one, give one another name, remove one.

use super::ceremony::{self, Kind};
use super::credential::{self, Listed};
use super::{NOT_GOOD, PATH, lead_to, refuse, relying_party};
use crate::access::see_other;
use crate::app::App;
use crate::database::Connection;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::{self, Proven};
use crate::form::{Form, Json, NoFields};
use crate::page::{Flash, Page, Template, date, templates};
use crate::session::{self, Door, Session};
use anyhow::Context;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use webauthn_rs::prelude::{CreationChallengeResponse, PasskeyRegistration, RegisterPublicKeyCredential};

pub const ADDED: Flash = Flash { name: "passkey_added", words: "The passkey is ready. Log in with it next time." };
pub const RENAMED: Flash = Flash { name: "passkey_renamed", words: "The passkey has its new name." };
pub const REMOVED: Flash =
    Flash { name: "passkey_removed", words: "That passkey opens nothing any more. Delete it on its device, too." };

/// A passkey in words.
#[derive(Serialize)]
pub struct Row {
    id: String,
    name: String,
    added: String,
    used: Option<String>,
    /// The name that was typed and cannot be had, and why.
    typed: Option<String>,
    mistake: Option<String>,
}

#[derive(Serialize)]
pub struct PasskeysPage {
    passkeys: Vec<Row>,
    /// Why something was not done.
    refusal: Option<&'static str>,
}

impl Template for PasskeysPage {
    const FILE: &'static str = templates::PASSKEYS_INDEX;
}

impl PasskeysPage {
    async fn of(app: &App, session: &Session) -> Result<PasskeysPage> {
        let listed = app.db.read(async |db| credential::of_user(db, &session.user.id).await).await?;
        let row = |Listed { id, name, created_at, used_at, .. }| Row {
            id,
            name,
            added: date(created_at),
            used: used_at.map(date),
            typed: None,
            mistake: None,
        };
        Ok(PasskeysPage { passkeys: listed.into_iter().map(row).collect(), refusal: None })
    }
}

pub async fn index(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    page.show(&PasskeysPage::of(&app, &session).await?).await
}

pub async fn start(
    State(app): State<App>,
    session: Session,
    door: Door,
    _: Json<NoFields>,
) -> Result<Response> {
    let user = &session.user;
    let known = match app.db.read(async |db| credential::to_exclude(db, &user.id).await).await? {
        Ok(known) => known,
        Err(sentence) => return Ok(refuse(sentence)),
    };
    let id = Uuid::parse_str(&user.id).context("ids of users are UUIDs")?;
    let (party, name) = (relying_party(&app.config)?, &user.username);
    let begun = party.start_passkey_registration(id, name, name, Some(known));
    let (options, state) = begun.map_err(anyhow::Error::from)?;
    let cookies =
        ceremony::begin(&app, &door, Kind::Register, &options.public_key.challenge, &state).await?;
    Ok((cookies, creation_options(&options)?).into_response())
}

/// What `navigator.credentials.create` takes. The library advises against what a log-in without a username needs: that
/// the authenticator keeps the passkey, and finds it by the name of the site.
pub fn creation_options(options: &CreationChallengeResponse) -> Result<Json<Value>> {
    let mut options = serde_json::to_value(options).map_err(anyhow::Error::from)?;
    let selection = &mut options["publicKey"]["authenticatorSelection"];
    selection["residentKey"] = "required".into();
    selection["requireResidentKey"] = true.into();
    Ok(Json(options))
}

pub async fn finish(
    State(app): State<App>,
    session: Session,
    door: Door,
    Json(answer): Json<RegisterPublicKeyCredential>,
) -> Result<Response> {
    let client_data = &answer.response.client_data_json;
    let state: Option<PasskeyRegistration> =
        ceremony::end(&app, &door, Kind::Register, client_data).await?;
    let Some(state) = state else { return Ok(refuse(NOT_GOOD)) };
    let Ok(passkey) = relying_party(&app.config)?.finish_passkey_registration(&answer, &state) else {
        return Ok(refuse(NOT_GOOD));
    };
    let added = app.db.write(async |db| {
        session::hold(db, &session).await?;
        if let Err(sentence) = credential::add(db, &session.user.id, &passkey, &door.client).await? {
            return Ok(Err(sentence));
        }
        event::record(db, &*session.user.id, Event::PasskeyAdded, &door.client).await?;
        // It has just verified who made it, which is as much as a log-in with it.
        Ok(Ok(door.renew(db, Proven::TwoFactors).await?))
    });
    Ok(match added.await? {
        Ok(cookies) => lead_to(PATH, cookies.add(ADDED.cookie(&app.config))),
        Err(sentence) => refuse(sentence),
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct NameForm {
    name: String,
}

const MAX_LENGTH: usize = 50;

fn judge(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        Err("A passkey needs a name.")
    } else if name.chars().count() > MAX_LENGTH {
        Err("A name has at most 50 characters.")
    } else if name.contains(char::is_control) {
        Err("There is an invisible control character in this name. Please type it again.")
    } else {
        Ok(())
    }
}

pub async fn rename(
    State(app): State<App>,
    session: Session,
    page: Page,
    Path(id): Path<String>,
    Form(form): Form<NameForm>,
) -> Result<Response> {
    if let Err(sentence) = judge(&form.name) {
        let mut listed = PasskeysPage::of(&app, &session).await?;
        let row = listed.passkeys.iter_mut().find(|row| row.id == id).ok_or(Error::NOT_FOUND)?;
        (row.typed, row.mistake) = (Some(form.name), Some(sentence.into()));
        return page.refuse(&listed).await;
    }
    let user_id = &session.user.id;
    if !app.db.write(async |db| credential::rename(db, user_id, &id, form.name.trim()).await).await? {
        return Err(Error::NOT_FOUND);
    }
    Ok((CookieJar::new().add(RENAMED.cookie(&app.config)), see_other(PATH)).into_response())
}

const LAST: &str = "You could not log in without this one. Please add another passkey or a password first.";

pub async fn remove(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    (Path(id), _): (Path<String>, Form<NoFields>),
) -> Result<Response> {
    match app.db.write(async |db| take_away(&app, db, &session, &door, &id).await).await {
        Ok(cookies) => Ok((cookies.add(REMOVED.cookie(&app.config)), see_other(PATH)).into_response()),
        Err(Error::Refused(StatusCode::CONFLICT)) => {
            let listed = PasskeysPage::of(&app, &session).await?;
            let shown = page.show(&PasskeysPage { refusal: Some(LAST), ..listed }).await?;
            Ok((StatusCode::CONFLICT, shown).into_response())
        }
        Err(error) => Err(error),
    }
}

/// Answers the cookie with which this session goes on.
///
/// # Errors
/// 409 when there would be no way in left.
async fn take_away(
    app: &App,
    db: &mut Connection,
    session: &Session,
    door: &Door,
    id: &str,
) -> Result<CookieJar> {
    session::hold(db, session).await?;
    if !credential::remove(db, &session.user.id, id).await? {
        return Err(Error::NOT_FOUND);
    }
    if factor::ways_in(app, db, &session.user.id).await? == 0 {
        return Err(Error::Refused(StatusCode::CONFLICT));
    }
    event::record(db, &*session.user.id, Event::PasskeyRemoved, &door.client).await?;
    door.credentials_changed(db, session, Proven::OneFactor).await
}
