//! What a connection is doing: whether a request is being processed, since when it has been idle, and since when the
//! site has been waiting for its client.

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep;

pub struct Activity {
    /// Like [`now`]; 0 while a request is being processed.
    waiting_since: AtomicU64,
    /// Like [`now`]; 0 while the site is not waiting for the client.
    stalled_since: AtomicU64,
    /// Bytes received since the last response.
    received: AtomicUsize,
    /// Bytes taken from the memory for long requests. Buffers do not shrink, so they are kept until the connection
    /// ends.
    memory: AtomicUsize,
    /// Whether it has been asked to close.
    closing: AtomicBool,
    /// Notified when it is asked to close, and when the site has to wait for its client after that.
    changed: Notify,
}

/// When the connection is asked to close, what the client has already sent is read in intervals of this length, as long
/// as each brings something.
const MOMENT: Duration = Duration::from_millis(1);
const MOST_MOMENTS: usize = 20;

/// Microseconds since the process started counting, from 1.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u64 + 1
}

impl Activity {
    /// For a new connection, which waits for its first request.
    pub fn new() -> Arc<Activity> {
        let now = now();
        Arc::new(Activity {
            waiting_since: AtomicU64::new(now),
            stalled_since: AtomicU64::new(now),
            received: AtomicUsize::new(0),
            memory: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Waits for the next request.
    fn wait(&self) {
        let now = now();
        self.waiting_since.store(now, Relaxed);
        self.stalled_since.store(now, Relaxed);
        self.notify_if_closing();
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting_since.load(Relaxed) != 0
    }

    /// Since when it has been waiting for a request, to compare with others. `None` while one is being processed.
    pub fn waiting_since(&self) -> Option<u64> {
        Some(self.waiting_since.load(Relaxed)).filter(|&since| since != 0)
    }

    /// Since when the site has been waiting for the client: for a request, for the rest of one, or to read a response.
    /// `None` while the site is working.
    pub fn stalled_since(&self) -> Option<u64> {
        Some(self.stalled_since.load(Relaxed)).filter(|&since| since != 0)
    }

    /// The first byte of a request has arrived. Only from now on does the site wait for the rest of it.
    pub fn begin_request(&self) {
        self.stalled_since.store(now(), Relaxed);
    }

    /// From now on the site waits for the client.
    pub fn stall(&self) {
        self.stall_since(now());
    }

    fn stall_since(&self, since: u64) {
        let _ = self.stalled_since.compare_exchange(0, since, Relaxed, Relaxed);
        self.notify_if_closing();
    }

    /// The client has done its part.
    pub fn proceed(&self) {
        if !self.is_waiting() {
            self.stalled_since.store(0, Relaxed);
        }
    }

    fn notify_if_closing(&self) {
        if self.is_closing() {
            self.changed.notify_one();
        }
    }

    /// Adds to the bytes received since the last response, and returns the sum.
    pub fn add_received(&self, bytes: usize) -> usize {
        self.received.fetch_add(bytes, Relaxed) + bytes
    }

    pub fn received(&self) -> usize {
        self.received.load(Relaxed)
    }

    pub fn memory(&self) -> usize {
        self.memory.load(Relaxed)
    }

    pub fn add_memory(&self, bytes: usize) {
        self.memory.fetch_add(bytes, Relaxed);
    }

    /// A request is being processed until the [`Answering`] is dropped.
    pub fn answering(self: &Arc<Activity>) -> Answering {
        self.waiting_since.store(0, Relaxed);
        Answering(self.clone())
    }

    /// Whether it has been asked to close.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Asks for the connection to be closed.
    pub fn close(&self) {
        self.closing.store(true, Relaxed);
        self.changed.notify_one();
    }

    /// Returns when the connection should be closed. A request that has arrived by then is answered first, unless the
    /// client keeps the site waiting.
    pub async fn closed(&self) {
        while !self.is_closing() {
            self.changed.notified().await;
        }
        for _ in 0..MOST_MOMENTS {
            let before = self.received();
            sleep(MOMENT).await;
            if self.received() == before {
                break;
            }
        }
        while self.stalled_since().is_none() {
            self.changed.notified().await;
        }
    }
}

pub struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.received.store(0, Relaxed);
        self.0.wait();
    }
}

/// The body of a request. Until it is complete, the site counts as waiting for the client since the first byte of the
/// request, so sending a body byte by byte gains nothing.
pub struct RequestBody {
    body: Incoming,
    activity: Arc<Activity>,
    since: u64,
}

impl RequestBody {
    pub fn new(body: Incoming, activity: Arc<Activity>) -> RequestBody {
        let since = activity.stalled_since().unwrap_or_else(now);
        activity.proceed();
        RequestBody { body, activity, since }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match frame {
            Poll::Pending => self.activity.stall_since(self.since),
            Poll::Ready(_) => self.activity.proceed(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response. When all of it was passed on, the connection waits for the next request.
pub struct AnswerBody {
    pub body: Body,
    pub answering: Answering,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
