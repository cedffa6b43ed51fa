//! The events that core records. A feature lists its own in `Feature::events`.

use super::password::{attempts, table};
use super::session::{last_seen, lifecycle};
use super::{address, disabling, event::Event, group, recovery_code, user};

pub const EVENTS: &[Event] = &[
    user::SIGNED_UP,
    user::USERNAME_CHANGED,
    user::DELETED,
    user::DELETED_BY_ADMIN,
    lifecycle::LOGGED_IN,
    lifecycle::NEW_BROWSER,
    lifecycle::LOGGED_OUT,
    lifecycle::CONFIRMED,
    last_seen::OTHER_BROWSER,
    attempts::LOG_IN_FAILED,
    attempts::THROTTLED,
    table::CHANGED,
    table::RESET,
    address::CONFIRMED,
    address::CHANGED,
    address::REMOVED,
    recovery_code::USED,
    group::JOINED,
    group::LEFT,
    group::GRANTED,
    group::REVOKED,
    disabling::DISABLED,
    disabling::ENABLED,
];
