//! Codes as a factor: a log-in that has begun with one factor asks for them.

use super::code::{self, TypedCode};
use super::{account, log_in};
use crate::accounts::AuthLevel;
use crate::base::{FieldErrors, Result};
use crate::db::Connection;
use crate::web::app::FactorAttempt;
use crate::web::{AccountGroup, AccountRow, App, Factor, RowState};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub const ROW: AccountRow =
    AccountRow::new(AccountGroup::SigningIn, 3, "Two-factor log-in", account::PATH, |_, context| {
        if context.has(FACTOR.name) { RowState::fixed("On", "Manage") } else { RowState::fixed("Off", "Set up") }
    });

pub const FACTOR: Factor = Factor {
    name: "code",
    label: "Authenticator app",
    count: code::COUNT,
    suffices: false,
    verify,
    next,
    set_up_path: account::PATH,
    added: account::TWO_FACTOR_ON,
    undo: code::UNDO,
};

fn verify<'a>(app: &'a App, attempt: FactorAttempt<'a>) -> BoxFuture<'a, Result<()>> {
    let FactorAttempt { session, client, value, .. } = attempt;
    async move {
        let code = TypedCode::parse(value).map_err(|sentence| FieldErrors::of("code", sentence))?;
        // A wrong code is no error inside the transaction, because it is counted there.
        let verified = app.db.write(async |db| code::verify(db, app, client, &session.user.id, &code).await).await?;
        verified.map_err(|refusal| refusal.in_field("code").into())
    }
    .boxed()
}

fn next<'a>(
    _: &'a App,
    db: &'a mut Connection,
    user_id: &'a str,
    level: AuthLevel,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    async move {
        let asks = level == AuthLevel::OneFactor && code::is_on(db, user_id).await?;
        Ok(asks.then_some(log_in::PATH))
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::super::phone::{Phone, later, send, start, start_log_in, turn_on, turn_on_and_off};
    use super::*;
    use crate::accounts::{Session, User};
    use crate::db::{new_id, now};
    use crate::test::TestApp;
    use crate::web::{Credentials, credentials, factors::undo_added_since, format::date};
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn a_user_may_reauthenticate_by_a_code() {
        let app = TestApp::new().await;
        let (phone, codes) = turn_on(&app.person("ada").await).await;
        let eve = app.person("eve").await;
        let mistake = async |name: &str, code: &str| {
            let (id, level) = (new_id(), AuthLevel::OneFactor);
            let user = User { id: app.user(name).await, username: name.into() };
            let session = Session { id, token_hash: [0; 32], user, confirmed_at: now(), confirmed: level, level };
            let credentials = Credentials(BTreeMap::from([("code".into(), code.into())]));
            match app.login().await.reauthenticate(&session, &credentials).await {
                Ok(reauthenticated) => {
                    assert_eq!(reauthenticated.level(), AuthLevel::TwoFactors);
                    None
                }
                Err(error) => {
                    let errors = error.field_errors().unwrap();
                    errors.iter().next().map(|(field, sentence)| (field, sentence.to_string()))
                }
            }
        };
        later(&app).await;
        let sentence = |refusal: code::Refusal| Some(("code", refusal.sentence().to_string()));
        let (refused, used) = (sentence(code::Refusal::Wrong), sentence(code::Refusal::Used));
        assert_eq!(mistake("ada", &phone.wrong()).await, refused);
        let code = phone.code();
        // A user without an app has no code, and a recovery code does not replace it.
        assert_eq!(mistake("eve", &code).await, refused);
        assert_eq!(mistake("eve", &turn_on_and_off(&eve).await).await, refused);
        for (code, again) in [(&code, &used), (&codes[0], &refused)] {
            assert_eq!(mistake("ada", code).await, None);
            assert_eq!(mistake("ada", code).await, *again);
        }
    }

    #[tokio::test]
    async fn a_wrong_code_is_still_counted() {
        const ATTEMPTS: &str = "select cast(coalesce(sum(count), 0) as bigint) from limits";
        const EVENTS: &str = "select count(*) from events where kind = 'wrong_code'";
        const PENDING: &str = "select wrong from tokens where purpose = 'login'";
        let app = TestApp::new().await;
        let ada = app.person("ada").await;

        let phone = Phone::scan(&start(&ada).await);
        send(&ada, "/account/two-factor/confirm", &phone.wrong()).await.assert_status(422);
        assert_eq!(app.count(ATTEMPTS).await, 1);
        send(&ada, "/account/two-factor/confirm", &phone.code()).await.assert_status(303);
        assert_eq!(app.count(ATTEMPTS).await, 0);

        // The code of the set-up is right, but used up.
        send(&ada, "/test/reauthenticate", &phone.code()).await.assert_status(422);
        assert_eq!((app.count(ATTEMPTS).await, app.count(EVENTS).await), (1, 1));

        let browser = start_log_in(&app, "ada").await;
        assert_eq!(app.count(PENDING).await, 0);
        send(&browser, log_in::PATH, &phone.wrong()).await.assert_status(422);
        assert_eq!((app.count(ATTEMPTS).await, app.count(EVENTS).await), (2, 2));
        assert_eq!(app.count(PENDING).await, 1);

        send(&ada, "/account/two-factor/off", &phone.wrong()).await.assert_status(422);
        assert_eq!((app.count(ATTEMPTS).await, app.count(EVENTS).await), (3, 3));
    }

    #[tokio::test]
    async fn what_a_thief_has_set_up_ends_when_the_owner_takes_the_account_back() {
        let app = TestApp::new().await;
        let thief = app.person("ada").await;
        app.execute("update sessions set factors = 1, confirmed_factors = 1").await;
        let earlier = new_id();
        turn_on(&thief).await;
        let (id, later) = (app.user("ada").await, new_id());
        let undo = async |event_id: &str| {
            let undo = async |db: &mut Connection| undo_added_since(&app.app, db, &id, event_id).await;
            app.app.db.write(undo).await.unwrap();
            app.count("select count(*) from totp").await
        };
        assert_eq!(undo(&later).await, 1);
        assert_eq!(undo(&earlier).await, 0);
    }

    #[tokio::test]
    async fn an_app_that_somebody_has_prepared_is_listed_and_removed_and_so_is_a_secret_that_somebody_has_seen() {
        let app = TestApp::new().await;
        let (thief, eve) = (app.person("ada").await, app.person("eve").await);
        turn_on(&eve).await;
        let id = app.user("ada").await;
        let list = async || app.app.db.read(async |db| credentials::list(&app.app, db, &id).await).await.unwrap();
        let remove =
            async || app.app.db.write(async |db| credentials::remove_all(&app.app, db, &id).await).await.unwrap();
        turn_on(&thief).await;
        let today = format!("An authenticator app, set up on {}", date(now()));
        assert_eq!(list().await, [&*today, "10 recovery codes"]);
        remove().await;
        assert_eq!(list().await, [""; 0]);

        // A set-up opens nothing yet, but its secret would be shown to the owner too.
        let thief = app.browser_of("ada").await;
        let seen = Phone::scan(&start(&thief).await);
        assert_eq!(list().await, [""; 0]);
        remove().await;
        let ada = app.browser_of("ada").await;
        let page = start(&ada).await;
        assert_ne!(Phone::scan(&page).code(), seen.code());
        assert_eq!(app.count("select count(*) from totp where confirmed_at is not null").await, 1);
    }

    #[tokio::test]
    async fn what_an_owner_sets_up_again_is_not_undone_by_an_older_mail() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let earlier = new_id();
        turn_on(&ada).await;
        let id = app.user("ada").await;
        let undo = async |db: &mut Connection| undo_added_since(&app.app, db, &id, &earlier).await;
        app.app.db.write(undo).await.unwrap();
        assert_eq!(app.count("select count(*) from totp").await, 1);
    }

    #[tokio::test]
    async fn the_account_page_says_whether_it_is_on() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Two-factor log-in · Off · Set up\n");
        app.execute(
            "insert into totp (user_id, secret, created_at, confirmed_at, last_step) \
             select id, 'x', 1, 1, 0 from users where username = 'ada'",
        )
        .await;
        ada.get("/test/account").await.assert_contains("Two-factor log-in · On · Manage\n");
        bob.get("/test/account").await.assert_contains("Two-factor log-in · Off · Set up\n");
    }
}
