//! QR codes.

use crate::base::Result;
use anyhow::Context;
use qrcode::{Color, QrCode};
use serde::Serialize;

/// A QR code as the attributes of an SVG: a dash for each run of dark modules, with the margin that readers need.
#[derive(Serialize)]
pub struct Qr {
    view: String,
    path: String,
}

impl Qr {
    /// # Errors
    /// When the text is too long.
    pub fn of(text: &str) -> Result<Qr> {
        let code = QrCode::new(text).context("the address for authenticator apps is too long")?;
        let size = code.width();
        let mut path = String::new();
        for (y, row) in code.to_colors().chunks(size).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(PartialEq::eq) {
                if run[0] == Color::Dark {
                    path += &format!("M{x} {y}h{}", run.len());
                }
                x += run.len();
            }
        }
        Ok(Qr { view: format!("-4 -4.5 {0} {0}", size + 8), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_the_dark_modules_of_the_code_and_no_others() {
        let text = "otpauth://totp/Latchkey:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Latchkey";
        let (qr, code) = (Qr::of(text).unwrap(), QrCode::new(text).unwrap());
        let mut drawn = vec![Color::Light; code.width() * code.width()];
        for dash in qr.path.split('M').skip(1) {
            let numbers: Vec<usize> = dash.split([' ', 'h']).map(|number| number.parse().unwrap()).collect();
            let from = numbers[1] * code.width() + numbers[0];
            drawn[from..from + numbers[2]].fill(Color::Dark);
        }
        assert_eq!(drawn, code.to_colors());
        assert_eq!(qr.view, format!("-4 -4.5 {0} {0}", code.width() + 8));
    }
}
