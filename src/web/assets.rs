//! The files of `public/`, compiled in and compressed at build time. Browsers cache them for a year under an address with
//! their hash (`asset.styles_css` in a template), and ask again under the plain one.

use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

pub struct Asset {
    pub path: &'static str,
    /// The path and `?v=HASH`.
    pub url: &'static str,
    hash: &'static str,
    content_type: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

impl Asset {
    pub fn answer(&self, request: &Request) -> Response {
        let etag = format!("W/\"{}\"", self.hash);
        let versioned = request.uri().query().and_then(|query| query.strip_prefix("v=")) == Some(self.hash);
        let caching = if versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(ETAG, HeaderValue::from_str(&etag).expect("a hash in quotes is visible ASCII"));
        if lists(request.headers(), IF_NONE_MATCH, &etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if lists(request.headers(), ACCEPT_ENCODING, "gzip") && self.gzip.len() < self.plain.len() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return (headers, self.gzip).into_response();
        }
        (headers, self.plain).into_response()
    }
}

/// Whether a comma-separated header has this word, and does not refuse it with `;q=0`.
fn lists(headers: &HeaderMap, name: axum::http::HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |item| {
            let (item, weight) = item.split_once(';').unwrap_or((item, ""));
            item.trim() == word && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    #[tokio::test]
    async fn a_file_is_cached_for_a_year_under_its_hash_and_asked_about_under_its_name() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        let versioned = visitor.get(STYLES_CSS.url).await;
        versioned.assert_status(200).assert_header("cache-control", "public, max-age=31536000, immutable");
        versioned.assert_header("content-type", "text/css; charset=utf-8").assert_no_header("set-cookie");
        let plain = visitor.get("/styles.css").await;
        plain.assert_status(200).assert_header("cache-control", "no-cache");
        let stale = visitor.get("/styles.css?v=0000000000000000").await;
        stale.assert_status(200).assert_header("cache-control", "no-cache");

        let etag = plain.header("etag").to_string();
        let again = visitor.get_with("/styles.css", &[("if-none-match", &etag)]).await;
        again.assert_status(304).assert_body("");
    }

    #[tokio::test]
    async fn a_browser_gets_the_smallest_form_it_can_read() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        let get = async |accepted| visitor.get_with("/styles.css", &[("accept-encoding", accepted)]).await;
        let gzip = get("gzip, deflate, br").await;
        gzip.assert_header("content-encoding", "gzip").assert_header("vary", "accept-encoding");
        assert!(gzip.bytes.len() <= 5 * 1024, "the stylesheet is {} bytes on the wire", gzip.bytes.len());
        get("br").await.assert_no_header("content-encoding");
        get("gzip;q=0").await.assert_no_header("content-encoding");
        assert!(STYLES_CSS.plain.len() <= 16 * 1024);
    }

    #[tokio::test]
    async fn no_other_file_can_be_reached() {
        let app = TestApp::new().await;
        for path in
            ["/Cargo.toml", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/.env", "/.git/config", "/public/styles.css"]
        {
            app.visitor().get(path).await.assert_status(404);
        }
    }
}
