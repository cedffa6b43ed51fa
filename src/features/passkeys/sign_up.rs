//! Sign up with a passkey in place of a password.

use super::ceremony::{self, Purpose};
use super::{credential, relying_party::not_good};
use crate::accounts::{Admission, AuthLevel, Choices, Email, User, Username, user};
use crate::base::{Config, Error, Result};
use crate::db::new_id;
use crate::web::app::SIGN_UP;
use crate::web::{App, Flash, Json, LocalPath, Login};
use axum::extract::State;
use axum::response::Response;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::{PasskeyRegistration, RegisterPublicKeyCredential};

pub const WELCOME: Flash =
    Flash { name: "passkey_signed_up", words: "Welcome. Open the link we mailed you to confirm your address." };

/// What a visitor has typed. Stored until the passkey is created, with `invite` sealed, and validated again then.
#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
pub struct SignUpForm {
    username: String,
    email: Option<String>,
    /// The token of an invitation.
    invite: Option<String>,
}

impl SignUpForm {
    fn validate(&self, config: &Config) -> Result<(Username, Option<Email>)> {
        let username = Username::parse(&self.username).and_then(|name| name.unreserved(&config.site_name));
        let username = username.map_err(|sentence| Error::invalid("username", sentence))?;
        let email = self.email.as_deref().filter(|email| !email.is_empty()).map(Email::parse).transpose();
        Ok((username, email.map_err(|sentence| Error::invalid("email", sentence))?))
    }

    /// # Errors
    /// As [`Admission::find`].
    async fn admission(&self, app: &App) -> Result<Admission> {
        Admission::find(&app.config, &app.db, self.invite.as_deref().filter(|invite| !invite.is_empty())).await
    }
}

/// What waits for the answer. A passkey is created for the id of a user, so there is one before the account exists.
#[derive(Deserialize, Serialize)]
struct PendingSignUp {
    user_id: String,
    form: SignUpForm,
    registration: PasskeyRegistration,
}

pub async fn start(State(app): State<App>, login: Login, Json(form): Json<SignUpForm>) -> Result<Response> {
    form.admission(&app).await?;
    let (username, _) = form.validate(&app.config)?;
    let counted = app.count_by_address(SIGN_UP, &login.client, app.config.signups_per_address).await?;
    counted.decide(ask(&app, &login, &username, form)).await
}

async fn ask(app: &App, login: &Login, username: &Username, form: SignUpForm) -> Result<Response> {
    if app.db.read(async |db| user::find(db, username).await).await?.is_some() {
        return Err(Error::invalid("username", username.taken()));
    }
    let user = User { id: new_id(), username: username.to_string() };
    let seal = |invite: String| Ok::<_, Error>(BASE64.encode(&app.seals.seal(KEPT, &user.id, invite.as_bytes())?));
    let form = SignUpForm { invite: form.invite.map(seal).transpose()?, ..form };
    let state = |registration| PendingSignUp { user_id: user.id.clone(), form, registration };
    ceremony::ask_to_create(app, login, Purpose::SignUp, &user, Vec::new(), state).await
}

/// Under what the token of an invitation is sealed, because whoever reads it in the database could sign up with it.
const KEPT: &str = "passkey_sign_up";

fn open(app: &App, user_id: &str, sealed: &str) -> Result<String> {
    let sealed = BASE64.decode(sealed.as_bytes()).map_err(|_| Error::StaleLink)?;
    let opened = app.seals.try_open(KEPT, user_id, &sealed).ok_or(Error::StaleLink)?;
    String::from_utf8(opened).map_err(|_| Error::StaleLink)
}

#[derive(Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    credential: RegisterPublicKeyCredential,
    /// Where to go afterwards.
    #[serde(default)]
    next: Option<LocalPath>,
}

pub async fn finish(State(app): State<App>, login: Login, Json(answer): Json<Answer>) -> Result<Response> {
    let client_data = &answer.credential.response.client_data_json;
    let mut pending: PendingSignUp = ceremony::take(&app, &login.headers, Purpose::SignUp, client_data).await?;
    let passkey = credential::created(&app.config, &answer.credential, &pending.registration)?;
    pending.form.invite = pending.form.invite.map(|sealed| open(&app, &pending.user_id, &sealed)).transpose()?;
    let admission = pending.form.admission(&app).await?;
    let (username, email) = pending.form.validate(&app.config)?;
    let choices = Choices { stay: false, next: app.resolve(answer.next.as_ref()).into() };
    let logged_in = app.db.write(async |db| {
        let id = &*pending.user_id;
        let admitted = admission.create_user(&app.config, db, id, &username, &login.client).await?;
        let admitted = admitted.ok_or_else(|| Error::invalid("username", username.taken()))?;
        credential::add(db, id, &passkey, &login.client).await?;
        let has_to_confirm = match &email {
            Some(email) => admitted.set_address(db, id, email, AuthLevel::TwoFactors).await?,
            None => false,
        };
        let redirect = login.log_in(db, id, AuthLevel::TwoFactors, &choices).await?.ok_or_else(not_good)?;
        Ok(if has_to_confirm { redirect.flash(WELCOME) } else { redirect })
    });
    Ok(logged_in.await?.into_json())
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, ask, post};
    use super::*;
    use crate::accounts::invitation::{self, NewInvitation};
    use crate::db::Connection;
    use crate::test::TestApp;
    use crate::web::Routes;
    use serde_json::json;
    use std::time::Duration;

    const START: &str = "/signup/passkey/start";
    const FINISH: &str = "/signup/passkey/finish";

    #[tokio::test]
    async fn signing_up_with_a_passkey_logs_in_and_so_does_the_passkey_later() {
        let app = TestApp::new().await;
        let (mut key, ada) = (Authenticator::new(), app.visitor());
        let options = ask(&ada, START, json!({ "username": "Ada" })).await;
        assert_eq!(options["publicKey"]["user"]["name"], "ada");
        let mut answer = key.create(&options);
        answer["next"] = "/private".into();
        let answer = post(&ada, FINISH, &answer).await;
        answer.assert_status(200).assert_body(r#"{"next":"/private"}"#);
        ada.get("/private").await.assert_body("ada");
        assert_eq!(app.count("select count(*) from passwords").await, 0);
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        let visitor = app.visitor();
        key.log_in(&visitor).await.assert_status(200);
        visitor.assert_is("ada").await;
    }

    #[tokio::test]
    async fn an_address_waits_to_be_confirmed() {
        let app = TestApp::new().await;
        let (mut key, ada) = (Authenticator::new(), app.visitor());
        let options = ask(&ada, START, json!({ "username": "ada", "email": "Ada@example.com" })).await;
        post(&ada, FINISH, &key.create(&options)).await.assert_status(200);
        assert_eq!(ada.cookie("flash").as_deref(), Some(WELCOME.name));
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is null").await, 1);
        assert_eq!(app.count("select count(*) from mails where email = 'ada@example.com'").await, 1);
    }

    #[tokio::test]
    async fn every_mistake_is_answered_before_a_passkey_is_created() {
        let app = TestApp::new().await;
        app.person("grace").await;
        for (username, email, words) in [
            ("", "", "Please choose a username."),
            ("a b", "", "without spaces"),
            ("admin", "", "reserved for the people who run this site"),
            ("ada", "ada", "does not look like"),
            ("Grace", "", "The name grace is taken."),
        ] {
            let wanted = json!({ "username": username, "email": email });
            let answer = post(&app.visitor(), START, &wanted).await;
            answer.assert_status(422).assert_contains(words).assert_no_header("set-cookie");
        }
        assert_eq!(app.count("select count(*) from tokens where purpose = 'passkey_sign_up'").await, 0);
    }

    #[tokio::test]
    async fn a_name_that_is_taken_in_the_meantime_is_taken() {
        let app = TestApp::new().await;
        let (mut key, visitor) = (Authenticator::new(), app.visitor());
        let options = ask(&visitor, START, json!({ "username": "ada" })).await;
        app.person("ada").await;
        let answer = post(&visitor, FINISH, &key.create(&options)).await;
        answer.assert_status(422).assert_contains("The name ada is taken.");
        visitor.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from passkeys").await, 0);
    }

    #[tokio::test]
    async fn a_passkey_of_one_account_signs_up_no_second() {
        let app = TestApp::new().await;
        let (mut key, eve) = (Authenticator::new().registered(&app.person("ada").await).await, app.visitor());
        let options = ask(&eve, START, json!({ "username": "eve" })).await;
        post(&eve, FINISH, &key.create(&options)).await.assert_not_good();
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn nothing_is_made_of_an_answer_that_is_not_good() {
        let app = TestApp::new().await;
        let (mut key, visitor) = (Authenticator::new(), app.visitor());
        let wanted = json!({ "username": "ada" });
        key.verifies = false;
        let options = ask(&visitor, START, wanted.clone()).await;
        post(&visitor, FINISH, &key.create(&options)).await.assert_not_good();
        key.verifies = true;
        post(&visitor, FINISH, &key.create(&options)).await.assert_not_good();
        let options = ask(&visitor, START, wanted).await;
        post(&app.visitor(), FINISH, &key.create(&options)).await.assert_not_good();
        assert_eq!(app.count("select count(*) from users").await, 0);
    }

    #[tokio::test]
    async fn one_address_has_as_many_sign_ups_as_with_passwords() {
        let app = TestApp::with_env(&[("SIGNUPS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        for (name, status) in [("ada", 200), ("bob", 200), ("eve", 429)] {
            post(&app.visitor(), START, &json!({ "username": name })).await.assert_status(status);
        }
    }

    #[tokio::test]
    async fn while_sign_ups_are_not_open_a_script_gets_the_reason_as_json() {
        for (sign_ups, error) in [
            ("invite", r#"{"error":"You need an invitation to sign up here."}"#),
            ("closed", r#"{"error":"Nobody can sign up here at the moment."}"#),
        ] {
            let app = TestApp::with_env(&[("SIGNUPS", sign_ups)], Routes::new()).await;
            let answer = post(&app.visitor(), START, &json!({ "username": "ada" })).await;
            answer.assert_status(403).assert_header("content-type", "application/json").assert_body(error);
            assert_eq!(app.count("select count(*) from tokens").await, 0);
        }
    }

    #[tokio::test]
    async fn an_invitation_is_used_up_by_an_account_with_a_passkey_too() {
        let app = TestApp::with_env(&[("SIGNUPS", "invite")], Routes::new()).await;
        let email = Some("bob@example.com");
        let new = NewInvitation { email, group_id: None, uses: 1, lifetime: Duration::from_secs(60), created_by: None };
        let create = async |db: &mut Connection| {
            let id = invitation::create(db, &new).await?;
            Ok(invitation::renew(db, &id).await?.unwrap().text())
        };
        let invite = app.app.db.write(create).await.unwrap();
        let (mut bobs, mut eves) = (Authenticator::new(), Authenticator::new());
        let (bob, eve) = (app.visitor(), app.visitor());
        let for_bob = ask(&bob, START, json!({ "username": "bob", "email": email, "invite": invite })).await;
        let for_eve = ask(&eve, START, json!({ "username": "eve", "invite": invite })).await;
        // Whoever reads the database cannot sign up with it.
        let stored =
            async |db: &mut Connection| Ok(sqlx::query_scalar("select data from tokens").fetch_all(db).await?);
        let stored: Vec<String> = app.app.db.read(stored).await.unwrap();
        assert!(stored.iter().all(|data| !data.contains(&invite)), "{stored:?}");
        post(&bob, FINISH, &bobs.create(&for_bob)).await.assert_status(200);
        bob.assert_is("bob").await;
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, 1);
        // Both had begun in time.
        let answer = post(&eve, FINISH, &eves.create(&for_eve)).await;
        answer.assert_status(404).assert_contains(r#"{"error":"It has expired, was already used"#);
        eve.assert_is("nobody").await;
        let answer = post(&eve, START, &json!({ "username": "eve", "invite": invite })).await;
        answer.assert_status(404).assert_header("content-type", "application/json");
        assert_eq!(app.count("select count(*) from users").await, 1);
    }
}
