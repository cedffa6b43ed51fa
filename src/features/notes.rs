//! Notes: rows that belong to whoever wrote them. The example to copy for a feature of your own.
//!
//! List and write at `/notes`, read and edit at `/notes/{id}`, delete. Every query names the user beside the note, so
//! somebody else's note is as if it were not there. `scripts/remove notes` takes all of it out.

use crate::access::{Access, Routes, see_other};
use crate::app::App;
use crate::auth::User;
use crate::config::Env;
use crate::database::{Connection, new_id, now};
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::form::{Errors, Form, query_parameter};
use crate::page::{Page, Template, date, templates};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new()
        .get("/notes", Access::User, index)
        .post("/notes", Access::User, create)
        .get("/notes/{id}", Access::User, show)
        .post("/notes/{id}", Access::User, update)
        .post("/notes/{id}/delete", Access::User, destroy);
    Ok(Feature { name: "notes", routes })
}

const MAX_LENGTH: usize = 10_000;
const PER_PAGE: usize = 50;

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct NoteForm {
    text: String,
}

impl NoteForm {
    /// The text as it is kept: line ends as one character, as browsers count them.
    fn judge(&self) -> Result<String, Errors> {
        let text = self.text.replace("\r\n", "\n");
        let invisible = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        let sentence = if text.trim().is_empty() {
            "A note needs some text."
        } else if text.chars().count() > MAX_LENGTH {
            "A note has at most 10,000 characters."
        } else if text.contains(invisible) {
            "There is an invisible control character in this text. Please type it again."
        } else {
            return Ok(text);
        };
        Err(Errors::from(("text", sentence.to_string())))
    }
}

/// A note as its writer sees it.
#[derive(Serialize)]
struct Note {
    id: String,
    text: String,
    written: String,
}

#[derive(Serialize)]
struct NotesPage {
    form: NoteForm,
    errors: Errors,
    notes: Vec<Note>,
    /// The id after which the next page begins.
    next: Option<String>,
}

impl Template for NotesPage {
    const FILE: &'static str = templates::NOTES_INDEX;
}

#[derive(Serialize)]
struct NotePage {
    id: String,
    form: NoteForm,
    errors: Errors,
}

impl Template for NotePage {
    const FILE: &'static str = templates::NOTES_SHOW;
}

async fn index(
    State(app): State<App>,
    user: User,
    page: Page,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let after = query_parameter(query.as_deref(), "after");
    page.show(&list(&app, &user, after, NoteForm::default(), Errors::default()).await?).await
}

async fn create(
    State(app): State<App>,
    user: User,
    page: Page,
    Form(form): Form<NoteForm>,
) -> Result<Response> {
    match form.judge() {
        Ok(text) => {
            app.db.write(async |db| insert(db, &user, &text).await).await?;
            Ok(see_other("/notes"))
        }
        Err(errors) => page.refuse(&list(&app, &user, None, form, errors).await?).await,
    }
}

async fn show(State(app): State<App>, user: User, page: Page, Path(id): Path<String>) -> Result<Response> {
    let text = app.db.read(async |db| text_of(db, &user, &id).await).await?.ok_or(Error::NOT_FOUND)?;
    page.show(&NotePage { id, form: NoteForm { text }, errors: Errors::default() }).await
}

async fn update(
    State(app): State<App>,
    user: User,
    page: Page,
    Path(id): Path<String>,
    Form(form): Form<NoteForm>,
) -> Result<Response> {
    match form.judge() {
        Ok(text) => {
            app.db.write(async |db| change(db, &user, &id, &text).await).await?;
            Ok(see_other(&format!("/notes/{id}")))
        }
        Err(errors) => {
            app.db.read(async |db| text_of(db, &user, &id).await).await?.ok_or(Error::NOT_FOUND)?;
            page.refuse(&NotePage { id, form, errors }).await
        }
    }
}

async fn destroy(State(app): State<App>, user: User, Path(id): Path<String>) -> Result<Response> {
    app.db.write(async |db| delete(db, &user, &id).await).await?;
    Ok(see_other("/notes"))
}

async fn list(
    app: &App,
    user: &User,
    after: Option<String>,
    form: NoteForm,
    errors: Errors,
) -> Result<NotesPage> {
    let mut notes = app.db.read(async |db| newest(db, user, after.as_deref()).await).await?;
    let more = notes.len() > PER_PAGE;
    notes.truncate(PER_PAGE);
    let next = notes.last().filter(|_| more).map(|last| last.id.clone());
    Ok(NotesPage { form, errors, notes, next })
}

/// One more than a page shows, so that it is known whether there is a next one.
async fn newest(db: &mut Connection, user: &User, after: Option<&str>) -> Result<Vec<Note>> {
    // "g" stands above every UUID in the order of text.
    let sql =
        "select id, text, created_at from notes where user_id = $1 and id < $2 order by id desc limit $3";
    let query = sqlx::query_as(sql).bind(&*user.id).bind(after.unwrap_or("g")).bind(PER_PAGE as i64 + 1);
    let rows: Vec<(String, String, i64)> = query.fetch_all(db).await?;
    Ok(rows.into_iter().map(|(id, text, at)| Note { id, text, written: date(at) }).collect())
}

async fn text_of(db: &mut Connection, user: &User, id: &str) -> Result<Option<String>> {
    let sql = "select text from notes where id = $1 and user_id = $2";
    let row: Option<(String,)> = sqlx::query_as(sql).bind(id).bind(&*user.id).fetch_optional(db).await?;
    Ok(row.map(|(text,)| text))
}

async fn insert(db: &mut Connection, user: &User, text: &str) -> Result<()> {
    let sql = "insert into notes (id, user_id, text, created_at, updated_at) values ($1, $2, $3, $4, $4)";
    sqlx::query(sql).bind(new_id()).bind(&*user.id).bind(text).bind(now()).execute(db).await?;
    Ok(())
}

async fn change(db: &mut Connection, user: &User, id: &str, text: &str) -> Result<()> {
    let sql = "update notes set text = $1, updated_at = $2 where id = $3 and user_id = $4";
    let done = sqlx::query(sql).bind(text).bind(now()).bind(id).bind(&*user.id).execute(db).await?;
    if done.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}

async fn delete(db: &mut Connection, user: &User, id: &str) -> Result<()> {
    let sql = "delete from notes where id = $1 and user_id = $2";
    let done = sqlx::query(sql).bind(id).bind(&*user.id).execute(db).await?;
    if done.rows_affected() == 0 { Err(Error::NOT_FOUND) } else { Ok(()) }
}
