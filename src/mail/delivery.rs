//! How a mail leaves the process, and how that can fail.

use super::message::Outgoing;
use crate::base::Error;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use std::sync::Arc;

/// Prepares the delivery of a mail, as far as it can still be cancelled.
pub type Deliver = Arc<dyn Fn(Outgoing) -> BoxFuture<'static, Result<Transmit, Failure>> + Send + Sync>;

/// Transmits a mail. From the first poll on, the mail may arrive.
pub type Transmit = BoxFuture<'static, Result<(), Failure>>;

/// Delivers mails within the process, which always succeeds.
pub fn deliver_locally(deliver: impl Fn(Outgoing) + Send + Sync + 'static) -> Deliver {
    let deliver = Arc::new(deliver);
    Arc::new(move |mail| {
        let deliver = deliver.clone();
        let transmit = async move {
            deliver(mail);
            Ok(())
        };
        ready(Ok(transmit.boxed())).boxed()
    })
}

/// Why a mail was not delivered.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub cause: anyhow::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No mails can be sent at present.
    Paused,
    /// This mail was rejected for now.
    Later,
    /// This mail was rejected for good.
    Final,
    /// It may or may not have arrived.
    Unknown,
}

impl Failure {
    pub fn new(kind: FailureKind, cause: anyhow::Error) -> Failure {
        Failure { kind, cause }
    }

    pub fn paused(cause: anyhow::Error) -> Failure {
        Failure::new(FailureKind::Paused, cause)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(cause: anyhow::Error) -> Failure {
        Failure::new(FailureKind::Later, cause)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        anyhow::Error::from(error).into()
    }
}
