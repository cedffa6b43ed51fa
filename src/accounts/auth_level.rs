//! With how many factors a user has authenticated.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthLevel {
    /// With a password, or with a link in a mail.
    OneFactor,
    /// With a password and a code, or with a passkey that has verified its user.
    TwoFactors,
}

impl AuthLevel {
    /// The number of factors, as in the columns `factors` and `confirmed_factors`.
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
