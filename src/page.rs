//! Pages: a struct, the template it fills, and what every page shows around it.
//!
//! A page is a struct that implements [`Template`] by naming a constant that build.rs made from the file, so a
//! renamed file breaks the build; its fields are the variables of the template, and `tests::check` compares the
//! two. Handlers take a [`Page`] and answer `page.show(&…)` or, for a form with mistakes, `page.refuse(&…)`.

use crate::app::App;
use crate::asset;
use crate::auth::AuthState;
use crate::config::Config;
use crate::error::Result;
use crate::features::Feature;
use crate::form::query_value;
use crate::guard::{clear_cookie, cookie, set_cookie};
use crate::mail::Delivery;
use ::cookie::Cookie;
use ::cookie::time::{self, OffsetDateTime};
use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tera::{Context, Kwargs, State, Tera};

/// A constant for every file in `templates/`.
pub mod templates {
    include!(concat!(env!("OUT_DIR"), "/templates.rs"));
}

/// The data of one template.
pub trait Template: Serialize {
    /// The template's name, a constant of [`templates`].
    const FILE: &'static str;
}

/// The data of a mail: two templates, of which the one for text has the subject as its first line.
pub trait LetterTemplate: Serialize {
    const TEXT: &'static str;
    const HTML: &'static str;
}

/// A mail that is written.
#[derive(Clone)]
pub struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
    /// Where whoever did not ask for it says so (RFC 8058).
    pub unsubscribe: Option<String>,
}

/// All templates, parsed once; in debug builds parsed anew from disk when one has changed, so that it shows
/// at the next reload.
pub struct Pages {
    tera: Tera,
    around: Around,
    /// Debug builds only: those on disk, and when one of them was last changed.
    fresh: Mutex<Option<(Option<SystemTime>, Arc<Tera>)>>,
    /// By template and theme: the pages that [`Pages::same`] has rendered.
    same: Mutex<HashMap<(&'static str, &'static str), Bytes>>,
}

impl Pages {
    /// # Errors
    /// A template that Tera cannot parse, or that names another that does not exist.
    pub fn load(config: &Config, features: &[Feature]) -> anyhow::Result<Pages> {
        let around = Around {
            features: features.iter().map(|feature| (feature.name, true)).collect(),
            site_name: config.site_name.clone(),
            mail: !matches!(config.mail, Delivery::Nowhere),
            mailbox: matches!(config.mail, Delivery::Mailbox),
        };
        Ok(Pages { tera: load(&around)?, around, fresh: Mutex::default(), same: Mutex::default() })
    }

    /// A page without data is the same for every stranger, so it is rendered once for each theme.
    fn same<T: Template>(&self, template: &T, look: Look) -> anyhow::Result<Bytes> {
        let key = (T::FILE, look.theme);
        let kept = self.same.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(html) = kept {
            return Ok(html);
        }
        let html = Bytes::from(self.render(template, None, look)?);
        self.same.lock().unwrap_or_else(PoisonError::into_inner).insert(key, html.clone());
        Ok(html)
    }

    fn render<T: Template>(&self, template: &T, user: Option<&str>, look: Look) -> anyhow::Result<String> {
        let mut context = Context::from_serialize(template)?;
        context.insert("user", &user);
        context.insert("theme", look.theme);
        context.insert("flash", &look.flash);
        self.fill(T::FILE, &context)
    }

    /// Writes a mail. The first line of its text is the subject.
    pub fn letter<T: LetterTemplate>(&self, template: &T) -> anyhow::Result<Letter> {
        let mut context = Context::from_serialize(template)?;
        let text = self.fill(T::TEXT, &context)?;
        let (subject, text) = text.split_once('\n').with_context(|| format!("{} has no body", T::TEXT))?;
        context.insert("subject", subject);
        let html = self.fill(T::HTML, &context)?;
        Ok(Letter { subject: subject.into(), text: text.trim_start().into(), html, unsubscribe: None })
    }

    fn fill(&self, file: &'static str, context: &Context) -> anyhow::Result<String> {
        let html = if cfg!(debug_assertions) {
            self.fresh()?.render(file, context)
        } else {
            self.tera.render(file, context)
        };
        html.with_context(|| format!("templates/{file} cannot be rendered"))
    }

    /// The templates as they are on disk.
    fn fresh(&self) -> anyhow::Result<Arc<Tera>> {
        let changed =
            templates::ALL.iter().filter_map(|(name, _)| fs::metadata(path(name)).ok()?.modified().ok());
        let changed = changed.max();
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, tera)) = &*fresh
            && *of == changed
        {
            return Ok(tera.clone());
        }
        let tera = Arc::new(load(&self.around)?);
        *fresh = Some((changed, tera.clone()));
        Ok(tera)
    }
}

/// What every template may read besides its own data.
#[derive(Serialize)]
struct Around {
    site_name: String,
    /// Those that this build has, by name.
    features: BTreeMap<&'static str, bool>,
    /// Whether the site sends mail.
    mail: bool,
    /// Whether mails stay in the development mailbox.
    mailbox: bool,
}

fn load(around: &Around) -> anyhow::Result<Tera> {
    let mut tera = Tera::new();
    tera.register_filter("urlencode", |text: &str, _: Kwargs, _: &State| query_value(text));
    tera.add_raw_templates(templates::ALL.iter().map(|&(name, text)| (name, source(name, text))))?;
    let assets: BTreeMap<_, _> = asset::ALL.iter().map(|asset| (variable(asset.path), asset.url)).collect();
    tera.global_context().insert("asset", &assets);
    tera.global_context().extend(Context::from_serialize(around)?);
    Ok(tera)
}

fn source(name: &str, compiled_in: &'static str) -> Cow<'static, str> {
    if cfg!(debug_assertions) {
        fs::read_to_string(path(name)).map_or(Cow::Borrowed(compiled_in), Cow::Owned)
    } else {
        Cow::Borrowed(compiled_in)
    }
}

/// Where a template is in the source.
fn path(name: &str) -> String {
    format!("{}/{name}", templates::FOLDER)
}

/// `/styles.css` is `asset.styles_css` in a template.
fn variable(path: &str) -> String {
    path[1..].replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// A sentence that the next page shows once, after a redirect: `CHANGED.cookie(&app.config)` beside the answer. A feature
/// lists its own in [`crate::features::Feature`]; the cookie has only the name, so nobody can make a page say something else.
pub struct Flash {
    pub name: &'static str,
    pub words: &'static str,
}

const FLASH: &str = "flash";

impl Flash {
    pub fn cookie(&self, config: &Config) -> Cookie<'static> {
        set_cookie(config, FLASH, self.name.into()).max_age(time::Duration::MINUTE).build()
    }
}

/// What a page shows besides its data: `light`, `dark`, or `system` for as the reader's system says; and a [`Flash`].
#[derive(Clone, Copy)]
pub struct Look {
    theme: &'static str,
    flash: Option<&'static str>,
}

impl Look {
    pub fn of(app: &App, headers: &HeaderMap) -> Look {
        if !headers.contains_key(COOKIE) {
            return Look { theme: "system", flash: None };
        }
        let theme = match cookie(&app.config, headers, "theme").as_deref() {
            Some("light") => "light",
            Some("dark") => "dark",
            _ => "system",
        };
        let flash = cookie(&app.config, headers, FLASH).and_then(|name| {
            let mut known = app.features.iter().flat_map(|feature| feature.flashes);
            known.find(|flash| flash.name == name).map(|flash| flash.words)
        });
        Look { theme, flash }
    }
}

/// The page that answers a request: an extractor.
pub struct Page {
    app: App,
    auth: AuthState,
    look: Look,
}

impl Page {
    /// Answers with the page.
    pub async fn show<T: Template>(&self, template: &T) -> Result<Response> {
        let html = match self.auth.user().await? {
            None if size_of::<T>() == 0 && self.look.flash.is_none() && !cfg!(debug_assertions) => {
                self.app.pages.same(template, self.look)?
            }
            user => self.app.pages.render(template, user.map(|user| &*user.username), self.look)?.into(),
        };
        let shown = self.look.flash.map(|_| CookieJar::new().add(clear_cookie(&self.app.config, FLASH)));
        Ok((shown, Html(html)).into_response())
    }

    /// Answers 422 with the page: a form with its mistakes, and what was typed.
    pub async fn refuse<T: Template>(&self, template: &T) -> Result<Response> {
        Ok((StatusCode::UNPROCESSABLE_ENTITY, self.show(template).await?).into_response())
    }
}

impl FromRequestParts<App> for Page {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Page, Infallible> {
        let auth = AuthState::of(parts);
        Ok(Page { app: app.clone(), auth, look: Look::of(app, &parts.headers) })
    }
}

/// How many rows of a list a page shows; one more is asked for, to know whether there is a next page.
pub const PER_PAGE: usize = 50;
pub const ONE_MORE: i64 = PER_PAGE as i64 + 1;

/// Takes the one row too many away, if it is there, and answers the id after which the next page begins.
pub fn next_page<T>(rows: &mut Vec<T>, id: impl Fn(&T) -> &String) -> Option<String> {
    let more = rows.len() > PER_PAGE;
    rows.truncate(PER_PAGE);
    rows.last().filter(|_| more).map(|last| id(last).clone())
}

/// A time in words, such as 21 November 2026, 18:05 UTC, from seconds since 1970.
pub fn date_time(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{}, {:02}:{:02} UTC", date(seconds), time.hour(), time.minute())
}

/// A time that something lasts, in words, such as 15 minutes or 24 hours.
pub fn lasting(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")];
    let whole = |&(length, _): &(u64, _)| seconds.is_multiple_of(length) && seconds / length > 1;
    let (length, unit) = units.into_iter().find(whole).unwrap_or((1, "seconds"));
    format!("{} {unit}", seconds / length)
}

/// A day in words, such as 21 November 2026, from seconds since 1970.
pub fn date(seconds: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{} {} {}", date.day(), date.month(), date.year())
}

#[derive(Serialize)]
struct ErrorPage {
    title: &'static str,
    words: &'static str,
    /// Faults only: what to quote when asking for help.
    request_id: Option<String>,
    /// How long to wait, in words.
    wait: Option<String>,
}

impl Template for ErrorPage {
    const FILE: &'static str = templates::ERROR;
}

/// The content type and text of an error page. It asks nobody who is logged in: it must also come when the
/// database is away.
pub fn error(
    pages: &Pages,
    look: Look,
    (title, words): (&'static str, &'static str),
    request_id: Option<String>,
    wait: Option<u64>,
) -> (&'static str, String) {
    // A flash waits for the next page that is no error.
    let look = Look { flash: None, ..look };
    let html = pages.render(&ErrorPage { title, words, request_id, wait: wait.map(minutes) }, None, look);
    let html = html.unwrap_or_else(|cause| {
        tracing::error!("{cause:#}");
        format!("<!doctype html><title>{title}</title><p>{words}")
    });
    ("text/html; charset=utf-8", html)
}

/// A time from now on, in whole minutes, which is as exact as a person needs it.
fn minutes(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        0 | 1 => "in a minute".into(),
        minutes => format!("in {minutes} minutes"),
    }
}

/// For a link that was used, replaced by a newer one, or is too old; nobody learns which.
pub const STALE_LINK: (&str, &str) = (
    "This link does not work any more",
    "It was used already, or replaced by a newer one, or it is too old. Please ask for a new one.",
);

/// The title and the sentence of an error page.
pub fn words(status: StatusCode) -> (&'static str, &'static str) {
    match status.as_u16() {
        400 => (
            "We could not read that",
            "The form arrived in a shape we do not understand. Please go back and send it once more.",
        ),
        403 => (
            "That came from elsewhere",
            "For your safety we only accept forms that were sent from this site's own pages. Please open the page here and try again.",
        ),
        404 => (
            "Nothing here",
            "This page does not exist, or is not yours to see. The address may have a slip in it.",
        ),
        405 => ("Not that way", "This address exists, but it cannot be used like that."),
        408 => (
            "That took too long",
            "Your form did not arrive in time. Please check your connection and send it once more.",
        ),
        413 => {
            ("That is too much", "What you sent is larger than we can take. Please shorten it and try again.")
        }
        415 => (
            "We cannot read that kind",
            "Forms arrive here as browsers send them; this came in another format.",
        ),
        421 => ("Not this site", "This server does not answer for the name in the address."),
        429 => {
            ("Slow down a little", "There were many attempts in a short time, by you or by somebody else.")
        }
        503 => (
            "Busy just now",
            "We could not get to your request in time. Please try again in a moment; nothing is lost.",
        ),
        500.. => (
            "Something broke",
            "It is our fault, not yours, and it has been noted. Please try again in a while.",
        ),
        _ => ("That did not work", "Your request could not be answered. Please go back and try again."),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::features;
    use std::collections::BTreeSet;

    /// What [`Pages::render`] gives every template.
    const AROUND: [&str; 8] = ["asset", "features", "flash", "mail", "mailbox", "site_name", "theme", "user"];

    fn pages() -> Pages {
        let env = [("SITE_NAME", "Latchkey")].into_iter().collect();
        Pages::load(&Config::from_env(&env).unwrap(), &features::all(&env).unwrap()).unwrap()
    }

    /// Renders every example, to a stranger and to a user, and compares the struct's fields with the variables
    /// that its template reads. Give an example for every branch of the template.
    #[track_caller]
    pub fn check<T: Template>(examples: &[T]) {
        let pages = pages();
        let fields: BTreeSet<String> = examples
            .iter()
            .flat_map(|example| match serde_json::to_value(example).unwrap() {
                serde_json::Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
                other => vec![format!("{other} is no struct")],
            })
            .collect();
        let read = pages.tera.get_template_variables(T::FILE).unwrap();
        let read = read.into_iter().filter(|name| !AROUND.contains(name)).map(String::from).collect();
        assert_eq!(fields, read, "left: the struct's fields; right: what templates/{} reads", T::FILE);
        for example in examples {
            for user in [None, Some("ada")] {
                let look = Look { theme: "dark", flash: user.map(|_| "It was done.") };
                let html = pages.render(example, user, look).unwrap();
                let again = self::pages().render(example, user, look).unwrap();
                assert_eq!(
                    html, again,
                    "answers are compared byte for byte, so order must not be left to chance"
                );
                assert_well_formed(&html);
            }
        }
    }

    /// As [`check`], for mails.
    #[track_caller]
    pub fn check_letters<T: LetterTemplate>(examples: &[T]) {
        let pages = pages();
        for example in examples {
            let letter = pages.letter(example).unwrap();
            assert!((10..=70).contains(&letter.subject.chars().count()), "{}", letter.subject);
            assert_well_formed(&letter.html);
            let fields = serde_json::to_value(example).unwrap();
            let fields: BTreeSet<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
            for file in [T::TEXT, T::HTML] {
                let read = pages.tera.get_template_variables(file).unwrap();
                let unknown: Vec<_> = read.into_iter().filter(|name| !fields.contains(name)).collect();
                let known = ["features", "mail", "mailbox", "site_name", "subject"];
                assert!(
                    unknown.iter().all(|name| known.contains(name)),
                    "templates/{file} reads {unknown:?}"
                );
            }
        }
    }

    /// Balanced tags, labels for inputs, descriptions that exist: what a browser would silently mend.
    #[track_caller]
    pub fn assert_well_formed(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut ids = Vec::new();
        let mut named = Vec::new();
        for tag in html.split('<').skip(1) {
            let inside = tag.split('>').next().unwrap();
            let name = inside.split([' ', '\n', '/']).find(|part| !part.is_empty()).unwrap_or_default();
            let words = |attribute| {
                let value = inside.split_once(attribute).map(|(_, rest)| rest.split('"').next().unwrap());
                value.into_iter().flat_map(|value| value.split(' '))
            };
            ids.extend(words(" id=\""));
            named.extend(words(" for=\"").chain(words(" aria-describedby=\"")));
            if inside.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "</{name}> closes another tag:\n{html}");
            } else if !inside.starts_with('!') && !inside.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}\n{html}");
        for id in &named {
            assert!(ids.contains(id), "nothing has the id {id:?}:\n{html}");
        }
        let unique: BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "two elements share an id: {ids:?}");
    }

    const VOID: [&str; 5] = ["meta", "link", "input", "br", "hr"];

    #[test]
    fn the_error_page_renders_with_and_without_a_fault() {
        for (request_id, wait) in [(None, None), (Some("0190".to_string()), None), (None, Some(minutes(61)))]
        {
            check(&[ErrorPage { title: "Busy", words: "Try again.", request_id, wait }]);
        }
    }

    #[test]
    fn every_template_belongs_to_a_page_or_is_a_part_of_one() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut code = String::new();
        let mut folders = vec![std::path::PathBuf::from(root)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry)
                } else {
                    code += &std::fs::read_to_string(entry).unwrap()
                }
            }
        }
        for (name, _) in templates::ALL {
            let part = name.contains("/_")
                || name.starts_with("slots/")
                || ["base.html", "codes.html", "field.html", "letter.html"].contains(name);
            let constant = name.trim_end_matches(".html").to_uppercase().replace(['/', '-', '.'], "_");
            assert!(
                part || code.contains(&format!("templates::{constant};")),
                "no page uses templates/{name}"
            );
        }
    }
}
