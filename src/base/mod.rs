//! The lowest layer: settings, errors, tokens and files. Everything may import it, and it imports nothing else of the
//! app.

pub mod config;
pub mod database_url;
pub mod dotenv;
pub mod env;
pub mod error;
pub mod files;
pub mod policy;
pub mod seal;
pub mod smtp;
pub mod spelling;
pub mod system;
pub mod token;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    config::Config,
    env::{Backoff, Env, Rate},
    error::{Error, FieldErrors, Result, explain},
    policy::{SignUps, TwoFactorPolicy},
    seal::{Sealed, Seals},
    smtp::MailDelivery,
    token::{Token, TokenHash, TokenHashes, Tokens, random},
};
