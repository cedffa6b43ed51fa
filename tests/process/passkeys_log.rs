//! What strangers send in place of a passkey does not fill the log.
//! needs: passkeys
#![cfg(feature = "passkeys")]

use crate::common::{Answer, Connection, Server, Signal};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

fn post(server: &Server, path: &str, cookie: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::open(server.port).unwrap();
    connection.send(request).unwrap();
    connection.answer().unwrap()
}

/// Authenticator data that goes wrong where these flags lead: to a credential whose id is too long, or to extensions.
fn rubbish(flags: u8) -> Vec<u8> {
    let head = [&[0; 32][..], &[flags], &[0; 4], &[0; 16], &[0xff, 0xff]].concat();
    [&head[..], &[0xc8; 40_000]].concat()
}

#[test]
fn rubbish_in_place_of_a_passkey_is_hardly_logged() {
    let mut server = Server::start(&[("RUST_LOG", "warn,latchkey=info")]);
    for (number, flags) in [0x45, 0x85, 0xc5, 0xff].repeat(3).into_iter().enumerate() {
        let wanted = json!({ "username": format!("ada{number}") });
        let options = post(&server, "/signup/passkey/start", "", &wanted);
        let cookie = options.assert_status(200).header("set-cookie").unwrap().split(';').next().unwrap();
        let challenge = &serde_json::from_str::<Value>(&options.body).unwrap()["publicKey"]["challenge"];
        let client_data = json!({ "type": "webauthn.create", "challenge": challenge, "origin": server.url });
        let data = rubbish(flags);
        let attestation =
            [b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x59", &(data.len() as u16).to_be_bytes()[..], &data]
                .concat();
        let answer = json!({
            "id": "AAAA",
            "rawId": "AAAA",
            "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": BASE64URL_NOPAD.encode(client_data.to_string().as_bytes()),
                "attestationObject": BASE64URL_NOPAD.encode(&attestation),
            },
        });
        post(&server, "/signup/passkey/finish", cookie, &answer).assert_status(422);
    }
    server.signal(Signal::TERM);
    server.wait_for_exit(10);
    let log = server.stdout() + &server.stderr();
    assert!(log.len() < 2000, "{} bytes:\n{}", log.len(), &log[..2000]);
}
