//! What the site makes of variables as operators and their tools set them, and of a system that allows it little.
//! needs: home

use crate::common::{
    Database, KEY, Process, Server, command_error, free_port, latchkey, refusal, refusal_with, wait_until,
    with_file_limit,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// The lines of a site that has started with this `.env` file and these settings.
#[track_caller]
fn log_of(file: &str, settings: &[(&str, &str)]) -> String {
    let (folder, database) = (tempfile::tempdir().unwrap(), Database::new());
    std::fs::write(folder.path().join(".env"), file).unwrap();
    let settings = [settings, &[("DATABASE_URL", &*database.url), ("PORT", "0")]].concat();
    let mut process = Process::start(&mut latchkey(folder.path(), &[], &settings));
    let started = wait_until(30, || process.stdout().contains(" is at ") || process.has_ended());
    assert!(started && !process.has_ended(), "it did not start:\n{process}");
    process.stdout()
}

#[test]
fn a_site_that_starts_names_each_misspelt_variable_with_the_right_one() {
    let file = "SMPT_URL=swordfish\nDATABASEURL=swordfish\nPGPORT=5432\nSQLX_LOG=swordfish\n";
    let settings = [("REQUIRE_TWOFACTOR", "swordfish"), ("TRUSTED_PROXY", "swordfish"), ("Site_Name", "swordfish")];
    let of_others = [("HOSTNAME", "a"), ("HOME", "/"), ("TERM", "dumb"), ("DATABASE_PORT", "5432"), ("PORTS", "1")];
    let log = log_of(file, &[&settings[..], &of_others].concat());
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    for (given, ours) in [
        ("SMPT_URL", "SMTP_URL"),
        ("DATABASEURL", "DATABASE_URL"),
        ("REQUIRE_TWOFACTOR", "REQUIRE_TWO_FACTOR"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("Site_Name", "SITE_NAME"),
    ] {
        let lines = warnings.iter().filter(|line| line.contains(&format!("{given} is set")) && line.contains(ours));
        assert_eq!(lines.count(), 1, "{given}: {log}");
    }
    assert!(warnings.len() == 5 && !log.contains("swordfish"), "{log}");
}

#[test]
fn what_fails_names_the_misspelt_variables_first_because_they_may_be_the_reason() {
    let production = [("BASE_URL", "https://example.com"), ("TRUSTED_PROXIES", "none"), ("SMPT_URL", "none"), KEY];
    for arguments in [&[][..], &["user", "list"], &["purge"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(&mut latchkey(folder.path(), arguments, &production));
        assert_eq!(process.wait_for_exit(10).code(), Some(1), "{process}");
        let error = process.stderr();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 2, "{process}");
        assert!(lines[0].contains("SMPT_URL is set") && lines[0].contains("set SMTP_URL if"), "{process}");
        assert!(lines[1].contains("SMTP_URL must be set in production"), "{process}");
    }
}

/// `refusal` also sees to it that no folder called `~` is made.
#[test]
fn a_value_as_other_tools_hand_it_over_is_one_line_that_names_the_variable() {
    for (name, value, reason) in [
        ("DATABASE_URL", "\"sqlite://data/fish.db\"", "quotes"),
        ("BASE_URL", "'https://fish.example'", "quotes"),
        ("PORT", "8000\r", "carriage return"),
        ("SMTP_URL", "none ", "space"),
        ("SECRET_KEY", "\u{feff}swordfish swordfish swordfish swordfish", "invisible"),
        ("SITE_NAME", "\"Fish\"", "quotes"),
        ("HOST", "HOST=127.0.0.1", "own name"),
        ("SECRET_KEY", "${{ secrets.KEY_OF_THE_SITE_IN_PRODUCTION }}", "value itself"),
        #[cfg(feature = "sqlite")]
        ("DATABASE_URL", "sqlite://~/fish.db", "the path itself"),
        #[cfg(feature = "sqlite")]
        ("DATABASE_URL", "sqlite://$HOME/fish.db", "the path itself"),
        #[cfg(feature = "sqlite")]
        ("DATABASE_DIRECT_URL", "sqlite://${DATA}/fish.db", "the path itself"),
        #[cfg(feature = "sqlite")]
        ("DATABASE_URL", "sqlite://%S/fish.db", "systemd"),
    ] {
        let complaint = refusal(&[(name, value)]);
        assert!(complaint.starts_with(&format!("latchkey: {name} ")) && complaint.contains(reason), "{complaint}");
        assert!(!complaint.to_lowercase().contains("fish"), "{complaint}");
    }
    let complaint = refusal_with("SITE_NAME='\"Acme\"'\n", &[]);
    assert!(complaint.contains("SITE_NAME must not have quotes"), "{complaint}");
}

/// The status line of the answer to a visitor who asks this address for the front page of this host.
fn status_at(address: &str, port: u16, host: &str) -> String {
    let mut stream = TcpStream::connect((address, port)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_string()
}

#[test]
fn the_address_to_listen_on_may_be_written_as_in_a_url() {
    for (written, address) in [("localhost", "127.0.0.1"), ("LocalHost", "127.0.0.1"), ("[::1]", "::1"), ("::1", "::1")]
    {
        let server = Server::start(&[("HOST", written)]);
        assert_eq!(status_at(address, server.port, "localhost"), "HTTP/1.1 200 OK", "{written}");
    }
    for wrong in ["example.com", "127.0.0.1:8000", "[127.0.0.1]", "http://127.0.0.1", "*", "[::1", "fe80::1%eth0"] {
        let complaint = refusal(&[("HOST", wrong)]);
        assert!(complaint.contains("HOST must be an address of this machine without a port"), "{complaint}");
    }
}

#[test]
fn a_site_is_reached_under_the_name_that_browsers_make_of_its_address() {
    for (written, host) in [
        ("https://site.example.", "site.example"),
        ("https://site.example.:443/", "site.example"),
        ("https://SITE.Example/", "site.example"),
        ("https://site.example:443", "site.example:443"),
        ("https://site.example:8443/", "site.example:8443"),
        ("https://bücher.example", "xn--bcher-kva.example"),
        ("https://my_site.example", "my_site.example"),
        ("https://192.0.2.1", "192.0.2.1"),
        ("https://[2001:DB8::1]", "[2001:db8::1]"),
    ] {
        let port = free_port().to_string();
        let settings = [("BASE_URL", written), ("PORT", &port), ("TRUSTED_PROXIES", "none"), ("SMTP_URL", "none"), KEY];
        let settings = [&settings[..], &[("PASSWORD_ITERATIONS", "600000")]].concat();
        let server = Server::start(&settings);
        assert_eq!(status_at("127.0.0.1", server.port, host), "HTTP/1.1 200 OK", "{written}");
        assert!(status_at("127.0.0.1", server.port, "other.example").contains(" 421 "), "{written}");
    }
}

/// Each part of it between colons.
#[track_caller]
fn assert_said_once(complaint: &str) {
    let parts: Vec<&str> = complaint.trim().split(": ").collect();
    let repeated = parts.iter().enumerate().find(|(number, part)| parts[..*number].contains(part));
    assert_eq!(repeated, None, "{complaint}");
}

#[cfg(feature = "postgres")]
#[test]
fn why_a_server_cannot_be_reached_is_said_once() {
    let nobody = format!("postgres://ada:swordfish@127.0.0.1:{}/app", free_port());
    for (url, reason) in [
        (&*nobody, "refused"),
        ("postgres://ada:swordfish@name.invalid/app", "cannot be reached"),
        ("postgres://ada:swordfish@127.0.0.1:port/app", "port"),
    ] {
        for arguments in [&["user", "list"][..], &["serve"], &["purge"]] {
            let complaint = command_error(arguments, &[("DATABASE_URL", url), ("PORT", "0")], "");
            assert_said_once(&complaint);
            assert!(complaint.contains(reason) && !complaint.contains("swordfish"), "{complaint}");
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn why_a_file_cannot_be_a_database_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("folder")).unwrap();
    std::fs::write(path("text"), "This is no database.".repeat(100)).unwrap();
    std::fs::write(path("empty-folder"), "").unwrap();
    for name in ["folder", "text", "empty-folder/app.db"] {
        let url = format!("sqlite://{}", path(name).display());
        for arguments in [&["user", "list"][..], &["serve"], &["purge"]] {
            assert_said_once(&command_error(arguments, &[("DATABASE_URL", &url), ("PORT", "0")], ""));
        }
    }
}

#[test]
fn a_filter_of_the_log_that_cannot_be_read_is_explained_once() {
    assert_said_once(&refusal(&[("PORT", "0"), ("RUST_LOG", "latchkey=loud")]));
}

/// Runs it by a command of the shell that ends with `exec "$0" "$@"`.
fn by_shell(setting: &str, arguments: &[&str], settings: &[(&str, &str)]) -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let command = latchkey(folder.path(), arguments, settings);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setting} exec \"$0\" \"$@\"")]).arg(command.get_program()).args(arguments);
    shell.current_dir(folder.path()).env_clear().envs(settings.iter().copied());
    (Process::start(&mut shell), folder)
}

#[test]
#[cfg_attr(not(unix), ignore = "needs ulimit")]
fn too_few_files_for_a_site_or_a_command_are_one_line() {
    let database = Database::new();
    let settings = [("PORT", "0"), ("DATABASE_URL", &*database.url)];
    for arguments in [&[][..], &["user", "list"], &["doctor"], &["routes"]] {
        for files in [10, 20, 32, 64, 100] {
            let folder = tempfile::tempdir().unwrap();
            let command = latchkey(folder.path(), arguments, &settings);
            let mut process = Process::start(&mut with_file_limit(files, &command));
            assert_eq!(process.wait_for_exit(10).code(), Some(1), "{files}: {process}");
            let error = process.stderr();
            assert!(error.lines().count() == 1 && error.contains(&format!("{files} open files")), "{process}");
        }
    }
    let server = Server::on_with_files(160, &database, &[]);
    assert_eq!(status_at("127.0.0.1", server.port, "localhost"), "HTTP/1.1 200 OK");
    let with_more = [("PORT", "0"), ("DATABASE_POOL", "100")];
    let (mut process, _folder) = by_shell("ulimit -n 300;", &[], &with_more);
    assert_eq!(process.wait_for_exit(10).code(), Some(1), "{process}");
    assert!(process.stderr().contains("it needs 429"), "{process}");
}

#[cfg(feature = "sqlite")]
#[test]
#[cfg_attr(not(unix), ignore = "needs ulimit")]
fn a_limit_of_the_size_of_files_is_a_sentence_and_not_the_end_by_a_signal() {
    for kilobytes in [0, 2, 20] {
        let (mut process, _folder) = by_shell(&format!("ulimit -f {kilobytes};"), &[], &[("PORT", "0"), KEY]);
        let status = process.wait_for_exit(20);
        assert_eq!((status.code(), process.stderr().lines().count()), (Some(1), 1), "{status}: {process}");
    }
}

#[test]
#[cfg_attr(not(unix), ignore = "needs a shell")]
fn a_site_goes_on_where_its_log_cannot_be_written_and_its_input_is_closed() {
    for streams in ["exec >/dev/full 2>/dev/full;", "exec <&- >&- 2>&-;", "exec >&-;", "exec <&-;"] {
        let (port, database) = (free_port(), Database::new());
        let port_text = port.to_string();
        let settings = [("PORT", &*port_text), ("DATABASE_URL", &*database.url), ("RUST_LOG", "latchkey=debug")];
        let (mut process, _folder) = by_shell(streams, &[], &settings);
        assert!(wait_until(20, || TcpStream::connect(("127.0.0.1", port)).is_ok()), "{streams} {process}");
        for _ in 0..20 {
            assert_eq!(status_at("127.0.0.1", port, "localhost"), "HTTP/1.1 200 OK", "{streams}");
        }
        assert!(!process.has_ended(), "{streams} {process}");
        #[cfg(unix)]
        process.signal(crate::common::Signal::TERM);
        #[cfg(unix)]
        assert!(process.wait_for_exit(20).success(), "{streams} {process}");
    }
}
