//! Who may get an account: the one place that every way of making one asks.

use super::actor::Actor;
use super::address::{self, Email};
use super::auth_level::AuthLevel;
use super::client::Client;
use super::user::{self, Username};
use super::{group, invitation, setup_link};
use crate::base::{Config, Error, Result, SignUps, Token};
use crate::db::{Connection, Database};

/// What lets somebody sign up.
pub enum Admission {
    /// Sign-ups are open.
    Open,
    /// The token of an invitation or of a link that makes the first administrator.
    Link(Token),
}

/// An account that was just made.
pub struct Admitted {
    /// The address that its owner has proven already, by a link that was mailed there.
    proven: Option<String>,
}

const NOT_OPEN: &str = "You need an invitation to sign up here.";
const CLOSED: &str = "Nobody can sign up here at the moment.";

impl Admission {
    /// What `invite` of a form lets its sender do, before anything costly is done for them.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when sign-ups are not open; [`Error::StaleLink`] when the link does not work.
    pub async fn find(config: &Config, db: &Database, invite: Option<&str>) -> Result<Admission> {
        let Some(text) = invite else { return Admission::without_link(config) };
        let token = Token::parse(text).ok_or(Error::StaleLink)?;
        let check = async |db: &mut Connection| match setup_link::check(db, &token).await {
            Err(Error::StaleLink) if config.sign_ups != SignUps::Closed => invitation::find(db, &token).await.map(drop),
            checked => checked,
        };
        db.read(check).await?;
        Ok(Admission::Link(token))
    }

    /// # Errors
    /// [`Error::Forbidden`] when sign-ups are not open.
    pub fn without_link(config: &Config) -> Result<Admission> {
        match config.sign_ups {
            SignUps::Open => Ok(Admission::Open),
            SignUps::Invite => Err(Error::Forbidden(NOT_OPEN)),
            SignUps::Closed => Err(Error::Forbidden(CLOSED)),
        }
    }

    /// Makes an account, and uses the link up. `None` if the name is taken or reserved.
    ///
    /// # Errors
    /// [`Error::StaleLink`] when the link has stopped working in the meantime.
    pub async fn create_user(
        &self,
        config: &Config,
        db: &mut Connection,
        id: &str,
        username: &Username,
        client: &Client,
    ) -> Result<Option<Admitted>> {
        let (proven, group_id, actor_id) = match self {
            Admission::Open => (None, None, None),
            Admission::Link(token) => match setup_link::accept(db, token).await {
                Ok(group_id) => (None, Some(group_id.to_string()), Some(id.to_string())),
                Err(Error::StaleLink) if config.sign_ups != SignUps::Closed => {
                    let invitation = invitation::accept(db, token).await?;
                    (invitation.email, invitation.group_id, invitation.created_by)
                }
                Err(error) => return Err(error),
            },
        };
        if !user::create_with_id(db, id, username, client).await? {
            return Ok(None);
        }
        if let Some(group_id) = group_id {
            group::enter(db, id, &group_id, &Actor { user_id: actor_id, client: client.clone() }).await?;
        }
        Ok(Some(Admitted { proven }))
    }
}

impl Admitted {
    /// Gives the new account its address. It is confirmed if the invitation was mailed to it. Returns whether a mail asks for
    /// its confirmation.
    pub async fn set_address(
        &self,
        db: &mut Connection,
        user_id: &str,
        email: &Email,
        level: AuthLevel,
    ) -> Result<bool> {
        let is_proven = self.proven.as_deref() == Some(email.as_str());
        if is_proven && address::set_confirmed(db, user_id, email.as_str()).await? {
            return Ok(false);
        }
        address::set_pending(db, user_id, email, level).await?;
        Ok(true)
    }
}
