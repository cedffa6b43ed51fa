//! Mail: the outbox in the database, and delivery by SMTP. What a mail says is written by the features above.

pub mod daily_limit;
pub mod message;
pub mod outbox;
pub mod smtp;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    daily_limit::DailyLimit,
    message::{MailContent, Outgoing},
    outbox::{Deliver, Mail, Outbox},
};
