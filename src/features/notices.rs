//! Notices: mails that tell users what happened to their accounts, with a link to take an account back.
//!
//! The link gives the account back to the address that it was mailed to. Each notice goes to the address that was confirmed
//! when the event happened, so a thief who has stolen a session and changes the address is notified only of what happens
//! after that; and undoing one event revokes the links to undo later ones. Thus the owner's link, which is about the
//! earliest of them, beats all of the thief's, whichever is used first.

use super::feature::Feature;
use crate::accounts::event::{self, Cause, RecordedEvent};
use crate::accounts::link::{self, Purpose};
use crate::accounts::password::table as password_table;
use crate::accounts::session::lifecycle;
use crate::accounts::{AuthLevel, Client, Event, User, address, client::device_name, recovery_code};
use crate::base::{Env, Rate, Result};
use crate::db::Connection;
use crate::db::rate_limit::{self, Key};
use crate::mail::{Mail, MailContent, outbox};
use crate::web::format::{date_time, duration};
use crate::web::{
    Access, App, Empty, Flash, Form, MailTemplate, Page, Redirect, Routes, Template, factors, files, redirect,
};
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::future::BoxFuture;
use serde::Serialize;
use std::time::Duration;

const LINK: &str = "/undo/{token}";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new();
    if env.sends_mail()? {
        routes = routes.get(LINK, Access::Public, show).post(LINK, Access::Public, undo);
    }
    let mails = &[(event::NOTICE, write_mail as _), (event::NOTICE_TO_DISABLED, write_mail as _)];
    Ok(Feature { routes, events: &[UNDONE], flashes: &[TAKEN_BACK], mails, ..Feature::named("notices") })
}

/// Recorded when the owner of an address that the account had before has taken it back.
pub const UNDONE: Event = Event::named("undone", "Changes undone with a link from a mail").with_notice(
    "Changes to your account were undone",
    "Someone used a link in an earlier mail to another address. That address belongs to the account again, every device \
     is logged out, and the password no longer works.",
);

const TAKEN_BACK: Flash = Flash {
    name: "undone",
    words: "Your account is yours again and every device is logged out. We have mailed you a link to set a new password.",
};

/// How often users are notified of an event that an intruder can cause without getting in.
const ONCE_A_DAY: Rate = Rate { times: 1, per: Duration::from_secs(24 * 60 * 60) };

/// An event as the mail and the page describe it.
#[derive(Serialize)]
struct EventDetails {
    subject: &'static str,
    sentence: String,
    /// On the page only: an intruder may have named it, and must not be able to write to the owner.
    about: Option<String>,
    at: String,
    /// The device and the network address, unless another user caused it.
    source: Option<String>,
}

impl EventDetails {
    fn new(event: RecordedEvent, known: &[Event]) -> EventDetails {
        let notice = event.event(known).and_then(|event| event.notice);
        let (subject, sentence) = match notice {
            Some(notice) => (notice.subject, notice.sentence.to_string()),
            None => ("Something happened to your account", format!("{}.", event.words(known))),
        };
        let device = device_name(event.device.as_deref().unwrap_or_default());
        EventDetails {
            subject,
            sentence,
            about: event.about.filter(|_| notice.is_some()),
            at: date_time(event.created_at),
            source: event.address.map(|address| format!("{device}, {address}")),
        }
    }
}

#[derive(Serialize)]
struct NoticeMail {
    event: EventDetails,
    username: String,
    email: String,
    /// `None` when there is nothing to undo.
    link: Option<String>,
    lifetime: String,
}

impl MailTemplate for NoticeMail {
    const TEXT: &'static str = files::NOTICES_NOTICE_TXT;
    const HTML: &'static str = files::NOTICES_NOTICE;
}

fn write_mail<'a>(
    app: &'a App,
    db: &'a mut Connection,
    mail: &'a Mail,
    user: Option<User>,
) -> BoxFuture<'a, Result<Option<MailContent>>> {
    Box::pin(async move {
        let Some(User { id: user_id, username }) = user else { return Ok(None) };
        let Some(event) = find(db, &mail.about).await? else { return Ok(None) };
        let (email, known, is_undone) = (mail.email.clone(), &app.features.events, event.kind == UNDONE.kind);
        // The address that has taken the account back gets another mail, which leads to a new password.
        if is_undone && address::of_user(db, &user_id).await?.confirmed.as_ref() == Some(&email) {
            return Ok(None);
        }
        let cause = event.event(known).map_or(Cause::Owner, |event| event.cause);
        let rate = if cause == Cause::Intruder { ONCE_A_DAY } else { app.config.mails_per_account };
        if !may_notify(db, mail, &user_id, &event.kind, rate).await? {
            return Ok(None);
        }
        let lifetime = app.config.undo_lifetime;
        let link = if cause == Cause::Owner && !is_undone && event.level == AuthLevel::OneFactor {
            let token = link::issue(db, Purpose::Undo, &user_id, &email, &event.id, lifetime).await?;
            Some(app.config.link(LINK, &token))
        } else {
            None
        };
        let (event, lifetime) = (EventDetails::new(event, known), duration(lifetime));
        Ok(Some(app.templates.mail(&NoticeMail { event, username, email, link, lifetime })?))
    })
}

async fn find(db: &mut Connection, event_id: &str) -> Result<Option<RecordedEvent>> {
    let sql = "select id, kind, about, factors, created_at, address, device from events where id = $1";
    Ok(sqlx::query_as(sql).bind(event_id).fetch_optional(db).await?)
}

/// Each kind of event has a limit of its own: nobody can hide one among many of another, and the link to the first of a kind
/// undoes the others too.
async fn may_notify(db: &mut Connection, mail: &Mail, user_id: &str, kind: &str, rate: Rate) -> Result<bool> {
    let key = Key::new(event::NOTICE, &format!("{user_id}:{kind}"));
    Ok(mail.is_retry() || rate_limit::try_take(db, &key, rate).await?)
}

#[derive(Serialize)]
struct UndoPage {
    username: String,
    email: String,
    /// `None` when it was deleted after `EVENTS_KEPT`.
    event: Option<EventDetails>,
}

impl Template for UndoPage {
    const FILE: &'static str = files::NOTICES_UNDO;
}

async fn show(State(app): State<App>, page: Page, Path(token): Path<String>) -> Result<Response> {
    let read = async |db: &mut Connection| {
        let link = link::find(db, Purpose::Undo, &token).await?;
        let event = find(db, &link.event_id).await?;
        let event = event.map(|event| EventDetails::new(event, &app.features.events));
        Ok(UndoPage { username: link.username, email: link.email, event })
    };
    page.render(&app.db.read(read).await?).await
}

async fn undo(State(app): State<App>, client: Client, Path(token): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    // A link that does not work costs no turn to write.
    app.db.read(async |db| link::find(db, Purpose::Undo, &token).await).await?;
    app.db.write(async |db| take_back(&app, db, &token, &client).await).await?;
    Ok(redirect(app.login_path()).flash(TAKEN_BACK))
}

/// Leaves no way to log in except the mail that goes to the address of the link.
async fn take_back(app: &App, db: &mut Connection, token: &str, client: &Client) -> Result<()> {
    let link = link::consume(db, Purpose::Undo, token).await?;
    let user_id = &*link.user_id;
    link::revoke_undo_since(db, user_id, &link.event_id).await?;
    // Recorded before the change, so that the notice goes to the address that loses the account.
    event::record(db, user_id, UNDONE.by(client)).await?;
    // If it is another user's by now, the account is left without an address rather than with a thief's.
    address::set_confirmed(db, user_id, &link.email).await?;
    password_table::remove(db, user_id).await?;
    recovery_code::delete_all(db, user_id).await?;
    factors::undo_added_since(app, db, user_id, &link.event_id).await?;
    lifecycle::revoke_all(db, user_id).await?;
    rate_limit::reset_user(db, user_id).await?;
    outbox::queue(db, link::RESET_MAIL, Some(user_id), &link.email, "").await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::link::Link;
    use crate::accounts::password::attempts::THROTTLED;
    use crate::accounts::user::{self, USERNAME_CHANGED};
    use crate::accounts::{Choices, EVENTS, Email};
    use crate::base::{Error, Token};
    use crate::db::{new_id, now};
    use crate::features;
    use crate::test::{PASSWORD, SECOND_FACTOR, TestApp, check, check_mails};
    use crate::web::{Factor, Login};
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

    async fn record(app: &TestApp, name: &str, event: Event) {
        record_at(app, name, event, AuthLevel::OneFactor).await;
    }

    async fn record_at(app: &TestApp, name: &str, event: Event, level: AuthLevel) {
        let (id, client) = (app.user(name).await, app.login().await.client);
        let record = async |db: &mut Connection| event::record(db, &*id, event.by(&client).at(level)).await;
        app.app.db.write(record).await.unwrap();
    }

    /// Changes the address of an account and confirms it, as anybody who is logged in can.
    async fn change_address(app: &TestApp, name: &str, email: &str) {
        change_address_at(app, name, email, AuthLevel::OneFactor).await;
    }

    async fn change_address_at(app: &TestApp, name: &str, email: &str, level: AuthLevel) {
        let (user_id, client) = (app.user(name).await, app.login().await.client);
        let changed = app.app.db.write(async |db| {
            address::set_pending(db, &user_id, &Email::parse(email).unwrap(), level).await?;
            let link = Link { user_id, username: name.into(), email: email.into(), event_id: "".into() };
            address::confirm(db, &link, &client).await
        });
        changed.await.unwrap();
    }

    /// The path of the link in the newest notice to this address.
    async fn link_to(app: &TestApp, email: &str) -> String {
        let mails = app.mails().await;
        let texts = mails.iter().filter(|mail| mail.email == email).map(|mail| &mail.content.text);
        let mut links =
            texts.flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("http://localhost:8000"));
        links.find(|link| link.starts_with("/undo/")).expect("a link to undo something").to_string()
    }

    async fn press(app: &TestApp, link: &str) -> u16 {
        // Another body each time, so that it is not one button that is pressed twice.
        app.visitor().post(link, &[("number", &new_id())]).await.status
    }

    async fn address_of(app: &TestApp, name: &str) -> Option<String> {
        let id = app.user(name).await;
        let own = app.app.db.read(async |db| address::of_user(db, &id).await).await.unwrap();
        assert_eq!(own.pending, None);
        own.confirmed
    }

    /// The addresses to which mails are on their way that lead to a new password.
    async fn resets(app: &TestApp) -> Vec<String> {
        let read = async |db: &mut Connection| {
            let sql = "select email from mails where kind = $1 order by id";
            Ok(sqlx::query_scalar(sql).bind(link::RESET_MAIL).fetch_all(db).await?)
        };
        app.app.db.read(read).await.unwrap()
    }

    #[test]
    fn its_page_and_its_mails_render() {
        let recorded = |kind: &str, about: Option<&str>, address: Option<&str>| RecordedEvent {
            id: String::new(),
            kind: kind.into(),
            about: about.map(String::from),
            level: AuthLevel::OneFactor,
            created_at: 0,
            address: address.map(String::from),
            device: address.map(|_| FIREFOX.into()),
        };
        let features = features::all(&Env::default()).unwrap();
        let known: Vec<Event> = features.iter().flat_map(|feature| feature.events).chain(EVENTS).copied().collect();
        let details = |kind: &str, about, address| EventDetails::new(recorded(kind, about, address), &known);
        let page = |event| UndoPage { username: "ada".into(), email: ADA.into(), event };
        let new_browser = details("new_browser", None, Some("192.0.2.1"));
        check(&[page(None), page(Some(new_browser)), page(Some(details("undone", Some("<Pixel 8>"), None)))]);
        let mail = |event, link: Option<&str>| NoticeMail {
            event,
            username: "ada".into(),
            email: ADA.into(),
            link: link.map(String::from),
            lifetime: "7 days".into(),
        };
        for event in known.iter().filter(|event| event.notice.is_some()) {
            let details = details(event.kind, Some("<Pixel 8>"), Some("192.0.2.1"));
            check_mails(&[mail(details, Some("http://a/undo/b"))]);
        }
        check_mails(&[mail(details("passkey_lost", None, None), None)]);
    }

    #[tokio::test]
    async fn users_are_notified_of_what_happened_when_from_where_and_how_to_undo_it() {
        let app = app().await;
        let id = app.user("ada").await;
        let known = app.app.features.events.iter().filter(|event| event.kind != UNDONE.kind);
        let mut sent = 0;
        for (event, notice) in known.filter_map(|event| Some((event, event.notice?))) {
            let client = Client::new([127, 0, 0, 1].into(), FIREFOX.as_bytes());
            app.app.db.write(async |db| event::record(db, &*id, event.by(&client)).await).await.unwrap();
            let mail = app.mails().await.swap_remove(0);
            assert_eq!((&*mail.email, &*mail.content.subject), (ADA, notice.subject));
            for text in [&mail.content.text, &mail.content.html] {
                let is_named = matches!(event.cause, Cause::Owner | Cause::Intruder);
                let source = is_named.then_some("Firefox on Linux, 127.0.0.1");
                for fact in ["ada at Latchkey", " UTC", ADA].into_iter().chain(source) {
                    assert!(text.contains(fact), "{fact}: {text}");
                }
                let has_link = text.contains("http://localhost:8000/undo/") && text.contains("within 7 days");
                assert_eq!(has_link, event.cause == Cause::Owner, "{text}");
            }
            sent += 1;
        }
        assert_eq!(app.mails().await.len(), sent);
        assert!(sent >= 5 && THROTTLED.cause == Cause::Intruder);
    }

    #[tokio::test]
    async fn the_page_names_what_an_event_is_about_and_the_mail_does_not_because_a_thief_may_have_named_it() {
        let app = app().await;
        let (id, client) = (app.user("ada").await, app.login().await.client);
        let record = async |db: &mut Connection| {
            event::record(db, &*id, recovery_code::USED.by(&client).about("Pixel <8>")).await
        };
        app.app.db.write(record).await.unwrap();
        let link = link_to(&app, ADA).await;
        let content = app.mails().await.swap_remove(0).content;
        for text in [content.text, content.html] {
            assert!(!text.contains("Pixel"), "{text}");
        }
        app.visitor().get(&link).await.assert_contains("<dd>Pixel &lt;8&gt;</dd>");
    }

    #[tokio::test]
    async fn a_notice_of_what_another_user_has_done_names_no_device_and_has_no_link() {
        const SHARED: Event = Event::named("note_shared", "Note shared")
            .with_notice("A note was shared with you", "You can read it now.")
            .caused_by(Cause::OtherUser);
        let test = Feature { events: &[SHARED], ..Feature::named("test") };
        let app = TestApp::with_feature(&[], test).await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        record(&app, "ada", SHARED).await;
        let content = app.mails().await.swap_remove(0).content;
        assert_eq!(content.subject, "A note was shared with you");
        for text in [content.text, content.html] {
            assert!(!text.contains("From") && !text.contains("127.0.0.1") && !text.contains("/undo/"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_event_that_another_version_of_the_app_has_recorded_is_notified_too() {
        let app = app().await;
        record(&app, "ada", USERNAME_CHANGED).await;
        app.execute("update events set kind = 'token_made' where kind = 'username_changed'").await;
        let link = link_to(&app, ADA).await;
        let content = app.mails().await.swap_remove(0).content;
        assert_eq!(content.subject, "Something happened to your account");
        assert!(content.text.contains("token made."), "{}", content.text);
        app.visitor().get(&link).await.assert_contains("token made.");
        // The link works even when the event has been deleted.
        app.execute("delete from events").await;
        app.visitor().get(&link).await.assert_contains("Something happened to the account");
        assert_eq!(press(&app, &link).await, 303);
    }

    #[tokio::test]
    async fn only_users_with_a_confirmed_address_who_may_log_in_are_notified() {
        let app = TestApp::new().await;
        app.person("ada").await;
        record(&app, "ada", USERNAME_CHANGED).await;
        assert_eq!(app.mails().await.len(), 0);
        app.confirm_address("ada", ADA).await;
        record(&app, "ada", lifecycle::LOGGED_IN).await;
        record(&app, "ada", USERNAME_CHANGED).await;
        app.execute("update users set disabled_at = 1").await;
        assert_eq!(app.mails().await.len(), 0);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn a_log_in_with_a_new_browser_is_notified_but_not_the_first_or_one_with_a_known_browser() {
        let app = TestApp::new().await;
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        app.execute("delete from devices").await;
        let known = app.browser_of("bob").await;
        assert_eq!(app.mails().await.len(), 0);

        let id = app.user("bob").await;
        let cookie = format!("device={}", known.cookie("device").unwrap());
        let request = axum::http::Request::builder().header("cookie", cookie);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let login = Login::from_request_parts(&mut parts, &app.app).await.unwrap();
        let choices = Choices { stay: false, next: "/".into() };
        let log_in = async |db: &mut Connection| login.log_in(db, &id, AuthLevel::TwoFactors, &choices).await;
        assert!(app.app.db.write(log_in).await.unwrap().is_some());
        assert_eq!(app.mails().await.len(), 0);

        app.browser_of("bob").await;
        assert_eq!(app.mails().await[0].content.subject, "Someone logged in with a new browser");
    }

    #[tokio::test]
    async fn what_intruders_cause_is_notified_once_a_day_and_a_retry_is_not_counted() {
        let app = app().await;
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        for (name, mails) in [("ada", 1), ("ada", 1), ("bob", 2), ("ada", 2)] {
            record(&app, name, THROTTLED).await;
            assert_eq!(app.mails().await.len(), mails);
        }
        record(&app, "ada", USERNAME_CHANGED).await;
        assert_eq!(app.mails().await.len(), 3);
        app.execute("update limits set free_at = free_at - 86400000").await;
        record(&app, "ada", THROTTLED).await;
        app.execute("update mails set attempts = 1").await;
        assert_eq!(app.mails().await.len(), 4);
        // The first attempt to send it was counted.
        record(&app, "ada", THROTTLED).await;
        app.execute("update mails set attempts = 1").await;
        assert_eq!(app.mails().await.len(), 5);
    }

    /// Otherwise anybody who is logged in could fill the outbox, and the mails of others would have to wait.
    #[tokio::test]
    async fn a_repeated_event_is_notified_three_times_an_hour_and_hides_no_other() {
        let app = app().await;
        for mails in [1, 2, 3, 3, 3] {
            record(&app, "ada", recovery_code::USED).await;
            assert_eq!(app.mails().await.len(), mails);
        }
        record(&app, "ada", address::CHANGED).await;
        assert_eq!(app.mails().await.len(), 4);
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        record(&app, "bob", recovery_code::USED).await;
        assert_eq!(app.mails().await.len(), 5);
        app.execute("update limits set free_at = free_at - 1200000").await;
        record(&app, "ada", recovery_code::USED).await;
        assert_eq!(app.mails().await.len(), 6);
    }

    #[tokio::test]
    async fn the_page_says_what_happened_and_viewing_it_changes_nothing() {
        let app = app().await;
        let ada = app.browser_of("ada").await;
        app.mails().await;
        record(&app, "ada", USERNAME_CHANGED).await;
        let link = link_to(&app, ADA).await;
        let rows = "select (select count(*) from tokens) + 10 * (select count(*) from sessions) \
                    + 100 * (select count(*) from passwords) + 1000 * (select count(*) from mails) \
                    + 10000 * (select count(*) from events)";
        let before = app.count(rows).await;
        for _ in 0..5 {
            let page = app.visitor().get(&link).await;
            page.assert_status(200).assert_no_header("set-cookie").assert_contains("<dd>ada</dd>");
            page.assert_contains("Your username was changed.").assert_contains(ADA).assert_contains(" UTC");
        }
        for method in [Method::HEAD, Method::OPTIONS] {
            app.visitor().send(method, &link, &[], "").await;
        }
        assert_eq!(app.count(rows).await, before);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn after_an_undo_only_a_mail_to_the_address_opens_the_account() {
        let app = app().await;
        let thief = app.browser_of("ada").await;
        let (bob, bobs) = (app.person("bob").await, "bob@example.com");
        app.confirm_address("bob", bobs).await;
        record(&app, "bob", USERNAME_CHANGED).await;
        let theirs = link_to(&app, bobs).await;
        for name in ["ada", "bob"] {
            let id = app.user(name).await;
            let insert = async |db: &mut Connection| {
                let sql = "insert into recovery_codes (code_hash, user_id) values ($1, $2)";
                Ok(sqlx::query(sql).bind(name.as_bytes().to_vec()).bind(id).execute(db).await?)
            };
            app.app.db.write(insert).await.unwrap();
            assert!(!app.is_password_of(name, "not the password").await);
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
        browser.get(&theirs).await.assert_contains("Your account is yours again and every device is logged out.");
        thief.assert_is("nobody").await;
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        assert_eq!(resets(&app).await, [ADA]);
        assert_eq!(app.count("select count(*) from events where kind = 'undone'").await, 1);
        let id = app.user("ada").await;
        let devices = async |db: &mut Connection| {
            let sql = "select count(*) from devices where user_id = $1";
            Ok(sqlx::query_scalar(sql).bind(&*id).fetch_one(db).await?)
        };
        let devices: i64 = app.app.db.read(devices).await.unwrap();
        assert_eq!(devices, 0);

        // Bob's account is as it was.
        bob.assert_is("bob").await;
        assert_eq!(address_of(&app, "bob").await.as_deref(), Some(bobs));
        for left in ["select count(*) from recovery_codes", counted] {
            assert_eq!(app.count(left).await, 1);
        }
        assert!(app.is_password_of("bob", PASSWORD).await && !app.is_password_of("ada", PASSWORD).await);
        app.visitor().get(&theirs).await.assert_status(200);
    }

    #[tokio::test]
    async fn of_many_requests_to_undo_at_once_one_succeeds() {
        let app = app().await;
        record(&app, "ada", USERNAME_CHANGED).await;
        let link = link_to(&app, ADA).await;
        let answers = join_all((0..20).map(|_| press(&app, &link))).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
        assert_eq!(app.count("select count(*) from events where kind = 'undone'").await, 1);
    }

    /// A mail is sent again when the server's answer was lost.
    #[tokio::test]
    async fn of_a_mail_that_was_sent_twice_both_links_work_until_one_is_used() {
        let app = app().await;
        record(&app, "ada", USERNAME_CHANGED).await;
        let once = link_to(&app, ADA).await;
        let id = app.user("ada").await;
        let again = async |db: &mut Connection| {
            let sql = "select id from events where user_id = $1 order by id desc limit 1";
            let event: String = sqlx::query_scalar(sql).bind(&*id).fetch_one(&mut *db).await?;
            outbox::queue_to_user(db, event::NOTICE, &id, &event).await
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
        record(&app, "ada", USERNAME_CHANGED).await;
        let spent = link_to(&app, ADA).await;
        assert_eq!(press(&app, &spent).await, 303);
        record(&app, "ada", recovery_code::USED).await;
        let expired = link_to(&app, ADA).await;
        app.execute("update tokens set expires_at = expires_at - 7 * 86400").await;
        let unknown = format!("/undo/{}", Token::random().unwrap().text());
        let expected = app.visitor().get(&unknown).await.assert_status(404).text();
        assert!(expected.contains("This link no longer works"), "{expected}");
        for link in [&*spent, &expired, &unknown, "/undo/x"] {
            assert_eq!(app.visitor().get(link).await.assert_status(404).text(), expected, "{link}");
            let answer = app.visitor().post(link, &[]).await;
            assert_eq!(answer.assert_status(404).assert_no_header("set-cookie").text(), expected, "{link}");
        }
    }

    #[tokio::test]
    async fn a_link_works_for_seven_days_whatever_follows_unless_the_account_is_deleted() {
        let app = app().await;
        record(&app, "ada", lifecycle::NEW_BROWSER).await;
        let first = link_to(&app, ADA).await;
        let (id, client) = (app.user("ada").await, app.login().await.client);
        for _ in 0..20 {
            record(&app, "ada", USERNAME_CHANGED).await;
        }
        app.app.db.write(async |db| lifecycle::revoke_all(db, &id).await).await.unwrap();
        app.execute("update tokens set expires_at = expires_at - 7 * 86400 + 60").await;
        app.visitor().get(&first).await.assert_status(200);
        app.execute("update tokens set expires_at = expires_at - 60").await;
        app.visitor().get(&first).await.assert_status(404);

        app.execute("update tokens set expires_at = expires_at + 60").await;
        let last = link_to(&app, ADA).await;
        app.app
            .db
            .write(async |db| user::delete(db, &id, Duration::ZERO, user::DELETED.by(&client)).await)
            .await
            .unwrap();
        for link in [first, last] {
            assert_eq!(press(&app, &link).await, 404);
        }
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn the_owner_undoes_all_that_a_thief_did_to_the_address_and_revokes_the_thiefs_link() {
        let app = app().await;
        let thief = app.browser_of("ada").await;
        change_address(&app, "ada", "t1@example.com").await;
        change_address(&app, "ada", "t2@example.com").await;
        let (owners, thiefs) = (link_to(&app, ADA).await, link_to(&app, "t1@example.com").await);
        app.visitor().get(&thiefs).await.assert_status(200);
        assert_eq!(press(&app, &owners).await, 303);
        thief.assert_is("nobody").await;
        assert_eq!(press(&app, &thiefs).await, 404);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        assert_eq!(resets(&app).await, [ADA]);
    }

    #[tokio::test]
    async fn the_owners_link_beats_the_thiefs_even_when_that_was_used_first() {
        let app = app().await;
        app.browser_of("ada").await;
        change_address(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        change_address(&app, "ada", "t2@example.com").await;
        let thiefs = link_to(&app, "t1@example.com").await;
        assert_eq!(press(&app, &thiefs).await, 303);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some("t1@example.com"));
        // The thief goes on, with the mail that leads to a new password.
        record(&app, "ada", recovery_code::USED).await;
        assert_eq!(resets(&app).await, ["t1@example.com"]);

        assert_eq!(press(&app, &owners).await, 303);
        assert_eq!(address_of(&app, "ada").await.as_deref(), Some(ADA));
        // The mails to the thief that were not sent yet are cancelled.
        assert_eq!(resets(&app).await, [ADA]);
        let unsent = "select count(*) from mails m join events e on e.id = m.about where e.kind <> 'undone'";
        assert_eq!(app.count(unsent).await, 0);
        assert_eq!(
            app.count("select count(*) from tokens where purpose = 'undo' and email <> 'ada@example.com'").await,
            0
        );
    }

    #[tokio::test]
    async fn a_thief_whose_mail_was_slow_is_not_notified_of_what_was_undone() {
        let app = app().await;
        change_address(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        change_address(&app, "ada", "t2@example.com").await;
        assert_eq!(press(&app, &owners).await, 303);
        let mails = app.mails().await;
        let others: Vec<_> = mails.iter().filter(|mail| mail.email != ADA).collect();
        assert!(others.iter().all(|mail| mail.content.subject == UNDONE.notice.unwrap().subject));
    }

    #[tokio::test]
    async fn what_was_done_with_two_factors_cannot_be_undone_by_mail() {
        let app = app().await;
        change_address_at(&app, "ada", "lovelace@example.com", AuthLevel::TwoFactors).await;
        let mails = app.mails().await;
        let notice = mails.iter().find(|mail| mail.email == ADA).expect("the old address is notified");
        assert_eq!(notice.content.subject, "Your e-mail address was changed");
        assert!(!notice.content.text.contains("/undo/") && !notice.content.html.contains("/undo/"));
    }

    const APP: Factor = Factor {
        name: "app",
        added: Event::named("app_added", "App added"),
        undo: "delete from tokens where user_id = $1 and expires_at >= $2 and purpose = 'app'",
        ..SECOND_FACTOR
    };
    const KEY: Factor = Factor {
        name: "key",
        added: Event::named("key_added", "Key added"),
        undo: "delete from tokens where user_id = $1 and expires_at >= $2 and purpose = 'key'",
        ..SECOND_FACTOR
    };

    /// How many factors are left after an undo, of an app and a key that were there before and an app and a key that were
    /// added since, at these levels. Tokens stand for them.
    async fn left_of_four(levels: [AuthLevel; 2]) -> i64 {
        let app = TestApp::with_features(&[], |features| {
            features.push(Feature { factor: Some(APP), ..Feature::named("app") });
            features.push(Feature { factor: Some(KEY), ..Feature::named("key") });
        });
        let app = app.await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        record(&app, "ada", USERNAME_CHANGED).await;
        let (link, ada) = (link_to(&app, ADA).await, app.user("ada").await);
        for (factor, level) in [APP, KEY].into_iter().zip(levels) {
            for added_at in [now() - 60, now()] {
                let insert = async |db: &mut Connection| {
                    let sql = "insert into tokens (token_hash, purpose, user_id, expires_at) values ($1, $2, $3, $4)";
                    let query = sqlx::query(sql).bind(Token::random()?.hash().to_vec()).bind(factor.name);
                    Ok(query.bind(&*ada).bind(added_at).execute(db).await?)
                };
                app.app.db.write(insert).await.unwrap();
            }
            record_at(&app, "ada", factor.added, level).await;
        }
        assert_eq!(press(&app, &link).await, 303);
        app.count("select count(*) from tokens where purpose in ('app', 'key')").await
    }

    #[tokio::test]
    async fn factors_added_since_the_event_are_removed_and_older_ones_stay() {
        assert_eq!(left_of_four([AuthLevel::OneFactor; 2]).await, 2);
    }

    #[tokio::test]
    async fn a_thief_who_adds_a_second_factor_with_the_first_loses_both() {
        assert_eq!(left_of_four([AuthLevel::OneFactor, AuthLevel::TwoFactors]).await, 2);
    }

    #[tokio::test]
    async fn factors_that_an_owner_adds_with_two_factors_are_not_removed_by_mail() {
        assert_eq!(left_of_four([AuthLevel::TwoFactors; 2]).await, 4);
    }

    #[tokio::test]
    async fn an_address_that_another_user_has_by_now_stays_theirs_and_the_thief_keeps_none() {
        let app = app().await;
        change_address(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        let bob = app.person("bob").await;
        app.confirm_address("bob", ADA).await;
        assert_eq!(press(&app, &owners).await, 303);
        assert_eq!(address_of(&app, "ada").await, None);
        assert_eq!(address_of(&app, "bob").await.as_deref(), Some(ADA));
        bob.assert_is("bob").await;
        assert_eq!(resets(&app).await, [ADA]);
    }

    /// It need not be a thief's: people who have lost a mailbox to a thief change the address too.
    #[tokio::test]
    async fn the_address_that_loses_the_account_is_notified_and_gets_no_link() {
        let app = app().await;
        change_address(&app, "ada", "new@example.com").await;
        let owners = link_to(&app, ADA).await;
        assert_eq!(press(&app, &owners).await, 303);
        let mails = app.mails().await;
        let notices: Vec<_> = mails.iter().filter(|mail| mail.email == "new@example.com").collect();
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].content.subject, UNDONE.notice.unwrap().subject);
        assert!(!notices[0].content.text.contains("/undo/"), "{}", notices[0].content.text);
        // Where the address stays, the mail that leads to a new password is enough.
        record(&app, "ada", USERNAME_CHANGED).await;
        assert_eq!(press(&app, &link_to(&app, ADA).await).await, 303);
        let mails = app.mails().await;
        let notices = mails.iter().filter(|mail| mail.content.subject == UNDONE.notice.unwrap().subject);
        assert_eq!(notices.count(), 1);
    }

    #[tokio::test]
    async fn the_address_can_be_confirmed_for_other_accounts_at_the_same_time_and_one_has_it() {
        let app = app().await;
        change_address(&app, "ada", "t1@example.com").await;
        let owners = link_to(&app, ADA).await;
        let mut links = Vec::new();
        for name in ["bob", "cyd"] {
            app.person(name).await;
            let (id, lifetime) = (app.user(name).await, app.app.config.verify_lifetime);
            let set = app.app.db.write(async |db| {
                address::set_pending(db, &id, &Email::parse(ADA).unwrap(), AuthLevel::OneFactor).await?;
                link::issue(db, Purpose::Confirm, &id, ADA, "", lifetime).await
            });
            links.push(set.await.unwrap().text());
        }
        let client = app.login().await.client;
        let confirmed = links.iter().map(async |link| {
            let confirm = async |db: &mut Connection| {
                let link = link::consume(db, Purpose::Confirm, link).await?;
                address::confirm(db, &link, &client).await
            };
            app.app.db.write(confirm).await
        });
        let (pressed, confirmed) = tokio::join!(press(&app, &owners), join_all(confirmed));
        assert_eq!(pressed, 303);
        let expected = |result: &Result<()>| matches!(result, Ok(()) | Err(Error::StaleLink));
        assert!(confirmed.iter().all(expected), "{confirmed:?}");
        assert_eq!(app.count("select count(*) from addresses where confirmed_at is not null").await, 1);
        assert_eq!(app.count("select count(*) from addresses").await, 1);
    }
}
