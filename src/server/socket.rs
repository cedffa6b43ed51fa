//! A client's socket, with a deadline for everything that the site waits for.

use super::activity::Activity;
use super::connection_limits::{ConnectionLimits, OpenConnection};
use crate::base::Config;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_io_timeout::TimeoutWriter;

pub struct Socket {
    stream: Pin<Box<TimeoutWriter<TcpStream>>>,
    activity: Arc<Activity>,
    head_timeout: Duration,
    keep_alive: Duration,
    waits_for: WaitsFor,
    /// When the wait is over.
    deadline: Pin<Box<Sleep>>,
    /// Whether the client must read before more can be written.
    is_blocked: bool,
    limits: Arc<ConnectionLimits>,
}

/// What the site waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// Nothing: a request is being processed.
    Nothing,
    FirstByte,
    EndOfHead,
}

impl Socket {
    /// For a stream whose first byte can be read.
    pub fn new(stream: TcpStream, connection: &OpenConnection, config: &Config) -> Socket {
        let mut stream = TimeoutWriter::new(stream);
        // A client that does not read a response is disconnected, like one that does not send a request.
        stream.set_timeout(Some(config.head_timeout));
        Socket {
            stream: Box::pin(stream),
            activity: connection.activity.clone(),
            head_timeout: config.head_timeout,
            keep_alive: config.keep_alive,
            waits_for: WaitsFor::EndOfHead,
            deadline: Box::pin(sleep(config.head_timeout)),
            is_blocked: false,
            limits: connection.limits.clone(),
        }
    }

    fn wait_for(&mut self, waits_for: WaitsFor, limit: Duration) {
        self.waits_for = waits_for;
        self.deadline.as_mut().reset(Instant::now() + limit);
    }

    fn note_progress(&mut self, written: &Poll<io::Result<usize>>) {
        if written.is_pending() {
            self.is_blocked = true;
            self.activity.stall();
        } else if take(&mut self.is_blocked) {
            self.activity.proceed();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let stream = Pin::new(this.stream.as_mut().get_pin_mut().get_mut());
        let read = stream.poll_read(context, buffer)?;
        let received = buffer.filled().len() - before;
        if this.activity.is_waiting() {
            match this.waits_for {
                WaitsFor::EndOfHead => {}
                _ if received > 0 => {
                    this.activity.begin_request();
                    this.wait_for(WaitsFor::EndOfHead, this.head_timeout);
                }
                WaitsFor::FirstByte => {}
                WaitsFor::Nothing => this.wait_for(WaitsFor::FirstByte, this.keep_alive),
            }
            if read.is_pending() {
                ready!(this.deadline.as_mut().poll(context));
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
        }
        if !this.limits.take_memory(&this.activity, received) {
            return Poll::Ready(Err(io::Error::new(ErrorKind::OutOfMemory, "too many long requests")));
        }
        read.map(Ok)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.waits_for = WaitsFor::Nothing;
        let written = self.stream.as_mut().poll_write(context, bytes);
        self.note_progress(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        parts: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        self.waits_for = WaitsFor::Nothing;
        let written = self.stream.as_mut().poll_write_vectored(context, parts);
        self.note_progress(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.is_waiting() && this.waits_for == WaitsFor::Nothing {
            this.wait_for(WaitsFor::FirstByte, this.keep_alive);
            // hyper may not read again until it is woken, so the deadline has to wake it.
            let _ = this.deadline.as_mut().poll(context);
        }
        this.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
