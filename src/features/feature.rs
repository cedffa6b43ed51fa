//! [`Feature`]: what a feature offers.

use crate::accounts::{Event, Permission};
use crate::base::Sealed;
use crate::mail::Deliver;
use crate::web::app::{Background, OnSessionStart, OnStart, Owned, Settings, ShowSignUp, WriteMail};
use crate::web::{AccountRow, AddedCredentials, Factor, Flash, Routes};

/// `Feature { routes, ..Feature::named("notes") }`
#[derive(Default)]
pub struct Feature {
    /// Empty for a feature that is off, because of how the site is configured.
    pub name: &'static str,
    pub routes: Routes,
    /// The events that its handlers record.
    pub events: &'static [Event],
    /// What its routes ask for.
    pub permissions: &'static [Permission],
    /// The sentences that its handlers leave for the next page.
    pub flashes: &'static [Flash],
    /// The kinds of mail it writes.
    pub mails: &'static [(&'static str, WriteMail)],
    /// Its row of the account page.
    pub account_row: Option<AccountRow>,
    /// Statements that each delete some expired rows, a thousand at most; `$1` is the time in seconds since 1970.
    pub purge: &'static [&'static str],
    /// What it stores about a user, for the copy of their data: a name, and a query for a page, which is the first `$3` rows
    /// of the user `$1` after the key `$2`. The key is the first column: text, unique for each user, in ascending order.
    pub export: &'static [(&'static str, &'static str)],
    /// What users own of it; it is listed before they delete their account.
    pub owned: &'static [Owned],
    /// What it stores sealed.
    pub sealed: &'static [Sealed],
    /// The factor that it lets users authenticate with.
    pub factor: Option<Factor>,
    /// What it stores that lets people into an account or keeps them out: factors and the like.
    pub credentials: Option<AddedCredentials>,
    pub on_session_start: Option<OnSessionStart>,
    /// Called when the site is about to serve.
    pub on_start: Option<OnStart>,
    /// Runs as long as the site does.
    pub background: Option<Background>,
    /// Shows the form to sign up to somebody who has followed a link.
    pub sign_up: Option<ShowSignUp>,
    /// Its own variables, as `feature(env)` has read them; handlers get them by `app.settings::<T>()`.
    pub settings: Option<Settings>,
    /// Takes mails while no mail server is configured.
    pub deliver: Option<Deliver>,
    /// The page where people log in.
    pub login_path: Option<&'static str>,
    /// The page where users authenticate again.
    pub confirm_path: Option<&'static str>,
    /// The page with a user's settings.
    pub account_path: Option<&'static str>,
    /// The page where a link to reset the password leads; `{token}` stands for its token.
    pub reset_path: Option<&'static str>,
    /// The page where an invitation leads; `{token}` stands for its token.
    pub invite_path: Option<&'static str>,
    /// The page where new recovery codes are shown.
    pub recovery_codes_path: Option<&'static str>,
    /// Paths that are answered under any host name.
    pub any_host: &'static [&'static str],
    /// Crates that log what visitors have sent. Their lines are off unless `RUST_LOG` names them.
    pub silenced: &'static [&'static str],
}

impl Feature {
    pub fn named(name: &'static str) -> Feature {
        Feature { name, ..Feature::default() }
    }

    /// Whether the site needs `SECRET_KEY` for it. New recovery codes and links of invitations are sealed while they are shown,
    /// too briefly to be listed in `sealed`.
    pub fn seals(&self) -> bool {
        !self.sealed.is_empty() || self.recovery_codes_path.is_some() || self.invite_path.is_some()
    }
}
