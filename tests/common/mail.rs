//! A mail as it is transmitted, and what a person reads in it.

use super::address_of;
use data_encoding::BASE64;
use std::collections::BTreeSet;
use std::fmt;
use url::Url;

#[derive(Clone, Default, PartialEq)]
pub struct Mail {
    /// As the envelope has them.
    pub sender: String,
    pub recipients: Vec<String>,
    /// Head and body.
    pub data: String,
}

impl Mail {
    /// Whether it goes to this address and to no other, by its envelope and by its head.
    pub fn is_to(&self, address: &str) -> bool {
        let alone = self.header("to").is_some_and(|to| to.trim_matches(['<', '>']) == address);
        self.recipients == [address] && alone && self.header("cc").is_none() && self.header("bcc").is_none()
    }

    /// The value of its only header of this name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut found = headers(&self.data).0.into_iter().filter(|(header, _)| header == name);
        let value = found.next()?.1;
        assert!(found.next().is_none(), "two headers {name}:\n{self}");
        Some(value)
    }

    pub fn id(&self) -> String {
        self.header("message-id").unwrap_or_else(|| panic!("no Message-ID:\n{self}"))
    }

    /// Its part of this type, decoded.
    #[track_caller]
    pub fn part(&self, kind: &str) -> String {
        let (head, body) = headers(&self.data);
        let boundary = value(&head, "content-type").and_then(|kind| kind.split_once("boundary="));
        let boundary = boundary.unwrap_or_else(|| panic!("no parts:\n{self}")).1;
        let boundary = boundary.split(';').next().unwrap().trim_matches('"');
        let line = format!("--{boundary}");
        let mut parts = body.split(&line).map(|part| headers(part.trim_start()));
        let (head, body) = parts
            .find(|(head, _)| value(head, "content-type").is_some_and(|found| found.starts_with(kind)))
            .unwrap_or_else(|| panic!("no part {kind}:\n{self}"));
        let bytes = match value(&head, "content-transfer-encoding") {
            Some("base64") => BASE64.decode(body.replace("\r\n", "").as_bytes()).unwrap(),
            Some("quoted-printable") => quoted_printable(body),
            _ => body.into(),
        };
        String::from_utf8(bytes).unwrap()
    }

    pub fn text(&self) -> String {
        self.part("text/plain")
    }

    /// The link in its text that leads to this path and what follows it.
    pub fn find_link(&self, path: &str) -> Option<String> {
        let text = self.text();
        let mut words = text.split_whitespace().map(|word| word.trim_matches(['<', '>', '(', ')']));
        words.find(|word| word.starts_with("http") && word.contains(path)).map(String::from)
    }

    /// Path and query of that link, as one asks the site for them.
    #[track_caller]
    pub fn link(&self, path: &str) -> String {
        let link = self.find_link(path).unwrap_or_else(|| panic!("no link to {path}:\n{self}"));
        let url = Url::parse(&link).unwrap();
        url.path().to_string() + &url.query().map(|query| format!("?{query}")).unwrap_or_default()
    }
}

pub fn message_ids(mails: &[Mail]) -> BTreeSet<String> {
    mails.iter().map(Mail::id).collect()
}

/// Asserts that each of these people got one mail. Several with the same Message-ID are one.
#[track_caller]
pub fn assert_one_mail_each(mails: &[Mail], names: &[String]) {
    for name in names {
        let address = address_of(name);
        let own: Vec<Mail> = mails.iter().filter(|mail| mail.is_to(&address)).cloned().collect();
        assert_eq!(message_ids(&own).len(), 1, "not one mail to {address} but {}", own.len());
    }
}

impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mail { sender, recipients, data } = self;
        writeln!(f, "--- from {sender} to {recipients:?}\n{data}")
    }
}

type Headers = Vec<(String, String)>;

/// The headers, names in lower case and values unfolded, and what follows them.
fn headers(text: &str) -> (Headers, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let pairs = head.split("\r\n").filter_map(|line| line.split_once(':'));
    (pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string())).collect(), body)
}

fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(header, _)| header == name).map(|(_, value)| &**value)
}

/// RFC 2045, 6.7.
fn quoted_printable(text: &str) -> Vec<u8> {
    let text = text.replace("=\r\n", "");
    let mut pieces = text.split('=');
    let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend(rest.bytes());
    }
    bytes
}
