//! Accounts: users and how they authenticate. Tables and rules; no HTTP, no cookies, no templates.

pub mod actor;
pub mod address;
pub mod admission;
pub mod auth_level;
pub mod client;
mod core_events;
pub mod device;
pub mod disabling;
pub mod domain;
pub mod event;
pub mod group;
pub mod invitation;
pub mod link;
pub mod password;
pub mod pending_login;
pub mod permission;
pub mod recovery_code;
pub mod session;
pub mod setup_link;
pub mod stored_token;
pub mod typed_code;
pub mod user;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    actor::Actor,
    address::Email,
    admission::Admission,
    auth_level::AuthLevel,
    client::Client,
    core_events::EVENTS,
    event::Event,
    password::Passwords,
    password::policy::{NewPassword, personal_words},
    pending_login::{Choices, PendingLogin},
    permission::{Permission, Permissions},
    session::{Session, Sessions},
    user::{User, Username},
};
