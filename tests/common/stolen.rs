//! What a thief can try with a copy of the database.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use std::collections::BTreeSet;

/// Every value of a dump that might be a token, in every form in which it might be one.
pub fn tokens_in(dump: &[(String, String)]) -> BTreeSet<String> {
    dump.iter().flat_map(|(_, value)| encodings(value)).collect()
}

/// Every way to write a token that a person holds in base64.
pub fn encodings_of(token: &str) -> [String; 3] {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
    assert_eq!(bytes.len(), 32, "{token} is no token");
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [token.to_string(), BASE64_STANDARD_NO_PAD.encode(&bytes), hex]
}

fn encodings(value: &str) -> Vec<String> {
    let mut encodings = vec![value.to_string()];
    if let Some(hex) = value.strip_prefix("\\x") {
        let bytes = unhex(hex);
        encodings = vec![hex.to_string(), BASE64_URL_SAFE_NO_PAD.encode(&bytes), BASE64_STANDARD_NO_PAD.encode(bytes)];
    }
    // The salt and the output of a hash are separated by `$`.
    encodings.extend(value.split('$').skip(1).map(|part| part.replace('+', "-").replace('/', "_")));
    encodings.retain(|encoding| encoding.len() >= 20);
    encodings
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// A `Cookie` header without the characters that cannot stand in one, and so in no token either.
pub fn cookie_header(name: &str, value: &str) -> String {
    let visible: String = value.chars().filter(|c| c.is_ascii_graphic()).collect();
    format!("{name}={visible}")
}
