//! Checks `DATABASE_URL` and `DATABASE_DIRECT_URL`. Parts that would be ignored or misread are rejected by name. Values
//! are not repeated, because any of them may contain part of a password.

use super::env::check_path;
#[cfg(feature = "postgres")]
use super::smtp::is_private_host;
use anyhow::{Result, anyhow, bail, ensure};
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgConnectOptions, PgSslMode};
#[cfg(feature = "postgres")]
use std::str::FromStr;
use url::form_urlencoded;

pub const DEFAULT_DATABASE: &str = "sqlite://data/latchkey.db";

/// The parameters that sqlx reads.
const OF_POSTGRES: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

#[cfg(feature = "postgres")]
const ROOT_CERTIFICATE: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// The parameters that a site can use, and their values.
const OF_SQLITE: [(&str, &[&str]); 2] = [("mode", &["ro", "rw", "rwc"]), ("cache", &["private"])];

pub fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

/// The `mode` of a SQLite address.
pub fn sqlite_mode(url: &str) -> Option<String> {
    parameters(url).into_iter().rfind(|(name, _)| name == "mode").map(|(_, value)| value)
}

fn names_file(parameter: &str) -> bool {
    parameter.starts_with("ssl") && !parameter.ends_with("mode")
}

fn parameters(url: &str) -> Vec<(String, String)> {
    let (_, parameters) = url.split_once('?').unwrap_or_default();
    form_urlencoded::parse(parameters.as_bytes()).into_owned().collect()
}

/// Checks the address in the variable of this name.
///
/// # Errors
/// One sentence that says what to change.
pub fn check(variable: &str, url: &str) -> Result<()> {
    if is_sqlite(url) {
        return check_sqlite(variable, url);
    }
    let known = ["postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme));
    ensure!(known, "{variable} must begin with sqlite:// or postgres://");
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let hosts = authority.rsplit('@').next().unwrap_or("");
    ensure!(!hosts.contains(','), several_hosts(variable));
    ensure!(!has_slash_in_password(url), "{variable} has a / before its host: in a password, write it as %2F");
    ensure!(!url.contains('#'), "{variable} has a #, and everything after it is ignored: write it as %23");
    for (name, _) in parameters(url) {
        let is_option = name.starts_with("options[") && name.ends_with(']');
        ensure!(is_option || OF_POSTGRES.contains(&&*name), unknown(variable, url, &name));
    }
    check_postgres(variable, url)
}

/// Everything after a slash is read as the database, and everything before it as host and port.
fn has_slash_in_password(url: &str) -> bool {
    let (before, _) = url.split_once('?').unwrap_or((url, ""));
    let (authority, path) = before.split_once("://").and_then(|(_, rest)| rest.split_once('/')).unwrap_or_default();
    let Some((_, port)) = authority.split_once(':') else { return false };
    let after_at = path.split_once('@').map(|(_, after)| after);
    !authority.contains(['@', '[']) && after_at.is_some_and(|after| after.contains('/') || port.parse::<u16>().is_err())
}

fn check_sqlite(variable: &str, url: &str) -> Result<()> {
    ensure!(
        !(url.contains(":memory:") || url.contains("mode=memory")),
        "{variable} must name a file, not a database in memory"
    );
    check_file(variable, url)?;
    for (name, value) in parameters(url) {
        let Some((_, values)) = OF_SQLITE.iter().find(|(known, _)| *known == name) else {
            bail!(unknown(variable, url, &name))
        };
        ensure!(values.contains(&&*value), "{variable} has a {name} that is not one of {}", values.join(", "));
    }
    Ok(())
}

fn check_file(variable: &str, url: &str) -> Result<()> {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    ensure!(!path.is_empty() && !path.ends_with('/'), "{variable} must name a file, such as {DEFAULT_DATABASE}");
    check_path(variable, path)?;
    let is_encoded = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    ensure!(
        path.split('%').skip(1).all(is_encoded),
        "{variable} has a % that is not followed by two hexadecimal digits: %h is not replaced as in systemd, and % \
         itself is written %25"
    );
    Ok(())
}

fn several_hosts(variable: &str) -> String {
    format!("{variable} has several hosts, but only one is supported: use one that always leads to the primary")
}

/// If a password contains an unencoded question mark, its end looks like parameters.
fn unknown(variable: &str, url: &str, name: &str) -> String {
    let (before, after) = url.split_once('?').unwrap_or((url, ""));
    if !is_sqlite(url) && !before.contains('@') && after.contains('@') {
        return format!("{variable} has a ? before its host: in a password, write it as %3F");
    }
    let instead = match name {
        "schema" | "currentSchema" | "search_path" => "; write options[search_path]=… instead",
        "connection_limit" | "pool_size" => "; DATABASE_POOL is the number of connections",
        _ => "",
    };
    format!("{variable} has an unknown parameter, {name:?}: remove it{instead}")
}

/// Checks what sqlx reads from the URL and from its own variables, because that is what will be used.
#[cfg(feature = "postgres")]
fn check_postgres(variable: &str, url: &str) -> Result<()> {
    for (name, value) in parameters(url) {
        ensure!(
            !matches!(&*name, "sslmode" | "ssl-mode") || value.parse::<PgSslMode>().is_ok(),
            "{variable} has an {name} that is not one of disable, allow, prefer, require, verify-ca and verify-full"
        );
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        let cause = anyhow::Error::from(error);
        anyhow!("{variable} cannot be read as the address of a database: {}", cause.root_cause())
    })?;
    check_own_variables(|name| std::env::var(name).ok())?;
    let host = options.get_host().to_ascii_lowercase();
    let named_by = ["PGHOSTADDR", "PGHOST"].into_iter().find(|name| std::env::var(name).is_ok_and(|own| own == host));
    ensure!(!host.contains(',') && !host.contains("%2c"), several_hosts(named_by.unwrap_or(variable)));
    let verifies = matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    ensure!(
        verifies || !names_root_certificate(url),
        "{variable} names a root certificate, which is not used without sslmode=verify-full or verify-ca"
    );
    Ok(())
}

/// The variables of Postgres, which sqlx ignores when it does not understand them.
#[cfg(feature = "postgres")]
fn check_own_variables(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let is = |name, is_right: fn(&str) -> bool| variable(name).is_none_or(|value| is_right(&value));
    ensure!(
        is("PGSSLMODE", |value| value.parse::<PgSslMode>().is_ok()),
        "PGSSLMODE is not one of disable, allow, prefer, require, verify-ca and verify-full"
    );
    ensure!(is("PGPORT", |value| value.parse::<u16>().is_ok()), "PGPORT is not a port number");
    Ok(())
}

#[cfg(not(feature = "postgres"))]
fn check_postgres(_: &str, _: &str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "postgres")]
fn names_root_certificate(url: &str) -> bool {
    parameters(url).iter().any(|(name, _)| ROOT_CERTIFICATE.contains(&&**name))
}

/// The address for sqlx. If a root certificate is named, `require` verifies with it, as in libpq. An IPv6 address loses
/// its brackets, which sqlx would treat as part of a name.
#[cfg(feature = "postgres")]
pub fn for_sqlx(url: &str) -> String {
    let Ok(options) = PgConnectOptions::from_str(url) else { return url.to_string() };
    let mut for_sqlx = url.to_string();
    let mut add = |name: &str, value: &str| {
        for_sqlx.push(if for_sqlx.contains('?') { '&' } else { '?' });
        for_sqlx.extend([name, "=", value]);
    };
    let has_root_certificate = names_root_certificate(url) || std::env::var_os("PGSSLROOTCERT").is_some();
    if matches!(options.get_ssl_mode(), PgSslMode::Require) && has_root_certificate {
        add("sslmode", "verify-ca");
    }
    if let Some(address) = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        add("host", address);
    }
    for_sqlx
}

#[cfg(not(feature = "postgres"))]
pub fn for_sqlx(url: &str) -> String {
    url.to_string()
}

/// The same database for libpq and its programs, without the password.
///
/// # Errors
/// When the address cannot be read.
#[cfg(feature = "postgres")]
pub fn for_libpq(url: &str) -> Result<String> {
    let options = PgConnectOptions::from_str(url)?;
    let host = options.get_socket().map_or(options.get_host().into(), |socket| socket.to_string_lossy());
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    let mut settings = vec![("host", host.to_string()), ("port", options.get_port().to_string())];
    settings.push(("user", options.get_username().to_string()));
    settings.push(("dbname", options.get_database().unwrap_or(options.get_username()).to_string()));
    for (name, value) in parameters(url) {
        let name = match &*name {
            "sslmode" | "ssl-mode" => "sslmode",
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => "sslrootcert",
            "sslcert" | "ssl-cert" => "sslcert",
            "sslkey" | "ssl-key" => "sslkey",
            _ => continue,
        };
        // The value can also be the certificate or the key itself, which libpq does not take.
        if !value.trim_start().starts_with("-----BEGIN") {
            settings.push((name, value));
        }
    }
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let is_plain = |value: &str| !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || "'\\".contains(c));
    let written = settings.iter().map(|(name, value)| {
        if is_plain(value) { format!("{name}={value}") } else { format!("{name}={}", quoted(value)) }
    });
    Ok(written.collect::<Vec<_>>().join(" "))
}

#[cfg(not(feature = "postgres"))]
pub fn for_libpq(_: &str) -> Result<String> {
    bail!("this binary was built without Postgres")
}

/// Checks that the TLS files named by this variable or those of Postgres can be read.
///
/// # Errors
/// One sentence that says which.
pub fn check_files(variable: &str, url: &str) -> Result<()> {
    if is_sqlite(url) {
        return Ok(());
    }
    let named = parameters(url).into_iter().filter(|(name, _)| names_file(name));
    let named = named.map(|(name, path)| (format!("the file that {name} of {variable} names"), path));
    let own = ["PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"].into_iter();
    let own = own.filter_map(|name| Some((format!("the file that {name} names"), std::env::var(name).ok()?)));
    // The value can also be the certificate itself.
    for (file, path) in named.chain(own).filter(|(_, path)| !path.trim_start().starts_with("-----BEGIN")) {
        std::fs::read(path).map_err(|error| anyhow!("{file} cannot be read ({error}): set it to one that can"))?;
    }
    Ok(())
}

/// Hashes of passwords and sessions must not cross a network unencrypted.
///
/// # Errors
/// One sentence that says what to change.
#[cfg(feature = "postgres")]
pub fn check_transport(variable: &str, url: &str) -> Result<()> {
    if is_sqlite(url) {
        return Ok(());
    }
    let options = PgConnectOptions::from_str(url)?;
    let encrypted = matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    ensure!(
        encrypted || is_private_host(options.get_host()),
        "{variable} connects to {} over a network without encryption: add ?sslmode=require or, better, \
         ?sslmode=verify-full",
        options.get_host()
    );
    Ok(())
}

#[cfg(not(feature = "postgres"))]
pub fn check_transport(_: &str, _: &str) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(url: &str) -> String {
        check("DATABASE_URL", url).err().unwrap_or_else(|| panic!("{url} is taken")).to_string()
    }

    #[test]
    fn a_parameter_that_would_be_ignored_is_refused_by_name() {
        for name in [
            "schema",
            "pgbouncer",
            "target_session_attrs",
            "connection_limit",
            "connect_timeout",
            "channel_binding",
            "gssencmode",
            "sslcrl",
            "SSLMODE",
            "ssl",
            "load_balance_hosts",
            "options[search_path",
        ] {
            for address in ["postgres://ada:pass@localhost/app?", "postgresql:///app?sslmode=disable&"] {
                let sentence = sentence(&format!("{address}{name}=swordfish"));
                assert!(sentence.contains(name) && !sentence.contains("swordfish"), "{sentence}");
            }
        }
        if cfg!(feature = "postgres") {
            let sentence = sentence("postgres://localhost/app?sslmode=swordfish");
            assert!(sentence.contains("sslmode") && !sentence.contains("swordfish"), "{sentence}");
        }
        for parameter in ["nolock=1", "immutable=1", "vfs=unix-none", "cache=shared", "mode=ROC", "_journal=wal"] {
            let sentence = sentence(&format!("sqlite://data/app.db?{parameter}"));
            assert!(sentence.contains(parameter.split('=').next().unwrap()), "{sentence}");
        }
    }

    #[test]
    fn an_address_that_is_understood_is_taken() {
        for url in [
            "postgres://localhost/app",
            "postgresql://ada:p,w@localhost:5432/app?sslmode=require",
            "postgres:///app?host=/var/run/postgresql&user=ada@server&application_name=site",
            "postgres://[::1]/app?options=-c%20geqo%3Doff&options[search_path]=app,public&statement-cache-capacity=0",
            "postgres://db.example.com/app?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem",
            "postgres://db.example.com/app?sslmode=require&sslrootcert=/ca.pem",
            "sqlite://data/app.db",
            "sqlite:app#1.db?mode=rwc&cache=private",
            "sqlite:///srv/app.db?mode=ro",
        ] {
            check("DATABASE_URL", url).unwrap_or_else(|error| panic!("{url}: {error:#}"));
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn programs_of_postgres_get_the_same_database_without_its_password() {
        for (url, expected) in [
            ("postgres://ada:swordfish@db.example:5433/app", "host=db.example port=5433 user=ada dbname=app"),
            (
                "postgres://ada@[::1]:5432/app?password=swordfish&sslmode=require&statement-cache-capacity=0",
                "host=::1 port=5432 user=ada dbname=app sslmode=require",
            ),
            (
                "postgres:///app%20one?host=/run/my%20pg&port=5434&user=o'neil%5C&ssl-ca=/ca.pem&sslmode=verify-ca",
                r"host='/run/my pg' port=5434 user='o\'neil\\' dbname='app one' sslrootcert=/ca.pem sslmode=verify-ca",
            ),
            (
                "postgres://ada:sword%20fish@%2Frun%2Fpg:5432/app?sslkey=-----BEGIN%20swordfish",
                "host=/run/pg port=5432 user=ada dbname=app",
            ),
        ] {
            assert_eq!(for_libpq(url).unwrap(), expected);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn several_hosts_are_refused_wherever_they_stand() {
        for url in [
            "postgres://a.example,b.example/app",
            "postgres://ada:swordfish@a.example:5432,b.example:5433/app?sslmode=require",
            "postgres://ada:sword,fish@a.example:5432,b.example/app",
            "postgres:///app?host=a.example,b.example",
            "postgres://a.example%2Cb.example/app",
        ] {
            let sentence = sentence(url);
            assert!(sentence.contains("several hosts") && !sentence.contains("fish"), "{url}: {sentence}");
        }
    }

    #[test]
    fn no_part_of_a_password_is_repeated() {
        for url in [
            "postgres://ada:1?swordfish@localhost/app",
            "postgres://ada:1?x&swordfish=1@localhost/app",
            "postgres://ada:1#swordfish@localhost/app",
            "postgres://ada:1/swordfish@localhost/app?schema=a",
        ] {
            let sentence = sentence(url);
            assert!(!sentence.contains("swordfish"), "{url}: {sentence}");
        }
    }

    #[test]
    fn a_slash_in_a_password_is_found() {
        for url in [
            "postgres://ada:1/swordfish@localhost/app",
            "postgres://ada:sword/fish@localhost",
            "postgres://ada:sword/fish@localhost:5432/app?sslmode=require",
        ] {
            let sentence = sentence(url);
            assert!(sentence.contains("%2F") && !sentence.contains("fish"), "{url}: {sentence}");
        }
        check("DATABASE_URL", "postgres://localhost:5432/a@b").unwrap();
        check("DATABASE_URL", "postgres://localhost/a@b").unwrap();
        check("DATABASE_URL", "postgres://ada:sword%2Ffish@localhost/a@b").unwrap();
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_variable_of_postgres_that_would_be_ignored_is_refused_by_name() {
        for (name, value, is_right) in [
            ("PGSSLMODE", "requires", false),
            ("PGSSLMODE", "require", true),
            ("PGPORT", "5432,5433", false),
            ("PGPORT", "port", false),
            ("PGPORT", "5432", true),
        ] {
            let checked = check_own_variables(|asked| (asked == name).then(|| value.to_string()));
            assert_eq!(checked.is_ok(), is_right, "{name} {value}");
            assert!(checked.err().is_none_or(|error| error.to_string().starts_with(name)), "{name} {value}");
        }
    }

    #[test]
    fn a_file_for_tls_that_cannot_be_read_is_named_by_its_parameter() {
        let readable = std::env::current_exe().unwrap();
        for name in OF_POSTGRES.iter().filter(|name| names_file(name)) {
            let checked = |path: &str| check_files("DATABASE_URL", &format!("postgres://localhost/app?{name}={path}"));
            let said = checked("/nowhere/at-all.pem").unwrap_err().to_string();
            assert!(said.contains(name) && said.contains("DATABASE_URL") && said.contains("cannot be read"), "{said}");
            checked(readable.to_str().unwrap()).unwrap();
            checked("-----BEGIN%20CERTIFICATE-----").unwrap();
        }
        check_files("DATABASE_URL", "postgres://localhost/app?sslmode=require&ssl-mode=require").unwrap();
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_root_certificate_is_never_named_in_vain() {
        for name in ROOT_CERTIFICATE {
            for mode in ["", "&sslmode=prefer", "&ssl-mode=allow", "&sslmode=disable"] {
                let sentence = sentence(&format!("postgres://localhost/app?{name}=/ca.pem{mode}"));
                assert!(sentence.contains("verify-full"), "{sentence}");
            }
            let mode = |url: &str| PgConnectOptions::from_str(&for_sqlx(url)).unwrap().get_ssl_mode();
            let url = format!("postgres://localhost/app?sslmode=require&{name}=/ca.pem");
            assert!(matches!(mode(&url), PgSslMode::VerifyCa), "{url}");
            assert!(matches!(mode(&url.replace("require", "verify-full")), PgSslMode::VerifyFull));
            assert!(matches!(mode("postgres://localhost/app?sslmode=require"), PgSslMode::Require));
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn an_ipv6_address_is_connected_to_as_such() {
        for (url, expected) in [
            ("postgres://ada@[::1]:5433/app", "::1"),
            ("postgres://ada@[FD00::1]/app?sslmode=require&sslrootcert=/ca.pem", "fd00::1"),
            ("postgres://ada@[::1]/app?host=db.example.com", "db.example.com"),
            ("postgres://ada@localhost/app?host=[::1]", "::1"),
            ("postgres:///app?host=/var/run/postgresql", "/var/run/postgresql"),
        ] {
            let options = PgConnectOptions::from_str(&for_sqlx(url)).unwrap();
            let socket = options.get_socket().map_or("", |path| path.to_str().unwrap());
            assert_eq!(if socket.is_empty() { options.get_host() } else { socket }, expected, "{url}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_database_across_a_network_must_be_reached_by_tls() {
        let allowed = |url: &str| check_transport("DATABASE_URL", url).is_ok();
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
