//! A load balancer asks whether the site is there, by whatever name it has for it, or by none.
//! needs: health

use crate::common::{Connection, Database, Process, Server, free_port, wait_until};
use std::process::Command;
use std::thread;
use std::time::Duration;

#[test]
fn a_health_check_is_answered_whatever_host_it_names() {
    let database = Database::new();
    for server in [Server::on(&database, &[]), Server::in_production(&database, &[("SMTP_URL", "none")])] {
        for host in ["", "Host:\r\n", "Host: 10.0.0.7:8000\r\n", "Host: a b\r\n", "Host: x\r\nHost: y\r\n"] {
            for version in ["1.0", "1.1"] {
                for (request, expected) in [
                    ("GET /healthz", "200"),
                    ("HEAD /readyz", "200"),
                    ("OPTIONS /", "204"),
                    ("OPTIONS *", "204"),
                    ("OPTIONS /healthz", "204"),
                    ("GET /nowhere", "421"),
                ] {
                    let head = format!("{request} HTTP/{version}\r\n{host}Connection: close\r\n\r\n");
                    let mut connection = Connection::open(server.port).unwrap();
                    connection.send(&head).unwrap();
                    let answer = connection.rest().unwrap();
                    assert_eq!(answer.get(9..12), Some(expected), "{head:?}: {answer}");
                    assert!(!answer.to_lowercase().contains("set-cookie"), "{head:?}: {answer}");
                }
            }
        }
    }
}

/// Its default check is `OPTIONS / HTTP/1.0` without a `Host`.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_finds_the_site_up_by_its_default_check() {
    let database = Database::new();
    for server in [Server::on(&database, &[]), Server::in_production(&database, &[("SMTP_URL", "none")])] {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().join("haproxy.cfg");
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             listen site\n bind 127.0.0.1:{port}\n option httpchk\n \
             server app 127.0.0.1:{} check inter 100ms fall 1 rise 2\n",
            server.port
        );
        std::fs::write(&path, config).unwrap();
        let proxy = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(path));
        let passes_on = || {
            let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let answer = Connection::open(port).and_then(|mut connection| {
                connection.send(request)?;
                connection.rest()
            });
            answer.is_ok_and(|answer| answer.ends_with("alive\n"))
        };
        // It takes every server for one that is up until it has checked.
        assert!(wait_until(20, &passes_on), "it does not listen:\n{proxy}");
        thread::sleep(Duration::from_secs(1));
        assert!(passes_on(), "it finds the site down:\n{proxy}");
    }
}
