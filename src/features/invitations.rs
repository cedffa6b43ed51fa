//! Invitations: links with which people may sign up. Who may invite makes, lists and withdraws them.

use super::feature::Feature;
use crate::accounts::event::{self, Cause, NewEvent};
use crate::accounts::group::{self, Group};
use crate::accounts::invitation::{self, INVITATION_MAIL, INVITE, Invitation, NewInvitation};
use crate::accounts::stored_token::{self, NewToken};
use crate::accounts::{Email, Event, Permissions, Session, User};
use crate::base::{Config, Env, Error, FieldErrors, MailDelivery, Result, SignUps, Token};
use crate::db::rate_limit::{self, Key};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow, now};
use crate::mail::{Mail, MailContent, outbox};
use crate::web::{
    Access, AccountGroup, AccountRow, Administrator, App, Empty, Flash, Form, List, ListQuery, Login, MailTemplate,
    ONE_MORE, Page, Query, Redirect, Routes, RowState, Template, files, once, redirect, require_cover,
};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};
use std::ops::RangeInclusive;
use std::time::Duration;

const PATH: &str = "/admin/invitations";
const INVITE_PATH: &str = "/invite/{token}";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, Access::Can(INVITE), index)
        .post(PATH, Access::Can(INVITE), create)
        .once()
        .bounded_by("1,000 invitations of a user")
        .get("/admin/invitations/{id}", Access::Can(INVITE), show)
        .post("/admin/invitations/{id}/revoke", Access::Can(INVITE), revoke)
        .once()
        .get(INVITE_PATH, Access::Public, accept)
        .post(INVITE_PATH, Access::Public, log_out);
    Ok(Feature {
        routes,
        events: &[MADE, WITHDRAWN],
        permissions: &[INVITE],
        flashes: &[MAILED, NO_LONGER_WORKS],
        mails: &[(INVITATION_MAIL, write_mail as _)],
        account_row: Some(ROW),
        invite_path: Some(INVITE_PATH),
        ..Feature::named("invitations")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 6, "Invitations", PATH, |_, _| {
    RowState::fixed("Links to sign up with", "Manage")
})
.needing(INVITE);

/// About the group, if there is one. Whoever made an invitation sees it among their own events, because a thief of their
/// session may have made it.
const MADE: Event = Event::named("invitation_made", "Invitation made");
const WITHDRAWN: Event = Event::named("invitation_withdrawn", "Invitation withdrawn").caused_by(Cause::Administrator);

const MAILED: Flash = Flash { name: "invitation_mailed", words: "The invitation is on its way." };
const NO_LONGER_WORKS: Flash = Flash { name: "invitation_withdrawn", words: "That invitation no longer works." };

const CLOSED: &str = "Nobody can sign up here at the moment, not even by an invitation.";

/// How many invitations of one user there may be.
const MOST: i64 = 1000;

const FULL: &str = "You have made 1,000 invitations already. Withdraw some, or wait until some expire.";

const USES: RangeInclusive<i64> = 1..=1000;
const DAYS: RangeInclusive<u64> = 1..=90;

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct InviteForm {
    email: Option<String>,
    /// The id of a group.
    group: Option<String>,
    /// 1 if it is missing.
    uses: Option<String>,
    /// After how many days; 7 if it is missing.
    expires: Option<String>,
}

impl InviteForm {
    /// The address, how often it can be used, and how long.
    fn validate(&self, config: &Config) -> Result<(Option<Email>, i64, Duration), FieldErrors> {
        let mut errors = FieldErrors::default();
        let email = self.email.as_deref().map(|email| match config.mail {
            MailDelivery::Off => Err("This site sends no mail. Leave this empty to get a link.".into()),
            _ => Email::parse(email),
        });
        let email = errors.check("email", email.transpose());
        let uses = self.uses.as_deref().unwrap_or("1").parse().ok().filter(|uses| USES.contains(uses));
        let uses = errors.check("uses", uses.ok_or("Please enter a number from 1 to 1000.".into()));
        let days = self.expires.as_deref().unwrap_or("7").parse().ok().filter(|days| DAYS.contains(days));
        let days = errors.check("expires", days.ok_or("Please enter a number of days from 1 to 90.".into()));
        match (email, uses, days) {
            (Some(email), Some(uses), Some(days)) => Ok((email, uses, Duration::from_secs(days * 24 * 60 * 60))),
            _ => Err(errors),
        }
    }
}

/// An invitation as those see it who may invite.
#[derive(Serialize)]
struct ListedInvitation {
    id: String,
    email: Option<String>,
    group: Option<String>,
    uses: i64,
    used: i64,
    /// `None` for a command.
    made_by: Option<String>,
    expires: i64,
}

impl FromRow<'_, DbRow> for ListedInvitation {
    fn from_row(row: &DbRow) -> sqlx::Result<ListedInvitation> {
        Ok(ListedInvitation {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            group: row.try_get("group_name")?,
            uses: row.try_get("uses")?,
            used: row.try_get("used")?,
            made_by: row.try_get("username")?,
            expires: row.try_get("expires_at")?,
        })
    }
}

#[derive(Serialize)]
struct InvitationsPage {
    form: InviteForm,
    errors: FieldErrors,
    groups: Vec<Group>,
    invitations: List<ListedInvitation>,
    is_closed: bool,
    once: String,
}

impl InvitationsPage {
    async fn new(
        app: &App,
        own: &Permissions,
        query: &ListQuery,
        form: InviteForm,
        errors: FieldErrors,
    ) -> Result<Self> {
        let read = async |db: &mut Connection| {
            let groups = group::all_covered(db, own).await?;
            let rows = newest(db, query.after(AFTER_ALL_IDS)).await?;
            let invitations = List::new(rows, query, |invitation| &invitation.id);
            let is_closed = app.config.sign_ups == SignUps::Closed;
            Ok(InvitationsPage { form, errors, groups, invitations, is_closed, once: once::value()? })
        };
        app.db.read(read).await
    }
}

impl Template for InvitationsPage {
    const FILE: &'static str = files::INVITATIONS_INDEX;
}

#[derive(Serialize)]
struct InvitationPage {
    invitation: ListedInvitation,
    /// Only for the session that has just made it.
    link: Option<String>,
}

impl Template for InvitationPage {
    const FILE: &'static str = files::INVITATIONS_SHOW;
}

/// For a user who has followed an invitation.
#[derive(Serialize)]
struct LogOutPage {
    token: String,
}

impl Template for LogOutPage {
    const FILE: &'static str = files::INVITATIONS_LOG_OUT;
}

async fn index(
    State(app): State<App>,
    administrator: Administrator,
    page: Page,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let (form, errors) = (InviteForm::default(), FieldErrors::default());
    page.render(&InvitationsPage::new(&app, administrator.permissions(), &query, form, errors).await?).await
}

async fn create(
    State(app): State<App>,
    administrator: Administrator,
    page: Page,
    Form(form): Form<InviteForm>,
) -> Result<Response> {
    match invite(&app, &administrator, &form).await {
        Ok(redirect) => Ok(redirect.into_response()),
        Err(error) => {
            let (errors, own) = (error.field_errors()?, administrator.permissions());
            page.render_errors(&InvitationsPage::new(&app, own, &ListQuery::default(), form, errors).await?).await
        }
    }
}

async fn invite(app: &App, administrator: &Administrator, form: &InviteForm) -> Result<Redirect> {
    if app.config.sign_ups == SignUps::Closed {
        return Err(Error::Forbidden(CLOSED));
    }
    let (email, uses, lifetime) = form.validate(&app.config)?;
    let (session, email) = (&administrator.session, email.as_ref().map(Email::as_str));
    let invite = async |db: &mut Connection, own: &Permissions| {
        let group = find_group(db, own, form.group.as_deref()).await?;
        if count_of(db, &session.user.id).await? >= MOST {
            return Err(Error::invalid(FieldErrors::FORM, FULL));
        }
        let (group_id, created_by) = (group.as_ref().map(|group| &*group.id), Some(&*session.user.id));
        let id = invitation::create(db, &NewInvitation { email, group_id, uses, lifetime, created_by }).await?;
        record(db, created_by, MADE.by(&administrator.actor.client), group.as_ref()).await?;
        if let Some(email) = email {
            rate_limit::take(db, &Key::new(INVITATION_MAIL, email), app.config.mails_per_address).await?;
            outbox::queue(db, INVITATION_MAIL, None, email, &id).await?;
            return Ok(redirect(PATH).flash(MAILED));
        }
        let token = invitation::renew(db, &id).await?.ok_or(Error::StaleLink)?;
        keep_token(app, db, session, &id, &token).await?;
        Ok(redirect(&format!("{PATH}/{id}")))
    };
    administrator.change(invite).await
}

async fn show(State(app): State<App>, session: Session, page: Page, Path(id): Path<String>) -> Result<Response> {
    let read = async |db: &mut Connection| {
        let invitation = find(db, &id).await?.ok_or(Error::NOT_FOUND)?;
        let token = kept_token(&app, db, &session, &id).await?;
        Ok(InvitationPage { invitation, link: token.map(|token| app.config.link(INVITE_PATH, &token)) })
    };
    page.render(&app.db.read(read).await?).await
}

async fn revoke(administrator: Administrator, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    let revoke = async |db: &mut Connection, own: &Permissions| {
        require_cover(own, &invitation::permissions(db, &id).await?)?;
        let sql = "delete from invitations where id = $1 returning group_id, created_by";
        let deleted: Option<(Option<String>, Option<String>)> =
            sqlx::query_as(sql).bind(&*id).fetch_optional(&mut *db).await?;
        let (group_id, created_by) = deleted.ok_or(Error::NOT_FOUND)?;
        let group = find_group(db, own, group_id.as_deref()).await?;
        record(db, created_by.as_deref(), WITHDRAWN.by_actor(&administrator.actor), group.as_ref()).await
    };
    administrator.change(revoke).await?;
    Ok(redirect(PATH).flash(NO_LONGER_WORKS))
}

async fn accept(
    State(app): State<App>,
    user: Option<User>,
    page: Page,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response> {
    let Invitation { email, .. } = find_by_token(&app, &token).await?;
    if user.is_some() {
        return page.render(&LogOutPage { token }).await;
    }
    let show_form = app.features.sign_up.ok_or(Error::NOT_FOUND)?;
    show_form(&app, request.into_parts().0, &token, email.as_deref()).await
}

/// Logs out, and comes back to the link.
async fn log_out(State(app): State<App>, login: Login, Path(token): Path<String>, _: Form<Empty>) -> Result<Response> {
    find_by_token(&app, &token).await?;
    Ok(login.log_out(redirect(&INVITE_PATH.replace("{token}", &token))).await)
}

async fn find_by_token(app: &App, text: &str) -> Result<Invitation> {
    let token = Token::parse(text).filter(|_| app.config.sign_ups != SignUps::Closed).ok_or(Error::StaleLink)?;
    app.db.read(async |db| invitation::find(db, &token).await).await
}

/// The group that the invited will be in.
///
/// # Errors
/// [`Error::Forbidden`] if it may do more than the user who invites; [`Error::Invalid`] if it is gone.
async fn find_group(db: &mut Connection, own: &Permissions, id: Option<&str>) -> Result<Option<Group>> {
    let Some(id) = id else { return Ok(None) };
    let group = group::find(db, id).await?.ok_or_else(|| Error::invalid("group", "This group no longer exists."))?;
    require_cover(own, &Permissions::of_group(db, id).await?)?;
    Ok(Some(group))
}

async fn count_of(db: &mut Connection, user_id: &str) -> Result<i64> {
    let sql = "select count(*) from invitations where created_by = $1";
    Ok(sqlx::query_scalar(sql).bind(user_id).fetch_one(db).await?)
}

/// Records what happened to an invitation of the user who made it.
async fn record(db: &mut Connection, maker: Option<&str>, event: NewEvent<'_>, group: Option<&Group>) -> Result<()> {
    let event = match group {
        Some(group) => event.about(&group.name),
        None => event,
    };
    event::record(db, maker, event).await
}

/// The invitations that came before the one with the id `after`, newest first.
async fn newest(db: &mut Connection, after: &str) -> Result<Vec<ListedInvitation>> {
    let sql = "select i.id, i.email, g.name as group_name, i.uses, i.used, u.username, i.expires_at from invitations i \
               left join groups g on g.id = i.group_id left join users u on u.id = i.created_by \
               where i.id < $1 and i.expires_at > $2 order by i.id desc limit $3";
    Ok(sqlx::query_as(sql).bind(after).bind(now()).bind(ONE_MORE).fetch_all(db).await?)
}

async fn find(db: &mut Connection, id: &str) -> Result<Option<ListedInvitation>> {
    let sql = "select i.id, i.email, g.name as group_name, i.uses, i.used, u.username, i.expires_at from invitations i \
               left join groups g on g.id = i.group_id left join users u on u.id = i.created_by \
               where i.id = $1 and i.expires_at > $2";
    Ok(sqlx::query_as(sql).bind(id).bind(now()).fetch_optional(db).await?)
}

/// Under what the token of a new link is kept, sealed, and for how long the session that has made it may see it.
const KEPT: &str = "shown_invitation";
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

async fn keep_token(app: &App, db: &mut Connection, session: &Session, id: &str, token: &Token) -> Result<()> {
    let sealed = BASE64.encode(&app.seals.seal(KEPT, id, token.text().as_bytes())?);
    let new = NewToken {
        purpose: KEPT,
        lifetime: KEPT_FOR,
        user_id: Some(&session.user.id),
        event_id: Some(id),
        binding: Some(session.id.as_bytes().to_vec()),
        data: Some(&sealed),
        ..NewToken::default()
    };
    // Nothing looks it up by its own hash.
    stored_token::insert(db, &Token::random()?.hash(), new).await
}

async fn kept_token(app: &App, db: &mut Connection, session: &Session, id: &str) -> Result<Option<Token>> {
    let sql = "select data from tokens \
               where user_id = $1 and purpose = $2 and event_id = $3 and binding = $4 and expires_at > $5";
    let query = sqlx::query_scalar(sql).bind(&*session.user.id).bind(KEPT).bind(id);
    let sealed: Option<String> = query.bind(session.id.as_bytes()).bind(now()).fetch_optional(db).await?;
    let sealed = sealed.and_then(|sealed| BASE64.decode(sealed.as_bytes()).ok());
    let opened = sealed.and_then(|sealed| app.seals.try_open(KEPT, id, &sealed));
    Ok(opened.and_then(|text| Token::parse(std::str::from_utf8(&text).ok()?)))
}

#[derive(Serialize)]
struct InvitationMail {
    inviter: Option<String>,
    link: String,
    expires: i64,
}

impl MailTemplate for InvitationMail {
    const TEXT: &'static str = files::INVITATIONS_LETTER_TXT;
    const HTML: &'static str = files::INVITATIONS_LETTER;
}

/// The token is made here, so that only whoever reads the mail has it.
fn write_mail<'a>(
    app: &'a App,
    db: &'a mut Connection,
    mail: &'a Mail,
    _: Option<User>,
) -> BoxFuture<'a, Result<Option<MailContent>>> {
    async move {
        let Some(token) = invitation::renew(db, &mail.about).await? else { return Ok(None) };
        match invitation::find(db, &token).await {
            Err(Error::StaleLink) => return Ok(None),
            _ if app.config.sign_ups == SignUps::Closed => return Ok(None),
            found => found?,
        };
        let Some(ListedInvitation { made_by, expires, .. }) = find(db, &mail.about).await? else { return Ok(None) };
        let link = app.config.link(INVITE_PATH, &token);
        Ok(Some(app.templates.mail(&InvitationMail { inviter: made_by, link, expires })?))
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::permission::{ADMIN, Permissions as Own};
    use crate::accounts::session::lifecycle;
    use crate::accounts::{Actor, Admission, AuthLevel, Client, Username, address, user};
    use crate::db::new_id;
    use crate::features::Feature;
    use crate::test::{Answer, TestApp, Visitor, check, check_mails};
    use axum::http::Method;
    use axum::http::request::Parts;
    use futures_util::future::{join_all, ready};

    const BOB: &str = "bob@example.com";

    fn show_form<'a>(_: &'a App, _: Parts, invite: &'a str, email: Option<&'a str>) -> BoxFuture<'a, Result<Response>> {
        ready(Ok(format!("the form with {invite} for {}", email.unwrap_or("anybody")).into_response())).boxed()
    }

    /// A site with Ada, who may invite. Its form to sign up says what it was opened with.
    async fn site(settings: &[(&str, &str)]) -> (TestApp, Visitor) {
        let form = Feature { sign_up: Some(show_form), ..Feature::named("form") };
        let app = TestApp::with_feature(settings, form).await;
        let ada = app.person("ada").await;
        app.grant("ada", INVITE.name).await;
        (app, ada)
    }

    /// The page of the invitation that this makes, and the path of its link.
    async fn invite(ada: &Visitor, fields: &[(&str, &str)]) -> (String, String) {
        let answer = ada.post(PATH, &[fields, &[("once", &new_id())]].concat()).await;
        let page = answer.assert_status(303).header("location").to_string();
        let link = link_on(&ada.get(&page).await).unwrap_or_else(|| panic!("{page} shows no link"));
        (page, link)
    }

    fn link_on(page: &Answer) -> Option<String> {
        let text = page.assert_status(200).text();
        let (_, rest) = text.split_once("http://localhost:8000/invite/")?;
        Some(format!("/invite/{}", rest.split('<').next()?))
    }

    /// As the form to sign up does it, without the password.
    async fn sign_up(app: &TestApp, link: &str, name: &str, email: Option<&str>) -> Result<()> {
        let (config, db, client) = (&app.app.config, &app.app.db, Client::local("a browser"));
        let admission = Admission::find(config, db, link.strip_prefix("/invite/")).await?;
        let (id, username) = (new_id(), Username::parse(name).unwrap());
        let create = async |db: &mut Connection| {
            let admitted = admission.create_user(config, db, &id, &username, &client).await?.expect("the name is free");
            if let Some(email) = email {
                let email = Email::parse(email).unwrap();
                admitted.set_address(db, &id, &email, AuthLevel::OneFactor).await?;
            }
            Ok(())
        };
        db.write(create).await
    }

    #[track_caller]
    fn assert_stale(signed_up: Result<()>) {
        assert!(matches!(signed_up, Err(Error::StaleLink)), "{signed_up:?}");
    }

    /// Makes a group whose members have this permission, and returns its id.
    async fn group(app: &TestApp, permission: &'static str) -> String {
        let create = async |db: &mut Connection| {
            let id = group::create(db, &group::GroupName::parse("editors").unwrap()).await?.unwrap();
            let sql = "insert into group_permissions (group_id, permission) values ($1, $2)";
            sqlx::query(sql).bind(&*id).bind(permission).execute(db).await?;
            Ok(id)
        };
        app.app.db.write(create).await.unwrap()
    }

    #[test]
    fn its_pages_and_its_mail_render() {
        let row = |email: Option<&str>, group: Option<&str>, made_by: Option<&str>| ListedInvitation {
            id: "0190".into(),
            email: email.map(String::from),
            group: group.map(String::from),
            uses: 2,
            used: 1,
            made_by: made_by.map(String::from),
            expires: 1_795_284_300,
        };
        let rows = || vec![row(Some(BOB), Some("editors"), Some("ada")), row(None, None, None)];
        let list = |rows| List { rows, previous: None, next: Some("?after=0190".into()) };
        let mut errors = FieldErrors::default();
        for field in ["email", "group", "uses", "expires", FieldErrors::FORM] {
            errors.add(field, "No.");
        }
        let typed = InviteForm {
            email: Some("a\"b".into()),
            group: Some("1".into()),
            uses: Some("x".into()),
            expires: Some("y".into()),
        };
        let groups = || vec![Group { id: "1".into(), name: "editors".into() }];
        let page = |form, errors, groups, invitations, is_closed| InvitationsPage {
            form,
            errors,
            groups,
            invitations,
            is_closed,
            once: "value".into(),
        };
        check(&[
            page(typed, errors, groups(), list(rows()), false),
            page(InviteForm::default(), FieldErrors::default(), Vec::new(), list(Vec::new()), false),
            page(InviteForm::default(), FieldErrors::default(), groups(), list(rows()), true),
        ]);
        let link = || Some("http://localhost/invite/x".to_string());
        let [mailed, shown] = <[_; 2]>::try_from(rows()).ok().unwrap();
        check(&[
            InvitationPage { invitation: mailed, link: None },
            InvitationPage { invitation: shown, link: link() },
            InvitationPage { invitation: row(None, None, Some("ada")), link: None },
        ]);
        check(&[LogOutPage { token: "token".into() }]);
        let mail = |inviter: Option<&str>| InvitationMail {
            inviter: inviter.map(String::from),
            link: link().unwrap(),
            expires: 1_795_284_300,
        };
        check_mails(&[mail(Some("ada")), mail(None)]);
    }

    #[tokio::test]
    async fn who_may_not_invite_finds_no_such_page_whatever_they_ask_for() {
        let (app, ada) = site(&[]).await;
        let (page, _) = invite(&ada, &[]).await;
        let eve = app.person("eve").await;
        let unknown = eve.get("/admin/nowhere").await.assert_status(404).text();
        for path in [PATH, &page, &format!("{page}/revoke")] {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let answer = eve.send(method, path, &[], "").await;
                assert_eq!(answer.assert_status(404).text(), unknown, "{answer}");
            }
        }
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Fadmin%2Finvitations");
        app.visitor().post(PATH, &[]).await.assert_redirect("/login?next=%2F");
        assert_eq!(app.count("select count(*) from invitations").await, 1);
        eve.get("/test/account").await.assert_lacks("Invitations");
        ada.get("/test/account").await.assert_contains("Invitations · Links to sign up with · Manage");
    }

    #[tokio::test]
    async fn a_link_is_shown_for_ten_minutes_to_the_session_that_made_it_and_to_no_other() {
        let (app, ada) = site(&[]).await;
        app.person("grace").await;
        app.grant("grace", INVITE.name).await;
        let (page, link) = invite(&ada, &[]).await;
        assert_eq!(link_on(&ada.get(&page).await), Some(link.clone()));
        for other in [app.browser_of("ada").await, app.browser_of("grace").await] {
            assert_eq!(link_on(&other.get(&page).await), None);
            assert_eq!(link_on(&other.get(PATH).await), None);
        }
        assert_eq!(link_on(&ada.get(PATH).await), None);
        let stored: Vec<String> = app
            .app
            .db
            .read(async |db| {
                Ok(sqlx::query_scalar("select data from tokens where data is not null").fetch_all(db).await?)
            })
            .await
            .unwrap();
        let token = link.strip_prefix("/invite/").unwrap();
        assert!(stored.len() == 1 && !stored[0].contains(token), "{stored:?}");
        app.execute("update tokens set expires_at = expires_at - 600").await;
        assert_eq!(link_on(&ada.get(&page).await), None);
        ada.get(&page).await.assert_contains("cannot be shown again");
        app.visitor().get(&link).await.assert_body(&format!("the form with {token} for anybody"));
    }

    #[tokio::test]
    async fn an_invitation_for_an_address_is_only_mailed_and_proves_the_address() {
        let (app, ada) = site(&[("SIGNUPS", "invite")]).await;
        for (name, typed, confirmed) in [("bob", BOB, 1), ("eve", "eve@example.com", 1)] {
            ada.post(PATH, &[("email", BOB), ("once", name)]).await.assert_redirect(PATH);
            assert_eq!(
                app.count("select count(*) from invitations where token_hash is not null and used = 0").await,
                0
            );
            let list = ada.get(PATH).await;
            list.assert_contains("The invitation is on its way.").assert_contains(BOB).assert_lacks("/invite/");
            let page = list.text();
            let page = page.split("href=\"/admin/invitations/").nth(1).unwrap().split('"').next().unwrap();
            ada.get(&format!("{PATH}/{page}")).await.assert_contains("is mailed to").assert_lacks("/invite/");
            let link = app.link_to(BOB).await;
            let mail = &app.mails().await[0];
            assert_eq!(mail.content.subject, "An invitation to Latchkey");
            assert!(mail.content.text.contains("ada invites you to sign up at Latchkey"), "{}", mail.content.text);
            app.visitor().get(&link).await.assert_contains(&format!("for {BOB}"));
            sign_up(&app, &link, name, Some(typed)).await.unwrap();
            let count = "select count(*) from addresses where confirmed_at is not null";
            assert_eq!(app.count(count).await, confirmed, "{typed}");
            assert_stale(sign_up(&app, &link, "mallory", None).await);
        }
        let pending = "select count(*) from addresses where email = 'eve@example.com' and confirmed_at is null";
        assert_eq!(app.count(pending).await, 1);
    }

    #[tokio::test]
    async fn a_mail_is_not_written_for_an_invitation_that_was_withdrawn_in_the_meantime() {
        let (app, ada) = site(&[]).await;
        ada.post(PATH, &[("email", BOB)]).await.assert_redirect(PATH);
        app.execute("delete from user_permissions").await;
        assert!(app.mails().await.is_empty());
    }

    #[tokio::test]
    async fn no_address_gets_more_mails_than_the_limit_allows() {
        let (app, ada) = site(&[("MAILS_PER_ADDRESS", "2/1h")]).await;
        for (number, status) in [("1", 303), ("2", 303), ("3", 429)] {
            ada.post(PATH, &[("email", BOB), ("once", number)]).await.assert_status(status);
        }
        ada.post(PATH, &[("email", "eve@example.com")]).await.assert_redirect(PATH);
        assert_eq!(app.count("select count(*) from invitations").await, 3);
    }

    #[tokio::test]
    async fn an_invitation_makes_as_many_accounts_as_it_has_uses_and_looking_uses_none() {
        let (app, ada) = site(&[("SIGNUPS", "invite")]).await;
        let (page, link) = invite(&ada, &[("uses", "2"), ("expires", "1")]).await;
        for _ in 0..3 {
            app.visitor().get(&link).await.assert_status(200);
        }
        for name in ["bob", "carol"] {
            sign_up(&app, &link, name, None).await.unwrap();
        }
        assert_stale(sign_up(&app, &link, "eve", None).await);
        app.visitor().get(&link).await.assert_status(404).assert_contains("This link no longer works");
        ada.get(&page).await.assert_contains("2 of 2");
        let (_, link) = invite(&ada, &[("expires", "1")]).await;
        app.execute("update invitations set expires_at = expires_at - 24 * 60 * 60").await;
        app.visitor().get(&link).await.assert_status(404);
        assert_stale(sign_up(&app, &link, "eve", None).await);
    }

    #[tokio::test]
    async fn of_fifty_at_once_with_an_invitation_of_one_use_one_gets_an_account() {
        let (app, ada) = site(&[("SIGNUPS", "invite")]).await;
        let (_, link) = invite(&ada, &[]).await;
        let names: Vec<String> = (0..50).map(|number| format!("bob{number}")).collect();
        let signed_up = join_all(names.iter().map(|name| sign_up(&app, &link, name, None))).await;
        let (made, refused): (Vec<_>, Vec<_>) = signed_up.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        refused.into_iter().for_each(assert_stale);
        assert_eq!(app.count("select count(*) from users where username like 'bob%'").await, 1);
    }

    #[tokio::test]
    async fn the_invited_are_in_the_group_that_was_chosen_by_somebody_who_may_do_as_much() {
        let (app, ada) = site(&[]).await;
        let id = group(&app, "notes.publish").await;
        for beyond in [&*id, ADMIN] {
            ada.get(PATH).await.assert_lacks(&format!("<option value=\"{beyond}\""));
            let answer = ada.post(PATH, &[("group", beyond)]).await;
            answer.assert_status(403).assert_contains("You can only give or take permissions that you have yourself.");
        }
        assert_eq!(app.count("select count(*) from invitations").await, 0);
        app.grant("ada", "notes.publish").await;
        ada.get(PATH).await.assert_contains(&format!("<option value=\"{id}\">editors"));
        let (_, link) = invite(&ada, &[("group", &id)]).await;
        sign_up(&app, &link, "bob", None).await.unwrap();
        let bob = app.user("bob").await;
        let own = app.app.db.read(async |db| Own::of_user(db, &bob).await).await.unwrap();
        assert!(own.has_named("notes.publish"));
        let by_ada = "select count(*) from events e join users u on u.id = e.actor_id where u.username = 'ada' \
                      and e.kind = 'group_joined' and e.about = 'editors'";
        assert_eq!(app.count(by_ada).await, 1);
        // She sees it among her own events, in case somebody else has made it in her name.
        let of_ada = "select count(*) from events e join users u on u.id = e.user_id where u.username = 'ada' \
                      and e.kind = 'invitation_made' and e.about = 'editors' and e.address is not null";
        assert_eq!(app.count(of_ada).await, 1);
        // Whoever may do less cannot withdraw it.
        let (page, link) = invite(&ada, &[("group", &id)]).await;
        let grace = app.person("grace").await;
        app.grant("grace", INVITE.name).await;
        grace.post(&format!("{page}/revoke"), &[]).await.assert_status(403);
        app.visitor().get(&link).await.assert_status(200);
        let (page, link) = invite(&ada, &[]).await;
        grace.post(&format!("{page}/revoke"), &[]).await.assert_status(403);
        app.visitor().get(&link).await.assert_status(200);
        app.grant("grace", "notes.publish").await;
        grace.post(&format!("{page}/revoke"), &[]).await.assert_redirect(PATH);
        let of_ada = "select count(*) from events e join users u on u.id = e.user_id join users g on g.id = e.actor_id \
                      where u.username = 'ada' and g.username = 'grace' and e.kind = 'invitation_withdrawn'";
        assert_eq!(app.count(of_ada).await, 1);
    }

    #[tokio::test]
    async fn what_no_database_stores_is_refused_as_malformed() {
        let (app, ada) = site(&[]).await;
        for path in [PATH, "/admin/invitations/a%00b/revoke"] {
            let answer = ada.post(path, &[("group", "a\0b")]).await;
            assert!([400, 403, 404, 422].contains(&answer.status), "{answer}");
        }
        assert_eq!(app.count("select count(*) from invitations").await, 0);
    }

    #[tokio::test]
    async fn an_invitation_ends_when_it_is_withdrawn() {
        let (app, ada) = site(&[]).await;
        let (page, link) = invite(&ada, &[]).await;
        ada.post(&format!("{page}/revoke"), &[]).await.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("That invitation no longer works.").assert_contains("will appear here");
        ada.get(&page).await.assert_status(404);
        app.visitor().get(&link).await.assert_status(404).assert_contains("This link no longer works");
        assert_stale(sign_up(&app, &link, "bob", None).await);
        ada.post("/admin/invitations/nowhere/revoke", &[]).await.assert_status(404);
        assert_eq!(app.count("select count(*) from events where kind = 'invitation_withdrawn'").await, 1);
    }

    #[tokio::test]
    async fn an_invitation_ends_with_what_its_maker_may_do_and_when_somebody_else_may_have_made_it() {
        let (app, ada) = site(&[]).await;
        let id = group(&app, "notes.publish").await;
        app.grant("ada", "notes.publish").await;
        let ada_id = app.user("ada").await;
        let take = async |name: &'static str| {
            let actor = Actor::command_line();
            app.app.db.write(async |db| group::revoke(db, &ada_id, name, &actor).await).await.unwrap();
        };
        let (_, into_group) = invite(&ada, &[("group", &id)]).await;
        let (_, link) = invite(&ada, &[]).await;
        take("notes.publish").await;
        assert_stale(sign_up(&app, &into_group, "bob", None).await);
        app.visitor().get(&into_group).await.assert_status(404);
        app.visitor().get(&link).await.assert_status(200);
        take(INVITE.name).await;
        app.visitor().get(&link).await.assert_status(404);
        assert_stale(sign_up(&app, &link, "bob", None).await);

        app.grant("ada", INVITE.name).await;
        app.visitor().get(&link).await.assert_status(200);
        // As a reset of the password does.
        let revoke = async |db: &mut Connection| {
            user::lock(db, &ada_id).await?;
            lifecycle::revoke_all(db, &ada_id).await
        };
        app.app.db.write(revoke).await.unwrap();
        app.visitor().get(&link).await.assert_status(404);

        let (_, link) = invite(&app.browser_of("ada").await, &[]).await;
        app.disable("ada").await;
        app.visitor().get(&link).await.assert_status(404);
        assert_stale(sign_up(&app, &link, "bob", None).await);
        assert_eq!(app.count("select count(*) from users").await, 1);
    }

    #[tokio::test]
    async fn every_mistake_has_its_sentence_and_makes_no_invitation() {
        let (app, ada) = site(&[]).await;
        for (field, value, sentence) in [
            ("email", "bob", "does not look like"),
            ("uses", "0", "a number from 1 to 1000"),
            ("uses", "1001", "a number from 1 to 1000"),
            ("uses", "many", "a number from 1 to 1000"),
            ("expires", "0", "a number of days from 1 to 90"),
            ("expires", "91", "a number of days from 1 to 90"),
            ("expires", "-1", "a number of days from 1 to 90"),
            ("group", "nowhere", "This group no longer exists."),
        ] {
            let answer = ada.post(PATH, &[(field, value), ("once", &new_id())]).await;
            answer.assert_status(422).assert_contains(sentence).assert_contains(&format!("id=\"{field}-error\""));
            if field != "group" {
                answer.assert_contains(&format!("value=\"{value}\""));
            }
        }
        assert_eq!(app.count("select count(*) from invitations").await, 0);
    }

    #[tokio::test]
    async fn a_site_without_mail_invites_by_links_alone() {
        let (app, ada) = site(&[("SMTP_URL", "none")]).await;
        ada.get(PATH).await.assert_lacks("name=\"email\"");
        ada.post(PATH, &[("email", BOB)]).await.assert_status(422).assert_contains("This site sends no mail.");
        assert_eq!(app.count("select count(*) from invitations").await, 0);
        invite(&ada, &[]).await;
    }

    #[tokio::test]
    async fn while_sign_ups_are_closed_no_invitation_works_and_the_page_says_so() {
        let (app, ada) = site(&[("SIGNUPS", "closed")]).await;
        let new =
            NewInvitation { email: None, group_id: None, uses: 1, lifetime: Duration::from_secs(60), created_by: None };
        let make = async |db: &mut Connection| {
            let id = invitation::create(db, &new).await?;
            Ok(invitation::renew(db, &id).await?.unwrap())
        };
        let link = INVITE_PATH.replace("{token}", &app.app.db.write(make).await.unwrap().text());
        app.visitor().get(&link).await.assert_status(404).assert_contains("This link no longer works");
        assert_stale(sign_up(&app, &link, "bob", None).await);
        let page = ada.get(PATH).await;
        page.assert_contains("Sign-ups are closed on this site").assert_contains("made by a command");
        ada.post(PATH, &[]).await.assert_status(403).assert_contains("not even by an invitation");
    }

    #[tokio::test]
    async fn a_user_who_follows_an_invitation_is_offered_to_log_out_and_comes_back_to_it() {
        let (app, ada) = site(&[]).await;
        let (_, link) = invite(&ada, &[]).await;
        let bob = app.person("bob").await;
        let page = bob.get(&link).await;
        page.assert_status(200).assert_contains("log out first").assert_contains(&format!("action=\"{link}\""));
        bob.assert_is("bob").await;
        bob.post(&link, &[]).await.assert_redirect(&link);
        bob.assert_is("nobody").await;
        bob.get(&link).await.assert_contains("the form with");
        // A link that does not work logs nobody out.
        ada.post("/invite/x", &[]).await.assert_status(404);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn invitations_are_listed_fifty_to_a_page_newest_first_and_a_user_has_a_thousand_at_most() {
        let (app, ada) = site(&[]).await;
        let many = "with recursive numbers (number) as \
                    (select 1 union all select number + 1 from numbers where number < 999) \
                    insert into invitations (id, email, uses, used, created_by, created_at, expires_at) \
                    select '00' || number, 'p' || number || '@example.com', 1, 0, users.id, 0, 9999999999 \
                    from users, numbers where username = 'ada'";
        app.execute(many).await;
        invite(&ada, &[]).await;
        let answer = ada.post(PATH, &[("once", "another")]).await;
        answer.assert_status(422).assert_contains("form-error").assert_contains("1,000 invitations");
        assert_eq!(app.count("select count(*) from invitations").await, 1000);
        let first = ada.get(PATH).await;
        first.assert_contains("Anybody with the link").assert_contains("p999@").assert_lacks("p1@");
        assert_eq!(first.text().matches("/revoke\"").count(), 50);
        let second = ada.get(&first.link("next")).await;
        second.assert_lacks("p999@");
        assert_eq!(second.link("prev"), PATH);
    }

    #[tokio::test]
    async fn an_address_that_somebody_has_confirmed_in_the_meantime_stays_theirs() {
        let (app, ada) = site(&[]).await;
        ada.post(PATH, &[("email", BOB)]).await.assert_redirect(PATH);
        let link = app.link_to(BOB).await;
        app.person("bob").await;
        app.confirm_address("bob", BOB).await;
        sign_up(&app, &link, "eve", Some(BOB)).await.unwrap();
        let owner = app.app.db.read(async |db| address::owner(db, BOB).await).await.unwrap();
        assert_eq!(owner, Some(app.user("bob").await));
    }
}
