//! Factors: by what people show who they are. Core has the password; features bring others.

use crate::app::App;
use crate::auth::User;
use crate::config::Config;
use crate::database::{Connection, DEADLINE};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::features::Feature;
use crate::password;
use crate::session::{self, Door, Session};
use anyhow::ensure;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How much somebody has shown of who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proven {
    /// A password, or a link.
    OneFactor,
    /// A password and a code, or a passkey that has verified who uses it.
    TwoFactors,
}

impl Proven {
    /// How the tables have it.
    pub fn count(self) -> i64 {
        match self {
            Proven::OneFactor => 1,
            Proven::TwoFactors => 2,
        }
    }

    pub fn of(count: i64) -> Proven {
        if count >= 2 { Proven::TwoFactors } else { Proven::OneFactor }
    }
}

/// A kind of factor.
pub struct Factor {
    /// Also the form field in which it is sent.
    pub name: &'static str,
    /// A query for how many of it the user with the id `$1` has.
    pub count: &'static str,
    /// Whether it is enough to log in.
    pub suffices: bool,
    pub check: Check,
    /// What to say beside the field when it is wrong.
    pub refusal: &'static str,
}

/// Whether what was sent shows that it is this user, who is logged in. What works once is used up by it.
pub type Check = for<'a> fn(&'a App, &'a Door, &'a User, &'a str) -> BoxFuture<'a, Result<bool>>;

/// Asked before a session begins, whatever has been shown so far: where the browser has to go for another factor.
pub type NextFactor =
    for<'a> fn(&'a App, &'a mut Connection, &'a str, Proven) -> BoxFuture<'a, Result<Option<&'static str>>>;

/// Where somebody who has proven so much has to go for another factor, if any feature asks for one.
pub async fn next(
    app: &App,
    db: &mut Connection,
    user_id: &str,
    proven: Proven,
) -> Result<Option<&'static str>> {
    for asks in app.features.iter().filter_map(|feature| feature.next_factor) {
        if let Some(path) = asks(app, db, user_id, proven).await? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The field in which a password is sent, and its name among the factors.
pub const PASSWORD: &str = "password";

/// How many the user has of each kind of factor.
pub async fn held(app: &App, db: &mut Connection, user_id: &str) -> Result<BTreeMap<&'static str, i64>> {
    let mut held = BTreeMap::new();
    for (name, count) in [(PASSWORD, password::COUNT)]
        .into_iter()
        .chain(factors(app).map(|factor| (factor.name, factor.count)))
    {
        let (number,): (i64,) = sqlx::query_as(count).bind(user_id).fetch_one(&mut *db).await?;
        held.insert(name, number);
    }
    Ok(held)
}

/// In how many ways somebody who has these can log in. The last is not to be removed: whoever removes one asks in the same
/// transaction, in which the user's row is [`crate::user::lock`]ed.
pub fn ways_in(app: &App, held: &BTreeMap<&'static str, i64>) -> i64 {
    let suffice = factors(app).filter(|factor| factor.suffices).map(|factor| factor.name);
    suffice.chain([PASSWORD]).filter_map(|name| held.get(name)).sum()
}

/// What people send to show once more that it is them: any of the factors, each in its field.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub struct Sent(BTreeMap<String, String>);

/// That somebody has shown once more who they are, for the transaction that acts on it: with the password, or with a factor
/// that is used up already.
pub struct Shown(Option<password::Proof>);

impl Shown {
    /// Answers whether it still stands, as [`password::Proof::redeem`].
    pub async fn redeem(&self, db: &mut Connection) -> Result<bool> {
        match &self.0 {
            Some(proof) => proof.redeem(db).await,
            None => Ok(true),
        }
    }

    /// What the session has shown with it, of which the first factor was another.
    pub fn proven(&self) -> Proven {
        if self.0.is_some() { Proven::OneFactor } else { Proven::TwoFactors }
    }
}

/// Judges what a user has sent. Or answers the field with a mistake and its sentence.
///
/// # Errors
/// [`crate::error::Error::TooMany`] when there have been too many attempts.
pub async fn check(
    app: &App,
    door: &Door,
    user: &User,
    sent: &Sent,
) -> Result<Result<Shown, (&'static str, String)>> {
    for factor in factors(app) {
        if let Some(typed) = sent.0.get(factor.name) {
            let is_right = (factor.check)(app, door, user, typed).await?;
            return Ok(if is_right { Ok(Shown(None)) } else { Err((factor.name, factor.refusal.into())) });
        }
    }
    let typed = sent.0.get(PASSWORD).map_or("", String::as_str);
    let proof = password::check_own(app, door, user, typed).await?;
    Ok(proof.map(|proof| Shown(Some(proof))).ok_or((PASSWORD, "This is not your password.".into())))
}

/// Takes the user's row as [`session::hold`], for what could take the account from its owner.
///
/// # Errors
/// As [`confirmed`].
pub async fn hold(app: &App, db: &mut Connection, session: &Session) -> Result<()> {
    session::hold(db, session).await?;
    confirmed(app, db, session).await
}

/// Where a log-in asks for two factors, a password that was shown since is not enough for everything.
///
/// # Errors
/// [`Error::Unproven`] when it is to be confirmed with more.
pub async fn confirmed(app: &App, db: &mut Connection, session: &Session) -> Result<()> {
    match next(app, db, &session.user.id, session.confirmed).await? {
        Some(_) => Err(Error::Unproven),
        None => Ok(()),
    }
}

/// What gives somebody another way in.
const ADDITIONS: [Event; 2] = [Event::TwoFactorOn, Event::PasskeyAdded];

/// Ends everything by which somebody could come in that was added to the account from this event on by whoever had shown no
/// more than one factor, and what was added after that. What an owner with two factors adds, no mailbox ends.
pub async fn end_added_since(app: &App, db: &mut Connection, user_id: &str, event_id: &str) -> Result<()> {
    let sql = "select min(created_at) from events \
               where user_id = $1 and id >= $2 and factors = 1 and kind in ($3, $4)";
    let [one, other] = ADDITIONS.map(Event::kind);
    let query = sqlx::query_as(sql).bind(user_id).bind(event_id).bind(one).bind(other);
    let (Some(first),): (Option<i64>,) = query.fetch_one(&mut *db).await? else { return Ok(()) };
    // An event is recorded a little after what it tells of.
    let since = first - DEADLINE.as_secs() as i64 - 1;
    for &sql in app.features.iter().flat_map(|feature| feature.undo) {
        sqlx::query(sql).bind(user_id).bind(since).execute(&mut *db).await?;
    }
    Ok(())
}

/// Whether what `REQUIRE_TWO_FACTOR` asks can be had.
///
/// # Errors
/// One sentence that says what to set.
pub fn check_requirement(config: &Config, features: &[Feature]) -> anyhow::Result<()> {
    let can_be_had = features.iter().any(|feature| feature.set_up.is_some());
    ensure!(
        can_be_had || !config.require_two_factor.of_everybody(),
        "REQUIRE_TWO_FACTOR=all asks for what no feature of this site offers: set it to none, or build the site with \
         two-factor log-in or passkeys"
    );
    Ok(())
}

/// Where somebody has to go who may do nothing else before there is a second factor.
pub fn set_up(app: &App, session: &Session, path: &str) -> Option<&'static str> {
    if !app.config.require_two_factor.of_everybody() || session.proven == Proven::TwoFactors {
        return None;
    }
    let below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut places = app.features.iter().filter_map(|feature| feature.set_up);
    let first = places.clone().next();
    first.filter(|_| !below("/confirm") && !places.any(below))
}

fn factors(app: &App) -> impl Iterator<Item = &Factor> {
    app.features.iter().filter_map(|feature| feature.factor.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Routes};
    use crate::test::{PASSWORD, TestApp, Visitor, ask_for_second};
    use axum::extract::State;
    use futures_util::FutureExt;
    use std::future::ready;

    async fn page() -> &'static str {
        "a page"
    }

    /// A site where everybody must have two factors, which are set up at /set-up.
    async fn strict() -> TestApp {
        let routes = Routes::new()
            .get("/set-up", Access::Recent, page)
            .get("/set-up/more", Access::Recent, page)
            .get("/set-upper", Access::User, page)
            .get("/settings", Access::Recent, page);
        let feature = Feature { routes, set_up: Some("/set-up"), ..Feature::named("test") };
        TestApp::with_feature(&[("REQUIRE_TWO_FACTOR", "all")], feature).await
    }

    /// Somebody who has shown no more than a password.
    async fn with_one_factor(app: &TestApp, name: &str) -> Visitor {
        let person = app.person(name).await;
        app.execute("update sessions set factors = 1").await;
        person
    }

    #[tokio::test]
    async fn whoever_must_have_two_factors_is_led_to_set_them_up_before_anything_else() {
        let app = strict().await;
        let ada = with_one_factor(&app, "ada").await;
        let to = app.app.features.iter().find_map(|feature| feature.set_up).unwrap();
        for path in ["/private", "/settings", "/set-upper"] {
            ada.get(path).await.assert_redirect(to);
        }
        for path in ["/set-up", "/set-up/more"] {
            ada.get(path).await.assert_status(200);
        }
        ada.get("/whoami").await.assert_body("ada");
        // By an older log-in it is set up no more than anywhere else.
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get("/set-up").await.assert_redirect("/confirm?next=%2Fset-up");
        ada.get("/settings").await.assert_redirect("/confirm?next=%2Fsettings");
        app.execute("update sessions set factors = 2, confirmed_at = confirmed_at + 600").await;
        ada.get("/settings").await.assert_status(200);
    }

    async fn risk(State(app): State<App>, session: Session) -> Result<&'static str> {
        app.db.write(async |db| hold(&app, db, &session).await).await?;
        Ok("done")
    }

    #[tokio::test]
    async fn where_a_log_in_asks_for_two_factors_a_password_shown_since_is_not_enough_for_everything() {
        let routes = Routes::new().post("/risk", Access::Recent, risk);
        let feature = Feature { routes, next_factor: Some(ask_for_second), ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let ada = app.person("ada").await;
        ada.post("/risk", &[]).await.assert_body("done");
        let (door, id) = (app.door().await, app.user("ada").await);
        let user = User { id, username: "ada".into() };
        let sent = Sent(BTreeMap::from([(super::PASSWORD.into(), PASSWORD.into())]));
        let shown = check(&app.app, &door, &user, &sent).await.unwrap().unwrap();
        assert_eq!(shown.proven(), Proven::OneFactor);
        // As /confirm notes it.
        app.execute("update sessions set confirmed_factors = 1").await;
        ada.post("/risk", &[]).await.assert_redirect("/confirm?second=yes&next=%2Faccount");
        ada.assert_is("ada").await;
        app.execute("update sessions set confirmed_factors = 2").await;
        ada.post("/risk", &[]).await.assert_body("done");
    }

    #[test]
    fn a_site_that_asks_for_what_it_does_not_offer_does_not_start() {
        let config =
            |value| Config::from_env(&[("REQUIRE_TWO_FACTOR", value)].into_iter().collect()).unwrap();
        let offers = Feature { set_up: Some("/set-up"), ..Feature::named("test") };
        assert!(check_requirement(&config("all"), &[offers]).is_ok());
        assert!(check_requirement(&config("admins"), &[]).is_ok());
        let error = check_requirement(&config("all"), &[Feature::named("test")]).unwrap_err().to_string();
        assert!(error.contains("set it to none"), "{error}");
    }

    #[tokio::test]
    async fn nobody_else_is_led_there() {
        let app = TestApp::new().await;
        let ada = with_one_factor(&app, "ada").await;
        ada.get("/private").await.assert_status(200);
        let app = strict().await;
        app.person("ada").await.get("/private").await.assert_status(200);
        app.visitor().get("/private").await.assert_redirect("/login?next=%2Fprivate");
    }

    fn word<'a>(_: &'a App, _: &'a Door, user: &'a User, typed: &'a str) -> BoxFuture<'a, Result<bool>> {
        ready(Ok(typed == format!("{}'s word", user.username))).boxed()
    }

    #[tokio::test]
    async fn any_factor_shows_who_somebody_is_in_its_own_field_and_no_other() {
        let count = "select count(*) from recovery_codes where user_id = $1";
        let factor = Factor { name: "word", count, suffices: false, check: word, refusal: "Not the word." };
        let app =
            TestApp::with_feature(&[], Feature { factor: Some(factor), ..Feature::named("test") }).await;
        app.person("ada").await;
        let (door, id) = (app.door().await, app.user("ada").await);
        let ada = User { id: id.clone(), username: "ada".into() };
        let sent = |field: &str, typed: &str| Sent(BTreeMap::from([(field.into(), typed.into())]));
        let judge =
            async |sent: Sent| check(&app.app, &door, &ada, &sent).await.unwrap().map(|shown| shown.proven());
        assert_eq!(judge(sent("password", PASSWORD)).await, Ok(Proven::OneFactor));
        assert_eq!(judge(sent("word", "ada's word")).await, Ok(Proven::TwoFactors));
        assert_eq!(judge(sent("word", "bob's word")).await, Err(("word", "Not the word.".into())));
        assert_eq!(judge(sent("word", PASSWORD)).await, Err(("word", "Not the word.".into())));
        for nothing in [sent("password", "ada's word"), sent("user", "ada"), Sent::default()] {
            assert_eq!(judge(nothing).await, Err(("password", "This is not your password.".into())));
        }
        let held = app.app.db.read(async |db| held(&app.app, db, &id).await).await.unwrap();
        assert_eq!((held[super::PASSWORD], held["word"], ways_in(&app.app, &held)), (1, 0, 1));
    }
}
