//! How the server starts, or says in one line why it does not.
//! needs: home

use crate::common::{Browser, Database, Process, latchkey, refusal, refusal_with, wait_until};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

#[cfg(feature = "sqlite")]
#[test]
fn an_empty_folder_is_enough_and_the_database_is_its_owners_alone() {
    use crate::common::Server;
    let server = Server::with_only(&[("PORT", "0")]);
    server.browser().get("/").assert_status(200).assert_contains("Latchkey");
    for (path, expected) in [("data", 0o700), ("data/latchkey.db", 0o600), ("data/latchkey.db-wal", 0o600)] {
        let made = server.folder().join(path).metadata().unwrap();
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&made.permissions()) & 0o777, expected, "{path}");
        // On Windows it is the folder that decides who may read it.
        #[cfg(windows)]
        assert!(made.is_dir() == (expected == 0o700), "{path}");
    }
}

/// On Windows `C:` is a drive, and a name cannot have a colon.
#[cfg(feature = "sqlite")]
#[test]
#[cfg_attr(windows, ignore = "needs file names with colons")]
fn the_database_is_the_file_that_its_address_names_to_the_letter() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    let absolute = format!("{}/absolute.db", folder.path().display());
    let dots = format!("{}/a/../dots.db", folder.path().display());
    for (address, file) in [
        ("C:/data/app.db", "C:/data/app.db"),
        ("D:app.db", "D:app.db"),
        ("name:5432/app.db", "name:5432/app.db"),
        ("./here.db", "here.db"),
        ("a/../beside.db", "beside.db"),
        ("A/Case.db", "A/Case.db"),
        ("[b]/ünï.db", "[b]/ünï.db"),
        ("my data/my app.db", "my data/my app.db"),
        ("a%20b.db", "a b.db"),
        ("user@host/c#1.db?cache=private", "user@host/c#1.db"),
        (&*absolute, "absolute.db"),
        (&*dots, "dots.db"),
    ] {
        for scheme in ["sqlite://", "sqlite:"] {
            let settings = [("DATABASE_URL", &*format!("{scheme}{address}")), ("RUST_LOG", "off")];
            let mut process =
                Process::start(&mut latchkey(folder.path(), &[], &[&settings[..], &[("PORT", "0")]].concat()));
            let is_there = wait_until(20, || process.stdout().contains(" is at ") || process.has_ended());
            assert!(is_there && !process.has_ended(), "{settings:?}: {process}");
            process.signal(crate::common::Signal::TERM);
            process.wait_for_exit(20);
            let made = std::fs::read(folder.path().join(file)).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
            assert!(
                made.starts_with(b"SQLite format 3"),
                "{settings:?}: {file} is empty, so another file is the database"
            );
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
    }
}

/// The name in the title of its page, when it is started in this folder.
#[track_caller]
fn site_name(folder: &Path, settings: &[(&str, &str)]) -> String {
    let database = Database::new();
    let settings = [settings, &[("DATABASE_URL", &*database.url)]].concat();
    let mut process = Process::start(&mut latchkey(folder, &[], &settings));
    let mut port = None;
    wait_until(30, || {
        port = process.stdout().split_once(" is at http://localhost:").map(|(_, rest)| rest.trim_end().to_string());
        port.is_some() || process.has_ended()
    });
    let port = port.unwrap_or_else(|| panic!("it did not start:\n{process}"));
    let page = Browser::at(port.lines().next().unwrap().parse().unwrap()).get("/").body;
    let (_, rest) = page.split_once("<title>").unwrap();
    let (title, _) = rest.split_once("</title>").unwrap();
    title.to_string()
}

#[test]
fn a_file_of_variables_is_read_as_it_stands_and_only_in_the_current_folder() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("site");
    std::fs::create_dir(&folder).unwrap();
    let write = |folder: &Path, text: &str| std::fs::write(folder.join(".env"), text).unwrap();
    write(above.path(), "SITE_NAME=Above\n");
    let port = ("PORT", "0");
    assert!(site_name(&folder, &[port]).contains("Latchkey"));
    for (text, name) in [
        ("SITE_NAME=Cash$money\n", "Cash$money"),
        ("SITE_NAME='Cash ${HOME}'\nPORT=many\n", "Cash ${HOME}"),
        ("\u{feff}# Ours\r\n\r\nexport SITE_NAME = \"Bücher $\" # a comment\r\n", "Bücher $"),
    ] {
        write(&folder, text);
        let title = site_name(&folder, &[port]);
        assert!(title.contains(name), "{text:?} makes {title}");
        assert!(site_name(&folder, &[port, ("SITE_NAME", "Given")]).contains("Given"), "{text:?}");
    }
}

#[test]
fn a_file_of_variables_that_cannot_be_read_is_one_line_without_a_value() {
    for line in [
        "SECRET_KEY=sword fish",
        "SECRET_KEY='swordfish",
        "SECRET_KEY= #swordfish",
        "swordfish",
        "SITE_NAME=swordfish",
        "-----BEGIN swordfish=",
    ] {
        let complaint = refusal_with(&format!("SITE_NAME=Acme\n{line}\n"), &[]);
        assert!(complaint.contains("line 2 of the .env file") && !complaint.contains("fish"), "{line}: {complaint}");
    }
    let complaint = refusal_with("MAIL_FROM=swordfish@exämple.com\nPORT=0\n", &[]);
    assert!(complaint.contains("MAIL_FROM") && !complaint.contains("fish"), "{complaint}");
}

/// Whether it complains about a `PORT` that is no number shows which files it has read.
#[test]
fn settings_come_from_the_env_file_of_the_current_folder_and_from_no_folder_above() {
    let folder = tempfile::tempdir().unwrap();
    let current = folder.path().join("app/current");
    std::fs::create_dir_all(current.join("below")).unwrap();
    let read = |settings: &[(&str, &str)]| {
        let mut process = Process::start(&mut latchkey(&current, &["routes"], settings));
        let status = process.wait_for_exit(10);
        (status.success(), process.stderr())
    };
    for elsewhere in [folder.path(), &folder.path().join("app"), &current.join("below")] {
        std::fs::write(elsewhere.join(".env"), "PORT=elsewhere\nno setting at all").unwrap();
        assert_eq!(read(&[]), (true, String::new()), "{}", elsewhere.display());
    }
    std::fs::write(current.join(".env"), "PORT=here").unwrap();
    let (started, complaint) = read(&[]);
    assert!(!started && complaint.contains("PORT must be a whole number"), "{complaint}");
    assert_eq!(read(&[("PORT", "0")]), (true, String::new()), "the environment takes precedence");
}

/// The line in docs/deploy.md, as far as it can be tried without Docker.
#[cfg(feature = "sqlite")]
#[test]
fn a_trial_in_docker_starts_with_the_settings_that_the_documents_give() {
    use crate::common::{Connection, KEY, Server, free_port};
    let line = include_str!("../../docs/deploy.md").lines().find(|line| line.starts_with("docker run ")).unwrap();
    let settings = line.split(" -e ").skip(1).map(|rest| rest.split(' ').next().unwrap().split_once('=').unwrap());
    let settings: Vec<_> =
        settings.map(|(name, value)| if name == "SECRET_KEY" { KEY } else { (name, value) }).collect();
    assert!(settings.contains(&("HOST", "0.0.0.0")), "{line}");
    let address = settings.iter().find(|(name, _)| *name == "BASE_URL").unwrap().1.strip_prefix("http://").unwrap();
    let port = free_port().to_string();
    let server = Server::with_only(&[&settings[..], &[("PORT", &port)]].concat());
    let mut visitor = Connection::open(server.port).unwrap();
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n")).unwrap();
    visitor.answer().unwrap().assert_status(200);
}

#[test]
fn a_wrong_setting_is_one_line_that_names_what_to_set() {
    for (settings, cure) in [
        (&[("PORT", "many")][..], "PORT"),
        (&[("PORT", "0"), ("HOST", "0.0.0.0")], "BASE_URL"),
        (&[("PORT", "0"), ("BASE_URL", "http://example.com")], "BASE_URL"),
        (&[("PORT", "0"), ("BASE_URL", "https://example.com")], "TRUSTED_PROXIES"),
        (&[("BASE_URL", "https://example.com"), ("TRUSTED_PROXIES", "none")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "mail.example.com")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "https://mail.example.com")], "SMTP_URL"),
        (&[("PORT", "0"), ("SMTP_URL", "smtp://")], "SMTP_URL"),
        (&[("PORT", "0"), ("MAIL_FROM", "Latchkey")], "MAIL_FROM"),
        (&[("PORT", "0"), ("MAIL_FROM", "a@b.example, c@d.example")], "MAIL_FROM"),
        (&[("PORT", "0"), ("MAIL_FROM", "a@exämple.com")], "in ASCII"),
        (&[("PORT", "0"), ("MAIL_FROM", "Ada <a@例え.jp>")], "xn--"),
        (&[("PORT", "0"), ("TRUSTED_PROXIES", "0.0.0.0/1,128.0.0.0/1")], "TRUSTED_PROXIES"),
        (&[("PORT", "0"), ("MAILS_PER_ACCOUNT", "many")], "MAILS_PER_ACCOUNT"),
        (&[("PORT", "0"), ("DATABASE_URL", "mysql://localhost/app")], "DATABASE_URL"),
        (&[("PORT", "0"), ("RUST_LOG", "latchkey=loud")], "RUST_LOG"),
    ] {
        let complaint = refusal(settings);
        assert!(complaint.contains(cure), "{settings:?} is refused with {complaint:?}, without {cure}");
    }
}

#[test]
fn what_is_refused_of_the_mail_servers_address_is_not_its_password() {
    for url in ["smtps://name:swordfish@", "http://name:swordfish@mail.example.com", "smtp://name:swordfish"] {
        let complaint = refusal(&[("PORT", "0"), ("SMTP_URL", url)]);
        assert!(complaint.contains("SMTP_URL") && !complaint.contains("swordfish"), "{complaint}");
    }
}

#[test]
fn a_taken_port_is_one_line_that_names_the_port() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let complaint = refusal(&[("PORT", &port)]);
    assert!(complaint.contains("PORT") && complaint.contains(&port), "{complaint:?}");
}
