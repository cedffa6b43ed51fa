//! Passwords: requirements for new ones, hashing, and verification under attack.

pub mod attempts;
pub mod cost;
pub mod hash;
pub mod limiter;
pub mod policy;
pub mod table;
pub mod verify;

pub use verify::{Passwords, VerifiedPassword};
