//! Uses a recovery code, in place of the link in a mail. Every failure has the same sentence, status and cost.

use super::path;
use crate::access::see_other;
use crate::app::App;
use crate::database::Connection;
use crate::error::Result;
use crate::event::{self, Event};
use crate::form::{Errors, Form};
use crate::guard::Client;
use crate::page::{Page, Template, templates};
use crate::recovery;
use crate::throttle::{self, Key};
use crate::token::{self, Purpose, Token};
use crate::user::Username;
use axum::extract::State;
use axum::response::Response;
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
    errors: Errors,
}

impl Template for RecoverPage {
    const FILE: &'static str = templates::PASSWORD_RESET_RECOVER;
}

pub async fn new(page: Page) -> Result<Response> {
    page.show(&RecoverPage { form: RecoverForm::default(), errors: Errors::default() }).await
}

pub async fn create(
    State(app): State<App>,
    client: Client,
    page: Page,
    Form(form): Form<RecoverForm>,
) -> Result<Response> {
    let (key, rate) = (Key::address("recovery", client.address), app.config.password_attempts_per_address);
    app.db.note(async |db| throttle::take(db, &key, rate).await).await?;
    match app.db.write(async |db| recover(&app, db, &client, &form).await).await? {
        Some(token) => Ok(see_other(&path(&token))),
        None => {
            let sentence = "This username and code do not belong together.".to_string();
            page.refuse(&RecoverPage { form, errors: Errors::from(("code", sentence)) }).await
        }
    }
}

async fn recover(
    app: &App,
    db: &mut Connection,
    client: &Client,
    form: &RecoverForm,
) -> Result<Option<Token>> {
    let Ok(username) = Username::parse(&form.username) else { return Ok(None) };
    let Some(user_id) = recovery::spend(db, &username, &form.code).await? else { return Ok(None) };
    event::record(db, &*user_id, Event::RecoveryCodeUsed, client).await?;
    let token = token::issue(db, Purpose::Reset, &user_id, "", "", app.config.reset_lifetime).await?;
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::super::RECOVER;
    use super::*;
    use crate::access::Routes;
    use crate::mail;
    use crate::page::tests::check;
    use crate::password;
    use crate::test::{Answer, PASSWORD, TestApp};
    use futures_util::future::join_all;

    const NEW: &str = "quiet harbour lamp";

    async fn codes_of(app: &TestApp, name: &str) -> Vec<String> {
        let id = app.user(name).await;
        app.app.db.write(async |db| recovery::make(db, &id).await).await.unwrap()
    }

    async fn submit(app: &TestApp, name: &str, code: &str) -> Answer {
        app.visitor().post(RECOVER, &[("username", name), ("code", code)]).await
    }

    #[test]
    fn its_page_renders() {
        let typed = RecoverForm { username: "ada".into(), code: "secret".into() };
        check(&[
            RecoverPage { form: RecoverForm::default(), errors: Errors::default() },
            RecoverPage { form: typed, errors: Errors::from(("code", "No.".into())) },
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
        answer.assert_redirect("/login");
        ada.assert_is("nobody").await;
        let door = app.door().await;
        assert!(password::check(&app.app, &door, "ada", NEW).await.unwrap().is_some());
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_code_used'").await, 1);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 9);
    }

    #[tokio::test]
    async fn nobody_ends_what_a_code_has_opened_by_asking_for_a_mail() {
        let app = TestApp::new().await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        let codes = codes_of(&app, "ada").await;
        let link = submit(&app, "ada", &codes[0]).await.header("location").to_string();
        let ask = async |db: &mut Connection| mail::queue(db, password::RESET, None, "ada@example.com").await;
        app.app.db.write(ask).await.unwrap();
        let mailed = app.link_to("ada@example.com").await;
        for open in [&link, &mailed] {
            app.visitor().get(open).await.assert_status(200);
        }
        // The newest of its kind works alone, and one that is used ends the other.
        let newer = submit(&app, "ada", &codes[1]).await.header("location").to_string();
        app.visitor().get(&link).await.assert_status(404);
        let fields = [("password", NEW), ("confirm_password", NEW)];
        app.visitor().post(&newer, &fields).await.assert_redirect("/login");
        app.visitor().get(&mailed).await.assert_status(404);
    }

    #[tokio::test]
    async fn whatever_is_wrong_has_the_one_sentence_and_the_same_cost() {
        let app = TestApp::new().await;
        for name in ["known", "eve", "gone"] {
            app.person(name).await;
        }
        let (codes, eves, gones) =
            (codes_of(&app, "known").await, codes_of(&app, "eve").await, codes_of(&app, "gone").await);
        app.execute("update users set disabled_at = 1 where username = 'gone'").await;
        let wrong = submit(&app, "known", &"a".repeat(26)).await;
        wrong.assert_status(422).assert_contains("This username and code do not belong together.");
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
        for (name, code) in [
            ("", &*codes[0]),
            ("known", ""),
            ("", ""),
            ("a b", &codes[0]),
            ("known", PASSWORD),
            ("' or 1=1 --", "' or 1=1 --"),
            ("known", "\0"),
        ] {
            submit(&app, name, code).await.assert_status(422).assert_contains("do not belong together");
        }
        assert_eq!(app.count("select count(*) from recovery_codes").await, 30);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
        submit(&app, "known", &codes[0]).await.assert_status(303);
    }

    #[tokio::test]
    async fn of_fifty_who_send_a_code_at_once_one_is_let_through() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        let answers = join_all((0..50).map(|_| submit(&app, "ada", &codes[0]))).await;
        let with = |status| answers.iter().filter(|answer| answer.status == status).count();
        // On a busy machine some may have waited too long and been told so; most have not.
        assert!(with(303) == 1 && with(422) > 20, "{} × 303, {} × 422", with(303), with(422));
        assert_eq!(with(422) + with(503), 49);
        assert_eq!(app.count("select count(*) from tokens").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'recovery_code_used'").await, 1);
    }

    #[tokio::test]
    async fn so_many_codes_are_tried_from_one_address_whatever_the_names() {
        let settings = [("PASSWORD_ATTEMPTS_PER_ADDRESS", "3/1h")];
        let app = TestApp::with_env(&settings, Routes::new()).await;
        app.person("ada").await;
        let codes = codes_of(&app, "ada").await;
        for name in ["bob", "eve", "a b"] {
            submit(&app, name, &codes[0]).await.assert_status(422);
        }
        let (known, unknown) = (submit(&app, "ada", &codes[0]).await, submit(&app, "nobody", "").await);
        known.assert_status(429).assert_header("retry-after", "1200");
        assert_eq!((known.status, known.text()), (unknown.status, unknown.text()));
        // Passwords have a count of their own.
        let door = app.door().await;
        assert!(password::check(&app.app, &door, "ada", PASSWORD).await.unwrap().is_some());
    }
}
