//! Where mails go, as `SMTP_URL` says.

use anyhow::{Context, Result, bail, ensure};
use std::net::IpAddr;
use url::Url;

pub enum MailDelivery {
    /// The site sends no mail, and what needs mail is hidden.
    Off,
    /// Without `SMTP_URL`, in development: mails stay in this process.
    Development,
    /// The server, as lettre reads it.
    Smtp(Url),
}

impl MailDelivery {
    /// # Errors
    /// One sentence that says what to set. It does not repeat the URL, which holds a password.
    pub fn parse(smtp_url: Option<&str>) -> Result<MailDelivery> {
        match smtp_url {
            None => Ok(MailDelivery::Development),
            Some("none") => Ok(MailDelivery::Off),
            Some(text) => parse_url(text).map(MailDelivery::Smtp),
        }
    }
}

fn parse_url(text: &str) -> Result<Url> {
    let mut url = Url::parse(text).context("SMTP_URL is not an address such as smtps://name:password@host")?;
    let host = url.host_str().context("SMTP_URL names no server")?;
    ensure!(!host.starts_with('['), "SMTP_URL: give the server's name or its IPv4 address");
    let required = url.query() == Some("tls=required");
    // Half of a password that is not percent-encoded can end up here. lettre would announce itself by a path.
    ensure!(
        (required || url.query().is_none()) && matches!(url.path(), "" | "/") && url.fragment().is_none(),
        "SMTP_URL: after the server only ?tls=required can follow, and name and password must be percent-encoded"
    );
    // lettre would log in as nobody.
    ensure!(url.username().is_empty() || url.password().is_some(), "SMTP_URL: a name needs a password");
    match url.scheme() {
        "smtps" => {}
        // lettre would send everything in the clear without this parameter.
        "smtp" if required || !is_private_host(host) => url.set_query(Some("tls=required")),
        "smtp" => url.set_query(Some("tls=opportunistic")),
        _ => bail!("SMTP_URL must begin with smtps:// or smtp://, or be none"),
    }
    Ok(url)
}

/// Whether a host is this machine, in a private network (RFC 1918, RFC 4193), or a name that only such a network knows.
pub fn is_private_host(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => !host.contains('.') || host.ends_with(".internal") || host.ends_with(".local"),
    }
}
