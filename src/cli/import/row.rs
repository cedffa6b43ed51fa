//! Checks what a line says about a user.

use super::file::Fields;
use crate::accounts::password::cost;
use crate::accounts::{Email, Username};
use crate::base::FieldErrors;
use serde_json::Value;
use std::collections::HashMap;

/// A user to be made.
pub struct Row {
    /// The number of the line.
    pub line: u64,
    pub username: Username,
    pub email: Option<Email>,
    /// Whether the address is known to be the user's.
    pub is_confirmed: bool,
    pub hash: Option<String>,
    /// The names of groups.
    pub groups: Vec<String>,
}

impl Row {
    /// # Errors
    /// What is wrong with each field.
    pub fn parse(line: u64, fields: Fields, site_name: &str) -> Result<Row, String> {
        let mut errors = FieldErrors::default();
        let username = Username::parse(&fields.username).and_then(|name| name.unreserved(site_name));
        let username = errors.check("username", username);
        let given = |field: Option<String>| field.filter(|text| !text.is_empty());
        let email = given(fields.email).map(|text| Email::parse(&text)).transpose();
        let email = errors.check("email", email).flatten();
        let is_confirmed = errors.check("confirmed", parse_confirmed(&fields.confirmed)).unwrap_or_default();
        let hash = given(fields.hash);
        errors.check("hash", hash.as_deref().map_or(Ok(()), cost::check));
        let groups = errors.check("groups", parse_groups(&fields.groups)).unwrap_or_default();
        if is_confirmed && email.is_none() {
            errors.add("confirmed", "There is no address that could be confirmed.");
        }
        match username {
            Some(username) if errors.iter().next().is_none() => {
                Ok(Row { line, username, email, is_confirmed, hash, groups })
            }
            _ => {
                let sentences = errors.iter().map(|(field, sentence)| format!("{field}: {sentence}"));
                Err(sentences.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// As people and databases write it.
fn parse_confirmed(value: &Value) -> Result<bool, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_ascii_lowercase);
    match &*text {
        "true" | "t" | "yes" | "1" => Ok(true),
        "false" | "f" | "no" | "0" | "" | "null" => Ok(false),
        _ => Err("Write true or false, yes or no, 1 or 0.".into()),
    }
}

/// A list, or names with spaces or commas between them.
fn parse_groups(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "Write a list of names, or names with spaces between them.".to_string();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(names) => {
            Ok(names.split([' ', ',']).filter(|name| !name.is_empty()).map(str::to_lowercase).collect())
        }
        Value::Array(names) => {
            names.iter().map(|name| name.as_str().map(str::to_lowercase).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// The names and addresses of the lines so far.
#[derive(Default)]
pub struct Seen {
    /// With the number of their line.
    names: HashMap<String, u64>,
    /// With whether they are confirmed there.
    addresses: HashMap<String, (u64, bool)>,
}

impl Seen {
    /// Adds a row.
    ///
    /// # Errors
    /// When its name is on an earlier line, or its address, confirmed on either line.
    pub fn add(&mut self, row: &Row) -> Result<(), String> {
        if let Some(line) = self.names.insert(row.username.as_str().into(), row.line) {
            return Err(format!("The name {} is on line {line} too.", row.username));
        }
        let Some(email) = &row.email else { return Ok(()) };
        let earlier = self.addresses.insert(email.as_str().into(), (row.line, row.is_confirmed));
        match earlier {
            Some((line, was_confirmed)) if was_confirmed || row.is_confirmed => {
                Err(format!("The address {} is on line {line} too, and only one of them can have it.", email.as_str()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(line: u64, value: Value) -> Result<Row, String> {
        Row::parse(line, serde_json::from_value(value).unwrap(), "Acme Corp")
    }

    fn refusal(value: Value) -> String {
        row(1, value.clone()).err().unwrap_or_else(|| panic!("{value} is accepted"))
    }

    #[test]
    fn names_and_addresses_have_the_form_that_they_get_at_a_sign_up() {
        let ada = json!({ "username": "Ada", "email": "Ada@münchen.de", "confirmed": true, "groups": ["staff", "b"] });
        let ada = row(7, ada).unwrap();
        let email = ada.email.unwrap();
        assert_eq!((ada.line, ada.username.as_str(), email.as_str()), (7, "ada", "ada@xn--mnchen-3ya.de"));
        assert!(ada.is_confirmed && ada.hash.is_none() && ada.groups == ["staff", "b"]);
        let bob = row(8, json!({ "username": "bob", "email": "", "hash": "", "groups": " staff, b" })).unwrap();
        assert!(bob.email.is_none() && !bob.is_confirmed && bob.hash.is_none() && bob.groups == ["staff", "b"]);
    }

    #[test]
    fn whether_an_address_is_confirmed_is_read_as_people_and_databases_write_it() {
        let read = |confirmed: Value| row(1, json!({ "username": "ada", "email": "a@b.com", "confirmed": confirmed }));
        for yes in [json!(true), json!("true"), json!("Yes"), json!(1), json!("1"), json!("t")] {
            assert!(read(yes.clone()).unwrap().is_confirmed, "{yes}");
        }
        for no in [json!(false), json!("FALSE"), json!("no"), json!(0), json!("0"), json!("f"), json!(""), json!(null)]
        {
            assert!(!read(no.clone()).unwrap().is_confirmed, "{no}");
        }
        for wrong in [json!("maybe"), json!(2), json!([true]), json!("2024-01-01"), json!(" ")] {
            assert!(
                read(wrong.clone()).is_err_and(|said| said.starts_with("confirmed: Write true or false")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn every_mistake_of_a_line_is_named() {
        for (wrong, reason) in [
            (json!({}), "username: Please choose"),
            (json!({ "username": "Zoë" }), "username: A username can only have letters"),
            (json!({ "username": "a".repeat(21) }), "at most 20"),
            (json!({ "username": "admin" }), "username: This name is reserved"),
            (json!({ "username": "AcmeCorp" }), "username: This name is reserved"),
            (json!({ "username": "ada", "email": "ada" }), "email: This does not look like"),
            (json!({ "username": "ada", "email": "ada@example.com\nBcc: b@c.com" }), "email: This does not look like"),
            (json!({ "username": "ada", "confirmed": true }), "confirmed: There is no address"),
            (json!({ "username": "ada", "hash": "quiet harbour lamp" }), "hash: This is not a hash of a known kind"),
            (json!({ "username": "ada", "hash": "pbkdf2_sha256$9$salt$hash" }), "hash: This hash is damaged"),
            (json!({ "username": "ada", "groups": 5 }), "groups: Write a list"),
            (json!({ "username": "ada", "groups": [5] }), "groups: Write a list"),
        ] {
            let said = refusal(wrong);
            assert!(said.contains(reason) && !said.contains("quiet"), "{said}");
        }
        let said = refusal(json!({ "username": "a b", "email": "c", "confirmed": "d", "hash": "e" }));
        assert!(["username: ", "email: ", "confirmed: ", "hash: "].iter().all(|field| said.contains(field)), "{said}");
    }

    #[test]
    fn two_lines_share_no_name_and_no_confirmed_address() {
        let mut seen = Seen::default();
        let mut add = |line: u64, name: &str, email: &str, confirmed: bool| {
            let value = json!({ "username": name, "email": email, "confirmed": confirmed });
            seen.add(&row(line, value).unwrap())
        };
        add(2, "ada", "ada@example.com", true).unwrap();
        add(3, "bob", "shared@example.com", false).unwrap();
        // Whose it is will be known when somebody confirms it.
        add(4, "carol", "shared@example.com", false).unwrap();
        add(5, "dora", "", false).unwrap();
        add(6, "emil", "", false).unwrap();
        assert_eq!(add(7, "ADA", "", false).unwrap_err(), "The name ada is on line 2 too.");
        let said = add(8, "finn", "ADA@example.com", false).unwrap_err();
        assert!(said.starts_with("The address ada@example.com is on line 2 too"), "{said}");
        assert!(add(9, "gina", "shared@example.com", true).unwrap_err().contains("line 4"));
    }
}
