//! Passwords: what a new one must be, how it is hashed, and how one is verified while others are guessing.

pub mod attempts;
pub mod hash;
pub mod limiter;
pub mod policy;
pub mod table;
pub mod verify;

pub use verify::{Passwords, VerifiedPassword};
