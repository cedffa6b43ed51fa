//! A conversation with a mail server (RFC 5321): its lines, TLS (RFC 3207) and the log-in (RFC 4954).

use data_encoding::BASE64;
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one address of the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum bytes of a reply.
const LONGEST_REPLY: u64 = 64 * 1024;

/// How long to wait for something the server may say before the end of a mail.
const INTERJECTION: Duration = Duration::from_millis(20);

pub struct Conversation {
    socket: BufReader<Box<dyn Socket>>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A reply of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

impl Reply {
    pub fn words(&self) -> String {
        self.lines.join(" ")
    }

    /// The text after this keyword in a reply to EHLO, in capitals, if the server has that extension.
    pub fn extension(&self, keyword: &str) -> Option<String> {
        self.lines.iter().skip(1).find_map(|line| {
            let line = line.to_ascii_uppercase();
            let rest = line.strip_prefix(keyword)?;
            // Old servers write AUTH=LOGIN.
            (rest.is_empty() || rest.starts_with([' ', '='])).then(|| rest.replace('=', " "))
        })
    }
}

/// Why a conversation cannot continue.
#[derive(Debug)]
pub enum Problem {
    Refused(Reply),
    /// The reply makes no sense at this point.
    Unclear(Reply),
    Lost(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Lost(error)
    }
}

impl Conversation {
    /// # Errors
    /// When no address of the host accepts a connection.
    pub async fn connect(host: &str, port: u16) -> Result<TcpStream, Problem> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
        for address in lookup_host((host, port)).await? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => last = error,
                Err(_) => last = ErrorKind::TimedOut.into(),
            }
        }
        Err(last.into())
    }

    pub fn new(socket: TcpStream) -> Conversation {
        Conversation { socket: BufReader::new(Box::new(socket)) }
    }

    /// Continues with TLS.
    ///
    /// # Errors
    /// When the certificate is not trusted, or data arrived that may have been injected.
    pub async fn encrypt(self, tls: Arc<rustls::ClientConfig>, host: &str) -> Result<Conversation, Problem> {
        if !self.socket.buffer().is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidData, "it sent data before TLS that it must not send").into());
        }
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        let socket = TlsConnector::from(tls).connect(name, self.socket.into_inner()).await?;
        Ok(Conversation { socket: BufReader::new(Box::new(socket)) })
    }

    /// Sends a line, and returns the reply if its code begins with this digit.
    ///
    /// # Errors
    /// When the reply is a rejection or any other.
    pub async fn command(&mut self, line: &str, expected: u16) -> Result<Reply, Problem> {
        self.socket.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.socket.flush().await?;
        self.reply(expected).await
    }

    /// # Errors
    /// As [`Conversation::command`].
    pub async fn log_in(&mut self, offered: &str, name: &str, password: &str) -> Result<(), Problem> {
        let encode = |text: &str| BASE64.encode(text.as_bytes());
        let offers = |mechanism: &str| offered.split_whitespace().any(|word| word == mechanism);
        if offers("PLAIN") {
            self.command(&format!("AUTH PLAIN {}", encode(&format!("\0{name}\0{password}"))), 2).await?;
        } else if offers("LOGIN") {
            self.command("AUTH LOGIN", 3).await?;
            self.command(&encode(name), 3).await?;
            self.command(&encode(password), 2).await?;
        } else {
            return Err(io::Error::other("it does not offer to log in with a password (PLAIN or LOGIN)").into());
        }
        Ok(())
    }

    /// Sends a mail without its end. The server can still reject it.
    ///
    /// # Errors
    /// When the server does, or disconnects.
    pub async fn send(&mut self, mail: &[u8]) -> Result<(), Problem> {
        self.socket.write_all(&stuff(mail)).await?;
        self.socket.flush().await?;
        match timeout(INTERJECTION, self.reply(2)).await {
            Err(_) => Ok(()),
            Ok(Ok(reply)) => Err(Problem::Unclear(reply)),
            Ok(Err(problem)) => Err(problem),
        }
    }

    /// Sends the end of a mail. From now on the mail may arrive.
    ///
    /// # Errors
    /// As [`Conversation::command`].
    pub async fn finish(&mut self) -> Result<Reply, Problem> {
        self.command(".", 2).await
    }

    /// # Errors
    /// As [`Conversation::command`].
    pub async fn reply(&mut self, expected: u16) -> Result<Reply, Problem> {
        let mut reply = Reply::default();
        let mut limited = (&mut self.socket).take(LONGEST_REPLY);
        loop {
            let mut line = Vec::new();
            limited.read_until(b'\n', &mut line).await?;
            if !line.ends_with(b"\n") {
                return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let more = line.get(3..).unwrap_or_default();
            reply.lines.push(more.get(1..).unwrap_or_default().to_string());
            let Some(code) = code.filter(|_| more.is_empty() || more.starts_with(['-', ' ', '\t'])) else {
                reply.lines = vec![line.to_string()];
                return Err(Problem::Unclear(reply));
            };
            reply.code = code;
            if !more.starts_with('-') {
                break;
            }
        }
        match reply.code / 100 {
            class if class == expected => Ok(reply),
            4 | 5 => Err(Problem::Refused(reply)),
            _ => Err(Problem::Unclear(reply)),
        }
    }
}

/// The mail with a final line break, and a second dot at the beginning of lines that begin with one (RFC 5321, 4.5.2).
fn stuff(mail: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(mail.len() + 16);
    let mut begins = true;
    for &byte in mail {
        if begins && byte == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(byte);
        begins = byte == b'\n';
    }
    if !begins {
        stuffed.extend(b"\r\n");
    }
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    fn conversation() -> (Conversation, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (Conversation { socket: BufReader::new(Box::new(ours)) }, theirs)
    }

    async fn reply(said: &[u8]) -> Result<Reply, Problem> {
        let (mut conversation, mut server) = conversation();
        server.write_all(said).await.unwrap();
        drop(server);
        conversation.reply(2).await
    }

    #[tokio::test]
    async fn replies_are_understood_however_servers_write_them() {
        for (said, code, words) in [
            (&b"250 2.0.0 ok\r\n"[..], 250, "2.0.0 ok"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250 ok\n", 250, "ok"),
            (b"250\tok\r\n", 250, "ok"),
            (b"250-one\r\n250 two\r\n", 250, "one two"),
            (b"250-one\r\n250\r\n", 250, "one "),
            (b"250-one\r\n251 two\r\n", 251, "one two"),
            (b"250 f\xfcr dich\r\n", 250, "f\u{fffd}r dich"),
        ] {
            let reply = reply(said).await.unwrap();
            assert_eq!((reply.code, &*reply.words()), (code, words), "{said:?}");
        }
        let long = [&b"250 "[..], &[b'x'; 3000], b"\r\n"].concat();
        assert_eq!(reply(&long).await.unwrap().code, 250);
        let refused = reply(b"550\r\n").await.unwrap_err();
        assert!(matches!(&refused, Problem::Refused(reply) if reply.code == 550), "{refused:?}");
        for said in [&b"354 more\r\n"[..], b"what?\r\n", b"25\r\n", b"2500 ok\r\n", b"SSH-2.0-OpenSSH\r\n"] {
            let problem = reply(said).await.unwrap_err();
            assert!(matches!(problem, Problem::Unclear(_)), "{said:?}: {problem:?}");
        }
        for said in [&b""[..], b"250", b"250-one\r\n", &[b'2'; 100_000]] {
            let problem = reply(said).await.unwrap_err();
            assert!(matches!(problem, Problem::Lost(_)), "{problem:?}");
        }
    }

    #[test]
    fn extensions_are_known_in_every_spelling() {
        let lines = ["host", "starttls", "Auth plain Login", "AUTHOR x"].map(String::from).to_vec();
        let reply = Reply { code: 250, lines };
        assert_eq!(reply.extension("STARTTLS").as_deref(), Some(""));
        assert_eq!(reply.extension("AUTH").as_deref(), Some(" PLAIN LOGIN"));
        assert_eq!(reply.extension("PIPELINING"), None);
        let old = Reply { code: 250, lines: vec!["host".into(), "AUTH=LOGIN PLAIN".into()] };
        assert_eq!(old.extension("AUTH").as_deref(), Some(" LOGIN PLAIN"));
        let greeting = Reply { code: 250, lines: vec!["STARTTLS is my name".into()] };
        assert_eq!(greeting.extension("STARTTLS"), None);
    }

    #[test]
    fn no_line_of_a_mail_ends_it() {
        for (mail, stuffed) in [
            ("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n"),
            (".a\r\n", "..a\r\n"),
            ("a\n.b", "a\n..b\r\n"),
            ("a.b\r\n", "a.b\r\n"),
        ] {
            assert_eq!(String::from_utf8(stuff(mail.as_bytes())).unwrap(), stuffed);
        }
    }

    #[tokio::test]
    async fn a_server_that_gives_up_before_the_end_of_a_mail_has_not_got_it() {
        let (mut gone, server) = conversation();
        drop(server);
        assert!(matches!(gone.send(b"a\r\n").await, Err(Problem::Lost(_))));
        let (mut refusing, mut server) = conversation();
        server.write_all(b"421 going\r\n").await.unwrap();
        assert!(matches!(refusing.send(b"a\r\n").await, Err(Problem::Refused(_))));
        let (mut waiting, _server) = conversation();
        waiting.send(b"a\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn what_a_server_says_too_much_before_tls_ends_the_conversation() {
        let (mut conversation, mut server) = conversation();
        server.write_all(b"220 go\r\n250-injected\r\n").await.unwrap();
        conversation.command("STARTTLS", 2).await.unwrap();
        let roots = rustls::RootCertStore::empty();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let problem = conversation.encrypt(Arc::new(tls), "localhost").await.err().unwrap();
        assert!(matches!(&problem, Problem::Lost(error) if error.kind() == ErrorKind::InvalidData), "{problem:?}");
    }
}
