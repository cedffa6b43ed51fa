//! The stages of a conversation with a mail server, and what a failure at each of them means for the mail.

use super::conversation::{Problem, Reply};
use super::delivery::{Failure, FailureKind};
use anyhow::anyhow;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connection,
    Greeting,
    Hello,
    StartTls,
    Tls,
    LogIn,
    Sender,
    Recipient,
    Data,
    /// The mail without its end.
    Text,
    /// The final dot.
    End,
}

impl Stage {
    /// How long the server may take (RFC 5321, 4.5.3.2).
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Stage::Data => 2 * 60,
            Stage::Text => 3 * 60,
            Stage::End => 10 * 60,
            _ => 5 * 60,
        })
    }

    /// Runs the work of this stage.
    ///
    /// # Errors
    /// When the server rejects it, sends an invalid reply, disconnects or takes too long.
    pub async fn run<T>(self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Failure> {
        let (reply, sentence) = match timeout(self.limit(), work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Problem::Refused(reply))) => {
                let sentence = format!("the mail server answered {self} with {} {}", reply.code, self.quote(&reply));
                (Some(reply), sentence)
            }
            Ok(Err(Problem::Unclear(reply))) => {
                (None, format!("the mail server answered {self} with an invalid reply: {}", self.quote(&reply)))
            }
            Ok(Err(Problem::Lost(error))) => (None, self.loss(&error)),
            Err(_) => {
                let minutes = self.limit().as_secs() / 60;
                (None, format!("the mail server took more than {minutes} minutes for {self}"))
            }
        };
        Err(Failure::new(self.kind(reply.as_ref()), anyhow!(sentence)))
    }

    fn kind(self, refusal: Option<&Reply>) -> FailureKind {
        match (self, refusal) {
            (Stage::Recipient | Stage::Data | Stage::Text, None) => FailureKind::Later,
            (Stage::End, None) => FailureKind::Unknown,
            (Stage::Recipient | Stage::Data | Stage::Text | Stage::End, Some(reply)) if self.is_final(reply) => {
                FailureKind::Final
            }
            (Stage::Recipient | Stage::Data | Stage::Text | Stage::End, Some(_)) => FailureKind::Later,
            _ => FailureKind::Paused,
        }
    }

    /// Whether the server says that the recipient or the message is at fault, and not the site, the server or the
    /// network (RFC 3463): 5.1.x except for the sender's address (5.1.7, 5.1.8), and 5.2.x except for a full mailbox
    /// (5.2.2).
    fn is_final(self, reply: &Reply) -> bool {
        let blames = |(class, subject, detail)| match (class, subject) {
            (5, 1) => !matches!(detail, 7 | 8),
            (5, 2) => detail != 2,
            _ => false,
        };
        let words = reply.words();
        let mut words = words.split_whitespace();
        match words.next().and_then(enhanced_code) {
            _ if reply.code < 500 => false,
            Some(code) => blames(code),
            // Elsewhere, a code may be part of a sentence, and can only count in the recipient's favour.
            None => {
                let is_excused = words.filter_map(enhanced_code).any(|code| !blames(code));
                self == Stage::Recipient && matches!(reply.code, 550 | 551 | 553) && !is_excused
            }
        }
    }

    /// What the server said, as far as it can be logged: it may repeat addresses, links and passwords.
    fn quote(self, reply: &Reply) -> String {
        const LONGEST: usize = 300;
        let words = reply.words();
        let is_clear = |word: &&str| !word.contains(['@', '/', '%', '<']) && word.len() <= 40;
        let word = |word| if is_clear(&word) { word } else { "…" };
        let only_code = self == Stage::LogIn;
        let words = words.split_whitespace().filter(|word| !only_code || enhanced_code(word).is_some()).map(word);
        let text = words.collect::<Vec<_>>().join(" ");
        text.chars().filter(|c| !c.is_control() && !is_bidi_control(*c)).take(LONGEST).collect()
    }

    fn loss(self, error: &std::io::Error) -> String {
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                format!("the mail server disconnected at {self}")
            }
            // The error of rustls when a server replies to its first message without TLS.
            _ if reason.contains("corrupt message") => {
                "the mail server does not speak TLS from the start: SMTP_URL must begin with smtp://".into()
            }
            _ if reason.contains("certificate") => {
                format!("the certificate of the mail server is not trusted ({reason}): add it with SMTP_CA")
            }
            _ => format!("{self} failed: {reason}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connection => "the connection to the mail server",
            Stage::Greeting => "the connection",
            Stage::Hello => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Tls => "TLS",
            Stage::LogIn => "the log-in",
            Stage::Sender => "MAIL FROM",
            Stage::Recipient => "RCPT TO",
            Stage::Data => "DATA",
            Stage::Text | Stage::End => "the mail",
        })
    }
}

/// Characters that change the direction of text.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Class, subject and detail of an enhanced status code (RFC 3463), as servers write it: `5.1.1`, `#5.1.1`, `(5.1.1)`.
fn enhanced_code(word: &str) -> Option<(u16, u16, u16)> {
    let mut parts = word.trim_matches(|c: char| !c.is_ascii_digit()).split('.').map(|part| {
        (part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok()).flatten()
    });
    let code = (parts.next()??, parts.next()??, parts.next()??);
    (parts.next().is_none() && matches!(code.0, 2 | 4 | 5)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enhanced_code_is_known_as_servers_write_it() {
        for (word, code) in [
            ("5.1.1", Some((5, 1, 1))),
            ("#5.1.0", Some((5, 1, 0))),
            ("(5.1.10)", Some((5, 1, 10))),
            ("5.7.606,", Some((5, 7, 606))),
            ("4.2.2", Some((4, 2, 2))),
            ("192.0.2.1", None),
            ("5.1.1.7", None),
            ("3.7.1", None),
            ("5.1", None),
            ("5.x.y", None),
            ("5.1111.1", None),
            ("", None),
        ] {
            assert_eq!(enhanced_code(word), code, "{word}");
        }
    }

    #[test]
    fn what_a_server_repeats_of_people_links_and_passwords_is_not_written_down() {
        let quote = |stage: Stage, words: &str| stage.quote(&Reply { code: 550, lines: vec![words.into()] });
        for (words, quoted) in [
            ("5.1.1 <Ada@X.example>: nobody here", "5.1.1 … nobody here"),
            ("pct%40example.com is unknown", "… is unknown"),
            ("Bad URL: http://localhost/password-reset/abc", "Bad URL: …"),
            ("bad token 8ReWW5xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "bad token …"),
            ("a\u{1b}[31mb \u{202e}c\0", "a[31mb c"),
        ] {
            assert_eq!(quote(Stage::End, words), quoted);
        }
        assert_eq!(quote(Stage::LogIn, "5.7.8 swordfish is wrong for u"), "5.7.8");
        assert_eq!(quote(Stage::LogIn, "AHUAc3dvcmRmaXNo rejected"), "");
        assert_eq!(quote(Stage::Sender, &"x ".repeat(4000)).len(), 300);
    }

    #[test]
    fn the_server_has_the_time_that_the_standard_gives_it() {
        assert!(Stage::End.limit() >= Duration::from_secs(10 * 60));
        assert!(Stage::Text.limit() >= Duration::from_secs(3 * 60));
        assert!(Stage::Data.limit() >= Duration::from_secs(2 * 60));
        for stage in [Stage::Greeting, Stage::Hello, Stage::LogIn, Stage::Sender, Stage::Recipient] {
            assert!(stage.limit() >= Duration::from_secs(5 * 60), "{stage}");
        }
    }
}
