//! Where mails are sent, from `SMTP_URL`, `SMTP_HELO` and `SMTP_CA`.

use super::env::{Env, check_path};
use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use std::net::{IpAddr, Ipv4Addr};
use url::{Host, Url};

pub enum MailDelivery {
    /// The site sends no mail, and everything that needs mail is disabled.
    Off,
    /// In development without `SMTP_URL`: mails are not sent.
    Development,
    Smtp(SmtpServer),
}

/// The mail server of the site.
#[derive(Clone)]
pub struct SmtpServer {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    /// Name and password.
    pub credentials: Option<(String, String)>,
    /// The name that the site sends in EHLO.
    pub helo: String,
    /// The certificates of `SMTP_CA`, in PEM, which are trusted in addition to those of the system.
    pub ca: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte.
    Implicit,
    Required,
    /// If the server offers it.
    Optional,
    Off,
}

impl MailDelivery {
    /// # Errors
    /// One sentence that says what to set. It does not repeat the URL, which contains a password.
    pub fn from_env(env: &Env, site: &Url) -> Result<MailDelivery> {
        let (url, helo, ca) = (env.text("SMTP_URL")?, env.text("SMTP_HELO")?, env.text("SMTP_CA")?);
        match url {
            None => Ok(MailDelivery::Development),
            Some("none") => Ok(MailDelivery::Off),
            Some(text) => {
                let (server, helo) = (parse_url(text)?, parse_helo(helo, site)?);
                let ca = ca.map(read_certificates).transpose()?;
                Ok(MailDelivery::Smtp(SmtpServer { helo, ca, ..server }))
            }
        }
    }
}

fn parse_url(text: &str) -> Result<SmtpServer> {
    let url = Url::parse(text).ok().context(
        "SMTP_URL is not an address such as smtps://name:password@host; in the name and the password special \
         characters must be percent-encoded, for example / as %2F",
    )?;
    ensure!(matches!(url.scheme(), "smtp" | "smtps"), "SMTP_URL must begin with smtps:// or smtp://, or be none");
    let host = url.host_str().filter(|host| !host.is_empty()).context("SMTP_URL names no server")?;
    let host = host.trim_matches(['[', ']']).to_string();
    // Part of a password that is not percent-encoded can end up here.
    ensure!(
        matches!(url.path(), "" | "/") && url.fragment().is_none(),
        "SMTP_URL: after the server only ?tls=required or ?tls=none can follow, and name and password must be \
         percent-encoded"
    );
    let (tls, port) = match (url.scheme(), url.query()) {
        ("smtps", None | Some("tls=required")) => (SmtpTls::Implicit, 465),
        ("smtp", None) if is_private_host(&host) => (SmtpTls::Optional, 587),
        ("smtp", None | Some("tls=required")) => (SmtpTls::Required, 587),
        ("smtp", Some("tls=none")) if is_this_machine(&host) => (SmtpTls::Off, 25),
        ("smtp", Some("tls=none")) => bail!("SMTP_URL: ?tls=none is only for a server on this machine"),
        _ => bail!("SMTP_URL: after the server only ?tls=required can follow, or ?tls=none for one on this machine"),
    };
    let port = url.port().unwrap_or(port);
    Ok(SmtpServer { host, port, tls, credentials: parse_credentials(&url)?, helo: String::new(), ca: None })
}

fn parse_credentials(url: &Url) -> Result<Option<(String, String)>> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode = |text| percent_decode_str(text).decode_utf8().map(String::from);
    let password = url.password().context("SMTP_URL: a name needs a password")?;
    let decoded = decode(url.username()).ok().zip(decode(password).ok());
    decoded.map(Some).context("SMTP_URL: name and password must be percent-encoded UTF-8")
}

/// A name, or an IP address, which is sent in brackets (RFC 5321, 4.1.3). By default that of the site.
fn parse_helo(text: Option<&str>, site: &Url) -> Result<String> {
    let Some(text) = text else {
        return Ok(match site.host() {
            Some(Host::Domain(name)) => name.to_string(),
            Some(Host::Ipv4(address)) => literal(address.into()),
            Some(Host::Ipv6(address)) => literal(address.into()),
            None => literal(Ipv4Addr::LOCALHOST.into()),
        });
    };
    let bare = text.trim_matches(['[', ']']);
    if let Ok(address) = bare.strip_prefix("IPv6:").unwrap_or(bare).parse() {
        return Ok(literal(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(is_inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    ensure!(
        name.len() <= 253 && name.split('.').all(is_label) && !is_number,
        "SMTP_HELO must be a host name in ASCII, or an IP address"
    );
    Ok(name.to_string())
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

fn read_certificates(file: &str) -> Result<Vec<u8>> {
    check_path("SMTP_CA", file)?;
    let bytes = std::fs::read(file).context("the file that SMTP_CA names cannot be read")?;
    let has_one = bytes.windows(BEGIN.len()).any(|part| part == BEGIN);
    ensure!(has_one, "the file that SMTP_CA names has no PEM certificate, which begins with BEGIN CERTIFICATE");
    Ok(bytes)
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Whether a host is this machine.
fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a host is this machine, in a private network (RFC 1918, RFC 4193), or has a name that only exists in such a
/// network.
pub fn is_private_host(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => !host.contains('.') || host.ends_with(".internal") || host.ends_with(".local"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(settings: &[(&str, &str)]) -> Result<SmtpServer> {
        let site = Url::parse("https://app.example.com:8443").unwrap();
        match MailDelivery::from_env(&settings.iter().copied().collect(), &site)? {
            MailDelivery::Smtp(server) => Ok(server),
            _ => bail!("no server"),
        }
    }

    fn refusal(settings: &[(&str, &str)]) -> String {
        server(settings).err().expect("it is refused").to_string()
    }

    #[test]
    fn an_address_says_which_server_and_whether_by_tls() {
        for (url, host, port, tls) in [
            ("smtps://mail.example.com", "mail.example.com", 465, SmtpTls::Implicit),
            ("smtps://mail.example.com:4650?tls=required", "mail.example.com", 4650, SmtpTls::Implicit),
            ("smtp://mail.example.com", "mail.example.com", 587, SmtpTls::Required),
            ("smtp://mail.example.com:25/", "mail.example.com", 25, SmtpTls::Required),
            ("smtp://mail.internal?tls=required", "mail.internal", 587, SmtpTls::Required),
            ("smtp://mail.internal", "mail.internal", 587, SmtpTls::Optional),
            ("smtp://10.0.0.1:25", "10.0.0.1", 25, SmtpTls::Optional),
            ("smtp://localhost?tls=none", "localhost", 25, SmtpTls::Off),
            ("smtp://LOCALHOST:2525?tls=none", "LOCALHOST", 2525, SmtpTls::Off),
            ("smtp://127.0.0.2?tls=none", "127.0.0.2", 25, SmtpTls::Off),
            ("smtp://[::1]:25?tls=none", "::1", 25, SmtpTls::Off),
            ("smtps://[2001:db8::1]", "2001:db8::1", 465, SmtpTls::Implicit),
        ] {
            let server = server(&[("SMTP_URL", url)]).unwrap();
            assert_eq!((&*server.host, server.port, server.tls), (host, port, tls), "{url}");
        }
        let named = server(&[("SMTP_URL", "smtps://ada%40example.com:p%40ss%2F%25@host")]).unwrap();
        assert_eq!(named.credentials, Some(("ada@example.com".into(), "p@ss/%".into())));
    }

    #[test]
    fn what_would_send_in_the_clear_or_as_nobody_is_refused() {
        for (url, words) in [
            ("smtp://mail.internal?tls=none", "only for a server on this machine"),
            ("smtp://10.0.0.1?tls=none", "only for a server on this machine"),
            ("smtp://localhost.example.com?tls=none", "only for a server on this machine"),
            ("smtps://localhost?tls=none", "only ?tls=required"),
            ("smtp://localhost?tls=NONE", "only ?tls=required"),
            ("smtp://:swordfish@", "not an address"),
            ("smtp:///x", "names no server"),
            ("smtps://ada@mail.example.com", "a name needs a password"),
            ("smtps://ada:%ff@mail.example.com", "percent-encoded UTF-8"),
        ] {
            let refusal = refusal(&[("SMTP_URL", url)]);
            assert!(refusal.contains(words) && !refusal.contains("swordfish"), "{url}: {refusal}");
        }
    }

    #[test]
    fn the_site_introduces_itself_by_its_host_or_by_what_is_set() {
        let helo = |name| {
            let settings = [("SMTP_URL", "smtp://localhost"), ("SMTP_HELO", name)];
            server(&settings).map(|server| server.helo)
        };
        for (name, helo_line) in [
            ("", "app.example.com"),
            ("mail-1.example.com", "mail-1.example.com"),
            ("example.com.", "example.com"),
            ("192.0.2.1", "[192.0.2.1]"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(helo(name).unwrap(), helo_line);
        }
        for name in
            ["a b", "bücher.example", "a..b", "a.example\r\nRSET", ".", "a_b", "-x", "x-.example", "300.1.1.1", "1.2.3"]
        {
            assert!(helo(name).unwrap_err().to_string().contains("SMTP_HELO"), "{name:?}");
        }
    }

    #[test]
    fn certificates_are_read_at_the_start() {
        let refused = |file: &str| refusal(&[("SMTP_URL", "smtps://localhost"), ("SMTP_CA", file)]);
        assert!(refused("/there/is/none.pem").contains("SMTP_CA names cannot be read"));
        assert!(refused("Cargo.toml").contains("no PEM certificate"));
    }
}
