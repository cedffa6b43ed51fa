//! [`Actor`]: who does something to somebody else's account.

use super::client::Client;

/// Who does something to the account of a user, who may be somebody else.
#[derive(Clone, Debug)]
pub struct Actor {
    /// `None` for a command, which anybody can run who has access to the server.
    pub user_id: Option<String>,
    pub client: Client,
}

impl Actor {
    /// Somebody at the command line of the server.
    pub fn command_line() -> Actor {
        Actor { user_id: None, client: Client::local("command line") }
    }
}
