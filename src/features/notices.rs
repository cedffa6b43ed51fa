//! Notices: people are told by mail what happened to their accounts, and can take an account back from whoever did it.
//!
//! The link to undo gives the account back to the address that it was mailed to. Each notice goes to the address that was
//! confirmed when it happened, so somebody with a stolen session who gives the account another address is told of nothing
//! but what they did after that; and undoing one thing ends the links to undo whatever followed. Thus the owner's link,
//! which is about the earliest of it, beats all of theirs, whoever is first to press the button.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::{self, Event, Told};
use crate::factor::{self, Proven};
use crate::features::Feature;
use crate::form::{Form, NoFields};
use crate::guard::Client;
use crate::mail::{self, Mail, Writing};
use crate::page::{Flash, Letter, LetterTemplate, Page, Template, date_time, lasting, templates};
use crate::throttle::{self, Key, Rate};
use crate::token::{self, Purpose};
use crate::{address, device, password, recovery, session};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use futures_util::FutureExt;
use serde::Serialize;
use std::time::Duration;

const LINK: &str = "/undo/{token}";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new();
    if env.sends_mail() {
        routes = routes.get(LINK, Access::Public, show).post(LINK, Access::Public, undo);
    }
    let letters = &[(mail::NOTICE, compose as _)];
    Ok(Feature { routes, flashes: &[UNDONE], letters, ..Feature::named("notices") })
}

const UNDONE: Flash = Flash {
    name: "undone",
    words: "It is undone, and everybody is logged out. A mail leads you to a new password.",
};

/// What a notice says: its subject, and what follows from it. Of events that are not here the subject tells nothing.
const WORDS: [(Event, &str, &str); 16] = [
    (
        Event::Throttled,
        "Too many wrong passwords",
        "Somebody tried several passwords for your account, and none was right. The next attempts have to wait a while. \
         If it was not you, you need not do anything: nobody has come in that way.",
    ),
    (
        Event::NewBrowser,
        "Somebody logged in with a new browser",
        "It is a browser that had not been used for your account before.",
    ),
    (Event::PasswordChanged, "Your password was changed", "The one before does not work any more."),
    (
        Event::PasswordReset,
        "A new password was chosen",
        "It was chosen without the one before, which does not work any more.",
    ),
    (
        Event::UsernameChanged,
        "Your username was changed",
        "The one before is kept from everybody for a while.",
    ),
    (
        Event::AddressChanged,
        "Your e-mail address was changed",
        "Another address has taken the place of this one, and from now on mails go there.",
    ),
    (
        Event::AddressRemoved,
        "Your e-mail address was removed",
        "The account has no confirmed address any more, so this is the last mail about it.",
    ),
    (
        Event::RecoveryCodesMade,
        "New recovery codes were made",
        "Those that were made before do not work any more.",
    ),
    (Event::RecoveryCodeUsed, "A recovery code was used", "It does not work a second time."),
    (
        Event::PasswordRemoved,
        "Your password was removed",
        "From now on your account opens without one, by what you have set up in its place.",
    ),
    (
        Event::TwoFactorOn,
        "Two-factor was turned on",
        "From now on a log-in with the password asks for a code too. Everybody else who was logged in was logged out.",
    ),
    (
        Event::TwoFactorOff,
        "Two-factor was turned off",
        "From now on the password alone opens your account. Everybody else who was logged in was logged out.",
    ),
    (
        Event::CodesLocked,
        "Too many wrong codes",
        "Somebody who knows your password, or is logged in as you, typed several wrong codes. No code is taken for a while. \
         If it was not you, please change your password.",
    ),
    (
        Event::PasskeyAdded,
        "A passkey was added",
        "Whoever has the device that keeps it can log in to your account.",
    ),
    (
        Event::PasskeyRemoved,
        "A passkey was removed",
        "It does not open your account any more. Everybody else who was logged in was logged out.",
    ),
    (
        Event::Undone,
        "Your account was taken back",
        "It was done by a link in an earlier mail to another address, which is the account's address again. Everybody was \
         logged out, and the password does not work any more.",
    ),
];

/// How often people are told of what strangers can cause without coming in.
const ONCE_A_DAY: Rate = Rate { times: 1, per: Duration::from_secs(24 * 60 * 60) };

/// What happened, when, and from where.
#[derive(Serialize)]
struct Happening {
    subject: &'static str,
    sentence: String,
    at: String,
    device: String,
    address: String,
}

impl From<Told> for Happening {
    fn from(event: Told) -> Happening {
        let known = WORDS.iter().find(|(known, ..)| Some(*known) == event.event);
        let (subject, sentence) = match known {
            Some((_, subject, sentence)) => (*subject, sentence.to_string()),
            None => ("Something happened to your account", format!("{}.", event.words)),
        };
        let (at, device) = (date_time(event.created_at), device::words(&event.device));
        Happening { subject, sentence, at, device, address: event.address }
    }
}

#[derive(Serialize)]
struct Notice {
    happening: Happening,
    username: String,
    email: String,
    /// None when there is nothing to undo.
    link: Option<String>,
    lifetime: String,
}

impl LetterTemplate for Notice {
    const TEXT: &'static str = templates::NOTICES_NOTICE_TXT;
    const HTML: &'static str = templates::NOTICES_NOTICE;
}

fn compose<'a>(app: &'a App, db: &'a mut Connection, mail: &'a Mail, user: Option<User>) -> Writing<'a> {
    write(app, db, mail, user).boxed()
}

async fn write(app: &App, db: &mut Connection, mail: &Mail, user: Option<User>) -> Result<Option<Letter>> {
    let Some(User { id: user_id, username }) = user else { return Ok(None) };
    let Some(event) = event::find(db, &mail.subject).await? else { return Ok(None) };
    // Whoever took the account back needs no mail about it, nor is it to be undone by whom they took it from.
    let taken_back = event.event == Some(Event::Undone);
    if taken_back && address::of_user(db, &user_id).await?.confirmed.as_ref() == Some(&mail.email) {
        return Ok(None);
    }
    // Then there is nothing to undo either.
    let by_strangers = event.event == Some(Event::Throttled);
    let rate = if by_strangers { ONCE_A_DAY } else { app.config.mails_per_account };
    if !may_be_told(db, mail, &user_id, &event, rate).await? {
        return Ok(None);
    }
    let lifetime = app.config.undo_lifetime;
    let link = if by_strangers || taken_back || event.proven == Proven::TwoFactors {
        None
    } else {
        let token = token::issue(db, Purpose::Undo, &user_id, &mail.email, &event.id, lifetime).await?;
        Some(app.config.origin() + &LINK.replace("{token}", &token.text()))
    };
    let (email, lifetime) = (mail.email.clone(), lasting(lifetime));
    Ok(Some(app.pages.letter(&Notice { happening: event.into(), username, email, link, lifetime })?))
}

/// Each kind of event has a count of its own: nobody can hide one among many of another, and of one that comes again and
/// again the link to the first undoes the rest.
async fn may_be_told(
    db: &mut Connection,
    mail: &Mail,
    user_id: &str,
    event: &Told,
    rate: Rate,
) -> Result<bool> {
    if mail.is_tried_again() {
        return Ok(true);
    }
    let of = format!("{user_id}:{}", event.words);
    match throttle::take(db, &Key::new("told", &of), rate).await {
        Err(Error::TooMany(_)) => Ok(false),
        taken => taken.map(|()| true),
    }
}

#[derive(Serialize)]
struct UndoPage {
    username: String,
    email: String,
    /// None when `EVENTS_KEPT` is over.
    happening: Option<Happening>,
}

impl Template for UndoPage {
    const FILE: &'static str = templates::NOTICES_UNDO;
}

async fn show(State(app): State<App>, page: Page, Path(token): Path<String>) -> Result<Response> {
    let find = async |db: &mut Connection| {
        let link = token::find(db, Purpose::Undo, &token).await?;
        let happening = event::find(db, &link.event_id).await?.map(Happening::from);
        Ok(UndoPage { username: link.username, email: link.email, happening })
    };
    page.show(&app.db.read(find).await?).await
}

async fn undo(
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
    _: Form<NoFields>,
) -> Result<Response> {
    app.db.write(async |db| take_back(&app, db, &token, &client).await).await?;
    Ok((CookieJar::new().add(UNDONE.cookie(&app.config)), see_other("/login")).into_response())
}

/// Leaves nothing that opens the account but the mail that goes to the address of the link.
async fn take_back(app: &App, db: &mut Connection, token: &str, client: &Client) -> Result<()> {
    let link = token::spend(db, Purpose::Undo, token).await?;
    let user_id = &*link.user_id;
    token::end_undos_since(db, user_id, &link.event_id).await?;
    // Before it is done, while the address that loses the account is the one to be told.
    event::record(db, user_id, Event::Undone, client).await?;
    // When it has become somebody else's, the account is left without an address rather than with a thief's.
    address::make_own(db, user_id, &link.email).await?;
    password::disable(db, user_id).await?;
    recovery::end(db, user_id).await?;
    factor::end_added_since(app, db, user_id, &link.event_id).await?;
    session::end_all(db, user_id).await?;
    throttle::forget_user(db, user_id).await?;
    mail::queue(db, password::RESET, Some(user_id), &link.email).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Email;
    use crate::database::now;
    use crate::page::tests::{check, check_letters};
    use crate::session::Door;
    use crate::test::{PASSWORD, TestApp};
    use crate::token::Link;
    use crate::user;
    use axum::extract::FromRequestParts;
    use axum::http::Method;
    use futures_util::future::join_all;

    const ADA: &str = "ada@example.com";
    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

    /// Ada has a confirmed address.
    async fn app() -> TestApp {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        app
    }

    async fn happens(app: &TestApp, name: &str, event: Event) {
        let (id, client) = (app.user(name).await, app.door().await.client);
        app.app.db.write(async |db| event::record(db, &*id, event, &client).await).await.unwrap();
    }

    /// Gives an account another address, as whoever is logged in can, and proves it.
    async fn move_to(app: &TestApp, name: &str, email: &str) {
        move_proven(app, name, email, Proven::OneFactor).await;
    }

    async fn move_proven(app: &TestApp, name: &str, email: &str, proven: Proven) {
        let (user_id, client) = (app.user(name).await, app.door().await.client);
        let moved = app.app.db.write(async |db| {
            address::begin(db, &user_id, &Email::parse(email).unwrap(), proven).await?;
            let link = Link { user_id, username: name.into(), email: email.into(), event_id: "".into() };
            address::confirm(db, &link, &client).await
        });
        moved.await.unwrap();
    }

    /// The path of the link in the newest notice to this address.
    async fn link_to(app: &TestApp, email: &str) -> String {
        let mails = app.mails().await;
        let texts = mails.iter().filter(|mail| mail.email == email).map(|mail| &mail.letter.text);
        let mut links =
            texts.flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("http://localhost:8000"));
        links.find(|link| link.starts_with("/undo/")).expect("a link to undo something").to_string()
    }

    async fn press(app: &TestApp, link: &str) -> u16 {
        app.visitor().post(link, &[]).await.status
    }

    async fn address_of(app: &TestApp, name: &str) -> Option<String> {
        let id = app.user(name).await;
        let own = app.app.db.read(async |db| address::of_user(db, &id).await).await.unwrap();
        assert_eq!(own.pending, None);
        own.confirmed
    }

    async fn knows(app: &TestApp, name: &str) -> bool {
        let door = app.door().await;
        password::check(&app.app, &door, name, PASSWORD).await.unwrap().is_some()
    }

    /// To whom mails are under way that lead to a new password.
    async fn resets(app: &TestApp) -> Vec<String> {
        let read = async |db: &mut Connection| {
            let sql = "select email from mails where kind = $1 order by id";
            Ok(sqlx::query_as(sql).bind(password::RESET).fetch_all(db).await?)
        };
        let rows: Vec<(String,)> = app.app.db.read(read).await.unwrap();
        rows.into_iter().map(|(email,)| email).collect()
    }

    #[test]
    fn its_page_and_its_mails_render() {
        let happening = |event, words: &str| {
            let (id, words, address) = (String::new(), words.into(), "192.0.2.1".into());
            Happening::from(Told {
                id,
                event,
                words,
                proven: Proven::OneFactor,
                created_at: 0,
                address,
                device: FIREFOX.into(),
            })
        };
        let page = |happening| UndoPage { username: "ada".into(), email: ADA.into(), happening };
        check(&[page(None), page(Some(happening(Some(Event::NewBrowser), "")))]);
        let letter = |happening, link: Option<&str>| Notice {
            happening,
            username: "ada".into(),
            email: ADA.into(),
            link: link.map(String::from),
            lifetime: "7 days".into(),
        };
        let known = WORDS.map(|(event, ..)| letter(happening(Some(event), ""), Some("http://a/undo/b")));
        check_letters(&known);
        check_letters(&[letter(happening(None, "passkey added"), None)]);
    }

    #[tokio::test]
    async fn people_are_told_what_happened_when_and_from_where_and_how_to_undo_it() {
        let app = app().await;
        let id = app.user("ada").await;
        let told = WORDS.into_iter().filter(|(event, ..)| *event != Event::Undone);
        for (event, subject, _) in told.clone() {
            let request = axum::http::Request::builder().header("user-agent", FIREFOX);
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let client = Client::from_request_parts(&mut parts, &app.app).await.unwrap();
            app.app.db.write(async |db| event::record(db, &*id, event, &client).await).await.unwrap();
            let mail = app.mails().await.swap_remove(0);
            assert_eq!((&*mail.email, &*mail.letter.subject), (ADA, subject));
            for text in [&mail.letter.text, &mail.letter.html] {
                for fact in ["ada at Latchkey", "Firefox on Linux, 127.0.0.1", " UTC", ADA] {
                    assert!(text.contains(fact), "{fact}: {text}");
                }
                let undone = text.contains("http://localhost:8000/undo/") && text.contains("within 7 days");
                assert_eq!(undone, event != Event::Throttled, "{text}");
            }
        }
        assert_eq!(app.mails().await.len(), told.count());
    }

    #[tokio::test]
    async fn what_another_version_of_the_app_has_recorded_is_told_too() {
        let app = app().await;
        happens(&app, "ada", Event::PasswordChanged).await;
        app.execute("update events set kind = 'token_made' where kind = 'password_changed'").await;
        let link = link_to(&app, ADA).await;
        let letter = app.mails().await.swap_remove(0).letter;
        assert_eq!(letter.subject, "Something happened to your account");
        assert!(letter.text.contains("token made."), "{}", letter.text);
        app.visitor().get(&link).await.assert_contains("token made.");
        // Nor does a link depend on how long events are kept.
        app.execute("delete from events").await;
        app.visitor().get(&link).await.assert_contains("Something happened to the account");
        assert_eq!(press(&app, &link).await, 303);
    }

    #[tokio::test]
    async fn only_who_has_a_confirmed_address_and_may_log_in_is_told() {
        let app = TestApp::new().await;
        app.person("ada").await;
        happens(&app, "ada", Event::PasswordChanged).await;
        assert_eq!(app.mails().await.len(), 0);
        app.confirm_address("ada", ADA).await;
        happens(&app, "ada", Event::LoggedIn).await;
        happens(&app, "ada", Event::PasswordChanged).await;
        app.execute("update users set disabled_at = 1").await;
        assert_eq!(app.mails().await.len(), 0);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn a_log_in_with_a_new_browser_is_told_but_not_the_first_nor_one_with_a_known_browser() {
        let app = TestApp::new().await;
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        app.execute("delete from devices").await;
        let known = app.browser_of("bob").await;
        assert_eq!(app.mails().await.len(), 0);

        let id = app.user("bob").await;
        let cookie = format!("device={}", known.cookie("device").unwrap());
        let (mut parts, ()) =
            axum::http::Request::builder().header("cookie", cookie).body(()).unwrap().into_parts();
        let door = Door::from_request_parts(&mut parts, &app.app).await.unwrap();
        let begun =
            app.app.db.write(async |db| door.log_in(db, &id, false, Proven::TwoFactors, "/").await).await;
        assert!(begun.unwrap().is_some());
        assert_eq!(app.mails().await.len(), 0);

        app.browser_of("bob").await;
        assert_eq!(app.mails().await[0].letter.subject, "Somebody logged in with a new browser");
    }

    #[tokio::test]
    async fn what_strangers_can_cause_is_told_once_a_day_and_also_when_the_first_try_failed() {
        let app = app().await;
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        for (name, mails) in [("ada", 1), ("ada", 1), ("bob", 2), ("ada", 2)] {
            happens(&app, name, Event::Throttled).await;
            assert_eq!(app.mails().await.len(), mails);
        }
        happens(&app, "ada", Event::PasswordChanged).await;
        assert_eq!(app.mails().await.len(), 3);
        app.execute("update limits set free_at = free_at - 86400000").await;
        happens(&app, "ada", Event::Throttled).await;
        app.execute("update mails set attempts = 1").await;
        assert_eq!(app.mails().await.len(), 4);
        // It was tried before, and counted then.
        happens(&app, "ada", Event::Throttled).await;
        app.execute("update mails set attempts = 1").await;
        assert_eq!(app.mails().await.len(), 5);
    }

    /// Whoever is logged in could otherwise fill the outbox, and everybody's mails would wait behind theirs.
    #[tokio::test]
    async fn what_happens_again_and_again_is_told_three_times_an_hour_and_everything_else_all_the_same() {
        let app = app().await;
        for mails in [1, 2, 3, 3, 3] {
            happens(&app, "ada", Event::RecoveryCodesMade).await;
            assert_eq!(app.mails().await.len(), mails);
        }
        happens(&app, "ada", Event::AddressChanged).await;
        assert_eq!(app.mails().await.len(), 4);
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        happens(&app, "bob", Event::RecoveryCodesMade).await;
        assert_eq!(app.mails().await.len(), 5);
        app.execute("update limits set free_at = free_at - 1200000").await;
        happens(&app, "ada", Event::RecoveryCodesMade).await;
        assert_eq!(app.mails().await.len(), 6);
    }

    #[tokio::test]
    async fn the_page_says_what_happened_and_what_the_button_does_and_looking_at_it_does_nothing() {
        let app = app().await;
        let ada = app.browser_of("ada").await;
        app.mails().await;
        happens(&app, "ada", Event::PasswordChanged).await;
        let link = link_to(&app, ADA).await;
        let rows = "select (select count(*) from tokens) + 10 * (select count(*) from sessions) \
                    + 100 * (select count(*) from passwords) + 1000 * (select count(*) from mails) \
                    + 10000 * (select count(*) from events)";
        let before = app.count(rows).await;
        for _ in 0..5 {
            let page = app.visitor().get(&link).await;
            page.assert_status(200).assert_no_header("set-cookie").assert_contains("<dd>ada</dd>");
            page.assert_contains("Your password was changed.").assert_contains(ADA).assert_contains(" UTC");
        }
        for method in [Method::HEAD, Method::OPTIONS] {
            app.visitor().send(method, &link, &[], "").await;
        }
        assert_eq!(app.count(rows).await, before);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn to_undo_leaves_nothing_that_opens_the_account_but_a_mail_to_its_address() {
        let app = app().await;
        let thief = app.browser_of("ada").await;
        let (bob, bobs) = (app.person("bob").await, "bob@example.com");
        app.confirm_address("bob", bobs).await;
        happens(&app, "bob", Event::PasswordChanged).await;
        let theirs = link_to(&app, bobs).await;
        for name in ["ada", "bob"] {
            let id = app.user(name).await;
            let insert = async |db: &mut Connection| {
                let sql = "insert into recovery_codes (code_hash, user_id) values ($1, $2)";
                Ok(sqlx::query(sql).bind(name.as_bytes().to_vec()).bind(id).execute(db).await?)
            };
            app.app.db.write(insert).await.unwrap();
            let guess = password::check(&app.app, &app.door().await, name, "not the password").await;
            assert!(guess.unwrap().is_none());
        }
        let counted = "select count(distinct user_id) from limits";
        assert_eq!(app.count(counted).await, 2);
        let link = link_to(&app, ADA).await;
        let browser = app.visitor();
        browser
            .post(&link, &[])
            .await
            .assert_redirect("/login")
            .assert_cookie("flash=undone; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        browser.get(&theirs).await.assert_contains("It is undone, and everybody is logged out.");
        thief.assert_is("nobody").await;
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        assert_eq!(resets(&app).await, [ADA]);
        assert_eq!(app.count("select count(*) from events where kind = 'undone'").await, 1);
        let id = app.user("ada").await;
        let devices = async |db: &mut Connection| {
            let sql = "select count(*) from devices where user_id = $1";
            Ok(sqlx::query_as(sql).bind(&*id).fetch_one(db).await?)
        };
        let (devices,): (i64,) = app.app.db.read(devices).await.unwrap();
        assert_eq!(devices, 0);

        // Bob's account is as it was.
        bob.assert_is("bob").await;
        assert_eq!(address_of(&app, "bob").await.as_deref(), Some(bobs));
        for left in ["select count(*) from recovery_codes", counted] {
            assert_eq!(app.count(left).await, 1);
        }
        assert!(knows(&app, "bob").await && !knows(&app, "ada").await);
        app.visitor().get(&theirs).await.assert_status(200);
    }

    #[tokio::test]
    async fn of_many_presses_at_once_one_counts() {
        let app = app().await;
        happens(&app, "ada", Event::PasswordChanged).await;
        let link = link_to(&app, ADA).await;
        let answers = join_all((0..20).map(|_| press(&app, &link))).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
        assert_eq!(app.count("select count(*) from events where kind = 'undone'").await, 1);
    }

    /// A server can lose its own answer that it has taken a mail.
    #[tokio::test]
    async fn of_a_mail_that_went_twice_both_links_work_until_one_is_used() {
        let app = app().await;
        happens(&app, "ada", Event::PasswordChanged).await;
        let once = link_to(&app, ADA).await;
        let id = app.user("ada").await;
        let again = async |db: &mut Connection| {
            let event = &event::history(db, &id, None, 1).await?[0].id;
            mail::tell(db, Some(&id), event).await
        };
        app.app.db.write(again).await.unwrap();
        let twice = link_to(&app, ADA).await;
        for link in [&once, &twice] {
            app.visitor().get(link).await.assert_status(200);
        }
        assert_eq!(press(&app, &once).await, 303);
        assert_eq!(press(&app, &twice).await, 404);
    }

    #[tokio::test]
    async fn a_link_that_does_not_work_does_not_say_why() {
        let app = app().await;
        happens(&app, "ada", Event::PasswordChanged).await;
        let spent = link_to(&app, ADA).await;
        assert_eq!(press(&app, &spent).await, 303);
        happens(&app, "ada", Event::UsernameChanged).await;
        let expired = link_to(&app, ADA).await;
        app.execute("update tokens set expires_at = expires_at - 7 * 86400").await;
        let unknown = format!("/undo/{}", token::Token::random().unwrap().text());
        let expected = app.visitor().get(&unknown).await.assert_status(404).text();
        assert!(expected.contains("This link does not work any more"), "{expected}");
        for link in [&*spent, &expired, &unknown, "/undo/x"] {
            assert_eq!(app.visitor().get(link).await.assert_status(404).text(), expected, "{link}");
            let answer = app.visitor().post(link, &[]).await;
            assert_eq!(answer.assert_status(404).assert_no_header("set-cookie").text(), expected, "{link}");
        }
    }

    #[tokio::test]
    async fn a_link_outlives_what_comes_after_it_until_seven_days_have_passed_or_the_account_is_gone() {
        let app = app().await;
        happens(&app, "ada", Event::NewBrowser).await;
        let first = link_to(&app, ADA).await;
        let (id, client) = (app.user("ada").await, app.door().await.client);
        for _ in 0..20 {
            happens(&app, "ada", Event::PasswordChanged).await;
        }
        app.app.db.write(async |db| session::end_all(db, &id).await).await.unwrap();
        app.execute("update tokens set expires_at = expires_at - 7 * 86400 + 60").await;
        app.visitor().get(&first).await.assert_status(200);
        app.execute("update tokens set expires_at = expires_at - 60").await;
        app.visitor().get(&first).await.assert_status(404);

        app.execute("update tokens set expires_at = expires_at + 60").await;
        let last = link_to(&app, ADA).await;
        app.app.db.write(async |db| user::delete(db, &id, Duration::ZERO, &client).await).await.unwrap();
        for link in [first, last] {
            assert_eq!(press(&app, &link).await, 404);
        }
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn the_owner_undoes_all_that_a_thief_did_to_the_address_and_ends_the_thiefs_link() {
        let app = app().await;
        let thief = app.browser_of("ada").await;
        move_to(&app, "ada", "t1@example.com").await;
        move_to(&app, "ada", "t2@example.com").await;
        let (owners, thiefs) = (link_to(&app, ADA).await, link_to(&app, "t1@example.com").await);
        app.visitor().get(&thiefs).await.assert_status(200);
        assert_eq!(press(&app, &owners).await, 303);
        thief.assert_is("nobody").await;
        assert_eq!(press(&app, &thiefs).await, 404);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        assert_eq!(resets(&app).await, [ADA]);
    }

    #[tokio::test]
    async fn the_owners_link_beats_the_thiefs_although_that_was_used_before() {
        let app = app().await;
        app.browser_of("ada").await;
        move_to(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        move_to(&app, "ada", "t2@example.com").await;
        let thiefs = link_to(&app, "t1@example.com").await;
        assert_eq!(press(&app, &thiefs).await, 303);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some("t1@example.com"));
        // The thief goes on: a new password, by the mail that came of it.
        happens(&app, "ada", Event::PasswordReset).await;
        assert_eq!(resets(&app).await, ["t1@example.com"]);

        assert_eq!(press(&app, &owners).await, 303);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        // What was on its way to the thief has been taken back.
        assert_eq!(resets(&app).await, [ADA]);
        let untold =
            "select count(*) from mails m join events e on e.id = m.subject where e.kind <> 'undone'";
        assert_eq!(app.count(untold).await, 0);
        assert_eq!(
            app.count("select count(*) from tokens where purpose = 'undo' and email <> 'ada@example.com'")
                .await,
            0
        );
    }

    #[tokio::test]
    async fn what_was_undone_is_not_told_to_a_thief_whose_mail_was_slow() {
        let app = app().await;
        move_to(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        move_to(&app, "ada", "t2@example.com").await;
        assert_eq!(press(&app, &owners).await, 303);
        let mails = app.mails().await;
        let others: Vec<_> = mails.iter().filter(|mail| mail.email != ADA).collect();
        assert!(others.iter().all(|mail| mail.letter.subject == "Your account was taken back"));
    }

    #[tokio::test]
    async fn what_was_done_with_two_factors_the_mailbox_alone_does_not_undo() {
        let app = app().await;
        move_proven(&app, "ada", "lovelace@example.com", Proven::TwoFactors).await;
        let mails = app.mails().await;
        let told = mails.iter().find(|mail| mail.email == ADA).expect("the old address is told");
        assert_eq!(told.letter.subject, "Your e-mail address was changed");
        assert!(!told.letter.text.contains("/undo/") && !told.letter.html.contains("/undo/"));
    }

    /// Adds something before and something after, undoes what followed on the first event, and answers how much is left.
    async fn left_of_two(added_with: Proven) -> i64 {
        // Log-ins in progress of another user stand for whatever a feature may keep.
        let undo = &["delete from logins where user_id <> $1 and expires_at >= $2"];
        let app = TestApp::with_feature(&[], Feature { undo, ..Feature::named("test") }).await;
        for name in ["ada", "bob"] {
            app.person(name).await;
        }
        app.confirm_address("ada", ADA).await;
        happens(&app, "ada", Event::PasswordChanged).await;
        let (ada, bob, client) = (app.user("ada").await, app.user("bob").await, app.door().await.client);
        let link = link_to(&app, ADA).await;
        for (hash, added_at) in [("before", now() - 60), ("since", now())] {
            let insert = async |db: &mut Connection| {
                let sql = "insert into logins (token_hash, user_id, stay, next, wrong, expires_at) \
                           values ($1, $2, 0, '/', 0, $3)";
                let query = sqlx::query(sql).bind(hash.as_bytes().to_vec()).bind(&*bob).bind(added_at);
                Ok(query.execute(db).await?)
            };
            app.app.db.write(insert).await.unwrap();
        }
        let record = async |db: &mut Connection| {
            event::record_proven(db, &*ada, Event::PasskeyAdded, added_with, &client).await
        };
        app.app.db.write(record).await.unwrap();
        assert_eq!(press(&app, &link).await, 303);
        app.count("select count(*) from logins").await
    }

    #[tokio::test]
    async fn what_was_added_since_ends_and_what_was_there_before_stays() {
        assert_eq!(left_of_two(Proven::OneFactor).await, 1);
    }

    #[tokio::test]
    async fn what_an_owner_with_two_factors_adds_is_not_ended_by_a_mailbox() {
        assert_eq!(left_of_two(Proven::TwoFactors).await, 2);
    }

    #[tokio::test]
    async fn an_address_that_is_somebody_elses_by_now_stays_theirs_and_the_thief_keeps_none() {
        let app = app().await;
        move_to(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        let bob = app.person("bob").await;
        app.confirm_address("bob", ADA).await;
        assert_eq!(press(&app, &owners).await, 303);
        assert_eq!(address_of(&app, "ada").await, None);
        assert_eq!(address_of(&app, "bob").await.as_deref(), Some(ADA));
        bob.assert_is("bob").await;
        assert_eq!(resets(&app).await, [ADA]);
    }

    /// It need not be a thief's: whoever has lost a mailbox to somebody changes the address.
    #[tokio::test]
    async fn the_address_that_loses_the_account_is_told_so_and_gets_no_link() {
        let app = app().await;
        move_to(&app, "ada", "new@example.com").await;
        let owners = link_to(&app, ADA).await;
        assert_eq!(press(&app, &owners).await, 303);
        let mails = app.mails().await;
        let told: Vec<_> = mails.iter().filter(|mail| mail.email == "new@example.com").collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].letter.subject, "Your account was taken back");
        assert!(!told[0].letter.text.contains("/undo/"), "{}", told[0].letter.text);
        // Where the address stays, the mail that leads to a new password is enough.
        happens(&app, "ada", Event::PasswordChanged).await;
        assert_eq!(press(&app, &link_to(&app, ADA).await).await, 303);
        let mails = app.mails().await;
        let told = mails.iter().filter(|mail| mail.letter.subject == "Your account was taken back");
        assert_eq!(told.count(), 1);
    }

    #[tokio::test]
    async fn the_address_can_be_proved_for_other_accounts_at_the_same_time_and_one_has_it() {
        let app = app().await;
        move_to(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        let mut links = Vec::new();
        for name in ["bob", "cyd"] {
            app.person(name).await;
            let (id, lifetime) = (app.user(name).await, app.app.config.verify_lifetime);
            let begun = app.app.db.write(async |db| {
                address::begin(db, &id, &Email::parse(ADA).unwrap(), Proven::OneFactor).await?;
                token::issue(db, Purpose::Confirm, &id, ADA, "", lifetime).await
            });
            links.push(begun.await.unwrap().text());
        }
        let client = app.door().await.client;
        let proofs = links.iter().map(async |link| {
            let prove = async |db: &mut Connection| {
                let link = token::spend(db, Purpose::Confirm, link).await?;
                address::confirm(db, &link, &client).await
            };
            app.app.db.write(prove).await
        });
        let (pressed, proofs) = tokio::join!(press(&app, &owners), join_all(proofs));
        assert_eq!(pressed, 303);
        assert!(proofs.iter().all(|proof| matches!(proof, Ok(()) | Err(Error::StaleLink))), "{proofs:?}");
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, 1);
        assert_eq!(app.count("select count(*) from addresses").await, 1);
    }
}
