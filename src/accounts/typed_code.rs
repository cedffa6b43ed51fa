//! Codes as people type them: in the digits of their keyboard, with spaces, dashes and invisible characters that were
//! copied along.

/// The significant characters of a typed code: every decimal digit as an ASCII digit (Unicode category Nd), without
/// white space, dashes (Pd) and format characters (Cf).
pub fn normalize(typed: &str) -> String {
    typed.chars().filter(|c| !c.is_whitespace() && !is_dash(*c) && !is_format(*c)).map(to_ascii_digit).collect()
}

fn to_ascii_digit(c: char) -> char {
    let value = |zero: &char| u32::from(c).checked_sub(u32::from(*zero)).filter(|value| *value < 10);
    ZEROS.iter().find_map(value).and_then(|value| char::from_digit(value, 10)).unwrap_or(c)
}

fn is_dash(c: char) -> bool {
    matches!(
        c,
        '\u{2d}' | '\u{58a}' | '\u{5be}' | '\u{1400}' | '\u{1806}' | '\u{2010}'..='\u{2015}' | '\u{2e17}' | '\u{2e1a}' | '\u{2e3a}'..='\u{2e3b}' | '\u{2e40}' | '\u{2e5d}' | '\u{301c}' | '\u{3030}' | '\u{30a0}' | '\u{fe31}'..='\u{fe32}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' | '\u{10d6e}' | '\u{10ead}'
    )
}

fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}'
    )
}

/// The zero of each script. Its other digits follow it.
#[rustfmt::skip]
const ZEROS: [char; 75] = [
    '\u{30}', '\u{660}', '\u{6f0}', '\u{7c0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}', '\u{b66}', '\u{be6}', '\u{c66}', '\u{ce6}', '\u{d66}', '\u{de6}', '\u{e50}', '\u{ed0}', '\u{f20}', '\u{1040}', '\u{1090}', '\u{17e0}', '\u{1810}', '\u{1946}', '\u{19d0}', '\u{1a80}', '\u{1a90}', '\u{1b50}', '\u{1bb0}', '\u{1c40}', '\u{1c50}', '\u{a620}', '\u{a8d0}', '\u{a900}', '\u{a9d0}', '\u{a9f0}', '\u{aa50}', '\u{abf0}', '\u{ff10}', '\u{104a0}', '\u{10d30}', '\u{10d40}', '\u{11066}', '\u{110f0}', '\u{11136}', '\u{111d0}', '\u{112f0}', '\u{11450}', '\u{114d0}', '\u{11650}', '\u{116c0}', '\u{116d0}', '\u{116da}', '\u{11730}', '\u{118e0}', '\u{11950}', '\u{11bf0}', '\u{11c50}', '\u{11d50}', '\u{11da0}', '\u{11de0}', '\u{11f50}', '\u{16a60}', '\u{16ac0}', '\u{16b50}', '\u{1ccf0}', '\u{1d7ce}', '\u{1d7d8}', '\u{1d7e2}', '\u{1d7ec}', '\u{1d7f6}', '\u{1e140}', '\u{1e2f0}', '\u{1e4f0}', '\u{1e5f1}', '\u{1e950}', '\u{1fbf0}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_from_every_keyboard() {
        for typed in [
            "123456",
            "123 456",
            "123-456",
            "123\u{2013}456",
            "\u{200e}123456\u{200e}",
            "123\u{a0}456",
            "\u{feff}1\u{ad}2\u{200b}3456\n",
            "١٢٣٤٥٦",
            "۱۲۳۴۵۶",
            "１２３４５６",
            "१२३४५६",
            "১২৩৪৫৬",
            "๑๒๓๔๕๖",
            "𝟷𝟸𝟹𝟺𝟻𝟼",
            "𝟭𝟮𝟯𝟰𝟱𝟲",
            "߁߂߃߄߅߆",
            "၁၂၃၄၅၆",
            "១២៣៤៥៦",
            "༡༢༣༤༥༦",
            "𞥑𞥒𞥓𞥔𞥕𞥖",
            "1２٣४๕6",
            "123\u{2011}456",
            "123 \u{2014} 456",
            "123\u{ff0d}456\u{3000}",
            "\u{2067}١٢٣\u{61c}٤٥٦\u{2069}",
            "1\u{2060}2\u{200c}3\u{200d}4\u{2062}5\u{e0020}6",
            "\u{2028}123\u{85}456\u{2009}",
        ] {
            assert_eq!(normalize(typed), "123456", "{typed:?}");
        }
        assert_eq!(normalize("abcd-EFGH 2345"), "abcdEFGH2345");
        for other in [
            "123.456",
            "12345six",
            "½",
            "①②③④⑤⑥",
            "１２３．456",
            "123_456",
            "123+456",
            "¹²³⁴⁵⁶",
            "ⅠⅡⅢⅣⅤⅥ",
            "一二三四五六",
            "1\u{fe0f}\u{20e3}23456",
            "12345\0",
            "12345l",
            "123,456",
        ] {
            assert_ne!(normalize(other), "123456", "{other}");
        }
    }

    #[test]
    fn every_script_has_ten_digits_and_each_is_one_of_ten() {
        for zero in ZEROS.map(u32::from) {
            for value in 0..10 {
                let digit = char::from_u32(zero + value).unwrap();
                assert!(digit.is_numeric(), "{digit:?}");
                assert_eq!(normalize(&digit.to_string()), value.to_string(), "{digit:?}");
            }
        }
        let as_digit = |c: &char| normalize(&c.to_string()).bytes().all(|byte| byte.is_ascii_digit());
        let digits = ('\0'..=char::MAX).filter(|c| c.is_numeric() && as_digit(c)).count();
        assert_eq!(digits, 10 * ZEROS.len());
    }
}
