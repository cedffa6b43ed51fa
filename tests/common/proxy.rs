//! What stands between the program and its database when a test wants the network to fail.

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
    lines: Arc<Mutex<Vec<Arc<Line>>>>,
    cut: Arc<AtomicBool>,
}

/// A connection through the proxy.
struct Line {
    near: TcpStream,
    far: TcpStream,
    last_question: Mutex<Instant>,
    frozen: Mutex<bool>,
    thawed: Condvar,
}

impl Proxy {
    pub fn to(url: &str) -> Proxy {
        let mut url = Url::parse(url).unwrap();
        let far = (url.host_str().unwrap().to_string(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let proxy = Proxy { url: url.to_string(), lines: Arc::default(), cut: Arc::default() };
        let (lines, cut) = (Arc::clone(&proxy.lines), Arc::clone(&proxy.cut));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // While the line is cut, whoever connects is hung up on.
                if !cut.load(SeqCst) {
                    lines.lock().unwrap().push(Line::begin(near, TcpStream::connect(&far).unwrap()));
                }
            }
        });
        proxy
    }

    /// Holds back all bytes of the connection that was the last to ask something.
    pub fn freeze_last_used(&self) {
        let lines = self.lines.lock().unwrap();
        let last = lines.iter().max_by_key(|line| *line.last_question.lock().unwrap()).unwrap();
        *last.frozen.lock().unwrap() = true;
    }

    /// Cuts every connection, and every new one until [`Proxy::mend`].
    pub fn cut(&self) {
        self.cut.store(true, SeqCst);
        self.lines.lock().unwrap().drain(..).for_each(|line| line.end());
    }

    pub fn mend(&self) {
        self.cut.store(false, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Line {
    fn begin(near: TcpStream, far: TcpStream) -> Arc<Line> {
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
        }
        let last_question = Mutex::new(Instant::now());
        let line = Line { near, far, last_question, frozen: Mutex::new(false), thawed: Condvar::new() };
        let line = Arc::new(line);
        let (questions, answers) = (Arc::clone(&line), Arc::clone(&line));
        thread::spawn(move || {
            let note = || *questions.last_question.lock().unwrap() = Instant::now();
            questions.pass(&questions.near, &questions.far, note);
        });
        thread::spawn(move || answers.pass(&answers.far, &answers.near, || {}));
        line
    }

    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, note: impl Fn()) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            note();
            let frozen = self.frozen.lock().unwrap();
            drop(self.thawed.wait_while(frozen, |frozen| *frozen).unwrap());
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        self.end();
    }

    fn end(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
        *self.frozen.lock().unwrap() = false;
        self.thawed.notify_all();
    }
}
