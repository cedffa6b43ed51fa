//! A mail as it is written and delivered.

use anyhow::Result;
use lettre::Address;

/// The recipient of a mail, from an address as users write it.
///
/// # Errors
/// When it is not an address.
pub fn recipient(email: &str) -> Result<Address> {
    Ok(quote(email).parse()?)
}

/// The address as it is written in mails. Some providers allow consecutive dots, or dots at either end, before the @;
/// such a part has to be quoted (RFC 5321, 4.1.2).
pub fn quote(email: &str) -> String {
    match email.split_once('@') {
        Some((local, domain)) if local.split('.').any(str::is_empty) => format!("\"{local}\"@{domain}"),
        _ => email.to_string(),
    }
}

/// The content of a mail.
#[derive(Clone)]
pub struct MailContent {
    pub subject: String,
    pub text: String,
    pub html: String,
    /// A link for people who did not request the mail (RFC 8058).
    pub unsubscribe: Option<String>,
}

/// A mail on its way to its recipient.
#[derive(Clone)]
pub struct Outgoing {
    pub id: String,
    pub email: String,
    pub content: MailContent,
}
