//! Requirements for new passwords: long enough, and hard to guess.

use crate::accounts::address::readable;
use crate::base::{Config, FieldErrors};
use unicode_normalization::UnicodeNormalization;
use zxcvbn::feedback::Warning;
use zxcvbn::{Score, zxcvbn};

/// Maximum bytes of a password. A longer one is rejected before anything is computed.
pub const MAX_BYTES: usize = 1024;

/// A new password of acceptable length, in Unicode form NFC, so that it is the same from every keyboard
/// (NIST SP 800-63B-4, 3.1.1.2).
pub struct NewPassword(String);

impl NewPassword {
    /// Checks the length. There are no rules about digits and capitals (NIST SP 800-63B-4, 3.1.1.2), and whether it is
    /// easy to guess is checked when it is hashed.
    ///
    /// # Errors
    /// The sentence to show beside the field.
    pub fn parse(text: &str, config: &Config) -> Result<NewPassword, String> {
        if text.is_empty() {
            return Err("Please choose a password.".into());
        }
        if text.len() > MAX_BYTES {
            return Err(format!("A password can have at most {MAX_BYTES} bytes."));
        }
        let text: String = text.nfc().collect();
        if text.chars().count() < config.password_min_length {
            return Err(format!("A password needs at least {} characters.", config.password_min_length));
        }
        Ok(NewPassword(text))
    }

    /// Like [`NewPassword::parse`], and checks that the password was repeated without a typo.
    ///
    /// # Errors
    /// The message for `password` or `confirm_password`.
    pub fn parse_twice(text: &str, again: &str, config: &Config) -> Result<NewPassword, FieldErrors> {
        let password = NewPassword::parse(text, config).map_err(|sentence| FieldErrors::of("password", sentence))?;
        if text != again {
            let sentence = "The two passwords differ. Please type them again.";
            return Err(FieldErrors::of("confirm_password", sentence));
        }
        Ok(password)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why it is easy to guess, if it is. This is slow, so it runs inside [`super::limiter::HashLimiter`]. `personal`
    /// are the [`personal_words`].
    pub fn weakness(&self, personal: &[String]) -> Option<&'static str> {
        if is_made_of(&self.0, personal) {
            return Some("This is based on your own name or this site's name, which attackers try first.");
        }
        // The cost grows much faster than the length, and a password that begins with 32 strong characters is not weak.
        let beginning: String = self.0.chars().take(32).collect();
        let personal: Vec<&str> = personal.iter().map(String::as_str).collect();
        let estimate = zxcvbn(&beginning, &personal);
        if estimate.score() >= Score::Three {
            return None;
        }
        use Warning::*;
        Some(match estimate.feedback().and_then(|feedback| feedback.warning()) {
            Some(ThisIsATop10Password | ThisIsATop100Password | ThisIsACommonPassword) => {
                "This is one of the most common passwords. Please choose one that only you would think of."
            }
            Some(ThisIsSimilarToACommonlyUsedPassword) => {
                "This is very similar to one of the most common passwords. Please choose one that only you would \
                 think of."
            }
            Some(StraightRowsOfKeysAreEasyToGuess | ShortKeyboardPatternsAreEasyToGuess) => {
                "Keys next to each other are easy to guess. A few unusual words are better."
            }
            Some(RepeatsLikeAaaAreEasyToGuess | RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess) => {
                "Repetition hardly makes a password harder to guess. A few unusual words are better."
            }
            Some(SequencesLikeAbcAreEasyToGuess) => {
                "Sequences like abc or 6543 are easy to guess. A few unusual words are better."
            }
            Some(RecentYearsAreEasyToGuess | DatesAreOftenEasyToGuess) => {
                "Dates and years are easy to guess. A few unusual words are better."
            }
            Some(
                AWordByItselfIsEasyToGuess
                | NamesAndSurnamesByThemselvesAreEasyToGuess
                | CommonNamesAndSurnamesAreEasyToGuess,
            ) => "A word or name by itself is easy to guess. Please add a few unusual words.",
            _ => "This is too easy to guess. Please make it longer: a few unusual words are best.",
        })
    }
}

/// Whether a password consists only of these words, punctuation and digits.
fn is_made_of(password: &str, personal: &[String]) -> bool {
    let mut rest = password.to_lowercase();
    if personal.contains(&rest) {
        return true;
    }
    let whole = rest.len();
    let mut words: Vec<&String> = personal.iter().filter(|word| word.chars().any(char::is_alphabetic)).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    for word in words {
        rest = rest.replace(word.as_str(), "");
    }
    rest.len() < whole && !rest.chars().any(char::is_alphabetic)
}

/// The words that a user's password must not be made of: the user's names and the site's.
pub fn personal_words<'a>(config: &Config, username: &str, emails: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let host = config.base_url.host_str().unwrap_or_default();
    let emails: Vec<String> = emails.into_iter().map(readable).collect();
    let parts = emails.iter().flat_map(|email| email.split(['@', '.']).chain([&**email]));
    let site = config.site_name.split_whitespace().chain([&*config.site_name, host]);
    let words = parts.chain(site).chain([username]).map(str::to_lowercase);
    // Most passwords contain some two letters by chance.
    words.filter(|word| word.chars().count() > 2).collect()
}
