//! Tokens: 256 random bits that a browser or a mail holds, and the hash that the database keeps.

use super::error::{Error, Result};
use anyhow::anyhow;
use data_encoding::BASE64URL_NOPAD;
use getrandom::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// 256 random bits that grant access to something. Never logged or stored as they are.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The SHA-256 of a [`Token`], which is what a table holds. It needs no salt, because nobody can guess 256 bits.
pub type TokenHash = [u8; 32];

impl Token {
    /// # Errors
    /// As [`random`].
    pub fn random() -> Result<Token> {
        random().map(Token)
    }

    /// Reads the 43 characters of [`Token::text`]. Anything else is `None`.
    pub fn parse(text: &str) -> Option<Token> {
        BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok().map(Token)
    }

    /// 43 characters of base64url, for cookies and links.
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    pub fn hash(&self) -> TokenHash {
        Sha256::digest(self.0).into()
    }
}

/// The tokens that came in the cookies of one name, in the header's order: at most four. A browser sends several when the
/// name was also set for another path, or by another app on the same host.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Token>);

/// The hashes of [`Tokens`], and in place of those that are missing what is no hash.
pub type TokenHashes = [Vec<u8>; Tokens::MOST];

impl Tokens {
    const MOST: usize = 4;

    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For `in ($1, $2, $3, $4)`.
    pub fn hashes(&self) -> TokenHashes {
        std::array::from_fn(|index| self.0.get(index).map_or_else(Vec::new, |token| token.hash().to_vec()))
    }
}

impl FromIterator<Token> for Tokens {
    fn from_iter<T: IntoIterator<Item = Token>>(tokens: T) -> Tokens {
        Tokens(tokens.into_iter().take(Tokens::MOST).collect())
    }
}

/// Random bytes from a ChaCha20 generator that the operating system has just seeded with 256 bits.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let seeded = ChaCha20Rng::try_from_rng(&mut SysRng);
    let mut generator = seeded.map_err(|error| Error::Fault(anyhow!("no randomness: {error}")))?;
    let mut bytes = [0; N];
    generator.fill_bytes(&mut bytes);
    Ok(bytes)
}
