//! The app: what all requests share, what each of them passes, and the server that takes them in.

use crate::access::Routes;
use crate::config::Config;
use crate::database::Database;
use crate::error::About;
use crate::features::Feature;
use crate::lookup::Lookup;
use crate::mail::DevMailbox;
use crate::page::Pages;
use crate::password::Gate;
use crate::seal::Seals;
use crate::seen::BeingSeen;
use crate::{asset, auth, error, factor, guard, throttle};
use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::mem::take;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tower::Service;

/// What all requests share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub config: Config,
    pub db: Database,
    pub pages: Pages,
    pub lookup: Lookup,
    pub being_seen: BeingSeen,
    pub gate: Gate,
    pub mailbox: DevMailbox,
    pub seals: Seals,
    /// What the features offer besides their routes.
    pub features: Vec<Feature>,
    /// What keeps typed names secret in the table of limits.
    pub typed_names: Vec<u8>,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The app with its routes: every feature's and the assets'.
#[derive(Clone)]
pub struct Site {
    pub app: App,
    router: Router,
}

impl Site {
    /// # Errors
    /// When the database cannot be opened or a template does not parse.
    pub async fn open(config: Config, mut features: Vec<Feature>) -> Result<Site> {
        let routes = features.iter_mut().map(|feature| take(&mut feature.routes));
        let routers = routes.chain([asset::routes()]).map(Routes::router);
        let router = routers.fold(Router::new(), Router::merge);

        factor::check_requirement(&config, &features)?;
        let seals = Seals::load(&config, &features)?;
        let db = Database::open(&config).await?;
        let salt = db.write(async |db| throttle::salt(db).await).await?;
        let app = App(Arc::new(Parts {
            pages: Pages::load(&config, &features)?,
            lookup: Lookup::start(&db),
            being_seen: BeingSeen::default(),
            gate: Gate::new(&config),
            mailbox: DevMailbox::default(),
            seals,
            typed_names: [salt, config.secret_keys.first().cloned().unwrap_or_default().into_bytes()]
                .concat(),
            features,
            config,
            db,
        }));
        Ok(Site { router: router.with_state(app.clone()), app })
    }

    /// Answers a request. These are the layers, from the outside in; the last is `access.rs`, around each handler.
    pub async fn answer(&self, mut request: Request) -> Response {
        let Site { app, router } = self;
        let about = About::new(app, &request);
        let routed = async {
            if let Err(refusal) = guard::check(&app.config, &request) {
                return refusal.into_response();
            }
            auth::attach(app, &mut request);
            let Ok(response) = router.clone().call(request).await;
            response
        };
        let mut response = error::face(app, about, routed).await;
        guard::protect(&app.config, &mut response);
        response
    }
}

/// Binds the socket, and completes a configuration that left the port to the system.
///
/// # Errors
/// A port that is taken, or that this user may not have.
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

/// Takes requests in until `stop`, then finishes those under way, for at most `DRAIN_TIMEOUT`.
///
/// # Errors
/// When requests were still under way after that time.
pub async fn serve(site: &Site, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let config = &site.app.config;
    let mut http = http1::Builder::new();
    // Without a timer hyper waits for ever for a request's head; this one also closes idle connections.
    http.timer(TokioTimer::new()).header_read_timeout(config.head_timeout);
    let (stopping, _) = watch::channel(false);
    let take_in = |stream: TcpStream, peer: SocketAddr| {
        tokio::spawn(attend(site.clone(), http.clone(), stream, peer, stopping.subscribe()));
    };

    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => take_in(stream, peer),
            Err(error) => {
                // Out of file descriptors, most likely: they come back when connections end.
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Whoever had connected before the stop is served too.
    let listener = listener.into_std().context("the socket cannot be let go")?;
    while let Ok((stream, peer)) = listener.accept() {
        stream.set_nonblocking(true)?;
        take_in(TcpStream::from_std(stream)?, peer);
    }
    drop(listener);
    tracing::info!("stopping; {} connections are open", stopping.receiver_count());
    stopping.send_replace(true);
    timeout(config.drain_timeout, stopping.closed())
        .await
        .context("some requests were still under way after DRAIN_TIMEOUT")
}

/// Serves one connection, until one side ends it or, after the stop, until it has nothing under way.
async fn attend(
    site: Site,
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
) {
    let config = &site.app.clone().config;
    // An answer is written whole: waiting to fill a packet would only delay it.
    let _ = stream.set_nodelay(true);
    // Told to stop, hyper hangs up on whoever it has read nothing from, even if a whole request has arrived. So it
    // gets a connection when there is something to read, and after the stop there is a last call.
    let last_call = async {
        stop_of(&mut stopping).await;
        sleep(LAST_CALL).await;
    };
    tokio::select! {
        _ = stream.readable() => {}
        () = sleep(config.head_timeout) => return,
        () = last_call => return,
    }
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let site = site.clone();
        request.extensions_mut().insert(ConnectInfo(peer));
        async move { Ok::<_, Infallible>(site.answer(request.map(Body::new)).await) }
    });
    // Whoever does not read an answer is hung up on, like whoever does not send a request.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(config.head_timeout));
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
    // Whoever hangs up or is too slow ends here; there is nobody left to tell.
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = stop_of(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn stop_of(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

/// How long somebody who has connected before the stop has to begin a request.
const LAST_CALL: Duration = Duration::from_millis(100);
