//! A mail as it is written and delivered.

/// What a mail says.
#[derive(Clone)]
pub struct MailContent {
    pub subject: String,
    pub text: String,
    pub html: String,
    /// A link for people who did not ask for the mail (RFC 8058).
    pub unsubscribe: Option<String>,
}

/// A mail on its way to its recipient.
#[derive(Clone)]
pub struct Outgoing {
    pub id: String,
    pub email: String,
    pub content: MailContent,
}
