//! A walk over the map: people send every form of the site, empty, wrong and right, and wherever a page answers, its address
//! opens the same form. So nobody who reloads, bookmarks or comes back stands before "This page cannot be opened like this".

use super::{Answer, PASSWORD, SECOND_FACTOR, TestApp, Visitor};
use crate::accounts::user::{self, Username};
use crate::base::env::Env;
use crate::features::{self, Feature};
use crate::web::routes::{Access, Route, Routes};
use crate::web::site_map::matches;
use axum::http::Method;
use std::collections::BTreeSet;

const NEW: &str = "quiet harbour lamp";

/// What changes nothing about how its user logs in.
const HARMLESS: [(&str, &str); 3] = [("text", "A note"), ("email", "new@example.com"), ("name", "A name")];

/// A form that could be meant, with somebody's own password.
const PLAUSIBLE: [(&str, &str); 9] = [
    ("text", "Another note"),
    ("email", "other@example.com"),
    ("name", "Another name"),
    ("username", "lovelace"),
    ("current_password", PASSWORD),
    ("password", NEW),
    ("confirm_password", NEW),
    ("code", "123456"),
    ("theme", "dark"),
];

async fn ask() -> &'static str {
    "the second factor"
}

/// A site on which every log-in with a password alone waits for a second factor.
async fn site() -> TestApp {
    let routes = Routes::new().get("/second", Access::PendingLogin, ask);
    let feature = Feature { routes, factor: Some(SECOND_FACTOR), ..Feature::named("test") };
    TestApp::with_feature(&[("MAILS_PER_ACCOUNT", "1000000/1h")], feature).await
}

/// Every address that the pages and mails lead somebody to who has used all of the site.
async fn addresses(app: &TestApp, name: &str, posts: &[&Route]) -> BTreeSet<String> {
    let (browser, email) = (app.browser_of(name).await, format!("{name}@example.com"));
    app.confirm_address(name, &email).await;
    for route in posts.iter().filter(|route| !route.path.contains('{')) {
        browser.copy().post(route.path, &HARMLESS).await;
        app.visitor().post(route.path, &[("email", &email)]).await;
    }
    let mut found = BTreeSet::new();
    for mail in app.mails().await {
        let links = mail.content.text.lines().filter_map(|line| line.strip_prefix(&app.app.config.origin()));
        found.extend(links.map(String::from));
    }
    let browser = app.browser_of(name).await;
    let (mut open, mut kinds) = (vec!["/".to_string()], BTreeSet::new());
    while let Some(path) = open.pop() {
        let page = browser.get(&path).await.text();
        for rest in [" href=\"", " action=\""].iter().flat_map(|attribute| page.split(attribute).skip(1)) {
            let address = rest.split('"').next().unwrap_or_default();
            // Of many pages of a kind, one is enough.
            let kind = app.app.features.map.pattern(address);
            if kind.is_some_and(|kind| !kind.contains('.') && kinds.insert(kind)) {
                open.push(address.to_string());
            }
            found.insert(address.to_string());
        }
    }
    found
}

fn is_html(answer: &Answer) -> bool {
    answer.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

/// Whether a page has a form that is sent to this path.
fn has_form(page: &Answer, path: &str) -> bool {
    let text = page.text();
    let forms = text.split("<form").skip(1).filter_map(|form| form.split('>').next());
    let mut actions = forms.filter(|form| form.contains("method=\"post\"")).map(|form| form.split_once(" action=\""));
    actions.any(|action| action.is_none_or(|(_, rest)| rest.split('"').next() == Some(path)))
}

/// The page of a form that somebody else has opened is 409 by whatever was sent: its user did not fill that form in, and may
/// have no such page. It changes nothing, however often it is loaded again, and names a page to go to.
fn is_anothers_form(answer: &Answer) -> bool {
    answer.status == 409 && answer.text().contains("opened this form, and <strong>")
}

/// Whether a redirect may lead there. Some pages are given in tests, also if the site is without the feature.
fn is_page(app: &TestApp, to: &str) -> bool {
    let (features, path) = (&app.app.features, to.split('?').next());
    let given = [Some("/"), features.login_path, features.confirm_path, features.account_path];
    features.map.has(to) || given.into_iter().flatten().any(|given| path == Some(given))
}

/// What is wrong with this answer to a form.
async fn complaint(app: &TestApp, visitor: &Visitor, path: &str, answer: &Answer) -> Option<String> {
    if answer.status == 303 {
        let to = answer.header("location");
        return (!is_page(app, to)).then(|| format!("leads to {to}, which is no page"));
    }
    if ![200, 409, 422].contains(&answer.status) || !is_html(answer) {
        return None;
    }
    let here = [("referer", &*format!("http://localhost{path}"))];
    let theme = app.visitor().post_with("/theme", &[("theme", "dark")], &here).await;
    if theme.status == 303 && !is_page(app, theme.header("location")) {
        return Some("has a theme that leads to no page".into());
    }
    if is_anothers_form(answer) {
        return None;
    }
    let page = match visitor.get(path).await {
        page if page.status == 200 => page,
        // A user may send a form of guests, and is led home from its page.
        _ => app.visitor().get(path).await,
    };
    // Where nothing can be done, such as removing the last way to log in, both pages say so in place of a form.
    let shows = has_form(&page, path) || !has_form(answer, path) && heading(&page) == heading(answer);
    (page.status != 200 || !shows)
        .then(|| format!("is a page ({}), and GET of its address has no such form ({})", answer.status, page.status))
}

fn heading(page: &Answer) -> String {
    page.text().split("</h1>").next().and_then(|text| text.split("<h1>").nth(1)).unwrap_or_default().to_string()
}

/// Somebody who is logged in here, and where the log-in is not recent any more. `None` of an account that is gone.
async fn users(app: &TestApp, name: &str) -> Option<[(&'static str, Visitor); 2]> {
    let username = Username::parse(name).unwrap();
    app.app.db.read(async |db| user::find(db, &username).await).await.unwrap()?;
    let old = app.browser_of(name).await;
    app.execute("update sessions set confirmed_at = 0 where id = (select max(id) from sessions)").await;
    Some([("a user of old", old), ("a user", app.browser_of(name).await)])
}

#[tokio::test]
async fn wherever_a_form_is_answered_by_a_page_its_address_opens_the_same_form() {
    let app = site().await;
    app.person("other").await;
    let other = app.user("other").await;
    let (rubbish, anothers) =
        (PLAUSIBLE.map(|(field, _)| (field, "?!")), [&HARMLESS[..], &[("for", &*other)]].concat());
    let own = [&HARMLESS[..], &[("password", PASSWORD), ("current_password", PASSWORD)]].concat();
    let features = features::all(&Env::default()).unwrap();
    let posts = features.iter().flat_map(|feature| feature.routes.iter()).filter(|route| route.method == Method::POST);
    let posts: Vec<_> = posts.collect();
    let (mut wrong, mut mistaken) = (BTreeSet::new(), BTreeSet::new());
    for (number, route) in posts.iter().enumerate() {
        let name = format!("ada{number}");
        app.person(&name).await;
        let mut paths = vec![route.example_path()];
        if route.path.contains('{') {
            paths.extend(addresses(&app, &name, &posts).await.into_iter().rev().find(|path| matches(route.path, path)));
        }
        let kinds = [
            ("nothing", &[][..]),
            ("rubbish", &rubbish),
            ("another's form", &anothers),
            ("a form", &PLAUSIBLE),
            ("a password", &own),
        ];
        for (path, (kind, fields)) in paths.iter().flat_map(|path| kinds.map(|kind| (path, kind))) {
            let pending = app.visitor();
            pending.post("/test/log-in", &[("username", &name), ("password", PASSWORD)]).await;
            let guests = [("a visitor", app.visitor()), ("half-way", pending)];
            for (who, visitor) in guests.into_iter().chain(users(&app, &name).await.into_iter().flatten()) {
                let answer = visitor.post(path, fields).await;
                if answer.status == 422 && is_html(&answer) {
                    mistaken.insert(route.path);
                }
                if let Some(complaint) = complaint(&app, &visitor, path, &answer).await {
                    wrong.insert(format!("{kind} by {who} to {}: {complaint}", route.path));
                }
            }
        }
    }
    // Most buttons take no fields, so nothing can be wrong with them.
    assert!(mistaken.len() * 12 > posts.len(), "nobody made a mistake but at {mistaken:?} of {}", posts.len());
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}
