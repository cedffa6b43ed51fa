//! A client that does exactly what it is told: no retries, no redirects, and bytes as the test writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Longer than any answer may take, so that a test fails rather than hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A kept connection that has been idle for longer may be closed by the server at any moment.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// One socket.
pub struct Connection {
    stream: BufReader<TcpStream>,
    used: Instant,
}

impl Connection {
    pub fn open(port: u16) -> io::Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), used: Instant::now() })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one answer, whole.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("not HTTP: {status_line:?}")))?;
        let mut answer = Answer { status, headers: Vec::new(), body: String::new() };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            answer.headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        assert_eq!(answer.header("transfer-encoding"), None, "{answer}");
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).into_owned();
        self.used = Instant::now();
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let whole = line.strip_suffix("\r\n").map(String::from);
        whole.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, format!("the answer ends in {line:?}")))
    }

    /// All that comes until the server closes the connection, or an error if it does not.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            // A close while bytes of ours are unread reaches us as a reset.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Whether the server has closed it.
    pub fn is_closed(&self) -> bool {
        match self.peek() {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Whether neither an answer nor an end has come yet.
    pub fn is_quiet(&self) -> bool {
        self.peek().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn peek(&self) -> io::Result<usize> {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    }
}

/// A request for the home page.
pub const HOME: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A request with a form, as a browser writes it.
pub fn form(path: &str, headers: &str, fields: &[(&str, &str)]) -> String {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n{headers}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The fields of a form that asks for a new password.
pub fn password_fields(password: &str) -> [(&str, &str); 2] {
    [("password", password), ("confirm_password", password)]
}

/// The fields of a sign-up with [`super::PASSWORD`].
pub fn sign_up_fields(name: &str) -> [(&str, &str); 3] {
    let [password, again] = password_fields(super::PASSWORD);
    [("username", name), password, again]
}

/// Sends each request to the server at its port, all at the same time, and returns the answers in the same order.
pub fn send_at_once(requests: &[(u16, String)]) -> Vec<Answer> {
    super::allow_many_sockets();
    let mut waiting = Vec::new();
    for (port, request) in requests {
        let (last, rest) = request.as_bytes().split_last().unwrap();
        let mut connection = Connection::open(*port).unwrap();
        connection.send(rest).unwrap();
        waiting.push((connection, *last));
    }
    // Each server has read all but the last byte of each, so the requests become complete at the same time.
    waiting.iter_mut().for_each(|(connection, last)| connection.send([*last]).unwrap());
    waiting.iter_mut().map(|(connection, _)| connection.answer().unwrap()).collect()
}

/// Asks again, a few times, when the answer is 503: a disk that others keep busy is no fault of the app.
pub fn retry_while_busy(mut ask: impl FnMut() -> Answer) -> Answer {
    let answer = (0..4).map(|_| ask()).find(|answer| answer.status != 503);
    answer.unwrap_or_else(ask)
}

/// Keeps cookies and its connection; follows no redirects.
pub struct Browser {
    port: u16,
    connection: Option<Connection>,
    cookies: BTreeMap<String, String>,
    /// Further headers of every request, as they are sent.
    headers: String,
}

impl Browser {
    pub fn at(port: u16) -> Browser {
        Browser { port, connection: None, cookies: BTreeMap::new(), headers: String::new() }
    }

    /// Sends this with every request.
    pub fn with_header(mut self, name: &str, value: &str) -> Browser {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// The same cookies at another server.
    pub fn also_at(&self, port: u16) -> Browser {
        Browser { cookies: self.cookies.clone(), headers: self.headers.clone(), ..Browser::at(port) }
    }

    /// Takes the cookies of another browser, as two tabs share them.
    pub fn share_cookies_of(&mut self, other: &Browser) {
        self.cookies.clone_from(&other.cookies);
    }

    /// Keeps the cookies of an answer that it did not ask for itself.
    pub fn take_cookies_of(&mut self, answer: &Answer) {
        for (name, value) in answer.set_cookies() {
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.into(), value.into());
            }
        }
    }

    pub fn cookies(&self) -> &BTreeMap<String, String> {
        &self.cookies
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.try_post(path, fields).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    pub fn try_get(&mut self, path: &str) -> io::Result<Answer> {
        let headers = self.own_headers();
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
    }

    pub fn try_post(&mut self, path: &str, fields: &[(&str, &str)]) -> io::Result<Answer> {
        self.exchange(&form(path, &self.own_headers(), fields))
    }

    /// Asks for an account with this name and [`super::PASSWORD`].
    #[track_caller]
    pub fn sign_up(&mut self, name: &str) -> Answer {
        self.post("/signup", &sign_up_fields(name))
    }

    /// The same with the address NAME@example.com.
    #[track_caller]
    pub fn sign_up_with_address(&mut self, name: &str) -> Answer {
        self.try_sign_up_with_address(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn try_sign_up_with_address(&mut self, name: &str) -> io::Result<Answer> {
        let address = super::address_of(name);
        let fields = [&sign_up_fields(name)[..], &[("email", &address)]].concat();
        self.try_post("/signup", &fields)
    }

    /// New recovery codes for the person who is logged in.
    #[track_caller]
    pub fn make_recovery_codes(&mut self) -> Vec<String> {
        self.post("/account/recovery-codes", &[]).assert_redirect("/account/recovery-codes");
        self.get("/account/recovery-codes").recovery_codes()
    }

    #[track_caller]
    pub fn log_in(&mut self, name: &str) -> Answer {
        self.log_in_with(name, super::PASSWORD)
    }

    #[track_caller]
    pub fn log_in_with(&mut self, name: &str, password: &str) -> Answer {
        self.post("/login", &[("username", name), ("password", password)])
    }

    /// Asserts that this person is logged in, which the home page says.
    #[track_caller]
    pub fn assert_logged_in(&mut self, name: &str) {
        self.get("/").assert_logged_in(name);
    }

    #[track_caller]
    pub fn assert_logged_out(&mut self) {
        self.get("/").assert_logged_out();
    }

    fn own_headers(&self) -> String {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let headers = &self.headers;
        if pairs.is_empty() { headers.clone() } else { format!("Cookie: {}\r\n{headers}", pairs.join("; ")) }
    }

    fn exchange(&mut self, request: &str) -> io::Result<Answer> {
        let kept = self.connection.take().filter(|connection| connection.used.elapsed() < KEEP_ALIVE);
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(self.port)?,
        };
        connection.send(request)?;
        let answer = connection.answer()?;
        self.take_cookies_of(&answer);
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

/// What a server answered. Every assertion that fails prints all of it.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// The names and values of the cookies it sets; one that it clears has an empty value.
    fn set_cookies(&self) -> impl Iterator<Item = (&str, &str)> {
        let cookies = self.headers.iter().filter(|(name, _)| name == "set-cookie");
        cookies.filter_map(|(_, value)| value.split(';').next()?.split_once('='))
    }

    /// Everything in it but the time and what is random: the values of cookies and the order of headers.
    pub fn comparable(&self) -> String {
        let mut headers: Vec<String> = self.headers.iter().map(comparable_header).collect();
        headers.sort();
        format!("{}\n{}\n\n{}", self.status, headers.join("\n"), self.body)
    }

    /// How many SQL statements it took, which debug builds say in development.
    pub fn statement_count(&self) -> &str {
        let timing = self.header("server-timing").expect("a debug build in development says it");
        timing.split(',').next().unwrap()
    }

    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    #[track_caller]
    pub fn assert_redirect(&self, path: &str) -> &Answer {
        assert_eq!((self.status, self.header("location")), (303, Some(path)), "{self}");
        self
    }

    #[track_caller]
    pub fn assert_contains(&self, words: &str) -> &Answer {
        assert!(self.body.contains(words), "expected {words:?}: {self}");
        self
    }

    /// Asserts that they are told to come back in so many seconds.
    #[track_caller]
    pub fn assert_must_wait(&self, seconds: RangeInclusive<u64>) {
        self.assert_status(429);
        let wait = self.header("retry-after").and_then(|wait| wait.parse().ok());
        assert!(wait.is_some_and(|wait| seconds.contains(&wait)), "not in {seconds:?} s: {self}");
        assert!(self.header("set-cookie").is_none(), "a cookie is set: {self}");
    }

    /// The recovery codes that it shows.
    pub fn recovery_codes(&self) -> Vec<String> {
        let codes = self.body.split("<code class=\"recovery-code\">").skip(1);
        codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect()
    }

    /// The name of the person who is logged in, if this is the home page.
    pub fn username(&self) -> Option<&str> {
        let (_, rest) = self.body.split_once("Logged in: ")?;
        rest.split('<').next()
    }

    #[track_caller]
    pub fn assert_logged_in(&self, name: &str) {
        assert_eq!((self.status, self.username()), (200, Some(name)), "{self}");
    }

    #[track_caller]
    pub fn assert_logged_out(&self) {
        assert_eq!((self.status, self.username()), (200, None), "{self}");
    }
}

fn comparable_header((name, value): &(String, String)) -> String {
    let value = match &**name {
        "date" | "retry-after" | "server-timing" => "…",
        "set-cookie" => {
            let (cookie, rest) = value.split_once('=').unwrap();
            let attributes = rest.split_once(';').map_or("", |(_, attributes)| attributes);
            return format!("set-cookie: {cookie}=…;{attributes}");
        }
        _ => value,
    };
    format!("{name}: {value}")
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(f, "\n{}", self.body)
    }
}
