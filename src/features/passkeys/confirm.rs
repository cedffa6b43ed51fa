//! Show by a passkey that it is still you: at /confirm, and in forms that ask for it.

use super::ceremony::{self, Kind};
use super::credential::{self, Shown};
use super::log_in::Answer;
use super::{lead_to, not_good};
use crate::app::App;
use crate::auth::User;
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::factor::Proven;
use crate::form::{Json, NoFields};
use crate::session::Door;
use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use webauthn_rs::prelude::PublicKeyCredential;

pub async fn start(State(app): State<App>, door: Door, _: Json<NoFields>) -> Result<Response> {
    ceremony::ask_for_passkey(&app, &door, Kind::Confirm).await
}

pub async fn finish(
    State(app): State<App>,
    user: User,
    door: Door,
    Json(answer): Json<Answer>,
) -> Result<Response> {
    let shown = judge(&app, &door, &user, &answer.credential).await?;
    let confirmed = app.db.write(async |db| {
        shown.redeem(db).await?;
        event::record(db, &*user.id, Event::Confirmed, &door.client).await?;
        door.renew(db, Proven::TwoFactors).await
    });
    Ok(lead_to(&answer.next, confirmed.await?))
}

async fn judge(app: &App, door: &Door, user: &User, answer: &PublicKeyCredential) -> Result<Shown> {
    let shown = credential::judge(app, door, Kind::Confirm, answer).await?;
    if shown.user_id == user.id { Ok(shown) } else { Err(not_good()) }
}

/// Whether this text, a field of some form, is the answer of one of the user's passkeys.
pub fn check<'a>(
    app: &'a App,
    door: &'a Door,
    user: &'a User,
    field: &'a str,
) -> BoxFuture<'a, Result<bool>> {
    let check = async move {
        let answer = serde_json::from_str(field).map_err(|_| not_good())?;
        let shown = judge(app, door, user, &answer).await?;
        app.db.write(async |db| shown.redeem(db).await).await
    };
    let is_right = |checked| match checked {
        Err(Error::Mistake(_)) => Ok(false),
        checked => checked.map(|()| true),
    };
    check.map(is_right).boxed()
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, begin, post};
    use crate::access::{Access, Routes};
    use crate::test::{TestApp, Visitor};
    use serde_json::json;

    const START: &str = "/confirm/passkey/start";
    const FINISH: &str = "/confirm/passkey/finish";
    const LONG_AGO: &str = "update sessions set confirmed_at = confirmed_at - 600, factors = 1";

    async fn guarded() -> &'static str {
        "in"
    }

    /// An app, and somebody named ada with a passkey, who has logged in some time ago.
    async fn app() -> (TestApp, Visitor, Authenticator) {
        let app = TestApp::with(Routes::new().get("/safe", Access::Recent, guarded)).await;
        let ada = app.person("ada").await;
        let key = Authenticator::new().registered(&ada).await;
        app.execute(LONG_AGO).await;
        (app, ada.without_cookie("flash"), key)
    }

    #[tokio::test]
    async fn a_passkey_leads_back_under_a_new_token_and_the_old_one_is_dead() {
        let (app, ada, mut key) = app().await;
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        let before = ada.copy();
        let mut answer = key.get(&begin(&ada, START, json!({})).await);
        answer["next"] = "/safe?a=b".into();
        let answer = post(&ada, FINISH, &answer).await;
        answer.assert_status(200).assert_body(r#"{"next":"/safe?a=b"}"#);
        ada.get("/safe").await.assert_status(200);
        before.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'confirmed'").await, 1);
    }

    #[tokio::test]
    async fn the_form_takes_a_passkey_in_place_of_a_password_and_takes_it_once() {
        let (app, ada, mut key) = app().await;
        let answer = key.get(&begin(&ada, START, json!({})).await).to_string();
        let thief = ada.copy();
        ada.post("/test/prove", &[("passkey", &answer)]).await.assert_body("proven");
        ada.get("/safe").await.assert_status(200);
        app.execute(LONG_AGO).await;
        thief.assert_is("nobody").await;
        for wrong in [&*answer, "{}", "no json"] {
            let answer = ada.post("/test/prove", &[("passkey", wrong)]).await;
            answer.assert_status(422).assert_no_header("set-cookie");
        }
    }

    #[tokio::test]
    async fn somebody_elses_passkey_confirms_nothing() {
        let (app, ada, _) = app().await;
        let eve = app.person("eve").await;
        let mut eves = Authenticator::new().registered(&eve).await;
        app.execute(LONG_AGO).await;
        eves.confirm(&ada).await.assert_not_good();
        let answer = eves.get(&begin(&ada, START, json!({})).await).to_string();
        ada.post("/test/prove", &[("passkey", &answer)]).await.assert_status(422);
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
    }

    #[tokio::test]
    async fn a_challenge_belongs_to_the_session_that_asked_for_it() {
        let (app, ada, mut key) = app().await;
        let other = app.browser_of("ada").await;
        // The same browser in all but the session.
        let other = other.with_cookie("passkey", &ada.cookie("passkey").unwrap());
        app.execute(LONG_AGO).await;
        let answer = key.get(&begin(&ada, START, json!({})).await);
        post(&other, FINISH, &answer).await.assert_not_good();
        other.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
        post(&ada, FINISH, &answer).await.assert_status(200);
    }

    #[tokio::test]
    async fn whoever_only_holds_the_device_confirms_nothing() {
        let (_app, ada, mut key) = app().await;
        key.verifies = false;
        key.confirm(&ada).await.assert_not_good();
        ada.get("/safe").await.assert_redirect("/confirm?next=%2Fsafe");
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_is_not_confirmed() {
        let (app, ada, mut key) = app().await;
        let answer = key.get(&begin(&ada, START, json!({})).await);
        let answer = app.ended_meanwhile("ada", post(&ada, FINISH, &answer)).await;
        answer.assert_status(404).assert_no_header("set-cookie");
        ada.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn strangers_confirm_nothing() {
        let (app, _, _) = app().await;
        for path in [START, FINISH] {
            post(&app.visitor(), path, &json!({})).await.assert_redirect("/login?next=%2F");
        }
    }
}
