//! Log in with a passkey: by the button, or from what the browser offers in the field of the username.
//!
//! The user is not known before the answer comes, so there is nothing to find out about other users here.

use super::ceremony::{self, Purpose};
use super::{credential, relying_party::not_good};
use crate::accounts::{AuthLevel, Choices, PendingLogin};
use crate::base::Result;
use crate::web::{App, Detour, Empty, FactorCounts, Json, Login, Page, Template, files};
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::PublicKeyCredential;

pub const PATH: &str = "/login/passkey";

#[derive(Serialize)]
struct AskPage {
    name: String,
    /// Whether the session outlives the browser.
    stay: bool,
    /// Where to go afterwards.
    next: String,
    factors: FactorCounts,
}

impl Template for AskPage {
    const FILE: &'static str = files::PASSKEYS_ASK;
}

/// Asks a user who has authenticated by one factor for a passkey.
pub async fn show(State(app): State<App>, pending: PendingLogin, page: Page) -> Result<Response> {
    let PendingLogin { user, choices: Choices { stay, next }, .. } = pending;
    let factors = app.db.read(async |db| FactorCounts::of_user(&app, db, &user.id).await).await?;
    page.render(&AskPage { name: user.username, stay, next, factors }).await
}

pub async fn start(State(app): State<App>, login: Login, _: Json<Empty>) -> Result<Response> {
    ceremony::ask_for_passkey(&app, &login, Purpose::LogIn).await
}

/// What an authenticator has answered.
#[derive(Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    pub credential: PublicKeyCredential,
    #[serde(flatten)]
    pub detour: Detour,
    /// Whether the session outlives the browser.
    #[serde(default)]
    stay: bool,
}

pub async fn finish(State(app): State<App>, login: Login, Json(answer): Json<Answer>) -> Result<Response> {
    let verified = credential::verify(&app, &login.headers, Purpose::LogIn, &answer.credential).await?;
    let choices = Choices { stay: answer.stay, next: app.resolve(answer.detour.next.as_ref()).into() };
    let logged_in = app.db.write(async |db| {
        verified.recheck(db).await?;
        let redirect = login.log_in(db, verified.user_id(), AuthLevel::TwoFactors, &choices).await?;
        redirect.ok_or_else(not_good)
    });
    Ok(logged_in.await?.into_json())
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::{Authenticator, ask, damaged, post};
    use super::*;
    use crate::db::Connection;
    use crate::test::check;
    use crate::test::{Answer, PASSWORD, TestApp, Visitor};
    use crate::web::credentials;
    use data_encoding::BASE64URL_NOPAD;
    use futures_util::future::join_all;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    const START: &str = "/login/passkey/start";
    const FINISH: &str = "/login/passkey/finish";

    /// An app, and the passkey of a user named ada.
    async fn app() -> (TestApp, Authenticator) {
        let app = TestApp::new().await;
        let key = Authenticator::new().registered(&app.person("ada").await).await;
        (app, key)
    }

    async fn is_refused(app: &TestApp, visitor: &Visitor, answer: Answer) {
        answer.assert_not_good();
        visitor.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from passkeys where used_at is not null").await, 0);
    }

    #[test]
    fn its_page_renders() {
        let page = |stay| {
            let factors = FactorCounts(BTreeMap::from([("code", i64::from(stay))]));
            AskPage { name: "ada".into(), stay, next: "/a?b=\"c\"".into(), factors }
        };
        check(&[page(false), page(true)]);
    }

    #[tokio::test]
    async fn a_passkey_logs_in_and_leads_back_and_nobody_says_who_they_are_before() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let options = ask(&visitor, START, json!({})).await;
        assert_eq!(options["publicKey"]["allowCredentials"], json!([]));
        assert_eq!(options["publicKey"]["rpId"], "localhost");
        assert!(options.get("mediation").is_none(), "{options}");
        let mut answer = key.get(&options);
        answer["next"] = "/private?a=b".into();
        answer["stay"] = true.into();
        let answer = post(&visitor, FINISH, &answer).await;
        answer.assert_status(200).assert_body(r#"{"next":"/private?a=b"}"#);
        answer.assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        visitor.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from passkeys where used_at is not null").await, 1);
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 2);
    }

    #[tokio::test]
    async fn a_passkey_that_somebody_has_prepared_is_listed_and_logs_in_no_more_once_it_is_removed() {
        let (app, mut key) = app().await;
        let mut eves = Authenticator::new().registered(&app.person("eve").await).await;
        let id = app.user("ada").await;
        app.execute("update passkeys set name = 'The <blue> key', created_at = 0").await;
        let listed = app.app.db.read(async |db| credentials::list(&app.app, db, &id).await).await.unwrap();
        assert_eq!(listed, ["The passkey “The <blue> key”, added on 1 January 1970"]);
        // One ceremony has begun before, and another begins afterwards.
        let visitor = app.visitor();
        let begun = key.get(&ask(&visitor, START, json!({})).await);
        app.app.db.write(async |db| credentials::remove_all(&app.app, db, &id).await).await.unwrap();
        is_refused(&app, &visitor, post(&visitor, FINISH, &begun).await).await;
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
        let listed = app.app.db.read(async |db| credentials::list(&app.app, db, &id).await).await.unwrap();
        assert_eq!(listed, [""; 0]);
        eves.log_in(&visitor).await.assert_status(200);
    }

    #[tokio::test]
    async fn nobody_is_led_to_another_site() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let mut answer = key.get(&ask(&visitor, START, json!({})).await);
        answer["next"] = "//evil.example".into();
        post(&visitor, FINISH, &answer).await.assert_body(r#"{"next":"/"}"#);
    }

    #[tokio::test]
    async fn what_was_signed_for_another_site_is_refused() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        for origin in ["https://evil.example", "http://localhost:8001", "https://localhost:8000", "null"] {
            key.origin = origin.into();
            is_refused(&app, &visitor, key.log_in(&visitor).await).await;
        }
        key.origin = "http://localhost:8000".into();
        key.site = "evil.example".into();
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
    }

    #[tokio::test]
    async fn what_was_signed_inside_a_page_of_another_site_is_refused() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        key.embedded = true;
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
        key.embedded = false;
        key.log_in(&visitor).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_passkey_that_has_not_verified_its_user_logs_nobody_in() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        key.verifies = false;
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
    }

    #[tokio::test]
    async fn a_signature_by_another_key_is_refused() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let options = ask(&visitor, START, json!({})).await;
        let mut answer = Authenticator::new().get(&options);
        let right = key.get(&ask(&visitor, START, json!({})).await);
        (answer["id"], answer["rawId"]) = (right["id"].clone(), right["rawId"].clone());
        answer["response"]["userHandle"] = right["response"]["userHandle"].clone();
        is_refused(&app, &visitor, post(&visitor, FINISH, &answer).await).await;
    }

    #[tokio::test]
    async fn an_answer_with_one_byte_changed_is_refused_and_never_a_fault() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let parts = ["authenticatorData", "clientDataJSON", "signature"];
        let number = damaged(&key.get(&ask(&visitor, START, json!({})).await), &parts).len();
        for place in 0..number {
            app.execute("delete from limits").await;
            let answer = key.get(&ask(&visitor, START, json!({})).await);
            // The length of a signature varies.
            let Some(damaged) = damaged(&answer, &parts).into_iter().nth(place) else { continue };
            post(&visitor, FINISH, &damaged).await.assert_not_good();
        }
    }

    #[tokio::test]
    async fn an_answer_is_good_once() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let answer = key.get(&ask(&visitor, START, json!({})).await);
        let again = visitor.copy();
        post(&visitor, FINISH, &answer).await.assert_status(200);
        post(&again, FINISH, &answer).await.assert_not_good();
        again.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn an_answer_that_was_wrong_is_not_verified_again() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let answer = key.get(&ask(&visitor, START, json!({})).await);
        let mut forged = answer.clone();
        forged["response"]["signature"] = "AAAA".into();
        is_refused(&app, &visitor, post(&visitor, FINISH, &forged).await).await;
        is_refused(&app, &visitor, post(&visitor, FINISH, &answer).await).await;
    }

    #[tokio::test]
    async fn of_fifty_who_send_one_answer_at_once_one_gets_in() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let answer = key.get(&ask(&visitor, START, json!({})).await);
        let copies: Vec<Visitor> = (0..50).map(|_| visitor.copy()).collect();
        let answers = join_all(copies.iter().map(|copy| post(copy, FINISH, &answer))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
        assert_eq!(app.count("select count(*) from events where kind = 'logged_in'").await, 2);
    }

    #[tokio::test]
    async fn a_challenge_belongs_to_the_browser_that_asked_for_it() {
        let (app, mut key) = app().await;
        let (eve, ada) = (app.visitor(), app.visitor());
        let phished = key.get(&ask(&eve, START, json!({})).await);
        let planted = ask(&ada, START, json!({})).await;
        is_refused(&app, &ada, post(&ada, FINISH, &phished).await).await;
        is_refused(&app, &eve, post(&eve, FINISH, &key.get(&planted)).await).await;
        is_refused(&app, &ada, post(&app.visitor(), FINISH, &phished).await).await;
        // Nobody has used up another's challenge by trying.
        post(&ada, FINISH, &key.get(&planted)).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_cookie_of_another_app_hides_no_challenge() {
        let (app, mut key) = app().await;
        for foreign in ["anything", "", &"A".repeat(43)] {
            let browser = app.visitor().with_foreign_cookie("passkey", foreign);
            let first = ask(&browser, START, json!({})).await;
            post(&browser, FINISH, &key.get(&first)).await.assert_status(200);
            // It may have been set only after the challenge.
            let browser = app.visitor();
            let second = ask(&browser, START, json!({})).await;
            let browser = browser.with_foreign_cookie("passkey", foreign);
            post(&browser, FINISH, &key.get(&second)).await.assert_status(200);
        }
    }

    #[tokio::test]
    async fn each_tab_of_a_browser_has_a_challenge_of_its_own() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let first = ask(&visitor, START, json!({})).await;
        let cookie = visitor.cookie("passkey");
        let second = ask(&visitor, START, json!({})).await;
        assert_eq!(visitor.cookie("passkey"), cookie);
        post(&visitor, FINISH, &key.get(&first)).await.assert_status(200);
        post(&visitor, FINISH, &key.get(&second)).await.assert_status(200);
        let planted = app.visitor().with_cookie("passkey", "anything");
        ask(&planted, START, json!({})).await;
        assert_ne!(planted.cookie("passkey").unwrap(), "anything");
    }

    #[tokio::test]
    async fn an_answer_of_one_kind_is_none_to_another() {
        let (app, mut key) = app().await;
        let ada = app.browser_of("ada").await;
        let to_confirm = ask(&ada, "/confirm/passkey/start", json!({})).await;
        post(&ada, FINISH, &key.get(&to_confirm)).await.assert_not_good();
        let to_log_in = ask(&ada, START, json!({})).await;
        post(&ada, "/confirm/passkey/finish", &key.get(&to_log_in)).await.assert_not_good();
        let wanted = json!({ "username": "bob" });
        for (start, finish) in
            [("/account/passkeys/start", "/confirm/passkey/finish"), ("/signup/passkey/start", FINISH)]
        {
            let to_make = ask(&ada, start, wanted.clone()).await;
            let options = json!({ "challenge": to_make["publicKey"]["challenge"], "userVerification": "required" });
            post(&ada, finish, &key.get(&json!({ "publicKey": options }))).await.assert_not_good();
        }
    }

    #[tokio::test]
    async fn after_five_minutes_a_challenge_is_worth_nothing_and_goes() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let options = ask(&visitor, START, json!({})).await;
        app.execute("update tokens set expires_at = expires_at - 300").await;
        is_refused(&app, &visitor, post(&visitor, FINISH, &key.get(&options)).await).await;
        ask(&visitor, START, json!({})).await;
        crate::server::purge::purge(&app.app).await.unwrap();
        assert_eq!(app.count("select count(*) from tokens where purpose = 'passkey_log_in'").await, 1);
    }

    #[tokio::test]
    async fn a_copied_passkey_is_found_out_by_its_counter() {
        let app = TestApp::new().await;
        let mut key = Authenticator::counting(7).registered(&app.person("ada").await).await;
        let visitor = app.visitor();
        key.log_in(&visitor).await.assert_status(200);
        for behind in [6, 7, 8] {
            key.counter = behind - 1;
            let copy = app.visitor();
            key.log_in(&copy).await.assert_not_good();
            copy.assert_is("nobody").await;
        }
        key.counter = 8;
        key.log_in(&visitor).await.assert_status(200);
    }

    #[tokio::test]
    async fn of_two_copies_that_are_used_at_once_one_gets_in() {
        let app = TestApp::new().await;
        let mut key = Authenticator::counting(1).registered(&app.person("ada").await).await;
        let visitors: Vec<Visitor> = (0..10).map(|_| app.visitor()).collect();
        let mut answers: Vec<Value> = Vec::new();
        for visitor in &visitors {
            key.counter = 1;
            answers.push(key.get(&ask(visitor, START, json!({})).await));
        }
        let tries = visitors.iter().zip(&answers).map(|(visitor, answer)| post(visitor, FINISH, answer));
        let answers = join_all(tries).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    }

    #[tokio::test]
    async fn whatever_is_wrong_has_the_same_answer() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        let options = ask(&visitor, START, json!({})).await;
        let mut unknown = Authenticator::new();
        unknown.user = key.user.clone();
        let unknown = post(&visitor, FINISH, &unknown.get(&options)).await;
        unknown.assert_not_good();
        key.user = vec![7; 16];
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
        let mut never_asked = key.get(&options);
        never_asked["response"]["clientDataJSON"] = "e30".into();
        is_refused(&app, &visitor, post(&visitor, FINISH, &never_asked).await).await;
    }

    #[tokio::test]
    async fn a_disabled_or_deleted_user_has_the_same_answer() {
        let (app, mut key) = app().await;
        let visitor = app.visitor();
        app.execute("update users set disabled_at = 1").await;
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
        app.execute("delete from users").await;
        is_refused(&app, &visitor, key.log_in(&visitor).await).await;
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused_without_a_statement() {
        let (app, _) = app().await;
        let visitor = app.visitor();
        let statements = app.statements();
        for body in ["", "{}", "[]", "null", "{\"id\":1}", "not json", "{\"id\":\"\u{0}\"}"] {
            visitor.post_body(FINISH, Some("application/json"), body.as_bytes()).await.assert_status(400);
        }
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            visitor.post_body(FINISH, kind, b"{}").await.assert_status(415);
            visitor.post_body(START, kind, b"{}").await.assert_status(415);
        }
        assert_eq!(app.statements(), statements);
        // Nothing at all is as good as an object without fields.
        visitor.post_body(FINISH, None, b"").await.assert_status(400);
        visitor.post_body(START, None, b"").await.assert_status(200);
    }

    #[tokio::test]
    async fn many_challenges_in_a_row_have_to_wait() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        let mut allowed = 0;
        while post(&visitor, START, &json!({})).await.status == 200 {
            allowed += 1;
        }
        // While it asks, another is free every 0.9 s.
        assert!((200..300).contains(&allowed), "{allowed}");
        let before = app.statements();
        post(&visitor, START, &json!({})).await.assert_status(429);
        assert_eq!(app.statements(), before, "it is refused again without a statement");
    }

    #[tokio::test]
    async fn no_table_has_what_a_browser_holds() {
        let (app, _) = app().await;
        let visitor = app.visitor();
        let options = ask(&visitor, START, json!({})).await;
        let cookie = visitor.cookie("passkey").unwrap();
        assert_eq!(cookie.len(), 43);
        let read = async |db: &mut Connection| {
            let sql = "select binding, data from tokens where purpose = 'passkey_log_in'";
            Ok(sqlx::query_as(sql).fetch_all(db).await?)
        };
        let rows: Vec<(Vec<u8>, String)> = app.app.db.read(read).await.unwrap();
        let [(binding, data)] = &rows[..] else { panic!("{} rows", rows.len()) };
        assert_eq!(binding.len(), 32);
        let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!has(binding, cookie.as_bytes()) && !has(data.as_bytes(), cookie.as_bytes()), "{data}");
        let token = BASE64URL_NOPAD.decode(cookie.as_bytes()).unwrap();
        assert!(!token.windows(8).any(|part| has(binding, part)), "{binding:?} has a part of {token:?}");
        assert_ne!(options["publicKey"]["challenge"], cookie);
    }

    #[tokio::test]
    async fn while_others_guess_the_password_the_owners_passkey_works() {
        let (app, mut key) = app().await;
        for _ in 0..6 {
            app.visitor().post("/test/log-in", &[("username", "ada"), ("password", "not the password")]).await;
        }
        let owner = app.visitor();
        owner.post("/test/log-in", &[("username", "ada"), ("password", PASSWORD)]).await.assert_status(429);
        key.log_in(&owner).await.assert_status(200);
        owner.assert_is("ada").await;
    }
}
