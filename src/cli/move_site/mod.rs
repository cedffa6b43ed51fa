//! `latchkey move --to URL`: copies everything to another database, so that the site goes on there as if nothing had
//! happened: nobody is logged out, and every link, passkey and authenticator app works.

mod copy;
mod ends;
mod plan;
mod run;

pub use run::run;
