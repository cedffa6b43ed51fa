//! Reads the [`Client`] of a request: the network address behind trusted proxies, and the `User-Agent`.

use super::app::App;
use crate::accounts::Client;
use crate::base::Config;
use crate::db::rate_limit::network;
use crate::db::request::Requester;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Client, Infallible> {
        Ok(client(&app.config, &parts.extensions, &parts.headers))
    }
}

/// What tells the senders of requests apart while nobody has asked who is logged in.
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
/// left of it is what the client claims.
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
    use crate::test::TestApp;
    use crate::web::{Access, Routes};

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
        assert_eq!(through("127.0.0.1", &[]).await, "127.0.0.1");
    }
}
