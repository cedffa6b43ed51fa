//! Who may sign up. Every route that creates an account asks here; `latchkey user add` and `latchkey import` do not.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::invitation::{INVITE, NewInvitation};
    use crate::accounts::permission::{ADMIN, is_admin};
    use crate::db::new_id;
    use crate::test::TestApp;
    use crate::web::Routes;
    use futures_util::future::join_all;
    use std::time::Duration;

    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    async fn site(sign_ups: &str) -> TestApp {
        TestApp::with_env(&[("SIGNUPS", sign_ups)], Routes::new()).await
    }

    /// The text of a link that lets people sign up.
    async fn invite(app: &TestApp, new: NewInvitation<'_>) -> String {
        let made = app.app.db.write(async |db| {
            let id = invitation::create(db, &new).await?;
            invitation::renew(db, &id).await
        });
        made.await.unwrap().unwrap().text()
    }

    fn open_to_all() -> NewInvitation<'static> {
        NewInvitation { email: None, group_id: None, uses: 1, lifetime: WEEK, created_by: None }
    }

    /// Signs somebody up by a link. Returns whether there is an account now.
    async fn sign_up(app: &TestApp, invite: Option<&str>, name: &str) -> Result<bool> {
        let (config, client) = (&app.app.config, Client::local("a browser"));
        let admission = Admission::find(config, &app.app.db, invite).await?;
        let (id, username) = (new_id(), Username::parse(name).unwrap());
        let create = app.app.db.write(async |db| {
            let admitted = admission.create_user(config, db, &id, &username, &client).await?;
            let Some(admitted) = admitted else { return Err(Error::invalid("username", "taken")) };
            let email = Email::parse("ada@example.com").unwrap();
            admitted.set_address(db, &id, &email, AuthLevel::OneFactor).await
        });
        create.await.map(|_| true)
    }

    #[tokio::test]
    async fn signups_says_who_may_have_an_account() {
        for (sign_ups, without, with_invitation, with_setup) in
            [("open", true, true, true), ("invite", false, true, true), ("closed", false, false, true)]
        {
            let app = site(sign_ups).await;
            let link = invite(&app, open_to_all()).await;
            let setup = app.app.db.write(async |db| setup_link::issue(db).await).await.unwrap().unwrap().text();
            assert_eq!(sign_up(&app, None, "ada").await.is_ok(), without, "{sign_ups}");
            assert_eq!(sign_up(&app, Some(&link), "grace").await.is_ok(), with_invitation, "{sign_ups}");
            assert_eq!(sign_up(&app, Some(&setup), "root").await.is_ok(), with_setup, "{sign_ups}");
            for wrong in ["", "x", &"A".repeat(43)] {
                assert!(matches!(sign_up(&app, Some(wrong), "eve").await, Err(Error::StaleLink)), "{wrong}");
            }
            let root = app.user("root").await;
            assert!(app.app.db.read(async |db| is_admin(db, &root).await).await.unwrap());
            assert_eq!(app.count("select count(*) from user_groups").await, 1);
        }
    }

    #[tokio::test]
    async fn of_fifty_at_once_with_an_invitation_of_one_use_one_gets_an_account() {
        let app = site("invite").await;
        let link = &*invite(&app, open_to_all()).await;
        let app = &app;
        let all = join_all((0..50).map(async |number| sign_up(app, Some(link), &format!("p{number}")).await)).await;
        assert_eq!(all.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn of_twenty_at_once_with_two_setup_links_one_is_the_administrator() {
        let app = site("closed").await;
        let issue = async || app.app.db.write(async |db| setup_link::issue(db).await).await.unwrap().unwrap().text();
        let links = [issue().await, issue().await];
        let (app, links) = (&app, &links);
        let all =
            join_all((0..20).map(async |number| sign_up(app, Some(&links[number % 2]), &format!("p{number}")).await));
        assert_eq!(all.await.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(app.count("select count(*) from users").await, 1);
        assert!(app.app.db.write(async |db| setup_link::issue(db).await).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_that_is_taken_uses_no_invitation_up() {
        let app = site("invite").await;
        app.person("ada").await;
        let link = invite(&app, open_to_all()).await;
        assert!(sign_up(&app, Some(&link), "ada").await.is_err());
        assert!(sign_up(&app, Some(&link), "grace").await.is_ok());
        assert!(sign_up(&app, Some(&link), "mary").await.is_err());
    }

    #[tokio::test]
    async fn an_address_counts_as_confirmed_if_the_invitation_was_mailed_to_it() {
        for (invited, confirmed) in [("ada@example.com", 1), ("grace@example.com", 0)] {
            let app = site("invite").await;
            let link = invite(&app, NewInvitation { email: Some(invited), ..open_to_all() }).await;
            sign_up(&app, Some(&link), "ada").await.unwrap();
            assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, confirmed);
            assert_eq!(app.count("select count(*) from addresses").await, 1);
        }
    }

    #[tokio::test]
    async fn an_invitation_ends_with_what_its_maker_may_do_and_with_a_reset_of_their_account() {
        let app = site("invite").await;
        app.person("maker").await;
        let maker = app.user("maker").await;
        let by_maker =
            async |group_id| invite(&app, NewInvitation { created_by: Some(&maker), group_id, ..open_to_all() }).await;
        let works = async |link: &str| Admission::find(&app.app.config, &app.app.db, Some(link)).await.is_ok();
        let (plain, to_admins) = (by_maker(None).await, by_maker(Some(ADMIN)).await);
        assert!(!works(&plain).await, "its maker may not invite");
        app.grant("maker", INVITE.name).await;
        assert!(works(&plain).await && !works(&to_admins).await);
        app.make_admin("maker").await;
        assert!(works(&to_admins).await);
        app.person("root").await;
        app.make_admin("root").await;
        app.disable("maker").await;
        assert!(!works(&plain).await && !works(&to_admins).await);
        app.execute("update users set disabled_at = null").await;
        assert!(!works(&plain).await, "it was withdrawn for good");
    }

    #[tokio::test]
    async fn an_invitation_works_until_it_expires() {
        let app = site("invite").await;
        let link = invite(&app, open_to_all()).await;
        app.execute("update invitations set expires_at = expires_at - 604800").await;
        assert!(matches!(sign_up(&app, Some(&link), "ada").await, Err(Error::StaleLink)));
        let setup = app.app.db.write(async |db| setup_link::issue(db).await).await.unwrap().unwrap().text();
        app.execute("update tokens set expires_at = expires_at - 86400").await;
        assert!(matches!(sign_up(&app, Some(&setup), "ada").await, Err(Error::StaleLink)));
    }
}
