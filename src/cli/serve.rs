//! `latchkey serve`: the site itself, by itself or under Shuttle.

use super::log::Log;
use super::stop::Stop;
use crate::base::{Config, Env};
use crate::features::{self, Feature};
use crate::server::{connections, purge, sealed, site::Site};
use anyhow::{Result, bail};
use tokio::net::TcpListener;
#[cfg(feature = "shuttle")]
use tokio::runtime::Handle;
use tokio::sync::watch;
#[cfg(feature = "shuttle")]
use tokio::task::spawn_blocking;

pub async fn run(env: &Env) -> Result<()> {
    let mut config = Config::from_env(env)?;
    let features = features::all(env)?;
    let log = Log::start(&config, &features)?;
    let mut stop = Stop::new()?;
    let listener = connections::bind(&mut config).await?;
    let site = tokio::select! {
        site = open(config, features) => site?,
        () = stop.asked() => return Ok(()),
    };
    let config = &site.app.config;
    env.misspelt().iter().for_each(|sentence| tracing::warn!("{sentence}"));
    if config.insecure_http && !config.development() {
        tracing::warn!("INSECURE_HTTP=yes: passwords cross the network unencrypted");
    }
    if config.is_forwarded() {
        tracing::warn!(
            "DEVELOPMENT_URL is set: anyone who can open it can use everything that is meant for \
                        development"
        );
    }
    for on_start in &site.app.features.on_start {
        on_start(&site.app).await?;
    }
    log.say(format!("{} is at {}", config.site_name, config.origin()));
    let (stopping, stopped) = watch::channel(false);
    let stopped_at_once = async {
        stop.asked().await;
        stopping.send_replace(true);
        stop.asked_again().await;
    };
    tokio::select! {
        served = serve_until(&site, listener, stopped) => served,
        () = stopped_at_once => bail!("it was asked twice to stop, so requests and mails in progress were dropped"),
    }
}

async fn open(config: Config, features: Vec<Feature>) -> Result<Site> {
    let site = Site::open(config, features).await?;
    sealed::check_keys(&site.app).await?;
    Ok(site)
}

/// Serves until it is stopped, then finishes what is in progress.
async fn serve_until(site: &Site, listener: TcpListener, stopped: watch::Receiver<bool>) -> Result<()> {
    tokio::spawn(purge::run(site.app.clone()));
    for background in &site.app.features.background {
        tokio::spawn(background(site.app.clone()));
    }
    tokio::spawn(sealed::warn_of_missing_keys(site.app.clone()));
    let outbox = tokio::spawn(site.outbox.clone().run(site.app.config.drain_timeout, stopped.clone()));
    let mut stopped = stopped;
    let stop = async move { drop(stopped.wait_for(|&stopped| stopped).await) };
    let served = connections::serve(site, listener, stop).await;
    outbox.await?;
    site.app.db.close().await;
    served
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
        let env: Env = std::env::vars().chain(self.secrets).chain(place).collect();
        // The runtime requires futures that can move between threads, which the compiler cannot prove for async
        // closures.
        let served = spawn_blocking(move || Handle::current().block_on(run(&env)));
        Ok(served.await.map_err(anyhow::Error::from)??)
    }
}
