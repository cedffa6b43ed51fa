//! How strongly somebody has authenticated.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthLevel {
    /// By a password, or by a link in a mail.
    OneFactor,
    /// By a password and a code, or by a passkey that has verified its user.
    TwoFactors,
}

impl AuthLevel {
    /// The number of factors, as the columns `factors` and `confirmed_factors` have it.
    pub fn factors(self) -> i64 {
        match self {
            AuthLevel::OneFactor => 1,
            AuthLevel::TwoFactors => 2,
        }
    }

    pub fn from_factors(factors: i64) -> AuthLevel {
        if factors >= 2 { AuthLevel::TwoFactors } else { AuthLevel::OneFactor }
    }
}
