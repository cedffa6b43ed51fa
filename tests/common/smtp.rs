//! A mail server that a test looks into, and that does as it is told: it takes mail, refuses it, says nothing, or is away.

use super::mail::Mail;
use super::{Browser, Server, address_of, wait_until};
use rustix::fd::OwnedFd;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What it does with whoever brings mail.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Manner {
    Takes,
    /// Answers each mail with this, such as `451 4.3.0 Later`.
    Refuses(&'static str),
    /// Says nothing, not even hello.
    Silent,
    /// Takes the whole mail, and does not say that it did.
    SilentAtTheEnd,
    /// Nobody listens on its port.
    Away,
}

pub struct Smtp {
    port: u16,
    /// What a program under test is given as `SMTP_URL`.
    pub url: String,
    desk: Arc<Desk>,
}

/// What the server and whoever attends to its visitors share.
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    manner: Manner,
    listens: bool,
    over: bool,
    visitors: Vec<TcpStream>,
    /// All lines but those of mails.
    heard: Vec<String>,
    mails: Vec<Mail>,
    /// How many of them have been handed out by [`Smtp::take`], by their place.
    taken: Vec<usize>,
    waiting: usize,
}

impl Smtp {
    pub fn start() -> Smtp {
        Smtp::that(Manner::Takes)
    }

    pub fn that(manner: Manner) -> Smtp {
        let place = hold(0);
        let port = rustix::net::getsockname(&place).unwrap();
        let port = SocketAddrV4::try_from(port).unwrap().port();
        let state = State {
            manner,
            listens: false,
            over: false,
            visitors: Vec::new(),
            heard: Vec::new(),
            mails: Vec::new(),
            taken: Vec::new(),
            waiting: 0,
        };
        let desk = Arc::new(Desk { state: Mutex::new(state), changed: Condvar::new() });
        let doorman = Arc::clone(&desk);
        thread::spawn(move || doorman.keep_the_door(port, place));
        let smtp = Smtp { port, url: format!("smtp://127.0.0.1:{port}"), desk };
        smtp.becomes(manner);
        smtp
    }

    /// Changes its manner, for those too who are waiting for a word of it. It is away, or back, when this returns.
    pub fn becomes(&self, manner: Manner) {
        let mut state = self.desk.lock();
        state.manner = manner;
        self.desk.changed.notify_all();
        let opens = manner != Manner::Away;
        drop(self.desk.changed.wait_while(state, |state| state.listens != opens).unwrap());
    }

    /// All mails that have come, also those it has not said it took, in their order.
    pub fn mails(&self) -> Vec<Mail> {
        self.desk.lock().mails.clone()
    }

    /// What has been said to it, but for the mails themselves.
    pub fn heard(&self) -> Vec<String> {
        self.desk.lock().heard.clone()
    }

    /// How many it is keeping waiting for a word.
    pub fn waiting(&self) -> usize {
        self.desk.lock().waiting
    }

    /// Waits until there are so many mails.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Mail> {
        let came = wait_until(60, || self.desk.lock().mails.len() >= count);
        assert!(came, "{count} mails were expected, and these came:\n{self}");
        self.mails()
    }

    /// Waits for a mail to this address with a link to this path, and takes it out: the next call answers another.
    #[track_caller]
    pub fn take(&self, address: &str, path: &str) -> Mail {
        let mut found = None;
        wait_until(30, || {
            let mut state = self.desk.lock();
            let fits = |(place, mail): &(usize, &Mail)| {
                !state.taken.contains(place) && mail.is_to(address) && mail.find_link(path).is_some()
            };
            found = state.mails.iter().enumerate().find(fits).map(|(place, mail)| (place, mail.clone()));
            state.taken.extend(found.iter().map(|(place, _)| *place));
            found.is_some()
        });
        let mail = found.map(|(_, mail)| mail);
        mail.unwrap_or_else(|| panic!("no mail to {address} with a link to {path}:\n{self}"))
    }

    /// Somebody with an account and the address NAME@example.com, which is confirmed.
    #[track_caller]
    pub fn person(&self, server: &Server, name: &str) -> Browser {
        let mut browser = server.browser();
        browser.sign_up_with_address(name).assert_redirect("/");
        let mail = self.take(&address_of(name), "/email/");
        browser.post(&mail.link("/email/"), &[]).assert_status(303);
        browser
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.over = true;
        state.hang_up();
        self.desk.changed.notify_all();
    }
}

impl fmt::Display for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- the mail server on port {}", self.port)?;
        self.mails().iter().try_for_each(|mail| writeln!(f, "{mail}"))
    }
}

impl State {
    fn hang_up(&mut self) {
        self.visitors.drain(..).for_each(|visitor| drop(visitor.shutdown(Shutdown::Both)));
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Listens on the port while it should. In between the port stays taken, so that nobody else can have it.
    fn keep_the_door(self: Arc<Desk>, port: u16, mut place: OwnedFd) {
        loop {
            let state = self.lock();
            let away = |state: &mut State| state.manner == Manner::Away && !state.over;
            if self.changed.wait_while(state, away).unwrap().over {
                return;
            }
            listen(&place, 100).unwrap();
            let listener = TcpListener::from(place);
            listener.set_nonblocking(true).unwrap();
            self.says_it_listens(true);
            while self.is_open() {
                match listener.accept() {
                    Ok((visitor, _)) => self.receive(visitor),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            drop(listener);
            place = hold(port);
            self.lock().hang_up();
            self.says_it_listens(false);
        }
    }

    fn says_it_listens(&self, listens: bool) {
        self.lock().listens = listens;
        self.changed.notify_all();
    }

    fn is_open(&self) -> bool {
        let state = self.lock();
        state.manner != Manner::Away && !state.over
    }

    fn receive(self: &Arc<Desk>, visitor: TcpStream) {
        visitor.set_nonblocking(false).unwrap();
        self.lock().visitors.push(visitor.try_clone().unwrap());
        let desk = Arc::clone(self);
        // Whoever hangs up has no more to say.
        thread::spawn(move || drop(desk.talk(visitor)));
    }

    fn talk(&self, visitor: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(visitor.try_clone()?);
        let say = |words: &str| (&visitor).write_all(format!("{words}\r\n").as_bytes());
        self.wait_while(Manner::Silent);
        say("220 localhost")?;
        let mut mail = Mail::default();
        loop {
            let line = read_line(&mut lines)?;
            let manner = self.wait_while(Manner::Silent);
            self.lock().heard.push(line.clone());
            match &*line.get(..4).unwrap_or_default().to_ascii_uppercase() {
                "EHLO" => say("250-localhost\r\n250 8BITMIME")?,
                "MAIL" => {
                    mail = Mail { sender: address(&line), ..Mail::default() };
                    match manner {
                        Manner::Refuses(words) => say(words)?,
                        _ => say("250 OK")?,
                    }
                }
                "RCPT" => {
                    mail.recipients.push(address(&line));
                    say("250 OK")?;
                }
                "DATA" => {
                    say("354 Go on")?;
                    mail.data = read_data(&mut lines)?;
                    self.lock().mails.push(std::mem::take(&mut mail));
                    self.wait_while(Manner::SilentAtTheEnd);
                    say("250 OK")?;
                }
                "QUIT" => return say("221 Bye"),
                _ => say("250 OK")?,
            }
        }
    }

    /// Keeps a visitor waiting as long as it has this manner, and answers the one it has then.
    fn wait_while(&self, manner: Manner) -> Manner {
        let mut state = self.lock();
        state.waiting += 1;
        let mut state =
            self.changed.wait_while(state, |state| state.manner == manner && !state.over).unwrap();
        state.waiting -= 1;
        state.manner
    }
}

/// Takes a port, or any, without listening on it: whoever connects is refused.
fn hold(port: u16) -> OwnedFd {
    let place = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // A program that is started meanwhile would keep the port open.
    fcntl_setfd(&place, FdFlags::CLOEXEC).unwrap();
    set_socket_reuseaddr(&place, true).unwrap();
    bind(&place, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    place
}

fn read_line(lines: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// The lines up to the one that is only a dot (RFC 5321, 4.5.2).
fn read_data(lines: &mut impl BufRead) -> io::Result<String> {
    let mut data = String::new();
    loop {
        let line = read_line(lines)?;
        if line == "." {
            return Ok(data);
        }
        data += line.strip_prefix('.').unwrap_or(&line);
        data += "\r\n";
    }
}

/// What stands between the angle brackets of `MAIL FROM:<…>` and `RCPT TO:<…>`.
fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or(line, |(address, _)| address).to_string()
}
