//! One's own e-mail address: given here or at sign-up, and good for something once it is confirmed by the link that is
//! mailed to it.

use crate::access::{Access, Routes, see_other};
use crate::address::{self, Email};
use crate::app::App;
use crate::auth::User;
use crate::database::Connection;
use crate::env::Env;
use crate::error::Result;
use crate::factor::{self, Proven};
use crate::features::Feature;
use crate::form::{Errors, Form, NoFields, query_parameter};
use crate::guard::Client;
use crate::mail::{Mail, Writing};
use crate::page::{Flash, Letter, LetterTemplate, Page, Template, lasting, templates};
use crate::session::Session;
use crate::throttle::{self, Key};
use crate::token::{self, Purpose};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/email";
const LINK: &str = "/email/{token}";

/// Marks the link for mail programs: a POST there confirms nothing, whatever they send along.
const UNSUBSCRIBE: &str = "unsubscribe";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new();
    if env.sends_mail() {
        routes = routes
            .get(PATH, Access::Recent, show)
            .post(PATH, Access::Recent, update)
            .post("/account/email/resend", Access::Recent, resend)
            .post("/account/email/remove", Access::Recent, remove)
            .get(LINK, Access::Public, ask)
            .post(LINK, Access::Public, answer);
    }
    let flashes = &[SENT, REMOVED, CONFIRMED, REJECTED];
    Ok(Feature { routes, flashes, letters: &[(address::CONFIRM, compose)], ..Feature::named("email") })
}

const SENT: Flash = Flash { name: "email_sent", words: "A mail with a link is on its way to this address." };
const REMOVED: Flash = Flash { name: "email_removed", words: "The address was removed." };
const CONFIRMED: Flash = Flash { name: "email_confirmed", words: "Your address is confirmed." };
const REJECTED: Flash = Flash { name: "email_rejected", words: "The address was taken off that account." };

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct EmailForm {
    email: String,
}

#[derive(Serialize)]
struct EmailPage {
    form: EmailForm,
    errors: Errors,
    confirmed: Option<String>,
    pending: Option<String>,
}

impl Template for EmailPage {
    const FILE: &'static str = templates::EMAIL_EDIT;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    page.show(&edit(&app, &user, EmailForm::default(), Errors::default()).await?).await
}

async fn edit(app: &App, user: &User, form: EmailForm, errors: Errors) -> Result<EmailPage> {
    let own = app.db.read(async |db| address::of_user(db, &user.id).await).await?;
    Ok(EmailPage { form, errors, confirmed: own.confirmed, pending: own.pending })
}

async fn update(
    State(app): State<App>,
    session: Session,
    client: Client,
    page: Page,
    Form(form): Form<EmailForm>,
) -> Result<Response> {
    let user = &session.user;
    let own = app.db.read(async |db| address::of_user(db, &user.id).await).await?;
    let mistake = match Email::parse(&form.email) {
        Ok(email) if own.confirmed.as_deref() == Some(email.as_str()) => {
            "This is your address already.".into()
        }
        Ok(email) => return begin(&app, &session, &client, &email).await,
        Err(sentence) => sentence,
    };
    page.refuse(&edit(&app, user, form, Errors::from(("email", mistake))).await?).await
}

async fn resend(
    State(app): State<App>,
    session: Session,
    client: Client,
    _: Form<NoFields>,
) -> Result<Response> {
    let own = app.db.read(async |db| address::of_user(db, &session.user.id).await).await?;
    match own.pending.as_deref().map(Email::parse) {
        Some(Ok(email)) => begin(&app, &session, &client, &email).await,
        _ => Ok(see_other(PATH)),
    }
}

/// Whether the address is somebody else's already is not told here, but in the mail.
async fn begin(app: &App, session: &Session, client: &Client, email: &Email) -> Result<Response> {
    let (key, rate) = (Key::address("mail", client.address), app.config.mails_per_address);
    app.db.note(async |db| throttle::take(db, &key, rate).await).await?;
    let begun = app.db.write(async |db| {
        factor::hold(app, db, session).await?;
        address::begin(db, &session.user.id, email, session.proven).await
    });
    begun.await?;
    Ok(answered(app, SENT, PATH))
}

fn answered(app: &App, flash: Flash, path: &str) -> Response {
    (CookieJar::new().add(flash.cookie(&app.config)), see_other(path)).into_response()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RemoveForm {
    /// Which one; without it all.
    email: Option<String>,
}

async fn remove(
    State(app): State<App>,
    session: Session,
    client: Client,
    Form(form): Form<RemoveForm>,
) -> Result<Response> {
    let removed = app.db.write(async |db| {
        factor::hold(&app, db, &session).await?;
        let user_id = &*session.user.id;
        let own = address::of_user(db, user_id).await?;
        for email in own.all().filter(|own| form.email.as_deref().is_none_or(|email| email == *own)) {
            address::remove(db, user_id, email, session.proven, &client).await?;
        }
        Ok(())
    });
    removed.await?;
    Ok(answered(&app, REMOVED, PATH))
}

#[derive(Serialize)]
struct LinkPage {
    username: String,
    email: String,
}

impl Template for LinkPage {
    const FILE: &'static str = templates::EMAIL_LINK;
}

async fn ask(State(app): State<App>, page: Page, Path(token): Path<String>) -> Result<Response> {
    let link = app.db.read(async |db| token::find(db, Purpose::Confirm, &token).await).await?;
    page.show(&LinkPage { username: link.username, email: link.email }).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LinkForm {
    /// Sent with any value: this is not mine.
    reject: Option<String>,
    /// What mail programs send for somebody who wants no more of this (RFC 8058).
    #[serde(rename = "List-Unsubscribe")]
    unsubscribe: Option<String>,
}

async fn answer(
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
    Form(form): Form<LinkForm>,
) -> Result<Response> {
    let one_click = query_parameter(query.as_deref(), UNSUBSCRIBE).is_some();
    let rejected = form.reject.is_some() || form.unsubscribe.is_some() || one_click;
    let answer = app.db.write(async |db| {
        let link = token::spend(db, Purpose::Confirm, &token).await?;
        match rejected {
            true => address::remove(db, &link.user_id, &link.email, Proven::OneFactor, &client).await,
            false => address::confirm(db, &link, &client).await,
        }
    });
    answer.await?;
    Ok(answered(&app, if rejected { REJECTED } else { CONFIRMED }, "/"))
}

#[derive(Serialize)]
struct ConfirmLetter {
    username: String,
    email: String,
    /// None when the address is another account's.
    link: Option<String>,
    lifetime: String,
}

impl LetterTemplate for ConfirmLetter {
    const TEXT: &'static str = templates::EMAIL_CONFIRM_TXT;
    const HTML: &'static str = templates::EMAIL_CONFIRM;
}

fn compose<'a>(app: &'a App, db: &'a mut Connection, mail: &'a Mail, user: Option<User>) -> Writing<'a> {
    write(app, db, mail, user).boxed()
}

async fn write(app: &App, db: &mut Connection, mail: &Mail, user: Option<User>) -> Result<Option<Letter>> {
    let Some(User { id: user_id, username }) = user else { return Ok(None) };
    let waits = address::of_user(db, &user_id).await?.pending.as_ref() == Some(&mail.email);
    if !waits || !mail.is_within_limits(app, db, &user_id).await? {
        return Ok(None);
    }
    let lifetime = app.config.verify_lifetime;
    let link = match address::owner(db, &mail.email).await? {
        Some(_) => None,
        None => {
            let token = token::issue(db, Purpose::Confirm, &user_id, &mail.email, &mail.id, lifetime).await?;
            Some(format!("{}/email/{}", app.config.origin(), token.text()))
        }
    };
    let template = ConfirmLetter {
        username,
        email: mail.email.clone(),
        link: link.clone(),
        lifetime: lasting(lifetime),
    };
    let unsubscribe = link.map(|link| format!("{link}?{UNSUBSCRIBE}=yes"));
    Ok(Some(Letter { unsubscribe, ..app.pages.letter(&template)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::{check, check_letters};
    use crate::test::{TestApp, Visitor};
    use axum::http::Method;
    use futures_util::future::join_all;

    const REMOVE: &str = "/account/email/remove";
    const ADA: &str = "ada@example.com";

    async fn give(visitor: &Visitor, email: &str) {
        visitor.post(PATH, &[("email", email)]).await.assert_redirect(PATH);
    }

    async fn owner(app: &TestApp, email: &str) -> i64 {
        let owners = app.app.db.read(async |db| address::owner(db, email).await).await.unwrap();
        i64::from(owners.is_some())
    }

    #[test]
    fn its_pages_render() {
        let page = |confirmed: Option<&str>, pending: Option<&str>| EmailPage {
            form: EmailForm { email: "a@b".into() },
            errors: Errors::from(("email", "No.".to_string())),
            confirmed: confirmed.map(String::from),
            pending: pending.map(String::from),
        };
        let (old, new) = (Some(ADA), Some("lovelace@example.com"));
        check(&[page(None, None), page(old, None), page(None, new), page(old, new)]);
        check(&[LinkPage { username: "ada".into(), email: ADA.into() }]);
        let letter = |link: Option<&str>| ConfirmLetter {
            username: "ada".into(),
            email: ADA.into(),
            link: link.map(String::from),
            lifetime: "24 hours".into(),
        };
        check_letters(&[letter(Some("http://localhost:8000/email/x")), letter(None)]);
    }

    #[tokio::test]
    async fn an_address_is_ones_own_once_its_link_is_followed_and_confirmed() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        give(&ada, "Ada@Example.com").await;
        ada.get(PATH).await.assert_contains("Waits to be confirmed").assert_contains(ADA);
        let mails = app.mails().await;
        assert_eq!((mails.len(), &*mails[0].email), (1, ADA));
        assert!(mails[0].letter.text.contains("account ada") && mails[0].letter.html.contains("Confirm"));
        let link = app.link_to(ADA).await;
        let unsubscribe = format!("http://localhost:8000{link}?unsubscribe=yes");
        assert_eq!(mails[0].letter.unsubscribe, Some(unsubscribe));

        // In another browser, where nobody is logged in.
        let phone = app.visitor();
        phone.get(&link).await.assert_status(200).assert_contains("ada").assert_contains(ADA);
        assert_eq!(owner(&app, ADA).await, 0);
        let answer = phone.post(&link, &[]).await;
        assert!(answer.assert_redirect("/").header("set-cookie").starts_with("flash=email_confirmed;"));
        assert_eq!(owner(&app, ADA).await, 1);
        ada.get(PATH).await.assert_contains("Yours").assert_lacks("Waits");
        phone.post(&link, &[]).await.assert_status(404).assert_contains("does not work any more");
    }

    #[tokio::test]
    async fn looking_at_a_link_spends_nothing_and_of_many_who_press_the_button_one_does() {
        let app = TestApp::new().await;
        give(&app.person("ada").await, ADA).await;
        let link = app.link_to(ADA).await;
        let scanner = app.visitor();
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::GET, Method::GET, Method::GET] {
            scanner.send(method, &link, &[], "").await;
        }
        assert_eq!(owner(&app, ADA).await, 0);
        let answers = join_all((0..20).map(async |_| app.visitor().post(&link, &[]).await.status)).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
    }

    #[tokio::test]
    async fn whoever_gets_a_mail_that_is_not_for_them_says_so_and_the_address_is_gone() {
        let app = TestApp::new().await;
        let mallory = app.person("mallory").await;
        for says in ["reject", "List-Unsubscribe"] {
            give(&mallory, ADA).await;
            let link = app.link_to(ADA).await;
            app.visitor().get(&link).await.assert_contains("This is not mine");
            app.visitor().post(&link, &[(says, "One-Click")]).await.assert_redirect("/");
            assert_eq!(app.count("select count(*) from addresses").await, 0);
            app.visitor().get(&link).await.assert_status(404);
        }
    }

    /// They should send `List-Unsubscribe=One-Click`, and some send something else or nothing.
    #[tokio::test]
    async fn a_mail_program_that_unsubscribes_never_confirms() {
        let app = TestApp::new().await;
        let mallory = app.person("mallory").await;
        for body in ["List-Unsubscribe=One-Click", "list-unsubscribe=one-click", "List-Unsubscribe=", ""] {
            give(&mallory, ADA).await;
            app.execute("delete from limits").await;
            let link = app.mails().await[0].letter.unsubscribe.clone().unwrap();
            let link = link.strip_prefix("http://localhost:8000").unwrap();
            // Where it is opened as a page, a person still chooses.
            app.visitor().get(link).await.assert_contains("action=\"?\"").assert_contains("Yes, confirm it");
            let form = Some("application/x-www-form-urlencoded");
            app.visitor().post_body(link, form, body.as_bytes()).await.assert_status(303);
            assert_eq!(app.count("select count(*) from addresses").await, 0, "{body:?}");
        }
    }

    #[tokio::test]
    async fn whoever_proves_an_address_first_has_it_and_what_others_had_begun_with_it_ends() {
        let app = TestApp::new().await;
        let (ada, mallory) = (app.person("ada").await, app.person("mallory").await);
        give(&mallory, ADA).await;
        let theirs = app.link_to(ADA).await;
        give(&ada, ADA).await;
        let hers = app.link_to(ADA).await;
        app.visitor().post(&hers, &[]).await.assert_status(303);
        app.visitor().get(&theirs).await.assert_status(404);
        app.visitor().post(&theirs, &[]).await.assert_status(404);
        mallory.get(PATH).await.assert_lacks(ADA);

        // To ask again looks the same to Mallory; the mail that comes of it opens nothing.
        give(&mallory, ADA).await;
        mallory.get(PATH).await.assert_contains("Waits to be confirmed");
        let told = &app.mails().await[0];
        assert!(told.letter.subject.contains("in use already") && !told.letter.text.contains("/email/"));
        assert_eq!(owner(&app, ADA).await, 1);
        ada.get(PATH).await.assert_contains("Yours");
    }

    #[tokio::test]
    async fn two_who_prove_one_address_at_the_same_time_do_not_both_have_it() {
        let app = TestApp::new().await;
        let mut links = Vec::new();
        for name in ["ada", "bob", "cyd"] {
            give(&app.person(name).await, ADA).await;
            links.push(app.link_to(ADA).await);
        }
        let answers =
            join_all(links.iter().map(async |link| app.visitor().post(link, &[]).await.status)).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
        assert_eq!(app.count("select count(*) from addresses").await, 1);
    }

    #[tokio::test]
    async fn a_new_address_takes_the_old_ones_place_when_it_is_confirmed_and_not_before() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        give(&ada, "lovelace@example.com").await;
        ada.get(PATH).await.assert_contains(&format!("Until then {ADA} stays your address"));
        let link = app.link_to("lovelace@example.com").await;
        assert_eq!(owner(&app, ADA).await, 1);
        app.visitor().post(&link, &[]).await.assert_redirect("/");
        assert_eq!((owner(&app, ADA).await, owner(&app, "lovelace@example.com").await), (0, 1));
        // The old address is told.
        let told = "select count(*) from mails where kind = 'notice' and email = 'ada@example.com'";
        assert_eq!(app.count(told).await, 1);
    }

    #[tokio::test]
    async fn the_newest_link_is_the_only_one_that_works_and_not_for_ever() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        give(&ada, ADA).await;
        let first = app.link_to(ADA).await;
        ada.post("/account/email/resend", &[]).await.assert_redirect(PATH);
        let second = app.link_to(ADA).await;
        assert_ne!(first, second);
        app.visitor().get(&first).await.assert_status(404);
        app.execute("update tokens set expires_at = expires_at - 86400").await;
        app.visitor().get(&second).await.assert_status(404);
        app.visitor().post(&second, &[]).await.assert_status(404);
        assert_eq!(owner(&app, ADA).await, 0);
    }

    #[tokio::test]
    async fn to_ask_for_one_mail_too_many_leaves_the_link_that_came_last() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            give(&ada, ADA).await;
            app.mails().await;
        }
        let link = app.link_to(ADA).await;
        app.visitor().post(&link, &[]).await.assert_redirect("/");
        assert_eq!(owner(&app, ADA).await, 1);
        // A link to one address is none to another that was asked for instead.
        give(&ada, "lovelace@example.com").await;
        app.execute("delete from limits").await;
        let link = app.link_to("lovelace@example.com").await;
        give(&ada, "countess@example.com").await;
        app.visitor().get(&link).await.assert_status(404);
    }

    #[tokio::test]
    async fn more_than_three_mails_an_hour_do_not_go_and_nobody_sees_a_difference() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            give(&ada, ADA).await;
            app.mails().await;
        }
        assert_eq!(app.mails().await.len(), 3);
        let app = TestApp::with_env(&[("MAILS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        let ada = app.person("ada").await;
        give(&ada, ADA).await;
        give(&ada, ADA).await;
        ada.post(PATH, &[("email", ADA)]).await.assert_status(429).assert_header("retry-after", "1800");
    }

    #[tokio::test]
    async fn what_is_no_address_is_told_beside_the_field_and_stays_there() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        for wrong in
            ["", "ada", "a@b.example,c@d.example", "a@b.example\r\nBcc: c@d.example", "ada@exampıe.com"]
        {
            let answer = ada.post(PATH, &[("email", wrong)]).await;
            answer.assert_status(422).assert_contains("does not look like an address");
        }
        ada.post(PATH, &[("email", "ada@")]).await.assert_contains("value=\"ada@\"");
        let own = ada.post(PATH, &[("email", "ADA@example.com")]).await;
        own.assert_status(422).assert_contains("This is your address already.");
        let twice = b"email=a%40b.example&email=c%40d.example";
        let form = Some("application/x-www-form-urlencoded");
        ada.post_body(PATH, form, twice).await.assert_status(400);
        assert_eq!(app.mails().await.len(), 0);
    }

    #[tokio::test]
    async fn an_address_is_removed_by_its_owner_and_told_of_it() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.confirm_address("ada", ADA).await;
        bob.post("/account/email/remove", &[("email", ADA)]).await.assert_redirect(PATH);
        assert_eq!(owner(&app, ADA).await, 1);
        give(&ada, "lovelace@example.com").await;
        ada.post("/account/email/remove", &[("email", "lovelace@example.com")]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_lacks("lovelace").assert_contains(ADA);
        ada.post("/account/email/remove", &[("email", ADA)]).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from addresses").await, 0);
        assert_eq!(app.count("select count(*) from mails where kind = 'notice'").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'address_removed'").await, 1);
    }

    #[tokio::test]
    async fn what_a_changed_password_ends_are_links_on_their_way_too() {
        let app = TestApp::new().await;
        let thief = app.person("ada").await;
        give(&thief, "thief@example.com").await;
        let link = app.link_to("thief@example.com").await;
        give(&thief, "thief@example.com").await;
        let ada = app.user("ada").await;
        app.app.db.write(async |db| token::end_begun(db, &ada).await).await.unwrap();
        app.visitor().post(&link, &[]).await.assert_status(404);
        assert_eq!(app.mails().await.len(), 1);
        assert_eq!(owner(&app, "thief@example.com").await, 0);
    }

    #[tokio::test]
    async fn without_mail_there_is_nothing_of_it() {
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_status(404);
        ada.get("/account").await.assert_lacks("mail");
        app.visitor().get("/signup").await.assert_lacks("mail");
    }

    #[tokio::test]
    async fn the_address_of_somebody_disabled_stays_theirs_and_whoever_wants_it_keeps_what_they_have() {
        let app = TestApp::new().await;
        let (_ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.confirm_address("bob", "bob@example.com").await;
        give(&bob, ADA).await;
        let link = app.link_to(ADA).await;
        app.execute(
            "insert into addresses (user_id, email, confirmed_at) \
             select id, 'ada@example.com', 1 from users where username = 'ada'",
        )
        .await;
        app.execute("update users set disabled_at = 1 where username = 'ada'").await;
        app.visitor().post(&link, &[]).await.assert_status(404);
        assert_eq!(owner(&app, "bob@example.com").await, 1);
        give(&bob, ADA).await;
        let told = &app.mails().await[0];
        assert!(told.letter.subject.contains("in use already"), "{}", told.letter.text);
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_meanwhile_gives_and_removes_no_address() {
        for (path, fields) in [(PATH, [("email", "thief@example.com")]), (REMOVE, [("email", ADA)])] {
            let app = TestApp::new().await;
            let thief = app.person("ada").await;
            app.confirm_address("ada", ADA).await;
            app.ended_meanwhile("ada", thief.post(path, &fields)).await.assert_status(404);
            assert_eq!(owner(&app, ADA).await, 1, "{path}");
            assert_eq!(app.count("select count(*) from addresses").await, 1, "{path}");
        }
    }
}
