//! Whoever has a copy of the database can open nothing with what stands in it.
//! needs: change_password, login, members, notes, password_reset, recovery_codes, signup
#![cfg(unix)]

mod common;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use common::{Browser, Database, PASSWORD, Server};
use std::collections::BTreeSet;

/// A site with a past. Answers the browsers that are logged in.
fn people(server: &Server) -> Vec<Browser> {
    let mut browsers: Vec<Browser> = (0..4).map(|_| server.browser()).collect();
    let [ada, bob, phone, left] = &mut browsers[..] else { unreachable!() };
    ada.sign_up("ada").assert_redirect("/");
    bob.sign_up("bob").assert_redirect("/");
    let new = "quiet harbour lamp";
    let fields = [("current_password", PASSWORD), ("password", new), ("confirm_password", new)];
    bob.post("/account/password", &fields).assert_redirect("/account/password");
    bob.get("/account/password").assert_contains("Your password was changed");
    phone.post("/login", &[("username", "ada"), ("password", PASSWORD), ("stay", "on")]).assert_redirect("/");
    left.log_in("ada").assert_redirect("/");
    left.post("/logout", &[]).assert_redirect("/");
    for browser in [ada, bob, phone] {
        browser
            .post("/notes", &[("text", "I met them where the two long roads cross.")])
            .assert_redirect("/notes");
    }
    for name in ["ada", "bob", "nobody", "nobody@example.com"] {
        let wrong = [("username", name), ("password", "not the password")];
        server.browser().post("/login", &wrong).assert_status(422);
    }
    browsers
}

/// New recovery codes of somebody who is logged in, and a link to choose a new password for which one of them was used.
fn ways_back(server: &Server, name: &str, browser: &mut Browser) -> (Vec<String>, String) {
    let page = browser.post("/account/recovery-codes", &[]).assert_status(200).body.clone();
    let codes = page.split("<code class=\"recovery-code\">").skip(1);
    let mut codes: Vec<String> = codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect();
    let used = codes.pop().unwrap();
    let answer = server.browser().post("/recovery", &[("username", name), ("code", &used)]);
    (codes, answer.assert_status(303).header("location").unwrap().to_string())
}

/// A value of a row in every form in which somebody might try it as a token.
fn forms(value: &str) -> Vec<String> {
    let mut forms = vec![value.to_string()];
    if let Some(hex) = value.strip_prefix("\\x") {
        let bytes = unhex(hex);
        forms = vec![
            hex.to_string(),
            BASE64_URL_SAFE_NO_PAD.encode(&bytes),
            BASE64_STANDARD_NO_PAD.encode(bytes),
        ];
    }
    // The salt and the output of a hash stand between signs.
    forms.extend(value.split('$').skip(1).map(|part| part.replace('+', "-").replace('/', "_")));
    forms.retain(|form| form.len() >= 20);
    forms
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

#[test]
fn nothing_in_the_database_opens_anything() {
    let database = Database::new();
    let server = Server::on(&database, &[("PASSWORD_DELAY", "1h"), ("RUST_LOG", "warn")]);
    let mut browsers = people(&server);
    let (codes, link) = ways_back(&server, "ada", &mut browsers[0]);
    // Strangers have no attempt left at Ada's password, so it works only with the cookie of a device she has used.
    for _ in 0..4 {
        server.browser().post("/login", &[("username", "ada"), ("password", "wrong")]).assert_status(422);
    }
    server.browser().log_in("ada").assert_status(429);

    let dump = database.dump();
    for place in [
        "users.id",
        "passwords.hash",
        "sessions.token_hash",
        "devices.token_hash",
        "limits.key",
        "notes.text",
        "recovery_codes.code_hash",
        "tokens.token_hash",
    ] {
        assert!(dump.iter().any(|(found, _)| found == place), "{place} is missing");
    }
    let values: BTreeSet<String> = dump.iter().flat_map(|(_, value)| forms(value)).collect();
    println!("{} values", values.len());
    for value in &values {
        for cookie in ["session_token", "visitor"] {
            let mut thief = server.browser().with_header("Cookie", &header(cookie, value));
            thief.get("/me").assert_redirect("/login?next=%2Fme");
        }
        server.browser().with_header("Cookie", &header("device", value)).log_in("ada").assert_status(429);
        let encoded: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        for path in ["password-reset", "email", "undo"] {
            let path = format!("/{path}/{}", encoded.replace('+', "%20"));
            server.browser().get(&path).assert_status(404);
            server.browser().post(&path, &[]).assert_status(404);
        }
        let code = [("username", "ada"), ("code", value)];
        server.browser().post("/recovery", &code).assert_status(422);
    }

    // What browsers hold is nowhere in it, in no form.
    for browser in &browsers {
        for (name, value) in browser.cookies() {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(value).unwrap();
            assert_eq!(bytes.len(), 32, "{name}={value} is no token");
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            for form in [value.clone(), BASE64_STANDARD_NO_PAD.encode(&bytes), hex] {
                let found = dump.iter().find(|(_, stored)| stored.contains(&form));
                assert_eq!(found, None, "{name}={form}");
            }
        }
    }
    let mut paper = codes.iter().map(|code| code.replace('-', ""));
    assert!(paper.len() == 9 && paper.all(|code| dump.iter().all(|(_, stored)| !stored.contains(&code))));
    let token = link.strip_prefix("/password-reset/").unwrap();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(dump.iter().all(|(_, stored)| !stored.contains(token) && !stored.contains(&hex)));
    let live = browsers.iter().filter(|browser| browser.cookies().contains_key("session_token")).count();
    assert_eq!(live, 3);
    // All this time the real ones work.
    browsers[0].get("/me").assert_redirect("/user/ada");
    browsers[1].get("/me").assert_redirect("/user/bob");
    browsers[2].get("/me").assert_redirect("/user/ada");
    browsers[3].log_in("ada").assert_redirect("/");
    server.browser().get(&link).assert_status(200);
    server.browser().post("/recovery", &[("username", "ada"), ("code", &codes[0])]).assert_status(303);
}

/// A cookie header; what cannot stand in one cannot be a token.
fn header(cookie: &str, value: &str) -> String {
    let visible: String = value.chars().filter(|c| c.is_ascii_graphic()).collect();
    format!("{cookie}={visible}")
}
