//! A mail server for tests. It accepts mail, refuses it, is slow or silent, hangs up or is down, as a test says.

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
    /// Does this instead of what is usual at this stage.
    Fails(Stage, Fault),
    /// Takes so long for every recipient of this domain.
    IsSlowTo(&'static str, Duration),
    /// Sends nothing, not even its greeting.
    Silent,
    /// Reads the whole mail and never confirms it.
    SilentAfterData,
    /// Refuses connections.
    Down,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Stage {
    Greeting,
    Hello,
    LogIn,
    Sender,
    Recipient,
    Data,
    /// The answer to the dot after a mail.
    Content,
    Quit,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// Answers this, such as `451 4.3.0 Later`.
    Refuses(&'static str),
    /// Answers after so long.
    IsLate(Duration),
    /// Hangs up.
    Drops,
    /// Sends its answer byte by byte.
    Trickles,
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
    /// How many connections were opened, and how many faults a client has met.
    connections: usize,
    faults: usize,
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
            connections: 0,
            faults: 0,
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

    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How often a client has met what [`Behaviour::Fails`] does.
    pub fn faults(&self) -> usize {
        self.shared.lock().faults
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
        let mut state = self.lock();
        state.connections += 1;
        state.clients.push(client.try_clone().unwrap());
        drop(state);
        let shared = Arc::clone(self);
        // An error is the end of the connection, which has a copy among the clients.
        thread::spawn(move || {
            let copy = client.try_clone();
            drop(shared.talk(client));
            drop(copy.map(|copy| copy.shutdown(Shutdown::Both)));
        });
    }

    fn talk(&self, client: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(client.try_clone()?);
        self.wait_while(Behaviour::Silent);
        self.answer(&client, Stage::Greeting, "220 localhost")?;
        let mut mail = Mail::default();
        loop {
            let line = read_line(&mut lines)?;
            let behaviour = self.wait_while(Behaviour::Silent);
            self.lock().commands.push(line.clone());
            match &*line.get(..4).unwrap_or_default().to_ascii_uppercase() {
                "EHLO" => {
                    self.answer(&client, Stage::Hello, "250-localhost\r\n250-AUTH PLAIN\r\n250 8BITMIME")?;
                }
                "AUTH" => {
                    self.answer(&client, Stage::LogIn, "235 OK")?;
                }
                "MAIL" => {
                    mail = Mail { sender: address(&line), ..Mail::default() };
                    self.answer(&client, Stage::Sender, "250 OK")?;
                }
                "RCPT" => {
                    let recipient = address(&line);
                    if let Behaviour::IsSlowTo(domain, time) = behaviour
                        && recipient.ends_with(domain)
                    {
                        thread::sleep(time);
                    }
                    mail.recipients.push(recipient);
                    self.answer(&client, Stage::Recipient, "250 OK")?;
                }
                "DATA" => {
                    if self.answer(&client, Stage::Data, "354 Go on")? {
                        mail.data = read_data(&mut lines)?;
                        let mail = std::mem::take(&mut mail);
                        if !matches!(behaviour, Behaviour::Fails(Stage::Content, Fault::Refuses(_))) {
                            self.lock().mails.push(mail);
                        }
                        self.wait_while(Behaviour::SilentAfterData);
                        self.answer(&client, Stage::Content, "250 OK")?;
                    }
                }
                "QUIT" => return self.answer(&client, Stage::Quit, "221 Bye").map(drop),
                _ => (&client).write_all(b"250 OK\r\n")?,
            }
        }
    }

    /// Answers as usual at this stage, unless it is to do something else. Returns whether it did not refuse.
    fn answer(&self, mut client: &TcpStream, stage: Stage, usual: &str) -> io::Result<bool> {
        let fault = {
            let mut state = self.lock();
            match state.behaviour {
                Behaviour::Fails(at, fault) if at == stage => {
                    state.faults += 1;
                    Some(fault)
                }
                _ => None,
            }
        };
        match fault {
            Some(Fault::Refuses(words)) => {
                client.write_all(format!("{words}\r\n").as_bytes())?;
                return Ok(false);
            }
            Some(Fault::Drops) => return Err(ErrorKind::ConnectionAborted.into()),
            Some(Fault::IsLate(time)) => thread::sleep(time),
            Some(Fault::Trickles) => {
                for byte in usual.bytes() {
                    client.write_all(&[byte])?;
                    thread::sleep(Duration::from_millis(300));
                }
                client.write_all(b"\r\n")?;
                return Ok(true);
            }
            None => {}
        }
        client.write_all(format!("{usual}\r\n").as_bytes())?;
        Ok(true)
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
    // A process that is just being started has the old listener until it is replaced by its program.
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    assert!(super::wait_until(10, || bind(&held, &address).is_ok()), "{address} is taken");
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
