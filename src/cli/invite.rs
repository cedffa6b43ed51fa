//! `latchkey invite`: a link with which somebody may sign up.

use super::output::say;
use super::wrong_use::WrongUse;
use crate::accounts::invitation::{self, INVITATION_MAIL, NewInvitation};
use crate::accounts::{Email, group};
use crate::base::env::parse_duration;
use crate::base::{Config, Env, Error, MailDelivery, SignUps};
use crate::db::{Connection, Database};
use crate::features;
use crate::mail::outbox;
use anyhow::{Context, Result, anyhow, ensure};
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(90 * 24 * 60 * 60);

#[derive(clap::Args)]
pub struct Arguments {
    /// Mail the link to this address, in place of printing it
    #[arg(long)]
    email: Option<String>,
    /// The name of a group that the invited will be in
    #[arg(long)]
    group: Option<String>,
    /// How long it works, at most 90d
    #[arg(long = "for", default_value = "7d")]
    lifetime: String,
    /// How many people can use it, at most 1000
    #[arg(long, default_value_t = 1)]
    uses: i64,
}

pub async fn run(env: &Env, arguments: Arguments) -> Result<()> {
    let config = Config::from_env(env)?;
    let path = features::all(env)?.iter().find_map(|feature| feature.invite_path);
    let path = path.context("this site has no page for invitations")?;
    ensure!(config.sign_ups != SignUps::Closed, "no invitation works while SIGNUPS=closed");
    let lifetime = parse_duration(&arguments.lifetime).filter(|lifetime| *lifetime <= LONGEST);
    let lifetime = lifetime.ok_or_else(|| WrongUse("--for must be a duration such as 7d, at most 90d".into()))?;
    if !(1..=1000).contains(&arguments.uses) {
        return Err(WrongUse("--uses must be a number from 1 to 1000".into()).into());
    }
    let email = arguments.email.as_deref().map(Email::parse).transpose().map_err(|sentence| anyhow!(sentence))?;
    let email = email.as_ref().map(Email::as_str);
    let sends_mail = !matches!(config.mail, MailDelivery::Off);
    ensure!(email.is_none() || sends_mail, "this site sends no mail: leave out --email to print the link");
    let db = Database::open_existing(&config).await?;
    let group_id = find_group(&db, arguments.group.as_deref()).await?;
    let invite = async |db: &mut Connection| {
        let (group_id, uses) = (group_id.as_deref(), arguments.uses);
        let id = invitation::create(db, &NewInvitation { email, group_id, uses, lifetime, created_by: None }).await?;
        match email {
            Some(email) => outbox::queue(db, INVITATION_MAIL, None, email, &id).await.map(|()| None),
            None => invitation::renew(db, &id).await?.ok_or(Error::StaleLink).map(Some),
        }
    };
    let token = db.write(invite).await?;
    db.close().await;
    say(match (token, email) {
        (Some(token), _) => config.link(path, &token),
        (None, email) => format!("The running site mails an invitation to {}.", email.unwrap_or_default()),
    })
}

async fn find_group(db: &Database, name: Option<&str>) -> Result<Option<String>> {
    let Some(name) = name else { return Ok(None) };
    let group = db.read(async |db| group::find_by_name(db, name).await).await?;
    let group = group.ok_or_else(|| WrongUse(format!("There is no group called {name}")))?;
    Ok(Some(group.id))
}
