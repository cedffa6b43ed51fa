//! A thief who has a copy of the database can open nothing with it.
//! needs: home, login, signup

use crate::common::{Browser, Database, PASSWORD, Server, cookie_header, encodings_of, routes, tokens_in};
use data_encoding::HEXLOWER;

/// Signs Ada and Bob up, and logs Ada in twice more and out once; returns their browsers.
fn people(server: &Server) -> Vec<Browser> {
    let mut browsers: Vec<Browser> = (0..4).map(|_| server.browser()).collect();
    let [ada, bob, phone, logged_out] = &mut browsers[..] else { unreachable!() };
    ada.sign_up("ada").assert_redirect("/");
    bob.sign_up("bob").assert_redirect("/");
    phone.post("/login", &[("username", "ada"), ("password", PASSWORD), ("stay", "on")]).assert_redirect("/");
    logged_out.log_in("ada").assert_redirect("/");
    logged_out.post("/logout", &[]).assert_redirect("/");
    logged_out.get("/login").assert_contains("You are logged out.");
    for name in ["ada", "bob", "nobody", "nobody@example.com"] {
        server.browser().log_in_with(name, "not the password").assert_status(422);
    }
    browsers
}

#[test]
fn nothing_in_the_database_opens_anything() {
    let database = Database::new();
    let server = Server::on(&database, &[("PASSWORD_DELAY", "1h"), ("RUST_LOG", "warn")]);
    let mut browsers = people(&server);
    // Others have no attempt left at Ada's password, so it works only with the cookie of a device she has used.
    for _ in 0..4 {
        server.browser().log_in_with("ada", "wrong").assert_status(422);
    }
    server.browser().log_in("ada").assert_status(429);

    let dump = database.dump();
    for name in ["users.id", "passwords.hash", "sessions.token_hash", "devices.token_hash", "limits.key"] {
        assert!(dump.iter().any(|(found, _)| found == name), "{name} is missing");
    }
    let tokens = tokens_in(&dump);
    let mut eve = server.browser();
    eve.sign_up("eve").assert_redirect("/");
    println!("{} values", tokens.len());
    let token_routes: Vec<_> = routes().into_iter().filter(|route| route.path.contains("{token}")).collect();
    for token in &tokens {
        server.browser().with_header("Cookie", &cookie_header("session_token", token)).assert_logged_out();
        server.browser().with_header("Cookie", &cookie_header("device", token)).log_in("ada").assert_status(429);
        let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
        for route in &token_routes {
            let path = route.path.replace("{token}", &encoded.replace('+', "%20"));
            // Some can be used only by somebody who is logged in.
            let (mut visitor, is_public) = (server.browser(), route.access == "public");
            let thief = if is_public { &mut visitor } else { &mut eve };
            let answer = if route.method == "GET" { thief.get(&path) } else { thief.post(&path, &[]) };
            answer.assert_status(404);
        }
    }

    // No password is in it, as text or as bytes.
    let hex = HEXLOWER.encode(PASSWORD.as_bytes());
    let found = dump.iter().find(|(_, stored)| stored.contains(PASSWORD) || stored.contains(&hex));
    assert_eq!(found, None);
    // No cookie of a browser is in it, in any encoding.
    for browser in &browsers {
        for (name, value) in browser.cookies() {
            for encoding in encodings_of(value) {
                let found = dump.iter().find(|(_, stored)| stored.contains(&encoding));
                assert_eq!(found, None, "{name}={encoding}");
            }
        }
    }
    let live = browsers.iter().filter(|browser| browser.cookies().contains_key("session_token")).count();
    assert_eq!(live, 3);
    // The real ones still work.
    browsers[0].assert_logged_in("ada");
    browsers[1].assert_logged_in("bob");
    browsers[2].assert_logged_in("ada");
    browsers[3].log_in("ada").assert_redirect("/");
}
