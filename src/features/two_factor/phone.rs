//! An authenticator app, for tests, and the requests of its owner.

use super::account::CONFIRM;
use crate::db::now;
use crate::test::{Answer, PASSWORD, TestApp, Visitor};
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

/// Begins a set-up, and returns the page with the key.
pub async fn start(visitor: &Visitor) -> Answer {
    visitor.post("/account/two-factor/start", &[]).await.assert_redirect(CONFIRM);
    visitor.get(CONFIRM).await
}

/// Turns it on, and returns the app and the recovery codes.
pub async fn turn_on(visitor: &Visitor) -> (Phone, Vec<String>) {
    let phone = Phone::scan(start(visitor).await.assert_status(200));
    let answer = send(visitor, CONFIRM, &phone.code()).await;
    let page = visitor.get(answer.assert_status(303).header("location")).await.text();
    let codes = page.split("<code class=\"recovery-code\">").skip(1);
    (phone, codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect())
}

/// Returns a recovery code that is left over.
pub async fn turn_on_and_off(visitor: &Visitor) -> String {
    let (_, codes) = turn_on(visitor).await;
    send(visitor, "/account/two-factor/off", &codes[0]).await.assert_redirect("/account/two-factor");
    codes[1].clone()
}

/// As if the last code had been used some time ago.
pub async fn later(app: &TestApp) {
    app.execute("update totp set last_step = last_step - 10").await;
}

/// Waits for the first seconds of a step, so that the codes around it stay the same for a while.
pub async fn early_in_a_step() {
    while now() % 30 > 20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A browser whose log-in waits for a code, and then leads to /private.
pub async fn start_log_in(app: &TestApp, name: &str) -> Visitor {
    let visitor = app.visitor();
    let fields = [("username", name), ("password", PASSWORD), ("next", "/private"), ("stay", "yes")];
    visitor.post("/test/log-in", &fields).await.assert_redirect("/login/two-factor");
    visitor
}
