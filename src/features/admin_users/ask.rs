//! The pages that ask before something that cannot be taken back.

use super::list::{self, Person};
use super::request::{FactorForm, UserRequest};
use crate::base::Result;
use crate::db::Connection;
use crate::web::{Factor, Page, Query, Template, files};
use axum::response::Response;
use serde::Serialize;

#[derive(Serialize)]
struct AskPage {
    act: &'static str,
    person: Person,
    /// The name and the label of a factor to remove, else empty.
    factor: &'static str,
    label: &'static str,
    /// What goes with the account, such as "4 notes".
    owned: Vec<String>,
}

impl Template for AskPage {
    const FILE: &'static str = files::ADMIN_USERS_ASK;
}

pub async fn disable(request: UserRequest, page: Page) -> Result<Response> {
    ask(&request, &page, "disable", None).await
}

pub async fn remove_factor(request: UserRequest, page: Page, Query(form): Query<FactorForm>) -> Result<Response> {
    request.refuse_own()?;
    ask(&request, &page, "remove_factor", Some(form.find(&request.app)?)).await
}

pub async fn delete(request: UserRequest, page: Page) -> Result<Response> {
    request.refuse_own()?;
    ask(&request, &page, "delete", None).await
}

async fn ask(
    UserRequest { app, id, .. }: &UserRequest,
    page: &Page,
    act: &'static str,
    factor: Option<&Factor>,
) -> Result<Response> {
    let (factor, label) = factor.map(|factor| (factor.name, factor.label)).unwrap_or_default();
    let select = async |db: &mut Connection| {
        let (person, owned) = (list::find(db, id).await?, app.owned_by(db, id).await?);
        Ok(AskPage { act, person, factor, label, owned })
    };
    page.render(&app.db.read(select).await?).await
}

#[cfg(test)]
mod tests {
    use super::super::list::person;
    use super::*;
    use crate::test::{TestApp, check};

    #[test]
    fn its_pages_render() {
        let page = |act, is_disabled, owned: &[&str]| AskPage {
            act,
            person: person(is_disabled, false),
            factor: "code",
            label: "Authenticator app",
            owned: owned.iter().map(|text| text.to_string()).collect(),
        };
        check(&[
            page("disable", false, &[]),
            page("remove_factor", false, &[]),
            page("delete", false, &[]),
            page("delete", true, &["1 note", "2 keys"]),
        ]);
    }

    #[tokio::test]
    async fn what_cannot_be_undone_is_asked_first_and_looking_changes_nothing() {
        let app = TestApp::new().await;
        let (boss, ada) = (app.person("boss").await, app.person("ada").await);
        app.make_admin("boss").await;
        let (id, own) = (app.user("ada").await, app.user("boss").await);
        let page = async |rest: &str| boss.get(&format!("/admin/users/{id}/{rest}")).await;
        page("delete").await.assert_status(200).assert_contains("Delete ada?").assert_contains("cannot be undone");
        page("disable").await.assert_status(200).assert_contains("Disable ada?");
        let factor = app.app.features.factors.first().map(|factor| factor.name).unwrap_or_default();
        if !factor.is_empty() {
            page(&format!("remove-factor?factor={factor}")).await.assert_contains("from ada?");
            boss.get(&format!("/admin/users/{own}/remove-factor?factor={factor}")).await.assert_status(403);
        }
        page("remove-factor?factor=nonsense").await.assert_status(404);
        boss.get(&format!("/admin/users/{own}/delete")).await.assert_status(403).assert_contains("your account page");
        for act in ["delete", "disable"] {
            boss.get(&format!("/admin/users/nobody/{act}")).await.assert_status(404);
        }
        ada.assert_is("ada").await;
    }
}
