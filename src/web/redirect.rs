//! Redirects: to paths of this site only.

use super::{flash::Flash, form::Json, format::url_encode};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use cookie::Cookie;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::Deref;

/// 303: the answer to a form that was accepted. `redirect("/notes").flash(SAVED)`
pub fn redirect(path: &str) -> Redirect {
    Redirect { path: path.to_string(), cookies: CookieJar::new(), flash: None }
}

pub struct Redirect {
    path: String,
    cookies: CookieJar,
    flash: Option<Flash>,
}

impl Redirect {
    /// Has the next page say something.
    pub fn flash(self, flash: Flash) -> Redirect {
        Redirect { flash: Some(flash), ..self }
    }

    pub fn cookie(self, cookie: Cookie<'static>) -> Redirect {
        Redirect { cookies: self.cookies.add(cookie), ..self }
    }

    /// 200 with the path as JSON, for a script that goes there.
    pub fn into_json(self) -> Response {
        (self.cookies, self.flash, Json(json!({ "next": self.path }))).into_response()
    }

    #[cfg(test)]
    pub fn cookies(&self) -> &CookieJar {
        &self.cookies
    }
}

impl IntoResponse for Redirect {
    fn into_response(self) -> Response {
        (StatusCode::SEE_OTHER, self.cookies, self.flash, [(LOCATION, self.path)]).into_response()
    }
}

/// Where to go afterwards: a path of this site, else `/`.
///
/// Browsers read `//host`, `/\host` and paths with tabs or line ends as addresses of other sites.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "String")]
pub struct LocalPath(String);

/// The most bytes a path may have when it is encoded as a value in a query.
const MAX_LENGTH: usize = 2000;

impl From<String> for LocalPath {
    fn from(path: String) -> LocalPath {
        let local = path.starts_with('/')
            && !path.starts_with("//")
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
            && url_encode(&path).len() <= MAX_LENGTH;
        if local { LocalPath(path) } else { LocalPath::default() }
    }
}

impl From<Option<String>> for LocalPath {
    fn from(path: Option<String>) -> LocalPath {
        path.map(LocalPath::from).unwrap_or_default()
    }
}

impl Default for LocalPath {
    fn default() -> LocalPath {
        LocalPath("/".into())
    }
}

impl Deref for LocalPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_never_leads_to_another_site() {
        let path = |next: &str| LocalPath::from(next.to_string()).to_string();
        assert_eq!(path("/notes?after=1#top"), "/notes?after=1#top");
        let (long, encoded) = (format!("/{}", "a".repeat(2000)), format!("/?{}", "&".repeat(700)));
        for elsewhere in [
            "",
            "notes",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https:evil.example",
            "https://evil.example",
            "/\r\nSet-Cookie: a=b",
            "/\t/evil.example",
            "/\0",
            "/ü",
            " /",
            "/ a",
            "javascript:alert(1)",
            &long,
            &encoded,
        ] {
            assert_eq!(path(elsewhere), "/", "{elsewhere:?}");
        }
        assert_eq!(&*LocalPath::from(None), "/");
    }
}
