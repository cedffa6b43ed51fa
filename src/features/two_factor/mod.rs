//! A second factor: the six digits of an authenticator app (TOTP, RFC 6238), or a recovery code in their place.
//!
//! `account.rs` has the pages that set it up and turn it off, `log_in.rs` the one that asks for it, `code.rs` the table and
//! the judgement. Digits belong to a step of 30 seconds. The last step that was used is kept, and only a later one is taken,
//! so a code works once, however many send it at the same moment, to whichever process.

mod account;
mod code;
mod log_in;

use crate::access::{Access, Routes};
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::env::Env;
use crate::error::Result;
use crate::factor::{Factor, Proven};
use crate::features::Feature;
use crate::form::Errors;
use crate::session::Door;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;

const ACCOUNT: &str = "/account/two-factor";
const LOG_IN: &str = "/login/two-factor";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(ACCOUNT, Access::Recent, account::show)
        .post("/account/two-factor/start", Access::Recent, account::start)
        .post("/account/two-factor/confirm", Access::Recent, account::confirm)
        .post("/account/two-factor/off", Access::Recent, account::turn_off)
        .get(LOG_IN, Access::HalfWay, log_in::show)
        .post(LOG_IN, Access::HalfWay, log_in::create);
    Ok(Feature {
        routes,
        flashes: &[account::TURNED_OFF, log_in::OVER],
        factor: Some(FACTOR),
        next_factor: Some(next_factor),
        set_up: Some(ACCOUNT),
        sealed: &[code::SEALED],
        undo: &[code::UNDO],
        purge: &[code::PURGE],
        export: &[code::EXPORT],
        ..Feature::named("two_factor")
    })
}

const FACTOR: Factor = Factor { name: "code", count: code::COUNT, suffices: false, check, refusal: REFUSAL };

const REFUSAL: &str = "This code is wrong, or was used already.";

fn check<'a>(app: &'a App, door: &'a Door, user: &'a User, code: &'a str) -> BoxFuture<'a, Result<bool>> {
    app.db.write(async |db| code::judge(db, app, &door.client, &user.id, code).await).boxed()
}

fn next_factor<'a>(
    _: &'a App,
    db: &'a mut Connection,
    user_id: &'a str,
    proven: Proven,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    async move {
        let asks = proven == Proven::OneFactor && code::is_on(db, user_id).await?;
        Ok(asks.then_some(LOG_IN))
    }
    .boxed()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CodeForm {
    code: String,
}

fn mistake(field: &'static str) -> Errors {
    Errors::from((field, REFUSAL.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{new_id, now};
    use crate::factor::{self, Sent};
    use crate::test::{Answer, TestApp, Visitor};
    use serde_json::json;
    use std::time::Duration;
    use totp_rs::{Builder, Secret, Totp};

    /// An authenticator app.
    pub struct Phone(Totp);

    impl Phone {
        /// With the secret of the page that sets it up.
        #[track_caller]
        pub fn scan(page: &Answer) -> Phone {
            let key = between(&page.text(), "<code id=\"totp-key\">", "</code>").replace(' ', "");
            Phone(Builder::new().with_secret(Secret::try_from_base32(key).unwrap()).build().unwrap())
        }

        pub fn code(&self) -> String {
            self.code_of(0)
        }

        /// The code of so many steps ago.
        pub fn code_of(&self, steps_ago: i64) -> String {
            self.0.generate((now() - 30 * steps_ago).cast_unsigned()).to_string()
        }

        /// Six digits that it does not show these days.
        pub fn wrong(&self) -> String {
            let right: Vec<_> = (-5..=5).map(|steps| self.code_of(steps)).collect();
            let mut codes = (0..).map(|number| format!("{number:06}"));
            codes.find(|code| !right.contains(code)).unwrap()
        }
    }

    pub fn between(text: &str, before: &str, after: &str) -> String {
        let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        found.unwrap_or_else(|| panic!("no {before} in {text}")).0.to_string()
    }

    pub async fn send(visitor: &Visitor, path: &str, code: &str) -> Answer {
        visitor.post(path, &[("code", code)]).await
    }

    /// Turns it on, and answers the app and the recovery codes.
    pub async fn turn_on(visitor: &Visitor) -> (Phone, Vec<String>) {
        let page = visitor.post("/account/two-factor/start", &[]).await;
        let phone = Phone::scan(page.assert_status(200));
        let page = send(visitor, "/account/two-factor/confirm", &phone.code()).await;
        let page = page.assert_status(200).text();
        let codes = page.split("<code class=\"recovery-code\">").skip(1);
        (phone, codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect())
    }

    /// As if the last code had been used some time ago.
    pub async fn later(app: &TestApp) {
        app.execute("update totp set last_step = last_step - 10").await;
    }

    /// Comes back early in a step, so that the codes around it are the same for some seconds.
    pub async fn early_in_a_step() {
        while now() % 30 > 20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A browser that has shown somebody's password and is on its way to /private.
    pub async fn half_way(app: &TestApp, name: &str) -> Visitor {
        let (id, door) = (app.user(name).await, app.door().await);
        let entry = app
            .app
            .db
            .write(async |db| door.log_in(db, &id, true, Proven::OneFactor, "/private").await)
            .await
            .unwrap()
            .expect("the user may log in");
        let cookies = entry.cookies.iter();
        let browser =
            cookies.fold(app.visitor(), |visitor, cookie| visitor.with_cookie(cookie.name(), cookie.value()));
        assert_eq!(entry.to, LOG_IN);
        browser
    }

    #[tokio::test]
    async fn whoever_shows_once_more_who_they_are_may_do_so_by_a_code() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        app.person("eve").await;
        let shows = async |name: &str, code: &str| {
            let user = User { id: app.user(name).await, username: name.into() };
            let (door, sent) = (app.door().await, json!({"code": code}));
            let sent: Sent = serde_json::from_value(sent).unwrap();
            factor::check(&app.app, &door, &user, &sent).await.unwrap().err()
        };
        later(&app).await;
        let refused = Some(("code", REFUSAL.to_string()));
        assert_eq!(shows("ada", &phone.wrong()).await, refused);
        let code = phone.code();
        // Somebody who has set nothing up has no code, and a recovery code stands in for none.
        assert_eq!(shows("eve", &code).await, refused);
        assert_eq!(shows("eve", &turn_on_and_off(&app, "eve").await).await, refused);
        for code in [&code, &codes[0]] {
            assert_eq!(shows("ada", code).await, None);
            assert_eq!(shows("ada", code).await, refused);
        }
    }

    /// Answers a recovery code that stays.
    async fn turn_on_and_off(app: &TestApp, name: &str) -> String {
        let visitor = app.browser_of(name).await;
        let (_, codes) = turn_on(&visitor).await;
        send(&visitor, "/account/two-factor/off", &codes[0]).await.assert_redirect(ACCOUNT);
        codes[1].clone()
    }

    #[tokio::test]
    async fn what_a_thief_has_set_up_ends_when_the_owner_takes_the_account_back() {
        let app = TestApp::new().await;
        let thief = app.person("ada").await;
        app.execute("update sessions set factors = 1, confirmed_factors = 1").await;
        let earlier = new_id();
        turn_on(&thief).await;
        let (id, later) = (app.user("ada").await, new_id());
        let end = async |event_id: &str| {
            let end = async |db: &mut Connection| factor::end_added_since(&app.app, db, &id, event_id).await;
            app.app.db.write(end).await.unwrap();
            app.count("select count(*) from totp").await
        };
        assert_eq!(end(&later).await, 1);
        assert_eq!(end(&earlier).await, 0);
    }

    #[tokio::test]
    async fn what_an_owner_sets_up_anew_is_not_ended_by_an_older_mail() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let earlier = new_id();
        turn_on(&ada).await;
        let id = app.user("ada").await;
        let end = async |db: &mut Connection| factor::end_added_since(&app.app, db, &id, &earlier).await;
        app.app.db.write(end).await.unwrap();
        assert_eq!(app.count("select count(*) from totp").await, 1);
    }
}
