//! The templates of pages and mails.
//!
//! A page is a struct that implements [`Template`] by naming a constant that build.rs made from the file, so renaming a
//! file breaks the build. Its fields are the variables of the template; a test compares the two.

use super::{assets, format};
use crate::accounts::User;
use crate::accounts::address::readable;
use crate::base::{Config, MailDelivery, SignUps};
use crate::mail::MailContent;
use anyhow::{Context as _, Result};
use axum::body::Bytes;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tera::{Context, Kwargs, State, Tera};

/// A constant for every file in `templates/`.
pub mod files {
    include!(concat!(env!("OUT_DIR"), "/templates.rs"));
}

/// The data of a page.
pub trait Template: Serialize + Sized {
    /// The template's name, a constant of [`files`].
    const FILE: &'static str;
    /// Whether all visitors who are not logged in get the same, as long as the process runs.
    const STATIC: bool = size_of::<Self>() == 0;
}

/// The data of a mail: two templates. The first line of the text is the subject.
pub trait MailTemplate: Serialize {
    const TEXT: &'static str;
    const HTML: &'static str;
}

/// What the reader has chosen: `light`, `dark`, or `system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Theme(&'static str);

impl Theme {
    pub const SYSTEM: Theme = Theme("system");
    pub const ALL: [Theme; 3] = [Theme("light"), Theme("dark"), Theme::SYSTEM];

    pub fn parse(name: &str) -> Option<Theme> {
        Theme::ALL.into_iter().find(|theme| theme.0 == name)
    }

    pub fn name(self) -> &'static str {
        self.0
    }
}

/// What a page can read besides its own data.
#[derive(Clone, Copy)]
pub struct PageContext<'a> {
    /// Who is logged in.
    pub user: Option<&'a User>,
    pub theme: Theme,
    pub flash: Option<&'a str>,
    /// The path of the page, which the header marks.
    pub path: &'a str,
    /// Whether the page shows a form again because of mistakes in it.
    pub has_mistakes: bool,
    /// Where the user confirms first, if the page has forms that need a recent log-in and theirs is older.
    pub confirm_link: Option<&'a str>,
    /// On a page that needs a permission: all that the user may do. In a template: `may.users_manage`.
    pub may: &'a BTreeMap<String, bool>,
}

impl PageContext<'_> {
    pub fn for_visitors(theme: Theme) -> PageContext<'static> {
        static NOTHING: BTreeMap<String, bool> = BTreeMap::new();
        let may = &NOTHING;
        PageContext { user: None, theme, flash: None, path: "", has_mistakes: false, confirm_link: None, may }
    }
}

/// All templates, parsed once. In debug builds they are parsed again when a file has changed, so that a change shows at
/// the next reload.
pub struct Templates {
    tera: Tera,
    site: SiteContext,
    /// Debug builds only: the templates on disk, and when one of them was last changed.
    on_disk: Mutex<Option<(Option<SystemTime>, Arc<Tera>)>>,
    /// The pages that [`Templates::render_static`] has rendered, by template and theme.
    rendered: Mutex<HashMap<(&'static str, Theme), Bytes>>,
}

impl Templates {
    /// # Errors
    /// A template that Tera cannot parse, or that names another that does not exist.
    pub fn load<'a>(config: &Config, features: impl Iterator<Item = &'a str>) -> Result<Templates> {
        let site = SiteContext {
            features: features.map(|name| (name.to_string(), true)).collect(),
            site_name: config.site_name.clone(),
            mail: !matches!(config.mail, MailDelivery::Off),
            open_to_sign_ups: config.sign_ups == SignUps::Open,
        };
        Ok(Templates { tera: load(&site)?, site, on_disk: Mutex::default(), rendered: Mutex::default() })
    }

    /// A page for visitors who are not logged in that is the same for all of them: it is rendered once for each theme. It may
    /// have any path, so the header marks none.
    pub fn render_static<T: Template>(&self, template: &T, theme: Theme) -> Result<Bytes> {
        let key = (T::FILE, theme);
        let rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(html) = rendered {
            return Ok(html);
        }
        let html = Bytes::from(self.render(template, PageContext::for_visitors(theme))?);
        self.rendered.lock().unwrap_or_else(PoisonError::into_inner).insert(key, html.clone());
        Ok(html)
    }

    pub fn render<T: Template>(&self, template: &T, page: PageContext<'_>) -> Result<String> {
        let mut context = Context::from_serialize(template)?;
        context.insert("user", &page.user.map(|user| &user.username));
        context.insert("user_id", &page.user.map(|user| &user.id));
        context.insert("theme", page.theme.name());
        context.insert("flash", &page.flash);
        context.insert("path", page.path);
        context.insert("has_mistakes", &page.has_mistakes);
        context.insert("confirm_link", &page.confirm_link);
        context.insert("may", page.may);
        self.fill(T::FILE, &context)
    }

    pub fn mail<T: MailTemplate>(&self, template: &T) -> Result<MailContent> {
        let mut context = Context::from_serialize(template)?;
        let text = self.fill(T::TEXT, &context)?;
        let (subject, text) = text.split_once('\n').with_context(|| format!("{} has no body", T::TEXT))?;
        context.insert("subject", subject);
        let html = self.fill(T::HTML, &context)?;
        Ok(MailContent { subject: subject.into(), text: text.trim_start().into(), html, unsubscribe: None })
    }

    /// The variables that a template reads.
    #[cfg(test)]
    pub fn variables(&self, file: &str) -> Result<Vec<String>> {
        Ok(self.tera.get_template_variables(file)?.into_iter().map(String::from).collect())
    }

    fn fill(&self, file: &'static str, context: &Context) -> Result<String> {
        let filled = if cfg!(debug_assertions) {
            self.tera_on_disk()?.render(file, context)
        } else {
            self.tera.render(file, context)
        };
        filled.with_context(|| format!("templates/{file} cannot be rendered"))
    }

    fn tera_on_disk(&self) -> Result<Arc<Tera>> {
        let changed = files::ALL.iter().filter_map(|(name, _)| fs::metadata(path(name)).ok()?.modified().ok());
        let changed = changed.max();
        let mut on_disk = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((parsed, tera)) = &*on_disk
            && *parsed == changed
        {
            return Ok(tera.clone());
        }
        let tera = Arc::new(load(&self.site)?);
        *on_disk = Some((changed, tera.clone()));
        Ok(tera)
    }
}

/// What every template can read besides its own data.
#[derive(Serialize)]
struct SiteContext {
    site_name: String,
    /// The features of this build, by name.
    features: BTreeMap<String, bool>,
    /// Whether the site sends mail.
    mail: bool,
    /// Whether everybody can sign up.
    open_to_sign_ups: bool,
}

fn load(site: &SiteContext) -> Result<Tera> {
    let mut tera = Tera::new();
    tera.register_filter("readable", |email: &str, _: Kwargs, _: &State| readable(email));
    tera.register_filter("urlencode", |text: &str, _: Kwargs, _: &State| format::url_encode(text));
    tera.register_filter("rfc3339", |seconds: i64, _: Kwargs, _: &State| format::rfc3339(seconds));
    tera.register_filter("date_time", |seconds: i64, _: Kwargs, _: &State| format::date_time(seconds));
    tera.register_filter("time_ago", |seconds: i64, _: Kwargs, _: &State| format::time_ago(seconds));
    tera.add_raw_templates(files::ALL.iter().map(|&(name, text)| (name, source(name, text))))?;
    let assets: BTreeMap<_, _> = assets::ALL.iter().map(|asset| (variable(asset.path), asset.url)).collect();
    tera.global_context().insert("asset", &assets);
    tera.global_context().extend(Context::from_serialize(site)?);
    Ok(tera)
}

/// The text of one of [`files`]. In debug builds it is read from the disk.
pub fn text(file: &str) -> Cow<'static, str> {
    files::ALL.iter().find(|(name, _)| *name == file).map_or(Cow::Borrowed(""), |(name, text)| source(name, text))
}

fn source(name: &str, compiled_in: &'static str) -> Cow<'static, str> {
    if cfg!(debug_assertions) {
        // With the line ends that build.rs gives the one compiled in.
        let on_disk = fs::read_to_string(path(name)).map(|text| text.replace("\r\n", "\n"));
        on_disk.map_or(Cow::Borrowed(compiled_in), Cow::Owned)
    } else {
        Cow::Borrowed(compiled_in)
    }
}

/// Where a template is in the source.
fn path(name: &str) -> String {
    format!("{}/{name}", files::FOLDER)
}

/// `/styles.css` is `asset.styles_css` in a template.
fn variable(path: &str) -> String {
    path[1..].replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    #[derive(Serialize)]
    struct Whole {}

    impl Template for Whole {
        const FILE: &'static str = files::BASE;
    }

    #[derive(Serialize)]
    struct Part {}

    impl Template for Part {
        const FILE: &'static str = files::SLOTS_HEADER;
    }

    fn assert_static<T: Template>(templates: &Templates, page: &T, theme: Theme) {
        let html = templates.render(page, PageContext::for_visitors(theme)).unwrap();
        let first = templates.render_static(page, theme).unwrap();
        let again = templates.render_static(page, theme).unwrap();
        assert_eq!((&*first, &*again), (html.as_bytes(), html.as_bytes()), "{} {}", T::FILE, theme.name());
        assert_eq!(first.as_ptr(), again.as_ptr(), "it is rendered once");
    }

    #[tokio::test]
    async fn people_who_are_not_logged_in_get_the_page_and_the_theme_they_asked_for_however_often_it_was_rendered() {
        let app = TestApp::new().await;
        for theme in Theme::ALL {
            assert_static(&app.app.templates, &Whole {}, theme);
            assert_static(&app.app.templates, &Part {}, theme);
        }
    }
}
