//! Latchkey: a web app that already has accounts. README.md has the tour.

// Core is the template's library: some of it is for features to come.
#![allow(dead_code)]

mod accounts;
mod base;
mod cli;
mod db;
mod features;
mod mail;
mod server;
#[cfg(test)]
mod test;
mod web;

/// Responses are allocated on one thread and freed on another; the system's allocator is half as fast at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(not(feature = "shuttle"))]
fn main() -> std::process::ExitCode {
    cli::command_line::run()
}

/// The entry point for Shuttle, whose runtime provides the address to listen on, the database and the variables.
#[cfg(feature = "shuttle")]
#[shuttle_runtime::main]
async fn main(
    #[shuttle_shared_db::Postgres(local_uri = "{secrets.DATABASE_URL}")] url: String,
    #[shuttle_runtime::Secrets] secrets: shuttle_runtime::SecretStore,
) -> Result<cli::serve::OnShuttle, shuttle_runtime::Error> {
    Ok(cli::serve::OnShuttle { url, secrets })
}
