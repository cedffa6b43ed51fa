//! Setting an authenticator app up, and turning it off again.

use super::{ACCOUNT, CodeForm, code, mistake};
use crate::access::see_other;
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::error::Result;
use crate::event::{self, Event};
use crate::factor::{self, Proven};
use crate::form::{Errors, Form, NoFields, query_value};
use crate::page::{Flash, Page, Template, date, templates};
use crate::recovery;
use crate::session::{self, Door, Session};
use crate::token::random;
use anyhow::Context;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use qrcode::{Color, QrCode};
use serde::Serialize;
use totp_rs::Secret;

pub const TURNED_OFF: Flash = Flash { name: "two_factor_off", words: "Two-factor log-in is off." };

#[derive(Serialize)]
struct AccountPage {
    on: Option<On>,
    errors: Errors,
}

#[derive(Serialize)]
struct On {
    since: String,
    codes_left: i64,
}

impl Template for AccountPage {
    const FILE: &'static str = templates::TWO_FACTOR_SHOW;
}

#[derive(Serialize)]
struct SetUpPage {
    qr: Qr,
    uri: String,
    key: String,
    errors: Errors,
}

impl Template for SetUpPage {
    const FILE: &'static str = templates::TWO_FACTOR_SET_UP;
}

#[derive(Serialize)]
struct CodesPage {
    codes: Vec<String>,
}

impl Template for CodesPage {
    const FILE: &'static str = templates::TWO_FACTOR_CODES;
}

pub async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.show(&account_page(&app, &user, Errors::default()).await?).await
}

async fn account_page(app: &App, user: &User, errors: Errors) -> Result<AccountPage> {
    let on = app.db.read(async |db| {
        let Some(since) = code::on_since(db, &user.id).await? else { return Ok(None) };
        Ok(Some(On { since: date(since), codes_left: recovery::left(db, &user.id).await? }))
    });
    Ok(AccountPage { on: on.await?, errors })
}

pub async fn start(
    State(app): State<App>,
    session: Session,
    page: Page,
    _: Form<NoFields>,
) -> Result<Response> {
    let secret: [u8; 20] = random()?;
    let begun = app.db.write(async |db| {
        factor::hold(&app, db, &session).await?;
        code::begin(db, &app, &session.user.id, &secret).await
    });
    if !begun.await? {
        return Ok(see_other(ACCOUNT));
    }
    page.show(&set_up_page(&app, &session.user, &secret, Errors::default())?).await
}

fn set_up_page(app: &App, user: &User, secret: &[u8], errors: Errors) -> Result<SetUpPage> {
    let key = Secret::from(secret).to_base32();
    let (site, name) = (query_value(&app.config.site_name), &user.username);
    let uri = format!("otpauth://totp/{site}:{name}?secret={key}&issuer={site}");
    Ok(SetUpPage { qr: Qr::of(&uri)?, uri, key: grouped(&key), errors })
}

/// Four by four, as people copy it.
fn grouped(key: &str) -> String {
    let groups: Vec<_> = key.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
    groups.join(" ")
}

/// What a code makes of a set-up.
enum SetUp {
    Done(CookieJar, Vec<String>),
    /// The secret, to be shown once more.
    GoesOn(Vec<u8>),
    NotBegun,
}

pub async fn confirm(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    match app.db.write(async |db| set_up(db, &app, &session, &door, &form.code).await).await? {
        SetUp::Done(cookies, codes) => Ok((cookies, page.show(&CodesPage { codes }).await?).into_response()),
        SetUp::GoesOn(secret) => {
            page.refuse(&set_up_page(&app, &session.user, &secret, mistake("code"))?).await
        }
        SetUp::NotBegun => Ok(see_other(ACCOUNT)),
    }
}

async fn set_up(db: &mut Connection, app: &App, session: &Session, door: &Door, code: &str) -> Result<SetUp> {
    let user_id = &*session.user.id;
    factor::hold(app, db, session).await?;
    let Some(secret) = code::begun(db, app, user_id).await? else { return Ok(SetUp::NotBegun) };
    if !code::finish(db, app, user_id, &secret, code).await? {
        return Ok(SetUp::GoesOn(secret));
    }
    event::record_proven(db, user_id, Event::TwoFactorOn, session.proven, &door.client).await?;
    let codes = recovery::make(db, user_id).await?;
    let cookies = door.credentials_changed(db, session, Proven::TwoFactors).await?;
    Ok(SetUp::Done(cookies, codes))
}

pub async fn turn_off(
    State(app): State<App>,
    session: Session,
    door: Door,
    page: Page,
    Form(form): Form<CodeForm>,
) -> Result<Response> {
    let off = app.db.write(async |db| end(db, &app, &session, &door, &form.code).await).await?;
    let Some(cookies) = off else {
        return page.refuse(&account_page(&app, &session.user, mistake("code")).await?).await;
    };
    Ok((cookies.add(TURNED_OFF.cookie(&app.config)), see_other(ACCOUNT)).into_response())
}

/// `None` for a wrong code.
async fn end(
    db: &mut Connection,
    app: &App,
    session: &Session,
    door: &Door,
    code: &str,
) -> Result<Option<CookieJar>> {
    let user_id = &*session.user.id;
    session::hold(db, session).await?;
    if !code::is_on(db, user_id).await? {
        return Ok(Some(CookieJar::new()));
    }
    if !code::judge(db, app, &door.client, user_id, code).await? {
        return Ok(None);
    }
    code::remove(db, user_id).await?;
    event::record_proven(db, user_id, Event::TwoFactorOff, Proven::TwoFactors, &door.client).await?;
    Ok(Some(door.credentials_changed(db, session, Proven::TwoFactors).await?))
}

/// A QR code as an SVG draws it: a dash for each run of dark modules, and room around them.
#[derive(Serialize)]
struct Qr {
    view: String,
    path: String,
}

impl Qr {
    fn of(text: &str) -> Result<Qr> {
        let code = QrCode::new(text).context("the address for authenticator apps is too long")?;
        let size = code.width();
        let mut path = String::new();
        for (y, row) in code.to_colors().chunks(size).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(PartialEq::eq) {
                if run[0] == Color::Dark {
                    path += &format!("M{x} {y}h{}", run.len());
                }
                x += run.len();
            }
        }
        Ok(Qr { view: format!("-4 -4.5 {0} {0}", size + 8), path })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Phone, between, half_way, later, send, turn_on};
    use super::*;
    use crate::page::tests::check;
    use crate::test::{Answer, TestApp, Visitor};

    const START: &str = "/account/two-factor/start";
    const CONFIRM: &str = "/account/two-factor/confirm";
    const OFF: &str = "/account/two-factor/off";

    const CONFIRMED: &str = "select count(*) from totp where confirmed_at is not null";

    async fn begin(visitor: &Visitor) -> (Answer, Phone) {
        let page = visitor.post(START, &[]).await;
        let phone = Phone::scan(page.assert_status(200));
        (page, phone)
    }

    #[test]
    fn its_pages_render() {
        let on = |codes_left| Some(On { since: "1 May 2026".into(), codes_left });
        check(&[
            AccountPage { on: None, errors: Errors::default() },
            AccountPage { on: on(0), errors: Errors::default() },
            AccountPage { on: on(10), errors: mistake("code") },
        ]);
        let set_up = |errors| SetUpPage {
            qr: Qr::of("otpauth://totp/a:b").unwrap(),
            uri: "otpauth://totp/a:b".into(),
            key: "ABCD EFGH".into(),
            errors,
        };
        check(&[set_up(Errors::default()), set_up(mistake("code"))]);
        check(&[CodesPage { codes: vec!["aaaq-eaye".into(), "auda-ocaj".into()] }]);
    }

    #[test]
    fn the_picture_has_the_dark_modules_of_the_code_and_no_others() {
        let text = "otpauth://totp/Latchkey:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Latchkey";
        let (qr, code) = (Qr::of(text).unwrap(), QrCode::new(text).unwrap());
        let mut drawn = vec![Color::Light; code.width() * code.width()];
        for dash in qr.path.split('M').skip(1) {
            let numbers: Vec<usize> = dash.split([' ', 'h']).map(|number| number.parse().unwrap()).collect();
            let from = numbers[1] * code.width() + numbers[0];
            drawn[from..from + numbers[2]].fill(Color::Dark);
        }
        assert_eq!(drawn, code.to_colors());
        assert_eq!(qr.view, format!("-4 -4.5 {0} {0}", code.width() + 8));
    }

    #[tokio::test]
    async fn an_app_is_set_up_by_its_first_code_and_ten_recovery_codes_come_with_it() {
        let app = TestApp::new().await;
        let (ada, other) = (app.person("ada").await, app.browser_of("ada").await);
        ada.get(ACCOUNT).await.assert_status(200).assert_contains("Set it up");
        let (page, phone) = begin(&ada).await;
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
        assert_eq!(
            app.count("select count(*) from events where kind = 'two_factor_on' and factors = 1").await,
            1
        );
        ada.get(ACCOUNT).await.assert_contains("You have <strong>10</strong> left.").assert_lacks(&key);
    }

    #[tokio::test]
    async fn a_newer_set_up_replaces_one_that_was_not_finished() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, old) = begin(&ada).await;
        let (_, new) = begin(&ada).await;
        send(&ada, CONFIRM, &old.code()).await.assert_status(422);
        send(&ada, CONFIRM, &new.code()).await.assert_status(200);
    }

    #[tokio::test]
    async fn beginning_once_more_while_it_is_on_changes_nothing() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, _) = turn_on(&ada).await;
        ada.post(START, &[]).await.assert_redirect(ACCOUNT);
        later(&app).await;
        send(&ada, CONFIRM, &phone.code()).await.assert_redirect(ACCOUNT);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 10);
        send(&half_way(&app, "ada").await, "/login/two-factor", &phone.code())
            .await
            .assert_redirect("/private");
    }

    #[tokio::test]
    async fn what_one_has_begun_is_not_finished_by_another() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        let (page, phone) = begin(&ada).await;
        send(&eve, CONFIRM, &phone.code()).await.assert_redirect(ACCOUNT);
        let (_, eves) = begin(&eve).await;
        send(&eve, CONFIRM, &phone.code()).await.assert_status(422);
        send(&ada, CONFIRM, &eves.code()).await.assert_status(422);
        assert_eq!(app.count(CONFIRMED).await, 0);
        let key = between(&page.text(), "<code id=\"totp-key\">", "</code>");
        eve.get(ACCOUNT).await.assert_lacks(&key);
    }

    #[tokio::test]
    async fn slips_while_setting_up_are_limited_and_lock_nothing_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (_, phone) = begin(&ada).await;
        for _ in 0..10 {
            send(&ada, CONFIRM, &phone.wrong()).await.assert_status(422);
        }
        send(&ada, CONFIRM, &phone.code()).await.assert_status(429).assert_header("retry-after", "900");
        app.execute("update limits set free_at = free_at - 900000").await;
        send(&ada, CONFIRM, &phone.code()).await.assert_status(200);
        later(&app).await;
        send(&ada, OFF, &phone.code()).await.assert_redirect(ACCOUNT);
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
    async fn turning_it_off_takes_a_code_and_logs_out_everywhere_else() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, codes) = turn_on(&ada).await;
        let (other, in_progress) = (app.browser_of("ada").await, half_way(&app, "ada").await);
        for wrong in ["", &phone.wrong(), &phone.code()] {
            let answer = send(&ada, OFF, wrong).await;
            answer.assert_status(422).assert_contains("This code is wrong").assert_no_header("set-cookie");
        }
        assert_eq!(app.count(CONFIRMED).await, 1);
        let before = ada.copy();
        let answer = send(&ada, OFF, &codes[0]).await;
        answer.assert_redirect(ACCOUNT);
        ada.get(ACCOUNT).await.assert_contains("Two-factor log-in is off.").assert_contains("Set it up");
        for ended in [before, other] {
            ended.assert_is("nobody").await;
        }
        in_progress.get("/login/two-factor").await.assert_redirect("/login");
        assert_eq!(app.count("select count(*) from totp").await, 0);
        assert_eq!(
            app.count("select count(*) from events where kind = 'two_factor_off' and factors = 2").await,
            1
        );
        // Nothing is used up by whoever turns off what is off.
        send(&ada, OFF, &codes[1]).await.assert_redirect(ACCOUNT);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn wrong_codes_count_together_wherever_they_are_sent() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let (phone, codes) = turn_on(&ada).await;
        for _ in 0..3 {
            send(&half_way(&app, "ada").await, "/login/two-factor", &phone.wrong()).await.assert_status(422);
        }
        for _ in 0..7 {
            send(&ada, OFF, &phone.wrong()).await.assert_status(422);
        }
        for code in [&codes[0], &phone.wrong()] {
            send(&ada, OFF, code).await.assert_status(429);
            send(&half_way(&app, "ada").await, "/login/two-factor", code).await.assert_status(429);
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
        let (_, phone) = begin(&ada).await;
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
