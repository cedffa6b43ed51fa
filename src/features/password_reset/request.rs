//! Asks for the link with an e-mail address. Whether an account has the address makes no difference here: a row is added
//! to the outbox, and who has it is looked up when the mail is sent.

use super::paths::{CHOOSE, REQUEST};
use crate::accounts::link::{self, Purpose, RESET_MAIL};
use crate::accounts::{Client, Email, User, address, user};
use crate::base::{Config, FieldErrors, Result};
use crate::db::Connection;
use crate::mail::{Mail, MailContent, outbox};
use crate::web::app::REQUESTED_MAIL;
use crate::web::format::duration;
use crate::web::{App, Form, MailTemplate, Page, Template, cookie, files, redirect};
use ::cookie::Cookie;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
pub struct RequestForm {
    email: String,
}

#[derive(Serialize)]
struct RequestPage {
    form: RequestForm,
    /// The address that was just entered. The page does not know whether an account has it.
    sent: Option<String>,
    lifetime: String,
    errors: FieldErrors,
}

impl RequestPage {
    fn new(app: &App, form: RequestForm, errors: FieldErrors) -> RequestPage {
        RequestPage { form, sent: None, lifetime: duration(app.config.reset_lifetime), errors }
    }
}

impl Template for RequestPage {
    const FILE: &'static str = files::PASSWORD_RESET_REQUEST;
}

/// Holds the address that this browser has asked for, as long as the link works. An address does not belong in the path,
/// which proxies log.
const SENT_COOKIE: &str = "reset";

pub async fn new(State(app): State<App>, page: Page, headers: HeaderMap) -> Result<Response> {
    let sent = find_sent(&app.config, &headers);
    let form = RequestForm { email: sent.clone().unwrap_or_default() };
    page.render(&RequestPage { sent, ..RequestPage::new(&app, form, FieldErrors::default()) }).await
}

/// The address that this browser has asked for.
pub fn find_sent(config: &Config, headers: &HeaderMap) -> Option<String> {
    let cookies = cookie::values(config, headers, SENT_COOKIE);
    let mut addresses = cookies.iter().filter_map(|cookie| percent_decode_str(cookie).decode_utf8().ok());
    addresses.find_map(|address| Email::parse(&address).ok()).map(|email| email.as_str().to_string())
}

/// Makes the browser forget the address.
pub fn forget(config: &Config) -> Cookie<'static> {
    cookie::delete(config, SENT_COOKIE)
}

pub async fn create(
    State(app): State<App>,
    client: Client,
    page: Page,
    Form(form): Form<RequestForm>,
) -> Result<Response> {
    let email = match Email::parse(&form.email) {
        Ok(email) => email,
        Err(sentence) => {
            let errors = FieldErrors::of("email", sentence);
            return page.render_errors(&RequestPage::new(&app, form, errors)).await;
        }
    };
    let counted = app.count_by_address(REQUESTED_MAIL, &client, app.config.mails_per_address).await?;
    let queue = async |db: &mut Connection| outbox::queue(db, RESET_MAIL, None, email.as_str(), "").await;
    counted.decide(app.db.write(queue)).await?;
    let sent = cookie::build(&app.config, SENT_COOKIE, email.as_str().into(), Some(app.config.reset_lifetime));
    Ok(redirect(REQUEST).cookie(sent).into_response())
}

#[derive(Serialize)]
struct ResetMail {
    username: String,
    link: String,
    lifetime: String,
}

impl MailTemplate for ResetMail {
    const TEXT: &'static str = files::PASSWORD_RESET_LETTER_TXT;
    const HTML: &'static str = files::PASSWORD_RESET_LETTER;
}

pub fn write_mail<'a>(
    app: &'a App,
    db: &'a mut Connection,
    mail: &'a Mail,
    user: Option<User>,
) -> BoxFuture<'a, Result<Option<MailContent>>> {
    async move {
        // Who asked so long ago does not expect it any more.
        if mail.is_older_than(app.config.reset_lifetime) {
            return Ok(None);
        }
        // A mail that names its user was not asked for by a visitor, so there is no limit.
        let user = if user.is_some() { user } else { find_owner(app, db, mail).await? };
        let Some(User { id, username }) = user else { return Ok(None) };
        let lifetime = app.config.reset_lifetime;
        let token = link::issue(db, Purpose::Reset, &id, &mail.email, &mail.id, lifetime).await?;
        let link = app.config.link(CHOOSE, &token);
        let template = ResetMail { username, link, lifetime: duration(lifetime) };
        Ok(Some(app.templates.mail(&template)?))
    }
    .boxed()
}

/// The user who has confirmed the address of the mail, if one more mail may go to them.
async fn find_owner(app: &App, db: &mut Connection, mail: &Mail) -> Result<Option<User>> {
    let Some(id) = address::owner(db, &mail.email).await? else { return Ok(None) };
    let Some(user) = user::lock(db, &id).await? else { return Ok(None) };
    // The user may have given the address up before the row was locked.
    let owns = address::owner(db, &mail.email).await?.as_ref() == Some(&id);
    let may = owns && link::count_mail(&app.config, db, mail, &id).await?;
    Ok(may.then_some(user))
}

#[cfg(test)]
mod tests {
    use super::super::paths::RECOVER;
    use super::*;
    use crate::test::{Answer, TestApp, assert_well_formed, check, check_mails};
    use crate::web::Routes;
    use axum::http::StatusCode;
    use std::time::Duration;
    use tokio::sync::Notify;
    use tokio::time::sleep;

    const ADA: &str = "ada@example.com";

    async fn request(app: &TestApp, email: &str) -> Answer {
        app.visitor().post(REQUEST, &[("email", email)]).await
    }

    /// How many mails with a link have gone to this address.
    async fn links_to(app: &TestApp, email: &str) -> usize {
        let mails = app.mails().await;
        let has_link = |text: &str| text.contains("http://localhost:8000/password-reset/");
        mails.iter().filter(|mail| mail.email == email && has_link(&mail.content.text)).count()
    }

    async fn status_of(app: &TestApp, link: &str) -> u16 {
        app.visitor().get(link).await.status
    }

    #[test]
    fn its_page_and_its_mail_render() {
        let page = |form, sent: Option<&str>, errors| RequestPage {
            form,
            sent: sent.map(String::from),
            lifetime: "15 minutes".into(),
            errors,
        };
        check(&[
            page(RequestForm::default(), None, FieldErrors::default()),
            page(RequestForm { email: "a\"b".into() }, None, FieldErrors::of("email", "No.")),
            page(RequestForm { email: ADA.into() }, Some(ADA), FieldErrors::default()),
        ]);
        let mail = |link: &str| ResetMail { username: "ada".into(), link: link.into(), lifetime: "15 minutes".into() };
        check_mails(&[mail("https://example.com/password-reset/1")]);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_taken_now_does_not_count() {
        let app = TestApp::with_env(&[("MAILS_PER_ADDRESS", "1/1h")], Routes::new()).await;
        app.execute("alter table mails rename to gone").await;
        for _ in 0..3 {
            request(&app, ADA).await.assert_status(500);
        }
        app.execute("alter table gone rename to mails").await;
        request(&app, ADA).await.assert_redirect(REQUEST);
        request(&app, ADA).await.assert_status(429);
    }

    #[tokio::test]
    async fn a_link_is_mailed_when_the_other_mails_of_the_day_are_used_up() {
        let app = TestApp::with_env(&[("MAILS_PER_DAY", "10")], Routes::new()).await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        for _ in 0..12 {
            let queue = async |db: &mut Connection| outbox::queue(db, "test", None, ADA, "").await;
            app.app.db.write(queue).await.unwrap();
        }
        assert_eq!(app.mails().await.len(), 9);
        request(&app, ADA).await.assert_redirect(REQUEST);
        assert_eq!(links_to(&app, ADA).await, 1);
        assert_eq!(app.mails().await.len(), 10);
    }

    #[tokio::test]
    async fn the_owner_of_the_address_gets_a_mail_that_says_for_which_account_and_for_how_long() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        let browser = app.visitor();
        browser.post(REQUEST, &[("email", "Ada@Example.com")]).await.assert_redirect(REQUEST);
        let page = browser.get(REQUEST).await;
        page.assert_status(200).assert_contains("<strong>ada@example.com</strong>").assert_contains("is on its way");
        page.assert_contains("value=\"ada@example.com\"").assert_contains("Send it again");
        assert_well_formed(&page.text());
        let mail = app.mails().await.into_iter().next().unwrap();
        assert_eq!((&*mail.email, &*mail.content.subject), (ADA, "Choose a new password for Latchkey"));
        for text in [&mail.content.text, &mail.content.html] {
            assert!(text.contains("ada") && text.contains("within 15 minutes"), "{text}");
            assert!(text.contains("your password stays as it is"), "{text}");
            assert!(text.contains(&app.link_to(ADA).await), "{text}");
        }
        app.visitor().get(&app.link_to(ADA).await).await.assert_status(200).assert_contains("<strong>ada</strong>");
    }

    #[tokio::test]
    async fn a_malformed_address_stays_in_the_field_with_the_reason() {
        let app = TestApp::new().await;
        for typed in ["ada", "a@b", "a@b.c,d@e.f"] {
            let answer = request(&app, typed).await;
            answer.assert_status(422).assert_contains("does not look like").assert_no_header("set-cookie");
            answer.assert_contains("id=\"email-error\"").assert_contains(&format!("value=\"{typed}\""));
        }
        request(&app, "").await.assert_status(422);
        assert_eq!(app.count("select count(*) from mails").await, 0);
        assert_eq!(app.count("select count(*) from limits").await, 0);
    }

    #[tokio::test]
    async fn nobody_learns_whether_an_address_is_known() {
        let app = TestApp::new().await;
        let (ada, _bob, _eve) = (app.person("ada").await, app.person("bob").await, app.person("eve").await);
        app.confirm_address("ada", ADA).await;
        app.confirm_address("eve", "eve@example.com").await;
        app.execute(
            "insert into addresses (user_id, email) select id, 'bob@example.com' from users where username = 'bob'",
        )
        .await;
        app.execute("update users set disabled_at = 1 where username = 'eve'").await;
        // The first of all creates the row of the limit.
        request(&app, "first@example.com").await.assert_redirect(REQUEST);
        let mut answers = Vec::new();
        for email in [ADA, "nobody@example.com", "bob@example.com", "eve@example.com"] {
            let before = app.statements();
            let answer = request(&app, email).await;
            answer.assert_redirect(REQUEST);
            let statements = app.statements() - before;
            let mut headers = answer.headers.clone();
            headers.remove("server-timing");
            // It holds what was typed.
            let cookie = headers.remove("set-cookie").unwrap();
            let cookie = cookie.to_str().unwrap().replace(&email.replace('@', "%40"), "…");
            answers.push((answer.status, headers, answer.bytes.clone(), statements, cookie));
        }
        for answer in &answers {
            assert_eq!(*answer, answers[0]);
            assert_eq!((answer.0, answer.3), (StatusCode::SEE_OTHER.as_u16(), 2));
        }
        assert_eq!(app.count("select count(*) from mails where kind = 'password_reset' and user_id is null").await, 5);
        assert_eq!(links_to(&app, ADA).await, 1);
        for nobodys in ["nobody@example.com", "bob@example.com", "eve@example.com"] {
            assert_eq!(links_to(&app, nobodys).await, 0, "{nobodys}");
        }
        assert_eq!(app.count("select count(*) from mails where kind = 'password_reset'").await, 0);
        ada.assert_is("ada").await;
    }

    #[tokio::test]
    async fn the_page_names_the_address_until_the_link_has_been_used() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        let browser = app.visitor();
        let asked = browser.post(REQUEST, &[("email", ADA)]).await;
        asked.assert_headers("set-cookie", &["reset=ada%40example.com; HttpOnly; SameSite=Lax; Path=/; Max-Age=900"]);
        for _ in 0..2 {
            let page = browser.get(REQUEST).await;
            page.assert_contains("<strong>ada@example.com</strong>").assert_no_header("set-cookie");
        }
        let fields = [("password", "quiet harbour lamp"), ("confirm_password", "quiet harbour lamp")];
        browser.post(&app.link_to(ADA).await, &fields).await.assert_status(303);
        browser.get(REQUEST).await.assert_lacks("ada").assert_contains("Send the link");
        for nonsense in ["", "call+01234", "<script>", "ada%40", "%FF"] {
            let page = app.visitor().with_cookie("reset", nonsense).get(REQUEST).await;
            page.assert_status(200).assert_contains("Send the link").assert_lacks("is on its way");
        }
    }

    #[tokio::test]
    async fn a_second_link_replaces_the_first() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        request(&app, ADA).await;
        let first = app.link_to(ADA).await;
        assert_eq!(status_of(&app, &first).await, 200);
        request(&app, ADA).await;
        let second = app.link_to(ADA).await;
        assert_eq!((status_of(&app, &first).await, status_of(&app, &second).await), (404, 200));
    }

    #[tokio::test]
    async fn the_fourth_mail_in_an_hour_is_not_sent_and_the_page_does_not_say_so() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        let mut last = String::new();
        for sent in [1, 2, 3, 3, 3] {
            request(&app, ADA).await.assert_redirect(REQUEST).assert_body("");
            assert_eq!(links_to(&app, ADA).await, sent);
            last = app.link_to(ADA).await;
        }
        // The link that came last still works.
        assert_eq!(status_of(&app, &last).await, 200);
        // A mail that names its user is under no limit.
        let queue = async |db: &mut Connection| {
            let ada = address::owner(db, ADA).await?;
            outbox::queue(db, RESET_MAIL, ada.as_deref(), "old@example.com", "").await
        };
        app.app.db.write(queue).await.unwrap();
        assert_eq!(links_to(&app, "old@example.com").await, 1);
        assert_eq!(status_of(&app, &app.link_to("old@example.com").await).await, 200);
        // A disabled user gets none.
        app.app.db.write(queue).await.unwrap();
        app.execute("update users set disabled_at = 1").await;
        assert_eq!(links_to(&app, "old@example.com").await, 1);
    }

    #[tokio::test]
    async fn mails_asked_for_from_one_address_are_limited_and_mistakes_do_not_count() {
        let app = TestApp::with_env(&[("MAILS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        for email in ["ada", ADA, "ada@", "bob@example.com"] {
            request(&app, email).await;
        }
        let refused = request(&app, "eve@example.com").await;
        refused.assert_status(429).assert_header("retry-after", "1800");
        let before = app.statements();
        request(&app, "eve@example.com").await.assert_status(429);
        assert_eq!(app.statements(), before, "it is refused again without a statement");
        assert_eq!(app.count("select count(*) from mails").await, 2);
    }

    #[tokio::test]
    async fn an_address_that_is_given_up_before_the_mail_is_written_gets_none() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        request(&app, ADA).await;
        app.execute("update addresses set email = 'new@example.com'").await;
        assert_eq!(links_to(&app, ADA).await + links_to(&app, "new@example.com").await, 0);
    }

    #[tokio::test]
    async fn an_address_that_is_given_up_while_the_mail_is_written_gets_none() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", ADA).await;
        request(&app, ADA).await;
        let id = app.user("ada").await;
        let locked = Notify::new();
        let give_up = app.app.db.write(async |db| {
            user::lock(db, &id).await?;
            locked.notify_one();
            sleep(Duration::from_millis(300)).await;
            sqlx::query("delete from addresses").execute(db).await?;
            Ok(())
        });
        let send = async {
            locked.notified().await;
            links_to(&app, ADA).await
        };
        let (given_up, sent) = tokio::join!(give_up, send);
        given_up.unwrap();
        assert_eq!(sent, 0);
    }

    #[tokio::test]
    async fn without_mail_there_is_no_page_to_ask_for_one() {
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        app.visitor().get(REQUEST).await.assert_status(404);
        app.visitor().post(REQUEST, &[("email", ADA)]).await.assert_status(404);
        app.visitor().get(RECOVER).await.assert_status(200).assert_lacks(REQUEST);
        let with = TestApp::new().await;
        with.visitor().get(RECOVER).await.assert_contains(REQUEST);
        with.visitor().get(REQUEST).await.assert_contains(RECOVER);
    }
}
