//! The configuration, read from the environment once, at start.
//!
//! The site does not start with a value that cannot be used or a dangerous combination of values; the error is one
//! sentence that says what to set. Features read their own variables from [`Env`] in `feature(env)`, so this file has
//! only what core needs.

use super::env::{Backoff, Env, Rate};
use super::smtp::MailDelivery;
#[cfg(feature = "postgres")]
use super::smtp::is_private_host;
use super::token::Token;
use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use lettre::message::Mailbox;
use std::net::{IpAddr, Ipv4Addr};
#[cfg(feature = "postgres")]
use std::str::FromStr;
use std::time::Duration;
use url::{Host, Url};

pub struct Config {
    pub site_name: String,
    pub host: IpAddr,
    pub port: u16,
    /// Where people reach the site. With `PORT=0` and no `BASE_URL` its port is known once the socket is bound.
    pub base_url: Url,
    pub base_url_given: bool,
    development: bool,
    pub database_url: String,
    pub database_direct_url: String,
    pub database_pool: u32,
    pub trusted_proxies: Vec<IpNet>,
    pub insecure_http: bool,
    /// Whether browsers shall use https for all subdomains too.
    pub hsts_subdomains: bool,
    pub log_json: bool,
    pub mail: MailDelivery,
    pub mail_from: Mailbox,
    pub mails_per_account: Rate,
    pub mails_per_address: Rate,
    /// `None` is no limit.
    pub mails_per_day: Option<u32>,
    /// How long the links in mails work.
    pub reset_lifetime: Duration,
    pub verify_lifetime: Duration,
    pub undo_lifetime: Duration,
    /// The keys of `SECRET_KEY`, newest first.
    pub secret_keys: Vec<String>,
    pub require_two_factor: TwoFactorPolicy,
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
    /// How many wrong passwords in a row before the right one works only from known devices.
    pub password_disable_after: i64,
    pub password_attempts_per_address: Rate,
    pub signups_per_address: Rate,
    pub password_iterations: u32,
    pub password_min_length: usize,
    pub hash_jobs: usize,
    pub hash_queue: usize,
    pub hash_wait: Duration,
    /// Bytes a request's body may have.
    pub body_limit: usize,
    /// The most connections at once, in all and from one network.
    pub connections: usize,
    pub connections_per_address: usize,
    /// How long a client may take from the first byte of a request's head to its end, or to say anything at all.
    pub head_timeout: Duration,
    /// How long a connection may be idle after an answer.
    pub keep_alive: Duration,
    pub body_timeout: Duration,
    pub handler_timeout: Duration,
    pub drain_timeout: Duration,
}

impl Config {
    pub fn from_env(env: &Env) -> Result<Config> {
        let port = env.parse("PORT", 8000)?;
        let base_url = env.text("BASE_URL");
        let database_url = env.text("DATABASE_URL").unwrap_or(DEFAULT_DATABASE).to_string();
        let mut site = parse_base_url("BASE_URL", base_url.unwrap_or(&format!("http://localhost:{port}")))?;
        let development = is_loopback(site.host());
        let development_url = env.text("DEVELOPMENT_URL");
        if let Some(address) = development_url {
            ensure!(development, "DEVELOPMENT_URL is for a site in development: leave it or BASE_URL out");
            site = parse_base_url("DEVELOPMENT_URL", address)?;
        }
        let site_name = env.text("SITE_NAME").unwrap_or("Latchkey");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let config = Config {
            site_name: site_name.to_string(),
            host: env.parse("HOST", IpAddr::V4(Ipv4Addr::LOCALHOST))?,
            port,
            base_url_given: base_url.or(development_url).is_some(),
            development,
            database_direct_url: env.text("DATABASE_DIRECT_URL").unwrap_or(&database_url).to_string(),
            database_url,
            // Two of its connections look up sessions.
            database_pool: env.number("DATABASE_POOL", 8, 3..=1000)?,
            trusted_proxies: parse_proxies(env.text("TRUSTED_PROXIES").unwrap_or("none"))?,
            insecure_http: env.yes("INSECURE_HTTP")?,
            hsts_subdomains: env.yes("HSTS_SUBDOMAINS")?,
            log_json: match env.text("LOG_FORMAT") {
                None | Some("text") => false,
                Some("json") => true,
                Some(_) => bail!("LOG_FORMAT must be text or json"),
            },
            mail: MailDelivery::parse(env.text("SMTP_URL"))?,
            mail_from: parse_sender(env.text("MAIL_FROM"), site_name, &site)?,
            mails_per_account: env.rate("MAILS_PER_ACCOUNT", "3/1h")?,
            mails_per_address: env.rate("MAILS_PER_ADDRESS", "10/1h")?,
            mails_per_day: match env.text("MAILS_PER_DAY") {
                None | Some("off") => None,
                Some(_) => Some(env.number("MAILS_PER_DAY", 1, 1..=1_000_000_000)?),
            },
            reset_lifetime: env.duration("RESET_LIFETIME", "15m")?,
            verify_lifetime: env.duration("VERIFY_LIFETIME", "24h")?,
            undo_lifetime: env.duration("UNDO_LIFETIME", "7d")?,
            base_url: site,
            secret_keys: env.text("SECRET_KEY").map_or(Vec::new(), parse_keys),
            require_two_factor: parse_requirement(env.text("REQUIRE_TWO_FACTOR"))?,
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

    /// Development is a site whose `BASE_URL` is at localhost, 127.0.0.1 or [::1], which a tunnel may show at another address
    /// (`DEVELOPMENT_URL`); everything else is production.
    pub fn development(&self) -> bool {
        self.development
    }

    /// Whether the site is in development and can be reached from outside.
    pub fn is_forwarded(&self) -> bool {
        self.development && !is_loopback(self.base_url.host())
    }

    /// Whether people reach the site by https. The scheme of `BASE_URL` says so; no header can.
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
        ensure!(!self.site_name.contains(char::is_control), "SITE_NAME must be one line");
        ensure!(
            !IpNet::aggregate(&self.trusted_proxies).iter().any(is_too_wide),
            "TRUSTED_PROXIES trusts more than a private network has, so strangers could claim any address: name the proxies"
        );
        ensure!(
            self.secret_keys.iter().all(|key| key.len() >= 32),
            "SECRET_KEY is too short: run openssl rand -base64 32 and set what it prints"
        );
        for url in [&self.database_url, &self.database_direct_url] {
            check_engine(url)?;
        }
        ensure!(
            is_sqlite(&self.database_url) == is_sqlite(&self.database_direct_url),
            "DATABASE_URL and DATABASE_DIRECT_URL must name the same database, and these name two engines"
        );
        if self.development() {
            ensure!(
                self.host.is_loopback(),
                "HOST={} would expose a site in development to the network: set BASE_URL to the address \
                 people will use, or leave HOST out",
                self.host
            );
            return Ok(());
        }
        ensure!(
            self.https() || self.insecure_http,
            "BASE_URL={} is not https, so passwords could be read on the network: give the https address, \
             or set INSECURE_HTTP=yes on a network that you fully control",
            self.base_url
        );
        ensure!(
            env.text("TRUSTED_PROXIES").is_some(),
            "TRUSTED_PROXIES must be set in production: the addresses of the proxies that speak TLS for this app, \
             such as 10.0.0.0/8, or none"
        );
        ensure!(
            env.text("SMTP_URL").is_some(),
            "SMTP_URL must be set in production: the server that sends mail, such as smtps://name:password@host, \
             or none to turn off everything that needs mail"
        );
        ensure!(
            self.password_iterations >= PASSWORD_ITERATIONS,
            "PASSWORD_ITERATIONS={} is too weak for production: the least is {PASSWORD_ITERATIONS}",
            self.password_iterations
        );
        ensure!(
            self.password_min_length >= PASSWORD_MIN_LENGTH,
            "PASSWORD_MIN_LENGTH={} is too weak for production: the least is {PASSWORD_MIN_LENGTH}",
            self.password_min_length
        );
        for url in [&self.database_url, &self.database_direct_url] {
            check_transport(url)?;
        }
        Ok(())
    }
}

/// Who must have a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoFactorPolicy {
    Nobody,
    Admins,
    Everyone,
}

impl TwoFactorPolicy {
    pub fn applies_to_everyone(self) -> bool {
        self == TwoFactorPolicy::Everyone
    }
}

fn parse_requirement(text: Option<&str>) -> Result<TwoFactorPolicy> {
    match text {
        Some("none") => Ok(TwoFactorPolicy::Nobody),
        None | Some("admins") => Ok(TwoFactorPolicy::Admins),
        Some("all") => Ok(TwoFactorPolicy::Everyone),
        Some(_) => bail!("REQUIRE_TWO_FACTOR must be none, admins or all"),
    }
}

/// Keys are separated by commas; spaces around them are ignored.
fn parse_keys(text: &str) -> Vec<String> {
    text.split(',').map(|key| key.trim().to_string()).collect()
}

/// No limit in practice.
const MANY: i64 = 1_000_000_000;

const DEFAULT_DATABASE: &str = "sqlite://data/latchkey.db";

/// OWASP's password storage cheat sheet for PBKDF2-HMAC-SHA256.
const PASSWORD_ITERATIONS: u32 = 600_000;

/// OWASP ASVS 5.0, 6.2.1.
const PASSWORD_MIN_LENGTH: usize = 8;

fn parse_base_url(name: &str, text: &str) -> Result<Url> {
    let form = || format!("{name} must have only scheme, host and port, such as https://example.com");
    let url = Url::parse(text).ok().with_context(form)?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    ensure!(matches!(url.scheme(), "http" | "https") && url.host().is_some() && bare, form());
    Ok(url)
}

fn parse_sender(text: Option<&str>, site_name: &str, site: &Url) -> Result<Mailbox> {
    if let Some(text) = text {
        let sender: Mailbox = text.parse().ok().context("MAIL_FROM must be written Name <address@example.com>")?;
        ensure!(
            sender.email.to_string().is_ascii(),
            "MAIL_FROM must have an address in ASCII, because most mail servers take no other: write a domain such as \
             münchen.de as xn--mnchen-3ya.de"
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

/// A range of IPv4 addresses that is written as one of IPv6, as the range that it is.
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

pub fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

fn check_engine(url: &str) -> Result<()> {
    let known = ["sqlite:", "postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme));
    ensure!(known, "DATABASE_URL must begin with sqlite:// or postgres://");
    ensure!(
        !is_sqlite(url) || !(url.contains(":memory:") || url.contains("mode=memory")),
        "DATABASE_URL needs a file here, not a database in memory"
    );
    Ok(())
}

/// Hashes of passwords and sessions must not cross a network in the clear. Checks what sqlx makes of the URL and of its
/// own variables, which is what will be used.
#[cfg(feature = "postgres")]
fn check_transport(url: &str) -> Result<()> {
    use sqlx::postgres::{PgConnectOptions, PgSslMode};
    if is_sqlite(url) {
        return Ok(());
    }
    let options =
        PgConnectOptions::from_str(url).context("DATABASE_URL cannot be read as the address of a database")?;
    let encrypted = matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    ensure!(
        encrypted || is_private_host(options.get_host()),
        "DATABASE_URL connects to {} over a network without encryption: add ?sslmode=require, or better verify-full",
        options.get_host()
    );
    Ok(())
}

#[cfg(not(feature = "postgres"))]
fn check_transport(_: &str) -> Result<()> {
    Ok(())
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
            (sentence(&[("PASSWORD_FREE_ATTEMPTS", "0")]), "must be from 1"),
            (sentence(&[("SECRET_KEY", "swordfish")]), "openssl rand"),
            (sentence(&[("SESSION_LIFETIME", "99999999999999d")]), "SESSION_LIFETIME"),
            (sentence(&[("TRUSTED_PROXIES", "the proxy")]), "range"),
            (sentence(&[("DATABASE_URL", "mysql://localhost/app")]), "sqlite://"),
            (sentence(&[("DATABASE_URL", "sqlite://a.db?mode=memory")]), "needs a file"),
            #[cfg(all(feature = "sqlite", feature = "postgres"))]
            (
                sentence(&[("DATABASE_URL", "sqlite://a.db"), ("DATABASE_DIRECT_URL", "postgres://localhost/app")]),
                "two engines",
            ),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/0")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/1,128.0.0.0/1")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/2, 64.0.0.0/2, 127.0.0.1, 128.0.0.0/1")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "0.0.0.0/1,128.0.0.0/2,192.0.0.0/3")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "10.0.0.1,::/0")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::/1,8000::/1")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "2000::/3")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::ffff:0.0.0.0/96")]), "name the proxies"),
            (sentence(&[("TRUSTED_PROXIES", "::ffff:0.0.0.0/97,::ffff:128.0.0.0/97")]), "name the proxies"),
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
            (sentence(&[("SMTP_URL", "smtps://[2001:db8::1]")]), "IPv4 address"),
            (sentence(&[("MAIL_FROM", "the site")]), "MAIL_FROM"),
            (sentence(&[("SITE_NAME", "Acme\r\nBcc: eve@example.com")]), "one line"),
            (with(&[("DEVELOPMENT_URL", "https://name-8000.app.github.dev")]), "DEVELOPMENT_URL is for a site in dev"),
            (sentence(&[("DEVELOPMENT_URL", "name-8000.app.github.dev")]), "DEVELOPMENT_URL must have"),
            (sentence(&[("DEVELOPMENT_URL", "https://name-8000.app.github.dev/app")]), "only scheme, host and port"),
            (sentence(&[("DEVELOPMENT_URL", "https://tunnel.example"), ("HOST", "0.0.0.0")]), "HOST=0.0.0.0"),
            (with(&[("PASSWORD_ITERATIONS", "1000")]), "600000"),
            (with(&[("PASSWORD_MIN_LENGTH", "4")]), "the least is 8"),
        ] {
            assert!(sentence.contains(cure), "{sentence}");
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
        let sender = |text| Config::from_env(&[("MAIL_FROM", text)].into_iter().collect()).map(|it| it.mail_from);
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

    #[cfg(feature = "postgres")]
    #[test]
    fn a_database_across_a_network_must_be_reached_by_tls() {
        let allowed = |url: &str| check_transport(url).is_ok();
        assert!(!allowed("postgres://app@db.example.com/app"));
        assert!(!allowed("postgres://app@203.0.113.7/app?sslmode=prefer"));
        assert!(!allowed("postgres://app@db.example.com/app?sslmode=require&sslmode=disable"));
        assert!(!allowed("postgres://app@localhost/app?host=203.0.113.7"));
        assert!(allowed("postgres://app@db.example.com/app?sslmode=require"));
        assert!(allowed("postgres://app@127.0.0.1/app"));
        assert!(allowed("postgres://app@10.1.2.3/app"));
        assert!(allowed("postgres://app@db/app"));
        assert!(allowed("sqlite://data/latchkey.db"));
    }
}
