//! The names of well-known authenticators, by the AAGUID that each sends with a new passkey.

use uuid::Uuid;

/// From github.com/passkeydeveloper/passkey-authenticator-aaguids and Yubico's list of hardware AAGUIDs.
const KNOWN: [(&str, &str); 37] = [
    ("fbfc3007-154e-4ecc-8c0b-6e020557d7bd", "Apple Passwords"),
    ("dd4ec289-e01d-41c9-bb89-70fa845d4bf2", "iCloud Keychain (Managed)"),
    ("ea9b8d66-4d01-1d21-3ce4-b6b48cb575d4", "Google Password Manager"),
    ("adce0002-35bc-c60a-648b-0b25f1f05503", "Chrome on Mac"),
    ("771b48fd-d3d4-4f74-9232-fc157ab0507a", "Edge on Mac"),
    ("b5397666-4885-aa6b-cebf-e52262a439a2", "Chromium"),
    ("08987058-cadc-4b81-b6e1-30de50dcbe96", "Windows Hello"),
    ("9ddd1817-af5a-4672-a2b9-3e3dd95000a9", "Windows Hello"),
    ("6028b017-b1d4-4c02-b4b3-afcdafc96bb2", "Windows Hello"),
    ("d3452668-01fd-4c12-926c-83a4204853aa", "Microsoft Password Manager"),
    ("53414d53-554e-4700-0000-000000000000", "Samsung Pass"),
    ("bada5566-a7aa-401f-bd96-45619a55120d", "1Password"),
    ("d548826e-79b4-db40-a3d8-11116f7e8349", "Bitwarden"),
    ("531126d6-e717-415c-9320-3d9aa6981239", "Dashlane"),
    ("f3809540-7f14-49c1-a8b3-8f813b225541", "Enpass"),
    ("a10c6dd9-465e-4226-8198-c7c44b91c555", "Kaspersky Password Manager"),
    ("fdb141b2-5d84-443e-8a35-4698c205a502", "KeePassXC"),
    ("eaecdef2-1c31-5634-8639-f1cbd9c00a08", "KeePassDX"),
    ("0ea242b4-43c4-4a1b-8b17-dd6d0b6baec6", "Keeper"),
    ("b78a0a55-6ef8-d246-a042-ba0f6d55050c", "LastPass"),
    ("b84e4048-15dc-4dd0-8640-f4f60813c8af", "NordPass"),
    ("fa37f553-f9b6-4adb-ac53-8bbb57ebdf0d", "Norton Password Manager"),
    ("50726f74-6f6e-5061-7373-50726f746f6e", "Proton Pass"),
    ("d9be9d39-e6a6-4c28-a581-32b044d986e4", "Sticky Password"),
    ("b35a26b2-8f6e-4697-ab1d-d44db4da28c6", "Zoho Vault"),
    ("de503f9c-21a4-4f76-b4b7-558eb55c6f89", "Devolutions"),
    ("a11a5faa-9f32-4b8c-8c5d-2f7d13e8c942", "AliasVault"),
    ("cb69481e-8ff7-4039-93ec-0a2729a154a8", "YubiKey 5"),
    ("ee882879-721c-4913-9775-3dfcce97072a", "YubiKey 5"),
    ("73bb0cd4-e502-49b8-9c6f-b59445bf720b", "YubiKey 5 FIPS"),
    ("fa2b99dc-9e39-4257-8f92-4a30d23c4118", "YubiKey 5 NFC"),
    ("2fc0579f-8113-47ea-b116-bb5a8db9202a", "YubiKey 5 NFC"),
    ("c1f9a0bc-1dd2-404a-b27f-8e29047a43fd", "YubiKey 5 NFC FIPS"),
    ("c5ef55ff-ad9a-4b9f-b580-adebafe026d0", "YubiKey 5Ci"),
    ("d8522d9f-575b-4866-88a9-ba99fa02f35b", "YubiKey Bio"),
    ("f8a011f3-8c0a-4d15-8006-17111f9edc7d", "Security Key by Yubico"),
    ("6d44ba9b-f6ec-2e49-b930-0c8fe920cb73", "Security Key NFC by Yubico"),
];

/// The name of the authenticator that has made this attestation object (WebAuthn Level 3, 6.1 and 6.5.4), if it says which it
/// is, and is known. Users who forge one only give their own passkey a wrong name.
pub fn authenticator_name(attestation: &[u8]) -> Option<&'static str> {
    // The CBOR text "authData", and after it the head of a byte string.
    const KEY: &[u8] = b"\x68authData";
    let (_, data) = attestation.split_at_checked(attestation.windows(KEY.len()).position(|bytes| bytes == KEY)?)?;
    let head = match data.get(KEY.len())? {
        0x58 => 2,
        0x59 => 3,
        _ => return None,
    };
    // After the hash of the site, the flags and the counter.
    let id = data.get(KEY.len() + head + 32 + 1 + 4..)?.get(..16)?;
    let id = Uuid::from_slice(id).ok()?.to_string();
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn attestation(head: &[u8], id: &str) -> Vec<u8> {
        let id = Uuid::parse_str(id).unwrap();
        [b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData", head, &[7; 37], id.as_bytes(), &[0; 90]].concat()
    }

    #[test]
    fn an_authenticator_is_known_by_its_id_however_long_its_answer_is() {
        for head in [&b"\x58\x8f"[..], b"\x59\x01\x8f"] {
            let known = attestation(head, "bada5566-a7aa-401f-bd96-45619a55120d");
            assert_eq!(authenticator_name(&known), Some("1Password"));
            assert_eq!(authenticator_name(&known[..80]), None);
            assert_eq!(authenticator_name(&attestation(head, "00000000-0000-0000-0000-000000000000")), None);
        }
        for nonsense in [&b""[..], b"\x68authData", b"\x68authData\x58", b"\x68authData\x43abc"] {
            assert_eq!(authenticator_name(nonsense), None);
        }
    }

    #[test]
    fn no_id_is_listed_twice_and_each_is_one() {
        let ids: BTreeSet<_> = KNOWN.iter().map(|(id, _)| Uuid::parse_str(id).unwrap().to_string()).collect();
        assert!(KNOWN.iter().all(|(id, _)| ids.contains(*id)) && ids.len() == KNOWN.len());
    }
}
