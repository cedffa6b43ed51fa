//! `latchkey serve`: the site itself, on its own or under Shuttle's tooling.

use super::log::Log;
use crate::base::{Config, Env};
use crate::features::{self, Feature};
use crate::server::{connections, purge, site::Site};
use anyhow::Result;
use tokio::sync::watch;

pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let features = features::all(env)?;
    let log = Log::start(env, config.log_json, &features)?;
    serve(config, features, log).await
}

async fn serve(mut config: Config, features: Vec<Feature>, log: Log) -> Result<()> {
    let listener = connections::bind(&mut config).await?;
    let site = Site::open(config, features).await?;
    let app = &site.app;
    if app.config.insecure_http && !app.config.development() {
        tracing::warn!("INSECURE_HTTP=yes: passwords cross the network in the clear");
    }
    if app.config.is_forwarded() {
        tracing::warn!("DEVELOPMENT_URL is set: whoever can open it can do all that is open in development");
    }
    let stop = stop_signal()?;
    log.say(format!("{} is at {}", app.config.site_name, app.config.origin()));
    tokio::spawn(purge::run(app.clone()));
    let (stopping, stopped) = watch::channel(false);
    let outbox = tokio::spawn(site.outbox.clone().run(app.config.drain_timeout, stopped));
    let stop = async {
        stop.await;
        stopping.send_replace(true);
    };
    let served = connections::serve(&site, listener, stop).await;
    outbox.await?;
    app.db.close().await;
    served
}

/// Ends when the process is asked to stop: by SIGTERM or Ctrl-C, or on Windows by Ctrl-C, Ctrl-Break, a closed console or
/// the end of the system. They are caught from here on, not only while somebody waits for them.
#[cfg(unix)]
fn stop_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(windows)]
fn stop_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
    let (mut interrupt, mut terminate) = (ctrl_c()?, ctrl_break()?);
    let (mut close, mut shutdown) = (ctrl_close()?, ctrl_shutdown()?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = close.recv() => {}
            _ = shutdown.recv() => {}
        }
    })
}

/// The site as a service of Shuttle's runtime.
#[cfg(feature = "shuttle")]
pub struct OnShuttle {
    pub url: String,
    pub secrets: shuttle_runtime::SecretStore,
}

#[cfg(feature = "shuttle")]
#[shuttle_runtime::async_trait]
impl shuttle_runtime::Service for OnShuttle {
    async fn bind(self, address: std::net::SocketAddr) -> Result<(), shuttle_runtime::Error> {
        let place = [
            ("DATABASE_URL".into(), self.url),
            ("HOST".into(), address.ip().to_string()),
            ("PORT".into(), address.port().to_string()),
        ];
        let env = std::env::vars().chain(self.secrets).chain(place).collect();
        let config = Config::from_env(&env)?;
        let features = features::all(&env)?;
        let log = Log::start(&env, config.log_json, &features)?;
        Ok(serve(config, features, log).await?)
    }
}
