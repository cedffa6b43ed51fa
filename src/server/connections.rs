//! Accepts connections and answers their requests.

use super::site::Site;
use crate::base::Config;
use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

/// Binds the socket. With `PORT=0`, fills in the port that was assigned.
///
/// # Errors
/// When the port is taken, or this user may not use it.
pub async fn bind(config: &mut Config) -> Result<TcpListener> {
    let address = SocketAddr::new(config.host, config.port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; set PORT to another port, or stop what is using this one")
    })?;
    if !config.base_url_given {
        let port = listener.local_addr()?.port();
        config.base_url.set_port(Some(port)).ok().context("the address has no port")?;
    }
    Ok(listener)
}

/// Answers requests until `stop`, then finishes those under way, for at most `DRAIN_TIMEOUT`.
///
/// # Errors
/// When requests were still under way after that time.
pub async fn serve(site: &Site, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let config = &site.app.config;
    let mut http = http1::Builder::new();
    // Without a timer hyper waits forever for a request's head. This one also closes idle connections.
    http.timer(TokioTimer::new()).header_read_timeout(config.head_timeout);
    let (stopping, _) = watch::channel(false);
    let accept = |stream: TcpStream, peer: SocketAddr| {
        tokio::spawn(serve_connection(site.clone(), http.clone(), stream, peer, stopping.subscribe()));
    };

    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => accept(stream, peer),
            Err(error) => {
                // Out of file descriptors, most likely: they come back when connections end.
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Clients that had connected before the stop are served too.
    let listener = listener.into_std().context("the socket cannot be released")?;
    while let Ok((stream, peer)) = listener.accept() {
        stream.set_nonblocking(true)?;
        accept(TcpStream::from_std(stream)?, peer);
    }
    drop(listener);
    tracing::info!("stopping; {} connections are open", stopping.receiver_count());
    stopping.send_replace(true);
    timeout(config.drain_timeout, stopping.closed())
        .await
        .context("some requests were still under way after DRAIN_TIMEOUT")
}

/// Serves one connection, until one side ends it or, after the stop, until it has nothing under way.
async fn serve_connection(
    site: Site,
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
) {
    let config = &site.app.clone().config;
    // An answer is written whole: waiting to fill a packet would only delay it.
    let _ = stream.set_nodelay(true);
    // When it is told to stop, hyper closes connections that it has read nothing from, even if a whole request has
    // arrived. So it gets a connection when there is something to read, and after the stop a client has a moment to begin.
    let stopped = async {
        stop(&mut stopping).await;
        sleep(GRACE_PERIOD).await;
    };
    tokio::select! {
        _ = stream.readable() => {}
        () = sleep(config.head_timeout) => return,
        () = stopped => return,
    }
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let site = site.clone();
        request.extensions_mut().insert(ConnectInfo(peer));
        async move { Ok::<_, Infallible>(site.answer(request.map(Body::new)).await) }
    });
    // A client that does not read an answer is disconnected, like one that does not send a request.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(config.head_timeout));
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
    // A client that disconnects or is too slow ends here; there is nobody left to tell.
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = stop(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

/// How long a client that connected before the stop has to begin a request.
const GRACE_PERIOD: Duration = Duration::from_millis(100);
