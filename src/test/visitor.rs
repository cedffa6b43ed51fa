//! A [`Visitor`] is a browser: it keeps cookies, but follows no redirect by itself.

use crate::base::token::Token;
use crate::server::site::Site;
use ::cookie::Cookie;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, Method};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

/// A browser.
#[derive(Clone)]
pub struct Visitor {
    pub site: Site,
    pub cookies: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Visitor {
    pub fn with_cookie(self, name: &str, value: &str) -> Visitor {
        self.cookies.lock().unwrap().insert(name.into(), value.into());
        self
    }

    /// As a browser in which another app on this host has set a cookie of this name too, for a narrower path: it is sent
    /// first, and stays.
    pub fn with_foreign_cookie(self, name: &str, value: &str) -> Visitor {
        self.with_cookie("another", &format!("app; {name}={value}"))
    }

    pub fn without_cookie(self, name: &str) -> Visitor {
        self.cookies.lock().unwrap().remove(name);
        self
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().unwrap().get(name).cloned()
    }

    /// Another browser with the same cookies, such as a thief's.
    pub fn copy(&self) -> Visitor {
        Visitor { cookies: Arc::new(Mutex::new(self.cookies.lock().unwrap().clone())), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, "").await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.post_with(path, fields, &[]).await
    }

    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, path, &[&kind, headers].concat(), body).await
    }

    pub async fn post_multipart(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let part = |(name, value): &(&str, &str)| {
            format!("--boundary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let body = fields.iter().map(part).collect::<String>() + "--boundary--\r\n";
        self.send(Method::POST, path, &[("content-type", "multipart/form-data; boundary=boundary")], body).await
    }

    pub async fn post_body(&self, path: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
        let headers: Vec<_> = content_type.map(|kind| (CONTENT_TYPE.as_str(), kind)).into_iter().collect();
        self.send(Method::POST, path, &headers, body.to_vec()).await
    }

    /// Any request at all. Its cookies and its `Host`, unless one is given, are the visitor's.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(path.replace(' ', "%20"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !headers.iter().any(|(name, _)| HOST == *name) {
            request = request.header(HOST, self.site.app.config.base_url.host_str().unwrap());
        }
        let cookies: Vec<String> =
            self.cookies.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        let mut request = request.body(body.into()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 4000))));
        let response = self.site.answer(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        self.keep(&parts.headers);
        Answer { request: format!("{method} {path}"), status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    fn keep(&self, headers: &HeaderMap) {
        let mut cookies = self.cookies.lock().unwrap();
        for cookie in headers.get_all(SET_COOKIE).iter().map(|value| Cookie::parse(value.to_str().unwrap()).unwrap()) {
            if cookie.max_age().is_some_and(|age| age.is_zero()) {
                cookies.remove(cookie.name());
            } else {
                cookies.insert(cookie.name().into(), cookie.value().into());
            }
        }
    }

    /// Asks the app who is logged in here.
    #[track_caller]
    pub fn assert_is(&self, name: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.get("/whoami").await.assert_status(200).text();
            assert_eq!(answer, name, "at {caller}");
        }
    }
}

/// What came back. Every assertion that fails prints it whole.
pub struct Answer {
    request: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A header that must be there.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self}")).to_str().unwrap()
    }

    /// The address of the link with this `rel`.
    #[track_caller]
    pub fn link(&self, rel: &str) -> String {
        let text = self.text();
        let after = text.split_once(&format!("rel=\"{rel}\" href=\"")).unwrap_or_else(|| panic!("no {rel}: {self}")).1;
        after.split('"').next().unwrap().replace("&amp;", "&")
    }

    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    #[track_caller]
    pub fn assert_redirect(&self, path: &str) -> &Answer {
        assert_eq!((self.status, self.header(LOCATION.as_str())), (303, path), "{self}");
        self
    }

    /// That it says to wait so long, or a little less, because some of the time has passed by now.
    #[track_caller]
    pub fn assert_retry_after(&self, seconds: u64) -> &Answer {
        let found: u64 = self.header("retry-after").parse().unwrap();
        assert!((seconds.saturating_sub(10)..=seconds).contains(&found), "{self}");
        self
    }

    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) -> &Answer {
        assert_eq!(self.header(name), value, "{self}");
        self
    }

    /// A header that is sent once for each of these values, in this order.
    #[track_caller]
    pub fn assert_headers(&self, name: &str, values: &[&str]) -> &Answer {
        let found: Vec<_> = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(found, values, "{self}");
        self
    }

    #[track_caller]
    pub fn assert_no_header(&self, name: &str) -> &Answer {
        assert!(!self.headers.contains_key(name), "{name} is there: {self}");
        self
    }

    /// A whole `Set-Cookie`; `…` in the expected text stands for 43 characters of a token.
    #[track_caller]
    pub fn assert_cookie(&self, expected: &str) -> &Answer {
        let is_it = |found: &str| match expected.split_once('…') {
            None => found == expected,
            Some((before, after)) => {
                let token = found.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                token.is_some_and(|token| Token::parse(token).is_some())
            }
        };
        let mut found = self.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap());
        assert!(found.any(is_it), "expected the cookie {expected}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_contains(&self, words: &str) -> &Answer {
        assert!(self.text().contains(words), "expected {words:?}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_lacks(&self, words: &str) -> &Answer {
        assert!(!self.text().contains(words), "did not expect {words:?}: {self}");
        self
    }

    #[track_caller]
    pub fn assert_body(&self, body: &str) -> &Answer {
        assert_eq!(self.text(), body, "{self}");
        self
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.request, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(f, "\n{}", self.text())
    }
}
