//! Crowds that mean harm, on thousands of connections, and the people who use the site meanwhile.
//!
//! By default a short form of each attack runs. `CROWD_SECONDS`, `CROWD_CONNECTIONS` and `CROWD_FILES`, the server's limit
//! of open files, make it longer and larger, and `CROWD_ATTACK` chooses one by its name.
//! needs: export, home, login, notes, notices, password_reset, session_list, signup

use crate::common::{Database, Server, allow_many_sockets, form, run_alone, sign_up_fields};
use std::env;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use uuid::Uuid;

/// What the crowd sends on one of its connections, from its opening to its end. It is called again and again.
type Attack = fn(Arc<Target>) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct Target {
    port: u16,
    /// The cookies of a user who belongs to the crowd.
    eve: String,
}

/// From all connections at once.
const ALL: usize = usize::MAX;

/// A name, the number of connections, and what they do.
const ATTACKS: [(&str, usize, Attack); 14] = [
    ("half heads", ALL, |target| Box::pin(async move { target.send_and_wait("GET / HTTP/1.1\r\nHost: loc").await })),
    ("big heads", ALL, |target| {
        Box::pin(async move { target.send_and_wait(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(350_000))).await })
    }),
    ("tiny chunks", ALL, |target| {
        Box::pin(async move {
            let head = upload("Transfer-Encoding: chunked");
            target.send_and_wait(&format!("{head}{}", "1\r\na\r\n".repeat(60_000))).await
        })
    }),
    ("silent sockets", ALL, |target| Box::pin(async move { target.send_and_wait("").await })),
    ("slow bodies", ALL, |target| Box::pin(async move { target.send_slowly(&upload("Content-Length: 60000")).await })),
    ("slow readers", ALL, |target| {
        Box::pin(async move { target.read_slowly(&get("/styles.css", "").repeat(20), 100).await })
    }),
    ("unread pipelines", ALL, |target| Box::pin(async move { target.never_read(&get("/", "").repeat(100)).await })),
    ("hang-ups", 64, |target| Box::pin(async move { target.hang_up().await })),
    ("refused log-ins", ALL, |target| {
        let log_in = || form("/login", "", &[("username", "nobody"), ("password", "not the password")]);
        Box::pin(async move { target.repeat(log_in).await })
    }),
    ("refused sign-ups", ALL, |target| {
        Box::pin(async move { target.repeat(|| form("/signup", "", &sign_up_fields(&random()[..20]))).await })
    }),
    ("unknown log-outs", ALL, |target| {
        let log_out = || form("/logout", &format!("Cookie: session_token={}\r\n", random_token()), &[]);
        Box::pin(async move { target.repeat(log_out).await })
    }),
    ("unknown links", ALL, |target| {
        let open = || match random_token() {
            token if token.starts_with(|c| c < '4') => get(&format!("/password-reset/{token}"), ""),
            token if token.starts_with(|c| c < '8') => form(&format!("/password-reset/{token}"), "", &[]),
            token => form(&format!("/undo/{token}"), "", &[]),
        };
        Box::pin(async move { target.repeat(open).await })
    }),
    ("exports", 64, |target| {
        let export = form("/account/export", &target.eve, &[]);
        Box::pin(async move { target.read_slowly(&export, 20_000).await })
    }),
    ("one user's flood", 2_000, |target| {
        let (revoke, write) = ("/account/sessions/revoke-others", "/notes");
        let flood = target.eve.clone();
        let request = move || match random().starts_with(|c| c < '8') {
            true => form(revoke, &flood, &[]),
            false => form(write, &flood, &[("text", "a note")]),
        };
        Box::pin(async move { target.repeat(request).await })
    }),
];

/// Hexadecimal digits. The last ones of such an id are random, so they come first here.
fn random() -> String {
    Uuid::now_v7().simple().to_string().chars().rev().collect()
}

/// It has the form of the site's tokens.
fn random_token() -> String {
    format!("{}{}", random(), &random()[..11])
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// The head of a form of which the body is still to come.
fn upload(length: &str) -> String {
    let form = "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded";
    format!("POST /login HTTP/1.1\r\nHost: localhost\r\n{form}\r\n{length}\r\n\r\n")
}

impl Target {
    /// From an address of its own.
    async fn connect_from(&self, last: u8, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        receive_buffer.map_or(Ok(()), |size| socket.set_recv_buffer_size(size))?;
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
        socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        self.connect_from(1, None).await
    }

    async fn send_and_wait(&self, bytes: &str) -> io::Result<()> {
        let mut stream = self.connect().await?;
        stream.write_all(bytes.as_bytes()).await?;
        read_all(&mut stream).await
    }

    async fn send_slowly(&self, head: &str) -> io::Result<()> {
        let mut stream = self.connect().await?;
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(b"a").await?;
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn read_slowly(&self, requests: &str, bytes_a_second: usize) -> io::Result<()> {
        let mut stream = self.connect_from(1, Some(4096)).await?;
        stream.write_all(requests.as_bytes()).await?;
        let mut buffer = vec![0; bytes_a_second];
        while stream.read(&mut buffer).await? > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn never_read(&self, requests: &str) -> io::Result<()> {
        let mut stream = self.connect_from(1, Some(4096)).await?;
        loop {
            stream.write_all(requests.as_bytes()).await?;
        }
    }

    async fn hang_up(&self) -> io::Result<()> {
        let mut stream = self.connect().await?;
        stream.set_zero_linger()?;
        let token = random_token();
        let request = match token.as_bytes()[0] {
            b'0'..=b'7' => get(&format!("/password-reset/{token}"), ""),
            b'8'..=b'b' => form("/logout", &format!("Cookie: session_token={token}\r\n"), &[]),
            _ => get("/login", &format!("Cookie: session_token={token}\r\n")),
        };
        stream.write_all(request.as_bytes()).await?;
        sleep(Duration::from_micros(u64::from(token.as_bytes()[1]) % 16 * 60)).await;
        Ok(())
    }

    /// One request after the other on one connection, each as soon as the one before it is answered.
    async fn repeat(&self, request: impl Fn() -> String) -> io::Result<()> {
        let mut stream = self.connect().await?;
        loop {
            ask(&mut stream, &request()).await?;
        }
    }
}

async fn read_all(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Sends a request, and returns the status of its answer.
async fn ask(stream: &mut TcpStream, request: &str) -> io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
        let length = text.split_once("content-length: ").map_or(0, |(_, rest)| {
            rest.split("\r\n").next().and_then(|length| length.trim().parse().ok()).unwrap_or(0)
        });
        if answer.len() >= head + 4 + length {
            return text[9..12].parse().map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
}

/// How the site served its users during an attack.
#[derive(Default)]
struct Service {
    home: Vec<Duration>,
    notes: Vec<Duration>,
    busy: usize,
    /// Answers that are neither what was asked for nor 503, and connections without an answer.
    failures: Vec<String>,
}

impl Service {
    fn count(&self) -> usize {
        self.home.len() + self.notes.len() + self.busy + self.failures.len()
    }

    fn add(&mut self, other: Service) {
        self.home.extend(other.home);
        self.notes.extend(other.notes);
        self.busy += other.busy;
        self.failures.extend(other.failures);
    }
}

fn percentile_99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() * 99 / 100).copied().unwrap_or(Duration::MAX)
}

/// Someone who looks at the home page and writes a note, on a kept connection and on a new one in turns.
async fn use_site(target: &Target, last: u8, cookies: &str, until: Instant) -> Service {
    let home = get("/", cookies);
    let (mut service, mut kept, mut written) = (Service::default(), None, 0);
    while Instant::now() < until {
        // The same text twice would be a button that was pressed twice.
        let notes = [(); 2].map(|()| {
            written += 1;
            form("/notes", cookies, &[("text", &format!("note {written}"))])
        });
        for (request, expected) in [(&home, 200), (&notes[0], 303), (&home, 200), (&notes[1], 303)] {
            let begun = Instant::now();
            let answer = ask_on(&mut kept, target, last, request).await;
            match answer {
                Ok(status) if status == expected && expected == 200 => service.home.push(begun.elapsed()),
                Ok(status) if status == expected => service.notes.push(begun.elapsed()),
                Ok(503) => service.busy += 1,
                Ok(status) => service.failures.push(status.to_string()),
                Err(error) => service.failures.push(error.to_string()),
            }
        }
        kept = None;
        sleep(Duration::from_millis(20)).await;
    }
    service
}

/// As a browser does: if the server has closed the connection meanwhile, on a new one.
async fn ask_on(kept: &mut Option<TcpStream>, target: &Target, last: u8, request: &str) -> io::Result<u16> {
    if let Some(mut stream) = kept.take()
        && let Ok(status) = ask(&mut stream, request).await
    {
        *kept = Some(stream);
        return Ok(status);
    }
    let stream = kept.insert(target.connect_from(last, None).await?);
    ask(stream, request).await
}

/// The figures of one attack.
struct Figures {
    service: Service,
    /// The most memory that the server has had, in MiB.
    memory: usize,
    /// What it has logged, in KB.
    log: usize,
}

impl Figures {
    /// Whether people were served well, during an attack from so many connections. Without a crowd, nearly all requests are
    /// answered within the time `calm`.
    fn hold(&self, connections: usize, calm: Duration) -> bool {
        let Figures { service, memory, log } = self;
        // A debug build is slow.
        let factor = if cfg!(debug_assertions) { 5 } else { 1 };
        percentile_99(&service.home) < (factor * Duration::from_millis(200)).max(20 * calm)
            && percentile_99(&service.notes) < (factor * Duration::from_millis(500)).max(20 * calm)
            && (service.busy + service.failures.len()) * 100 <= service.count() * factor as usize
            && *memory <= if connections > 1_000 { 300 } else { 120 }
            && *log < 200
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { service, memory, log } = self;
        let (home, notes) = (percentile_99(&service.home).as_millis(), percentile_99(&service.notes).as_millis());
        let (count, failures) = (service.count(), service.failures.len());
        write!(f, "{home} ms | {notes} ms | {} of {count} | {failures} | {memory} MiB | {log} KB", service.busy)
    }
}

const PEOPLE: u8 = 4;

/// The users whom nobody has told to expect a crowd, then eve.
fn sign_up_people(server: &Server) -> Vec<String> {
    let names = (0..PEOPLE).map(|number| format!("ada{number}")).chain(["eve".to_string()]);
    let cookies = names.map(|name| {
        let mut browser = server.browser();
        browser.sign_up(&name).assert_redirect("/");
        browser.post("/notes", &[("text", &"é".repeat(6_000))]).assert_redirect("/notes");
        format!("Cookie: session_token={}\r\n", browser.cookies()["session_token"])
    });
    cookies.collect()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Lets the crowd loose on the server, and returns how it served its users meanwhile.
fn attack(server: &Server, people: &[String], connections: usize, attack: Attack, time: Duration) -> Figures {
    let target = Arc::new(Target { port: server.port, eve: people[usize::from(PEOPLE)].clone() });
    let crowd_target = Arc::clone(&target);
    let until = Instant::now() + time;
    let crowd = thread::spawn(move || {
        runtime().block_on(async {
            for _ in 0..connections {
                let target = Arc::clone(&crowd_target);
                tokio::spawn(async move {
                    loop {
                        if attack(Arc::clone(&target)).await.is_err() {
                            sleep(Duration::from_millis(20)).await;
                        }
                    }
                });
            }
            tokio::time::sleep_until(until.into()).await;
        });
    });
    // The crowd needs a while to be there.
    thread::sleep(time / 5);
    let service = runtime().block_on(async {
        let (mut service, mut tasks) = (Service::default(), Vec::new());
        for (last, cookies) in (10..).zip(people[..usize::from(PEOPLE)].to_vec()) {
            let target = Arc::clone(&target);
            tasks.push(tokio::spawn(async move { use_site(&target, last, &cookies, until).await }));
        }
        for task in tasks {
            service.add(task.await.unwrap());
        }
        service
    });
    crowd.join().unwrap();
    let log = (server.stdout().len() + server.stderr().len()) / 1000;
    Figures { service, memory: server.peak_memory() / 1024, log }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs /proc")]
fn people_are_served_whatever_a_crowd_does() {
    let _alone = run_alone();
    allow_many_sockets();
    let database = Database::new();
    let people = sign_up_people(&Server::on(&database, &[]));
    // 50 MB of notes for the export.
    for copy in 'a'..='l' {
        database.execute(&format!(
            "insert into notes (id, user_id, text, created_at, updated_at) \
             select '{copy}' || id, user_id, text, created_at, updated_at from notes \
             where user_id = (select id from users where username = 'eve')"
        ));
    }
    let time = Duration::from_secs(setting("CROWD_SECONDS", 1));
    let (most, files) = (setting("CROWD_CONNECTIONS", 300), setting("CROWD_FILES", 256));
    let chosen = setting("CROWD_ATTACK", String::new());
    // One address stands for many, and the limits are the usual ones.
    let settings = [
        ("CONNECTIONS_PER_ADDRESS", "100000"),
        ("PASSWORD_ATTEMPTS_PER_ADDRESS", "10/3m"),
        ("SIGNUPS_PER_ADDRESS", "10/1h"),
        // In a debug build too, a request that succeeds is not logged.
        ("RUST_LOG", "info"),
    ];
    let calm = attack(&Server::on_with_files(files, &database, &settings), &people, 0, ATTACKS[0].2, time);
    let calm = percentile_99(&[calm.service.home, calm.service.notes].concat());
    println!("without a crowd: {calm:?}");
    let mut failed = Vec::new();
    println!("| attack | GET / p99 | POST /notes p99 | 503 | failures | memory | log |");
    for (name, connections, act) in ATTACKS.into_iter().filter(|(name, ..)| name.contains(&*chosen)) {
        // What else the machine has to do only adds, so the best of three rounds counts.
        let held = (0..3).any(|_| {
            let server = Server::on_with_files(files, &database, &settings);
            let figures = attack(&server, &people, connections.min(most), act, time);
            let mut failures = figures.service.failures.clone();
            failures.dedup();
            failures.truncate(5);
            println!("| {name} | {figures} | {failures:?}");
            figures.hold(most, calm)
        });
        if !held {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
