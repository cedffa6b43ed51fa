//! What an administrator can do to somebody's account.

use super::list;
use super::request::{FactorForm, UserRequest};
use crate::accounts::event::{self, Cause};
use crate::accounts::link::RESET_MAIL;
use crate::accounts::session::lifecycle;
use crate::accounts::{Event, Permissions, address, disabling, group, recovery_code, user};
use crate::base::{Error, Result};
use crate::db::Connection;
use crate::db::rate_limit::{self, Key};
use crate::mail::outbox;
use crate::web::{Empty, Factor, FactorCounts, Flash, Form, Redirect, redirect, require_cover};
use std::collections::BTreeMap;

pub const SESSIONS_ENDED: Event = Event::named("admin_ended_sessions", "An administrator ended your sessions")
    .caused_by(Cause::Administrator)
    .with_notice("You were logged out everywhere", "An administrator ended your sessions. You can log in again.");
pub const RESET_MAILED: Event =
    Event::named("admin_mailed_reset", "An administrator sent you a link to choose a new password")
        .caused_by(Cause::Administrator);
pub const FACTOR_REMOVED: Event = Event::named("admin_removed_factor", "An administrator removed a way to log in")
    .caused_by(Cause::Administrator)
    .with_notice(
        "A way to log in to your account was removed",
        "An administrator removed it and ended your sessions. If you did not ask for that, tell the people who run the site.",
    );

pub const FLASHES: &[Flash] = &[LOGGED_OUT, MAIL_SENT, NOT_SENT, SAVED, DISABLED, ENABLED, REMOVED, DELETED];

const LOGGED_OUT: Flash = Flash { name: "user_logged_out", words: "This person is logged out everywhere." };
const MAIL_SENT: Flash = Flash { name: "reset_mailed", words: "A link to choose a new password is on its way." };
const NOT_SENT: Flash = Flash { name: "reset_not_mailed", words: "No mail was sent. See below why there can be none." };
const SAVED: Flash = Flash { name: "groups_saved", words: "Groups saved." };
const DISABLED: Flash = Flash { name: "user_disabled", words: "The account is disabled." };
const ENABLED: Flash = Flash { name: "user_enabled", words: "The account is enabled again." };
const REMOVED: Flash = Flash { name: "factor_removed", words: "Removed. This person is logged out everywhere." };
const DELETED: Flash = Flash { name: "user_deleted", words: "The account is deleted." };

pub async fn log_out(request: UserRequest, _: Form<Empty>) -> Result<Redirect> {
    let end_sessions = async |db: &mut Connection, _: &Permissions| {
        if !lifecycle::revoke_all(db, &request.id).await? {
            return Ok(());
        }
        event::record(db, &*request.id, SESSIONS_ENDED.by_actor(request.actor())).await
    };
    request.change(end_sessions).await?;
    Ok(request.back(LOGGED_OUT))
}

pub async fn send_reset_mail(request: UserRequest, _: Form<Empty>) -> Result<Redirect> {
    let is_queued = request.change(async |db, _| queue_reset_mail(db, &request).await).await?;
    Ok(request.back(if is_queued { MAIL_SENT } else { NOT_SENT }))
}

/// Nobody chooses the password of somebody else: the link goes to the confirmed address. Returns whether there is one, and
/// the account may get mail.
async fn queue_reset_mail(db: &mut Connection, request: &UserRequest) -> Result<bool> {
    let (app, id) = (&request.app, &*request.id);
    if !request.sends_resets() || user::lock(db, id).await?.is_none() {
        return Ok(false);
    }
    let Some(email) = address::of_user(db, id).await?.confirmed else { return Ok(false) };
    rate_limit::take(db, &Key::new("reset_by_admin", id), app.config.mails_per_account).await?;
    outbox::queue(db, RESET_MAIL, Some(id), &email, "").await?;
    event::record(db, id, RESET_MAILED.by_actor(request.actor())).await?;
    Ok(true)
}

/// The groups that are checked, as fields `group.ID`, are those that the person is in afterwards.
pub async fn set_groups(request: UserRequest, Form(checked): Form<BTreeMap<String, String>>) -> Result<Redirect> {
    let set = async |db: &mut Connection, own: &Permissions| {
        let joined = group::of_user(db, &request.id).await?;
        for group in group::all(db).await? {
            let is_checked = checked.contains_key(&format!("group.{}", group.id));
            if is_checked == joined.contains(&group) {
                continue;
            }
            require_cover(own, &Permissions::of_group(db, &group.id).await?)?;
            match is_checked {
                true => group::join(db, &request.id, &group, request.actor()).await?,
                false => group::leave(db, &request.id, &group, request.actor()).await?,
            };
        }
        Ok(())
    };
    request.change(set).await?;
    Ok(request.back(SAVED))
}

pub async fn disable(request: UserRequest, _: Form<Empty>) -> Result<Redirect> {
    request.change(async |db, _| disabling::disable(db, &request.id, request.actor()).await).await?;
    Ok(request.back(DISABLED))
}

pub async fn enable(request: UserRequest, _: Form<Empty>) -> Result<Redirect> {
    request.change(async |db, _| disabling::enable(db, &request.id, request.actor()).await).await?;
    Ok(request.back(ENABLED))
}

pub async fn remove_factor(request: UserRequest, Form(form): Form<FactorForm>) -> Result<Redirect> {
    request.refuse_own()?;
    let factor = form.find(&request.app)?;
    request.change(async |db, _| remove(db, &request, factor).await).await?;
    Ok(request.back(REMOVED))
}

const ONLY_WAY: &str = "This is the only way in which this person can log in. They need a password first.";

async fn remove(db: &mut Connection, request: &UserRequest, factor: &Factor) -> Result<()> {
    let (app, id) = (&request.app, &*request.id);
    if FactorCounts::of_user(app, db, id).await?.get(factor.name) == 0 {
        return Ok(());
    }
    // All of them, since the beginning of time.
    sqlx::query(factor.undo).bind(id).bind(0_i64).execute(&mut *db).await?;
    let left = FactorCounts::of_user(app, db, id).await?;
    if left.login_methods(app) == 0 {
        return Err(Error::Forbidden(ONLY_WAY));
    }
    if !left.has_second_factor(app) {
        recovery_code::delete_all(db, id).await?;
    }
    lifecycle::revoke_all(db, id).await?;
    event::record(db, id, FACTOR_REMOVED.by_actor(request.actor()).about(factor.label)).await
}

pub async fn delete(request: UserRequest, _: Form<Empty>) -> Result<Redirect> {
    request.refuse_own()?;
    let delete = async |db: &mut Connection, _: &Permissions| {
        let deleted_by = user::DELETED_BY_ADMIN.by_actor(request.actor());
        user::delete(db, &request.id, request.app.config.name_rest, deleted_by).await
    };
    request.change(delete).await?;
    Ok(redirect(list::PATH).flash(DELETED))
}

#[cfg(test)]
mod tests {
    use super::super::feature;
    use super::*;
    use crate::accounts::link::{self, Purpose};
    use crate::accounts::{AuthLevel, Choices, Username};
    use crate::base::Env;
    use crate::features::Feature;
    use crate::test::{Answer, PASSWORD, SECOND_FACTOR, TestApp, Visitor};
    use crate::web::Routes;
    use axum::http::Method;

    /// An administrator.
    async fn boss(app: &TestApp) -> Visitor {
        let boss = app.person("boss").await;
        app.make_admin("boss").await;
        boss
    }

    /// Somebody who may see and change other people's accounts, and no more.
    async fn manager(app: &TestApp) -> Visitor {
        let manager = app.person("zoe").await;
        app.grant("zoe", "users.manage").await;
        manager
    }

    async fn press(app: &TestApp, by: &Visitor, name: &str, button: &str, fields: &[(&str, &str)]) -> Answer {
        by.post(&format!("/admin/users/{}/{button}", app.user(name).await), fields).await
    }

    /// Notices to ada of what an administrator has done.
    const MAILED: &str = "select count(*) from mails m join events e on e.id = m.about \
                          where m.kind = 'notice' and m.email = 'ada@example.com' and e.kind like 'admin_%'";

    /// What the next page says.
    async fn said(by: &Visitor) -> String {
        let page = by.get("/admin/users").await.text();
        page.split("role=\"status\">").nth(1).unwrap_or_default().split('<').next().unwrap_or_default().to_string()
    }

    #[tokio::test]
    async fn an_administrator_logs_somebody_out_everywhere_and_they_are_told() {
        let app = TestApp::new().await;
        let (boss, ada, eve) = (boss(&app).await, app.person("ada").await, app.person("eve").await);
        app.confirm_address("ada", "ada@example.com").await;
        for _ in 0..2 {
            let answer = press(&app, &boss, "ada", "log-out", &[]).await;
            answer.assert_redirect(&format!("/admin/users/{}", app.user("ada").await));
        }
        ada.assert_is("nobody").await;
        eve.assert_is("eve").await;
        let recorded = "select count(*) from events e join users u on u.id = e.user_id join users a on a.id = e.actor_id \
                        where e.kind = 'admin_ended_sessions' and u.username = 'ada' and a.username = 'boss' \
                        and e.address is null and e.device is null";
        assert_eq!(app.count(recorded).await, 1);
        assert_eq!(app.count(MAILED).await, 1);
        // Invitations end with it, too.
        app.execute(
            "insert into invitations (id, uses, used, created_by, created_at, expires_at) \
             select 'i', 1, 0, id, 1, 9999999999 from users where username = 'ada'",
        )
        .await;
        press(&app, &boss, "ada", "log-out", &[]).await.assert_status(303);
        assert_eq!(app.count("select count(*) from invitations").await, 0);
        assert_eq!(app.count(recorded).await, 2);
    }

    #[tokio::test]
    async fn nobody_chooses_anothers_password_but_its_owner_is_mailed_a_link() {
        let app = TestApp::with_feature(
            &[("MAILS_PER_ACCOUNT", "2/1h")],
            Feature { reset_path: Some("/reset/{token}"), ..Feature::named("test") },
        )
        .await;
        let (boss, _ada) = (boss(&app).await, app.person("ada").await);
        const MAILS: &str = "select count(*) from mails where kind = 'password_reset' and email = 'ada@example.com' \
                             and user_id = (select id from users where username = 'ada')";
        app.execute(
            "insert into addresses (user_id, email) select id, 'ada@example.com' from users where username = 'ada'",
        )
        .await;
        press(&app, &boss, "ada", "reset-mail", &[("password", "quiet harbour lamp")]).await.assert_status(303);
        assert!(said(&boss).await.contains("No mail was sent"));
        let page = boss.get(&format!("/admin/users/{}", app.user("ada").await)).await;
        page.assert_contains("Without a confirmed address, there is nowhere");
        assert_eq!(app.count("select count(*) from mails").await, 0);
        app.execute("update addresses set confirmed_at = 1").await;
        for _ in 0..2 {
            press(&app, &boss, "ada", "reset-mail", &[]).await.assert_status(303);
        }
        assert!(said(&boss).await.contains("on its way"));
        press(&app, &boss, "ada", "reset-mail", &[]).await.assert_status(429);
        assert_eq!(app.count(MAILS).await, 2);
        assert_eq!(app.count("select count(*) from events where kind = 'admin_mailed_reset'").await, 2);
        assert!(app.is_password_of("ada", PASSWORD).await);
        let id = app.user("ada").await;
        app.disable("ada").await;
        boss.post(&format!("/admin/users/{id}/reset-mail"), &[]).await.assert_status(303);
        let page = boss.get(&format!("/admin/users/{id}")).await;
        page.assert_contains("No mail was sent")
            .assert_contains("A disabled account gets no link")
            .assert_lacks("Mail a link");
    }

    #[tokio::test]
    async fn a_site_that_sends_no_mail_says_so_in_place_of_a_link() {
        let app = TestApp::with_env(&[("SMTP_URL", "none")], Routes::new()).await;
        let (boss, _ada) = (boss(&app).await, app.person("ada").await);
        app.confirm_address("ada", "ada@example.com").await;
        press(&app, &boss, "ada", "reset-mail", &[]).await.assert_status(303);
        assert_eq!(app.count("select count(*) from mails where kind = 'password_reset'").await, 0);
        let page = boss.get(&format!("/admin/users/{}", app.user("ada").await)).await;
        page.assert_contains("No mail was sent")
            .assert_contains("This site does not mail links")
            .assert_lacks("Mail a link");
    }

    /// Two groups: one whose members may do nothing more, and one whose members may read what happened.
    async fn groups(app: &TestApp) {
        app.execute("insert into groups (id, name, created_at) values ('s', 'staff', 1), ('r', 'readers', 1)").await;
        app.execute("insert into group_permissions (group_id, permission) values ('r', 'other.read')").await;
    }

    #[tokio::test]
    async fn the_groups_that_are_checked_are_those_that_somebody_is_in_afterwards() {
        let app = TestApp::new().await;
        let (boss, _ada) = (boss(&app).await, app.person("ada").await);
        groups(&app).await;
        let joined = async || {
            app.count("select count(*) from user_groups where user_id = (select id from users where username = 'ada')")
                .await
        };
        press(&app, &boss, "ada", "groups", &[("group.s", "on"), ("group.r", "on"), ("group.x", "on")]).await;
        assert_eq!(joined().await, 2);
        for _ in 0..2 {
            press(&app, &boss, "ada", "groups", &[("group.s", "on"), ("group", "admin")]).await.assert_status(303);
        }
        assert_eq!(joined().await, 1);
        const RECORDED: &str = "select count(*) from events where kind in ('group_joined', 'group_left') \
                                and actor_id = (select id from users where username = 'boss')";
        assert_eq!(app.count(RECORDED).await, 3);
    }

    #[tokio::test]
    async fn a_group_that_lets_people_do_more_than_the_administrator_is_not_given() {
        let app = TestApp::new().await;
        let (zoe, _ada) = (manager(&app).await, app.person("ada").await);
        groups(&app).await;
        for group in ["group.r", "group.admin"] {
            let answer = press(&app, &zoe, "ada", "groups", &[("group.s", "on"), (group, "on")]).await;
            answer.assert_status(403).assert_contains("You can only give or take permissions that you have yourself.");
        }
        assert_eq!(app.count("select count(*) from user_groups").await, 0);
        press(&app, &zoe, "ada", "groups", &[("group.s", "on")]).await.assert_status(303);
        assert_eq!(app.count("select count(*) from user_groups").await, 1);
    }

    #[tokio::test]
    async fn somebody_with_this_permission_alone_does_not_become_an_administrator_nor_harms_one() {
        let app = TestApp::new().await;
        let (_zoe, boss, _ada) = (manager(&app).await, boss(&app).await, app.person("ada").await);
        app.confirm_address("boss", "boss@example.com").await;
        groups(&app).await;
        let own = [("group", "admin"), ("role", "admin"), ("is_admin", "1"), ("user_id", "x"), ("permission", "*")];
        for name in ["zoe", "ada"] {
            for fields in
                [&[("group.admin", "on")][..], &[("group.r", "on")], &[("group.s", "on"), ("group.admin", "on")]]
            {
                press(&app, &app.browser_of("zoe").await, name, "groups", fields).await.assert_status(403);
            }
            for button in ["groups", "enable", "log-out"] {
                press(&app, &app.browser_of("zoe").await, name, button, &own).await.assert_status(303);
            }
        }
        let zoe = app.browser_of("zoe").await;
        let factor = app.app.features.factors.first().map_or("code", |factor| factor.name);
        for (button, fields) in [
            ("groups", &[][..]),
            ("groups", &[("group.admin", "on")]),
            ("log-out", &[]),
            ("reset-mail", &[]),
            ("disable", &[]),
            ("enable", &[]),
            ("delete", &[]),
            ("remove-factor", &[("factor", factor)]),
        ] {
            let answer = press(&app, &zoe, "boss", button, fields).await;
            let is_known = button != "remove-factor" || !app.app.features.factors.is_empty();
            answer.assert_status(if is_known { 403 } else { 404 });
        }
        boss.assert_is("boss").await;
        // Whoever could do more before being disabled cannot be enabled by others than before.
        app.person("root2").await;
        app.make_admin("root2").await;
        let id = app.user("root2").await;
        app.disable("root2").await;
        zoe.post(&format!("/admin/users/{id}/enable"), &[]).await.assert_status(403);
        const ADMINS: &str = "select count(*) from user_groups where group_id = 'admin'";
        assert_eq!(app.count(ADMINS).await, 2);
        assert_eq!(app.count("select count(*) from user_permissions where permission <> 'users.manage'").await, 0);
        assert_eq!(app.count("select count(*) from mails").await, 0);
    }

    /// A factor whose rows are tokens.
    const APP: Factor = Factor {
        name: "app",
        label: "App",
        count: "select count(*) from tokens where user_id = $1 and purpose = 'app'",
        undo: "delete from tokens where user_id = $1 and expires_at >= $2 and purpose = 'app'",
        next: |_, _, _, _| Box::pin(std::future::ready(Ok(None))),
        ..SECOND_FACTOR
    };

    /// A site with this factor alone, which ada has, besides a recovery code and a confirmed address.
    async fn with_factor(factor: Factor) -> TestApp {
        let feature = Feature { factor: Some(factor), ..Feature::named("test") };
        let app = TestApp::with_features(&[], |features| {
            features.iter_mut().for_each(|feature| feature.factor = None);
            features.insert(0, feature);
        })
        .await;
        app.person("ada").await;
        app.confirm_address("ada", "ada@example.com").await;
        app.execute(
            "insert into tokens (token_hash, purpose, user_id, expires_at) select 'x', 'app', id, 1 from users",
        )
        .await;
        app.execute("insert into recovery_codes (code_hash, user_id) select 'x', id from users").await;
        app
    }

    #[tokio::test]
    async fn a_second_factor_that_was_lost_is_removed_with_the_recovery_codes_and_its_owner_is_told() {
        let app = with_factor(APP).await;
        let (boss, ada) = (boss(&app).await, app.browser_of("ada").await);
        boss.get(&format!("/admin/users/{}", app.user("ada").await)).await.assert_contains("remove-factor?factor=app");
        press(&app, &boss, "ada", "remove-factor", &[("factor", "nonsense")]).await.assert_status(404);
        for _ in 0..2 {
            press(&app, &boss, "ada", "remove-factor", &[("factor", "app")]).await.assert_status(303);
        }
        ada.assert_is("nobody").await;
        assert_eq!(app.count("select count(*) from tokens where purpose = 'app'").await, 0);
        assert_eq!(app.count("select count(*) from recovery_codes").await, 0);
        const RECORDED: &str = "select count(*) from events where kind = 'admin_removed_factor' and about = 'App' \
                                and actor_id = (select id from users where username = 'boss')";
        assert_eq!(app.count(RECORDED).await, 1);
        assert_eq!(app.count(MAILED).await, 1);
        assert!(app.is_password_of("ada", PASSWORD).await);
    }

    #[tokio::test]
    async fn the_only_way_to_log_in_and_an_own_factor_are_not_removed() {
        let app = with_factor(Factor { suffices: true, ..APP }).await;
        let boss = boss(&app).await;
        app.remove_password("ada").await;
        let refused = press(&app, &boss, "ada", "remove-factor", &[("factor", "app")]).await;
        refused.assert_status(403).assert_contains("the only way in which this person can log in");
        let own = press(&app, &boss, "boss", "remove-factor", &[("factor", "app")]).await;
        own.assert_status(403).assert_contains("your own account");
        assert_eq!(app.count("select count(*) from tokens where purpose = 'app'").await, 1);
        assert_eq!(app.count("select count(*) from events where kind = 'admin_removed_factor'").await, 0);
    }

    #[tokio::test]
    async fn an_account_is_deleted_but_not_ones_own() {
        let app = TestApp::new().await;
        let (boss, ada, eve) = (boss(&app).await, app.person("ada").await, app.person("eve").await);
        let id = app.user("ada").await;
        press(&app, &boss, "ada", "delete", &[]).await.assert_redirect("/admin/users");
        assert!(said(&boss).await.contains("deleted"));
        ada.assert_is("nobody").await;
        eve.assert_is("eve").await;
        for button in ["delete", "disable", "enable", "log-out", "groups", "reset-mail"] {
            boss.post(&format!("/admin/users/{id}/{button}"), &[]).await.assert_status(404);
        }
        const RECORDED: &str = "select count(*) from events where kind = 'deleted_by_admin' \
                                and actor_id = (select id from users where username = 'boss')";
        assert_eq!(app.count(RECORDED).await, 1);
        press(&app, &boss, "boss", "delete", &[]).await.assert_status(403).assert_contains("your account page");
        boss.assert_is("boss").await;
    }

    #[tokio::test]
    async fn the_last_administrator_is_neither_disabled_nor_removed_from_the_group() {
        let app = TestApp::new().await;
        let boss = boss(&app).await;
        press(&app, &boss, "boss", "disable", &[]).await.assert_status(409).assert_contains("needs an administrator");
        press(&app, &boss, "boss", "groups", &[]).await.assert_status(409).assert_contains("needs an administrator");
        app.person("ada").await;
        app.make_admin("ada").await;
        // Whoever may see the page no more is led to the own account.
        press(&app, &boss, "boss", "groups", &[]).await.assert_redirect("/account");
        boss.get("/admin/users").await.assert_status(404);
    }

    const ADMINS: &str = "select count(*) from user_groups m join users u on u.id = m.user_id \
                          where m.group_id = 'admin' and u.disabled_at is null";

    #[tokio::test]
    async fn of_two_administrators_who_demote_each_other_one_stays() {
        let app = TestApp::new().await;
        let (ada, bob) = (app.person("ada").await, app.person("bob").await);
        for _ in 0..20 {
            app.make_admin("ada").await;
            app.make_admin("bob").await;
            let answers =
                tokio::join!(press(&app, &ada, "bob", "groups", &[]), press(&app, &bob, "ada", "groups", &[]));
            let mut statuses = [answers.0.status, answers.1.status];
            statuses.sort();
            assert_eq!(statuses, [303, 404]);
            assert_eq!(app.count(ADMINS).await, 1);
        }
    }

    #[tokio::test]
    async fn of_two_administrators_one_who_deletes_the_account_and_one_who_is_disabled_one_stays() {
        let app = TestApp::new().await;
        app.person("bob").await;
        app.make_admin("bob").await;
        let (bob, client) = (app.user("bob").await, app.login().await.client);
        for round in 0..20 {
            let name = format!("ada{round}");
            let ada = app.person(&name).await;
            app.make_admin(&name).await;
            let id = app.user(&name).await;
            let delete = async |db: &mut Connection| {
                user::delete(db, &id, app.app.config.name_rest, user::DELETED.by(&client)).await
            };
            let path = format!("/admin/users/{bob}/disable");
            let (deleted, disabled) = tokio::join!(app.app.db.write(delete), ada.post(&path, &[]));
            assert!(deleted.is_ok() != (disabled.status == 303 && disabled.header("location").starts_with("/admin")));
            assert_eq!(app.count(ADMINS).await, 1);
            app.execute("delete from users where username <> 'bob'").await;
            app.execute("update users set disabled_at = null").await;
        }
    }

    #[tokio::test]
    async fn nothing_of_a_disabled_person_works_and_what_was_ended_stays_so() {
        let feature = Feature { factor: Some(SECOND_FACTOR), ..Feature::named("test") };
        let app = TestApp::with_feature(&[], feature).await;
        let (boss, ada, half) = (boss(&app).await, app.person("ada").await, app.visitor());
        app.confirm_address("ada", "ada@example.com").await;
        let id = app.user("ada").await;
        half.post("/test/log-in", &[("username", "ada"), ("password", PASSWORD)]).await.assert_redirect("/second");
        let codes = app.app.db.write(async |db| recovery_code::replace(db, &id).await).await.unwrap();
        let undo = async |db: &mut Connection| {
            let lifetime = app.app.config.undo_lifetime;
            let mut tokens = Vec::new();
            for purpose in [Purpose::Undo, Purpose::Reset] {
                tokens.push((purpose, link::issue(db, purpose, &id, "ada@example.com", "", lifetime).await?.text()));
            }
            outbox::queue(db, RESET_MAIL, Some(&id), "ada@example.com", "").await?;
            Ok(tokens)
        };
        let links = app.app.db.write(undo).await.unwrap();
        boss.post(&format!("/admin/users/{id}/disable"), &[]).await.assert_redirect(&format!("/admin/users/{id}"));
        assert_eq!(app.count("select count(*) from mails").await, 1);
        assert_eq!(app.count("select count(*) from mails where kind = 'notice_to_disabled'").await, 1);

        let login = app.login().await;
        let choices = Choices { stay: false, next: "/".into() };
        let nothing_works = async |when: &str| {
            ada.assert_is("nobody").await;
            let tokens =
                app.count("select count(*) from tokens where user_id = (select id from users where username = 'ada')");
            assert_eq!(tokens.await, 0, "{when}");
            for (purpose, token) in &links {
                let found = app.app.db.read(async |db| link::find(db, *purpose, token).await).await;
                assert!(found.is_err(), "{when}");
            }
        };
        nothing_works("disabled").await;
        assert!(!app.is_password_of("ada", PASSWORD).await);
        let in_by_code = app
            .app
            .db
            .write(async |db| recovery_code::use_by_name(db, &Username::parse("ada").unwrap(), &codes[0]).await);
        assert_eq!(in_by_code.await.unwrap(), None);
        let logged_in = app.app.db.write(async |db| login.log_in(db, &id, AuthLevel::TwoFactors, &choices).await).await;
        assert!(!matches!(logged_in, Ok(Some(_))));

        boss.post(&format!("/admin/users/{id}/enable"), &[]).await.assert_status(303);
        nothing_works("enabled").await;
        assert!(app.is_password_of("ada", PASSWORD).await);
        app.browser_of("ada").await.assert_is("ada").await;
        const RECORDED: &str = "select count(*) from events where kind in ('disabled', 'enabled') \
                                and actor_id = (select id from users where username = 'boss')";
        assert_eq!(app.count(RECORDED).await, 2);
    }

    #[tokio::test]
    async fn without_the_permission_every_page_is_what_an_unknown_path_is() {
        let app = TestApp::new().await;
        let (ada, old) = (app.person("ada").await, app.browser_of("ada").await);
        app.execute("update sessions set confirmed_at = 0 where id = (select max(id) from sessions)").await;
        app.grant("ada", "other.read").await;
        let id = app.user("ada").await;
        for route in feature(&Env::default()).unwrap().routes.iter() {
            for path in [route.example_path(), route.path.replace("{id}", &id)] {
                let unknown = path.replace("/admin/users", "/admin/userz");
                for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
                    for person in [&ada, &old] {
                        let form: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];
                        let [page, nothing] = [
                            person.send(method.clone(), &path, form, "group.admin=on").await,
                            person.send(method.clone(), &unknown, form, "group.admin=on").await,
                        ];
                        let plain = |answer: &Answer| {
                            let mut headers = answer.headers.clone();
                            headers.remove("server-timing");
                            (answer.status, headers, answer.text().replace("/admin/userz", "/admin/users"))
                        };
                        assert_eq!(plain(&page), plain(&nothing), "{method} {path}");
                        assert_eq!(page.status, 404);
                    }
                }
            }
        }
        app.visitor().get("/admin/users").await.assert_redirect("/login?next=%2Fadmin%2Fusers");
    }

    #[tokio::test]
    async fn changes_need_a_recent_log_in() {
        let app = TestApp::new().await;
        let (boss, ada) = (boss(&app).await, app.person("ada").await);
        app.execute("update sessions set confirmed_at = 0").await;
        for route in feature(&Env::default()).unwrap().routes.iter().filter(|route| route.method == Method::POST) {
            let path = route.path.replace("{id}", &app.user("ada").await);
            assert!(boss.post(&path, &[("factor", "code")]).await.header("location").starts_with("/confirm?next="));
        }
        ada.assert_is("ada").await;
    }
}
