//! Checks the address that the site listens on, and how many connections it can have.

use super::report::Report;
use crate::base::Config;
use crate::base::system::raise_file_limit;
use crate::features::Feature;
use crate::server::{connection_limits, connections};
use anyhow::Result;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub async fn look(report: &mut Report, config: &Config, features: &[Feature]) -> Result<()> {
    let address = SocketAddr::new(config.host, config.port);
    match connections::listen(address) {
        Ok(_) if config.port == 0 => report.ok("port", format!("the system chooses a free one on {}", config.host))?,
        Ok(_) => report.ok("port", format!("{address} is free"))?,
        Err(error) => look_at_taken(report, config, features, address, error.kind()).await?,
    }
    look_at_file_limit(report, config)
}

async fn look_at_taken(
    report: &mut Report,
    config: &Config,
    features: &[Feature],
    address: SocketAddr,
    kind: ErrorKind,
) -> Result<()> {
    let alive = features.iter().flat_map(|feature| feature.any_host).next();
    match kind {
        ErrorKind::AddrInUse => {
            if let Some(path) = alive
                && answers(address, path).await
            {
                let sentence =
                    format!("{address} is in use by a site that answers {path}: stop it before you start another");
                return report.warning("port", sentence);
            }
            report.wrong("port", format!("{address} is in use by another program: set PORT to a free one, or stop it"))
        }
        ErrorKind::AddrNotAvailable => {
            let cure = if config.development() {
                "remove HOST"
            } else {
                "set HOST to an address of this machine, or 0.0.0.0 for all"
            };
            report.wrong("port", format!("HOST={} is not an address of this machine: {cure}", config.host))
        }
        ErrorKind::PermissionDenied => {
            report.wrong("port", format!("this user may not listen on {address}: set PORT to 1024 or more"))
        }
        kind => report.wrong("port", format!("{address} cannot be used ({kind}): set HOST and PORT to others")),
    }
}

/// How long the program that listens there may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the program that listens there answers this path with 200.
async fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(&status == b"HTTP/1.1 200")
    };
    matches!(timeout(TIMEOUT, ask).await, Ok(Ok(true)))
}

fn look_at_file_limit(report: &mut Report, config: &Config) -> Result<()> {
    let Some(files) = raise_file_limit() else {
        return report.ok("connections", format!("{} at once", config.connections));
    };
    let room = connection_limits::room(config, files);
    if room >= config.connections {
        return report.ok("connections", format!("{} at once, with {files} files and sockets", config.connections));
    }
    let needed = files + config.connections - room;
    let sentence = format!(
        "the system allows {files} files and sockets, which is {room} connections and not {}: raise the limit (ulimit \
         -Hn, LimitNOFILE) to {needed}, or set CONNECTIONS={room}",
        config.connections
    );
    report.warning("connections", sentence)
}
