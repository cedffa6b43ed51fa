//! The configuration, read from the environment once, at start.
//!
//! The site does not start with an invalid value or an unsafe combination of values; the error is one sentence that
//! says what to set. Features read their own variables from [`Env`] in `feature(env)`, so this file has only what core
//! needs.

use super::database_url;
pub use super::database_url::is_sqlite;
use super::env::{Backoff, Env, Rate};
use super::policy::{SignUps, TwoFactorPolicy};
use super::smtp::MailDelivery;
use super::token::Token;
use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use lettre::message::Mailbox;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use url::{Host, Url};

pub struct Config {
    pub site_name: String,
    pub host: IpAddr,
    pub port: u16,
    /// The site's public address. With `PORT=0` and no `BASE_URL`, its port is set when the socket is bound.
    pub base_url: Url,
    pub base_url_given: bool,
    development: bool,
    pub database_url: String,
    pub database_direct_url: String,
    pub database_pool: u32,
    pub trusted_proxies: Vec<IpNet>,
    pub insecure_http: bool,
    /// Whether browsers should use https for all subdomains too.
    pub hsts_subdomains: bool,
    pub log_json: bool,
    /// `RUST_LOG`.
    pub log_filter: Option<String>,
    pub mail: MailDelivery,
    pub mail_from: Mailbox,
    pub mails_per_account: Rate,
    pub mails_per_address: Rate,
    /// `None` means no limit.
    pub mails_per_day: Option<u32>,
    /// How long the links in mails work.
    pub reset_lifetime: Duration,
    pub verify_lifetime: Duration,
    pub undo_lifetime: Duration,
    /// The keys of `SECRET_KEY`, newest first.
    pub secret_keys: Vec<String>,
    /// Whether the site starts although it has a secret that none of them opens.
    pub secret_key_lost: bool,
    pub require_two_factor: TwoFactorPolicy,
    pub sign_ups: SignUps,
    /// How long a log-in may wait for its second factor.
    pub login_lifetime: Duration,
    pub session_lifetime: Duration,
    pub session_idle: Duration,
    pub sessions_per_user: i64,
    pub confirm_lifetime: Duration,
    pub name_rest: Duration,
    pub purge_every: Duration,
    pub events_kept: Duration,
    pub password_backoff: Backoff,
    /// After this many wrong passwords in a row, the right one only works on known devices.
    pub password_disable_after: i64,
    pub password_attempts_per_address: Rate,
    pub signups_per_address: Rate,
    pub password_iterations: u32,
    pub password_min_length: usize,
    pub hash_jobs: usize,
    pub hash_queue: usize,
    pub hash_wait: Duration,
    /// Maximum bytes of a request's body.
    pub body_limit: usize,
    /// Maximum open connections, in all and from one network.
    pub connections: usize,
    pub connections_per_address: usize,
    /// How long a client may take for the head of a request, from its first byte, or to send anything at all.
    pub head_timeout: Duration,
    /// How long a connection may be idle after an answer.
    pub keep_alive: Duration,
    pub body_timeout: Duration,
    pub handler_timeout: Duration,
    pub drain_timeout: Duration,
}

impl Config {
    pub fn from_env(env: &Env) -> Result<Config> {
        let port = env.number("PORT", 8000, 0..=u16::MAX)?;
        let base_url = env.text("BASE_URL")?;
        let database_url = env.text("DATABASE_URL")?.unwrap_or(database_url::DEFAULT_DATABASE).to_string();
        let mut site = parse_base_url("BASE_URL", base_url.unwrap_or(&format!("http://localhost:{port}")))?;
        let development = is_loopback(site.host());
        let development_url = env.text("DEVELOPMENT_URL")?;
        if let Some(address) = development_url {
            ensure!(development, "DEVELOPMENT_URL is only for a site in development: remove it, or remove BASE_URL");
            site = parse_base_url("DEVELOPMENT_URL", address)?;
        }
        let site_name = env.text("SITE_NAME")?.unwrap_or("Latchkey");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let config = Config {
            site_name: site_name.to_string(),
            host: parse_host(env.text("HOST")?.unwrap_or("localhost"))?,
            port,
            base_url_given: base_url.or(development_url).is_some(),
            development,
            database_direct_url: env.text("DATABASE_DIRECT_URL")?.unwrap_or(&database_url).to_string(),
            database_url,
            // Two of its connections look up sessions.
            database_pool: env.number("DATABASE_POOL", 8, 3..=1000)?,
            trusted_proxies: parse_proxies(env.text("TRUSTED_PROXIES")?.unwrap_or("none"))?,
            insecure_http: env.yes("INSECURE_HTTP")?,
            hsts_subdomains: env.yes("HSTS_SUBDOMAINS")?,
            log_json: match env.text("LOG_FORMAT")? {
                None | Some("text") => false,
                Some("json") => true,
                Some(_) => bail!("LOG_FORMAT must be text or json"),
            },
            log_filter: env.text("RUST_LOG")?.map(String::from),
            mail: MailDelivery::from_env(env, &site)?,
            mail_from: parse_sender(env.text("MAIL_FROM")?, site_name, &site)?,
            mails_per_account: env.rate("MAILS_PER_ACCOUNT", "3/1h")?,
            mails_per_address: env.rate("MAILS_PER_ADDRESS", "10/1h")?,
            mails_per_day: match env.text("MAILS_PER_DAY")? {
                None | Some("off") => None,
                Some(_) => Some(env.number("MAILS_PER_DAY", 1, 1..=1_000_000_000)?),
            },
            reset_lifetime: env.duration("RESET_LIFETIME", "15m")?,
            verify_lifetime: env.duration("VERIFY_LIFETIME", "24h")?,
            undo_lifetime: env.duration("UNDO_LIFETIME", "7d")?,
            base_url: site,
            secret_keys: env.text("SECRET_KEY")?.map_or(Vec::new(), parse_keys),
            secret_key_lost: env.yes("SECRET_KEY_LOST")?,
            require_two_factor: TwoFactorPolicy::parse(env.text("REQUIRE_TWO_FACTOR")?)?,
            sign_ups: SignUps::parse(env.text("SIGNUPS")?)?,
            login_lifetime: env.duration("LOGIN_LIFETIME", "5m")?,
            session_lifetime: env.duration("SESSION_LIFETIME", "30d")?,
            session_idle: env.duration("SESSION_IDLE", "7d")?,
            sessions_per_user: env.number("SESSIONS_PER_USER", 50, 1..=MANY)?,
            confirm_lifetime: env.duration("CONFIRM_LIFETIME", "10m")?,
            name_rest: env.duration("NAME_REST", "90d")?,
            purge_every: env.duration("PURGE_EVERY", "10m")?,
            events_kept: env.duration("EVENTS_KEPT", "180d")?,
            password_backoff: Backoff {
                free: env.number("PASSWORD_FREE_ATTEMPTS", 5, 1..=MANY)?,
                delay: env.duration("PASSWORD_DELAY", "30s")?,
            },
            password_disable_after: env.number("PASSWORD_DISABLE_AFTER", 100, 1..=MANY)?,
            password_attempts_per_address: env.rate("PASSWORD_ATTEMPTS_PER_ADDRESS", "10/3m")?,
            signups_per_address: env.rate("SIGNUPS_PER_ADDRESS", "10/1h")?,
            password_iterations: env.number("PASSWORD_ITERATIONS", PASSWORD_ITERATIONS, 1..=u32::MAX)?,
            password_min_length: env.number("PASSWORD_MIN_LENGTH", PASSWORD_MIN_LENGTH, 1..=256)?,
            hash_jobs: env.number("HASH_JOBS", cores, 1..=1024)?,
            hash_queue: env.number("HASH_QUEUE", 64, 1..=1_000_000)?,
            hash_wait: env.duration("HASH_WAIT", "2s")?,
            body_limit: env.number("BODY_LIMIT", 64 * 1024, 1..=1 << 30)?,
            connections: env.number("CONNECTIONS", 10_000, 1..=1_000_000)?,
            connections_per_address: env.number("CONNECTIONS_PER_ADDRESS", 512, 1..=1_000_000)?,
            head_timeout: env.duration("HEAD_TIMEOUT", "10s")?,
            keep_alive: env.duration("KEEP_ALIVE", "75s")?,
            body_timeout: env.duration("BODY_TIMEOUT", "10s")?,
            handler_timeout: env.duration("HANDLER_TIMEOUT", "10s")?,
            drain_timeout: env.duration("DRAIN_TIMEOUT", "15s")?,
        };
        config.check(env)?;
        Ok(config)
    }

    /// A site is in development if the host of its `BASE_URL` is localhost, 127.0.0.1 or [::1], even if a tunnel makes
    /// it available at another address (`DEVELOPMENT_URL`). Any other site is in production.
    pub fn development(&self) -> bool {
        self.development
    }

    /// Whether the site is in development and can be reached from outside.
    pub fn is_forwarded(&self) -> bool {
        self.development && !is_loopback(self.base_url.host())
    }

    /// Whether the site is on https. Only the scheme of `BASE_URL` decides, never a header.
    pub fn https(&self) -> bool {
        self.base_url.scheme() == "https"
    }

    /// The site's origin as browsers write it, such as `https://example.com`.
    pub fn origin(&self) -> String {
        self.base_url.origin().ascii_serialization()
    }

    /// The address of one of the site's pages; `{token}` in its path stands for the token.
    pub fn link(&self, path: &str, token: &Token) -> String {
        self.origin() + &path.replace("{token}", &token.text())
    }

    fn check(&self, env: &Env) -> Result<()> {
        ensure!(
            !IpNet::aggregate(&self.trusted_proxies).iter().any(is_too_wide),
            "TRUSTED_PROXIES has a range wider than a private network, so clients could claim any address: list only \
             your proxies"
        );
        ensure!(
            !self.secret_keys.iter().any(String::is_empty),
            "one of the keys in SECRET_KEY is empty: remove the comma, or add the missing key"
        );
        ensure!(
            self.secret_keys.iter().all(|key| key.len() >= SHORTEST_KEY),
            "a key in SECRET_KEY is too short: set the whole key that this site used, or for a new site the output of \
             openssl rand -base64 32"
        );
        let databases = [("DATABASE_URL", &self.database_url), ("DATABASE_DIRECT_URL", &self.database_direct_url)];
        databases.iter().try_for_each(|(variable, url)| database_url::check(variable, url))?;
        ensure!(
            is_sqlite(&self.database_url) == is_sqlite(&self.database_direct_url),
            "DATABASE_URL and DATABASE_DIRECT_URL must name the same database, but have different engines"
        );
        if self.development() {
            ensure!(
                self.host.is_loopback(),
                "HOST={} would expose a site in development to the network: set BASE_URL to the public address of the \
                 site, or remove HOST",
                self.host
            );
            return Ok(());
        }
        ensure!(
            self.https() || self.insecure_http,
            "BASE_URL={} is not https, so passwords could be read on the network: set it to an https address, or set \
             INSECURE_HTTP=yes on a network that you fully control",
            self.base_url
        );
        ensure!(
            env.text("TRUSTED_PROXIES")?.is_some(),
            "TRUSTED_PROXIES must be set in production: the addresses of the proxies in front of the site, such as \
             10.0.0.0/8, or none"
        );
        ensure!(
            env.text("SMTP_URL")?.is_some(),
            "SMTP_URL must be set in production: the server that sends mail, such as smtps://name:password@host, or \
             none, which disables everything that needs mail"
        );
        ensure!(
            self.password_iterations >= PASSWORD_ITERATIONS,
            "PASSWORD_ITERATIONS={} is too weak for production: the minimum is {PASSWORD_ITERATIONS}",
            self.password_iterations
        );
        ensure!(
            self.password_min_length >= PASSWORD_MIN_LENGTH,
            "PASSWORD_MIN_LENGTH={} is too weak for production: the minimum is {PASSWORD_MIN_LENGTH}",
            self.password_min_length
        );
        databases.iter().try_for_each(|(variable, url)| database_url::check_transport(variable, url))
    }
}

/// Keys are separated by commas; spaces around them are ignored.
fn parse_keys(text: &str) -> Vec<String> {
    text.split(',').map(|key| key.trim().to_string()).collect()
}

/// Minimum bytes of a key in `SECRET_KEY`.
pub const SHORTEST_KEY: usize = 32;

/// Practically no limit.
const MANY: i64 = 1_000_000_000;

/// OWASP's password storage cheat sheet for PBKDF2-HMAC-SHA256.
const PASSWORD_ITERATIONS: u32 = 600_000;

/// OWASP ASVS 5.0, 6.2.1.
const PASSWORD_MIN_LENGTH: usize = 8;

/// An IP address, with or without the brackets of a URL. The only name that is accepted is `localhost`.
fn parse_host(text: &str) -> Result<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let host = in_brackets.map_or_else(|| text.parse().ok(), |text| text.parse().ok().map(IpAddr::V6));
    host.map(|host| host.to_canonical()).context(
        "HOST must be an address of this machine without a port: 127.0.0.1 or ::1 for this machine only, 0.0.0.0 or \
         :: for all",
    )
}

fn parse_base_url(name: &str, text: &str) -> Result<Url> {
    let form = || format!("{name} must have only scheme, host and port, such as https://example.com");
    let mut url = Url::parse(text).ok().with_context(form)?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    ensure!(matches!(url.scheme(), "http" | "https") && url.host().is_some() && bare, form());
    ensure!(
        url.domain().is_none_or(is_name),
        "{name} must have the name of one host, such as https://example.com, without * and empty parts"
    );
    // The final dot of a fully qualified name, which browsers do not send.
    if let Some(host) = url.domain().and_then(|host| host.strip_suffix('.')).map(String::from) {
        url.set_host(Some(&host)).ok().with_context(form)?;
    }
    Ok(url)
}

/// Whether every part consists of letters, digits, hyphens and underscores. A final dot is allowed.
fn is_name(domain: &str) -> bool {
    let fits = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    domain.strip_suffix('.').unwrap_or(domain).split('.').all(fits)
}

fn parse_sender(text: Option<&str>, site_name: &str, site: &Url) -> Result<Mailbox> {
    if let Some(text) = text {
        let sender: Mailbox = text.parse().ok().context(
            "MAIL_FROM must be written Name <address@example.com>, with quotes around a name that has characters \
             other than letters, digits and spaces: \"Acme, Inc.\" <address@example.com>",
        )?;
        ensure!(
            sender.email.to_string().is_ascii(),
            "MAIL_FROM must have an address in ASCII, because most mail servers accept nothing else: write a domain \
             such as münchen.de as xn--mnchen-3ya.de"
        );
        return Ok(sender);
    }
    // A site at an IP address has no domain to send from.
    let host = site.domain().unwrap_or("localhost");
    Ok(Mailbox::new(Some(site_name.to_string()), format!("no-reply@{host}").parse()?))
}

fn parse_proxies(text: &str) -> Result<Vec<IpNet>> {
    let proxy = |text: &str| {
        let text = text.trim();
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.ok()
            .map(to_canonical)
            .context("TRUSTED_PROXIES must be none, or addresses and ranges such as 10.0.0.0/8, separated by commas")
    };
    if text == "none" { Ok(Vec::new()) } else { text.split(',').map(proxy).collect() }
}

/// Turns an IPv4 range that is written in IPv6 notation into an IPv4 range.
fn to_canonical(net: IpNet) -> IpNet {
    let v4 = match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => {
            net.network().to_ipv4_mapped().and_then(|v4| Ipv4Net::new(v4, net.prefix_len() - 96).ok())
        }
        _ => None,
    };
    v4.map_or(net, IpNet::V4)
}

/// Whether it is wider than the widest private network: 10.0.0.0/8, fc00::/7.
fn is_too_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 7,
    }
}

pub fn is_loopback(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address == Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(pairs: &[(&str, &str)]) -> String {
        Config::from_env(&pairs.iter().copied().collect()).err().expect("it must not start").to_string()
    }

    #[test]
    fn an_empty_environment_is_a_site_in_development() {
        let config = Config::from_env(&Env::default()).unwrap();
        assert!(config.development());
        assert_eq!(config.origin(), "http://localhost:8000");
        assert_eq!(config.session_lifetime, Duration::from_secs(30 * 24 * 60 * 60));
    }

    #[test]
    fn an_address_in_any_script_is_the_one_that_browsers_send() {
        for (written, sent) in [
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://BÜCHER.example", "https://xn--bcher-kva.example"),
            ("https://straße.example", "https://xn--strae-oqa.example"),
            ("https://例え。テスト", "https://xn--r8jz45g.xn--zckzah"),
            ("https://ｅｘａｍｐｌｅ.com", "https://example.com"),
            ("https://مثال.example", "https://xn--mgbh0fb.example"),
        ] {
            assert_eq!(parse_base_url("BASE_URL", written).unwrap().origin().ascii_serialization(), sent);
        }
        for wrong in ["https://example..com", "https://*.example.com", "https://.example.com", "https://example.com.."]
        {
            let error = parse_base_url("BASE_URL", wrong).unwrap_err().to_string();
            assert!(error.starts_with("BASE_URL must have the name of one host"), "{error}");
        }
        // A label of right-to-left letters and Latin ones, and one that is no Punycode.
        for wrong in ["https://aمثال.example", "https://xn--a.example", "https://\u{200d}a.example"] {
            assert!(parse_base_url("BASE_URL", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_dangerous_combination_says_what_to_set() {
        let production = [("BASE_URL", "https://example.com"), ("TRUSTED_PROXIES", "none"), ("SMTP_URL", "none")];
        assert!(Config::from_env(&production.into_iter().collect()).is_ok());
        let with = |more: &[(&'static str, &'static str)]| {
            sentence(&production.iter().chain(more).copied().collect::<Vec<_>>())
        };
        for (sentence, cure) in [
            (sentence(&[("HOST", "0.0.0.0")]), "BASE_URL"),
            (sentence(&[("BASE_URL", "http://example.com"), ("TRUSTED_PROXIES", "none")]), "INSECURE_HTTP"),
            (sentence(&[("BASE_URL", "https://example.com")]), "TRUSTED_PROXIES"),
            (sentence(&[("BASE_URL", "https://example.com/app")]), "only scheme, host and port"),
            (sentence(&[("PORT", "many")]), "PORT"),
            (sentence(&[("SESSION_IDLE", "0s")]), "SESSION_IDLE"),
            (sentence(&[("SESSION_IDLE", "5 minutes")]), "whole number"),
            (sentence(&[("SIGNUPS_PER_ADDRESS", "10")]), "10/1h"),
            (sentence(&[("PASSWORD_ATTEMPTS_PER_ADDRESS", "0/1h")]), "10/3m"),
            (sentence(&[("PASSWORD_FREE_ATTEMPTS", "0")]), "whole number from 1"),
            (sentence(&[("SECRET_KEY", "swordfish")]), "openssl rand"),
            (
                sentence(&[("SECRET_KEY", "a key for tests alone with 32 bytes or more,")]),
                "one of the keys in SECRET_KEY is empty",
            ),
            (sentence(&[("SECRET_KEY", ",a key for tests alone with 32 bytes or more")]), "remove the comma"),
            (
                sentence(&[(
                    "SECRET_KEY",
                    "a key for tests alone with 32 bytes or more,,another one of 32 bytes, for tests alone",
                )]),
                "is empty",
            ),
            (sentence(&[("SESSION_LIFETIME", "99999999999999d")]), "SESSION_LIFETIME"),
            (sentence(&[("TRUSTED_PROXIES", "the proxy")]), "range"),
            (sentence(&[("DATABASE_URL", "mysql://localhost/app")]), "sqlite://"),
            (sentence(&[("DATABASE_URL", "sqlite://a.db?mode=memory")]), "must name a file"),
            #[cfg(all(feature = "sqlite", feature = "postgres"))]
            (
                sentence(&[("DATABASE_URL", "sqlite://a.db"), ("DATABASE_DIRECT_URL", "postgres://localhost/app")]),
                "different engines",
            ),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/0")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/1,128.0.0.0/1")]), "list only your proxies"),
            (
                sentence(&[("TRUSTED_PROXIES", "0.0.0.0/2, 64.0.0.0/2, 127.0.0.1, 128.0.0.0/1")]),
                "list only your proxies",
            ),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/1,128.0.0.0/2,192.0.0.0/3")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "10.0.0.1,::/0")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::/1,8000::/1")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "2000::/3")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::ffff:0.0.0.0/96")]), "list only your proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::ffff:0.0.0.0/97,::ffff:128.0.0.0/97")]), "list only your proxies"),
            (sentence(&[("HASH_JOBS", "18446744073709551615")]), "HASH_JOBS"),
            (sentence(&[("HASH_QUEUE", "0")]), "HASH_QUEUE"),
            (sentence(&[("BASE_URL", "https://:pw@example.com")]), "only scheme, host and port"),
            (sentence(&production[..2]), "SMTP_URL must be set in production"),
            (sentence(&[("SMTP_URL", "mail.example.com")]), "smtps://name:password@host"),
            (sentence(&[("SMTP_URL", "https://ada:tiger@example.com")]), "smtps:// or smtp://"),
            (sentence(&[("SMTP_URL", "smtp://mail.internal?tls=yes")]), "?tls=required"),
            (sentence(&[("SMTP_URL", "smtp://mail.internal?TLS=required")]), "?tls=required"),
            (sentence(&[("SMTP_URL", "smtp://ada:25/tiger@mail.example.com")]), "percent-encoded"),
            (sentence(&[("SMTP_URL", "smtps://ada@mail.example.com")]), "a name needs a password"),
            (sentence(&[("MAIL_FROM", "the site")]), "MAIL_FROM"),
            (sentence(&[("SITE_NAME", "Acme\r\nBcc: eve@example.com")]), "one line"),
            (
                with(&[("DEVELOPMENT_URL", "https://name-8000.app.github.dev")]),
                "DEVELOPMENT_URL is only for a site in dev",
            ),
            (sentence(&[("DEVELOPMENT_URL", "name-8000.app.github.dev")]), "DEVELOPMENT_URL must have"),
            (sentence(&[("DEVELOPMENT_URL", "https://name-8000.app.github.dev/app")]), "only scheme, host and port"),
            (sentence(&[("DEVELOPMENT_URL", "https://tunnel.example"), ("HOST", "0.0.0.0")]), "HOST=0.0.0.0"),
            (with(&[("PASSWORD_ITERATIONS", "1000")]), "600000"),
            (with(&[("PASSWORD_MIN_LENGTH", "4")]), "the minimum is 8"),
        ] {
            assert!(sentence.contains(cure), "{sentence}");
        }
    }

    #[test]
    fn a_path_that_a_shell_would_complete_is_refused_and_one_that_means_itself_is_not() {
        let refusal = |url: &str| Config::from_env(&[("DATABASE_URL", url)].into_iter().collect()).err();
        for (path, reason) in [
            ("~/app.db", "the path itself"),
            ("~ada/app.db", "the path itself"),
            ("/~/app.db", "the path itself"),
            ("data/~backup/app.db", "the path itself"),
            ("$HOME/app.db", "the path itself"),
            ("/srv/${APP}/app.db", "the path itself"),
            ("/srv/$(hostname)/app.db", "the path itself"),
            ("/srv/$app.db", "the path itself"),
            ("%h/app.db", "%25"),
            ("%S/app.db", "%25"),
            ("%APPDATA%/app.db", "%25"),
            ("%DATA%/app.db", "%25"),
            ("data/100%", "%25"),
            ("data/app.db\"", "quote"),
            ("\"data/app.db\"", "quote"),
            ("'data/app.db", "quote"),
            (" data/app.db", "space"),
            ("data/app.db # ours", "comment"),
            ("", "name a file"),
            ("data/", "name a file"),
            ("?cache=private", "name a file"),
        ] {
            for scheme in ["sqlite://", "sqlite:"] {
                let refusal = refusal(&format!("{scheme}{path}")).expect(path).to_string();
                assert!(refusal.starts_with("DATABASE_URL ") && refusal.contains(reason), "{path}: {refusal}");
            }
        }
        for path in
            ["a~1.db", "PROGRA~1/app.db", "cash$.db", "$5.db", "%24HOME/%7E.db", "it's/ours.db", "my data/#1.db"]
        {
            assert!(refusal(&format!("sqlite://{path}")).is_none(), "{path}");
        }
        let direct = [("DATABASE_DIRECT_URL", "sqlite://~/app.db")].into_iter().collect();
        assert!(Config::from_env(&direct).err().unwrap().to_string().starts_with("DATABASE_DIRECT_URL has ~"));
        assert!(refusal("postgres://ada:$HOME~%24@localhost/app").is_none());
    }

    #[test]
    fn loopback_is_known_in_every_form() {
        for host in ["::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "127.0.0.1", "::1"] {
            assert!(Config::from_env(&[("HOST", host)].into_iter().collect()).is_ok(), "{host}");
        }
    }

    #[test]
    fn private_networks_and_those_of_providers_can_be_trusted() {
        for proxies in [
            "none",
            "127.0.0.1",
            "::1",
            "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7",
            "173.245.48.0/20, 104.16.0.0/13, 2400:cb00::/32",
            "10.0.0.1/8",
            "::ffff:10.0.0.1",
        ] {
            assert!(Config::from_env(&[("TRUSTED_PROXIES", proxies)].into_iter().collect()).is_ok(), "{proxies}");
        }
    }

    #[test]
    fn a_sender_has_an_address_in_ascii_and_any_name() {
        let sender = |text: &str| Config::from_env(&[("MAIL_FROM", text)].into_iter().collect()).map(|it| it.mail_from);
        for (text, name, email) in [
            ("a@example.com", None, "a@example.com"),
            ("Jürgen Müller <a@example.com>", Some("Jürgen Müller"), "a@example.com"),
            ("\"Müller, Jürgen\" <a@example.com>", Some("Müller, Jürgen"), "a@example.com"),
            ("日本 <a@xn--r8jz45g.jp>", Some("日本"), "a@xn--r8jz45g.jp"),
            ("a@xn--exmple-cua.com", None, "a@xn--exmple-cua.com"),
        ] {
            let sender = sender(text).unwrap();
            assert_eq!((sender.name.as_deref(), &*sender.email.to_string()), (name, email));
        }
        for text in [
            "a@exämple.com",
            "ä@example.com",
            "Ada <a@例え.jp>",
            "a@example．com",
            "a@exa\u{301}mple.com",
            "a@ex\u{200b}ample.com",
            "Ada",
            "a@",
            "a@example.com, b@example.com",
        ] {
            assert!(sender(text).unwrap_err().to_string().starts_with("MAIL_FROM must "), "{text}");
        }
        for name in ["Acme, Inc.", "Acme: Shop", "acme@home"] {
            let error = sender(&format!("{name} <a@example.com>")).unwrap_err().to_string();
            assert!(error.contains("with quotes around a name"), "{error}");
            assert!(sender(&format!("\"{name}\" <a@example.com>")).is_ok(), "{name}");
        }
    }

    #[test]
    fn no_complaint_repeats_a_value() {
        for (name, value) in [
            ("PORT", "swordfish"),
            ("HOST", "swordfish"),
            ("BASE_URL", "swordfish"),
            ("BASE_URL", "https://ada:swordfish@example.com"),
            ("BASE_URL", "https://example.com/swordfish"),
            ("TRUSTED_PROXIES", "127.0.0.1,swordfish"),
            ("LOG_FORMAT", "swordfish"),
            ("INSECURE_HTTP", "swordfish"),
            ("HSTS_SUBDOMAINS", "swordfish"),
            ("REQUIRE_TWO_FACTOR", "swordfish"),
            ("SMTP_URL", "swordfish"),
            ("SMTP_URL", "smtp://ada:swordfish"),
            ("MAIL_FROM", "swordfish"),
            ("MAIL_FROM", "Swordfish <swordfish@exämple.com>"),
            ("MAILS_PER_DAY", "swordfish"),
            ("MAILS_PER_ACCOUNT", "swordfish"),
            ("DATABASE_URL", "swordfish"),
            ("DATABASE_URL", "mysql://ada:swordfish@localhost/app"),
            ("DATABASE_URL", "sqlite://swordfish?mode=memory"),
            ("DATABASE_POOL", "swordfish"),
            ("SESSION_IDLE", "swordfish"),
            ("SECRET_KEY", "swordfish"),
        ] {
            let error = Config::from_env(&[(name, value)].into_iter().collect()).err().expect("it must not start");
            let chain = format!("{error:#}");
            assert!(chain.contains(name) && !chain.to_lowercase().contains("swordfish"), "{chain}");
        }
    }
}
