//! Redirects: to paths of this site only.

use super::{flash::Flash, form::Json, format::url_encode, site_map::SiteMap};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use cookie::Cookie;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

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
    /// Shows this sentence on the next page.
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

/// Where a request asks to go afterwards: a path of this site, else `/`. It can be written into a form, and becomes the
/// target of a redirect or a link by [`App::resolve`](super::App::resolve) alone, because there may be no page.
///
/// Browsers read `//host`, `/\host` and paths with tabs or line ends as addresses of other sites, and leave `/..` out.
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
            && url_encode(&path).len() <= MAX_LENGTH
            && Url::parse(&format!("http://host{path}"))
                .is_ok_and(|url| path.split(['?', '#']).next() == Some(url.path()));
        LocalPath(if local { path } else { "/".into() })
    }
}

impl LocalPath {
    /// The path, if the site has a page there.
    pub fn find_in(&self, map: &SiteMap) -> Option<&str> {
        map.has(&self.0).then_some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_never_leads_to_another_site() {
        let path = |next: &str| LocalPath::from(next.to_string()).0;
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
            "/notes/..",
            "/notes/%2e%2E/logout",
            "/./notes",
            &long,
            &encoded,
        ] {
            assert_eq!(path(elsewhere), "/", "{elsewhere:?}");
        }
    }
}
