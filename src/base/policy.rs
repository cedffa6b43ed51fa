//! What the operator decides about the people of the site.

use anyhow::{Result, bail};

/// Who must use two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoFactorPolicy {
    Nobody,
    Admins,
    Everyone,
}

impl TwoFactorPolicy {
    pub fn applies_to_everyone(self) -> bool {
        self == TwoFactorPolicy::Everyone
    }

    pub fn parse(text: Option<&str>) -> Result<TwoFactorPolicy> {
        match text {
            Some("none") => Ok(TwoFactorPolicy::Nobody),
            None | Some("admins") => Ok(TwoFactorPolicy::Admins),
            Some("all") => Ok(TwoFactorPolicy::Everyone),
            Some(_) => bail!("REQUIRE_TWO_FACTOR must be none, admins or all"),
        }
    }
}

/// Who may sign up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignUps {
    Open,
    /// Only with an invitation.
    Invite,
    /// Nobody: accounts are made by commands.
    Closed,
}

impl SignUps {
    pub fn parse(text: Option<&str>) -> Result<SignUps> {
        match text {
            None | Some("open") => Ok(SignUps::Open),
            Some("invite") => Ok(SignUps::Invite),
            Some("closed") => Ok(SignUps::Closed),
            Some(_) => bail!("SIGNUPS must be open, invite or closed"),
        }
    }
}
