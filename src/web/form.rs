//! What requests bring: [`Form`] from a browser, [`Json`] from a script, [`Query`] from the address.
//!
//! Both encodings of browsers are understood. Nothing is guessed: text that is not UTF-8, a field sent twice and a file
//! are refused, because parsers that disagree about them let attackers get values past checks. An unknown field is
//! ignored. Blank and missing fields are treated alike: both become the default, such as `""` or `None`.

use super::format::url_encode;
use crate::base::{Error, Result};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// JSON that a script has sent, or is answered.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>> {
        let content_type = content_type(request.headers());
        let body = Bytes::from_request(request, state).await.map_err(|_| Error::MALFORMED)?;
        let json: &[u8] = match content_type.as_deref() {
            None if body.is_empty() => b"{}",
            Some(kind) if is(kind, "application/json", &body) => &body[..],
            _ => return Err(Error::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
        };
        serde_json::from_slice(json).map(Json).map_err(|_| Error::MALFORMED)
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_string())
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Error::Fault(error.into()).into_response(),
        }
    }
}

/// The fields of a form, as a struct with `#[serde(default)]`.
pub struct Form<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Form<T>> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from_request(Request::new(body), state).await.map_err(|_| Error::MALFORMED)?;
        present(fields(&parts.headers, body).await?).map(Form).map_err(|_| Error::MALFORMED)
    }
}

/// The fields of a form in either encoding.
///
/// # Errors
/// As [`Form`].
pub async fn fields(headers: &HeaderMap, body: Bytes) -> Result<BTreeMap<String, String>> {
    match content_type(headers).as_deref() {
        None if body.is_empty() => Ok(BTreeMap::new()),
        Some(kind) if is(kind, "application/x-www-form-urlencoded", &body) => urlencoded(&body),
        Some(kind) if is(kind, "multipart/form-data", &body) => multipart(kind, body).await,
        _ => Err(Error::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

/// A form or JSON without fields. Extracting it refuses a body of another kind.
#[derive(Deserialize)]
pub struct Empty {}

/// The parameters of the address, as a struct with `#[serde(default)]`. A query that cannot be read counts as empty.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequestParts<S> for Query<T> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, Infallible> {
        Ok(Query(parse_query(parts.uri.query())))
    }
}

pub fn parse_query<T: DeserializeOwned + Default>(query: Option<&str>) -> T {
    let fields = urlencoded(query.unwrap_or_default().as_bytes());
    fields.ok().and_then(|fields| present(fields).ok()).unwrap_or_default()
}

/// `?name=value&…`
pub fn encode_query(parameters: &BTreeMap<String, String>) -> String {
    let pair = |(name, value): (&String, &String)| format!("{}={}", url_encode(name), url_encode(value));
    format!("?{}", parameters.iter().map(pair).collect::<Vec<_>>().join("&"))
}

/// The fields that are not empty.
fn present<T: DeserializeOwned>(fields: BTreeMap<String, String>) -> serde_json::Result<T> {
    let present = fields.into_iter().filter(|(_, value)| !value.is_empty());
    T::deserialize(Value::Object(present.map(|(name, value)| (name, Value::String(value))).collect()))
}

/// The first field of this name that is not blank, of a form or of JSON, and whether it is JSON. Whatever else is in the
/// body is left to its handler, which may take files.
pub async fn find_field(headers: &HeaderMap, body: &Bytes, name: &str) -> Option<(String, bool)> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let found = if is(kind, "application/x-www-form-urlencoded", body) {
        let mut fields = body.split(|&byte| byte == b'&').filter_map(|pair| name_and_value(pair).ok());
        fields.find(|(found, _)| found == name)?.1
    } else if is(kind, "multipart/form-data", body) {
        let mut parts = parts(kind, body.clone()).ok()?;
        loop {
            let part = parts.next_field().await.ok()??;
            if part.name() == Some(name) {
                break part.text().await.ok()?;
            }
        }
    } else if is(kind, "application/json", body) {
        match serde_json::from_slice::<BTreeMap<String, Value>>(body).ok()?.remove(name)? {
            Value::Null => return None,
            Value::String(text) => text,
            other => other.to_string(),
        }
    } else {
        return None;
    };
    (!found.is_empty()).then(|| (found, is(kind, "application/json", body)))
}

/// Whether this body is of the kind, and is text in UTF-8. ASCII is that too.
fn is(content_type: &str, kind: &str, body: &[u8]) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let foreign = |parameter: &str| {
        let (name, charset) = parameter.split_once('=').unwrap_or_default();
        let charset = charset.trim_matches(['"', ' ']).to_ascii_lowercase();
        name.trim().eq_ignore_ascii_case("charset")
            && !matches!((&*charset, body.is_ascii()), ("utf-8" | "utf8", _) | ("us-ascii", true))
    };
    parts.next().unwrap_or_default().eq_ignore_ascii_case(kind) && !parts.any(foreign)
}

fn urlencoded(body: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for pair in body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let (name, value) = name_and_value(pair)?;
        insert(&mut fields, name, value)?;
    }
    Ok(fields)
}

fn name_and_value(pair: &[u8]) -> Result<(String, String)> {
    let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
    Ok((decode(&pair[..equals])?, decode(pair.get(equals + 1..).unwrap_or_default())?))
}

/// One name or value of a query or an urlencoded form.
fn decode(text: &[u8]) -> Result<String> {
    let spaced: Vec<u8> = text.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Ok(percent_decode(&spaced).decode_utf8().map_err(|_| Error::MALFORMED)?.into_owned())
}

fn parts(content_type: &str, body: Bytes) -> Result<multer::Multipart<'static>> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| Error::MALFORMED)?;
    let whole = futures_util::stream::once(async { Ok::<_, Infallible>(body) });
    Ok(multer::Multipart::new(whole, boundary))
}

async fn multipart(content_type: &str, body: Bytes) -> Result<BTreeMap<String, String>> {
    let mut parts = parts(content_type, body)?;
    let mut fields = BTreeMap::new();
    while let Some(part) = parts.next_field().await.map_err(|_| Error::MALFORMED)? {
        let (name, headers) = (part.name().map(str::to_string), part.headers().clone());
        let value = part.bytes().await.map_err(|_| Error::MALFORMED)?.to_vec();
        let name = name.filter(|_| is_plain(&headers, &value)).ok_or(Error::MALFORMED)?;
        insert(&mut fields, name, String::from_utf8(value).map_err(|_| Error::MALFORMED)?)?;
    }
    Ok(fields)
}

/// Whether a part is the text of a field, as browsers and mail libraries send it: no file, and its bytes are the text.
fn is_plain(headers: &HeaderMap, value: &[u8]) -> bool {
    let all = |name: &str, is_good: &dyn Fn(&str) -> bool| {
        headers.get_all(name).iter().all(|value| is_good(value.to_str().unwrap_or("?").to_ascii_lowercase().trim()))
    };
    let is_named = |disposition: &str| {
        let mut parameters = disposition.split(';').map(str::trim);
        parameters.next() == Some("form-data")
            && parameters.next().is_some_and(|parameter| parameter.starts_with("name="))
            && parameters.next().is_none()
    };
    all("content-disposition", &is_named)
        && all("content-type", &|kind| is(kind, "text/plain", value))
        && all("content-transfer-encoding", &|encoding| ["7bit", "8bit", "binary"].contains(&encoding))
}

fn insert(fields: &mut BTreeMap<String, String>, name: String, value: String) -> Result<()> {
    match fields.insert(name, value) {
        None => Ok(()),
        Some(_) => Err(Error::MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use crate::web::{Access, Routes};

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Greeting {
        name: String,
        wish: Option<String>,
    }

    async fn greet(Form(form): Form<Greeting>) -> String {
        format!("{}/{:?}", form.name, form.wish)
    }

    async fn greet_again(Query(query): Query<Greeting>) -> String {
        format!("{}/{:?}", query.name, query.wish)
    }

    async fn app() -> TestApp {
        let routes = Routes::new().get("/greet", Access::Public, greet_again);
        TestApp::with(routes.post("/greet", Access::Public, greet)).await
    }

    const URLENCODED: &str = "application/x-www-form-urlencoded";

    #[tokio::test]
    async fn both_encodings_carry_the_same_text() {
        let app = app().await;
        let fields = [("name", "Zoë & Łukasz = +%41\r\n"), ("wish", "🗝")];
        let urlencoded = app.visitor().post("/greet", &fields).await;
        let multipart = app.visitor().post_multipart("/greet", &fields).await;
        urlencoded.assert_status(200).assert_body("Zoë & Łukasz = +%41\r\n/Some(\"🗝\")");
        multipart.assert_status(200).assert_body(&urlencoded.text());
    }

    #[tokio::test]
    async fn a_field_left_blank_is_absent_and_an_unknown_one_is_ignored() {
        let app = app().await;
        app.visitor().post("/greet", &[("wish", ""), ("admin", "1")]).await.assert_body("/None");
        app.visitor().post_body("/greet", None, b"").await.assert_status(200).assert_body("/None");
    }

    #[tokio::test]
    async fn what_could_be_read_in_two_ways_is_refused() {
        let app = app().await;
        let file = b"--x\r\nContent-Disposition: form-data; name=\"name\"; filename=\"a.txt\"\r\n\r\nada\r\n--x--\r\n";
        let bytes = b"--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n\xff\r\n--x--\r\n";
        let twice = b"--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\na\r\n--x\r\n\
                      Content-Disposition: form-data; name=\"name\"\r\n\r\nb\r\n--x--\r\n";
        for disguised in [
            "form-data; name=\"name\"; filename*=UTF-8''a.txt\r\n\r\nada",
            "form-data; name=\"name\"; FILENAME=\"a\"\r\n\r\nada",
            "form-data; name=\"name\"; name=\"wish\"\r\n\r\nada",
            "attachment; name=\"name\"\r\n\r\nada",
            "form-data; name=\"name\"\r\nContent-Type: application/octet-stream\r\n\r\nada",
            "form-data; name=\"name\"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\nada",
            "form-data; name=\"name\"\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nZoë",
            "form-data; name=\"name\"\r\nContent-Type: text/plain; charset=utf-8; charset=latin1\r\n\r\nada",
            "form-data; name=\"name\"\r\nContent-Type: text/plain\r\nContent-Type: text/html\r\n\r\nada",
            "form-data; name=\"name\"\r\nContent-Transfer-Encoding: base64\r\n\r\nYWRh",
            "form-data; name=\"name\"\r\nContent-Transfer-Encoding: Quoted-Printable\r\n\r\n=61da",
            "form-data; name=\"name\"\r\nContent-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64\r\n\r\nYWRh",
            "form-data; name=\"name\"\r\nContent-Transfer-Encoding:\r\n\r\nada",
        ] {
            let body = format!("--x\r\nContent-Disposition: {disguised}\r\n--x--\r\n");
            let kind = Some("multipart/form-data; boundary=x");
            app.visitor().post_body("/greet", kind, body.as_bytes()).await.assert_status(400);
        }
        for (kind, body) in [
            (URLENCODED, &b"name=%FF"[..]),
            (URLENCODED, b"name=\xff"),
            (URLENCODED, b"name=ada&name=bob"),
            (URLENCODED, b"name=ada&%6eame=bob"),
            ("multipart/form-data; boundary=x", file),
            ("multipart/form-data; boundary=x", bytes),
            ("multipart/form-data; boundary=x", twice),
            ("multipart/form-data; boundary=x", b"--x\r\nno end"),
            ("multipart/form-data", b"--x--\r\n"),
        ] {
            app.visitor().post_body("/greet", Some(kind), body).await.assert_status(400);
        }
    }

    #[tokio::test]
    async fn libraries_may_say_that_a_part_is_sent_as_it_is_and_in_which_letters_they_like() {
        let app = app().await;
        for headers in [
            "Content-Transfer-Encoding: 8bit\r\n",
            "Content-Transfer-Encoding: BINARY\r\n",
            "content-transfer-encoding:  8Bit \r\n",
            "Content-Transfer-Encoding: 7bit\r\nContent-Type: TEXT/PLAIN\r\n",
            "Content-Type: text/plain; charset=utf8\r\nContent-Transfer-Encoding: binary\r\n",
            "Content-Type: text/plain;charset=UTF8\r\n",
            "Content-Type: text/plain; format=flowed; Charset=\"utf-8\"\r\n",
            "Content-Type: text/plain; charset=\"UTF8\"\r\n",
        ] {
            let body = format!("--x\r\nContent-Disposition: form-data; name=\"name\"\r\n{headers}\r\nZoë\r\n--x--\r\n");
            for kind in ["multipart/form-data; boundary=x", "multipart/form-data; charset=utf8; boundary=\"x\""] {
                let answer = app.visitor().post_body("/greet", Some(kind), body.as_bytes()).await;
                answer.assert_status(200).assert_body("Zoë/None");
            }
        }
        let ascii = "--x\r\nContent-Disposition: form-data; name=\"name\"\r\nContent-Type: text/plain; charset=US-ASCII\r\n\
                     Content-Transfer-Encoding: 7Bit\r\n\r\nada\r\n--x--\r\n";
        let kind = Some("multipart/form-data; boundary=x");
        app.visitor().post_body("/greet", kind, ascii.as_bytes()).await.assert_status(200).assert_body("ada/None");
        for kind in
            ["application/x-www-form-urlencoded; charset=utf8", "application/x-www-form-urlencoded;charset=\"UTF-8\""]
        {
            app.visitor().post_body("/greet", Some(kind), b"name=Zo%C3%AB").await.assert_body("Zoë/None");
        }
    }

    #[tokio::test]
    async fn other_formats_are_415() {
        let app = app().await;
        for kind in [
            Some("application/json"),
            Some("text/plain"),
            Some("application/x-www-form-urlencoded; charset=utf-16"),
            None,
        ] {
            app.visitor().post_body("/greet", kind, b"name=ada").await.assert_status(415);
        }
    }

    #[tokio::test]
    async fn a_query_that_cannot_be_read_is_an_empty_one() {
        let app = app().await;
        for (query, answer) in [
            ("?name=Zo%C3%AB+%26+%2B&wish=a%3Db&admin=1", "Zoë & +/Some(\"a=b\")"),
            ("?name=&wish=", "/None"),
            ("", "/None"),
            ("?", "/None"),
            ("?name=%FF&wish=luck", "/None"),
            ("?name=ada&name=bob", "/None"),
            ("?name=ada&%6eame=bob", "/None"),
        ] {
            app.visitor().get(&format!("/greet{query}")).await.assert_status(200).assert_body(answer);
        }
    }

    #[tokio::test]
    async fn a_script_sends_json_and_nothing_else() {
        async fn shout(Json(greeting): Json<Greeting>) -> Json<String> {
            Json(greeting.name.to_uppercase())
        }
        let app = TestApp::with(Routes::new().post("/shout", Access::Public, shout)).await;
        let json = Some("application/json");
        let answer = app.visitor().post_body("/shout", json, br#"{"name":"ada"}"#).await;
        answer.assert_status(200).assert_header("content-type", "application/json").assert_body("\"ADA\"");
        app.visitor().post_body("/shout", None, b"").await.assert_status(200).assert_body("\"\"");
        app.visitor().post_body("/shout", json, b"{").await.assert_status(400);
        app.visitor().post_body("/shout", json, br#"{"name":1}"#).await.assert_status(400);
        app.visitor().post("/shout", &[("name", "ada")]).await.assert_status(415);
    }
}
