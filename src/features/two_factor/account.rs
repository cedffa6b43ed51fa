//! Sets an authenticator app up, and turns it off again.

use super::code::{self, CodeForm, Refusal, TypedCode};
use super::qr::Qr;
use crate::accounts::session::lifecycle;
use crate::accounts::{AuthLevel, Event, Session, event, recovery_code};
use crate::base::{FieldErrors, Result};
use crate::db::Connection;
use crate::web::factors::lock_confirmed;
use crate::web::format::url_encode;
use crate::web::{App, Empty, FactorCounts, Flash, Form, Login, Page, Redirect, ShownCodes, Template, files, redirect};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE32_NOPAD;
use serde::Serialize;

pub const PATH: &str = "/account/two-factor";
pub const CONFIRM: &str = "/account/two-factor/confirm";

pub const TWO_FACTOR_ON: Event = Event::named("two_factor_on", "Two-factor log-in turned on").with_notice(
    "Two-factor log-in was turned on",
    "Logging in now also takes a code from an authenticator app. All other devices were logged out.",
);
pub const TWO_FACTOR_OFF: Event = Event::named("two_factor_off", "Two-factor log-in turned off").with_notice(
    "Two-factor log-in was turned off",
    "Logging in no longer takes a code from an authenticator app. All other devices were logged out.",
);

pub const TURNED_ON: Flash =
    Flash { name: "two_factor_on", words: "Two-factor log-in is on. You are logged out on all other devices." };
pub const TURNED_OFF: Flash =
    Flash { name: "two_factor_off", words: "Two-factor log-in is off. You are logged out on all other devices." };

#[derive(Serialize)]
struct AccountPage {
    on: Option<On>,
    factors: FactorCounts,
    /// New recovery codes, if the site has no other page for them.
    shown: Option<ShownCodes>,
}

#[derive(Serialize)]
struct On {
    since: i64,
    codes_left: i64,
}

impl Template for AccountPage {
    const FILE: &'static str = files::TWO_FACTOR_SHOW;
}

#[derive(Serialize)]
struct SetUpPage {
    qr: Qr,
    uri: String,
    key: String,
    errors: FieldErrors,
}

impl SetUpPage {
    fn new(app: &App, session: &Session, secret: &[u8], errors: FieldErrors) -> Result<SetUpPage> {
        let key = BASE32_NOPAD.encode(secret);
        // A colon would end the site's name in the label, so a ratio sign stands for it, which looks the same.
        let (site, name) = (url_encode(&app.config.site_name.replace(':', "\u{2236}")), &session.user.username);
        let uri = format!("otpauth://totp/{site}:{name}?secret={key}&issuer={site}");
        // In groups of four, which people copy most easily.
        let key: Vec<_> = key.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
        Ok(SetUpPage { qr: Qr::of(&uri)?, uri, key: key.join(" "), errors })
    }
}

impl Template for SetUpPage {
    const FILE: &'static str = files::TWO_FACTOR_SET_UP;
}

#[derive(Serialize)]
struct OffPage {
    errors: FieldErrors,
}

impl Template for OffPage {
    const FILE: &'static str = files::TWO_FACTOR_OFF;
}

pub async fn show(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    let read = async |db: &mut Connection| {
        let user_id = &*session.user.id;
        let codes_left = recovery_code::count(db, user_id).await?;
        let on = code::on_since(db, user_id).await?.map(|since| On { since, codes_left });
        let shown = match app.features.recovery_codes_path {
            Some(_) => None,
            None => ShownCodes::of_session(&app, db, &session).await?,
        };
        Ok(AccountPage { on, factors: FactorCounts::of_user(&app, db, user_id).await?, shown })
    };
    page.render(&app.db.read(read).await?).await
}

pub async fn start(State(app): State<App>, session: Session, _: Form<Empty>) -> Result<Redirect> {
    let started = app.db.write(async |db| {
        lock_confirmed(&app, db, &session).await?;
        code::start_set_up(db, &app, &session).await
    });
    Ok(redirect(if started.await? { CONFIRM } else { PATH }))
}

/// A set-up that this session has begun a moment ago. No other session may see its secret, which a log-in of long ago could
/// not have made.
pub async fn show_set_up(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    match app.db.read(async |db| code::shown_secret(db, &app, &session).await).await? {
        Some(secret) => page.render(&SetUpPage::new(&app, &session, &secret, FieldErrors::default())?).await,
        None => Ok(redirect(PATH).into_response()),
    }
}

/// What a code does to a set-up. A wrong one is no error, because it was counted.
enum SetUp {
    Finished(Redirect),
    /// The secret, to be shown again, and the sentence beside the field.
    Mistake(Vec<u8>, &'static str),
    NotStarted,
}

pub async fn confirm(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    match app.db.write(async |db| turn_on(db, &app, &session, &login, &form.code).await).await? {
        SetUp::Finished(redirect) => Ok(redirect.into_response()),
        SetUp::Mistake(secret, sentence) => {
            let errors = FieldErrors::of("code", sentence);
            page.render_errors(&SetUpPage::new(&app, &session, &secret, errors)?).await
        }
        SetUp::NotStarted => Ok(redirect(PATH).into_response()),
    }
}

async fn turn_on(db: &mut Connection, app: &App, session: &Session, login: &Login, code: &str) -> Result<SetUp> {
    let user_id = &*session.user.id;
    lock_confirmed(app, db, session).await?;
    let Some(secret) = code::shown_secret(db, app, session).await? else {
        return Ok(SetUp::NotStarted);
    };
    let code = match TypedCode::parse(code) {
        Ok(code) => code,
        Err(sentence) => return Ok(SetUp::Mistake(secret, sentence)),
    };
    if !code::confirm(db, app, user_id, &secret, &code).await? {
        return Ok(SetUp::Mistake(secret, Refusal::Wrong.sentence()));
    }
    event::record(db, user_id, TWO_FACTOR_ON.by(&login.client).at(session.level)).await?;
    recovery_code::replace_and_show(db, &app.seals, session).await?;
    let cookie = login.credentials_changed(db, session, AuthLevel::TwoFactors).await?;
    let path = app.features.recovery_codes_path.unwrap_or(PATH);
    Ok(SetUp::Finished(redirect(path).cookie(cookie).flash(TURNED_ON)))
}

pub async fn ask_to_turn_off(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    if !app.db.read(async |db| code::is_on(db, &session.user.id).await).await? {
        return Ok(redirect(PATH).into_response());
    }
    page.render(&OffPage { errors: FieldErrors::default() }).await
}

pub async fn turn_off(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    match app.db.write(async |db| remove(db, &app, &session, &login, &form.code).await).await? {
        Ok(redirect) => Ok(redirect.into_response()),
        Err(errors) => page.render_errors(&OffPage { errors }).await,
    }
}

/// A mistake is no error of the transaction, because a wrong code was counted.
async fn remove(
    db: &mut Connection,
    app: &App,
    session: &Session,
    login: &Login,
    code: &str,
) -> Result<Result<Redirect, FieldErrors>> {
    let user_id = &*session.user.id;
    lifecycle::lock(db, session).await?;
    if !code::is_on(db, user_id).await? {
        return Ok(Ok(redirect(PATH)));
    }
    let code = match TypedCode::parse(code) {
        Ok(code) => code,
        Err(sentence) => return Ok(Err(FieldErrors::of("code", sentence))),
    };
    if let Err(refusal) = code::verify(db, app, &login.client, user_id, &code).await? {
        return Ok(Err(refusal.in_field("code")));
    }
    code::remove(db, user_id).await?;
    event::record(db, user_id, TWO_FACTOR_OFF.by(&login.client).at(AuthLevel::TwoFactors)).await?;
    let cookie = login.credentials_changed(db, session, AuthLevel::TwoFactors).await?;
    Ok(Ok(redirect(PATH).cookie(cookie).flash(TURNED_OFF)))
}

#[cfg(test)]
mod tests {
    use super::super::phone::{self, Phone, between, later, send, start_log_in, turn_on, turn_on_and_off};
    use super::*;
    use crate::features::Feature;
    use crate::test::{Answer, TestApp, Visitor, check};
    use crate::web::Routes;
    use std::collections::BTreeMap;

    const START: &str = "/account/two-factor/start";
    const OFF: &str = "/account/two-factor/off";

    const CONFIRMED: &str = "select count(*) from totp where confirmed_at is not null";

    async fn start_set_up(visitor: &Visitor) -> (Answer, Phone) {
        let page = phone::start(visitor).await;
        let phone = Phone::scan(page.assert_status(200));
        (page, phone)
    }

    fn key_on(page: &Answer) -> String {
        between(&page.text(), "<code id=\"totp-key\">", "</code>")
    }

    #[test]
    fn its_pages_render() {
        let page = |codes_left: Option<i64>, passwords, is_new: bool| {
            let codes = vec!["aaaq-eaye".into(), "auda-ocaj".into()];
            let shown = ShownCodes { codes, made: "1 May 2026".into(), address: "localhost:8000".into() };
            let on = codes_left.map(|codes_left| On { since: 1_777_629_600, codes_left });
            let factors = FactorCounts(BTreeMap::from([("password", passwords)]));
            AccountPage { on, factors, shown: is_new.then_some(shown) }
        };
        check(&[page(None, 0, false), page(None, 1, false), page(Some(0), 0, false), page(Some(1), 1, true)]);
        check(&[OffPage { errors: FieldErrors::default() }, OffPage { errors: Refusal::Used.in_field("code") }]);
        let set_up = |errors| SetUpPage {
            qr: Qr::of("otpauth://totp/a:b").unwrap(),
            uri: "otpauth://totp/a:b".into(),
            key: "ABCD EFGH".into(),
            errors,
        };
        check(&[set_up(FieldErrors::default()), set_up(Refusal::Wrong.in_field("code"))]);
    }

    #[tokio::test]
    async fn an_app_is_set_up_by_its_first_code_and_ten_recovery_codes_come_with_it() {
        let app = TestApp::new().await;
        let (ada, other) = (app.person("ada").await, app.browser_of("ada").await);
        ada.get(PATH).await.assert_status(200).assert_contains("Set up two-factor log-in");
        let (page, phone) = start_set_up(&ada).await;
        let key = key_on(&page);
        assert_eq!((key.len(), key.split(' ').count()), (39, 8));
        let uri = format!("otpauth://totp/Latchkey:ada?secret={}&amp;issuer=Latchkey", key.replace(' ', ""));
        page.assert_contains(&format!("href=\"{uri}\""));

        let wrong = send(&ada, CONFIRM, &phone.wrong()).await;
        wrong.assert_status(422).assert_contains(&key).assert_contains("This code is wrong");
        assert_eq!(app.count(CONFIRMED).await, 0);
        app.execute("update sessions set factors = 1").await;
        let before = ada.copy();
        let answer = send(&ada, CONFIRM, &phone.code()).await;
        answer.assert_status(303).assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        let codes = ada.get(answer.header("location")).await;
        codes.assert_status(200).assert_contains(TURNED_ON.words);
        assert_eq!(codes.text().matches("<code class=\"recovery-code\">").count(), 10);
        let file = between(&codes.text(), "href=\"data:text/plain;charset=utf-8,", "\"");
        assert_eq!(file.matches("%0A").count(), 4 + 10, "{file}");

        ada.assert_is("ada").await;
        for ended in [before, other] {
            ended.assert_is("nobody").await;
        }
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'two_factor_on' and factors = 1").await, 1);
        ada.get(PATH).await.assert_contains("<strong>10</strong> codes left.").assert_lacks(&key);
        ada.get(CONFIRM).await.assert_redirect(PATH);
    }

    #[tokio::test]
    async fn whatever_the_site_is_called_an_app_reads_its_name_and_the_users_from_the_label() {
        for (name, shown) in [
            ("Acme: Notes", "Acme∶ Notes"),
            ("a:b:c", "a∶b∶c"),
            (":", "∶"),
            ("10:30 & 50%3A + Käse?", "10∶30 & 50%3A + Käse?"),
        ] {
            let app = TestApp::with_env(&[("SITE_NAME", name)], Routes::new()).await;
            let (page, _) = start_set_up(&app.person("ada").await).await;
            let uri = between(&page.text(), "href=\"otpauth://", "\"").replace("&amp;", "&");
            let uri = url::Url::parse(&format!("otpauth://{uri}")).unwrap();
            let label = percent_encoding::percent_decode_str(uri.path()).decode_utf8().unwrap();
            assert_eq!(label.split(':').collect::<Vec<_>>(), [&format!("/{shown}"), "ada"], "{label}");
            let issuer = uri.query_pairs().find(|(name, _)| name == "issuer").unwrap().1;
            assert_eq!(issuer, shown);
        }
    }

    #[tokio::test]
    async fn a_set_up_that_is_started_again_has_the_same_key_for_ten_minutes() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (first, old) = start_set_up(&ada).await;
        let (again, _) = start_set_up(&ada).await;
        assert_eq!(first.text(), again.text());
        assert_eq!(first.text(), ada.get(CONFIRM).await.text());
        ada.get(PATH).await.assert_contains("Set up two-factor log-in");
        // A code that is wrong, or none, or nine minutes change nothing.
        send(&ada, CONFIRM, &old.wrong()).await.assert_status(422);
        send(&ada, CONFIRM, "").await.assert_status(422);
        app.execute("update totp set created_at = created_at - 540").await;
        assert_eq!(first.text(), start_set_up(&ada).await.0.text());
        // Ten minutes later.
        app.execute("update totp set created_at = created_at - 60").await;
        ada.get(CONFIRM).await.assert_redirect(PATH);
        let (_, new) = start_set_up(&ada).await;
        send(&ada, CONFIRM, &old.code()).await.assert_status(422);
        start_set_up(&ada).await;
        send(&ada, CONFIRM, &new.code()).await.assert_status(303);
    }

    #[tokio::test]
    async fn what_cannot_be_a_code_shows_the_same_key_again_and_counts_nowhere() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, phone) = start_set_up(&ada).await;
        for mistyped in ["", "12345", "1234567", "12345a", "123.456", "½23456"].repeat(3) {
            send(&ada, CONFIRM, mistyped).await.assert_status(422).assert_contains("Enter the six digits");
        }
        assert_eq!(app.count("select count(*) from limits where count > 0").await, 0);
        send(&ada, CONFIRM, &phone.code()).await.assert_status(303);
    }

    #[tokio::test]
    async fn starting_again_while_it_is_on_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, _) = turn_on(&ada).await;
        ada.post(START, &[]).await.assert_redirect(PATH);
        later(&app).await;
        app.end_repeats().await;
        send(&ada, CONFIRM, &phone.code()).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
        send(&start_log_in(&app, "ada").await, "/login/two-factor", &phone.code()).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn what_one_user_has_started_is_not_finished_by_another() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (page, phone) = start_set_up(&ada).await;
        eve.get(CONFIRM).await.assert_redirect(PATH);
        send(&eve, CONFIRM, &phone.code()).await.assert_redirect(PATH);
        let (_, eves) = start_set_up(&eve).await;
        app.end_repeats().await;
        send(&eve, CONFIRM, &phone.code()).await.assert_status(422);
        send(&ada, CONFIRM, &eves.code()).await.assert_status(422);
        assert_eq!(app.count(CONFIRMED).await, 0);
        eve.get(CONFIRM).await.assert_lacks(&key_on(&page));
    }

    #[tokio::test]
    async fn a_key_is_for_the_session_that_began_the_set_up_and_a_log_in_of_long_ago_begins_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let thief = app.browser_of("ada").await;
        let (page, phone) = start_set_up(&ada).await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        ada.get(CONFIRM).await.assert_status(200).assert_contains(&key_on(&page));
        thief.get(CONFIRM).await.assert_redirect(PATH);
        for browser in [&ada, &thief] {
            browser.get(PATH).await.assert_status(200);
            browser.post(START, &[]).await.assert_redirect("/confirm?next=%2Faccount");
            send(browser, CONFIRM, &phone.code()).await.assert_redirect("/confirm?next=%2Faccount");
        }
        thief.get(CONFIRM).await.assert_redirect(PATH);
        // Also a thief who has just authenticated gets a key of their own, and by that ends the set-up of the owner.
        app.execute("update sessions set confirmed_at = confirmed_at + 600").await;
        for code in [phone.code(), phone.wrong()] {
            send(&thief, CONFIRM, &code).await.assert_redirect(PATH);
        }
        let (other_page, other_phone) = start_set_up(&thief).await;
        assert_ne!(key_on(&other_page), key_on(&page));
        ada.get(CONFIRM).await.assert_redirect(PATH);
        send(&ada, CONFIRM, &other_phone.code()).await.assert_redirect(PATH);
        assert_eq!(app.count(CONFIRMED).await, 0);
        app.visitor().get(CONFIRM).await.assert_status(303).assert_lacks("totp-key");
    }

    #[tokio::test]
    async fn nothing_is_said_about_the_password_of_an_account_that_has_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.remove_password("ada").await;
        ada.get(PATH).await.assert_status(200).assert_lacks("your password");
        turn_on(&ada).await;
        for path in [PATH, OFF] {
            ada.get(path).await.assert_status(200).assert_lacks("your password");
        }
    }

    #[tokio::test]
    async fn a_site_without_a_page_for_recovery_codes_shows_new_ones_here() {
        let forget = |features: &mut Vec<Feature>| features.iter_mut().for_each(|one| one.recovery_codes_path = None);
        let app = TestApp::with_features(&[], forget).await;
        let ada = app.person("ada").await;
        let elsewhere = app.browser_of("ada").await;
        let (_, codes) = turn_on(&ada).await;
        assert_eq!(codes.len(), 10);
        ada.get(PATH).await.assert_contains(&codes[0]).assert_contains("Turned on");
        elsewhere.get(PATH).await.assert_lacks(&codes[0]);
    }

    #[tokio::test]
    async fn wrong_codes_while_setting_up_are_limited_and_lock_nothing_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, phone) = start_set_up(&ada).await;
        for _ in 0..10 {
            send(&ada, CONFIRM, &phone.wrong()).await.assert_status(422);
        }
        send(&ada, CONFIRM, &phone.code()).await.assert_status(429).assert_retry_after(900);
        app.execute("update limits set free_at = free_at - 900000").await;
        send(&ada, CONFIRM, &phone.code()).await.assert_status(303);
        later(&app).await;
        send(&ada, OFF, &phone.code()).await.assert_redirect(PATH);
    }

    #[tokio::test]
    async fn a_new_set_up_does_not_forgive_wrong_codes() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, _) = turn_on(&ada).await;
        for _ in 0..10 {
            send(&ada, OFF, &phone.wrong()).await.assert_status(422);
        }
        app.execute("delete from totp").await;
        let (_, codes) = turn_on(&ada).await;
        send(&ada, OFF, &codes[0]).await.assert_status(429);
    }

    #[tokio::test]
    async fn it_is_turned_on_and_off_no_more_than_ten_times_at_once() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..10 {
            turn_on_and_off(&ada).await;
        }
        let events = app.count("select count(*) from events").await;
        let (_, phone) = start_set_up(&ada).await;
        send(&ada, CONFIRM, &phone.code()).await.assert_status(429).assert_contains("in 6 minutes");
        assert_eq!((app.count(CONFIRMED).await, app.count("select count(*) from events").await), (0, events));
    }

    #[tokio::test]
    async fn turning_it_off_takes_a_code_and_logs_out_everywhere_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, codes) = turn_on(&ada).await;
        let (other, pending) = (app.browser_of("ada").await, start_log_in(&app, "ada").await);
        send(&ada, OFF, "").await.assert_status(422).assert_contains("Enter the six digits");
        ada.get(OFF).await.assert_status(200).assert_contains("Turn off two-factor log-in?");
        for (refused, sentence) in [(&phone.wrong(), "This code is wrong"), (&phone.code(), "Wait for the next code.")]
        {
            let answer = send(&ada, OFF, refused).await;
            answer.assert_status(422).assert_contains(sentence).assert_no_header("set-cookie");
        }
        assert_eq!(app.count("select count(*) from events where kind = 'wrong_code'").await, 2);
        assert_eq!(app.count(CONFIRMED).await, 1);
        let before = ada.copy();
        let answer = send(&ada, OFF, &codes[0]).await;
        answer.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains(TURNED_OFF.words).assert_contains("Set up two-factor log-in");
        ada.get(OFF).await.assert_redirect(PATH);
        for ended in [before, other] {
            ended.assert_is("nobody").await;
        }
        pending.get("/login/two-factor").await.assert_redirect("/login");
        assert_eq!(app.count("select count(*) from totp").await, 0);
        assert_eq!(app.count("select count(*) from events where kind = 'two_factor_off' and factors = 2").await, 1);
        // Turning off what is off uses nothing up.
        send(&ada, OFF, &codes[1]).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn wrong_codes_count_together_wherever_they_are_sent() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, codes) = turn_on(&ada).await;
        for _ in 0..3 {
            send(&start_log_in(&app, "ada").await, "/login/two-factor", &phone.wrong()).await.assert_status(422);
        }
        for _ in 0..7 {
            send(&ada, OFF, &phone.wrong()).await.assert_status(422);
        }
        for code in [&codes[0], &phone.wrong()] {
            send(&ada, OFF, code).await.assert_status(429);
            send(&start_log_in(&app, "ada").await, "/login/two-factor", code).await.assert_status(429);
        }
        assert_eq!(app.count(CONFIRMED).await, 1);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_sets_nothing_up_and_turns_nothing_off() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let answer = app.ended_meanwhile("ada", ada.post(START, &[])).await;
        answer.assert_status(404).assert_lacks("totp-key");
        assert_eq!(app.count("select count(*) from totp").await, 0);

        let ada = app.browser_of("ada").await;
        let (_, phone) = start_set_up(&ada).await;
        let code = phone.code();
        app.ended_meanwhile("ada", send(&ada, CONFIRM, &code)).await.assert_status(404);
        assert_eq!(app.count(CONFIRMED).await, 0);
        let ada = app.browser_of("ada").await;
        app.ended_meanwhile("ada", send(&ada, CONFIRM, "")).await.assert_status(404);

        let ada = app.browser_of("ada").await;
        let (_, codes) = turn_on(&ada).await;
        app.ended_meanwhile("ada", send(&ada, OFF, &codes[0])).await.assert_status(404);
        assert_eq!(app.count(CONFIRMED).await, 1);
    }
}
