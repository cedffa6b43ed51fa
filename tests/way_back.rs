//! Somebody who forgets their password comes back by a code on paper.
//! needs: account, login, members, password_reset, recovery_codes, signup
#![cfg(unix)]

mod common;

use common::Server;

const OFFER: &str = "Make recovery codes";

#[test]
fn whoever_kept_the_codes_they_were_offered_comes_back_without_the_password() {
    let server = Server::start(&[("SMTP_URL", "none")]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    ada.get("/account").assert_contains(OFFER);
    let page = ada.post("/account/recovery-codes", &[]).assert_status(200).body.clone();
    let (_, code) = page.split_once("<code class=\"recovery-code\">").unwrap();
    let code = code.split('<').next().unwrap();
    assert!(!ada.get("/account").body.contains(OFFER), "whoever has codes is not offered any");
    drop(ada);

    let mut browser = server.browser();
    browser.get("/login").assert_contains("<a href=\"/recovery\">Use a recovery code</a>");
    let answer = browser.post("/recovery", &[("username", "ada"), ("code", code)]);
    let link = answer.assert_status(303).header("location").unwrap().to_string();
    browser.get(&link).assert_contains("<strong>ada</strong>");
    let new = "quiet harbour lamp";
    browser.post(&link, &[("password", new), ("confirm_password", new)]).assert_redirect("/login");
    browser.get("/login").assert_contains("Your new password is set. Log in with it.");
    browser.get("/me").assert_redirect("/login?next=%2Fme");
    browser.post("/login", &[("username", "ada"), ("password", new)]).assert_redirect("/");
    browser.get("/me").assert_redirect("/user/ada");
}
