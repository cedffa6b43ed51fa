//! Sets an authenticator app up, and turns it off again.

use super::code::{self, CodeForm, TypedCode, wrong_code};
use super::qr::Qr;
use crate::accounts::session::lifecycle;
use crate::accounts::{AuthLevel, Event, Session, User, event, recovery_code};
use crate::base::{FieldErrors, Result};
use crate::db::Connection;
use crate::web::factors::lock_confirmed;
use crate::web::format::{date, url_encode};
use crate::web::{App, Empty, Flash, Form, Login, Page, Redirect, Template, files, redirect};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use data_encoding::BASE32_NOPAD;
use serde::Serialize;

pub const PATH: &str = "/account/two-factor";

pub const TWO_FACTOR_ON: Event = Event::named("two_factor_on", "Two-factor turned on").with_notice(
    "Two-factor was turned on",
    "From now on a log-in with the password asks for a code too. Everybody else who was logged in was logged out.",
);
pub const TWO_FACTOR_OFF: Event = Event::named("two_factor_off", "Two-factor turned off").with_notice(
    "Two-factor was turned off",
    "From now on the password alone opens your account. Everybody else who was logged in was logged out.",
);

pub const TURNED_OFF: Flash = Flash { name: "two_factor_off", words: "Two-factor log-in is off." };

#[derive(Serialize)]
struct AccountPage {
    on: Option<On>,
    errors: FieldErrors,
}

#[derive(Serialize)]
struct On {
    since: String,
    codes_left: i64,
}

impl AccountPage {
    async fn new(app: &App, user: &User, errors: FieldErrors) -> Result<AccountPage> {
        let on = app.db.read(async |db| {
            let Some(since) = code::on_since(db, &user.id).await? else { return Ok(None) };
            Ok(Some(On { since: date(since), codes_left: recovery_code::count(db, &user.id).await? }))
        });
        Ok(AccountPage { on: on.await?, errors })
    }
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
    fn new(app: &App, user: &User, secret: &[u8], errors: FieldErrors) -> Result<SetUpPage> {
        let key = BASE32_NOPAD.encode(secret);
        // A colon would end the site's name in the label, so a ratio sign stands for it, which looks the same.
        let (site, name) = (url_encode(&app.config.site_name.replace(':', "\u{2236}")), &user.username);
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
struct CodesPage {
    codes: Vec<String>,
}

impl Template for CodesPage {
    const FILE: &'static str = files::TWO_FACTOR_CODES;
}

pub async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.render(&AccountPage::new(&app, &user, FieldErrors::default()).await?).await
}

pub async fn start(State(app): State<App>, session: Session, page: Page, _: Form<Empty>) -> Result<Response> {
    let started = app.db.write(async |db| {
        lock_confirmed(&app, db, &session).await?;
        code::start_set_up(db, &app, &session.user.id).await
    });
    let Some(secret) = started.await? else {
        return Ok(redirect(PATH).into_response());
    };
    page.render(&SetUpPage::new(&app, &session.user, &secret, FieldErrors::default())?).await
}

/// What a code does to a set-up. A wrong one is no error, because it was counted.
enum SetUp {
    Finished(CookieJar, Vec<String>),
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
        SetUp::Finished(cookies, codes) => Ok((cookies, page.render(&CodesPage { codes }).await?).into_response()),
        SetUp::Mistake(secret, sentence) => {
            let errors = FieldErrors::of("code", sentence);
            page.render_errors(&SetUpPage::new(&app, &session.user, &secret, errors)?).await
        }
        SetUp::NotStarted => Ok(redirect(PATH).into_response()),
    }
}

async fn turn_on(db: &mut Connection, app: &App, session: &Session, login: &Login, code: &str) -> Result<SetUp> {
    let user_id = &*session.user.id;
    lock_confirmed(app, db, session).await?;
    let Some(secret) = code::unconfirmed_secret(db, app, user_id).await? else {
        return Ok(SetUp::NotStarted);
    };
    let code = match TypedCode::parse(code) {
        Ok(code) => code,
        Err(sentence) => return Ok(SetUp::Mistake(secret, sentence)),
    };
    if !code::confirm(db, app, user_id, &secret, &code).await? {
        return Ok(SetUp::Mistake(secret, code::REFUSAL));
    }
    event::record(db, user_id, TWO_FACTOR_ON.by(&login.client).at(session.level)).await?;
    let codes = recovery_code::replace(db, user_id).await?;
    let cookie = login.credentials_changed(db, session, AuthLevel::TwoFactors).await?;
    Ok(SetUp::Finished(CookieJar::new().add(cookie), codes))
}

pub async fn turn_off(
    State(app): State<App>,
    session: Session,
    login: Login,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    let errors = match TypedCode::parse(&form.code) {
        Ok(code) => match app.db.write(async |db| remove(db, &app, &session, &login, &code).await).await? {
            Some(redirect) => return Ok(redirect.into_response()),
            None => wrong_code("code"),
        },
        Err(sentence) => FieldErrors::of("code", sentence),
    };
    page.render_errors(&AccountPage::new(&app, &session.user, errors).await?).await
}

/// `None` for a wrong code, which is no error, because it was counted.
async fn remove(
    db: &mut Connection,
    app: &App,
    session: &Session,
    login: &Login,
    code: &TypedCode,
) -> Result<Option<Redirect>> {
    let (user_id, redirect) = (&*session.user.id, redirect(PATH).flash(TURNED_OFF));
    lifecycle::lock(db, session).await?;
    if !code::is_on(db, user_id).await? {
        return Ok(Some(redirect));
    }
    if !code::verify(db, app, &login.client, user_id, code).await? {
        return Ok(None);
    }
    code::remove(db, user_id).await?;
    event::record(db, user_id, TWO_FACTOR_OFF.by(&login.client).at(AuthLevel::TwoFactors)).await?;
    let cookie = login.credentials_changed(db, session, AuthLevel::TwoFactors).await?;
    Ok(Some(redirect.cookie(cookie)))
}

#[cfg(test)]
mod tests {
    use super::super::phone::{Phone, between, later, send, start_log_in, turn_on, turn_on_and_off};
    use super::*;
    use crate::test::{Answer, TestApp, Visitor, check};
    use crate::web::Routes;

    const START: &str = "/account/two-factor/start";
    const CONFIRM: &str = "/account/two-factor/confirm";
    const OFF: &str = "/account/two-factor/off";

    const CONFIRMED: &str = "select count(*) from totp where confirmed_at is not null";

    async fn start_set_up(visitor: &Visitor) -> (Answer, Phone) {
        let page = visitor.post(START, &[]).await;
        let phone = Phone::scan(page.assert_status(200));
        (page, phone)
    }

    #[test]
    fn its_pages_render() {
        let on = |codes_left| Some(On { since: "1 May 2026".into(), codes_left });
        check(&[
            AccountPage { on: None, errors: FieldErrors::default() },
            AccountPage { on: on(0), errors: FieldErrors::default() },
            AccountPage { on: on(10), errors: wrong_code("code") },
        ]);
        let set_up = |errors| SetUpPage {
            qr: Qr::of("otpauth://totp/a:b").unwrap(),
            uri: "otpauth://totp/a:b".into(),
            key: "ABCD EFGH".into(),
            errors,
        };
        check(&[set_up(FieldErrors::default()), set_up(wrong_code("code"))]);
        check(&[CodesPage { codes: vec!["aaaq-eaye".into(), "auda-ocaj".into()] }]);
    }

    #[tokio::test]
    async fn an_app_is_set_up_by_its_first_code_and_ten_recovery_codes_come_with_it() {
        let app = TestApp::new().await;
        let (ada, other) = (app.person("ada").await, app.browser_of("ada").await);
        ada.get(PATH).await.assert_status(200).assert_contains("Set it up");
        let (page, phone) = start_set_up(&ada).await;
        let key = between(&page.text(), "<code id=\"totp-key\">", "</code>");
        assert_eq!((key.len(), key.split(' ').count()), (39, 8));
        let uri = format!("otpauth://totp/Latchkey:ada?secret={}&amp;issuer=Latchkey", key.replace(' ', ""));
        page.assert_contains(&format!("href=\"{uri}\""));

        let wrong = send(&ada, CONFIRM, &phone.wrong()).await;
        wrong.assert_status(422).assert_contains(&key).assert_contains("This code is wrong");
        assert_eq!(app.count(CONFIRMED).await, 0);
        app.execute("update sessions set factors = 1").await;
        let before = ada.copy();
        let codes = send(&ada, CONFIRM, &phone.code()).await;
        codes.assert_status(200).assert_cookie("session_token=…; HttpOnly; SameSite=Lax; Path=/");
        assert_eq!(codes.text().matches("<code class=\"recovery-code\">").count(), 10);
        let file = between(&codes.text(), "href=\"data:text/plain;charset=utf-8,", "\"");
        assert_eq!(file.matches("%0A").count(), 2 + 10, "{file}");

        ada.assert_is("ada").await;
        for ended in [before, other] {
            ended.assert_is("nobody").await;
        }
        assert_eq!(app.count("select count(*) from sessions where factors = 2").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'two_factor_on' and factors = 1").await, 1);
        ada.get(PATH).await.assert_contains("You have <strong>10</strong> left.").assert_lacks(&key);
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
        let other = app.browser_of("ada").await;
        for browser in [&ada, &ada, &other] {
            let (again, _) = start_set_up(browser).await;
            assert_eq!(first.text(), again.text());
        }
        ada.get(PATH).await.assert_contains("Set it up");
        // A code that is wrong, or none, or nine minutes change nothing.
        send(&ada, CONFIRM, &old.wrong()).await.assert_status(422);
        send(&ada, CONFIRM, "").await.assert_status(422);
        app.execute("update totp set created_at = created_at - 540").await;
        assert_eq!(first.text(), start_set_up(&ada).await.0.text());
        // Ten minutes later.
        app.execute("update totp set created_at = created_at - 60").await;
        let (_, new) = start_set_up(&ada).await;
        send(&ada, CONFIRM, &old.code()).await.assert_status(422);
        start_set_up(&ada).await;
        send(&ada, CONFIRM, &new.code()).await.assert_status(200);
    }

    #[tokio::test]
    async fn what_cannot_be_a_code_shows_the_same_key_again_and_counts_nowhere() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, phone) = start_set_up(&ada).await;
        for mistyped in ["", "12345", "1234567", "12345a", "123.456", "½23456"].repeat(3) {
            send(&ada, CONFIRM, mistyped).await.assert_status(422).assert_contains("This is no code");
        }
        assert_eq!(app.count("select count(*) from limits where count > 0").await, 0);
        send(&ada, CONFIRM, &phone.code()).await.assert_status(200);
    }

    #[tokio::test]
    async fn starting_again_while_it_is_on_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, _) = turn_on(&ada).await;
        ada.post(START, &[]).await.assert_redirect(PATH);
        later(&app).await;
        send(&ada, CONFIRM, &phone.code()).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
        send(&start_log_in(&app, "ada").await, "/login/two-factor", &phone.code()).await.assert_redirect("/private");
    }

    #[tokio::test]
    async fn what_one_user_has_started_is_not_finished_by_another() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (page, phone) = start_set_up(&ada).await;
        send(&eve, CONFIRM, &phone.code()).await.assert_redirect(PATH);
        let (_, eves) = start_set_up(&eve).await;
        send(&eve, CONFIRM, &phone.code()).await.assert_status(422);
        send(&ada, CONFIRM, &eves.code()).await.assert_status(422);
        assert_eq!(app.count(CONFIRMED).await, 0);
        let key = between(&page.text(), "<code id=\"totp-key\">", "</code>");
        eve.get(PATH).await.assert_lacks(&key);
    }

    #[tokio::test]
    async fn wrong_codes_while_setting_up_are_limited_and_lock_nothing_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, phone) = start_set_up(&ada).await;
        for _ in 0..10 {
            send(&ada, CONFIRM, &phone.wrong()).await.assert_status(422);
        }
        send(&ada, CONFIRM, &phone.code()).await.assert_status(429).assert_header("retry-after", "900");
        app.execute("update limits set free_at = free_at - 900000").await;
        send(&ada, CONFIRM, &phone.code()).await.assert_status(200);
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
        send(&ada, OFF, "").await.assert_status(422).assert_contains("This is no code");
        for wrong in [&phone.wrong(), &phone.code()] {
            let answer = send(&ada, OFF, wrong).await;
            answer.assert_status(422).assert_contains("This code is wrong").assert_no_header("set-cookie");
        }
        assert_eq!(app.count(CONFIRMED).await, 1);
        let before = ada.copy();
        let answer = send(&ada, OFF, &codes[0]).await;
        answer.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("Two-factor log-in is off.").assert_contains("Set it up");
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
