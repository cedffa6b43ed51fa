//! Recovery codes: how many the user has left, and new ones, which are shown for ten minutes.

use super::feature::Feature;
use crate::accounts::recovery_code::SET_SIZE;
use crate::accounts::{Client, Event, Session, event, recovery_code};
use crate::base::{Env, Rate, Result};
use crate::db::Connection;
use crate::db::rate_limit::{self, Key};
use crate::web::{
    Access, AccountGroup, AccountRow, App, Empty, Flash, Form, Page, Redirect, Routes, RowState, ShownCodes, Template,
    factors, files, once, redirect,
};
use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt;
use serde::Serialize;
use std::time::Duration;

const PATH: &str = "/account/recovery-codes";
const SAVED_PATH: &str = "/account/recovery-codes/saved";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, show).post(PATH, Access::Recent, create).once().post(
        SAVED_PATH,
        Access::User,
        hide,
    );
    Ok(Feature {
        routes,
        events: &[MADE],
        flashes: &[READY, SAVED],
        account_row: Some(ROW),
        recovery_codes_path: Some(PATH),
        ..Feature::named("recovery_codes")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::SigningIn, 4, "Recovery codes", PATH, |db, context| {
    async move {
        Ok(match recovery_code::count(db, &context.session.user.id).await? {
            0 => RowState::new("None", "Make"),
            left => RowState::new(format!("{left} of {SET_SIZE} left"), "Manage"),
        })
    }
    .boxed()
});

pub const MADE: Event = Event::named("recovery_codes_made", "New recovery codes made")
    .with_notice("New recovery codes were made", "Earlier codes no longer work.");

const READY: Flash =
    Flash { name: "recovery_codes_made", words: "Your recovery codes are ready. Any earlier codes no longer work." };
const SAVED: Flash =
    Flash { name: "recovery_codes_saved", words: "Keep your recovery codes safe: we cannot show them again." };

/// How often a user may make new ones, so that nobody floods the recent activity.
const MADE_PER_USER: Rate = Rate { times: 10, per: Duration::from_secs(60 * 60) };

#[derive(Serialize)]
struct CodesPage {
    left: i64,
    once: String,
}

impl Template for CodesPage {
    const FILE: &'static str = files::RECOVERY_CODES_SHOW;
}

#[derive(Serialize)]
struct NewCodesPage {
    shown: ShownCodes,
}

impl Template for NewCodesPage {
    const FILE: &'static str = files::RECOVERY_CODES_NEW;
}

async fn show(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    let read = async |db: &mut Connection| {
        let left = recovery_code::count(db, &session.user.id).await?;
        Ok((left, ShownCodes::of_session(&app, db, &session).await?))
    };
    match app.db.read(read).await? {
        (_, Some(shown)) => page.render(&NewCodesPage { shown }).await,
        (left, None) => page.render(&CodesPage { left, once: once::value()? }).await,
    }
}

async fn create(State(app): State<App>, session: Session, client: Client, _: Form<Empty>) -> Result<Redirect> {
    let user_id = &*session.user.id;
    let replaced = app.db.write(async |db| {
        factors::lock_confirmed(&app, db, &session).await?;
        rate_limit::take(db, &Key::new("recovery_codes", user_id), MADE_PER_USER).await?;
        event::record(db, user_id, MADE.by(&client)).await?;
        recovery_code::replace_and_show(db, &app.seals, &session).await
    });
    replaced.await?;
    Ok(redirect(PATH).flash(READY))
}

async fn hide(State(app): State<App>, session: Session, _: Form<Empty>) -> Result<Redirect> {
    app.db.write(async |db| recovery_code::hide(db, &session).await).await?;
    Ok(redirect(app.features.account_path.unwrap_or("/")).flash(SAVED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Username;
    use crate::test::{Answer, TestApp, Visitor, check};
    use axum::http::Method;
    use std::collections::BTreeSet;

    /// Makes new codes and reads them off the page.
    async fn make(visitor: &Visitor) -> BTreeSet<String> {
        visitor.post(PATH, &[]).await.assert_redirect(PATH);
        shown(&visitor.get(PATH).await)
    }

    fn shown(page: &Answer) -> BTreeSet<String> {
        let page = page.assert_status(200).text();
        let codes = page.split("<code class=\"recovery-code\">").skip(1);
        codes.map(|rest| rest.split('<').next().unwrap().to_string()).collect()
    }

    async fn works(app: &TestApp, name: &str, code: &str) -> bool {
        let username = Username::parse(name).unwrap();
        app.app.db.write(async |db| recovery_code::use_by_name(db, &username, code).await).await.unwrap().is_some()
    }

    #[test]
    fn its_pages_render() {
        check(&[0, 1, 10].map(|left| CodesPage { left, once: "value".into() }));
        let codes = vec!["aaaq-eaye".into(), "auda-ocaj".into()];
        let shown = ShownCodes { codes, made: "1 May 2026".into(), address: "localhost:8000".into() };
        check(&[NewCodesPage { shown }]);
    }

    #[tokio::test]
    async fn ten_codes_are_made_and_counted_down() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_status(200).assert_contains("You have no recovery codes.");
        let codes = make(&ada).await;
        assert_eq!(codes.len(), 10);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_codes_made'").await, 1);
        ada.post(SAVED_PATH, &[]).await.assert_redirect("/account");
        for (left, code) in codes.iter().enumerate().rev() {
            assert!(code.len() == 32 && works(&app, "ada", code).await, "{code}");
            let words = match left {
                0 => "You have no recovery codes.".to_string(),
                1 => "<strong>1</strong> code left. Making new ones cancels it.".into(),
                _ => format!("<strong>{left}</strong> codes left. Making new ones cancels these."),
            };
            ada.get(PATH).await.assert_contains(&words).assert_lacks(code);
        }
        app.end_repeats().await;
        assert_eq!(make(&ada).await.len(), 10);
    }

    #[tokio::test]
    async fn new_codes_can_be_looked_at_again_for_ten_minutes_and_never_change_by_that() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.post(PATH, &[]).await.assert_redirect(PATH);
        let page = ada.get(PATH).await;
        page.assert_contains(READY.words).assert_contains("I have saved them");
        page.assert_contains("at Latchkey (localhost:8000), made on ");
        let codes = shown(&page);
        app.execute("update shown_codes set created_at = created_at - 590").await;
        // The log-in is not a recent one any more.
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for _ in 0..2 {
            assert_eq!(shown(&ada.get(PATH).await), codes);
        }
        app.execute("update shown_codes set created_at = created_at - 10").await;
        let gone = ada.get(PATH).await;
        gone.assert_contains("<strong>10</strong> codes left.").assert_lacks(codes.first().unwrap());
    }

    #[tokio::test]
    async fn new_codes_are_for_the_session_that_made_them_and_for_nobody_after_it() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let elsewhere = app.browser_of("ada").await;
        let codes = make(&ada).await;
        for other in [&elsewhere, &eve] {
            other.get(PATH).await.assert_status(200).assert_lacks("recovery-code\"");
            other.post(SAVED_PATH, &[]).await.assert_redirect("/account");
        }
        assert_eq!(shown(&ada.get(PATH).await), codes);
        assert_eq!(app.count("select count(*) from shown_codes").await, 1);
        // New ones of another session take their place.
        let newer = make(&elsewhere).await;
        ada.get(PATH).await.assert_lacks("recovery-code\"");
        app.execute("delete from sessions").await;
        assert_eq!(app.count("select count(*) from shown_codes").await, 0);
        app.browser_of("ada").await.get(PATH).await.assert_lacks(newer.first().unwrap());
    }

    #[tokio::test]
    async fn new_codes_are_shown_until_they_are_saved_and_go_on_working() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let codes = make(&ada).await;
        ada.post(SAVED_PATH, &[]).await.assert_redirect("/account");
        ada.get(PATH).await.assert_contains(SAVED.words).assert_lacks(codes.first().unwrap());
        assert_eq!(app.count("select count(*) from shown_codes").await, 0);
        assert!(works(&app, "ada", codes.first().unwrap()).await);
        app.visitor().post(SAVED_PATH, &[]).await.assert_redirect("/login?next=%2F");
    }

    #[tokio::test]
    async fn new_codes_replace_the_users_old_ones_and_nobody_elses() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (adas, eves) = (make(&ada).await, make(&eve).await);
        ada.post(PATH, &[("user_id", "eve"), ("username", "eve")]).await.assert_redirect(PATH);
        assert!(!works(&app, "ada", adas.first().unwrap()).await);
        assert!(!works(&app, "ada", eves.first().unwrap()).await);
        assert!(works(&app, "eve", eves.first().unwrap()).await);
    }

    #[tokio::test]
    async fn the_eleventh_set_in_an_hour_is_refused_and_the_tenth_still_works() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut codes = BTreeSet::new();
        for _ in 0..10 {
            codes = make(&ada).await;
            app.end_repeats().await;
        }
        ada.post(PATH, &[]).await.assert_status(429).assert_contains("in 6 minutes");
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_codes_made'").await, 10);
        assert!(works(&app, "ada", codes.first().unwrap()).await);
        let eve = app.person("eve").await;
        assert_eq!(make(&eve).await.len(), 10);
    }

    #[tokio::test]
    async fn visitors_and_old_log_ins_make_no_codes_and_viewing_the_page_makes_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.send(Method::HEAD, PATH, &[], "").await.assert_status(200);
        app.visitor().post(PATH, &[]).await.assert_redirect("/login?next=%2F");
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(PATH).await.assert_status(200);
        ada.post(PATH, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
    }

    #[tokio::test]
    async fn a_session_that_has_ended_in_the_meantime_makes_no_codes() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let thief = app.browser_of("ada").await;
        let answer = app.ended_meanwhile("ada", thief.post(PATH, &[])).await;
        answer.assert_status(404).assert_lacks("recovery-code\"");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
        ada.assert_is("nobody").await;
    }

    #[tokio::test]
    async fn the_account_page_says_how_many_are_left() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Recovery codes · None · Make\n");
        make(&ada).await;
        app.execute("delete from recovery_codes where code_hash in (select code_hash from recovery_codes limit 3)")
            .await;
        ada.get("/test/account").await.assert_contains("Recovery codes · 7 of 10 left · Manage\n");
        bob.get("/test/account").await.assert_contains("Recovery codes · None · Make\n");
    }
}
