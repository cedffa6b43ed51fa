//! [`Actor`]: who does something to somebody else's account.

use super::client::Client;

/// Who causes an event of an account: its owner or somebody else.
#[derive(Clone, Debug)]
pub struct Actor {
    /// `None` for a command. Anybody with access to the server can run one.
    pub user_id: Option<String>,
    pub client: Client,
}

impl Actor {
    /// Somebody at the command line of the server.
    pub fn command_line() -> Actor {
        Actor { user_id: None, client: Client::local("command line") }
    }
}
