//! Latchkey: a web app that already has accounts. README.md has the tour.

// Core is the template's library: what no feature uses at the moment stays for the next one.
#![allow(dead_code)]

mod access;
mod address;
mod app;
mod asset;
mod auth;
mod command;
mod config;
mod database;
mod device;
mod env;
mod error;
mod event;
mod factor;
mod features;
mod file;
mod form;
mod guard;
mod half_way;
mod hash;
mod lookup;
mod mail;
mod migrate;
mod page;
mod password;
mod policy;
mod purge;
mod recovery;
mod seal;
mod seen;
mod session;
#[cfg(test)]
mod test;
mod throttle;
mod token;
mod user;

/// Answers are made on one thread and freed on another, which the system's allocator serves half as fast.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(not(feature = "shuttle"))]
fn main() -> std::process::ExitCode {
    command::run()
}

/// The entry of Shuttle's tooling. Its runtime gives the address to listen on, the database and the variables.
#[cfg(feature = "shuttle")]
#[shuttle_runtime::main]
async fn main(
    #[shuttle_shared_db::Postgres(local_uri = "{secrets.DATABASE_URL}")] url: String,
    #[shuttle_runtime::Secrets] secrets: shuttle_runtime::SecretStore,
) -> Result<command::serve::OnShuttle, shuttle_runtime::Error> {
    Ok(command::serve::OnShuttle { url, secrets })
}
