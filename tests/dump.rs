//! Whoever has a copy of the database can open nothing with what stands in it.
//! needs: change_password, login, members, notes, signup
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
    let live = browsers.iter().filter(|browser| browser.cookies().contains_key("session_token")).count();
    assert_eq!(live, 3);
    // All this time the real ones work.
    browsers[0].get("/me").assert_redirect("/user/ada");
    browsers[1].get("/me").assert_redirect("/user/bob");
    browsers[2].get("/me").assert_redirect("/user/ada");
    browsers[3].log_in("ada").assert_redirect("/");
}

/// A cookie header; what cannot stand in one cannot be a token.
fn header(cookie: &str, value: &str) -> String {
    let visible: String = value.chars().filter(|c| c.is_ascii_graphic()).collect();
    format!("{cookie}={visible}")
}
