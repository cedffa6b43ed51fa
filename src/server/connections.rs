//! Accepts connections and answers their requests.

use super::activity::{AnswerBody, RequestBody};
use super::connection_limits::{ConnectionLimits, OpenConnection, reserved_files};
use super::pace::Pace;
use super::site::Site;
use super::socket::Socket;
use crate::base::Config;
use crate::base::system::{check_file_limit, raise_file_limit};
use anyhow::{Context, Result, anyhow};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// Binds the socket. With `PORT=0`, fills in the port that was assigned.
///
/// # Errors
/// When the port is taken, this user may not use it, or too few files may be open.
pub async fn bind(config: &mut Config) -> Result<TcpListener> {
    check_file_limit(reserved_files(config) + 1)?;
    let address = SocketAddr::new(config.host, config.port);
    let listener = listen(address).map_err(|error| cannot_listen(address, &error))?;
    if !config.base_url_given {
        let port = listener.local_addr()?.port();
        config.base_url.set_port(Some(port)).ok().context("the address has no port")?;
    }
    Ok(listener)
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let cure = match error.kind() {
        ErrorKind::AddrInUse => "set PORT to another port, or stop what is using this one",
        ErrorKind::PermissionDenied => "set PORT to one from 1024, because this user may not use those below",
        _ => "set HOST to an address of this machine",
    };
    anyhow!("cannot listen on {address}: {error}; {cure}")
}

/// How many connections the system queues until the server accepts them.
const BACKLOG: u32 = 4_096;

/// Bytes of a response that the system buffers for a client.
const SEND_BUFFER: u32 = 128 * 1024;

/// # Errors
/// When the port is taken, this user may not use it, or the address does not belong to this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As in the standard library: a site that restarts gets its port back at once.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // The system's own buffers can hold megabytes, and a slow reader would make room in them too rarely.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The longest head that hyper reads. A longer one gets a response without a page.
const LONGEST_HEAD: usize = 64 * 1024;

/// Answers requests until `stop`, then finishes those in progress, for at most `DRAIN_TIMEOUT`.
///
/// # Errors
/// When requests were still in progress after that time.
pub async fn serve(site: &Site, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let config = &site.app.config;
    let mut http = http1::Builder::new();
    // The socket has the deadlines. hyper has a single timer for idle connections and slow heads.
    http.header_read_timeout(None).max_buf_size(LONGEST_HEAD);
    let (stopping, _) = watch::channel(false);
    let limits = Arc::new(ConnectionLimits::new(config, raise_file_limit()));
    let pace = Arc::new(Pace::new());
    let accept = async |stream: TcpStream, peer: SocketAddr| {
        let Some(connection) = limits.admit(peer.ip()).await else { return };
        let client = (stream, peer, connection);
        tokio::spawn(serve_connection(site.clone(), http.clone(), client, pace.clone(), stopping.subscribe()));
    };

    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => accept(stream, peer).await,
            Err(error) => {
                // Most likely out of file descriptors, which come back when connections end.
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Clients that connected before the stop are served too.
    let listener = listener.into_std().context("the socket cannot be released")?;
    let last = async {
        while let Ok((stream, peer)) = listener.accept() {
            if let (Ok(()), Ok(stream)) = (stream.set_nonblocking(true), TcpStream::from_std(stream)) {
                accept(stream, peer).await;
                yield_now().await;
            }
        }
    };
    let _ = timeout(GRACE_PERIOD, last).await;
    drop(listener);
    tracing::info!("stopping; {} connections are open", stopping.receiver_count());
    stopping.send_replace(true);
    let finished = async {
        stopping.closed().await;
        site.app.tasks.finished().await;
    };
    timeout(config.drain_timeout, finished).await.context("some requests were still in progress after DRAIN_TIMEOUT")
}

/// Serves a connection until one side ends it or, after the stop, until no request is in progress.
async fn serve_connection(
    site: Site,
    http: http1::Builder,
    (stream, peer, connection): (TcpStream, SocketAddr, OpenConnection),
    pace: Arc<Pace>,
    mut stopping: watch::Receiver<bool>,
) {
    let config = &site.app.clone().config;
    let activity = connection.activity.clone();
    // A response is written at once: waiting to fill a packet would only delay it.
    let _ = stream.set_nodelay(true);
    // When asked to stop, hyper closes connections from which it has read nothing, even if a complete request has
    // arrived. So it only gets a connection when there is something to read, and after the stop a client has a moment
    // to begin.
    let stopped = async {
        stop(&mut stopping).await;
        sleep(GRACE_PERIOD).await;
    };
    tokio::select! {
        biased;
        _ = stream.readable() => {}
        () = sleep(config.head_timeout) => return,
        () = activity.closed() => return,
        () = stopped => return,
    }
    let requests = activity.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (site, requests, pace) = (site.clone(), requests.clone(), pace.clone());
        let answering = requests.answering();
        request.extensions_mut().insert(ConnectInfo(peer));
        async move {
            if requests.received() == 0 {
                // It arrived together with the one before it. Requests that others sent in the meantime come first.
                yield_now().await;
            }
            let request = request.map(|body| Body::new(RequestBody::new(body, requests.clone())));
            let mut response = site.answer(request).await;
            if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                // Until then, another connection may replace this one.
                requests.stall();
                pace.wait().await;
                requests.proceed();
            }
            if requests.memory() > 0 || requests.is_closing() {
                // Memory is only released when the connection ends.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| AnswerBody { body, answering }))
        }
    });
    let socket = Socket::new(stream, &connection, config);
    let mut http = pin!(http.serve_connection(TokioIo::new(socket), service));
    // The connection of a client that disconnects or is too slow ends here, without a response.
    tokio::select! {
        biased;
        _ = http.as_mut() => {}
        () = activity.closed() => {}
        () = stop(&mut stopping) => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                _ = http => {}
                () = activity.closed() => {}
            }
        }
    }
}

async fn stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

/// How long a client that connected before the stop has to begin a request.
const GRACE_PERIOD: Duration = Duration::from_millis(100);
