//! A mail server for tests. It accepts mail, rejects it, stays silent or is down, as a test says.

use super::mail::Mail;
use super::{Browser, Database, Server, address_of, wait_until};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What it does when mail comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Behaviour {
    Accepts,
    /// Answers every `MAIL FROM` with this, such as `451 4.3.0 Later`.
    Rejects(&'static str),
    /// Sends nothing, not even its greeting.
    Silent,
    /// Reads the whole mail and never confirms it.
    SilentAfterData,
    /// Refuses connections.
    Down,
}

pub struct Smtp {
    port: u16,
    /// What a server under test is given as `SMTP_URL`.
    pub url: String,
    shared: Arc<Shared>,
}

/// What the threads of the server share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    behaviour: Behaviour,
    listening: bool,
    over: bool,
    clients: Vec<TcpStream>,
    /// All lines but those of mails.
    commands: Vec<String>,
    mails: Vec<Mail>,
    /// The indices of those that [`Smtp::take_mail`] has returned.
    taken: Vec<usize>,
    waiting: usize,
}

impl Smtp {
    pub fn start() -> Smtp {
        Smtp::behaving(Behaviour::Accepts)
    }

    pub fn behaving(behaviour: Behaviour) -> Smtp {
        let held = reserve_port(0);
        let port = rustix::net::getsockname(&held).unwrap();
        let port = SocketAddrV4::try_from(port).unwrap().port();
        let state = State {
            behaviour,
            listening: false,
            over: false,
            clients: Vec::new(),
            commands: Vec::new(),
            mails: Vec::new(),
            taken: Vec::new(),
            waiting: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let listener = Arc::clone(&shared);
        thread::spawn(move || listener.run_listener(port, held));
        let smtp = Smtp { port, url: format!("smtp://127.0.0.1:{port}"), shared };
        smtp.set_behaviour(behaviour);
        smtp
    }

    /// Changes its behaviour, also towards connected clients. When this returns it is down, or up again.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        let mut state = self.shared.lock();
        state.behaviour = behaviour;
        self.shared.changed.notify_all();
        let opens = behaviour != Behaviour::Down;
        drop(self.shared.changed.wait_while(state, |state| state.listening != opens).unwrap());
    }

    /// All mails that have come, in their order, the unconfirmed ones included.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.lock().mails.clone()
    }

    /// The commands it was sent.
    pub fn commands(&self) -> Vec<String> {
        self.shared.lock().commands.clone()
    }

    /// How many clients wait for its answer.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting
    }

    /// Waits until this many mails have come.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Mail> {
        let came = wait_until(60, || self.shared.lock().mails.len() >= count);
        assert!(came, "{count} mails were expected, and these came:\n{self}");
        self.mails()
    }

    /// Waits for a mail to this address with a link to this path. The next call returns another.
    #[track_caller]
    pub fn take_mail(&self, address: &str, path: &str) -> Mail {
        let mut found = None;
        wait_until(30, || {
            let mut state = self.shared.lock();
            let fits = |(index, mail): &(usize, &Mail)| {
                !state.taken.contains(index) && mail.is_to(address) && mail.find_link(path).is_some()
            };
            found = state.mails.iter().enumerate().find(fits).map(|(index, mail)| (index, mail.clone()));
            state.taken.extend(found.iter().map(|(index, _)| *index));
            found.is_some()
        });
        let mail = found.map(|(_, mail)| mail);
        mail.unwrap_or_else(|| panic!("no mail to {address} with a link to {path}:\n{self}"))
    }

    /// Signs up with the address NAME@example.com, and confirms it.
    #[track_caller]
    pub fn person(&self, server: &Server, name: &str) -> Browser {
        let mut browser = server.browser();
        browser.sign_up_with_address(name).assert_redirect("/");
        let mail = self.take_mail(&address_of(name), "/email/");
        browser.post(&mail.link("/email/"), &[]).assert_status(303);
        browser
    }
}

/// A server in development and the mail server that it uses.
#[track_caller]
pub fn site_with_mail(settings: &[(&str, &str)]) -> (Database, Smtp, Server) {
    let (database, smtp) = (Database::new(), Smtp::start());
    let server = Server::on(&database, &[&[("SMTP_URL", &*smtp.url)], settings].concat());
    (database, smtp, server)
}

pub fn unsent_mails(database: &Database) -> i64 {
    database.count("select count(*) from mails")
}

/// Waits until no mail is left in the database.
#[track_caller]
pub fn assert_all_mails_sent(database: &Database, logs: &dyn fmt::Display) {
    let sent = wait_until(60, || unsent_mails(database) == 0);
    assert!(sent, "{} mails are still there:\n{logs}", unsent_mails(database));
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        state.disconnect_all();
        self.shared.changed.notify_all();
    }
}

impl fmt::Display for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- the mail server on port {}", self.port)?;
        self.mails().iter().try_for_each(|mail| writeln!(f, "{mail}"))
    }
}

impl State {
    fn disconnect_all(&mut self) {
        self.clients.drain(..).for_each(|client| drop(client.shutdown(Shutdown::Both)));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Listens on the port unless it is down. Then the port stays reserved, so that no other program can have it.
    fn run_listener(self: Arc<Shared>, port: u16, mut held: OwnedFd) {
        loop {
            let state = self.lock();
            let down = |state: &mut State| state.behaviour == Behaviour::Down && !state.over;
            if self.changed.wait_while(state, down).unwrap().over {
                return;
            }
            listen(&held, 100).unwrap();
            let listener = TcpListener::from(held);
            listener.set_nonblocking(true).unwrap();
            self.set_listening(true);
            while self.is_open() {
                match listener.accept() {
                    Ok((client, _)) => self.receive(client),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            drop(listener);
            held = reserve_port(port);
            self.lock().disconnect_all();
            self.set_listening(false);
        }
    }

    fn set_listening(&self, listening: bool) {
        self.lock().listening = listening;
        self.changed.notify_all();
    }

    fn is_open(&self) -> bool {
        let state = self.lock();
        state.behaviour != Behaviour::Down && !state.over
    }

    fn receive(self: &Arc<Shared>, client: TcpStream) {
        client.set_nonblocking(false).unwrap();
        self.lock().clients.push(client.try_clone().unwrap());
        let shared = Arc::clone(self);
        // An error is the end of the connection.
        thread::spawn(move || drop(shared.talk(client)));
    }

    fn talk(&self, client: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(client.try_clone()?);
        let say = |words: &str| (&client).write_all(format!("{words}\r\n").as_bytes());
        self.wait_while(Behaviour::Silent);
        say("220 localhost")?;
        let mut mail = Mail::default();
        loop {
            let line = read_line(&mut lines)?;
            let behaviour = self.wait_while(Behaviour::Silent);
            self.lock().commands.push(line.clone());
            match &*line.get(..4).unwrap_or_default().to_ascii_uppercase() {
                "EHLO" => say("250-localhost\r\n250 8BITMIME")?,
                "MAIL" => {
                    mail = Mail { sender: address(&line), ..Mail::default() };
                    match behaviour {
                        Behaviour::Rejects(words) => say(words)?,
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
                    self.wait_while(Behaviour::SilentAfterData);
                    say("250 OK")?;
                }
                "QUIT" => return say("221 Bye"),
                _ => say("250 OK")?,
            }
        }
    }

    /// Makes a client wait while this is its behaviour, and returns the one that comes after.
    fn wait_while(&self, behaviour: Behaviour) -> Behaviour {
        let mut state = self.lock();
        state.waiting += 1;
        let mut state = self.changed.wait_while(state, |state| state.behaviour == behaviour && !state.over).unwrap();
        state.waiting -= 1;
        state.behaviour
    }
}

/// Binds a port, or any, without listening on it: connections are refused.
fn reserve_port(port: u16) -> OwnedFd {
    #[cfg(windows)]
    rustix::net::wsa_startup().unwrap();
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    #[cfg(unix)]
    {
        // Otherwise a process started meanwhile would inherit the port.
        rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::CLOEXEC).unwrap();
        rustix::net::sockopt::set_socket_reuseaddr(&held, true).unwrap();
    }
    bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    held
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

/// What is between the angle brackets of `MAIL FROM:<…>` and `RCPT TO:<…>`.
fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or(line, |(address, _)| address).to_string()
}
