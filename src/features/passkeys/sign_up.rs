//! Sign up with a passkey in place of a password.

use super::ceremony::{self, Kind};
use super::{credential, lead_to, not_good};
use crate::address::{self, Email};
use crate::app::App;
use crate::config::Config;
use crate::database::new_id;
use crate::error::{Error, Result};
use crate::factor::Proven;
use crate::form::Json;
use crate::guard::LocalPath;
use crate::page::Flash;
use crate::session::{Door, Entry};
use crate::throttle::{self, Key};
use crate::user::{self, Username};
use axum::extract::State;
use axum::response::Response;
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::{PasskeyRegistration, RegisterPublicKeyCredential};

pub const WELCOME: Flash = Flash {
    name: "passkey_signed_up",
    words: "Welcome. Please confirm your address by the link that we have mailed to you.",
};

/// Who wants an account. Kept while the passkey is made, and judged again from there.
#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
pub struct Wanted {
    username: String,
    email: Option<String>,
}

impl Wanted {
    fn judge(&self, config: &Config) -> Result<(Username, Option<Email>)> {
        let username = Username::parse(&self.username).and_then(|name| name.unreserved(&config.site_name));
        let email = self.email.as_deref().filter(|email| !email.is_empty()).map(Email::parse).transpose();
        Ok((username.map_err(Error::Mistake)?, email.map_err(Error::Mistake)?))
    }
}

/// What waits for the answer. The passkey knows its user by an id, so there is one before there is an account.
#[derive(Deserialize, Serialize)]
struct Pending {
    user_id: String,
    wanted: Wanted,
    registration: PasskeyRegistration,
}

pub async fn start(State(app): State<App>, door: Door, Json(wanted): Json<Wanted>) -> Result<Response> {
    let (username, _) = wanted.judge(&app.config)?;
    let (address, rate) = (Key::address("signup", door.client.address), app.config.signups_per_address);
    app.db.note(async |db| throttle::take(db, &address, rate).await).await?;
    if app.db.read(async |db| user::member(db, &username).await).await?.is_some() {
        return Err(Error::Mistake(username.is_taken()));
    }
    let user_id = new_id();
    let user = (&*user_id.clone(), username.as_str());
    let kept = |registration| Pending { user_id, wanted, registration };
    ceremony::ask_to_make(&app, &door, Kind::SignUp, user, Vec::new(), kept).await
}

#[derive(Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    credential: RegisterPublicKeyCredential,
    /// Where to go afterwards.
    #[serde(default)]
    next: LocalPath,
}

pub async fn finish(State(app): State<App>, door: Door, Json(answer): Json<Answer>) -> Result<Response> {
    let client_data = &answer.credential.response.client_data_json;
    let pending: Pending = ceremony::end(&app, &door, Kind::SignUp, client_data).await?;
    let passkey = credential::made(&app.config, &answer.credential, &pending.registration)?;
    let (username, email) = pending.wanted.judge(&app.config)?;
    let entered = app.db.write(async |db| {
        let id = &*pending.user_id;
        if !user::create_as(db, id, &username, &door.client).await? {
            return Err(Error::Mistake(username.is_taken()));
        }
        credential::add(db, id, &passkey, &door.client).await?;
        if let Some(email) = &email {
            address::begin(db, id, email, Proven::TwoFactors).await?;
        }
        door.log_in(db, id, false, Proven::TwoFactors, &answer.next).await?.ok_or_else(not_good)
    });
    let Entry { cookies, to } = entered.await?;
    let told = email.map(|_| WELCOME.cookie(&app.config));
    Ok(lead_to(&to, told.into_iter().fold(cookies, CookieJar::add)))
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, begin, post};
    use super::*;
    use crate::access::Routes;
    use crate::test::TestApp;
    use serde_json::json;

    const START: &str = "/signup/passkey/start";
    const FINISH: &str = "/signup/passkey/finish";

    #[tokio::test]
    async fn whoever_signs_up_with_a_passkey_is_logged_in_and_comes_back_with_it() {
        let app = TestApp::new().await;
        let (mut key, ada) = (Authenticator::new(), app.visitor());
        let options = begin(&ada, START, json!({ "username": "Ada" })).await;
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
        let options = begin(&ada, START, json!({ "username": "ada", "email": "Ada@example.com" })).await;
        post(&ada, FINISH, &key.create(&options)).await.assert_status(200);
        assert_eq!(ada.cookie("flash").as_deref(), Some(WELCOME.name));
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is null").await, 1);
        assert_eq!(app.count("select count(*) from mails where email = 'ada@example.com'").await, 1);
    }

    #[tokio::test]
    async fn every_mistake_is_told_before_a_passkey_is_made() {
        let app = TestApp::new().await;
        app.person("grace").await;
        for (username, email, words) in [
            ("", "", "Please choose a username."),
            ("a b", "", "without spaces"),
            ("admin", "", "kept for the people who run this site"),
            ("ada", "ada", "does not look like"),
            ("Grace", "", "The name grace is taken."),
        ] {
            let wanted = json!({ "username": username, "email": email });
            let answer = post(&app.visitor(), START, &wanted).await;
            answer.assert_status(422).assert_contains(words).assert_no_header("set-cookie");
        }
        assert_eq!(app.count("select count(*) from passkey_ceremonies").await, 0);
    }

    #[tokio::test]
    async fn a_name_that_somebody_takes_meanwhile_is_taken() {
        let app = TestApp::new().await;
        let (mut key, visitor) = (Authenticator::new(), app.visitor());
        let options = begin(&visitor, START, json!({ "username": "ada" })).await;
        app.person("ada").await;
        let answer = post(&visitor, FINISH, &key.create(&options)).await;
        answer.assert_status(422).assert_contains("The name ada is taken.");
        visitor.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from passkeys").await, 0);
    }

    #[tokio::test]
    async fn a_passkey_that_opens_an_account_opens_no_second() {
        let app = TestApp::new().await;
        let (mut key, eve) = (Authenticator::new().registered(&app.person("ada").await).await, app.visitor());
        let options = begin(&eve, START, json!({ "username": "eve" })).await;
        post(&eve, FINISH, &key.create(&options)).await.assert_not_good();
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn nothing_is_made_of_an_answer_that_is_not_good() {
        let app = TestApp::new().await;
        let (mut key, visitor) = (Authenticator::new(), app.visitor());
        let wanted = json!({ "username": "ada" });
        key.verifies = false;
        let options = begin(&visitor, START, wanted.clone()).await;
        post(&visitor, FINISH, &key.create(&options)).await.assert_not_good();
        key.verifies = true;
        post(&visitor, FINISH, &key.create(&options)).await.assert_not_good();
        let options = begin(&visitor, START, wanted).await;
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
}
