//! The client that sent a request: its network address and user agent.

use std::net::{IpAddr, Ipv4Addr};

/// What is recorded with sessions and events.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: IpAddr,
    /// The `User-Agent`, without control characters and at most 200 characters long.
    pub user_agent: String,
}

const USER_AGENT_LENGTH: usize = 200;

impl Client {
    pub fn new(address: IpAddr, user_agent: &[u8]) -> Client {
        let text = String::from_utf8_lossy(user_agent);
        let user_agent = text.chars().filter(|c| !c.is_control()).take(USER_AGENT_LENGTH).collect();
        Client { address, user_agent }
    }

    /// A client on this machine.
    pub fn local(user_agent: &str) -> Client {
        Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST), user_agent.as_bytes())
    }
}

/// Names in the `User-Agent` header, more specific ones first, because most browsers name others too.
const BROWSERS: [(&str, &str); 11] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Vivaldi", "Vivaldi"),
    ("FxiOS", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("command line", "The command line"),
];

const SYSTEMS: [(&str, &str); 7] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
];

/// A `User-Agent` in words, such as `Firefox on Linux`; the same for all versions of a browser.
pub fn device_name(user_agent: &str) -> String {
    let named = |names: &[(&str, &'static str)]| {
        names.iter().find(|(mark, _)| user_agent.contains(mark)).map(|&(_, name)| name)
    };
    match (named(&BROWSERS), named(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_string(),
        (None, Some(system)) => format!("A browser on {system}"),
        // Only a name, because an attacker who guesses passwords could otherwise leave the owner a message here.
        (None, None) => {
            let name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            match user_agent.chars().take_while(name).take(20).collect::<String>() {
                name if name.is_empty() => "Something without a name".to_string(),
                name => format!("A program named {name}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_its_name_when_its_browser_is_updated() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                    Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0";
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 \
                     (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1";
        assert_eq!(device_name(firefox), "Firefox on Linux");
        assert_eq!(device_name(&firefox.replace("145", "146")), device_name(firefox));
        assert_eq!(device_name(edge), "Edge on Windows");
        assert_eq!(device_name(phone), "Safari on iPhone");
        assert_eq!(device_name("curl/8.5.0"), "curl");
        assert_eq!(device_name(""), "Something without a name");
        assert_eq!(device_name("python-requests/2.32"), "A program named python-requests");
        assert_eq!(device_name("Your account is at risk: call +1 555 0100"), "A program named Your");
        assert_eq!(device_name("\u{202e}evil"), "Something without a name");
    }
}
