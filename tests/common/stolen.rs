//! What a thief can try with a copy of the database.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use std::collections::BTreeSet;

/// Every value of a dump that might be a token, in every form in which it might be one.
pub fn tokens_in(dump: &[(String, String)]) -> BTreeSet<String> {
    dump.iter().flat_map(|(_, value)| encodings(value)).collect()
}

/// Every way to write a token that a person holds in base64.
pub fn encodings_of(token: &str) -> [String; 3] {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
    assert_eq!(bytes.len(), 32, "{token} is no token");
    [token.to_string(), BASE64_NOPAD.encode(&bytes), HEXLOWER.encode(&bytes)]
}

fn encodings(value: &str) -> Vec<String> {
    let mut encodings = vec![value.to_string()];
    if let Some(hex) = value.strip_prefix("\\x") {
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        encodings = vec![hex.to_string(), BASE64URL_NOPAD.encode(&bytes), BASE64_NOPAD.encode(&bytes)];
    }
    // The salt and the output of a hash are separated by `$`.
    encodings.extend(value.split('$').skip(1).map(|part| part.replace('+', "-").replace('/', "_")));
    encodings.retain(|encoding| encoding.len() >= 20);
    encodings
}

/// A `Cookie` header without the characters that cannot stand in one, and so in no token either.
pub fn cookie_header(name: &str, value: &str) -> String {
    let visible: String = value.chars().filter(|c| c.is_ascii_graphic()).collect();
    format!("{name}={visible}")
}
