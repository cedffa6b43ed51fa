//! [`WrongUse`]: the command line asks for something that the command does not do.

use std::error::Error;
use std::fmt::{Display, Formatter, Result};

/// One sentence. The process prints it and exits with 2, as for an unknown argument.
#[derive(Debug)]
pub struct WrongUse(pub String);

impl Display for WrongUse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&self.0)
    }
}

impl Error for WrongUse {}
