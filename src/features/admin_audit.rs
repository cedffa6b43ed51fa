//! The audit: everything that happened on the site, to whom and by whom.

use super::feature::Feature;
use crate::accounts::client::device_name;
use crate::accounts::event::{Cause, RecordedEvent};
use crate::accounts::{Event, Permission, Username, user};
use crate::base::{Env, Error, FieldErrors, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow, first_id_at};
use crate::web::{
    Access, AccountGroup, AccountRow, App, List, ListQuery, Page, Query, Routes, RowState, Template, files, format,
};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use sqlx::{FromRow, Row};
use std::collections::BTreeSet;

const READ: Permission = Permission::named("audit.read", "Read what happened on the site");

const PATH: &str = "/admin/audit";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature {
        routes: Routes::new().get(PATH, Access::Can(READ), index),
        permissions: &[READ],
        account_row: Some(ROW),
        ..Feature::named("admin_audit")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 9, "Audit", PATH, |_, _| {
    RowState::fixed("What happened on the site", "View")
})
.needing(READ);

#[derive(Serialize)]
struct AuditPage {
    entries: List<Entry>,
    /// The kinds to choose from.
    kinds: BTreeSet<&'static str>,
    person: String,
    kind: String,
    day: String,
    errors: FieldErrors,
    kept: String,
}

impl Template for AuditPage {
    const FILE: &'static str = files::ADMIN_AUDIT_INDEX;
}

impl AuditPage {
    fn new(app: &App, query: &ListQuery, events: Vec<AuditedEvent>, errors: FieldErrors) -> AuditPage {
        let text = |field| query.get(field).unwrap_or_default().to_string();
        let events = List::new(events, query, |audited| &audited.event.id);
        AuditPage {
            entries: events.map(|event| Entry::new(event, &app.features.events)),
            kinds: app.features.events.iter().map(|event| event.kind).collect(),
            person: text("person"),
            kind: text("kind"),
            day: text("day"),
            errors,
            kept: format::duration(app.config.events_kept),
        }
    }
}

#[derive(Serialize)]
struct Entry {
    kind: String,
    about: Option<String>,
    at: i64,
    /// To whom it happened. `None` for an attempt at an unknown username, and for what concerns no account, such as a
    /// group.
    owner: Option<Person>,
    /// Who did it, if not the owner.
    actor: Option<Person>,
    by_command: bool,
    device: Option<String>,
    address: Option<String>,
}

#[derive(Serialize)]
struct Person {
    id: String,
    /// `None` of a user who is deleted.
    name: Option<String>,
}

impl Entry {
    fn new(audited: AuditedEvent, known: &[Event]) -> Entry {
        let AuditedEvent { event, owner, actor } = audited;
        let by_administrator = event.event(known).is_some_and(|event| event.cause == Cause::Administrator);
        Entry {
            by_command: by_administrator && actor.is_none(),
            kind: event.kind,
            about: event.about,
            at: event.created_at,
            device: event.device.as_deref().map(device_name),
            address: event.address,
            actor: actor.filter(|actor| owner.as_ref().is_none_or(|owner| owner.id != actor.id)),
            owner,
        }
    }
}

async fn index(State(app): State<App>, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let found = app.db.read(async |db| {
        let filter = Filter::read(db, &app, &query).await?;
        newest(db, &filter).await
    });
    match found.await {
        Ok(events) => page.render(&AuditPage::new(&app, &query, events, FieldErrors::default())).await,
        Err(error) => {
            let errors = error.field_errors()?;
            page.render_errors(&AuditPage::new(&app, &query, Vec::new(), errors)).await
        }
    }
}

/// Which events are listed.
struct Filter {
    /// From this id.
    first: String,
    /// And before this one.
    end: String,
    /// To whom or by whom; anybody if it is empty.
    user_id: String,
    /// Any kind if it is empty.
    kind: String,
}

impl Filter {
    /// # Errors
    /// [`Error::Invalid`] when there is no such day, person or kind.
    async fn read(db: &mut Connection, app: &App, query: &ListQuery) -> Result<Filter> {
        let mut errors = FieldErrors::default();
        let (mut first, mut end) = (String::new(), query.after(AFTER_ALL_IDS).to_string());
        if let Some(day) = query.get("day") {
            let day = format::parse_date(day).ok_or("Enter a day such as 2026-11-21.".into());
            if let Some(day) = errors.check("day", day) {
                (first, end) = (first_id_at(day), end.min(first_id_at(day + 24 * 60 * 60)));
            }
        }
        let kind = query.get("kind").unwrap_or_default().to_string();
        if !kind.is_empty() && app.features.events.iter().all(|event| event.kind != kind) {
            errors.add("kind", "Choose one of these.");
        }
        let mut user_id = String::new();
        if let Some(person) = query.get("person") {
            let found = find_user_id(db, person).await?.ok_or("Nobody has this username.".into());
            user_id = errors.check("person", found).unwrap_or_default();
        }
        if errors.iter().next().is_some() {
            return Err(Error::Invalid(errors));
        }
        Ok(Filter { first, end, user_id, kind })
    }
}

/// The id of the user with this name. An id is its own, because nothing else is left of a user who is deleted; no name is
/// that long.
async fn find_user_id(db: &mut Connection, text: &str) -> Result<Option<String>> {
    match Username::parse(text) {
        Ok(username) => Ok(user::find(db, &username).await?.map(|user| user.id)),
        Err(_) => Ok((text.len() == first_id_at(0).len()).then(|| text.to_string())),
    }
}

/// An event, with whom it is about.
struct AuditedEvent {
    event: RecordedEvent,
    owner: Option<Person>,
    actor: Option<Person>,
}

impl FromRow<'_, DbRow> for AuditedEvent {
    fn from_row(row: &DbRow) -> sqlx::Result<AuditedEvent> {
        let person = |id: Option<String>, name| Some(Person { id: id?, name });
        Ok(AuditedEvent {
            event: RecordedEvent::from_row(row)?,
            owner: person(row.try_get("user_id")?, row.try_get("owner_name")?),
            actor: person(row.try_get("actor_id")?, row.try_get("actor_name")?),
        })
    }
}

/// Each part has an index of its own, and only those that the filter asks for are read. The limit of a part is one more than a
/// page has; if it were a parameter, Postgres would expect a tenth of the table.
const NEWEST: &str = "select e.id, e.kind, e.about, e.factors, e.created_at, e.address, e.device, e.user_id, e.actor_id, \
     u.username as owner_name, a.username as actor_name from events e \
     left join users u on u.id = e.user_id left join users a on a.id = e.actor_id where e.id in (\
     select id from (select id from events where $3 = '' and $4 = '' and id >= $1 and id < $2 \
     order by id desc limit 51) of_all union \
     select id from (select id from events where $3 = '' and kind = $4 and id >= $1 and id < $2 \
     order by id desc limit 51) of_kind union \
     select id from (select id from events where user_id = $3 and ($4 = '' or kind = $4) and id >= $1 and id < $2 \
     order by id desc limit 51) to_person union \
     select id from (select id from events where actor_id = $3 and ($4 = '' or kind = $4) and id >= $1 and id < $2 \
     order by id desc limit 51) by_person) order by e.id desc limit 51";

/// The newest events of the filter, one more than a page has.
async fn newest(db: &mut Connection, filter: &Filter) -> Result<Vec<AuditedEvent>> {
    let query = sqlx::query_as(NEWEST).bind(&*filter.first).bind(&*filter.end);
    Ok(query.bind(&*filter.user_id).bind(&*filter.kind).fetch_all(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{Actor, Client, group};
    use crate::db::now;
    use crate::test::{Answer, TestApp, Visitor, check};
    use crate::web::Routes;

    #[test]
    fn its_page_renders() {
        let page = |entries: Vec<Entry>, errors| AuditPage {
            entries: List { rows: entries, previous: None, next: Some("?after=0190".into()) },
            kinds: BTreeSet::from(["logged_in", "disabled"]),
            person: "ada".into(),
            kind: "disabled".into(),
            day: "2026-11-21".into(),
            errors,
            kept: "180 days".into(),
        };
        let person =
            |name: &str| Some(Person { id: "0190".into(), name: Some(name.into()).filter(|_| name != "gone") });
        let entry = |owner, actor, by_command| Entry {
            kind: "log_in_failed".into(),
            about: Some("<Pixel>".into()),
            at: 1_777_629_600,
            owner,
            actor,
            by_command,
            device: Some("<Firefox>".into()),
            address: Some("192.0.2.1".into()),
        };
        let entries = || {
            Vec::from([
                entry(person("ada"), person("eve"), false),
                entry(person("gone"), None, true),
                entry(None, None, false),
            ])
        };
        let mut errors = FieldErrors::of("day", "Enter a day.");
        errors.add("person", "Nobody.");
        errors.add("kind", "Choose.");
        check(&[page(entries(), FieldErrors::default()), page(vec![], FieldErrors::default()), page(vec![], errors)]);
        check(&[AuditPage {
            person: "".into(),
            kind: "".into(),
            day: "".into(),
            ..page(vec![], FieldErrors::default())
        }]);
    }

    /// Somebody who may read the audit, where nothing has happened yet.
    async fn reader(app: &TestApp) -> Visitor {
        let reader = app.person("reader").await;
        app.grant("reader", READ.name).await;
        app.execute("delete from events").await;
        reader
    }

    /// Eve gives somebody a permission.
    async fn grant_by_eve(app: &TestApp, name: &str) {
        let (id, client) = (app.user(name).await, Client::local("Eve's browser"));
        let eve = Actor { user_id: Some(app.user("eve").await), client };
        app.app.db.write(async |db| group::grant(db, &id, "notes.read", &eve).await).await.unwrap();
    }

    /// What each entry says, newest first.
    fn entries(page: &Answer) -> Vec<String> {
        let text = page.assert_status(200).text();
        let entries = text.split("<li><div><strong>").skip(1).map(|entry| entry.split("</div></li>").next().unwrap());
        let words = |entry: &str| {
            let parts = entry.split('<').map(|part| part.split_once('>').map_or(part, |(_, words)| words));
            parts.filter(|part| !part.trim().is_empty() && !part.ends_with(" UTC")).collect::<Vec<_>>().join(" ")
        };
        entries.map(words).map(|entry| entry.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[tokio::test]
    async fn all_that_happened_is_there_newest_first_with_whom_by_whom_and_from_where() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.person("ada").await;
        app.execute("delete from events where kind = 'new_browser'").await;
        let login = app.login().await;
        assert!(app.app.passwords.verify(login.source(), "nobody", "not the password").await.unwrap().is_none());
        app.grant("ada", "users.manage").await;
        app.person("eve").await;
        app.execute("delete from events where kind in ('signed_up', 'new_browser') and about is null").await;
        grant_by_eve(&app, "ada").await;
        let page = reader.get("/admin/audit").await;
        let found = entries(&page);
        assert_eq!(found[0], "Permission granted: notes.read ada by eve", "{page}");
        assert!(found[1].starts_with("Logged in eve ") && found[1].ends_with(" 127.0.0.1"), "{page}");
        assert_eq!(found[2], "Permission granted: users.manage ada by a command", "{page}");
        assert!(found[3].starts_with("Log in failed an unknown username "), "{page}");
        assert!(found[4].starts_with("Logged in ada "), "{page}");
        page.assert_contains("It is kept for 180 days.").assert_lacks("Eve's browser");
    }

    #[tokio::test]
    async fn events_are_found_by_person_also_as_actor_by_kind_and_by_day_and_by_all_of_them() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.person("ada").await;
        app.person("eve").await;
        app.person("bob").await;
        app.execute("delete from events where kind <> 'logged_in'").await;
        grant_by_eve(&app, "bob").await;
        let today = &format::rfc3339(now())[..10].to_string();
        let tomorrow = &format::rfc3339(now() + 24 * 60 * 60)[..10].to_string();
        for (query, count) in [
            ("", 4),
            ("?person=eve", 2),
            ("?person=EVE", 2),
            ("?person=ada", 1),
            ("?person=bob", 2),
            ("?kind=logged_in", 3),
            ("?person=eve&kind=logged_in", 1),
            ("?person=ada&kind=permission_granted", 0),
            ("?person=eve&kind=permission_granted&day=TODAY", 1),
            ("?day=TODAY", 4),
            ("?day=TOMORROW", 0),
            ("?day=TOMORROW&person=eve", 0),
            ("?day=TODAY&kind=logged_in", 3),
            ("?person=&kind=&day=", 4),
            ("?after=0", 0),
        ] {
            let path = format!("/admin/audit{query}").replace("TODAY", today).replace("TOMORROW", tomorrow);
            let page = reader.get(&path).await;
            assert_eq!(entries(&page).len(), count, "{page}");
            assert_eq!(page.text().contains("class=\"empty\""), count == 0, "{page}");
        }
        // That both did it and have it happen to them is one event.
        grant_by_eve(&app, "eve").await;
        assert_eq!(entries(&reader.get("/admin/audit?person=eve").await).len(), 3);
    }

    #[tokio::test]
    async fn what_happened_to_a_deleted_user_is_found_by_the_id_that_is_left() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.person("ada").await;
        app.person("eve").await;
        let id = app.user("eve").await;
        grant_by_eve(&app, "ada").await;
        app.execute("delete from users where username = 'eve'").await;
        let page = reader.get("/admin/audit").await;
        let deleted = format!("deleted user {id}");
        assert_eq!(entries(&page)[0], format!("Permission granted: notes.read ada by {deleted}"));
        page.assert_contains(&format!("href=\"/admin/audit?person={id}\">{deleted}"));
        let trail = entries(&reader.get(&format!("/admin/audit?person={id}")).await);
        assert!(trail.len() > 2 && trail.iter().all(|entry| entry.contains(&deleted)), "{trail:?}");
    }

    #[tokio::test]
    async fn a_filter_that_fits_nothing_says_why_beside_its_field_and_keeps_what_was_typed() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.person("ada").await;
        for (query, field, sentence) in [
            ("?person=nobody", "person", "Nobody has this username."),
            ("?person=%3Cb%3E", "person", "Nobody has this username."),
            ("?kind=rubbish", "kind", "Choose one of these."),
            ("?day=yesterday", "day", "Enter a day such as"),
            ("?day=2026-02-30", "day", "Enter a day such as"),
        ] {
            let page = reader.get(&format!("/admin/audit{query}")).await;
            page.assert_status(422).assert_contains(sentence).assert_contains(&format!("id=\"{field}-error\""));
            page.assert_lacks("Logged in ").assert_lacks("class=\"empty\"");
        }
        let both = reader.get("/admin/audit?person=nobody&day=never").await;
        both.assert_contains("id=\"person-error\"").assert_contains("id=\"day-error\"");
        both.assert_contains("value=\"nobody\"").assert_contains("value=\"never\"");
        reader.get("/admin/audit?person=ada%00").await.assert_status(404);
    }

    #[tokio::test]
    async fn the_audit_is_listed_fifty_to_a_page_and_the_filter_stays() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.person("ada").await;
        app.execute("delete from events").await;
        for _ in 0..51 {
            app.browser_of("ada").await;
            app.execute("delete from events where kind <> 'logged_in'").await;
        }
        let day = &format::rfc3339(now())[..10].to_string();
        for filter in ["", "?person=ada", "?kind=logged_in", &format!("?kind=logged_in&day={day}&person=ada")] {
            let first = reader.get(&format!("/admin/audit{filter}")).await;
            assert_eq!(entries(&first).len(), 50);
            let second = reader.get(&first.link("next")).await;
            assert_eq!(entries(&second).len(), 1, "{second}");
            second.assert_lacks("rel=\"next\"");
            assert_eq!(entries(&reader.get(&second.link("prev")).await), entries(&first));
        }
    }

    #[tokio::test]
    async fn every_filter_is_answered_from_an_index() {
        let app = TestApp::new().await;
        let Some(plan) = app.query_plan(NEWEST).await else { return };
        let tables = ["SCAN e", "SCAN events", "SCAN u", "SCAN a"];
        assert!(!plan.lines().any(|step| tables.contains(&step)), "{plan}");
        for index in [
            "events_by_kind (kind=? AND id>? AND id<?)",
            "events_by_user (user_id=? AND id>? AND id<?)",
            "events_by_actor (actor_id=? AND id>? AND id<?)",
        ] {
            assert!(plan.contains(index), "{index}: {plan}");
        }
    }

    #[tokio::test]
    async fn without_the_permission_there_is_no_audit() {
        let app = TestApp::with_env(&[("EVENTS_KEPT", "7d")], Routes::new()).await;
        let (reader, eve) = (reader(&app).await, app.person("eve").await);
        let nowhere = eve.get("/nowhere").await;
        for permission in ["statistics.see", "users.manage"] {
            assert_eq!(eve.get("/admin/audit?person=reader").await.assert_status(404).text(), nowhere.text());
            app.grant("eve", permission).await;
        }
        assert_eq!(eve.get("/admin/audit").await.assert_status(404).text(), nowhere.text());
        eve.get("/test/account").await.assert_lacks("Audit");
        app.visitor().get("/admin/audit").await.assert_redirect("/login?next=%2Fadmin%2Faudit");
        reader.get("/test/account").await.assert_contains("Audit · What happened on the site · View\n");
        reader
            .get("/admin/audit")
            .await
            .assert_contains("kept for 7 days")
            .assert_contains("aria-current=\"page\">Audit");
    }
}
