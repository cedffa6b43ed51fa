//! The account page: a user's settings. Features add theirs by `Feature::account_row`.

use super::feature::Feature;
use crate::accounts::link::{self, CONFIRM_MAIL, Purpose};
use crate::accounts::{Permissions, Session, address};
use crate::base::{Env, MailDelivery, Result};
use crate::db::Connection;
use crate::web::{
    Access, AccountGroup, AccountRow, App, FactorCounts, Page, Routes, RowContext, RowState, Template, files,
};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(PATH, Access::User, show);
    Ok(Feature { routes, account_path: Some(PATH), ..Feature::named("account") })
}

const PATH: &str = "/account";

#[derive(Serialize)]
struct AccountPage {
    /// Whether the user could still get in without the password.
    way_back: bool,
    /// The address that waits to be confirmed.
    pending: Option<String>,
    /// When the link for it was sent, if it still works.
    link_sent_at: Option<i64>,
    profile: Vec<ShownRow>,
    signing_in: Vec<ShownRow>,
    devices: Vec<ShownRow>,
    data: Vec<ShownRow>,
    administration: Vec<ShownRow>,
}

#[derive(Serialize)]
struct ShownRow {
    label: &'static str,
    path: &'static str,
    is_dangerous: bool,
    state: RowState,
}

impl Template for AccountPage {
    const FILE: &'static str = files::ACCOUNT_SHOW;
}

async fn show(State(app): State<App>, session: Session, page: Page) -> Result<Response> {
    let select = async |db: &mut Connection| {
        let user_id = &*session.user.id;
        let factors = FactorCounts::of_user(&app, db, user_id).await?;
        let has_other_factor = factors.login_methods(&app) > i64::from(factors.has_password());
        let way_back = has_other_factor || can_recover(db, user_id).await?;
        let (pending, link_sent_at) = find_pending(&app, db, user_id).await?;
        let permissions = Permissions::of_user(db, user_id).await?;
        let context = RowContext { app: &app, session: &session, factors: &factors.0, permissions: &permissions };
        Ok(AccountPage {
            way_back,
            pending,
            link_sent_at,
            profile: rows(db, context, AccountGroup::Profile).await?,
            signing_in: rows(db, context, AccountGroup::SigningIn).await?,
            devices: rows(db, context, AccountGroup::Devices).await?,
            data: rows(db, context, AccountGroup::Data).await?,
            administration: rows(db, context, AccountGroup::Administration).await?,
        })
    };
    page.render(&app.db.read(select).await?).await
}

async fn rows(db: &mut Connection, context: RowContext<'_>, group: AccountGroup) -> Result<Vec<ShownRow>> {
    let mut rows = Vec::new();
    let is_shown =
        |row: &&AccountRow| row.group == group && row.needs.is_none_or(|needed| context.permissions.has(needed));
    for row in context.app.features.account_rows.iter().filter(is_shown) {
        let state = (row.state)(db, context).await?;
        rows.push(ShownRow { label: row.label, path: row.path, is_dangerous: row.is_dangerous, state });
    }
    Ok(rows)
}

/// The address that waits to be confirmed, and when the link for it was sent; none on a site that sends no such links.
async fn find_pending(app: &App, db: &mut Connection, user_id: &str) -> Result<(Option<String>, Option<i64>)> {
    let is_written = app.features.mails.iter().any(|(kind, _)| *kind == CONFIRM_MAIL);
    if !is_written || matches!(app.config.mail, MailDelivery::Off) {
        return Ok((None, None));
    }
    let Some(pending) = address::of_user(db, user_id).await?.pending else { return Ok((None, None)) };
    let sent_at = link::sent_at(db, Purpose::Confirm, user_id, &pending, app.config.verify_lifetime).await?;
    Ok((Some(pending), sent_at))
}

/// Whether the user has a confirmed address or a recovery code.
async fn can_recover(db: &mut Connection, user_id: &str) -> Result<bool> {
    let sql = "select (select count(*) from addresses where user_id = $1 and confirmed_at is not null) \
               + (select count(*) from recovery_codes where user_id = $1)";
    let ways: i64 = sqlx::query_scalar(sql).bind(user_id).fetch_one(db).await?;
    Ok(ways > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::recovery_code;
    use crate::test::{TestApp, check};
    use crate::web::AccountRow;

    fn page(way_back: bool, pending: Option<&str>, link_sent_at: Option<i64>, row: RowState) -> AccountPage {
        let row = ShownRow { label: "Signature", path: "/signature", is_dangerous: way_back, state: row };
        let pending = pending.map(String::from);
        let (profile, signing_in) = (Vec::from([row]), Vec::new());
        AccountPage {
            way_back,
            pending,
            link_sent_at,
            profile,
            signing_in,
            devices: Vec::new(),
            data: Vec::new(),
            administration: Vec::new(),
        }
    }

    #[test]
    fn its_page_renders() {
        let row = || RowState::new("None", "Add");
        check(&[
            page(true, None, None, row()),
            page(false, None, None, row().warning()),
            page(true, Some("ada@example.com"), None, row().at(1_777_629_600)),
            page(false, Some("ada@example.com"), Some(1_777_629_600), row()),
        ]);
    }

    async fn show_elsewhere(page: Page) -> Result<Response> {
        page.render(&self::page(true, None, None, RowState::new("None", "Add"))).await
    }

    #[tokio::test]
    async fn the_header_leads_to_the_account_and_marks_it_where_one_is_there_or_below() {
        let routes = Routes::new().get("/account/below", Access::Public, show_elsewhere);
        let app = TestApp::with(routes.get("/accountants", Access::Public, show_elsewhere)).await;
        let ada = app.person("ada").await;
        let link = |mark: &str| format!("<a class=\"user\" href=\"/account\" data-initial=\"a\"{mark}>ada</a>");
        ada.get("/account").await.assert_contains(&link(" aria-current=\"page\""));
        ada.get("/account/below").await.assert_contains(&link(" aria-current=\"true\""));
        ada.get("/accountants").await.assert_contains(&link(""));
        app.visitor().get("/accountants").await.assert_lacks("href=\"/account\"");
    }

    #[tokio::test]
    async fn the_settings_are_for_users() {
        let app = TestApp::new().await;
        app.visitor().get("/account").await.assert_redirect("/login?next=%2Faccount");
        app.person("ada").await.get("/account").await.assert_status(200).assert_contains("ada");
    }

    fn row(group: AccountGroup, place: u8, label: &'static str) -> Feature {
        let row = AccountRow::new(group, place, label, "/signature", |_, context| {
            let words = format!("-- {} of <{}>", context.has("password"), context.session.user.username);
            Box::pin(async { Ok(RowState::new(words, "Change")) })
        });
        Feature { account_row: Some(row), ..Feature::named("test") }
    }

    #[tokio::test]
    async fn a_feature_has_its_row_in_its_group_and_place_for_each_user_and_without_the_feature_there_is_none() {
        let mine = [
            row(AccountGroup::Data, 9, "Last"),
            row(AccountGroup::Profile, 2, "Second"),
            row(AccountGroup::Profile, 1, "First"),
        ];
        let app = TestApp::with_features(&[], |features| {
            features.retain(|feature| feature.account_row.is_none());
            features.extend(mine);
        });
        let app = app.await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        let page = ada.get(PATH).await;
        page.assert_contains("-- true of &lt;ada&gt;").assert_lacks("bob").assert_lacks("Signing in");
        let text = page.text();
        let order = ["Profile", "First", "Second", "Your data", "Last"].map(|words| text.find(&format!(">{words}<")));
        assert!(order.is_sorted() && order.iter().all(Option::is_some), "{page}");
        app.remove_password("bob").await;
        bob.get(PATH).await.assert_contains("-- false of &lt;bob&gt;");
        let without = TestApp::with_features(&[], |features| features.retain(|feature| feature.account_row.is_none()));
        let without = without.await;
        without.person("ada").await.get(PATH).await.assert_status(200).assert_lacks("class=\"settings\"");
    }

    #[tokio::test]
    async fn a_confirmed_address_or_a_code_is_a_way_back_and_a_pending_address_is_none() {
        let app = TestApp::new().await;
        app.person("ada").await;
        let id = app.user("ada").await;
        let has = async || app.app.db.read(async |db| can_recover(db, &id).await).await.unwrap();
        assert!(!has().await);
        app.execute("insert into addresses (user_id, email) select id, 'ada@example.com' from users").await;
        assert!(!has().await);
        app.execute("update addresses set confirmed_at = 1").await;
        assert!(has().await);
        app.execute("delete from addresses").await;
        app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap();
        assert!(has().await);
    }
}
