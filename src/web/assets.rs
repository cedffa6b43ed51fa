//! The files of `public/`, compiled in and compressed at build time. Browsers cache them for a year under an address with
//! their hash (`asset.styles_css` in a template), and ask again under the plain one.

use super::conditional::{Encoding, encoding, has_version};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;

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
        let vary = (VARY, HeaderValue::from_static("accept-encoding"));
        let Some(encoding) = encoding(request.headers()) else {
            return (StatusCode::NOT_ACCEPTABLE, [vary]).into_response();
        };
        let versioned = request.uri().query().and_then(|query| query.strip_prefix("v=")) == Some(self.hash);
        let caching = if versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
        let etag = HeaderValue::from_str(&format!("W/\"{}\"", self.hash)).expect("a hash in quotes is visible ASCII");
        let mut headers =
            HeaderMap::from_iter([vary, (CACHE_CONTROL, HeaderValue::from_static(caching)), (ETAG, etag)]);
        if has_version(request.headers(), self.hash) {
            // Axum would add the length of an empty body, and a client would take it for the file's.
            let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
            return (StatusCode::NOT_MODIFIED, headers, body).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        match encoding {
            Encoding::Gzip => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                (headers, self.gzip).into_response()
            }
            Encoding::Identity => (headers, self.plain).into_response(),
        }
    }
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
        let by_a_proxy = format!("\"{}-gzip\"", STYLES_CSS.hash);
        for tags in [&etag, "*", &format!("\"other\", {etag}"), &by_a_proxy] {
            let again = visitor.get_with("/styles.css", &[("if-none-match", tags)]).await;
            again.assert_status(304).assert_body("").assert_header("etag", &etag);
            again.assert_header("cache-control", "no-cache").assert_header("vary", "accept-encoding");
            again.assert_no_header("content-type").assert_no_header("content-length").assert_no_header("set-cookie");
        }
        visitor.get_with("/styles.css", &[("if-none-match", "\"other\"")]).await.assert_status(200);
    }

    #[tokio::test]
    async fn a_browser_gets_the_smallest_form_it_can_read() {
        let app = TestApp::new().await;
        let visitor = app.visitor();
        let get = async |accepted| visitor.get_with("/styles.css", &[("accept-encoding", accepted)]).await;
        let gzip = get("gzip, deflate, br").await;
        gzip.assert_header("content-encoding", "gzip").assert_header("vary", "accept-encoding");
        assert!(gzip.bytes.len() <= 5 * 1024, "the stylesheet is {} bytes on the wire", gzip.bytes.len());
        get("GZIP;q=0.1").await.assert_header("content-encoding", "gzip");
        for accepted in ["br", "gzip;q=0", "gzip;q=0.5, identity"] {
            get(accepted).await.assert_no_header("content-encoding").assert_header("vary", "accept-encoding");
        }
        get("br, identity;q=0").await.assert_status(406).assert_header("vary", "accept-encoding");
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
