//! An authenticator made of software, for tests: it holds one passkey, and does as its fields say.

use super::relying_party::NOT_GOOD;
use crate::test::{Answer, Visitor};
use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub struct Authenticator {
    key: EcdsaKeyPair,
    id: Vec<u8>,
    /// The user's id, as the site gave it when the passkey was made.
    pub user: Vec<u8>,
    pub origin: String,
    pub site: String,
    /// Whether the page that asked was embedded in another site's.
    pub embedded: bool,
    /// Whether it asks for a finger or a PIN.
    pub verifies: bool,
    /// What it counts with each signature; 0 for one that does not count.
    pub counter: u32,
    /// Its make.
    pub aaguid: [u8; 16],
}

impl Authenticator {
    pub fn new() -> Authenticator {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random).unwrap();
        Authenticator {
            id: Sha256::digest(key.public_key()).to_vec(),
            key,
            user: Vec::new(),
            origin: "http://localhost:8000".into(),
            site: "localhost".into(),
            embedded: false,
            verifies: true,
            counter: 0,
            aaguid: [0; 16],
        }
    }

    /// One that counts what it signs.
    pub fn counting(counter: u32) -> Authenticator {
        Authenticator { counter, ..Authenticator::new() }
    }

    /// What `navigator.credentials.create` answers, as JSON.
    pub fn create(&mut self, options: &Value) -> Value {
        let options = &options["publicKey"];
        assert_eq!(options["authenticatorSelection"]["residentKey"], "required", "{options}");
        assert_eq!(options["authenticatorSelection"]["userVerification"], "required", "{options}");
        self.user = decode(&options["user"]["id"]);
        let made = self.made();
        let mut attestation = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        attestation.push(made.len() as u8);
        attestation.extend(made);
        json!({
            "id": encode(&self.id),
            "rawId": encode(&self.id),
            "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encode(&self.client_data("webauthn.create", options)),
                "attestationObject": encode(&attestation),
                "transports": ["internal"],
            },
        })
    }

    /// The authenticator data of a new passkey: its id and its public key, as COSE has it, after what every signature has too.
    fn made(&self) -> Vec<u8> {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let key = [b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20", x, b"\x22\x58\x20", y].concat();
        [&self.data(0x40), &self.aaguid[..], &(self.id.len() as u16).to_be_bytes(), &self.id, &key].concat()
    }

    /// What `navigator.credentials.get` answers, as JSON.
    pub fn get(&mut self, options: &Value) -> Value {
        let options = &options["publicKey"];
        assert_eq!(options["userVerification"], "required", "{options}");
        if self.counter > 0 {
            self.counter += 1;
        }
        let (data, client_data) = (self.data(0), self.client_data("webauthn.get", options));
        let signed = [&data[..], &Sha256::digest(&client_data)].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).unwrap();
        json!({
            "id": encode(&self.id),
            "rawId": encode(&self.id),
            "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encode(&client_data),
                "authenticatorData": encode(&data),
                "signature": encode(signature.as_ref()),
                "userHandle": encode(&self.user),
            },
        })
    }

    fn data(&self, flags: u8) -> Vec<u8> {
        const PRESENT: u8 = 0x01;
        const VERIFIED: u8 = 0x04;
        let flags = flags | PRESENT | if self.verifies { VERIFIED } else { 0 };
        [&Sha256::digest(&self.site)[..], &[flags], &self.counter.to_be_bytes()].concat()
    }

    fn client_data(&self, kind: &str, options: &Value) -> Vec<u8> {
        let (challenge, origin) = (&options["challenge"], &self.origin);
        let data = json!({ "type": kind, "challenge": challenge, "origin": origin, "crossOrigin": self.embedded });
        data.to_string().into()
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

fn decode(text: &Value) -> Vec<u8> {
    BASE64URL_NOPAD.decode(text.as_str().unwrap().as_bytes()).unwrap()
}

/// Asks for a challenge, and returns what the browser is to do.
pub async fn ask(visitor: &Visitor, path: &str, fields: Value) -> Value {
    let answer = post(visitor, path, &fields).await;
    serde_json::from_slice(&answer.assert_status(200).bytes).unwrap()
}

pub async fn post(visitor: &Visitor, path: &str, body: &Value) -> Answer {
    visitor.post_body(path, Some("application/json"), body.to_string().as_bytes()).await
}

impl Authenticator {
    /// Adds this passkey to the user who is logged in.
    pub async fn register(&mut self, visitor: &Visitor) -> Answer {
        let options = ask(visitor, "/account/passkeys/start", json!({})).await;
        post(visitor, "/account/passkeys/finish", &self.create(&options)).await
    }

    /// Adds this passkey, and expects no mistake.
    pub async fn registered(mut self, visitor: &Visitor) -> Authenticator {
        self.register(visitor).await.assert_status(200).assert_body(r#"{"next":"/account/passkeys"}"#);
        self
    }

    pub async fn log_in(&mut self, visitor: &Visitor) -> Answer {
        let options = ask(visitor, "/login/passkey/start", json!({})).await;
        post(visitor, "/login/passkey/finish", &self.get(&options)).await
    }

    pub async fn confirm(&mut self, visitor: &Visitor) -> Answer {
        let options = ask(visitor, "/confirm/passkey/start", json!({})).await;
        post(visitor, "/confirm/passkey/finish", &self.get(&options)).await
    }
}

/// Copies of the answer, in each of which one byte is changed: one for every byte of these parts of the `response`.
pub fn damaged(answer: &Value, parts: &[&str]) -> Vec<Value> {
    let mut damaged = Vec::new();
    for &part in parts {
        let whole = decode(&answer["response"][part]);
        for place in 0..whole.len() {
            let (mut bytes, mut other) = (whole.clone(), answer.clone());
            bytes[place] ^= 1;
            other["response"][part] = encode(&bytes).into();
            damaged.push(other);
        }
    }
    damaged
}

impl Answer {
    /// The same answer for every passkey that is refused, and nothing else.
    #[track_caller]
    pub fn assert_not_good(&self) {
        let body = json!({ "error": NOT_GOOD }).to_string();
        self.assert_status(422).assert_body(&body).assert_no_header("set-cookie");
    }
}
