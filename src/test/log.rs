//! What the log says while a test does something.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use tracing::instrument::WithSubscriber;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What comes of it, and what was logged meanwhile.
pub async fn logged<T>(act: impl Future<Output = T>) -> (T, String) {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let value = act.with_subscriber(lines).await;
    let lines = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    (value, lines)
}
