//! What every request must pass, and the headers of every answer.
//!
//! The `Host` must be this site's, and a request that could change something must come from this site's own pages.
//! Browsers say so themselves (`Sec-Fetch-Site`, else `Origin`), so forms carry no token that could expire. A request with
//! neither header cannot have been caused by a page.

use super::redirect::LocalPath;
use crate::base::{Config, Error, Result};
use axum::extract::Request;
use axum::http::header::*;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use url::{Position, Url};

const HEADERS: [(HeaderName, &str); 6] = [
    // Nothing inline, nothing from other sites, no embedding, forms only to this site.
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    // Our own pages may know which page a form was on; other sites may not.
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Two years.
const HSTS: &str = "max-age=63072000";
const HSTS_SUBDOMAINS: &str = "max-age=63072000; includeSubDomains";

/// Adds the security headers to an answer that does not set its own.
pub fn add_headers(config: &Config, response: &mut Response) {
    let headers = response.headers_mut();
    headers.reserve(HEADERS.len() + 2);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if config.https() {
        let hsts = if config.hsts_subdomains { HSTS_SUBDOMAINS } else { HSTS };
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(hsts));
    }
}

/// Refuses requests with too long a head (431), for another host (421) and from another site (403). The paths in `any_host`
/// are answered under any name and none, because load balancers ask by address. Heads that hyper itself refuses do not come
/// this far.
///
/// # Errors
/// The refusal.
pub fn check(config: &Config, any_host: &[&str], request: &Request) -> Result<()> {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if head_size(uri, headers) > LONGEST_HEAD {
        return Err(Error::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    // hyper would take the body apart and pass on what is still compressed.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_other = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(is_other) || codings.next().is_some() {
        return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED));
    }
    let has_own_host = has_own_host(config, uri, headers);
    if *method == Method::OPTIONS && (!has_own_host || uri.path() == "*") {
        // HAProxy asks so whether there is a server, and learns nothing else, not even which pages it has.
        return Err(Error::Refused(StatusCode::NO_CONTENT));
    }
    if !has_own_host && !any_host.contains(&uri.path()) {
        return Err(Error::Refused(StatusCode::MISDIRECTED_REQUEST));
    }
    if !is_same_origin(config, method, uri, headers) {
        return Err(Error::Refused(StatusCode::FORBIDDEN));
    }
    Ok(())
}

/// Bytes that a request's head may have.
const LONGEST_HEAD: usize = 32 * 1024;

fn head_size(uri: &Uri, headers: &HeaderMap) -> usize {
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    // A colon, a space and the end of the line.
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    path + headers.iter().map(line).sum::<usize>()
}

fn has_own_host(config: &Config, uri: &Uri, headers: &HeaderMap) -> bool {
    let is_own = |authority: &str| {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host.eq_ignore_ascii_case(name));
        if config.development() && loopback {
            return port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        }
        let expected = config.base_url.port().or_else(|| port.and(config.base_url.port_or_known_default()));
        let same_name = config.base_url.host_str().is_some_and(|name| host.eq_ignore_ascii_case(name));
        same_name && port.map(str::parse) == expected.map(Ok)
    };
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(is_own) && uri.authority().is_none_or(|authority| is_own(authority.as_str()))
}

/// Whether a path belongs to the API, where cookies mean nothing and answers are JSON.
pub fn is_for_programs(path: &str) -> bool {
    path.starts_with("/api/")
}

/// Of a request to the API, so that nothing there can be opened by a cookie.
pub fn drop_cookies(request: &mut Request) {
    if is_for_programs(request.uri().path()) {
        request.headers_mut().remove(COOKIE);
    }
}

/// docs/security.md explains why this is enough, under "Forms from other sites".
fn is_same_origin(config: &Config, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    // A program sends no cookie. What has one may come from a browser, wherever it goes.
    if method.is_safe() || is_for_programs(uri.path()) && !headers.contains_key(COOKIE) {
        return true;
    }
    match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(b"same-origin") => true,
        None | Some(b"none") => match headers.get(ORIGIN) {
            Some(origin) => origin.to_str().is_ok_and(|origin| is_own_origin(config, headers, origin)),
            None => true,
        },
        Some(_) => false,
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The site's own origin; in development also that of the loopback name in `Host`.
fn is_own_origin(config: &Config, headers: &HeaderMap, origin: &str) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    origin == config.origin() || (config.development() && origin == format!("http://{host}"))
}

/// Path and query of the page that sent this request, if it is one of ours.
pub fn own_referer(config: &Config, headers: &HeaderMap) -> Option<LocalPath> {
    let url = Url::parse(headers.get(REFERER)?.to_str().ok()?).ok()?;
    let is_own = is_own_origin(config, headers, &url.origin().ascii_serialization());
    is_own.then(|| url[Position::BeforePath..Position::AfterQuery].to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::User;
    use crate::features::Feature;
    use crate::test::{PRODUCTION, TestApp, Visitor};
    use crate::web::{Access, Routes};

    async fn act() -> &'static str {
        "done"
    }

    fn routes() -> Routes {
        Routes::new().get("/act", Access::Public, act).post("/act", Access::Public, act)
    }

    async fn post(visitor: &Visitor, headers: &[(&str, &str)]) -> u16 {
        visitor.send(Method::POST, "/act", headers, "").await.status
    }

    #[tokio::test]
    async fn what_another_site_causes_is_refused_and_what_no_page_can_cause_is_not() {
        let app = TestApp::with_env(&PRODUCTION, routes()).await;
        let visitor = app.visitor();
        let own = ("origin", "https://example.com");
        for (headers, status) in [
            (vec![], 200),
            (vec![("sec-fetch-site", "same-origin")], 200),
            (vec![("sec-fetch-site", "none")], 200),
            (vec![own], 200),
            (vec![("sec-fetch-site", "none"), own], 200),
            (vec![("sec-fetch-site", "cross-site")], 403),
            (vec![("sec-fetch-site", "same-site")], 403),
            (vec![("sec-fetch-site", "same-site"), own], 403),
            (vec![("sec-fetch-site", "none"), ("origin", "https://evil.example")], 403),
            (vec![("sec-fetch-site", "anything")], 403),
            (vec![("origin", "null")], 403),
            (vec![("origin", "http://example.com")], 403),
            (vec![("origin", "https://example.com:444")], 403),
            (vec![("origin", "https://www.example.com")], 403),
            (vec![("origin", "https://example.com.evil.example")], 403),
            (vec![("origin", "")], 403),
        ] {
            assert_eq!(post(&visitor, &headers).await, status, "{headers:?}");
            assert_eq!(visitor.get_with("/act", &headers).await.status, 200, "{headers:?}");
        }
        let refused = visitor.send(Method::POST, "/act", &[("sec-fetch-site", "cross-site")], "").await;
        refused.assert_contains("could not accept that form").assert_no_header("access-control-allow-origin");
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::from_bytes(b"WHATEVER").unwrap()] {
            visitor.send(method, "/act", &[("sec-fetch-site", "cross-site")], "").await.assert_status(403);
        }
    }

    async fn show(user: User) -> String {
        user.username
    }

    #[tokio::test]
    async fn below_api_a_cookie_opens_nothing_and_its_sender_is_checked_like_everybody() {
        let count_cookies = async |headers: HeaderMap| headers.get_all(COOKIE).iter().count().to_string();
        let routes = Routes::new()
            .get("/api/me", Access::Public, show)
            .get("/api/cookies", Access::Public, count_cookies)
            .post("/api/act", Access::Public, act)
            .get("/{section}/private", Access::User, act)
            .post("/{section}/recent", Access::Recent, act)
            .get("/{section}/pending", Access::PendingLogin, act);
        let app = TestApp::with(routes).await;
        let ada = app.person("ada").await;
        ada.get("/any/private").await.assert_status(200);
        ada.get("/api/cookies").await.assert_body("0");
        for visitor in [&ada, &app.visitor()] {
            for (method, path) in [
                (Method::GET, "/api/me"),
                (Method::HEAD, "/api/me"),
                (Method::GET, "/api/private"),
                (Method::POST, "/api/recent"),
                (Method::GET, "/api/pending"),
            ] {
                let answer = visitor.send(method, path, &[], "").await;
                answer.assert_status(401).assert_header("www-authenticate", "Bearer");
                answer.assert_header("content-type", "application/problem+json").assert_no_header("location");
            }
        }
        let planted = app.visitor().with_cookie("anything", "at all");
        for elsewhere in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
        ] {
            app.visitor().send(Method::POST, "/api/act", &[elsewhere], "").await.assert_status(200);
            for browser in [&ada, &planted] {
                let answer = browser.send(Method::POST, "/api/act", &[elsewhere], "").await;
                answer.assert_status(403).assert_header("content-type", "application/problem+json");
            }
        }
        ada.send(Method::POST, "/api/act", &[("sec-fetch-site", "same-origin")], "").await.assert_status(200);
    }

    #[tokio::test]
    async fn a_body_in_an_encoding_besides_chunked_is_not_taken() {
        let app = TestApp::with(routes()).await;
        for codings in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["deflate,chunked"],
            &["br"],
            &["x-gzip, chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["identity"],
            &["chunked;q=1"],
            &["chunked", "\u{e4}"],
            &[""],
        ] {
            let headers: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).collect();
            let answer = app.visitor().send(Method::POST, "/act", &headers, "").await;
            answer
                .assert_status(501)
                .assert_contains("We cannot read that format")
                .assert_header("connection", "close");
        }
        for coding in ["chunked", "Chunked", "CHUNKED"] {
            assert_eq!(post(&app.visitor(), &[("transfer-encoding", coding)]).await, 200, "{coding}");
        }
    }

    #[tokio::test]
    async fn in_development_every_loopback_name_is_the_sites_own() {
        let app = TestApp::with(routes()).await;
        let visitor = app.visitor();
        for host in ["localhost:8000", "127.0.0.1:9", "[::1]:8000", "LOCALHOST"] {
            let origin = format!("http://{host}");
            assert_eq!(post(&visitor, &[("host", host), ("origin", &origin)]).await, 200, "{host}");
            assert_eq!(post(&visitor, &[("host", host), ("origin", "http://localhost:1")]).await, 403, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "0.0.0.0:8000", "evil@localhost", "", "localhost/", "[::2]"]
        {
            assert_eq!(post(&visitor, &[("host", host)]).await, 421, "{host}");
        }
    }

    /// Codespaces sends either name as `Host`, and `Origin` as it was or with the name localhost.
    #[tokio::test]
    async fn a_site_in_development_also_answers_where_a_tunnel_shows_it() {
        const TUNNEL: &str = "https://name-8000.app.github.dev";
        let app = TestApp::with_env(&[("DEVELOPMENT_URL", TUNNEL)], routes()).await;
        let visitor = app.visitor();
        for host in ["name-8000.app.github.dev", "Name-8000.app.github.dev:443", "localhost:8000", "127.0.0.1:8000"] {
            visitor.get_with("/act", &[("host", host)]).await.assert_status(200);
            assert_eq!(post(&visitor, &[("host", host), ("origin", TUNNEL)]).await, 200, "{host}");
            let rewritten = [("host", host), ("origin", "http://localhost:8000"), ("sec-fetch-site", "same-origin")];
            assert_eq!(post(&visitor, &rewritten).await, 200, "{host}");
            for origin in ["https://other-8000.app.github.dev", "http://name-8000.app.github.dev.evil.example", "null"]
            {
                assert_eq!(post(&visitor, &[("host", host), ("origin", origin)]).await, 403, "{host} {origin}");
            }
        }
        for host in ["other-8000.app.github.dev", "name-8000.app.github.dev:8000", "app.github.dev", "name-8000"] {
            assert_eq!(post(&visitor, &[("host", host)]).await, 421, "{host}");
        }
        assert!(app.app.config.development() && app.app.config.origin() == TUNNEL);
        let elsewhere = TestApp::with(routes()).await;
        assert_eq!(post(&elsewhere.visitor(), &[("host", "name-8000.app.github.dev")]).await, 421);
    }

    #[tokio::test]
    async fn in_production_a_site_answers_to_its_own_name_alone() {
        let app = TestApp::with_env(&PRODUCTION, routes()).await;
        let visitor = app.visitor();
        for host in ["example.com", "Example.com", "example.com:443"] {
            visitor.get_with("/act", &[("host", host)]).await.assert_status(200);
        }
        for host in ["localhost", "www.example.com", "example.com:80", "example.com:x", "example.com.", "example.com:"]
        {
            visitor.get_with("/act", &[("host", host)]).await.assert_status(421);
        }
        visitor.get_with("/act", &[("host", "example.com"), ("host", "example.com")]).await.assert_status(421);
        visitor.get_with("http://evil.example/act", &[]).await.assert_status(421);
        visitor.get_with("http://example.com/act", &[]).await.assert_status(200);
        let forwarded = [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")];
        visitor.get_with("/act", &forwarded).await.assert_status(200);
        visitor.send(Method::POST, "/act", &[("host", "10.0.0.7:8000")], "").await.assert_status(421);
    }

    #[tokio::test]
    async fn health_checks_are_answered_under_any_name_and_who_asks_for_methods_learns_them_under_the_sites_own() {
        for (settings, own) in [(&[][..], "localhost:8000"), (&PRODUCTION[..], "example.com")] {
            let routes = routes().get("/alive", Access::Public, act).get("/ready", Access::Public, act);
            let any_host = &["/alive", "/ready"];
            let feature = Feature { routes, any_host, ..Feature::named("test") };
            let app = TestApp::with_feature(settings, feature).await;
            for host in ["10.0.0.7:8000", "evil.example", "", "a b", "[::1", "example.com:x", "10.0.0.7, example.com"] {
                let host = [("host", host)];
                for path in ["/alive", "/ready", "http://10.0.0.7/alive"] {
                    app.visitor().get_with(path, &host).await.assert_status(200);
                }
                app.visitor().get_with("/act", &host).await.assert_status(421);
                for path in ["/", "*", "/act", "/alive", "/nowhere"] {
                    let answer = app.visitor().send(Method::OPTIONS, path, &host, "").await;
                    answer.assert_status(204).assert_body("").assert_no_header("allow").assert_no_header("set-cookie");
                }
            }
            let own = [("host", own)];
            let methods = app.visitor().send(Method::OPTIONS, "/act", &own, "").await;
            methods.assert_status(204).assert_body("").assert_header("allow", "GET,HEAD,POST");
            methods.assert_no_header("access-control-allow-origin").assert_no_header("content-length");
            app.visitor().send(Method::OPTIONS, "*", &own, "").await.assert_status(204);
            app.visitor().send(Method::OPTIONS, "/nowhere", &own, "").await.assert_status(404);
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_security_headers() {
        let expected = [
            (
                "content-security-policy",
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            ),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ];
        assert_eq!(HEADERS.len(), expected.len());
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        for path in ["/act", "/nowhere", "/private", "/styles.css", "/api/nowhere"] {
            let answer = app.visitor().get(path).await;
            for (name, value) in expected {
                answer.assert_header(name, value);
            }
            answer.assert_no_header("server").assert_no_header("strict-transport-security");
        }
        for path in ["/act", "/nowhere", "/private"] {
            ada.get(path).await.assert_header("cache-control", "no-store").assert_no_header("set-cookie");
        }
    }
}
