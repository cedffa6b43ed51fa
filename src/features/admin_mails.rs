//! Mails that wait or were given up: why they could not be sent, and buttons to try again or to delete them.
//!
//! What a mail says is written when it is sent, so nothing secret is shown here, and a mail that is no longer needed by then,
//! such as one whose link would have expired, is dropped.

use super::feature::Feature;
use crate::accounts::event::{self, Cause};
use crate::accounts::invitation::{self, INVITATION_MAIL};
use crate::accounts::{Event, Permission, Permissions, address};
use crate::base::{Env, Error, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow, now};
use crate::mail::outbox;
use crate::web::format::from_now;
use crate::web::{
    Access, AccountGroup, AccountRow, Administrator, App, Empty, Flash, Form, List, ListQuery, ONE_MORE, Page, Query,
    Redirect, Routes, RowState, Template, files, redirect,
};
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::FutureExt;
use serde::Serialize;
use sqlx::{FromRow, Row};

const PATH: &str = "/admin/mails";
const WAITING: &str = "/admin/mails?state=waiting";

const MANAGE: Permission =
    Permission::named("mails.manage", "See, retry and delete mails that wait or could not be sent");
const CAN: Access = Access::Can(MANAGE);

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get(PATH, CAN, index)
        .post("/admin/mails/{id}/retry", CAN, retry)
        .bounded_by("an event for each attempt to send a mail")
        .get("/admin/mails/{id}/delete", CAN, confirm_delete)
        .post("/admin/mails/{id}/delete", CAN, destroy);
    Ok(Feature {
        routes,
        events: &[RETRIED, DELETED],
        permissions: &[MANAGE],
        flashes: &[IS_DUE, IS_UNDER_WAY, IS_DELETED],
        account_row: Some(ROW),
        ..Feature::named("admin_mails")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 5, "Mails", PATH, |db, _| {
    async move {
        Ok(match count_given_up(db).await? {
            0 => RowState::new("None given up", "View"),
            number if number > MOST_COUNTED => RowState::new("More than 1,000 given up", "View").warning(),
            number => RowState::new(format!("{number} given up"), "View").warning(),
        })
    }
    .boxed()
})
.needing(MANAGE);

pub const RETRIED: Event =
    Event::named("mail_retried", "An administrator had a mail to you sent again").caused_by(Cause::Administrator);
pub const DELETED: Event = Event::named("mail_deleted", "An administrator deleted a mail to you before it was sent")
    .caused_by(Cause::Administrator);

const IS_DUE: Flash = Flash { name: "mail_due", words: "It will be sent now, unless it is no longer needed." };
const IS_UNDER_WAY: Flash = Flash { name: "mail_under_way", words: "This mail was sent, or is being sent already." };
const IS_DELETED: Flash = Flash { name: "mail_deleted", words: "Mail deleted." };

const FOR_SOMEBODY_ELSE: &str =
    "This mail is for somebody with permissions that you do not have, so you cannot delete it.";

/// Up to which number mails are counted.
const MOST_COUNTED: i64 = 1_000;

/// A mail in the outbox.
#[derive(Serialize)]
struct ListedMail {
    id: String,
    kind: String,
    #[serde(skip)]
    about: String,
    #[serde(skip)]
    user_id: Option<String>,
    username: Option<String>,
    email: String,
    queued: i64,
    attempts: i64,
    /// Why the last attempt failed.
    error: Option<String>,
    given_up: Option<i64>,
    /// Whether it was transmitted without a reply.
    may_have_arrived: bool,
    next_try: String,
}

impl FromRow<'_, DbRow> for ListedMail {
    fn from_row(row: &DbRow) -> sqlx::Result<ListedMail> {
        let (due_at, unconfirmed): (i64, i64) = (row.try_get("due_at")?, row.try_get("unconfirmed")?);
        Ok(ListedMail {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            about: row.try_get("about")?,
            user_id: row.try_get("user_id")?,
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            queued: row.try_get("created_at")?,
            attempts: row.try_get("attempts")?,
            error: row.try_get("error")?,
            given_up: row.try_get("failed_at")?,
            may_have_arrived: unconfirmed > 0,
            next_try: from_now((due_at - now()).max(0) as u64),
        })
    }
}

impl ListedMail {
    /// The id of the user whose mail it is. What concerns an address, such as a link to choose a new password, belongs to
    /// whoever has confirmed the address.
    async fn owner(&self, db: &mut Connection) -> Result<Option<String>> {
        match &self.user_id {
            Some(id) => Ok(Some(id.clone())),
            None => address::owner(db, &self.email).await,
        }
    }
}

#[derive(Serialize)]
struct MailsPage {
    /// Whether it shows the mails that wait, or those that were given up.
    waiting: bool,
    mails: List<ListedMail>,
}

impl Template for MailsPage {
    const FILE: &'static str = files::ADMIN_MAILS_INDEX;
}

#[derive(Serialize)]
struct DeletePage {
    mail_to_delete: ListedMail,
}

impl Template for DeletePage {
    const FILE: &'static str = files::ADMIN_MAILS_DELETE;
}

async fn index(State(app): State<App>, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let waiting = query.get("state") == Some("waiting");
    let sql = if waiting { THAT_WAIT } else { GIVEN_UP };
    let mails = app.db.read(async |db| newest(db, sql, query.after(AFTER_ALL_IDS)).await).await?;
    page.render(&MailsPage { waiting, mails: List::new(mails, &query, |mail| &mail.id) }).await
}

async fn retry(admin: Administrator, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    let retry = async |db: &mut Connection, _: &Permissions| {
        let Some(mail) = find(db, &id).await? else { return Ok(redirect(PATH).flash(IS_UNDER_WAY)) };
        let back = redirect(if mail.given_up.is_some() { PATH } else { WAITING });
        if !outbox::retry(db, &id).await? {
            return Ok(back.flash(IS_UNDER_WAY));
        }
        let owner = mail.owner(db).await?;
        event::record(db, owner.as_deref(), RETRIED.by_actor(&admin.actor).about(&mail.kind)).await?;
        Ok(back.flash(IS_DUE))
    };
    admin.change(retry).await
}

async fn confirm_delete(State(app): State<App>, page: Page, Path(id): Path<String>) -> Result<Response> {
    let mail = app.db.read(async |db| find(db, &id).await).await?;
    page.render(&DeletePage { mail_to_delete: mail.ok_or(Error::NOT_FOUND)? }).await
}

async fn destroy(admin: Administrator, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    let delete = async |db: &mut Connection, own: &Permissions| {
        let mail = find(db, &id).await?.ok_or(Error::NOT_FOUND)?;
        let owner = mail.owner(db).await?;
        // It may tell them what somebody has done to their account, or be an invitation that only others may withdraw.
        let mut needed = Permissions::of_user(db, owner.as_deref().unwrap_or_default()).await?;
        if mail.kind == INVITATION_MAIL {
            needed = needed.and(invitation::permissions(db, &mail.about).await?);
        }
        if !own.cover(&needed) {
            return Err(Error::Forbidden(FOR_SOMEBODY_ELSE));
        }
        if outbox::cancel_one(db, &id).await? {
            event::record(db, owner.as_deref(), DELETED.by_actor(&admin.actor).about(&mail.kind)).await?;
        }
        Ok(redirect(if mail.given_up.is_some() { PATH } else { WAITING }).flash(IS_DELETED))
    };
    admin.change(delete).await
}

const GIVEN_UP: &str = "select m.id, m.kind, m.about, m.user_id, u.username, m.email, m.created_at, m.due_at, m.attempts, \
     m.failed_at, m.error, m.unconfirmed from mails m left join users u on u.id = m.user_id \
     where m.failed_at is not null and m.id < $1 order by m.id desc limit $2";

const THAT_WAIT: &str = "select m.id, m.kind, m.about, m.user_id, u.username, m.email, m.created_at, m.due_at, m.attempts, \
     m.failed_at, m.error, m.unconfirmed from mails m left join users u on u.id = m.user_id \
     where m.failed_at is null and m.id < $1 order by m.id desc limit $2";

/// The mails of one of these queries that were queued before the one with the id `after`, newest first.
async fn newest(db: &mut Connection, sql: &'static str, after: &str) -> Result<Vec<ListedMail>> {
    Ok(sqlx::query_as(sql).bind(after).bind(ONE_MORE).fetch_all(db).await?)
}

async fn find(db: &mut Connection, id: &str) -> Result<Option<ListedMail>> {
    let sql = "select m.id, m.kind, m.about, m.user_id, u.username, m.email, m.created_at, m.due_at, m.attempts, \
               m.failed_at, m.error, m.unconfirmed from mails m left join users u on u.id = m.user_id where m.id = $1";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(db).await?)
}

async fn count_given_up(db: &mut Connection) -> Result<i64> {
    // In order, so that Postgres looks for them by the index.
    let sql = "select count(*) from \
               (select 1 as one from mails where failed_at is not null order by id limit $1) counted";
    Ok(sqlx::query_scalar(sql).bind(MOST_COUNTED + 1).fetch_one(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::User;
    use crate::accounts::invitation::NewInvitation;
    use crate::mail::{Mail, MailContent};
    use crate::test::{Answer, TestApp, Visitor, check};
    use axum::http::Method;
    use futures_util::future::{BoxFuture, join_all, ready};
    use std::time::Duration;

    /// An app with somebody who may manage mails and no more.
    async fn app_of_ada(feature: Feature) -> (TestApp, Visitor) {
        let app = TestApp::with_feature(&[], feature).await;
        let ada = app.person("ada").await;
        app.grant("ada", "mails.manage").await;
        (app, ada)
    }

    async fn queue(app: &TestApp, kind: &'static str, to: Option<&str>) -> String {
        let user_id = match to {
            Some(name) => Some(app.user(name).await),
            None => None,
        };
        let queue = async |db: &mut Connection| {
            outbox::queue(db, kind, user_id.as_deref(), "bob@example.com", "").await?;
            Ok(sqlx::query_scalar("select max(id) from mails").fetch_one(db).await?)
        };
        app.app.db.write(queue).await.unwrap()
    }

    const GIVE_UP: &str =
        "update mails set failed_at = 1, error = '550 <b>no such user</b>', attempts = 20, unconfirmed = 3";
    const POSTPONE: &str = "update mails set due_at = due_at + 600, error = 'greylisted', attempts = 3";

    async fn try_again(ada: &Visitor, id: &str) -> Answer {
        ada.post(&format!("/admin/mails/{id}/retry"), &[]).await
    }

    #[test]
    fn its_pages_render() {
        let mail = |given_up: Option<i64>| ListedMail {
            id: "0190".into(),
            kind: "password_reset".into(),
            about: String::new(),
            user_id: None,
            username: given_up.map(|_| "bob".into()),
            email: "bob@example.com".into(),
            queued: 1,
            attempts: given_up.map_or(0, |_| 20),
            error: given_up.map(|_| "<b>".into()),
            given_up,
            may_have_arrived: given_up.is_some(),
            next_try: "in a minute".into(),
        };
        let page = |waiting, rows| MailsPage { waiting, mails: List { rows, previous: None, next: None } };
        check(&[
            page(true, vec![mail(None)]),
            page(false, vec![mail(Some(1))]),
            page(true, vec![ListedMail { error: Some("no".into()), attempts: 1, ..mail(None) }]),
            page(true, vec![]),
            page(false, vec![]),
        ]);
        check(&[DeletePage { mail_to_delete: mail(None) }, DeletePage { mail_to_delete: mail(Some(1)) }]);
    }

    #[tokio::test]
    async fn the_lists_say_to_whom_a_mail_was_what_it_is_and_why_it_was_not_sent() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        ada.get(PATH).await.assert_status(200).assert_contains("No mail was given up.");
        ada.get(WAITING).await.assert_status(200).assert_contains("No mail is waiting.");
        let _bob = app.person("bob").await;
        queue(&app, "test", Some("bob")).await;
        let waiting = ada.get(WAITING).await;
        waiting.assert_contains("bob@example.com").assert_contains("not tried yet").assert_lacks("Try again");
        app.execute(POSTPONE).await;
        let waiting = ada.get(WAITING).await;
        waiting.assert_contains("3 attempts").assert_contains("greylisted").assert_contains("Try again");
        waiting.assert_contains("next attempt in 10 minutes");
        ada.get(PATH).await.assert_lacks("bob@example.com");
        app.execute(GIVE_UP).await;
        ada.get(WAITING).await.assert_lacks("bob@example.com");
        let given_up = ada.get(PATH).await;
        given_up.assert_contains("<span class=\"mark\">bob</span>").assert_contains("<span>test</span>");
        given_up.assert_contains("550 &lt;b&gt;no such user").assert_contains("may have arrived");
        given_up.assert_contains("20 attempts").assert_contains("given up");
        ada.get("/test/account").await.assert_contains("Mails · 1 given up · View!\n");
        app.execute("update mails set error = replace(error, '550', '5500000000000000000000000000000000000000')").await;
        app.execute("update mails set error = error || error || error || error || error || error || 'END'").await;
        ada.get(PATH).await.assert_lacks("END").assert_contains("…");
    }

    #[tokio::test]
    async fn a_mail_that_was_given_up_is_sent_once_however_often_somebody_tries_again() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        app.person("bob").await;
        let id = queue(&app, "test", Some("bob")).await;
        app.execute(GIVE_UP).await;
        assert_eq!(app.mails().await.len(), 0);
        join_all((0..4).map(|_| try_again(&ada, &id))).await;
        assert_eq!(app.count("select count(*) from events where kind = 'mail_retried' and about = 'test'").await, 1);
        ada.get(WAITING).await.assert_contains("bob@example.com");
        assert_eq!(app.mails().await.len(), 1);
        assert_eq!(app.mails().await.len(), 1);
        let again = try_again(&ada, &id).await;
        again.assert_redirect(PATH);
        ada.get(PATH).await.assert_contains("was sent, or is being sent already");
        let bobs = "select count(*) from events e join users u on u.id = e.user_id where u.username = 'bob' \
                    and e.kind = 'mail_retried' and e.actor_id = (select id from users where username = 'ada')";
        assert_eq!(app.count(bobs).await, 1);
    }

    #[tokio::test]
    async fn a_mail_that_waits_after_a_failure_is_due_now_and_whoever_prepares_it_lets_the_next_send_it() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        let id = queue(&app, "test", None).await;
        app.execute("update mails set error = 'greylisted', attempts = 3").await;
        let claimed = outbox::claim(&app.app.db, &[]).await.unwrap().unwrap();
        try_again(&ada, &id).await.assert_redirect(WAITING);
        ada.get(WAITING).await.assert_contains("It will be sent now");
        let next = outbox::claim(&app.app.db, &[]).await.unwrap().expect("it is due");
        assert!(!outbox::begin_transmission(&app.app.db, &claimed).await.unwrap());
        assert!(outbox::begin_transmission(&app.app.db, &next).await.unwrap());
        // It is on its way.
        try_again(&ada, &id).await.assert_redirect(WAITING);
        ada.get(WAITING).await.assert_contains("is being sent already");
        assert!(outbox::claim(&app.app.db, &[]).await.unwrap().is_none());
        assert_eq!(app.count("select count(*) from events where kind = 'mail_retried'").await, 1);
    }

    #[tokio::test]
    async fn a_mail_that_was_not_tried_yet_is_not_sent_before_its_time() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        let id = queue(&app, "test", None).await;
        app.execute("update mails set due_at = due_at + 12").await;
        try_again(&ada, &id).await.assert_redirect(WAITING);
        assert_eq!(app.mails().await.len(), 0);
    }

    /// Writes a mail with a link that works for an hour after it was requested.
    fn write_link<'a>(
        _: &'a App,
        _: &'a mut Connection,
        mail: &'a Mail,
        _: Option<User>,
    ) -> BoxFuture<'a, Result<Option<MailContent>>> {
        let content =
            MailContent { subject: "A link".into(), text: String::new(), html: String::new(), unsubscribe: None };
        ready(Ok((!mail.is_older_than(Duration::from_secs(3_600))).then_some(content))).boxed()
    }

    #[tokio::test]
    async fn a_mail_whose_link_has_expired_is_not_sent_by_trying_again() {
        for (age, sent) in
            [("update mails set created_at = created_at - 3500", 1), ("update mails set created_at = 1", 0)]
        {
            let feature = Feature { mails: &[("link", write_link as _)], ..Feature::named("test") };
            let (app, ada) = app_of_ada(feature).await;
            let id = queue(&app, "link", None).await;
            app.execute(GIVE_UP).await;
            app.execute(age).await;
            try_again(&ada, &id).await.assert_redirect(PATH);
            assert_eq!(app.mails().await.len(), sent);
            assert_eq!(app.count("select count(*) from mails").await, 0);
        }
    }

    #[tokio::test]
    async fn a_mail_is_deleted_after_a_question_unless_its_reader_may_do_more() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        app.person("bob").await;
        let path = format!("/admin/mails/{}/delete", queue(&app, "test", Some("bob")).await);
        ada.get(&path).await.assert_status(200).assert_contains("bob@example.com").assert_contains("Delete mail");
        app.grant("bob", "users.manage").await;
        ada.post(&path, &[]).await.assert_status(403).assert_contains("so you cannot delete it.");
        app.grant("ada", "users.manage").await;
        ada.post(&path, &[]).await.assert_redirect(WAITING);
        ada.get(WAITING).await.assert_contains("Mail deleted.").assert_lacks("bob@example.com");
        for answer in [ada.post(&path, &[]).await, ada.get(&path).await] {
            answer.assert_status(404);
        }
        assert_eq!(app.mails().await.len(), 0);
        assert_eq!(app.count("select count(*) from events where kind = 'mail_deleted' and about = 'test'").await, 1);
    }

    #[tokio::test]
    async fn a_mail_to_the_address_of_a_person_is_theirs_and_an_invitation_is_of_those_who_may_withdraw_it() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        app.person("bob").await;
        app.confirm_address("bob", "bob@example.com").await;
        app.grant("bob", "users.manage").await;
        let bob = app.user("bob").await;
        let id = queue(&app, "password_reset", None).await;
        ada.post(&format!("/admin/mails/{id}/delete"), &[]).await.assert_status(403);
        app.execute(POSTPONE).await;
        try_again(&ada, &id).await.assert_redirect(WAITING);
        app.execute("delete from addresses").await;
        let invite = async |db: &mut Connection| {
            let new = NewInvitation {
                email: Some("eve@example.com"),
                group_id: None,
                uses: 1,
                lifetime: Duration::from_secs(60),
                created_by: Some(&bob),
            };
            let invitation = invitation::create(db, &new).await?;
            outbox::queue(db, INVITATION_MAIL, None, "eve@example.com", &invitation).await?;
            Ok(sqlx::query_scalar("select max(id) from mails").fetch_one(db).await?)
        };
        let invitation: String = app.app.db.write(invite).await.unwrap();
        ada.post(&format!("/admin/mails/{invitation}/delete"), &[]).await.assert_status(403);
        assert_eq!(app.count("select count(*) from mails").await, 2);
        app.grant("ada", "users.manage").await;
        for id in [&id, &invitation] {
            ada.post(&format!("/admin/mails/{id}/delete"), &[]).await.assert_redirect(WAITING);
        }
        let of_bob = "select count(*) from events e join users u on u.id = e.user_id where u.username = 'bob' \
                      and e.kind = 'mail_retried' and e.about = 'password_reset'";
        assert_eq!(app.count(of_bob).await, 1);
    }

    #[tokio::test]
    async fn mails_are_listed_newest_first_fifty_a_page_and_found_by_an_index() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        app.execute(
            "insert into mails (id, kind, email, about, created_at, due_at, attempts, failed_at, error) \
                     with recursive n(i) as (select 100 union all select i + 1 from n where i < 203) \
                     select '0' || i, 'test', 'm' || i || '@example.com', '', 1, 1, 1, \
                     case when i % 2 = 0 then 1 end, 'no' from n",
        )
        .await;
        for (list, newest, oldest, next) in [(PATH, "m202@", "m104@", "m102@"), (WAITING, "m203@", "m105@", "m103@")] {
            let first = ada.get(list).await;
            first.assert_contains(newest).assert_contains(oldest).assert_lacks(next);
            let second = ada.get(&first.link("next")).await;
            second.assert_contains(next).assert_lacks(oldest).assert_lacks("rel=\"next\"");
        }
        for (sql, index) in [(GIVEN_UP, "mails_given_up_by_id"), (THAT_WAIT, "mails_waiting_by_id")] {
            let Some(plan) = app.query_plan(sql).await else { return };
            assert!(plan.contains(index) && !plan.contains("ORDER BY"), "{plan}");
        }
    }

    #[tokio::test]
    async fn without_the_permission_the_pages_are_what_an_unknown_path_is() {
        let (app, ada) = app_of_ada(Feature::default()).await;
        let bob = app.person("bob").await;
        app.grant("bob", "another.permission").await;
        let id = queue(&app, "test", Some("ada")).await;
        app.execute(GIVE_UP).await;
        for path in [PATH, &format!("/admin/mails/{id}/retry"), &format!("/admin/mails/{id}/delete")] {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let refused = bob.send(method.clone(), path, &[], "").await;
                let unknown = bob.send(method.clone(), "/admin/unknown", &[], "").await;
                assert_eq!(refused.assert_status(404).text(), unknown.text(), "{method} {path}");
                let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
                assert_eq!(names(&refused), names(&unknown), "{method} {path}");
            }
        }
        bob.get("/test/account").await.assert_lacks("Mails");
        app.visitor().get(PATH).await.assert_redirect("/login?next=%2Fadmin%2Fmails");
        assert_eq!(app.count("select count(*) from mails where failed_at = 1").await, 1);
        app.execute("update sessions set confirmed_at = confirmed_at - 600").await;
        for path in [format!("/admin/mails/{id}/retry"), format!("/admin/mails/{id}/delete")] {
            ada.post(&path, &[]).await.assert_redirect("/confirm?next=%2Faccount");
        }
        assert_eq!(app.count("select count(*) from mails where failed_at = 1").await, 1);
    }
}
