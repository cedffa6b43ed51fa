//! Tokens: 256 random bits in a browser or a mail, and the hash of them in the database.

use super::error::{Error, Result};
use anyhow::anyhow;
use data_encoding::BASE64URL_NOPAD;
use getrandom::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// 256 random bits that grant access to something. Never logged, and never stored unhashed.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The SHA-256 of a [`Token`], which is what tables contain. It needs no salt, because 256 bits cannot be guessed.
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

/// The tokens from the cookies of one name, in the order of the header: at most four. A browser sends several if the
/// name was also set for another path, or by another app on the same host.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Token>);

/// The hashes of [`Tokens`]; in place of missing tokens, values that are not hashes.
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
/// When the operating system provides no randomness.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let seeded = ChaCha20Rng::try_from_rng(&mut SysRng);
    let mut generator = seeded.map_err(|error| Error::Fault(anyhow!("no randomness: {error}")))?;
    let mut bytes = [0; N];
    generator.fill_bytes(&mut bytes);
    Ok(bytes)
}
