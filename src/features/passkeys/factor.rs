//! Passkeys as a factor, which suffices to log in.

use super::relying_party::{NAME, not_good};
use super::{confirm, credential, log_in, manage};
use crate::accounts::AuthLevel;
use crate::base::Result;
use crate::db::Connection;
use crate::web::app::{FactorAttempt, Owned};
use crate::web::{AccountGroup, AccountRow, App, Factor, FactorCounts, RowState};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

pub const ROW: AccountRow = AccountRow::new(AccountGroup::SigningIn, 2, "Passkeys", manage::PATH, |_, context| {
    match context.count(FACTOR.name) {
        0 => RowState::fixed("None", "Add"),
        number => ready(Ok(RowState::new(number.to_string(), "Manage"))).boxed(),
    }
});

pub const OWNED: Owned = Owned { one: "passkey", many: "passkeys", count: credential::COUNT };

pub const FACTOR: Factor = Factor {
    name: NAME,
    label: "Passkeys",
    count: credential::COUNT,
    suffices: true,
    verify,
    next,
    set_up_path: manage::PATH,
    added: manage::PASSKEY_ADDED,
    undo: credential::UNDO,
};

fn verify<'a>(app: &'a App, attempt: FactorAttempt<'a>) -> BoxFuture<'a, Result<()>> {
    let FactorAttempt { session, headers, value, .. } = attempt;
    async move {
        let answer = serde_json::from_str(value).map_err(|_| not_good())?;
        let verified = confirm::verify(app, headers, session, &answer).await?;
        app.db.write(async |db| verified.recheck(db).await).await
    }
    .boxed()
}

/// Where everyone must have two factors, a user who has authenticated by one is asked for a passkey, unless there is
/// another second factor: the page that asks for that offers this one too.
fn next<'a>(
    app: &'a App,
    db: &'a mut Connection,
    user_id: &'a str,
    level: AuthLevel,
) -> BoxFuture<'a, Result<Option<&'static str>>> {
    async move {
        if level == AuthLevel::TwoFactors || !app.config.require_two_factor.applies_to_everyone() {
            return Ok(None);
        }
        let counts = FactorCounts::of_user(app, db, user_id).await?;
        let mut others = app.features.factors.iter().filter(|factor| factor.name != NAME);
        let has_other = others.any(|factor| counts.get(factor.name) > 0);
        Ok((counts.get(NAME) > 0 && !has_other).then_some(log_in::PATH))
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::Authenticator;
    use super::*;
    use crate::features::Feature;
    use crate::test::{PASSWORD, SECOND_FACTOR, TestApp};
    use crate::web::Routes;
    use std::future::ready;

    #[tokio::test]
    async fn where_everybody_must_have_two_factors_a_password_leads_to_the_passkey() {
        let app = TestApp::with_env(&[("REQUIRE_TWO_FACTOR", "all")], Routes::new()).await;
        let mut key = Authenticator::new().registered(&app.person("ada").await).await;
        let visitor = app.visitor();
        visitor.get("/login/passkey").await.assert_redirect("/login");
        let fields = [("username", "ada"), ("password", PASSWORD), ("next", "/private"), ("stay", "yes")];
        visitor.post("/test/log-in", &fields).await.assert_redirect("/login/passkey");
        visitor.assert_is("nobody").await;
        let page = visitor.get("/login/passkey").await;
        page.assert_status(200).assert_contains("value=\"/private\"").assert_contains("checked");
        key.log_in(&visitor).await.assert_status(200);
        visitor.get("/private").await.assert_body("ada");
    }

    #[tokio::test]
    async fn a_user_with_another_second_factor_is_not_asked_for_a_passkey_first() {
        let count = "select count(*) from users where id = $1";
        let another = Factor { count, next: |_, _, _, _| ready(Ok(None)).boxed(), ..SECOND_FACTOR };
        let feature = Feature { factor: Some(another), ..Feature::named("test") };
        let app = TestApp::with_feature(&[("REQUIRE_TWO_FACTOR", "all")], feature).await;
        Authenticator::new().registered(&app.person("ada").await).await;
        let fields = [("username", "ada"), ("password", PASSWORD)];
        app.visitor().post("/test/log-in", &fields).await.assert_redirect("/");
    }

    #[tokio::test]
    async fn the_account_page_says_how_many_there_are() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        ada.get("/test/account").await.assert_contains("Passkeys · None · Add\n");
        app.execute(
            "insert into passkeys (id, user_id, credential_id, name, credential, created_at) \
             select 'x', id, 'x', 'Phone', '', 1 from users where username = 'ada'",
        )
        .await;
        ada.get("/test/account").await.assert_contains("Passkeys · 1 · Manage\n");
        bob.get("/test/account").await.assert_contains("Passkeys · None · Add\n");
    }
}
