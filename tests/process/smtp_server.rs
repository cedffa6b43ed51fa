//! Mail through a real mail server with TLS and a log-in. Nothing is sent to a server whose certificate is not trusted.
//! needs: email, home, login, password_reset, signup

use crate::common::{
    Browser, Database, Mail, NEW_PASSWORD, Process, Server, Signal, address_of, assert_all_mails_sent, password_fields,
    wait_until,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SMTP_PASSWORD: &str = "p@ss word/%";

/// A certificate authority, in its folder.
struct Authority(TempDir);

impl Authority {
    fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority(folder);
        let new = "req -x509 -newkey rsa:2048 -noenc -days 2 -subj /CN=Test -keyout ca.key -out ca.pem";
        ca.openssl(new);
        ca
    }

    /// Its own certificate.
    fn root(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// Signs a certificate for a server with this name, and returns it with its key.
    fn certify(&self, name: &str) -> [PathBuf; 2] {
        std::fs::write(self.0.path().join("extensions"), format!("subjectAltName=DNS:{name}")).unwrap();
        self.openssl("req -newkey rsa:2048 -noenc -subj /CN=Test -keyout server.key -out request");
        self.openssl(
            "x509 -req -in request -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions \
             -out server.pem",
        );
        ["server.pem", "server.key"].map(|file| self.0.path().join(file))
    }

    fn openssl(&self, arguments: &str) {
        let arguments = arguments.split_whitespace();
        let output = Command::new("openssl").args(arguments).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

struct MailServer {
    process: Process,
    port: u16,
}

impl MailServer {
    #[track_caller]
    fn start(mode: &str, [certificate, key]: [PathBuf; 2]) -> MailServer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/smtp_server.py");
        let mut python = Command::new("python3");
        let process = Process::start(python.arg(script).arg(mode).args([certificate, key]).arg(SMTP_PASSWORD));
        let mut port = None;
        wait_until(20, || {
            let said = process.stdout();
            port = said.lines().find_map(|line| line.strip_prefix("port ")?.parse().ok());
            port.is_some()
        });
        let port = port.unwrap_or_else(|| panic!("is aiosmtpd installed for python3?\n{process}"));
        MailServer { process, port }
    }

    /// The URL for a client with this password.
    fn url(&self, scheme: &str, password: &str) -> String {
        let mut url = url::Url::parse(&format!("{scheme}://localhost:{}?tls=required", self.port)).unwrap();
        url.set_username("latchkey").unwrap();
        url.set_password(Some(password)).unwrap();
        url.to_string()
    }

    fn mails(&self) -> Vec<Mail> {
        let said = self.process.stdout();
        let mails = said.lines().filter(|line| line.starts_with('{'));
        mails
            .map(|line| {
                let mail: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
                let recipients = mail["recipients"].as_array().unwrap().iter().map(text).collect();
                Mail { sender: text(&mail["sender"]), recipients, data: text(&mail["data"]) }
            })
            .collect()
    }

    /// Waits for a link to this path in a mail to this address.
    #[track_caller]
    fn link(&self, address: &str, path: &str) -> String {
        let mut found = None;
        wait_until(20, || {
            let mails = self.mails();
            let fitting = mails.iter().filter(|mail| mail.is_to(address) && mail.find_link(path).is_some());
            found = fitting.map(|mail| mail.link(path)).next();
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no mail to {address} with a link to {path}:\n{}", self.process))
    }
}

/// A site that trusts this authority.
fn site(database: &Database, smtp_url: &str, ca: &Authority) -> Server {
    Server::on(database, &[("SMTP_URL", smtp_url), ("SSL_CERT_FILE", ca.root().to_str().unwrap())])
}

/// Signs up without an address, and adds one.
#[track_caller]
fn sign_up_and_give_address(server: &Server, name: &str) -> Browser {
    let mut browser = server.browser();
    browser.sign_up(name).assert_redirect("/");
    let email = address_of(name);
    browser.post("/account/email", &[("email", &email)]).assert_redirect("/account/email");
    browser.get("/account/email").assert_status(200).assert_contains(&email);
    browser
}

/// Ada adds an address and confirms it, and resets her password.
#[track_caller]
fn confirm_and_reset(mode: &str, scheme: &str) {
    let ca = Authority::new();
    let mail_server = MailServer::start(mode, ca.certify("localhost"));
    let database = Database::new();
    let server = site(&database, &mail_server.url(scheme, SMTP_PASSWORD), &ca);
    let mut ada = sign_up_and_give_address(&server, "ada");
    let confirm = mail_server.link("ada@example.com", "/email/");
    ada.get(&confirm).assert_status(200).assert_contains("ada@example.com");
    ada.post(&confirm, &[]).assert_status(303);

    let mut forgetful = server.browser();
    forgetful.post("/password-reset", &[("email", "Ada@Example.com")]).assert_redirect("/password-reset");
    let reset = mail_server.link("ada@example.com", "/password-reset/");
    forgetful.get(&reset).assert_status(200);
    forgetful.post(&reset, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    forgetful.log_in_with("ada@example.com", NEW_PASSWORD).assert_redirect("/");
    forgetful.assert_logged_in("ada");
    ada.assert_logged_out();

    assert_all_mails_sent(&database, &*server);
    let mails = mail_server.mails();
    assert!(mails.iter().all(|mail| mail.is_to("ada@example.com")), "{}", mail_server.process);
    assert!(server.lines_with("WARN").is_empty(), "{}", *server);
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn an_address_is_confirmed_and_a_password_reset_by_way_of_starttls() {
    confirm_and_reset("starttls", "smtp");
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn an_address_is_confirmed_and_a_password_reset_by_way_of_tls_from_the_start() {
    confirm_and_reset("tls", "smtps");
}

/// Ada adds an address and asks for a reset: both are answered as usual, nothing is sent, and the log has no secrets.
/// Returns the log.
#[track_caller]
fn assert_nothing_is_sent(database: &Database, mail_server: &MailServer, server: &Server) -> String {
    let mut ada = sign_up_and_give_address(server, "ada");
    ada.get("/").assert_status(200).assert_contains("Logged in: ada");
    let asked = server.browser().post("/password-reset", &[("email", "ada@example.com")]);
    asked.assert_redirect("/password-reset");
    let tried = "select count(*) from mails where attempts > 1 and error is not null and failed_at is null";
    assert!(wait_until(30, || database.count(tried) == 1), "it is not tried again:\n{}", **server);
    assert!(mail_server.mails().is_empty(), "{}", mail_server.process);
    let log = server.stdout() + &server.stderr();
    for secret in [SMTP_PASSWORD, "p%40ss", "ada@example.com"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    log
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn a_mail_server_with_an_untrusted_certificate_learns_nothing_and_the_mail_waits() {
    let (ca, other) = (Authority::new(), Authority::new());
    for (mode, scheme) in [("starttls", "smtp"), ("tls", "smtps")] {
        for certificate in [other.certify("localhost"), ca.certify("mail.example.com")] {
            let database = Database::new();
            let mail_server = MailServer::start(mode, certificate);
            let server = site(&database, &mail_server.url(scheme, SMTP_PASSWORD), &ca);
            let log = assert_nothing_is_sent(&database, &mail_server, &server);
            assert!(log.contains("certificate"), "the log does not say why:\n{log}");
        }
    }
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn a_wrong_password_for_the_mail_server_keeps_the_mail_until_it_is_mended() {
    let ca = Authority::new();
    let mail_server = MailServer::start("starttls", ca.certify("localhost"));
    let database = Database::new();
    let mut server = site(&database, &mail_server.url("smtp", "guessed"), &ca);
    let log = assert_nothing_is_sent(&database, &mail_server, &server);
    assert!(log.contains("535"), "the log does not say why:\n{log}");
    server.signal(Signal::TERM);
    assert!(server.wait_for_exit(10).success(), "{}", *server);
    let server = site(&database, &mail_server.url("smtp", SMTP_PASSWORD), &ca);
    let confirm = mail_server.link("ada@example.com", "/email/");
    server.browser().post(&confirm, &[]).assert_status(303);
}

/// A certificate that nobody else has signed, as distributions and people make them, with its key.
fn self_signed(folder: &Path, extensions: &str) -> [PathBuf; 2] {
    let files = ["own.pem", "own.key"].map(|file| folder.join(file));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", "-subj", "/CN=mail.example.com"]);
    openssl.args(extensions.split_whitespace()).arg("-out").arg(&files[0]).arg("-keyout").arg(&files[1]);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    files
}

/// What `openssl req -x509` makes is an authority and names no host; what Debian makes for a new machine is neither.
const MADE_BY: [&str; 2] =
    ["", "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:mail.example.com"];

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn a_server_with_a_certificate_of_its_own_is_trusted_where_the_site_is_given_it() {
    for extensions in MADE_BY {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [certificate, key] = self_signed(folder.path(), extensions);
        let [of_another, _] = self_signed(other.path(), extensions);
        for (mode, scheme) in [("starttls", "smtp"), ("tls", "smtps")] {
            let mail_server = MailServer::start(mode, [certificate.clone(), key.clone()]);
            let url = mail_server.url(scheme, SMTP_PASSWORD);
            let site = |database: &Database, ca: &Path| {
                Server::on(database, &[("SMTP_URL", &*url), ("SMTP_CA", ca.to_str().unwrap())])
            };
            let database = Database::new();
            let server = site(&database, &of_another);
            let log = assert_nothing_is_sent(&database, &mail_server, &server);
            assert!(log.contains("certificate"), "the log does not say why:\n{log}");
            let database = Database::new();
            let server = site(&database, &certificate);
            sign_up_and_give_address(&server, "ada");
            mail_server.link("ada@example.com", "/email/");
            assert!(server.lines_with("WARN").is_empty(), "{}", *server);
        }
    }
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn a_server_on_this_machine_takes_mails_without_tls_where_the_site_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mail_server = MailServer::start("optional", self_signed(folder.path(), MADE_BY[1]));
    for (host, query, is_sent) in
        [("localhost", "?tls=none", true), ("127.0.0.1", "?tls=none", true), ("localhost", "", false)]
    {
        let database = Database::new();
        let url = format!("smtp://{host}:{}{query}", mail_server.port);
        let server = Server::on(&database, &[("SMTP_URL", &*url)]);
        let name = format!("p{}{}", host.len(), query.len());
        sign_up_and_give_address(&server, &name);
        if is_sent {
            mail_server.link(&address_of(&name), "/email/");
        } else {
            assert!(wait_until(10, || !server.lines_with("certificate").is_empty()), "{}", *server);
        }
    }
}

#[test]
#[ignore = "needs aiosmtpd and openssl; .ci/run runs them"]
fn who_gives_the_wrong_scheme_is_told_within_seconds() {
    let ca = Authority::new();
    for (mode, scheme, right) in [("tls", "smtp", "smtps://"), ("starttls", "smtps", "smtp://")] {
        let mail_server = MailServer::start(mode, ca.certify("localhost"));
        let database = Database::new();
        let server = site(&database, &mail_server.url(scheme, SMTP_PASSWORD), &ca);
        sign_up_and_give_address(&server, "ada");
        assert!(wait_until(20, || !server.lines_with(right).is_empty()), "{}", *server);
    }
}
