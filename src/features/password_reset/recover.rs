//! Uses a recovery code, in place of the link in a mail. Every failure has the same sentence, status and cost.

use super::paths::choose_path;
use crate::accounts::link::{self, Purpose};
use crate::accounts::{Client, Username, event, recovery_code};
use crate::base::{FieldErrors, Result, Token};
use crate::db::Connection;
use crate::web::{App, Form, Page, Template, files, redirect};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
pub struct RecoverForm {
    username: String,
    #[serde(skip_serializing)]
    code: String,
}

#[derive(Serialize)]
struct RecoverPage {
    form: RecoverForm,
    errors: FieldErrors,
}

impl Template for RecoverPage {
    const FILE: &'static str = files::PASSWORD_RESET_RECOVER;
}

pub async fn new(page: Page) -> Result<Response> {
    page.render(&RecoverPage { form: RecoverForm::default(), errors: FieldErrors::default() }).await
}

pub async fn create(
    State(app): State<App>,
    client: Client,
    page: Page,
    Form(form): Form<RecoverForm>,
) -> Result<Response> {
    if !recovery_code::is_well_formed(&form.code) {
        let errors = FieldErrors::of("code", "A recovery code has 26 letters and digits.");
        return page.render_errors(&RecoverPage { form, errors }).await;
    }
    let counted = app.count_by_address("recovery", &client, app.config.password_attempts_per_address).await?;
    match counted.decide(app.db.write(async |db| recover(&app, db, &client, &form).await)).await? {
        Some(token) => Ok(redirect(&choose_path(&token)).into_response()),
        None => {
            let errors = FieldErrors::of("code", "Wrong username or recovery code.");
            page.render_errors(&RecoverPage { form, errors }).await
        }
    }
}

async fn recover(app: &App, db: &mut Connection, client: &Client, form: &RecoverForm) -> Result<Option<Token>> {
    let Ok(username) = Username::parse(&form.username) else { return Ok(None) };
    let used = recovery_code::use_by_name(db, &username, &form.code).await?;
    let Some(user_id) = used else { return Ok(None) };
    event::record(db, &*user_id, recovery_code::USED.by(client)).await?;
    link::issue(db, Purpose::Reset, &user_id, "", "", app.config.reset_lifetime).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::paths::RECOVER;
    use super::*;
    use crate::accounts::link::RESET_MAIL;
    use crate::mail::outbox;
    use crate::test::{Answer, PASSWORD, TestApp, check};
    use crate::web::Routes;
    use futures_util::future::join_all;

    const NEW: &str = "quiet harbour lamp";

    async fn codes_of(app: &TestApp, name: &str) -> Vec<String> {
        let id = app.user(name).await;
        app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap()
    }

    async fn submit(app: &TestApp, name: &str, code: &str) -> Answer {
        app.visitor().post(RECOVER, &[("username", name), ("code", code)]).await
    }

    #[test]
    fn its_page_renders() {
        let typed = RecoverForm { username: "ada".into(), code: "secret".into() };
        check(&[
            RecoverPage { form: RecoverForm::default(), errors: FieldErrors::default() },
            RecoverPage { form: typed, errors: FieldErrors::of("code", "No.") },
        ]);
    }

    #[tokio::test]
    async fn a_code_leads_to_a_new_password_and_is_used_up() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        let answer = submit(&app, "Ada", &codes[0].to_uppercase().replace('-', " ")).await;
        answer.assert_status(303).assert_no_header("set-cookie").assert_header("cache-control", "no-store");
        let link = answer.header("location").to_string();
        ada.assert_is("ada").await;
        submit(&app, "ada", &codes[0]).await.assert_status(422);
        app.visitor().get(&link).await.assert_status(200).assert_contains("<strong>ada</strong>");
        let answer = app.visitor().post(&link, &[("password", NEW), ("confirm_password", NEW)]).await;
        answer.assert_redirect("/login?username=ada");
        ada.assert_is("nobody").await;
        assert!(app.is_password_of("ada", NEW).await);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_code_used'").await, 1);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn a_code_that_cannot_be_looked_up_now_does_not_count_and_a_wrong_one_does() {
        let app = TestApp::with_env(&[("PASSWORD_ATTEMPTS_PER_ADDRESS", "2/1h")], Routes::new()).await;
        app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        app.execute("alter table tokens rename to gone").await;
        for _ in 0..5 {
            submit(&app, "ada", &codes[0]).await.assert_status(500);
        }
        app.execute("alter table gone rename to tokens").await;
        submit(&app, "eve", &codes[0]).await.assert_status(422);
        submit(&app, "ada", &codes[0]).await.assert_status(303);
        submit(&app, "ada", &codes[1]).await.assert_status(429);
    }

    #[tokio::test]
    async fn asking_for_a_mail_does_not_revoke_the_link_of_a_code() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let codes = codes_of(&app, "ada").await;
        let link = submit(&app, "ada", &codes[0]).await.header("location").to_string();
        let ask = async |db: &mut Connection| outbox::queue(db, RESET_MAIL, None, "ada@example.com", "").await;
        app.app.db.write(ask).await.unwrap();
        let mailed = app.link_to("ada@example.com").await;
        for open in [&link, &mailed] {
            app.visitor().get(open).await.assert_status(200);
        }
        // Of its kind only the newest works, and one that is used revokes the other.
        let newer = submit(&app, "ada", &codes[1]).await.header("location").to_string();
        app.visitor().get(&link).await.assert_status(404);
        let fields = [("password", NEW), ("confirm_password", NEW)];
        app.visitor().post(&newer, &fields).await.assert_redirect("/login?username=ada");
        app.visitor().get(&mailed).await.assert_status(404);
    }

    #[tokio::test]
    async fn every_failure_has_the_same_sentence_and_the_same_cost() {
        let app = TestApp::new().await;
        for name in ["known", "eve", "gone"] {
            app.person(name).await;
        }
        let (codes, eves, gones) =
            (codes_of(&app, "known").await, codes_of(&app, "eve").await, codes_of(&app, "gone").await);
        app.execute("update users set disabled_at = 1 where username = 'gone'").await;
        let wrong = submit(&app, "known", &"a".repeat(26)).await;
        wrong.assert_status(422).assert_contains("Wrong username or recovery code.");
        wrong.assert_contains("value=\"known\"").assert_contains("id=\"code-error\"").assert_lacks("aaaaa");
        let page = wrong.text().replace("known", "");
        let before = app.statements();
        submit(&app, "known", &"a".repeat(26)).await;
        let cost = app.statements() - before;
        for (name, code) in [
            ("known", &*eves[0]),
            ("nobod", &codes[0]),
            ("nobod", &"a".repeat(26)),
            ("eve", &codes[0]),
            ("gone", &gones[0]),
        ] {
            let before = app.statements();
            let answer = submit(&app, name, code).await;
            assert_eq!((app.statements() - before, answer.status), (cost, 422), "{name} {code}");
            assert_eq!(answer.text().replace(&format!("value=\"{name}\""), "value=\"\""), page);
        }
        for name in ["", "a b", "' or 1=1 --"] {
            submit(&app, name, &codes[0]).await.assert_status(422).assert_contains("Wrong username or");
        }
        let before = app.statements();
        for code in ["", PASSWORD, "' or 1=1 --", "\0", &codes[0][1..]] {
            submit(&app, "known", code).await.assert_status(422).assert_contains("A recovery code has 26 letters");
        }
        assert_eq!(app.statements(), before, "it is no attempt");
        assert_eq!(app.count("select count(*) from recovery_codes").await, 30);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
        submit(&app, "known", &codes[0]).await.assert_status(303);
    }

    #[tokio::test]
    async fn of_fifty_who_send_a_code_at_once_one_is_accepted() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        let answers = join_all((0..50).map(|_| submit(&app, "ada", &codes[0]))).await;
        let with = |status| answers.iter().filter(|answer| answer.status == status).count();
        // On a busy machine some may have waited too long; most have not.
        assert!(with(303) == 1 && with(422) > 20, "{} × 303, {} × 422", with(303), with(422));
        assert_eq!(with(422) + with(503), 49);
        assert_eq!(app.count("select count(*) from tokens").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_code_used'").await, 1);
    }

    #[tokio::test]
    async fn codes_tried_from_one_address_are_limited_whatever_the_names() {
        let settings = [("PASSWORD_ATTEMPTS_PER_ADDRESS", "3/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        for name in ["bob", "eve", "a b"] {
            submit(&app, name, &codes[0]).await.assert_status(422);
        }
        let known = submit(&app, "ada", &codes[0]).await;
        let before = app.statements();
        let unknown = submit(&app, "nobody", &codes[0]).await;
        assert_eq!(app.statements(), before, "it is refused again without a statement");
        known.assert_status(429).assert_header("retry-after", "1200");
        assert_eq!((known.status, known.text()), (unknown.status, unknown.text()));
        // Passwords have a count of their own.
        assert!(app.is_password_of("ada", PASSWORD).await);
    }
}
