//! What every request must pass, and what every answer carries.
//!
//! In this order: the `Host` must be this site's, and a request that could change something must come from this
//! site's own pages. Browsers say so themselves (`Sec-Fetch-Site`, else `Origin`), so no form carries a token
//! that could grow stale; a request with neither header cannot have been caused by a page.

use crate::app::App;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::form::query_value;
use ::cookie::{Cookie, CookieBuilder, SameSite};
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::*;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use url::Url;

const HEADERS: [(HeaderName, &str); 6] = [
    // Nothing inline, nothing from elsewhere, no frame around it, forms only to this site.
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    // Our own pages may know where a form stood; nobody else may.
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// For `Strict-Transport-Security`, as long as preload lists ask for.
const TWO_YEARS: &str = "max-age=63072000; includeSubDomains";

/// Puts the security headers on an answer.
pub fn protect(config: &Config, response: &mut Response) {
    let headers = response.headers_mut();
    headers.reserve(HEADERS.len() + 2);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if config.https() {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TWO_YEARS));
    }
}

/// Refuses what is meant for another site (421) or comes from one (403).
///
/// # Errors
/// The refusal.
pub fn check(config: &Config, request: &Request) -> Result<()> {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if !is_for_us(config, uri, headers) {
        return Err(Error::Refused(StatusCode::MISDIRECTED_REQUEST));
    }
    if !is_from_us(config, method, uri, headers) {
        return Err(Error::Refused(StatusCode::FORBIDDEN));
    }
    Ok(())
}

fn is_for_us(config: &Config, uri: &Uri, headers: &HeaderMap) -> bool {
    if !config.development() && matches!(uri.path(), "/healthz" | "/readyz") {
        return true;
    }
    let ours = |authority: &str| {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if config.development() {
            let near = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host.eq_ignore_ascii_case(name));
            return near && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        }
        let expected = config.base_url.port().or_else(|| port.and(config.base_url.port_or_known_default()));
        let named = config.base_url.host_str().is_some_and(|name| host.eq_ignore_ascii_case(name));
        named && port.map(str::parse) == expected.map(Ok)
    };
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(ours) && uri.authority().is_none_or(|authority| ours(authority.as_str()))
}

/// The reasoning is in docs/security.md, under "Forms from elsewhere".
fn is_from_us(config: &Config, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    if method.is_safe() || uri.path().starts_with("/api/") {
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

/// The site's own origin; in development also that of the loopback name the request was sent to.
fn is_own_origin(config: &Config, headers: &HeaderMap, origin: &str) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    origin == config.origin() || (config.development() && origin == format!("http://{host}"))
}

/// Path and query of the page that sent this request, when it is one of ours.
pub fn own_referer(config: &Config, headers: &HeaderMap) -> Option<String> {
    let url = Url::parse(headers.get(REFERER)?.to_str().ok()?).ok()?;
    let ours = is_own_origin(config, headers, &url.origin().ascii_serialization());
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    ours.then(|| url.path().to_string() + &query)
}

/// Where to lead somebody afterwards: a path of this site, else `/`.
///
/// Browsers read `//host`, `/\host` and paths with tabs or line ends as addresses of other sites.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "String")]
pub struct LocalPath(String);

/// Bytes that a path may have, also when it is encoded as the value of a parameter.
const PATH_LENGTH: usize = 2000;

impl From<String> for LocalPath {
    fn from(path: String) -> LocalPath {
        let local = path.starts_with('/')
            && !path.starts_with("//")
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
            && query_value(&path).len() <= PATH_LENGTH;
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

/// `name` as it is written in headers: on https with the prefix that keeps other hosts from setting it
/// (draft-ietf-httpbis-rfc6265bis, section 4.1.3.2).
fn cookie_name(https: bool, name: &str) -> String {
    if https { format!("__Host-{name}") } else { name.to_string() }
}

/// The value of the first cookie of this name, over all `Cookie` headers.
///
/// Read by hand: whoever trims names as Unicode takes a name with a wide space before it, which any host may set, for one
/// with the prefix.
pub fn cookie(config: &Config, headers: &HeaderMap, name: &str) -> Option<String> {
    if !headers.contains_key(COOKIE) {
        return None;
    }
    let name = cookie_name(config.https(), name);
    let mut pairs =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// A cookie with the attributes that all of ours have. Without a lifetime it goes with the browser.
pub fn set_cookie(config: &Config, name: &str, value: String) -> CookieBuilder<'static> {
    Cookie::build((cookie_name(config.https(), name), value))
        .path("/")
        .http_only(true)
        .secure(config.https())
        .same_site(SameSite::Lax)
}

/// Makes the browser forget the cookie of this name.
pub fn clear_cookie(config: &Config, name: &str) -> Cookie<'static> {
    set_cookie(config, name, String::new()).max_age(::cookie::time::Duration::ZERO).build()
}

/// Where a request came from: what is noted beside sessions and events. An extractor.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: IpAddr,
    user_agent: HeaderValue,
}

/// The most characters of a `User-Agent` that are kept.
const DEVICE_LENGTH: usize = 200;

impl Client {
    pub fn of(config: &Config, extensions: &Extensions, headers: &HeaderMap) -> Client {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(peer)| peer.ip());
        let user_agent = headers.get(USER_AGENT).cloned();
        Client {
            address: address(config, peer, headers),
            user_agent: user_agent.unwrap_or(HeaderValue::from_static("")),
        }
    }

    /// Somebody at this machine.
    pub fn local(user_agent: &'static str) -> Client {
        Client { address: IpAddr::V4(Ipv4Addr::LOCALHOST), user_agent: HeaderValue::from_static(user_agent) }
    }

    /// What the browser calls itself, as it is kept.
    pub fn device(&self) -> String {
        let text = String::from_utf8_lossy(self.user_agent.as_bytes());
        text.chars().filter(|c| !c.is_control()).take(DEVICE_LENGTH).collect()
    }

    /// Whether it calls itself what was kept of it.
    pub fn is(&self, device: &str) -> bool {
        self.user_agent.as_bytes() == device.as_bytes() || self.device() == device
    }
}

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Client, Infallible> {
        Ok(Client::of(&app.config, &parts.extensions, &parts.headers))
    }
}

/// The address of whoever connected; behind trusted proxies, the last one that no trusted proxy has:
/// everything to the left of it is what a stranger claims.
fn address(config: &Config, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |address: &IpAddr| config.trusted_proxies.iter().any(|net| net.contains(address));
    let mut address = peer.to_canonical();
    let forwarded = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    for hop in forwarded.flat_map(|value| value.rsplit(',')) {
        let Some(hop) = hop.trim().parse::<IpAddr>().ok().filter(|_| trusted(&address)) else { break };
        address = hop.to_canonical();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::test::{TestApp, Visitor};

    async fn act(client: Client) -> String {
        client.address.to_string()
    }

    fn routes() -> Routes {
        Routes::new().get("/act", Access::Public, act).post("/act", Access::Public, act)
    }

    const PRODUCTION: [(&str, &str); 4] = [
        ("BASE_URL", "https://example.com"),
        ("TRUSTED_PROXIES", "none"),
        ("SMTP_URL", "none"),
        ("PASSWORD_ITERATIONS", "600000"),
    ];

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
        refused.assert_contains("came from elsewhere").assert_no_header("access-control-allow-origin");
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::from_bytes(b"WHATEVER").unwrap()] {
            visitor.send(method, "/act", &[("sec-fetch-site", "cross-site")], "").await.assert_status(403);
        }
    }

    #[tokio::test]
    async fn in_development_every_loopback_name_is_the_sites_own() {
        let app = TestApp::with(routes()).await;
        let visitor = app.visitor();
        for host in ["localhost:8000", "127.0.0.1:9", "[::1]:8000", "LOCALHOST"] {
            let origin = format!("http://{host}");
            assert_eq!(post(&visitor, &[("host", host), ("origin", &origin)]).await, 200, "{host}");
            assert_eq!(
                post(&visitor, &[("host", host), ("origin", "http://localhost:1")]).await,
                403,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "0.0.0.0:8000",
            "evil@localhost",
            "",
            "localhost/",
            "[::2]",
        ] {
            assert_eq!(post(&visitor, &[("host", host)]).await, 421, "{host}");
        }
    }

    #[tokio::test]
    async fn in_production_only_its_own_name_is_answered_but_its_health_is_told_to_anyone() {
        let app = TestApp::with_env(&PRODUCTION, routes()).await;
        let visitor = app.visitor();
        for host in ["example.com", "Example.com", "example.com:443"] {
            visitor.get_with("/act", &[("host", host)]).await.assert_status(200);
        }
        for host in [
            "localhost",
            "www.example.com",
            "example.com:80",
            "example.com:x",
            "example.com.",
            "example.com:",
        ] {
            visitor.get_with("/act", &[("host", host)]).await.assert_status(421);
        }
        visitor
            .get_with("/act", &[("host", "example.com"), ("host", "example.com")])
            .await
            .assert_status(421);
        visitor.get_with("http://evil.example/act", &[]).await.assert_status(421);
        visitor.get_with("http://example.com/act", &[]).await.assert_status(200);
        let forwarded = [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")];
        visitor.get_with("/act", &forwarded).await.assert_status(200);
        for path in ["/healthz", "/readyz"] {
            assert_ne!(visitor.get_with(path, &[("host", "10.0.0.7:8000")]).await.status, 421);
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_security_headers() {
        let app = TestApp::with(routes()).await;
        let ada = app.person("ada").await;
        for path in ["/act", "/nowhere", "/private", "/styles.css", "/api/nowhere"] {
            let answer = app.visitor().get(path).await;
            answer
                .assert_header("x-content-type-options", "nosniff")
                .assert_header("x-frame-options", "DENY");
            answer.assert_header("referrer-policy", "same-origin");
            let policy = answer.header("content-security-policy");
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            answer.assert_no_header("server").assert_no_header("strict-transport-security");
        }
        for path in ["/act", "/nowhere", "/private"] {
            ada.get(path).await.assert_header("cache-control", "no-store").assert_no_header("set-cookie");
        }
    }

    #[tokio::test]
    async fn a_client_behind_proxies_is_who_the_last_trusted_one_says() {
        let through = async |proxies: &'static str, forwarded: &[&str]| {
            let app = TestApp::with_env(&[("TRUSTED_PROXIES", proxies)], routes()).await;
            let headers: Vec<_> = forwarded.iter().map(|hops| ("x-forwarded-for", *hops)).collect();
            app.visitor().get_with("/act", &headers).await.text()
        };
        assert_eq!(through("none", &["203.0.113.9"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &["203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["198.51.100.1, 203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(
            through("127.0.0.0/8,10.0.0.0/8", &["198.51.100.1, 203.0.113.9, 10.1.2.3"]).await,
            "203.0.113.9"
        );
        assert_eq!(through("127.0.0.1", &["198.51.100.1", "203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["203.0.113.9, nonsense"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &["::ffff:203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &[]).await, "127.0.0.1");
    }

    #[test]
    fn next_never_leads_to_another_site() {
        let lead = |next: &str| LocalPath::from(next.to_string()).to_string();
        assert_eq!(lead("/notes?after=1#top"), "/notes?after=1#top");
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
            assert_eq!(lead(elsewhere), "/", "{elsewhere:?}");
        }
        assert_eq!(&*LocalPath::from(None), "/");
    }

    #[test]
    fn a_cookie_with_a_space_of_any_kind_before_its_name_is_another_cookie() {
        let config = Config::from_env(&PRODUCTION.into_iter().collect()).unwrap();
        for space in ["\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{200b}"] {
            let cookies = format!("{space}__Host-session_token=planted; \t__Host-session_token=own");
            let cookies = HeaderValue::from_bytes(cookies.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(COOKIE, cookies)]);
            assert_eq!(cookie(&config, &headers, "session_token").as_deref(), Some("own"), "{space:?}");
        }
    }
}
