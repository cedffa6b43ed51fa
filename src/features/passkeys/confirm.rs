//! Authenticate again by a passkey: at /confirm, and in forms that ask for it.

use super::ceremony::{self, Purpose};
use super::credential::{self, VerifiedPasskey};
use super::{log_in::Answer, relying_party::not_good};
use crate::accounts::{AuthLevel, Session};
use crate::base::Result;
use crate::web::{App, Empty, Json, Login};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use webauthn_rs::prelude::PublicKeyCredential;

pub async fn start(State(app): State<App>, session: Session, login: Login, _: Json<Empty>) -> Result<Response> {
    ceremony::ask_for_passkey(&app, &login, Purpose::Confirm(&session)).await
}

pub async fn finish(
    State(app): State<App>,
    session: Session,
    login: Login,
    Json(answer): Json<Answer>,
) -> Result<Response> {
    let verified = verify(&app, &login.headers, &session, &answer.credential).await?;
    let confirmed = app.db.write(async |db| {
        verified.recheck(db).await?;
        login.confirm(db, &session, AuthLevel::TwoFactors, &answer.detour).await
    });
    Ok(confirmed.await?.into_json())
}

/// Verifies a passkey of the session's own user.
///
/// # Errors
/// [`not_good`] for whatever may be wrong with it.
pub async fn verify(
    app: &App,
    headers: &HeaderMap,
    session: &Session,
    answer: &PublicKeyCredential,
) -> Result<VerifiedPasskey> {
    let verified = credential::verify(app, headers, Purpose::Confirm(session), answer).await?;
    if verified.user_id() == session.user.id { Ok(verified) } else { Err(not_good()) }
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, ask, post};
    use crate::test::{TestApp, Visitor};
    use crate::web::{Access, Routes};
    use serde_json::json;

    const START: &str = "/confirm/passkey/start";
    const FINISH: &str = "/confirm/passkey/finish";
    const LONG_AGO: &str = "update sessions set confirmed_at = confirmed_at - 600, factors = 1";

    async fn safe() -> &'static str {
        "in"
    }

    /// An app, and a user named ada with a passkey, who has logged in some time ago.
    async fn app() -> (TestApp, Visitor, Authenticator) {
        let app = TestApp::with(Routes::new().get("/safe", Access::Recent, safe)).await;
        let ada = app.person("ada").await;
        let key = Authenticator::new().registered(&ada).await;
        app.execute(LONG_AGO).await;
        (app, ada.without_cookie("flash"), key)
    }

    #[tokio::test]
    async fn a_passkey_confirms_and_leads_back_and_the_session_has_a_new_token() {
        let (app, ada, mut key) = app().await;
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        let before = ada.copy();
        let mut answer = key.get(&ask(&ada, START, json!({})).await);
        answer["next"] = "/safe?a=b".into();
        let answer = post(&ada, FINISH, &answer).await;
        answer.assert_status(200).assert_body(r#"{"next":"/safe?a=b"}"#);
        ada.get("/safe").await.assert_status(200);
        before.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'confirmed'").await, 1);
    }

    #[tokio::test]
    async fn a_form_accepts_a_passkey_in_place_of_a_password_and_only_once() {
        let (app, ada, mut key) = app().await;
        let answer = key.get(&ask(&ada, START, json!({})).await).to_string();
        let thief = ada.copy();
        ada.post("/test/reauthenticate", &[("passkey", &answer)]).await.assert_body("done");
        ada.get("/safe").await.assert_status(200);
        app.execute(LONG_AGO).await;
        thief.assert_is("nobody").await;
        for wrong in [&*answer, "{}", "no json"] {
            let answer = ada.post("/test/reauthenticate", &[("passkey", wrong)]).await;
            answer.assert_status(422).assert_no_header("set-cookie");
        }
    }

    #[tokio::test]
    async fn another_users_passkey_confirms_nothing() {
        let (app, ada, _) = app().await;
        let eve = app.person("eve").await;
        let mut eves = Authenticator::new().registered(&eve).await;
        app.execute(LONG_AGO).await;
        eves.confirm(&ada).await.assert_not_good();
        let answer = eves.get(&ask(&ada, START, json!({})).await).to_string();
        ada.post("/test/reauthenticate", &[("passkey", &answer)]).await.assert_status(422);
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
    }

    #[tokio::test]
    async fn a_challenge_belongs_to_the_session_that_asked_for_it() {
        let (app, ada, mut key) = app().await;
        let other = app.browser_of("ada").await;
        // The same browser in all but the session.
        let other = other.with_cookie("passkey", &ada.cookie("passkey").unwrap());
        app.execute(LONG_AGO).await;
        let answer = key.get(&ask(&ada, START, json!({})).await);
        post(&other, FINISH, &answer).await.assert_not_good();
        other.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        post(&ada, FINISH, &answer).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_passkey_that_has_not_verified_its_user_confirms_nothing() {
        let (_app, ada, mut key) = app().await;
        key.verifies = false;
        key.confirm(&ada).await.assert_not_good();
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_is_not_confirmed() {
        let (app, ada, mut key) = app().await;
        let answer = key.get(&ask(&ada, START, json!({})).await);
        let answer = app.ended_meanwhile("ada", post(&ada, FINISH, &answer)).await;
        answer.assert_status(404).assert_no_header("set-cookie");
        ada.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn visitors_confirm_nothing() {
        let (app, _, _) = app().await;
        for path in [START, FINISH] {
            post(&app.visitor(), path, &json!({})).await.assert_redirect("/login?next=%2F");
        }
    }
}
