//! What many clients at once cost in memory.
//! needs: home, login

use crate::common::{Connection, QUIET, Server, allow_many_sockets, run_alone};

/// The most for a thousand connections, in MiB.
const MOST: usize = 120;

/// Sends this on a thousand connections, and returns how much memory the server uses while they are open, in MiB.
fn memory_with_a_thousand(bytes: &[u8]) -> usize {
    allow_many_sockets();
    let server = Server::start(&[QUIET, ("CONNECTIONS_PER_ADDRESS", "100000"), ("BODY_TIMEOUT", "60s")]);
    let connections: Vec<Connection> = (0..1000)
        .map(|_| {
            let mut connection = Connection::open(server.port).unwrap();
            // The server may have refused the rest.
            let _ = connection.send(bytes);
            connection
        })
        .collect();
    server.browser().get("/").assert_status(200);
    drop(connections);
    server.peak_memory() / 1024
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs /proc")]
fn a_thousand_connections_take_little_memory_whatever_they_send() {
    let _alone = run_alone();
    let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let long_head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "a".repeat(350_000));
    let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\na\r\n".repeat(60_000));
    let body = format!("{head}Content-Length: 60000\r\n\r\n{}", "a".repeat(59_999));
    for (what, bytes) in [("long heads", &long_head), ("tiny chunks", &chunks), ("unfinished bodies", &body)] {
        let memory = memory_with_a_thousand(bytes.as_bytes());
        println!("{what}: {memory} MiB");
        assert!(memory <= MOST, "{what}: {memory} MiB");
    }
}
