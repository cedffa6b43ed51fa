//! What a request says about the copy that its client has, and about the encodings that it reads (RFC 9110).

use axum::http::header::{ACCEPT_ENCODING, HeaderName, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// The encoding to answer in, where gzip is the better one. `None` when the client takes neither. What is malformed does not
/// count (section 12.5.3).
pub fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let any = weight(headers, "*");
    // An old name that means the same (section 8.4.1.3).
    let gzip = weight(headers, "gzip").max(weight(headers, "x-gzip")).or(any).unwrap_or(0);
    let identity = weight(headers, "identity").or(any);
    match identity {
        _ if gzip > 0 && Some(gzip) >= identity => Some(Encoding::Gzip),
        Some(0) => None,
        _ => Some(Encoding::Identity),
    }
}

/// How much the client wants this coding, in thousandths. `None` when it does not say so.
fn weight(headers: &HeaderMap, coding: &str) -> Option<u16> {
    let lines: Vec<_> = lines(headers, ACCEPT_ENCODING).collect();
    let weights = lines.iter().flat_map(|line| elements(line)).filter_map(|element| {
        let (name, weight) = element.split_once(';').unwrap_or((element, "q=1"));
        let (q, value) = weight.trim().split_once('=')?;
        let is_meant = name.trim().eq_ignore_ascii_case(coding) && q.eq_ignore_ascii_case("q");
        is_meant.then(|| thousandths(value)).flatten()
    });
    weights.max()
}

/// A weight from 0 to 1 with at most three decimals (section 12.4.2).
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let decimals = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1000),
        _ => None,
    }
}

/// Whether the client has the version with this tag (section 13.1.2). Proxies that compress make a weak tag of it, and some
/// add a suffix: `"TAG-gzip"`.
pub fn has_version(headers: &HeaderMap, tag: &str) -> bool {
    let is_it = |element: &str| {
        let quoted = element.strip_prefix("W/").unwrap_or(element);
        let opaque = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let suffix = opaque.and_then(|opaque| opaque.strip_prefix(tag));
        suffix.is_some_and(|suffix| is_opaque(suffix) && !suffix.starts_with(char::is_alphanumeric))
    };
    lines(headers, IF_NONE_MATCH).any(|line| line.trim() == "*" || elements(&line).any(is_it))
}

/// Whether all of these may stand in a tag (section 8.8.3).
fn is_opaque(text: &str) -> bool {
    text.chars().all(|c| c == '!' || c > '"' && c != '\x7f')
}

/// A header may come in several lines, which count as one list.
fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Cow<'_, str>> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).map(String::from_utf8_lossy)
}

/// The elements of a list. Those in quotes may have commas.
fn elements(line: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    let is_end = move |c: char| {
        in_quotes ^= c == '"';
        c == ',' && !in_quotes
    };
    line.split(is_end).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn a_client_has_a_version_when_one_of_its_tags_is_the_same_by_the_weak_comparison() {
        for (lines, expected) in [
            (&[][..], false),
            (&["\"abc\""], true),
            (&["W/\"abc\""], true),
            (&["*"], true),
            (&[" * "], true),
            (&["\"x\", W/\"abc\""], true),
            (&["\"a,b\",\"abc\""], true),
            (&[", ,\"x\",,\t\"abc\" ,"], true),
            (&["\"x\"", "\"abc\""], true),
            (&["\"ü\", \"abc\""], true),
            (&["abc, \"abc\""], true),
            (&["\"abc-gzip\""], true),
            (&["W/\"abc--gzip\""], true),
            (&["\"abc;br\""], true),
            (&["\"x-gzip\", \"abc-gzip\""], true),
            (&["\"abcd\""], false),
            (&["\"ABC\""], false),
            (&["\"xabc\""], false),
            (&["\"\""], false),
            (&["\"x,abc\""], false),
            (&["\"x,\"abc\",\""], false),
            (&["abc"], false),
            (&["\"abc"], false),
            (&["abc\""], false),
            (&["w/\"abc\""], false),
            (&["W/ \"abc\""], false),
            (&["\"abc\" \"abc\""], false),
            (&["\"abc\"-gzip"], false),
            (&["\"*\""], false),
            (&["**"], false),
        ] {
            assert_eq!(has_version(&headers(IF_NONE_MATCH, lines), "abc"), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_encoding_is_the_one_that_the_client_prefers() {
        const IDENTITY: Option<Encoding> = Some(Encoding::Identity);
        const GZIP: Option<Encoding> = Some(Encoding::Gzip);
        for (lines, expected) in [
            (&[][..], IDENTITY),
            (&[""], IDENTITY),
            (&["gzip"], GZIP),
            (&["GZip"], GZIP),
            (&["x-gzip"], GZIP),
            (&["deflate, br,gzip"], GZIP),
            (&["br", "gzip"], GZIP),
            (&["br;q=1.0 , gzip ; q=0.001"], GZIP),
            (&["gzip;Q=0.5"], GZIP),
            (&["gzip;q=1.000"], GZIP),
            (&["gzip;q=0."], IDENTITY),
            (&["gzip;q=0"], IDENTITY),
            (&["gzip; q=0.000"], IDENTITY),
            (&["*"], GZIP),
            (&["*;q=0.1"], GZIP),
            (&["*, gzip;q=0"], IDENTITY),
            (&["gzip;q=0.2, *"], IDENTITY),
            (&["gzip, *;q=0"], GZIP),
            (&["identity, gzip;q=0.5"], IDENTITY),
            (&["identity;q=0.5, gzip;q=0.5"], GZIP),
            (&["identity;q=0, gzip;q=0.1"], GZIP),
            (&["br"], IDENTITY),
            (&["gzipped, xgzip, gzi"], IDENTITY),
            (&["gzip;q=1.001"], IDENTITY),
            (&["gzip;q=0.1234"], IDENTITY),
            (&["gzip;q=-1"], IDENTITY),
            (&["gzip;q="], IDENTITY),
            (&["gzip;q =1"], IDENTITY),
            (&["gzip;level=1"], IDENTITY),
            (&["gzip;q=1;q=1"], IDENTITY),
            (&["gzip;q=x, *;q=0.5"], GZIP),
            (&["*;q=0"], None),
            (&["identity;q=0"], None),
            (&["br, identity;q=0"], None),
            (&["gzip;q=0, identity;q=0"], None),
            (&["gzip;q=0", "*;q=0"], None),
        ] {
            assert_eq!(encoding(&headers(ACCEPT_ENCODING, lines)), expected, "{lines:?}");
        }
    }
}
