//! A real proxy in front, which uses its connections to the app for the requests of all its clients.
//! needs: notes, signup

use crate::common::{Database, Process, Server, allow_many_sockets, free_port, wait_until};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream as Stream};
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// A network between the proxy and the app.
struct Network {
    port: u16,
    /// How long connections had been idle when a request came on them.
    idle: Arc<Mutex<Vec<Duration>>>,
    _runtime: Runtime,
}

/// How long bytes take, each way.
const DELAY: Duration = Duration::from_millis(50);

impl Network {
    fn to(app: u16) -> Network {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let idle: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let all_idle = Arc::clone(&idle);
        runtime.spawn(async move {
            loop {
                let (proxy, _) = listener.accept().await.unwrap();
                let app = Stream::connect((Ipv4Addr::LOCALHOST, app)).await.unwrap();
                for stream in [&proxy, &app] {
                    stream.set_nodelay(true).unwrap();
                }
                let ((from_proxy, to_proxy), (from_app, to_app)) = (proxy.into_split(), app.into_split());
                let answered = Arc::new(Mutex::new(None));
                let (last, all_idle) = (Arc::clone(&answered), Arc::clone(&all_idle));
                tokio::spawn(pass(from_app, to_proxy, move || *answered.lock().unwrap() = Some(Instant::now())));
                tokio::spawn(pass(from_proxy, to_app, move || {
                    let idle = last.lock().unwrap().take().map(|last: Instant| last.elapsed() + DELAY);
                    all_idle.lock().unwrap().extend(idle);
                }));
            }
        });
        Network { port, idle, _runtime: runtime }
    }
}

/// Passes on bytes, and at last that no more will come.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, note: impl Fn()) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        note();
        sleep(DELAY).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    sleep(DELAY).await;
    // Fails when the other side is gone.
    let _ = to.shutdown().await;
}

/// It sends no request twice. Of a thousand servers, which are all the app, a request names the one whose connection it
/// wants, so that it is known for how long that has been idle.
const CONFIG: &str = "
global
    maxconn 4000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout http-keep-alive 10s
    timeout server 30s
    option forwardfor
    http-reuse always
    retries 0
    retry-on none
listen site
    use-server app%[req.hdr(x-connection)] if { req.hdr(x-connection) -m found }
";

struct HaProxy {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl HaProxy {
    /// It closes no connection to the app.
    #[track_caller]
    fn to(app: u16) -> HaProxy {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().join("haproxy.cfg");
        let config = format!(
            "{CONFIG}\tbind 127.0.0.1:{port}\n\tserver-template app 1000 127.0.0.1:{app} pool-purge-delay 10m\n"
        );
        std::fs::write(&path, config).unwrap();
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(path));
        let listens = wait_until(10, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(listens, "it does not listen:\n{process}");
        HaProxy { process, port, _folder: folder }
    }
}

#[test]
#[ignore = "needs haproxy"]
fn a_thousand_posts_on_connections_that_were_idle_for_up_to_seventy_seconds_are_all_done() {
    allow_many_sockets();
    let database = Database::new();
    let server = Server::on(&database, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let network = Network::to(server.port);
    let proxy = HaProxy::to(network.port);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");

    let through = |number: u32| ada.also_at(proxy.port).with_header("X-Connection", &(number + 1).to_string());
    let write = |number: u32| {
        let answer = through(number).try_post("/notes", &[("text", &number.to_string())]);
        answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string())
    };
    let mut answers = BTreeMap::new();
    thread::scope(|scope| {
        // Forty clients, so that a slow answer does not delay the next request.
        let client = |first: usize| {
            let numbers = (0..1000).skip(first).step_by(40);
            scope.spawn(move || {
                let opened = numbers.map(|number| {
                    through(number).get("/notes").assert_status(200);
                    (number, Instant::now() + Duration::from_secs(5) + Duration::from_secs(65) * number / 999)
                });
                let opened: Vec<_> = opened.collect();
                let write_when_due = |(number, due): (u32, Instant)| {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    write(number)
                };
                opened.into_iter().map(write_when_due).collect::<Vec<_>>()
            })
        };
        let clients: Vec<_> = (0..40).map(client).collect();
        for answer in clients.into_iter().flat_map(|client| client.join().unwrap()) {
            *answers.entry(answer).or_insert(0) += 1;
        }
    });
    assert_eq!(answers, BTreeMap::from([("303".into(), 1000)]), "{}", proxy.process);
    assert_eq!(database.count("select count(distinct text) from notes"), 1000);

    let mut idle: Vec<u64> = network.idle.lock().unwrap().iter().map(Duration::as_secs).collect();
    idle.sort();
    // On a busy machine some are late, and a connection that is idle for 75 s is closed.
    let spread = idle.len() > 950 && idle[0] < 20 && idle[idle.len() - 1] >= 69;
    assert!(spread, "{} were idle, for {idle:?} s", idle.len());
}
