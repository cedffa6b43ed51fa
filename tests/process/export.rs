//! How much an export takes, and what clients get who are slow, or while something breaks.
//! needs: export, notes, signup

use crate::common::{Browser, Database, Server, command_error, command_output, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Gives every user 10,000 notes with 5,120 bytes each.
const NOTES: &str = "with recursive texts (text, doubled) as \
                     (select cast('Buy milk, eggs, flour, butter and bread.' as text), 0 \
                     union all select text || text, doubled + 1 from texts where doubled < 7), \
                     numbers (number) as (select 10000 union all select number + 1 from numbers where number < 19999) \
                     insert into notes (id, user_id, text, created_at, updated_at) \
                     select cast(number as text), users.id, text, 0, 0 from users, texts, numbers where doubled = 7";

/// What ends an answer that is whole.
const END: &[u8] = b"0\r\n\r\n";

/// Somebody with [`NOTES`].
fn writer(server: &Server, database: &Database) -> Browser {
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    database.execute(NOTES);
    ada
}

fn request(browser: &Browser) -> String {
    let session = &browser.cookies()["session_token"];
    format!(
        "POST /account/export HTTP/1.1\r\nHost: localhost\r\nCookie: session_token={session}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// Begins an export, and reads its first megabyte.
fn begin(server: &Server, browser: &Browser) -> TcpStream {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.write_all(request(browser).as_bytes()).unwrap();
    let mut start = vec![0; 1_000_000];
    client.read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&start));
    client
}

/// What comes until the server closes the connection.
fn rest(mut client: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = client.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    rest
}

/// Whether an export would begin now.
fn may_begin(server: &Server, browser: &Browser) -> bool {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    client.write_all(request(browser).as_bytes()).unwrap();
    let mut status = [0; "HTTP/1.1 200".len()];
    client.read_exact(&mut status).unwrap();
    assert!([b"HTTP/1.1 200", b"HTTP/1.1 503"].contains(&&status), "{}", String::from_utf8_lossy(&status));
    &status == b"HTTP/1.1 200"
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs /proc")]
fn an_export_of_fifty_megabytes_takes_little_memory() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let ada = writer(&server, &database);
    let before = server.peak_memory();
    let rest = rest(begin(&server, &ada));
    assert!(rest.len() > 50_000_000 && rest.ends_with(END), "{} bytes", rest.len());
    let more = server.peak_memory() - before;
    assert!(more < 32 * 1024, "it took {more} KiB");
}

#[test]
fn an_export_that_breaks_in_the_middle_is_plainly_incomplete() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let ada = writer(&server, &database);
    let client = begin(&server, &ada);
    database.execute("alter table notes rename to lost");
    let rest = rest(client);
    assert!(rest.len() < 40_000_000 && !rest.ends_with(END), "{} bytes", rest.len());
    assert!(wait_until(20, || server.lines_with("an export was ended early").len() == 1), "{}", *server);
}

#[test]
fn whoever_hangs_up_may_export_again_at_once() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let ada = writer(&server, &database);
    let client = begin(&server, &ada);
    assert!(!may_begin(&server, &ada));
    drop(client);
    assert!(wait_until(20, || may_begin(&server, &ada)), "{}", *server);
}

#[test]
fn whoever_reads_an_export_too_slowly_is_disconnected() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let ada = writer(&server, &database);
    let mut client = begin(&server, &ada);
    let begun = Instant::now();
    while !may_begin(&server, &ada) {
        assert!(begun.elapsed() < Duration::from_secs(90), "it still gets more:\n{}", *server);
        // 8 KiB a second.
        client.read_exact(&mut [0; 4096]).unwrap();
        sleep(Duration::from_millis(500));
    }
    let rest = rest(client);
    assert!(rest.len() < 40_000_000 && !rest.ends_with(END), "{} bytes", rest.len());
}

#[test]
fn the_command_prints_what_the_page_gives() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    server.browser().sign_up("bob").assert_redirect("/");
    database.execute(
        "insert into notes (id, user_id, text, created_at, updated_at) \
                      select 'a', id, 'Buy \u{1f95b} and \"bread\"', 1, 2 from users where username = 'ada'",
    );
    let settings = [("DATABASE_URL", &*database.url)];
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    client.write_all(request(&ada).replace("HTTP/1.1", "HTTP/1.0").as_bytes()).unwrap();
    let answer = String::from_utf8(rest(client)).unwrap();
    let page = answer.split_once("\r\n\r\n").unwrap().1.to_string() + "\n";
    assert!(page.contains("bread") && !page.contains("bob"), "{answer}");
    for name in ["ada", "ADA"] {
        assert_eq!(command_output(&["export", name], &settings, ""), page);
    }
    database.execute("update users set disabled_at = 1 where username = 'ada'");
    assert_eq!(command_output(&["export", "ada"], &settings, ""), page);
    assert!(command_error(&["export", "eve"], &settings, "").contains("No user is called eve."));
}
