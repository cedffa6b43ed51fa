//! Recovery codes: the way back for people who forget their password and have no address.
//! needs: account, home, login, password_reset, recovery_codes, signup

use crate::common::{Database, NEW_PASSWORD, Server, encodings_of, password_fields, tokens_in};

const OFFER: &str = "Make recovery codes";

#[test]
fn people_who_kept_their_recovery_codes_come_back_without_the_password() {
    let server = Server::start(&[("SMTP_URL", "none")]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    ada.get("/account").assert_contains(OFFER);
    let code = &ada.make_recovery_codes()[0];
    assert!(!ada.get("/account").body.contains(OFFER), "whoever has codes is not offered any");
    drop(ada);

    let mut browser = server.browser();
    browser.get("/login").assert_contains("<a href=\"/recovery\">Use a recovery code</a>");
    let answer = browser.post("/recovery", &[("username", "ada"), ("code", code)]);
    let link = answer.assert_status(303).header("location").unwrap().to_string();
    browser.get(&link).assert_contains("<strong>ada</strong>");
    browser.post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    browser.get("/login").assert_contains("Your new password is set. Log in with it.");
    browser.assert_logged_out();
    browser.log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
    browser.assert_logged_in("ada");
}

#[test]
fn nothing_in_the_database_is_a_recovery_code_or_a_link_to_a_new_password() {
    let database = Database::new();
    let server = Server::on(&database, &[("PASSWORD_FREE_ATTEMPTS", "1000000"), ("RUST_LOG", "warn")]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let mut codes = ada.make_recovery_codes();
    assert_eq!(codes.len(), 10);
    let spent = codes.pop().unwrap();
    let answer = server.browser().post("/recovery", &[("username", "ada"), ("code", &spent)]);
    let link = answer.assert_status(303).header("location").unwrap().to_string();

    let dump = database.dump();
    for name in ["recovery_codes.code_hash", "shown_codes.codes", "tokens.token_hash"] {
        assert!(dump.iter().any(|(found, _)| found == name), "{name} is missing");
    }
    for token in tokens_in(&dump) {
        let code = [("username", "ada"), ("code", &*token)];
        server.browser().post("/recovery", &code).assert_status(422);
        let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
        let path = format!("/password-reset/{}", encoded.replace('+', "%20"));
        server.browser().get(&path).assert_status(404);
        server.browser().post(&path, &[]).assert_status(404);
    }
    let mut secrets: Vec<String> = codes.iter().flat_map(|code| [code.clone(), code.replace('-', "")]).collect();
    secrets.extend(encodings_of(link.strip_prefix("/password-reset/").unwrap()));
    for secret in secrets {
        let found = dump.iter().find(|(_, stored)| stored.contains(&secret));
        assert_eq!(found, None, "{secret}");
    }
    // The real ones still work.
    server.browser().get(&link).assert_status(200);
    server.browser().post("/recovery", &[("username", "ada"), ("code", &codes[0])]).assert_status(303);
}
