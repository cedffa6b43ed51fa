//! `latchkey serve`: the site itself, on its own or under Shuttle's tooling.

use super::start_log;
use crate::app::{self, App};
use crate::config::{Config, Env};
use crate::features;
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    start_log(env, config.log_json)?;
    serve(env, config).await
}

async fn serve(env: &Env, mut config: Config) -> Result<()> {
    let features = features::all(env)?;
    let listener = app::bind(&mut config).await?;
    let app = App::new(config).await?;
    if app.config.insecure_http && !app.config.development() {
        tracing::warn!("INSECURE_HTTP=yes: passwords cross the network in the clear");
    }
    println!("{} is at {}", app.config.site_name, app.config.origin());
    let served = app::serve(&app.site(features), listener, stop_signal()?).await;
    app.db.close().await;
    served
}

/// Ends when the process is asked to stop: by SIGTERM or Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        let interrupt = async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
        };
        #[cfg(unix)]
        tokio::select! {
            () = interrupt => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        interrupt.await;
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
        start_log(&env, config.log_json)?;
        Ok(serve(&env, config).await?)
    }
}
