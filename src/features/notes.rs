//! Notes: rows that belong to the user who wrote them. The example to copy for a feature of your own.
//!
//! List and write at `/notes`, read and edit at `/notes/{id}`, delete, and restore what was deleted by mistake. Every query
//! names the user besides the note, so a note of another user is not found. `scripts/remove notes` removes all of it.

use super::feature::Feature;
use crate::accounts::{User, user};
use crate::base::{Env, Error, FieldErrors, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow, new_id, now, now_in_milliseconds};
use crate::web::app::Owned;
use crate::web::{
    Access, App, Empty, Flash, Form, List, ListQuery, ONE_MORE, Page, Query, Redirect, Routes, Template, files, once,
    redirect,
};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get("/notes", Access::User, index)
        .post("/notes", Access::User, create)
        .once()
        .bounded_by("10,000 notes of a user")
        .get("/notes/{id}", Access::User, show)
        .post("/notes/{id}", Access::User, update)
        .post("/notes/{id}/delete", Access::User, destroy)
        .post("/notes/{id}/restore", Access::User, restore);
    let flashes = &[SAVED, DELETED, RESTORED, NO_ROOM];
    Ok(Feature { routes, flashes, owned: &[OWNED], export: &[EXPORT], purge: &[PURGE], ..Feature::named("notes") })
}

const SAVED: Flash = Flash { name: "note_saved", words: "Note saved." };
const DELETED: Flash = Flash { name: "note_deleted", words: "Note deleted." };
const RESTORED: Flash = Flash { name: "note_restored", words: "Note restored." };
const NO_ROOM: Flash = Flash {
    name: "no_room_for_note",
    words: "There is no room for that note any more. Delete others first, then restore it.",
};

const OWNED: Owned =
    Owned { one: "note", many: "notes", count: "select count(*) from notes where user_id = $1 and deleted_at is null" };

const EXPORT: (&str, &str) = (
    "notes",
    "select id, text, created_at, updated_at from notes where user_id = $1 and id > $2 and deleted_at is null \
     order by id limit $3",
);

/// For how many milliseconds a deleted note can be restored.
const RESTORABLE: i64 = 10 * 60 * 1000;

/// How many deleted notes of a user can be restored. They do not count towards what a user may have.
const MOST_DELETED: i64 = 100;

/// Deletes for good what can no longer be restored.
const PURGE: &str = "delete from notes where id in \
     (select id from notes where deleted_at is not null and deleted_at <= ($1 - 600) * 1000 limit 1000)";

const MAX_LENGTH: usize = 10_000;

/// How many notes one user may have.
const MAX_NOTES: i64 = 10_000;

/// How much text there may be in all notes of one user, in bytes.
const MAX_BYTES: i64 = 50 * 1024 * 1024;

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct NoteForm {
    text: String,
}

impl NoteForm {
    /// The text to store. Its line ends are one character each, as browsers count them.
    fn validate(&self) -> Result<String, FieldErrors> {
        let text = self.text.replace("\r\n", "\n");
        let invisible = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        let sentence = if text.trim().is_empty() {
            "A note needs some text."
        } else if text.chars().count() > MAX_LENGTH {
            "A note can have at most 10,000 characters."
        } else if text.contains(invisible) {
            "This text contains an invisible control character. Please type it again."
        } else {
            return Ok(text);
        };
        Err(FieldErrors::of("text", sentence))
    }
}

/// A note as its writer sees it.
#[derive(Serialize)]
struct Note {
    id: String,
    text: String,
    /// In seconds since 1970.
    written: i64,
}

impl FromRow<'_, DbRow> for Note {
    fn from_row(row: &DbRow) -> sqlx::Result<Note> {
        Ok(Note { id: row.try_get("id")?, text: row.try_get("text")?, written: row.try_get("created_at")? })
    }
}

#[derive(Serialize)]
struct NotesPage {
    form: NoteForm,
    errors: FieldErrors,
    notes: List<Note>,
    /// The id of the note that has just been deleted.
    deleted: Option<String>,
    once: String,
}

impl NotesPage {
    fn new(form: NoteForm, errors: FieldErrors, notes: List<Note>, deleted: Option<String>) -> Result<NotesPage> {
        Ok(NotesPage { form, errors, notes, deleted, once: once::value()? })
    }
}

impl Template for NotesPage {
    const FILE: &'static str = files::NOTES_INDEX;
}

#[derive(Serialize)]
struct NotePage {
    id: String,
    form: NoteForm,
    errors: FieldErrors,
}

impl Template for NotePage {
    const FILE: &'static str = files::NOTES_SHOW;
}

async fn index(State(app): State<App>, user: User, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let notes = list(&app, &user, &query).await?;
    let deleted = match page.shows(DELETED) {
        true => app.db.read(async |db| last_deleted(db, &user).await).await?,
        false => None,
    };
    page.render(&NotesPage::new(NoteForm::default(), FieldErrors::default(), notes, deleted)?).await
}

async fn create(State(app): State<App>, user: User, page: Page, Form(form): Form<NoteForm>) -> Result<Response> {
    match save(&app, &user, &form).await {
        Ok(()) => Ok(redirect("/notes").flash(SAVED).into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            let notes = list(&app, &user, &ListQuery::default()).await?;
            page.render_errors(&NotesPage::new(form, errors, notes, None)?).await
        }
    }
}

async fn save(app: &App, user: &User, form: &NoteForm) -> Result<()> {
    let text = form.validate()?;
    app.db.write(async |db| insert(db, user, &text).await).await
}

async fn show(State(app): State<App>, user: User, page: Page, Path(id): Path<String>) -> Result<Response> {
    let text = app.db.read(async |db| text_of(db, &user, &id).await).await?;
    page.render(&NotePage { id, form: NoteForm { text }, errors: FieldErrors::default() }).await
}

async fn update(
    State(app): State<App>,
    user: User,
    page: Page,
    Path(id): Path<String>,
    Form(form): Form<NoteForm>,
) -> Result<Response> {
    match edit(&app, &user, &id, &form).await {
        Ok(()) => Ok(redirect(&format!("/notes/{id}")).flash(SAVED).into_response()),
        Err(error) => {
            let errors = error.field_errors()?;
            // A note of another user is not found here either.
            app.db.read(async |db| text_of(db, &user, &id).await).await?;
            page.render_errors(&NotePage { id, form, errors }).await
        }
    }
}

async fn edit(app: &App, user: &User, id: &str, form: &NoteForm) -> Result<()> {
    let text = form.validate()?;
    app.db.write(async |db| change(db, user, id, &text).await).await
}

async fn destroy(State(app): State<App>, user: User, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    app.db.write(async |db| delete(db, &user, &id).await).await?;
    Ok(redirect("/notes").flash(DELETED))
}

async fn restore(State(app): State<App>, user: User, Path(id): Path<String>, _: Form<Empty>) -> Result<Redirect> {
    match app.db.write(async |db| undelete(db, &user, &id).await).await {
        Ok(()) => Ok(redirect("/notes").flash(RESTORED)),
        Err(Error::Invalid(_)) => Ok(redirect("/notes").flash(NO_ROOM)),
        Err(error) => Err(error),
    }
}

/// A page of the user's notes.
async fn list(app: &App, user: &User, query: &ListQuery) -> Result<List<Note>> {
    let notes = app.db.read(async |db| newest(db, user, query.after(AFTER_ALL_IDS)).await).await?;
    Ok(List::new(notes, query, |note| &note.id))
}

/// The notes that follow the one with the id `after`, newest first.
async fn newest(db: &mut Connection, user: &User, after: &str) -> Result<Vec<Note>> {
    let sql = "select id, text, created_at from notes where user_id = $1 and id < $2 and deleted_at is null \
               order by id desc limit $3";
    Ok(sqlx::query_as(sql).bind(&*user.id).bind(after).bind(ONE_MORE).fetch_all(db).await?)
}

async fn text_of(db: &mut Connection, user: &User, id: &str) -> Result<String> {
    let sql = "select text from notes where id = $1 and user_id = $2 and deleted_at is null";
    sqlx::query_scalar(sql).bind(id).bind(&*user.id).fetch_optional(db).await?.ok_or(Error::NOT_FOUND)
}

async fn insert(db: &mut Connection, user: &User, text: &str) -> Result<()> {
    let id = new_id();
    check_room(db, user, &id, text).await?;
    let sql = "insert into notes (id, user_id, text, created_at, updated_at) values ($1, $2, $3, $4, $4)";
    sqlx::query(sql).bind(id).bind(&*user.id).bind(text).bind(now()).execute(db).await?;
    Ok(())
}

async fn change(db: &mut Connection, user: &User, id: &str, text: &str) -> Result<()> {
    check_room(db, user, id, text).await?;
    let sql = "update notes set text = $1, updated_at = $2 where id = $3 and user_id = $4 and deleted_at is null";
    let changed = sqlx::query(sql).bind(text).bind(now()).bind(id).bind(&*user.id).execute(db).await?;
    if changed.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

/// Checks that beside the user's other notes there is room for one with this id and text. The user's row is locked first:
/// of two requests at once, the second counts what the first has written.
async fn check_room(db: &mut Connection, user: &User, id: &str, text: &str) -> Result<()> {
    user::lock(db, &user.id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "select count(*) as count, cast(coalesce(sum(octet_length(text)), 0) as bigint) as bytes \
               from notes where user_id = $1 and id <> $2 and deleted_at is null";
    let others = sqlx::query(sql).bind(&*user.id).bind(id).fetch_one(db).await?;
    let (count, bytes): (i64, i64) = (others.try_get("count")?, others.try_get("bytes")?);
    let sentence = if count >= MAX_NOTES {
        "You have 10,000 notes, and there is no room for more. Delete some first."
    } else if bytes + text.len() as i64 > MAX_BYTES {
        "With this text, your notes would be larger than 50 MiB. Delete some first."
    } else {
        return Ok(());
    };
    Err(Error::invalid(FieldErrors::FORM, sentence))
}

/// A note that has just been deleted stays so: the button may have been pressed twice.
async fn delete(db: &mut Connection, user: &User, id: &str) -> Result<()> {
    user::lock(db, &user.id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "update notes set deleted_at = $1 \
               where id = $2 and user_id = $3 and (deleted_at is null or deleted_at > $4)";
    let query = sqlx::query(sql).bind(now_in_milliseconds()).bind(id).bind(&*user.id).bind(restorable_since());
    if query.execute(&mut *db).await?.rows_affected() == 0 {
        return Err(Error::NOT_FOUND);
    }
    let sql = "delete from notes where user_id = $1 and deleted_at is not null and id not in (select id from notes \
               where user_id = $1 and deleted_at is not null order by deleted_at desc limit $2)";
    sqlx::query(sql).bind(&*user.id).bind(MOST_DELETED).execute(db).await?;
    Ok(())
}

/// Likewise, a note that has just been restored is there already.
async fn undelete(db: &mut Connection, user: &User, id: &str) -> Result<()> {
    let sql = "select text from notes where id = $1 and user_id = $2 and (deleted_at is null or deleted_at > $3)";
    let query = sqlx::query_scalar(sql).bind(id).bind(&*user.id).bind(restorable_since());
    let text: String = query.fetch_optional(&mut *db).await?.ok_or(Error::NOT_FOUND)?;
    check_room(db, user, id, &text).await?;
    let sql = "update notes set deleted_at = null where id = $1 and user_id = $2";
    let restored = sqlx::query(sql).bind(id).bind(&*user.id).execute(db).await?;
    if restored.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

fn restorable_since() -> i64 {
    now_in_milliseconds() - RESTORABLE
}

async fn last_deleted(db: &mut Connection, user: &User) -> Result<Option<String>> {
    let sql = "select id from notes where user_id = $1 and deleted_at > $2 order by deleted_at desc, id desc limit 1";
    Ok(sqlx::query_scalar(sql).bind(&*user.id).bind(restorable_since()).fetch_optional(db).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::purge::purge;
    use crate::test::{Answer, TestApp, Visitor, check};
    use futures_util::future::join_all;

    async fn write(visitor: &Visitor, text: &str) -> Answer {
        visitor.post("/notes", &[("text", text)]).await
    }

    /// The path of the newest note.
    async fn newest_path(visitor: &Visitor) -> String {
        let page = visitor.get("/notes").await.text();
        let (_, after) = page.split_once("<li><a href=\"").expect("there is a note");
        after.split('"').next().unwrap().to_string()
    }

    #[test]
    fn its_pages_render() {
        let note = || Note { id: "0190".into(), text: "a <b>\nc".into(), written: 1 };
        let form = || NoteForm { text: "typed".into() };
        let errors = || {
            let mut errors = FieldErrors::of("text", "No.");
            errors.add(FieldErrors::FORM, "No.");
            errors
        };
        let two = List { rows: vec![note(), note()], previous: Some("".into()), next: Some("?after=0190".into()) };
        let none = List { rows: vec![], previous: None, next: None };
        check(&[
            NotesPage {
                form: form(),
                errors: errors(),
                notes: two,
                deleted: Some("0190".into()),
                once: "value".into(),
            },
            NotesPage {
                form: form(),
                errors: FieldErrors::default(),
                notes: none,
                deleted: None,
                once: "value".into(),
            },
        ]);
        check(&[
            NotePage { id: "0190".into(), form: form(), errors: errors() },
            NotePage { id: "0190".into(), form: form(), errors: FieldErrors::default() },
        ]);
    }

    #[tokio::test]
    async fn a_note_is_written_read_changed_and_deleted() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        ada.get("/notes").await.assert_contains("Your notes will appear here");
        write(&ada, "Buy <milk> & \"eggs\"").await.assert_redirect("/notes");
        ada.get("/notes").await.assert_contains("Buy &lt;milk&gt; &amp; &quot;eggs&quot;");
        let path = newest_path(&ada).await;
        ada.post(&path, &[("text", "Bought\r\n\r\n  both")]).await.assert_redirect(&path);
        ada.get(&path).await.assert_contains(">\nBought\n\n  both</textarea>");
        ada.post(&format!("{path}/delete"), &[]).await.assert_redirect("/notes");
        ada.get(&path).await.assert_status(404);
        ada.get("/notes").await.assert_contains("Your notes will appear here");
    }

    #[tokio::test]
    async fn a_note_that_was_saved_twice_by_two_presses_is_there_once() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let answers = join_all((0..2).map(|_| ada.post_multipart("/notes", &[("text", "Milk")]))).await;
        for answer in answers {
            answer
                .assert_redirect("/notes")
                .assert_cookie("flash=note_saved; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        }
        assert_eq!(app.count("select count(*) from notes").await, 1);
        app.end_repeats().await;
        write(&ada, "Milk").await;
        assert_eq!(app.count("select count(*) from notes").await, 2);
    }

    #[tokio::test]
    async fn a_deleted_note_is_nowhere_and_for_ten_minutes_its_writer_can_have_it_back() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        for text in ["first", "second", "third"] {
            write(&ada, text).await;
        }
        let second = ada.get("/notes").await.text();
        let path = second.split("<a href=\"").find(|link| link.contains(">second<")).unwrap();
        let path = path.split('"').next().unwrap();
        let (delete, restore) = (format!("{path}/delete"), format!("{path}/restore"));
        let before = ada.get(path).await.text();
        ada.post(&delete, &[]).await.assert_redirect("/notes");
        let page = ada.get("/notes").await;
        page.assert_contains("Note deleted.").assert_contains(&format!("action=\"{restore}\"")).assert_contains("Undo");
        page.assert_lacks("second").assert_contains("third");
        ada.get("/notes").await.assert_lacks("Undo");
        ada.get(path).await.assert_status(404);
        ada.post(path, &[("text", "changed")]).await.assert_status(404);
        // The button was pressed twice.
        ada.post(&delete, &[]).await.assert_redirect("/notes");
        let id = app.user("ada").await;
        let export = async |db: &mut Connection| {
            Ok(sqlx::query(EXPORT.1).bind(&*id).bind("").bind(100).fetch_all(db).await?.len())
        };
        assert_eq!(app.app.db.read(export).await.unwrap(), 2);

        eve.post(&restore, &[]).await.assert_status(404);
        app.visitor().post(&restore, &[]).await.assert_redirect("/login?next=%2F");
        for _ in 0..2 {
            ada.post(&restore, &[]).await.assert_redirect("/notes");
            ada.get("/notes").await.assert_contains("Note restored.").assert_lacks("Undo");
        }
        assert_eq!(ada.get(path).await.text(), before);
        let page = ada.get("/notes").await.text();
        let places = ["third", "second", "first"].map(|text| page.find(&format!(">{text}<")).unwrap());
        assert!(places.is_sorted(), "{page}");

        ada.post(&delete, &[]).await.assert_redirect("/notes");
        app.execute("update notes set deleted_at = deleted_at - 601000").await;
        ada.post(&restore, &[]).await.assert_status(404);
        ada.post(&delete, &[]).await.assert_status(404);
        assert_eq!(app.count("select count(*) from notes").await, 3);
        purge(&app.app).await.unwrap();
        assert_eq!(app.count("select count(*) from notes").await, 2);
    }

    #[tokio::test]
    async fn undo_brings_back_what_was_deleted_last_and_a_hundred_deleted_notes_are_kept() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let mut paths = Vec::new();
        for number in 0..102 {
            write(&ada, &number.to_string()).await.assert_redirect("/notes");
            paths.push(newest_path(&ada).await);
        }
        let delete = async |path: &str| {
            ada.post(&format!("{path}/delete"), &[]).await.assert_redirect("/notes");
        };
        // Neither the newest note nor the first to be deleted, if it is deleted again in another tab.
        for path in [&paths[1], &paths[0], &paths[1]] {
            delete(path).await;
            ada.get("/notes").await.assert_contains(&format!("action=\"{path}/restore\""));
        }
        for path in &paths[2..] {
            delete(path).await;
        }
        assert_eq!(app.count("select count(*) from notes").await, 100);
        ada.post(&format!("{}/restore", paths[0]), &[]).await.assert_status(404);
        ada.post(&format!("{}/restore", paths[101]), &[]).await.assert_redirect("/notes");
    }

    #[tokio::test]
    async fn every_act_says_what_it_has_done() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        write(&ada, "Milk").await;
        ada.get("/notes").await.assert_contains("Note saved.");
        let path = newest_path(&ada).await;
        ada.post(&path, &[("text", "Eggs")]).await.assert_redirect(&path);
        ada.get(&path).await.assert_contains("Note saved.");
    }

    #[tokio::test]
    async fn a_note_of_another_user_is_not_found() {
        let app = TestApp::new().await;
        let (ada, eve) = (app.person("ada").await, app.person("eve").await);
        write(&ada, "secret").await;
        let path = newest_path(&ada).await;
        let nowhere = "/notes/01a2008724d87527975f079966d7c97e";
        assert_eq!(eve.get(&path).await.assert_status(404).text(), eve.get(nowhere).await.text());
        for text in ["changed", ""] {
            eve.post(&path, &[("text", text)]).await.assert_status(404);
        }
        for act in ["delete", "restore"] {
            eve.post(&format!("{path}/{act}"), &[]).await.assert_status(404);
        }
        eve.get("/notes").await.assert_lacks("secret");
        app.visitor().post(&path, &[("text", "changed")]).await.assert_redirect("/login?next=%2F");
        ada.get(&path).await.assert_contains("secret");
    }

    #[tokio::test]
    async fn an_invalid_note_comes_back_with_the_reason() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        write(&ada, "kept").await;
        let path = newest_path(&ada).await;
        let long = "🗝".repeat(10_001);
        for (text, sentence) in [
            ("", "needs some text"),
            (" \r\n ", "needs some text"),
            (&*long, "at most 10,000"),
            ("a\0b", "invisible"),
            ("a\u{1b}[31mb", "invisible"),
        ] {
            for form in ["/notes", &path] {
                let answer = ada.post_multipart(form, &[("text", text)]).await;
                answer.assert_status(422).assert_contains(sentence).assert_contains("aria-describedby=\"text-error\"");
                answer.assert_contains(&format!("\n{text}</textarea>"));
            }
        }
        assert_eq!(app.count("select count(*) from notes where text = 'kept'").await, 1);
        let longest = "🗝".repeat(10_000);
        ada.post_multipart("/notes", &[("text", &longest)]).await.assert_redirect("/notes");
    }

    #[tokio::test]
    async fn the_pages_and_the_server_have_the_same_limit() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        write(&ada, "one").await;
        for path in ["/notes", &newest_path(&ada).await] {
            ada.get(path).await.assert_contains(&format!("data-limit=\"{MAX_LENGTH}\""));
        }
    }

    #[tokio::test]
    async fn notes_are_listed_fifty_to_a_page_newest_first() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        for number in 0..51 {
            write(&ada, &format!("note {number:02}")).await;
        }
        let first = ada.get("/notes").await;
        first.assert_contains("note 50").assert_contains("note 01").assert_lacks("note 00");
        let second = ada.get(&first.link("next")).await;
        second.assert_contains("note 00").assert_lacks("note 01").assert_lacks("rel=\"next\"");
        assert_eq!(second.link("prev"), "/notes");
        first.assert_lacks("rel=\"prev\"");
    }

    /// 9,998 notes of Ada's.
    const MANY: &str = "with recursive numbers (number) as \
                        (select 1 union all select number + 1 from numbers where number < 9998) \
                        insert into notes (id, user_id, text, created_at, updated_at) \
                        select '00' || number, users.id, 'old', 0, 0 from users, numbers \
                        where username = 'ada'";

    #[tokio::test]
    async fn a_user_has_ten_thousand_notes_at_most_also_when_several_are_written_at_once() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.execute(MANY).await;
        let answers = join_all((0..6).map(async |number| write(&ada, &format!("new {number}")).await)).await;
        let (written, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 303);
        assert_eq!((written.len(), refused.len()), (2, 4));
        for answer in refused {
            answer.assert_status(422).assert_contains("form-error").assert_contains("You have 10,000 notes");
            answer.assert_contains(">\nnew ");
        }
        assert_eq!(app.count("select count(*) from notes").await, 10_000);
        write(&bob, "new").await.assert_redirect("/notes");
        let path = newest_path(&ada).await;
        ada.post(&path, &[("text", "changed")]).await.assert_redirect(&path);
        ada.post(&format!("{path}/delete"), &[]).await.assert_redirect("/notes");
        write(&ada, "one more").await.assert_redirect("/notes");
        // There is no room for what was deleted.
        let restored = ada.post(&format!("{path}/restore"), &[]).await;
        restored
            .assert_redirect("/notes")
            .assert_cookie("flash=no_room_for_note; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        ada.get(&path).await.assert_status(404);
    }

    /// 1,280 notes of Ada's with 40,960 bytes each: 50 MiB.
    const MUCH: &str = "with recursive texts (text, doubled) as (select cast('🗝🗝🗝🗝🗝🗝🗝🗝🗝🗝' as text), 0 \
                        union all select text || text, doubled + 1 from texts where doubled < 10), \
                        numbers (number) as (select 1 union all select number + 1 from numbers where number < 1280) \
                        insert into notes (id, user_id, text, created_at, updated_at) \
                        select '00' || number, users.id, text, 0, 0 from users, texts, numbers \
                        where username = 'ada' and doubled = 10";

    #[tokio::test]
    async fn the_notes_of_a_user_have_fifty_mebibytes_of_text_at_most() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        app.execute(MUCH).await;
        let full = "larger than 50 MiB";
        write(&ada, "a").await.assert_status(422).assert_contains("form-error").assert_contains(full);
        write(&bob, "a").await.assert_redirect("/notes");
        // That this one gets shorter leaves 960 bytes.
        ada.post_multipart("/notes/001", &[("text", &"🗝".repeat(10_000))]).await.assert_redirect("/notes/001");
        let (longest, too_long) = ("é".repeat(480), "é".repeat(481));
        write(&ada, &too_long).await.assert_status(422).assert_contains(full);
        write(&ada, &longest).await.assert_redirect("/notes");
        let path = newest_path(&ada).await;
        let refused = ada.post(&path, &[("text", &too_long)]).await;
        refused.assert_status(422).assert_contains("form-error").assert_contains(full);
        refused.assert_contains(&format!(">\n{too_long}</textarea>"));
        ada.post(&path, &[("text", &longest)]).await.assert_redirect(&path);
        let all = "select cast(sum(octet_length(text)) as bigint) from notes where text <> 'a'";
        assert_eq!(app.count(all).await, 50 * 1024 * 1024);
    }

    #[tokio::test]
    async fn texts_that_are_changed_at_once_do_not_pass_the_limit_together() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        app.execute(MUCH).await;
        for path in ["/notes/001", "/notes/002"] {
            ada.post(path, &[("text", "short")]).await.assert_redirect(path);
        }
        // Where two texts of 40,960 bytes were, there is room for two of 40,000.
        let text = "🗝".repeat(10_000);
        let long = [("text", &*text)];
        let change = |path| ada.post_multipart(path, &long);
        let answers = join_all(["/notes/001", "/notes/002", "/notes"].map(change)).await;
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 303).collect();
        assert_eq!(refused.len(), 1);
        refused[0].assert_status(422).assert_contains("larger than 50 MiB");
    }

    #[tokio::test]
    async fn notes_cost_one_statement_besides_the_session() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let before = app.statements();
        ada.get("/notes").await.assert_status(200);
        assert_eq!(app.statements() - before, 2);
    }
}
