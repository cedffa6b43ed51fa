//! The paths of this feature.

use crate::base::Token;

pub const REQUEST: &str = "/password-reset";
pub const CHOOSE: &str = "/password-reset/{token}";
pub const RECOVER: &str = "/recovery";

/// The page where a new password is chosen with this token.
pub fn choose_path(token: &Token) -> String {
    CHOOSE.replace("{token}", &token.text())
}
