//! A network between the program and its database that fails when a test wants it to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;
use url::Url;

/// Passes bytes on to a database server, until it is told otherwise.
pub struct Proxy {
    /// The database's address by way of the proxy.
    pub url: String,
    server: (String, u16),
    port: u16,
    links: Arc<Mutex<Vec<Arc<Link>>>>,
    cut: Arc<AtomicBool>,
}

/// A connection through the proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    last_used: Mutex<Instant>,
    frozen: Mutex<bool>,
    unfrozen: Condvar,
}

impl Proxy {
    pub fn to(url: &str) -> Proxy {
        let mut url = Url::parse(url).unwrap();
        let server = (url.host_str().unwrap().to_string(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Proxy { url: url.to_string(), server, port, links: Arc::default(), cut: Arc::default() };
        proxy.accept(listener);
        proxy
    }

    /// Takes connections until it is cut.
    fn accept(&self, listener: TcpListener) {
        let (server, links, cut) = (self.server.clone(), Arc::clone(&self.links), Arc::clone(&self.cut));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Once the listener is gone, new connections are refused.
                if cut.load(SeqCst) {
                    break;
                }
                links.lock().unwrap().push(Link::open(client, TcpStream::connect(&server).unwrap()));
            }
        });
    }

    /// Holds back all bytes of the connection that was used last.
    pub fn freeze_last_used(&self) {
        let links = self.links.lock().unwrap();
        let last = links.iter().max_by_key(|link| *link.last_used.lock().unwrap()).unwrap();
        *last.frozen.lock().unwrap() = true;
    }

    /// Cuts every connection. New ones are refused until [`Proxy::mend`].
    pub fn cut(&self) {
        if !self.cut.swap(true, SeqCst) {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        }
        self.links.lock().unwrap().drain(..).for_each(|link| link.close());
    }

    pub fn mend(&self) {
        self.cut.store(false, SeqCst);
        self.accept(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Link {
    fn open(client: TcpStream, server: TcpStream) -> Arc<Link> {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let last_used = Mutex::new(Instant::now());
        let link = Link { client, server, last_used, frozen: Mutex::new(false), unfrozen: Condvar::new() };
        let link = Arc::new(link);
        let (requests, answers) = (Arc::clone(&link), Arc::clone(&link));
        thread::spawn(move || {
            let note = || *requests.last_used.lock().unwrap() = Instant::now();
            requests.pass(&requests.client, &requests.server, note);
        });
        thread::spawn(move || answers.pass(&answers.server, &answers.client, || {}));
        link
    }

    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, note: impl Fn()) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            note();
            let frozen = self.frozen.lock().unwrap();
            drop(self.unfrozen.wait_while(frozen, |frozen| *frozen).unwrap());
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        self.close();
    }

    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
        *self.frozen.lock().unwrap() = false;
        self.unfrozen.notify_all();
    }
}
