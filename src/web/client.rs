//! Reads the [`Client`] of a request: the network address behind trusted proxies, and the `User-Agent`.

use super::app::App;
use crate::accounts::Client;
use crate::base::Config;
use crate::db::rate_limit::network;
use crate::db::request::Requester;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Once;

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Client, Infallible> {
        Ok(client(&app.config, &parts.extensions, &parts.headers))
    }
}

/// Identifies the sender of a request before the user has been looked up.
pub fn requester(config: &Config, request: &Request) -> Requester {
    Requester::new(network(address(config, peer(request.extensions()), request.headers()), 56))
}

pub fn client(config: &Config, extensions: &Extensions, headers: &HeaderMap) -> Client {
    let user_agent = headers.get(USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
    Client::new(address(config, peer(extensions), headers), user_agent)
}

fn peer(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(peer)| peer.ip())
}

/// The address of the peer, or behind trusted proxies the last address that is not a trusted proxy's. Everything to the
/// left of it is what the client claims. A hop that cannot be read ends the search, and the address that it was received
/// from counts.
fn address(config: &Config, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let is_trusted = |address: &IpAddr| config.trusted_proxies.iter().any(|net| net.contains(address));
    let mut address = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().rev().map(HeaderValue::as_bytes);
    // An empty element of a list means nothing (RFC 9110, 5.6.1).
    let hops = lines.flat_map(|line| line.rsplit(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    for hop in hops.filter(|hop| !hop.is_empty()) {
        if !is_trusted(&address) {
            if config.trusted_proxies.is_empty() && is_local(address) {
                warn_of_unnamed_proxy(address);
            }
            break;
        }
        match parse_hop(hop) {
            Some(hop) => address = hop,
            None => {
                warn_of_unreadable(address);
                break;
            }
        }
    }
    address
}

const FORWARDED_FOR: &str = "x-forwarded-for";

/// An address as proxies write it: alone or with a port, an IPv6 address perhaps in brackets and with a zone, all of it
/// perhaps in quotes.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let hop = hop.strip_prefix('"').and_then(|hop| hop.strip_suffix('"')).unwrap_or(hop);
    let (address, zone) = hop.split_once('%').unwrap_or((hop, ""));
    let hop = format!("{address}{}", zone.trim_start_matches(|c| c != ']'));
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || hop.parse().ok().map(|address: SocketAddr| address.ip());
    let address = hop.parse().ok().or_else(in_brackets).or_else(with_port);
    address.as_ref().map(IpAddr::to_canonical)
}

/// Whether it belongs to this machine or a private network, where a proxy may stand.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

fn warn_of_unnamed_proxy(proxy: IpAddr) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "requests from {proxy} have X-Forwarded-For, which is ignored: if {proxy} is your proxy, set \
             TRUSTED_PROXIES={proxy}, so that not all of its clients count as one"
        );
    });
}

fn warn_of_unreadable(proxy: IpAddr) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "X-Forwarded-For from {proxy} ends in something that is no address, so {proxy} counts as the client: let this \
             proxy append the address of its client, and nothing else"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use crate::web::{Access, Routes};
    use axum::body::Body;

    async fn show(client: Client) -> String {
        client.address.to_string()
    }

    fn routes() -> Routes {
        Routes::new().get("/address", Access::Public, show)
    }

    #[tokio::test]
    async fn a_client_behind_proxies_is_who_the_last_trusted_one_says() {
        let through = async |proxies: &'static str, forwarded: &[&str]| {
            let app = TestApp::with_env(&[("TRUSTED_PROXIES", proxies)], routes()).await;
            let headers: Vec<_> = forwarded.iter().map(|hops| ("x-forwarded-for", *hops)).collect();
            app.visitor().get_with("/address", &headers).await.text()
        };
        assert_eq!(through("none", &["203.0.113.9"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &["203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["198.51.100.1, 203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.0/8,10.0.0.0/8", &["198.51.100.1, 203.0.113.9, 10.1.2.3"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["198.51.100.1", "203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["203.0.113.9, nonsense"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &["::ffff:203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["203.0.113.9", "nonsense"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &["203.0.113.9", "", " , "]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["_hidden, 203.0.113.9"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["203.0.113.9, unknown"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1,2001:db8::/32", &["203.0.113.9", "[2001:db8::1]:80"]).await, "203.0.113.9");
        assert_eq!(through("::ffff:127.0.0.1,::ffff:10.0.0.0/104", &["203.0.113.9, 10.1.2.3"]).await, "203.0.113.9");
        assert_eq!(through("127.0.0.1", &["127.0.0.1, 127.0.0.1"]).await, "127.0.0.1");
        assert_eq!(through("127.0.0.1", &[]).await, "127.0.0.1");
    }

    #[tokio::test]
    async fn wrong_passwords_of_people_behind_one_proxy_are_counted_apart_however_it_writes_them() {
        let settings = [("TRUSTED_PROXIES", "127.0.0.1"), ("PASSWORD_ATTEMPTS_PER_ADDRESS", "3/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        let log_in = async |number: usize, forwarded: &str| {
            let (name, forwarded) = (format!("nobody{number}"), [("x-forwarded-for", forwarded)]);
            app.visitor()
                .post_with("/test/log-in", &[("username", &name), ("password", "wrong")], &forwarded)
                .await
                .status
        };
        for (number, hops) in
            ["203.0.113.9:5000", "[2001:db8::9]:5000", "\"198.51.100.9\"", "::ffff:192.0.2.9"].iter().enumerate()
        {
            let ways = [hops.to_string(), format!("unknown, {hops}"), format!("192.0.2.{number}, \u{ff}, {hops}, ")];
            for forwarded in &ways {
                assert_eq!(log_in(number, forwarded).await, 422, "{forwarded}");
            }
            assert_eq!(log_in(number, &ways[1]).await, 429, "{hops}");
        }
    }

    #[tokio::test]
    async fn no_other_header_says_who_a_client_is() {
        let app = TestApp::with_env(&[("TRUSTED_PROXIES", "127.0.0.1")], routes()).await;
        for name in [
            "forwarded",
            "x-forwarded",
            "forwarded-for",
            "x-real-ip",
            "x-client-ip",
            "client-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "x-original-forwarded-for",
            "x-envoy-external-address",
            "via",
        ] {
            for value in ["203.0.113.9", "for=203.0.113.9", "\"203.0.113.9:51234\""] {
                app.visitor().get_with("/address", &[(name, value)]).await.assert_body("127.0.0.1");
            }
        }
    }

    #[test]
    fn an_address_is_read_in_every_form_that_proxies_write() {
        for (hop, address) in [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:51234", "203.0.113.9"),
            ("\"203.0.113.9:51234\"", "203.0.113.9"),
            ("2001:db8::9", "2001:db8::9"),
            ("[2001:db8::9]", "2001:db8::9"),
            ("[2001:db8::9]:51234", "2001:db8::9"),
            ("\"[2001:db8::9]:51234\"", "2001:db8::9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("[::ffff:203.0.113.9]:51234", "203.0.113.9"),
            ("::FFFF:CB00:7109", "203.0.113.9"),
            ("fe80::9%eth0", "fe80::9"),
            ("[fe80::9%2]", "fe80::9"),
            ("[fe80::9%eth0]:51234", "fe80::9"),
        ] {
            assert_eq!(parse_hop(hop.as_bytes()), Some(address.parse().unwrap()), "{hop}");
        }
        for hop in [
            &b"unknown"[..],
            b"_hidden",
            b"203.0.113.9:",
            b"203.0.113.9:x",
            b"203.0.113",
            b"203.0.113.009",
            b"203.0.113.9:65536",
            b"203.0.113.9 203.0.113.9",
            b"[203.0.113.9]",
            b"[2001:db8::9",
            b"[2001:db8::9]x",
            b"2001:db8::9]:51234",
            b"2001:db8:0:0:0:0:0:9:51234",
            b"for=203.0.113.9",
            b"'203.0.113.9'",
            b"\"203.0.113.9",
            b"example.com",
            b"203.0.113.9\xff",
            b"\xef\xbc\x92.0.113.9",
            b"\xff",
            b"\"",
            b"%",
        ] {
            assert_eq!(parse_hop(hop), None, "{hop:?}");
        }
    }

    #[tokio::test]
    async fn what_a_client_wrote_before_its_own_address_hides_it_from_nobody() {
        let app = TestApp::with_env(&[("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")], routes()).await;
        let through = async |hops: &[u8]| {
            let value = HeaderValue::from_bytes(hops).unwrap();
            let mut request = Request::get("/address").header("host", "localhost").body(Body::empty()).unwrap();
            request.headers_mut().insert(FORWARDED_FOR, value);
            address(&app.app.config, IpAddr::V4(Ipv4Addr::LOCALHOST), request.headers()).to_string()
        };
        assert_eq!(through(b"198.51.100.1, \xff\xfe, 203.0.113.9").await, "203.0.113.9");
        assert_eq!(through(b"nonsense,203.0.113.9:51234").await, "203.0.113.9");
        assert_eq!(through(b"203.0.113.9, , 10.1.2.3:80,").await, "203.0.113.9");
        assert_eq!(through(b"203.0.113.9, \xff, 10.1.2.3").await, "10.1.2.3", "never one further left");
        assert_eq!(through(b"203.0.113.9, unknown").await, "127.0.0.1");
    }
}
