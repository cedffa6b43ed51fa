//! The user's e-mail address: given here or at sign-up, and used once it is confirmed by the link that is mailed to it.

use super::feature::Feature;
use crate::accounts::address::{self, Addresses, Email, readable};
use crate::accounts::link::{self, CONFIRM_MAIL, Link, Purpose};
use crate::accounts::{AuthLevel, Client, Event, Session, User, event};
use crate::base::{Env, Error, FieldErrors, Result};
use crate::db::Connection;
use crate::mail::{Mail, MailContent};
use crate::web::app::REQUESTED_MAIL;
use crate::web::format::{duration, url_encode};
use crate::web::security::own_referer;
use crate::web::{
    Access, AccountGroup, AccountRow, App, Empty, Flash, Form, MailTemplate, Page, Query, Redirect, Routes, RowState,
    Template, credentials, factors, files, redirect,
};
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

const PATH: &str = "/account/email";
const REMOVE: &str = "/account/email/remove";
const LINK: &str = "/email/{token}";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let mut routes = Routes::new();
    if env.sends_mail()? {
        routes = routes
            .get(PATH, Access::User, show)
            .post(PATH, Access::Recent, update)
            .post("/account/email/resend", Access::Recent, resend)
            .get(REMOVE, Access::User, ask_to_remove)
            .post(REMOVE, Access::Recent, remove)
            .get(LINK, Access::Public, show_link)
            .post(LINK, Access::Public, answer_link)
            .once();
    }
    Ok(Feature {
        routes,
        events: &[CLEARED],
        flashes: &[SENT, SENT_AGAIN, REMOVED, CONFIRMED, REJECTED, CHOOSE_PASSWORD],
        mails: &[(CONFIRM_MAIL, write_mail)],
        account_row: env.sends_mail()?.then_some(ROW),
        ..Feature::named("email")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Profile, 2, "E-mail address", PATH, |db, context| {
    async move {
        let own = address::of_user(db, &context.session.user.id).await?;
        let [confirmed, pending] = [own.confirmed, own.pending].map(|email| email.as_deref().map(readable));
        Ok(match (confirmed, pending) {
            (None, None) => RowState::new("None", "Add"),
            (Some(confirmed), None) => RowState::new(confirmed, "Change"),
            (None, Some(pending)) => RowState::new(format!("{pending}, not confirmed yet"), "Change").warning(),
            (Some(confirmed), Some(pending)) => {
                RowState::new(format!("{confirmed}; {pending} is not confirmed yet"), "Change")
            }
        })
    }
    .boxed()
});

const CLEARED: Event = Event::named("account_cleared", "Removed the password and everything else that had been added");

const SENT: Flash = Flash { name: "email_sent", words: "We have mailed you a link. Open it to confirm the address." };
const SENT_AGAIN: Flash = Flash { name: "email_sent_again", words: "We have sent the link again." };
const REMOVED: Flash = Flash { name: "email_removed", words: "E-mail address removed." };
const CONFIRMED: Flash = Flash { name: "email_confirmed", words: "Your e-mail address is confirmed." };
const REJECTED: Flash = Flash { name: "email_rejected", words: "Your e-mail address was removed from that account." };
const CHOOSE_PASSWORD: Flash = Flash {
    name: "account_cleared",
    words: "Your e-mail address is confirmed. Everything that had been added is gone, and the old password no longer works.",
};

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct EmailForm {
    email: String,
}

impl EmailForm {
    fn validate(&self, own: &Addresses) -> Result<Email, FieldErrors> {
        let email = Email::parse(&self.email).map_err(|sentence| FieldErrors::of("email", sentence))?;
        if own.confirmed.as_deref() == Some(email.as_str()) {
            return Err(FieldErrors::of("email", "This is already your address."));
        }
        Ok(email)
    }
}

#[derive(Serialize, Default)]
struct EmailPage {
    form: EmailForm,
    errors: FieldErrors,
    confirmed: Option<String>,
    pending: Option<String>,
}

impl Template for EmailPage {
    const FILE: &'static str = files::EMAIL_EDIT;
}

async fn show(State(app): State<App>, user: User, page: Page) -> Result<Response> {
    let Addresses { confirmed, pending } = addresses(&app, &user).await?;
    page.render(&EmailPage { confirmed, pending, ..EmailPage::default() }).await
}

async fn update(
    State(app): State<App>,
    session: Session,
    client: Client,
    headers: HeaderMap,
    page: Page,
    Form(form): Form<EmailForm>,
) -> Result<Response> {
    let own = addresses(&app, &session.user).await?;
    match form.validate(&own) {
        Ok(email) => {
            set_pending(&app, &session, &client, &email).await?;
            Ok(back(&app, &headers).flash(SENT).into_response())
        }
        Err(errors) => {
            let Addresses { confirmed, pending } = own;
            page.render_errors(&EmailPage { form, errors, confirmed, pending }).await
        }
    }
}

async fn resend(
    State(app): State<App>,
    session: Session,
    client: Client,
    headers: HeaderMap,
    _: Form<Empty>,
) -> Result<Redirect> {
    let own = addresses(&app, &session.user).await?;
    let Some(Ok(email)) = own.pending.as_deref().map(Email::parse) else { return Ok(back(&app, &headers)) };
    set_pending(&app, &session, &client, &email).await?;
    Ok(back(&app, &headers).flash(SENT_AGAIN))
}

/// To the page that the form stood on.
fn back(app: &App, headers: &HeaderMap) -> Redirect {
    let page = own_referer(&app.config, headers);
    redirect(app.find_page(page.as_ref()).unwrap_or(PATH))
}

async fn addresses(app: &App, user: &User) -> Result<Addresses> {
    app.db.read(async |db| address::of_user(db, &user.id).await).await
}

/// Only the mail says whether another user has the address, so that nobody can find out here.
async fn set_pending(app: &App, session: &Session, client: &Client, email: &Email) -> Result<()> {
    let counted = app.count_by_address(REQUESTED_MAIL, client, app.config.mails_per_address).await?;
    let set = app.db.write(async |db| {
        factors::lock_confirmed(app, db, session).await?;
        address::set_pending(db, &session.user.id, email, session.level).await
    });
    counted.decide(set).await
}

/// The query of the page that asks, and the form on it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct RemoveForm {
    /// The address to remove; without it all are removed.
    email: Option<String>,
}

impl RemoveForm {
    /// Those of the user's own addresses that it means.
    fn meant(&self, own: &Addresses) -> Vec<String> {
        let is_meant = |own: &&str| self.email.as_deref().is_none_or(|email| is_same(email, own));
        own.all().filter(is_meant).map(String::from).collect()
    }
}

#[derive(Serialize)]
struct RemovePage {
    email: String,
    /// Whether it is in use, and not only pending.
    is_confirmed: bool,
}

impl Template for RemovePage {
    const FILE: &'static str = files::EMAIL_REMOVE;
}

async fn ask_to_remove(
    State(app): State<App>,
    user: User,
    page: Page,
    Query(form): Query<RemoveForm>,
) -> Result<Response> {
    let own = addresses(&app, &user).await?;
    let Some(email) = form.meant(&own).into_iter().next() else {
        return Ok(redirect(PATH).into_response());
    };
    let is_confirmed = own.confirmed.as_ref() == Some(&email);
    page.render(&RemovePage { email, is_confirmed }).await
}

async fn remove(
    State(app): State<App>,
    session: Session,
    client: Client,
    Form(form): Form<RemoveForm>,
) -> Result<Redirect> {
    let removed = app.db.write(async |db| {
        factors::lock_confirmed(&app, db, &session).await?;
        let user_id = &*session.user.id;
        let meant = form.meant(&address::of_user(db, user_id).await?);
        for email in &meant {
            address::remove(db, user_id, email, session.level, &client).await?;
        }
        Ok(!meant.is_empty())
    });
    Ok(if removed.await? { redirect(PATH).flash(REMOVED) } else { redirect(PATH) })
}

/// Whether this text is that address, which an older version of the site may have stored although it is none to this one.
fn is_same(text: &str, email: &str) -> bool {
    text == email || Email::parse(text).is_ok_and(|parsed| parsed.as_str() == email)
}

#[derive(Serialize)]
struct LinkPage {
    username: String,
    email: String,
}

impl Template for LinkPage {
    const FILE: &'static str = files::EMAIL_LINK;
}

async fn show_link(
    State(app): State<App>,
    user: Option<User>,
    page: Page,
    Path(token): Path<String>,
) -> Result<Response> {
    let read = async |db: &mut Connection| {
        let link = link::find(db, Purpose::Confirm, &token).await?;
        let added = find_added(&app, db, &link, user.as_ref()).await?;
        Ok((link, added.unwrap_or_default()))
    };
    let (Link { username, email, .. }, added) = app.db.read(read).await?;
    if added.is_empty() {
        page.render(&LinkPage { username, email }).await
    } else {
        page.render(&AddedPage { username, email, added, can_remove: app.features.reset_path.is_some() }).await
    }
}

/// Shown instead of the other page if someone else may have prepared the account.
#[derive(Serialize)]
struct AddedPage {
    username: String,
    email: String,
    added: Vec<String>,
    /// Whether a new password can be chosen afterwards.
    can_remove: bool,
}

impl Template for AddedPage {
    const FILE: &'static str = files::EMAIL_ADDED;
}

/// What has been added to the account of this link without the knowledge of the address's owner: someone else may have
/// signed up with it. `None` where that cannot be, because the account had a confirmed address before, or because the link
/// was opened by someone who is logged in to it.
async fn find_added(app: &App, db: &mut Connection, link: &Link, user: Option<&User>) -> Result<Option<Vec<String>>> {
    let is_own = user.is_some_and(|user| user.id == link.user_id);
    if is_own || address::was_ever_confirmed(db, &link.user_id).await? {
        return Ok(None);
    }
    credentials::list(app, db, &link.user_id).await.map(Some)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LinkForm {
    /// Sent with any value: keep what was added. Only someone who can log in to the account can do that.
    keep: Option<String>,
    /// Sent with any value: remove what was added.
    remove: Option<String>,
    /// Sent with any value: this is not mine.
    reject: Option<String>,
    /// What mail programs send to unsubscribe (RFC 8058).
    #[serde(rename = "List-Unsubscribe")]
    unsubscribe: Option<String>,
}

/// The query of the link for mail programs: a POST there confirms nothing, whatever they send along.
const UNSUBSCRIBE: &str = "unsubscribe";

async fn answer_link(
    State(app): State<App>,
    user: Option<User>,
    client: Client,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
    Form(form): Form<LinkForm>,
) -> Result<Redirect> {
    // Mail gateways rewrite links, so the query is only searched.
    let by_program = query.is_some_and(|query| query.contains(UNSUBSCRIBE));
    let is_rejected = by_program || form.reject.or(form.unsubscribe).is_some();
    // A link that does not work costs no turn to write.
    app.db.read(async |db| link::find(db, Purpose::Confirm, &token).await).await?;
    let path = LINK.replace("{token}", &token);
    if form.keep.is_some() && !is_rejected {
        return Ok(redirect(&format!("{}?next={}", app.login_path(), url_encode(&path))));
    }
    let answered = app.db.write(async |db| {
        let link = link::consume(db, Purpose::Confirm, &token).await?;
        if is_rejected {
            address::remove(db, &link.user_id, &link.email, AuthLevel::OneFactor, &client).await?;
            return Ok(redirect("/").flash(REJECTED));
        }
        match (find_added(&app, db, &link, user.as_ref()).await?, form.remove.is_some()) {
            (Some(_), true) => clear(&app, db, &link, &client).await,
            (None, false) => confirm(db, &link, &client).await,
            (Some(added), false) if added.is_empty() => confirm(db, &link, &client).await,
            // It is not as the page has shown it, and by this error the link can be used again.
            _ => Err(Error::Redirect(path.clone())),
        }
    });
    answered.await
}

async fn confirm(db: &mut Connection, link: &Link, client: &Client) -> Result<Redirect> {
    address::confirm(db, link, client).await?;
    Ok(redirect("/").flash(CONFIRMED))
}

/// Confirms the address, and removes every password and factor with which someone could get into the account.
/// The owner of the address chooses a new password next.
async fn clear(app: &App, db: &mut Connection, link: &Link, client: &Client) -> Result<Redirect> {
    let path = app.features.reset_path.ok_or(Error::NOT_FOUND)?;
    let user_id = &*link.user_id;
    address::confirm(db, link, client).await?;
    credentials::remove_all(app, db, user_id).await?;
    event::record(db, user_id, CLEARED.by(client)).await?;
    let token = link::issue(db, Purpose::Reset, user_id, &link.email, "", app.config.reset_lifetime).await?;
    Ok(redirect(&path.replace("{token}", &token.text())).flash(CHOOSE_PASSWORD))
}

#[derive(Serialize)]
struct ConfirmMail {
    username: String,
    email: String,
    /// `None` when the address is another account's.
    link: Option<String>,
    lifetime: String,
}

impl MailTemplate for ConfirmMail {
    const TEXT: &'static str = files::EMAIL_CONFIRM_TXT;
    const HTML: &'static str = files::EMAIL_CONFIRM;
}

fn write_mail<'a>(
    app: &'a App,
    db: &'a mut Connection,
    mail: &'a Mail,
    user: Option<User>,
) -> BoxFuture<'a, Result<Option<MailContent>>> {
    Box::pin(async move {
        let Some(User { id: user_id, username }) = user else { return Ok(None) };
        let is_pending = address::of_user(db, &user_id).await?.pending.as_ref() == Some(&mail.email);
        if !is_pending || !link::count_mail(&app.config, db, mail, &user_id).await? {
            return Ok(None);
        }
        let (email, lifetime) = (mail.email.clone(), app.config.verify_lifetime);
        let link = match address::owner(db, &email).await? {
            Some(_) => None,
            None => {
                let token = link::issue(db, Purpose::Confirm, &user_id, &email, &mail.id, lifetime).await?;
                Some(app.config.link(LINK, &token))
            }
        };
        let unsubscribe = link.as_ref().map(|link| format!("{link}?{UNSUBSCRIBE}=yes"));
        let mail = ConfirmMail { username, email, link, lifetime: duration(lifetime) };
        Ok(Some(MailContent { unsubscribe, ..app.templates.mail(&mail)? }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::stored_token::NewToken;
    use crate::accounts::{recovery_code, stored_token};
    use crate::db::new_id;
    use crate::test::{PASSWORD, TestApp, Visitor, check, check_mails};
    use crate::web::AddedCredentials;
    use axum::http::Method;
    use futures_util::future::join_all;
    use std::time::Duration;

    const ADA: &str = "ada@example.com";

    async fn set_address(visitor: &Visitor, email: &str) {
        // Another body, so that asking again is not pressing twice.
        visitor.post(PATH, &[("email", email), ("number", &new_id())]).await.assert_redirect(PATH);
    }

    async fn owners(app: &TestApp, email: &str) -> i64 {
        let owner = app.app.db.read(async |db| address::owner(db, email).await).await.unwrap();
        i64::from(owner.is_some())
    }

    #[test]
    fn its_pages_render() {
        let page = |confirmed: Option<&str>, pending: Option<&str>| EmailPage {
            form: EmailForm { email: "a@b".into() },
            errors: FieldErrors::of("email", "No."),
            confirmed: confirmed.map(String::from),
            pending: pending.map(String::from),
        };
        let (old, new) = (Some(ADA), Some("lovelace@example.com"));
        check(&[page(None, None), page(old, None), page(None, new), page(old, new)]);
        let removal = |is_confirmed| RemovePage { email: ADA.into(), is_confirmed };
        check(&[removal(true), removal(false)]);
        check(&[LinkPage { username: "ada".into(), email: ADA.into() }]);
        let added = |can_remove| AddedPage {
            username: "ada".into(),
            email: ADA.into(),
            added: vec!["A key".into(), "10 recovery codes".into()],
            can_remove,
        };
        check(&[added(true), added(false)]);
        let mail = |link: Option<&str>| ConfirmMail {
            username: "ada".into(),
            email: ADA.into(),
            link: link.map(String::from),
            lifetime: "24 hours".into(),
        };
        check_mails(&[mail(Some("http://localhost:8000/email/x")), mail(None)]);
    }

    #[tokio::test]
    async fn an_address_belongs_to_the_user_once_its_link_is_confirmed() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        set_address(&ada, "Ada@Example.com").await;
        ada.get(PATH).await.assert_contains("Not confirmed yet").assert_contains(ADA);
        let mails = app.mails().await;
        assert_eq!((mails.len(), &*mails[0].email), (1, ADA));
        assert!(mails[0].content.text.contains("account ada") && mails[0].content.html.contains("Confirm"));
        let link = app.link_to(ADA).await;
        let unsubscribe = format!("http://localhost:8000{link}?unsubscribe=yes");
        assert_eq!(mails[0].content.unsubscribe, Some(unsubscribe));

        // In another browser, where nobody is logged in.
        let phone = app.visitor();
        phone.get(&link).await.assert_status(200).assert_contains("ada").assert_contains(ADA);
        assert_eq!(owners(&app, ADA).await, 0);
        let answer = phone.post(&link, &[]).await;
        assert!(answer.assert_redirect("/").header("set-cookie").starts_with("flash=email_confirmed;"));
        assert_eq!(owners(&app, ADA).await, 1);
        ada.get(PATH).await.assert_contains("Confirmed").assert_lacks("Not confirmed yet");
        phone.post(&link, &[]).await.assert_redirect("/");
        app.end_repeats().await;
        phone.post(&link, &[]).await.assert_status(404).assert_contains("no longer works");
    }

    #[tokio::test]
    async fn viewing_a_link_does_not_use_it_up_and_of_many_requests_to_confirm_one_succeeds() {
        let app = TestApp::new().await;
        set_address(&app.person("ada").await, ADA).await;
        let link = app.link_to(ADA).await;
        let scanner = app.visitor();
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::GET, Method::GET, Method::GET] {
            scanner.send(method, &link, &[], "").await;
        }
        assert_eq!(owners(&app, ADA).await, 0);
        let confirm = async |_| app.visitor().post(&link, &[("number", &new_id())]).await.status;
        let answers = join_all((0..20).map(confirm)).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
    }

    #[tokio::test]
    async fn people_who_get_a_mail_that_is_not_for_them_say_so_and_the_address_is_removed() {
        let app = TestApp::new().await;
        let mallory = app.person("mallory").await;
        for says in ["reject", "List-Unsubscribe"] {
            set_address(&mallory, ADA).await;
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
            set_address(&mallory, ADA).await;
            app.execute("delete from limits").await;
            let link = app.mails().await[0].content.unsubscribe.clone().unwrap();
            let link = link.strip_prefix("http://localhost:8000").unwrap();
            // Where it is opened as a page, a person still chooses.
            app.visitor().get(link).await.assert_contains("action=\"?\"").assert_contains("Yes, confirm it");
            let form = Some("application/x-www-form-urlencoded");
            app.visitor().post_body(link, form, body.as_bytes()).await.assert_status(303);
            assert_eq!(app.count("select count(*) from addresses").await, 0, "{body:?}");
        }
        for query in ["?unsubscribe", "?unsubscribe=", "?unsubscribe=yes&unsubscribe=yes", "?x=%FF&unsubscribe=yes"] {
            set_address(&mallory, ADA).await;
            app.execute("delete from limits").await;
            let link = app.link_to(ADA).await;
            app.visitor().post(&(link + query), &[]).await.assert_status(303);
            assert_eq!(app.count("select count(*) from addresses").await, 0, "{query}");
        }
    }

    #[tokio::test]
    async fn the_first_user_to_confirm_an_address_has_it_and_the_links_of_others_end() {
        let app = TestApp::new().await;
        let (ada, mallory) = (app.person("ada").await, app.person("mallory").await);
        set_address(&mallory, ADA).await;
        let theirs = app.link_to(ADA).await;
        set_address(&ada, ADA).await;
        let hers = app.link_to(ADA).await;
        app.visitor().post(&hers, &[]).await.assert_status(303);
        app.visitor().get(&theirs).await.assert_status(404);
        app.visitor().post(&theirs, &[]).await.assert_status(404);
        mallory.get(PATH).await.assert_lacks(ADA);

        // Asking again looks the same to Mallory; the mail has no link.
        set_address(&mallory, ADA).await;
        mallory.get(PATH).await.assert_contains("Not confirmed yet");
        let mail = &app.mails().await[0];
        assert!(mail.content.subject.contains("already in use") && !mail.content.text.contains("/email/"));
        assert_eq!(owners(&app, ADA).await, 1);
        ada.get(PATH).await.assert_contains("Confirmed");
    }

    #[tokio::test]
    async fn of_users_who_confirm_one_address_at_the_same_time_only_one_has_it() {
        let app = TestApp::new().await;
        let mut links = Vec::new();
        for name in ["ada", "bob", "cyd"] {
            set_address(&app.person(name).await, ADA).await;
            links.push(app.link_to(ADA).await);
        }
        let answers = join_all(links.iter().map(async |link| app.visitor().post(link, &[]).await.status)).await;
        assert_eq!(answers.iter().filter(|status| **status == 303).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| [303, 404].contains(status)), "{answers:?}");
        assert_eq!(app.count("select count(*) from addresses").await, 1);
    }

    #[tokio::test]
    async fn a_new_address_replaces_the_old_one_when_it_is_confirmed_and_not_before() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        set_address(&ada, "lovelace@example.com").await;
        ada.get(PATH).await.assert_contains(&format!("Until then we use {ADA}"));
        let link = app.link_to("lovelace@example.com").await;
        assert_eq!(owners(&app, ADA).await, 1);
        app.visitor().post(&link, &[]).await.assert_redirect("/");
        assert_eq!((owners(&app, ADA).await, owners(&app, "lovelace@example.com").await), (0, 1));
        // The old address is notified.
        let notices = "select count(*) from mails where kind = 'notice' and email = 'ada@example.com'";
        assert_eq!(app.count(notices).await, 1);
    }

    #[tokio::test]
    async fn only_the_newest_link_works_and_not_for_ever() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        set_address(&ada, ADA).await;
        let first = app.link_to(ADA).await;
        ada.post("/account/email/resend", &[]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains(SENT_AGAIN.words);
        let second = app.link_to(ADA).await;
        assert_ne!(first, second);
        app.visitor().get(&first).await.assert_status(404);
        app.execute("update tokens set expires_at = expires_at - 86400").await;
        app.visitor().get(&second).await.assert_status(404);
        app.visitor().post(&second, &[]).await.assert_status(404);
        assert_eq!(owners(&app, ADA).await, 0);
    }

    #[tokio::test]
    async fn whoever_asks_for_the_link_on_another_page_stays_there() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let from = |page: &'static str| [("referer", page)];
        let here = from("http://localhost/test/account");
        ada.post_with("/account/email", &[("email", ADA)], &here).await.assert_redirect("/test/account");
        ada.get(PATH).await.assert_contains(SENT.words);
        ada.post_with("/account/email/resend", &[], &here).await.assert_redirect("/test/account");
        ada.get(PATH).await.assert_contains(SENT_AGAIN.words);
        // Neither to a path without a page, nor to another site.
        for elsewhere in ["http://localhost/account/email/resend", "http://evil.example/test/account"] {
            ada.post_with("/account/email/resend", &[], &from(elsewhere)).await.assert_redirect(PATH);
        }
    }

    #[tokio::test]
    async fn a_user_who_asks_for_one_mail_too_many_can_still_use_the_last_link() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            set_address(&ada, ADA).await;
            app.mails().await;
        }
        let link = app.link_to(ADA).await;
        app.visitor().post(&link, &[]).await.assert_redirect("/");
        assert_eq!(owners(&app, ADA).await, 1);
        // A link to one address does not confirm another that was asked for instead.
        set_address(&ada, "lovelace@example.com").await;
        app.execute("delete from limits").await;
        let link = app.link_to("lovelace@example.com").await;
        set_address(&ada, "countess@example.com").await;
        app.visitor().get(&link).await.assert_status(404);
    }

    #[tokio::test]
    async fn more_than_three_mails_an_hour_are_not_sent_and_nobody_sees_a_difference() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for _ in 0..5 {
            set_address(&ada, ADA).await;
            app.mails().await;
        }
        assert_eq!(app.mails().await.len(), 3);
        let app = TestApp::with_env(&[("MAILS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        let ada = app.person("ada").await;
        set_address(&ada, ADA).await;
        set_address(&ada, ADA).await;
        ada.post(PATH, &[("email", ADA)]).await.assert_status(429).assert_retry_after(1800);
    }

    #[tokio::test]
    async fn a_wrong_address_is_refused_beside_the_field_and_what_was_typed_is_kept() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        for wrong in ["", "ada", "a@b.example,c@d.example", "a@b.example\r\nBcc: c@d.example", "ada@[::1]"] {
            let answer = ada.post(PATH, &[("email", wrong)]).await;
            answer.assert_status(422).assert_contains("does not look like an e-mail address");
        }
        ada.post(PATH, &[("email", "ada@")]).await.assert_contains("value=\"ada@\"");
        let own = ada.post(PATH, &[("email", "ADA@example.com")]).await;
        own.assert_status(422).assert_contains("This is already your address.");
        let twice = b"email=a%40b.example&email=c%40d.example";
        let form = Some("application/x-www-form-urlencoded");
        ada.post_body(PATH, form, twice).await.assert_status(400);
        assert_eq!(app.mails().await.len(), 0);
    }

    #[tokio::test]
    async fn after_a_log_in_of_long_ago_people_look_at_their_addresses_and_change_none() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [PATH, REMOVE] {
            ada.get(path).await.assert_status(200).assert_contains(ADA);
            app.visitor().get(path).await.assert_status(303).assert_lacks(ADA);
            ada.post(path, &[("email", "thief@example.com")]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        assert_eq!((owners(&app, ADA).await, app.count("select count(*) from addresses").await), (1, 1));
    }

    #[tokio::test]
    async fn an_address_is_removed_by_its_owner_and_notified() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.confirm_address("ada", ADA).await;
        let asks = format!("{REMOVE}?email=ada%40example.com");
        bob.get(&asks).await.assert_redirect(PATH);
        bob.post(REMOVE, &[("email", ADA)]).await.assert_redirect(PATH).assert_no_header("set-cookie");
        assert_eq!(owners(&app, ADA).await, 1);
        set_address(&ada, "lovelace@example.com").await;
        ada.post(REMOVE, &[("email", "lovelace@example.com")]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_lacks("lovelace").assert_contains(&asks).assert_contains(REMOVED.words);
        ada.get(&asks).await.assert_status(200).assert_contains("Remove ada@example.com?").assert_contains("Keep it");
        assert_eq!(owners(&app, ADA).await, 1);
        ada.post(REMOVE, &[("email", ADA)]).await.assert_redirect(PATH);
        ada.get(&asks).await.assert_redirect(PATH);
        ada.get(REMOVE).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from addresses").await, 0);
        assert_eq!(app.count("select count(*) from mails where kind = 'notice'").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'address_removed'").await, 1);
    }

    #[tokio::test]
    async fn an_address_with_an_umlaut_is_one_however_a_browser_sends_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        set_address(&ada, "ada@münchen.de").await;
        ada.get(PATH).await.assert_contains("<strong>ada@münchen.de</strong>").assert_contains("Not confirmed yet");
        let link = app.link_to("ada@xn--mnchen-3ya.de").await;
        let mail = &app.mails().await[0].content;
        assert!(mail.html.contains("The address ada@münchen.de"), "{}", mail.html);
        app.visitor().get(&link).await.assert_contains("<strong>ada@münchen.de</strong>");
        app.visitor().post(&link, &[]).await.assert_redirect("/");
        assert_eq!(owners(&app, "ada@xn--mnchen-3ya.de").await, 1);
        for own in ["ada@MÜNCHEN.de", "ada@xn--mnchen-3ya.de", "ada@mu\u{308}nchen。de", "Ada@münchen.de "] {
            let answer = ada.post(PATH, &[("email", own)]).await;
            answer.assert_status(422).assert_contains("This is already your address.");
        }
        let login = app.login().await;
        for own in ["ada@münchen.de", "ADA@XN--MNCHEN-3YA.DE"] {
            assert!(app.app.passwords.verify(login.source(), own, PASSWORD).await.unwrap().is_some(), "{own}");
        }
        ada.post(REMOVE, &[("email", "ada@München.de")]).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from addresses").await, 0);
    }

    #[tokio::test]
    async fn after_a_mistake_an_address_is_shown_as_it_was_typed_although_a_browser_has_rewritten_it() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let answer = ada.post(PATH, &[("email", "jörg@xn--mnchen-3ya.de")]).await;
        answer.assert_status(422).assert_contains("plain letters").assert_contains("value=\"jörg@münchen.de\"");
        let answer = ada.post(PATH, &[("email", "a b@xn--exmple-4nf.com")]).await;
        answer.assert_status(422).assert_contains("value=\"a b@xn--exmple-4nf.com\"");
    }

    /// A site with a feature whose keys open accounts, and with a page to choose a password.
    async fn app_with_keys() -> TestApp {
        fn list<'a>(db: &'a mut Connection, user_id: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
            Box::pin(async move {
                let sql = "select data from tokens where user_id = $1 and purpose = 'key' order by data";
                Ok(sqlx::query_scalar(sql).bind(user_id).fetch_all(db).await?)
            })
        }
        let remove = "delete from tokens where user_id = $1 and purpose = 'key'";
        let (credentials, reset_path) = (Some(AddedCredentials { list, remove }), Some("/choose/{token}"));
        TestApp::with_feature(&[], Feature { credentials, reset_path, ..Feature::named("test") }).await
    }

    /// Adds a key and recovery codes to an account.
    async fn add_credentials(app: &TestApp, name: &str) {
        let id = app.user(name).await;
        let add = async |db: &mut Connection| {
            let (lifetime, data) = (Duration::from_secs(60), Some("The key <b>of brass</b>"));
            let key = NewToken { purpose: "key", user_id: Some(&id), data, lifetime, ..NewToken::default() };
            stored_token::insert(db, id.as_bytes(), key).await?;
            recovery_code::replace(db, &id).await
        };
        app.app.db.write(add).await.unwrap();
    }

    /// All by which anybody could enter an account.
    async fn ways_in(app: &TestApp) -> i64 {
        app.count(
            "select (select count(*) from passwords) + (select count(*) from recovery_codes) + (select count(*) from sessions) \
             + (select count(*) from devices) + (select count(*) from tokens where purpose <> 'reset')",
        )
        .await
    }

    /// Mallory has signed up with Ada's address, and added what would let her in later. Returns her browser and the link in
    /// the mail to Ada.
    async fn prepare(app: &TestApp) -> (Visitor, String) {
        let mallory = app.person("ada").await;
        set_address(&mallory, ADA).await;
        add_credentials(app, "ada").await;
        (mallory, app.link_to(ADA).await)
    }

    #[tokio::test]
    async fn whoever_has_the_address_removes_what_somebody_else_has_prepared() {
        let app = app_with_keys().await;
        let (mallory, link) = prepare(&app).await;
        let bob = app.person("bob").await;
        add_credentials(&app, "bob").await;
        let ada = app.visitor();
        let page = ada.get(&link).await;
        page.assert_status(200).assert_contains("<strong>ada</strong>").assert_contains(ADA);
        page.assert_contains("<li>The key &lt;b&gt;of brass&lt;").assert_contains("<li>10 recovery codes</li>");
        page.assert_contains("name=\"keep\"").assert_contains("name=\"remove\"").assert_contains("This is not mine");

        // Without a decision nothing happens, and the link still works.
        ada.post(&link, &[]).await.assert_redirect(&link);
        let login = format!("/login?next={}", url_encode(&link));
        ada.post(&link, &[("keep", "yes")]).await.assert_redirect(&login);
        assert_eq!(owners(&app, ADA).await, 0);
        mallory.assert_is("ada").await;
        ada.get(&link).await.assert_status(200);

        let answer = ada.post(&link, &[("remove", "yes")]).await;
        answer.assert_status(303).assert_no_header("clear-site-data");
        assert!(answer.header("set-cookie").starts_with("flash=account_cleared;"), "{answer}");
        let token = answer.header("location").strip_prefix("/choose/").unwrap().to_string();
        let reset = app.app.db.read(async |db| link::find(db, Purpose::Reset, &token).await).await.unwrap();
        assert_eq!((&*reset.username, &*reset.email), ("ada", ADA));
        mallory.assert_is("nobody").await;
        assert!(!app.is_password_of("ada", PASSWORD).await);
        assert_eq!(owners(&app, ADA).await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'account_cleared'").await, 1);
        app.end_repeats().await;
        for form in [&[][..], &[("remove", "yes")], &[("keep", "yes")], &[("reject", "yes")]] {
            ada.post(&link, form).await.assert_status(404).assert_contains("no longer works");
        }
        // Nobody else has lost anything.
        bob.assert_is("bob").await;
        app.execute("delete from users where username = 'bob'").await;
        assert_eq!(ways_in(&app).await, 0);
    }

    #[tokio::test]
    async fn somebody_who_is_logged_in_to_the_account_confirms_as_ever_and_keeps_everything() {
        let app = app_with_keys().await;
        let (ada, link) = prepare(&app).await;
        let before = ways_in(&app).await;
        ada.get(&link).await.assert_contains("Yes, confirm it").assert_lacks("recovery codes");
        // What another page has sent removes nothing.
        ada.post(&link, &[("remove", "yes")]).await.assert_redirect(&link);
        ada.post(&link, &[]).await.assert_redirect("/");
        assert_eq!(owners(&app, ADA).await, 1);
        ada.assert_is("ada").await;
        // The link is gone.
        assert_eq!(ways_in(&app).await, before - 1);
    }

    #[tokio::test]
    async fn a_log_in_to_another_account_does_not_count_and_takes_nothing_from_that() {
        let app = app_with_keys().await;
        let (mallory, link) = prepare(&app).await;
        let bob = app.person("bob").await;
        let page = bob.get(&link).await;
        page.assert_contains("10 recovery codes").assert_contains("log out of <strong>bob</strong> here");
        page.assert_lacks("name=\"keep\"");
        bob.post(&link, &[]).await.assert_redirect(&link);
        bob.post(&link, &[("remove", "yes")]).await.assert_status(303);
        bob.assert_is("bob").await;
        mallory.assert_is("nobody").await;
        assert!(app.is_password_of("bob", PASSWORD).await && !app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn where_nothing_was_added_an_address_is_confirmed_without_a_question() {
        let app = app_with_keys().await;
        let ada = app.person("ada").await;
        set_address(&ada, ADA).await;
        let link = app.link_to(ADA).await;
        let phone = app.visitor();
        phone.get(&link).await.assert_contains("Yes, confirm it").assert_lacks("name=\"remove\"");
        // Added between the page and the button.
        add_credentials(&app, "ada").await;
        phone.post(&link, &[]).await.assert_redirect(&link);
        phone.get(&link).await.assert_contains("10 recovery codes");
        app.execute("delete from recovery_codes").await;
        app.execute("delete from tokens where purpose = 'key'").await;
        phone.post(&link, &[]).await.assert_redirect("/");
        assert_eq!(owners(&app, ADA).await, 1);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn nothing_is_listed_or_removed_once_the_account_had_an_address() {
        for has_removed_it in [false, true] {
            let app = app_with_keys().await;
            let ada = app.person("ada").await;
            app.confirm_address("ada", ADA).await;
            if has_removed_it {
                ada.post(REMOVE, &[]).await.assert_redirect(PATH);
            }
            add_credentials(&app, "ada").await;
            set_address(&ada, "lovelace@example.com").await;
            let link = app.link_to("lovelace@example.com").await;
            let before = ways_in(&app).await;
            let phone = app.visitor();
            phone.get(&link).await.assert_contains("Yes, confirm it").assert_lacks("recovery codes");
            phone.post(&link, &[("remove", "yes")]).await.assert_redirect(&link);
            assert_eq!(ways_in(&app).await, before);
            phone.post(&link, &[]).await.assert_redirect("/");
            assert_eq!(owners(&app, "lovelace@example.com").await, 1);
            ada.assert_is("ada").await;
            assert_eq!(ways_in(&app).await, before - 1);
        }
    }

    #[tokio::test]
    async fn of_many_who_remove_and_confirm_at_once_one_removes_everything() {
        let app = app_with_keys().await;
        let (mallory, link) = prepare(&app).await;
        let answer = async |number: usize| {
            let (act, number) = (if number.is_multiple_of(2) { "remove" } else { "confirm" }, number.to_string());
            let answer = app.visitor().post(&link, &[(act, "yes"), ("number", &number)]).await;
            (answer.status, answer.headers.get("location").map(|path| path.to_str().unwrap().to_string()))
        };
        let answers = join_all((0..20).map(answer)).await;
        let removed =
            |(_, path): &&(u16, Option<String>)| path.as_ref().is_some_and(|path| path.starts_with("/choose/"));
        assert_eq!(answers.iter().filter(removed).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|(status, path)| *status == 404 || path.is_some()), "{answers:?}");
        mallory.assert_is("nobody").await;
        assert_eq!((ways_in(&app).await, owners(&app, ADA).await), (0, 1));
        assert_eq!(app.count("select count(*) from events where kind = 'account_cleared'").await, 1);
    }

    #[tokio::test]
    async fn where_no_password_could_be_chosen_nothing_is_removed_but_the_address() {
        let choose = |features: &mut Vec<Feature>| features.iter_mut().for_each(|feature| feature.reset_path = None);
        let app = TestApp::with_features(&[], choose).await;
        let (mallory, link) = prepare(&app).await;
        let before = ways_in(&app).await;
        let ada = app.visitor();
        ada.get(&link).await.assert_contains("10 recovery codes").assert_lacks("name=\"remove\"");
        ada.post(&link, &[("remove", "yes")]).await.assert_status(404);
        assert_eq!(ways_in(&app).await, before);
        ada.post(&link, &[("reject", "yes")]).await.assert_redirect("/");
        assert_eq!(app.count("select count(*) from addresses").await, 0);
        mallory.assert_is("ada").await;
    }

    #[tokio::test]
    async fn a_changed_password_revokes_links_that_are_on_their_way_too() {
        let app = TestApp::new().await;
        let thief = app.person("ada").await;
        set_address(&thief, "thief@example.com").await;
        let link = app.link_to("thief@example.com").await;
        set_address(&thief, "thief@example.com").await;
        let ada = app.user("ada").await;
        app.app.db.write(async |db| link::revoke_pending(db, &ada).await).await.unwrap();
        app.visitor().post(&link, &[]).await.assert_status(404);
        assert_eq!(app.mails().await.len(), 1);
        assert_eq!(owners(&app, "thief@example.com").await, 0);
    }

    #[tokio::test]
    async fn without_mail_there_are_no_pages_about_addresses() {
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        let ada = app.person("ada").await;
        ada.get(PATH).await.assert_status(404);
        ada.get("/account").await.assert_lacks("mail");
        app.visitor().get("/signup").await.assert_lacks("mail");
    }

    #[tokio::test]
    async fn a_disabled_user_keeps_the_address_and_a_user_who_wants_it_keeps_their_own() {
        let app = TestApp::new().await;
        let (_ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.confirm_address("bob", "bob@example.com").await;
        set_address(&bob, ADA).await;
        let link = app.link_to(ADA).await;
        app.execute(
            "insert into addresses (user_id, email, confirmed_at) \
             select id, 'ada@example.com', 1 from users where username = 'ada'",
        )
        .await;
        app.execute("update users set disabled_at = 1 where username = 'ada'").await;
        app.visitor().post(&link, &[]).await.assert_status(404);
        assert_eq!(owners(&app, "bob@example.com").await, 1);
        set_address(&bob, ADA).await;
        let mail = &app.mails().await[0];
        assert!(mail.content.subject.contains("already in use"), "{}", mail.content.text);
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }

    #[tokio::test]
    async fn a_session_that_has_ended_in_the_meantime_adds_and_removes_no_address() {
        for (path, fields) in [(PATH, [("email", "thief@example.com")]), (REMOVE, [("email", ADA)])] {
            let app = TestApp::new().await;
            let thief = app.person("ada").await;
            app.confirm_address("ada", ADA).await;
            app.ended_meanwhile("ada", thief.post(path, &fields)).await.assert_status(404);
            assert_eq!(owners(&app, ADA).await, 1, "{path}");
            assert_eq!(app.count("select count(*) from addresses").await, 1, "{path}");
        }
    }

    #[tokio::test]
    async fn the_account_page_says_the_address_and_whether_it_is_confirmed() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let row = async || ada.get("/test/account").await;
        row().await.assert_contains("E-mail address · None · Add\n");
        set_address(&ada, ADA).await;
        row().await.assert_contains("E-mail address · ada@example.com, not confirmed yet · Change!\n");
        app.confirm_address("ada", ADA).await;
        row().await.assert_contains("E-mail address · ada@example.com · Change\n");
        set_address(&ada, "new@example.com").await;
        let both = "E-mail address · ada@example.com; new@example.com is not confirmed yet · Change\n";
        row().await.assert_contains(both);
        bob.get("/test/account").await.assert_contains("E-mail address · None · Add\n").assert_lacks(ADA);
        let without_mail = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        without_mail.person("ada").await.get("/test/account").await.assert_lacks("E-mail address");
    }
}
