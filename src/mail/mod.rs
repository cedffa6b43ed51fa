//! Mail: the outbox in the database, and delivery by SMTP. Features write the content of mails.

pub mod conversation;
pub mod daily_limit;
pub mod delivery;
pub mod message;
pub mod outbox;
pub mod pause;
pub mod smtp;
pub mod stage;
pub mod trust;
pub mod worker;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    daily_limit::DailyLimit,
    delivery::{Deliver, deliver_locally},
    message::{MailContent, Outgoing},
    outbox::Mail,
    pause::Pause,
    worker::Outbox,
};
