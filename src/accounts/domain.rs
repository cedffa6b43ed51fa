//! Domains of e-mail addresses, which can have letters of any script: all spellings are accepted, stored in ASCII, and
//! shown in Unicode (UTS 46, non-transitional).

use url::{Host, quirks};

/// Longer text cannot be the domain of an address, in any encoding.
const MOST_BYTES: usize = 2_000;

/// The domain in ASCII and lower case. `None` if it is not a domain, such as an IP address.
pub fn to_ascii(domain: &str) -> Option<String> {
    // `Host` would decode percent signs, and remove invisible spaces.
    if domain.len() > MOST_BYTES || domain.contains(['%', '\u{200b}', '\u{2060}', '\u{feff}']) {
        return None;
    }
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    match Host::parse(domain) {
        Ok(Host::Domain(ascii)) if ascii.contains('.') && ascii.split('.').all(label) => Some(ascii),
        _ => None,
    }
}

/// The domain for display. It stays in ASCII if it could otherwise be mistaken for another one.
pub fn to_unicode(domain: &str) -> String {
    let unicode = quirks::domain_to_unicode(domain);
    let is_clear = unicode.split('.').all(is_clear) && to_ascii(&unicode).as_deref() == Some(domain);
    if is_clear { unicode } else { domain.to_string() }
}

/// Whether a label has only Latin letters, or only other letters of which at least one does not look Latin.
fn is_clear(label: &str) -> bool {
    let letters: Vec<char> = label.chars().filter(|c| !matches!(c, '0'..='9' | '-')).collect();
    let is_latin = |c: &char| c.is_ascii() || ('ß'..='ɏ').contains(c);
    if letters.iter().any(is_latin) || letters.is_empty() {
        letters.iter().all(|c| is_latin(c) && !LIKE_LATIN.contains(*c))
    } else {
        !letters.iter().any(|c| JOINERS.contains(c)) && !letters.iter().all(|c| LIKE_LATIN.contains(*c))
    }
}

/// Invisible characters.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// Latin, Cyrillic and Greek letters that look like a letter from a to z, or like a line.
const LIKE_LATIN: &str = "ıĸŀƅǀǁǃȷасԁеһіјӏорԗԛѕԝхуъьҽпгѵѡґαικνρυωηοτϲϳ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_a_domain_is_written_it_is_one() {
        for (written, ascii) in [
            ("Example.COM", "example.com"),
            ("münchen.de", "xn--mnchen-3ya.de"),
            ("MÜNCHEN.DE", "xn--mnchen-3ya.de"),
            // With a mark of its own above the u, and with something invisible.
            ("mu\u{308}nchen.de", "xn--mnchen-3ya.de"),
            ("mün\u{ad}chen.de", "xn--mnchen-3ya.de"),
            ("XN--MNCHEN-3YA.de", "xn--mnchen-3ya.de"),
            ("ｍünchen．de", "xn--mnchen-3ya.de"),
            ("straße.de", "xn--strae-oqa.de"),
            ("STRAẞE.de", "xn--strae-oqa.de"),
            ("例え。jp", "xn--r8jz45g.jp"),
            ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
            ("❤.ws", "xn--qei.ws"),
            ("123.com", "123.com"),
        ] {
            assert_eq!(to_ascii(written).as_deref(), Some(ascii), "{written}");
        }
    }

    #[test]
    fn what_no_mail_can_be_sent_to_is_no_domain() {
        let long = format!("{}.de", "ü".repeat(63));
        let endless = "ü.".repeat(30_000);
        for wrong in [
            "",
            "de",
            "münchen",
            "münchen.",
            ".münchen.de",
            "mün chen.de",
            "münchen..de",
            "m%C3%BCnchen.de",
            "ex%61mple.com",
            "mün_chen.de",
            "münchen.de:25",
            "a@münchen.de",
            "a＠münchen.de",
            "xn--a.de",
            "xn--mnchen.de",
            "xn--xn--mnchen-3ya-xyz.de",
            "127.0.0.1",
            "1.2",
            "0x7f.1",
            "example.1",
            "[::1]",
            "a\u{200d}b.de",
            "münchen.de\u{200b}",
            "\u{feff}münchen.de",
            &long,
            &endless,
        ] {
            assert_eq!(to_ascii(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_domain_is_shown_in_its_own_letters_unless_it_could_be_taken_for_another() {
        for own in ["example.com", "münchen.de", "straße.de", "例え.jp", "пример.рф", "παράδειγμα.gr", "❤.ws", "1-2.de"]
        {
            assert_eq!(to_unicode(&to_ascii(own).unwrap()), own);
        }
        // The a and more are Cyrillic; then all letters are; an i without its dot; Greek; a Latin letter with a mark of its own.
        for alike in ["exаmple.com", "аррӏе.com", "exampıe.com", "ονρ.com", "q\u{307}.com", "例abc.jp", "क्\u{200d}ष.in"]
        {
            let ascii = to_ascii(alike).unwrap();
            assert!(ascii.contains("xn--"), "{ascii}");
            assert_eq!(to_unicode(&ascii), ascii, "{alike}");
        }
        // What older versions have stored stays as it is.
        for odd in ["xn--a.de", "127.0.0.1", ""] {
            assert_eq!(to_unicode(odd), odd);
        }
    }
}
