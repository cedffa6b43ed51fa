//! Checks of templates against the structs that fill them.

use crate::accounts::User;
use crate::base::config::Config;
use crate::base::env::Env;
use crate::features;
use crate::web::Access;
use crate::web::templates::{MailTemplate, PageContext, Template, Templates, Theme, files};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The variables that every page can read.
const GLOBALS: [&str; 13] = [
    "asset",
    "confirm_link",
    "features",
    "flash",
    "has_mistakes",
    "mail",
    "may",
    "open_to_sign_ups",
    "path",
    "site_name",
    "theme",
    "user",
    "user_id",
];

fn templates() -> Templates {
    let env: Env = [("SITE_NAME", "Latchkey")].into_iter().collect();
    let features = features::all(&env).unwrap();
    Templates::load(&Config::from_env(&env).unwrap(), features.iter().map(|feature| feature.name)).unwrap()
}

/// Renders every example, to a visitor and to a user, and compares the struct's fields with the variables
/// that its template reads. Give an example for every branch of the template.
#[track_caller]
pub fn check<T: Template>(examples: &[T]) {
    let templates = templates();
    let fields: BTreeSet<String> = examples
        .iter()
        .flat_map(|example| match serde_json::to_value(example).unwrap() {
            serde_json::Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
            other => vec![format!("{other} is not a struct")],
        })
        .collect();
    let read = templates.variables(T::FILE).unwrap();
    let read = read.into_iter().filter(|name| !GLOBALS.contains(&&**name)).collect();
    assert_eq!(fields, read, "left: the struct's fields; right: what templates/{} reads", T::FILE);
    for example in examples {
        for user in [None, Some(&User { id: "1".into(), username: "ada".into() })] {
            let (flash, confirm_link) = (user.map(|_| "It was done."), user.map(|_| "/confirm"));
            let context =
                PageContext { user, flash, confirm_link, path: "/account", ..PageContext::for_visitors(Theme::SYSTEM) };
            let html = templates.render(example, context).unwrap();
            let again = self::templates().render(example, context).unwrap();
            assert_eq!(html, again, "answers are compared byte for byte, so order must not be left to chance");
            assert_well_formed(&html);
        }
    }
}

/// As [`check`], for mails.
#[track_caller]
pub fn check_mails<T: MailTemplate>(examples: &[T]) {
    let templates = templates();
    for example in examples {
        let mail = templates.mail(example).unwrap();
        assert!((10..=70).contains(&mail.subject.chars().count()), "{}", mail.subject);
        assert_well_formed(&mail.html);
        let fields = serde_json::to_value(example).unwrap();
        let fields: BTreeSet<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        for file in [T::TEXT, T::HTML] {
            let read = templates.variables(file).unwrap();
            let unknown: Vec<_> = read.into_iter().filter(|name| !fields.contains(&**name)).collect();
            let known = ["features", "mail", "open_to_sign_ups", "site_name", "subject"];
            assert!(unknown.iter().all(|name| known.contains(&&**name)), "templates/{file} reads {unknown:?}");
        }
    }
}

/// Checks for balanced tags, labels of inputs and descriptions that exist: what a browser would silently repair.
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
fn every_template_belongs_to_a_page_or_is_a_part_of_one() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut code = String::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { folders.push(entry) } else { code += &fs::read_to_string(entry).unwrap() }
        }
    }
    for (name, _) in files::ALL {
        let part = name.contains("/_")
            || name.starts_with("slots/")
            || [
                "admin.html",
                "base.html",
                "codes.html",
                "components.html",
                "cookies.html",
                "field.html",
                "letter.html",
            ]
            .contains(name);
        let constant = name.trim_end_matches(".html").to_uppercase().replace(['/', '-', '.'], "_");
        assert!(part || code.contains(&format!("files::{constant};")), "no page uses templates/{name}");
    }
}

/// The access of the route that a form is sent to. `None` if there is no such route.
fn access_of(form: &str, folder: &str) -> Option<Access> {
    let env: Env = [("SITE_NAME", "Latchkey")].into_iter().collect();
    let features = features::all(&env).unwrap();
    let routes = features.iter().flat_map(|feature| feature.routes.iter().map(|route| (feature.name, route)));
    let mut routes = routes.filter(|(_, route)| route.method == "POST");
    let action = form.split_once(" action=\"").map(|(_, rest)| rest.split('"').next().unwrap()).unwrap_or("?");
    // Its page's own address: that of a link in a mail, if the feature has any.
    if action.starts_with('?') {
        let found = routes.find(|(name, route)| *name == folder && route.path.contains("{token}"));
        return found.map(|(_, route)| route.access);
    }
    let same = |written: &str, part: &str| written == part || written.starts_with("{{") && part.starts_with('{');
    let action: Vec<&str> = action.split('/').collect();
    let found = routes.find(|(_, route)| {
        let path: Vec<&str> = route.path.split('/').collect();
        path.len() == action.len() && action.iter().zip(path).all(|(written, part)| same(written, part))
    });
    found.map(|(_, route)| route.access)
}

#[test]
fn every_form_of_a_user_says_whose_it_is_and_no_other_form_does() {
    let mut seen = 0;
    for (name, text) in files::ALL {
        for form in text.split("<form").skip(1).map(|rest| rest.split("</form>").next().unwrap()) {
            if !form.contains(" method=\"post\"") {
                continue;
            }
            seen += 1;
            let access = access_of(form, name.split('/').next().unwrap());
            let is_a_users = access.is_none_or(Access::is_for_users);
            let advice = if is_a_users { "needs" } else { "needs no" };
            let line = "{{ <for_user id={user_id} /> }}";
            assert_eq!(form.contains(line), is_a_users, "templates/{name} {advice} {line} in\n<form{form}");
        }
    }
    assert!(seen > 0, "no template has a form");
}

#[test]
fn no_field_cuts_what_is_pasted_into_it() {
    for (name, text) in files::ALL {
        assert!(!text.contains(" maxlength="), "templates/{name}: give the field a `limit`, and the server a sentence");
        let counts = text.contains("data-limit=\"") || text.contains(" limit={");
        let script = text.contains("asset.counter_js");
        assert!(script || !counts || *name == "field.html", "templates/{name} needs counter.js for its limit");
    }
}
