//! In a real browser: the pages of administration, on a new site and with ten thousand people.
//! needs: admin, admin_audit, admin_groups, admin_mails, admin_users, home, invitations, login, signup

use crate::common::wait_until;
use crate::webdriver::Browser;
use crate::webdriver::site::Site;
use std::time::{SystemTime, UNIX_EPOCH};

/// The sections, and what the pictures of each are called.
const SECTIONS: [(&str, &str); 6] = [
    ("/admin", "admin"),
    ("/admin/users", "admin-users"),
    ("/admin/groups", "admin-groups"),
    ("/admin/invitations", "admin-invitations"),
    ("/admin/mails", "admin-mails"),
    ("/admin/audit", "admin-audit"),
];

/// A site on which Ada is the administrator, and logged in.
fn open() -> (Site, Browser) {
    let (site, browser) = (Site::open_with(&[("REQUIRE_TWO_FACTOR", "none")]), Browser::open());
    site.sign_up(&browser, "ada");
    site.execute("insert into user_groups (user_id, group_id) select id, 'admin' from users");
    (site, browser)
}

/// What ten thousand people leave behind in a month.
fn fill(site: &Site) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let numbers = "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 10000)";
    let has_counted = || site.count("select count(*) from daily_counts") >= 29 * 5;
    assert!(wait_until(60, has_counted), "days that are over were not counted");
    for statement in [
        "update daily_counts set count = day / 86400 * 7919 % 997".into(),
        format!(
            "insert into users (id, username, created_at, disabled_at) {numbers} select '00000000-' || n, 'person' || n, \
             {now} - n * 259, case when n % 100 = 0 then 1 end from numbers"
        ),
        format!(
            "insert into addresses (user_id, email, confirmed_at) {numbers} select '00000000-' || n, \
             'somebody.with.a.long.name' || n || '@mail.example.org', 1 from numbers"
        ),
        format!(
            "insert into events (id, user_id, kind, factors, created_at, address, device) {numbers} select 'e' || n, \
             '00000000-' || n, case n % 4 when 0 then 'signed_up' when 1 then 'log_in_failed' else 'logged_in' end, 1, \
             {now} - n * 259 - n % 7 * 9000, '203.0.113.9', 'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0' from numbers"
        ),
        format!(
            "insert into groups (id, name, created_at) {numbers} select 'g' || n, 'group-' || n, 1 from numbers where n <= 12"
        ),
        "insert into user_groups (user_id, group_id) select id, 'g1' from users".into(),
        "insert into group_permissions (group_id, permission) values ('g1', 'users.manage'), ('g2', 'of.a.removed.feature')"
            .into(),
        format!(
            "insert into mails (id, kind, user_id, email, about, created_at, due_at, attempts, failed_at, error) {numbers} \
             select 'm' || n, 'notice', '00000000-' || n, 'somebody' || n || '@mail.example.org', 'x', {now}, {now} + 90000, 3, \
             case when n % 2 = 0 then {now} end, '550 5.1.1 <somebody@mail.example.org>: Recipient address rejected: User \
             unknown in virtual mailbox table' from numbers where n <= 300"
        ),
        format!(
            "insert into invitations (id, email, group_id, uses, used, created_at, expires_at) {numbers} select 'i' || n, \
             case when n % 2 = 0 then 'guest' || n || '@mail.example.org' end, case when n % 3 = 0 then 'g1' end, n, 0, {now}, \
             {now} + 500000 from numbers where n <= 120"
        ),
    ] {
        site.execute(&statement);
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_administration_on_a_new_site_are_fit_for_everyone() {
    let (site, browser) = open();
    for (path, name) in SECTIONS {
        browser.visit(&site.page(path));
        assert_eq!(browser.status(), 200, "{path}\n{browser}");
        browser.inspect(&format!("{name}-new"));
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_administration_with_ten_thousand_people_are_fit_for_everyone() {
    let (site, browser) = open();
    fill(&site);
    for (path, name) in SECTIONS {
        browser.visit(&site.page(path));
        browser.inspect(name);
    }
    browser.visit(&site.page("/admin"));
    browser.run("document.querySelectorAll('details').forEach(details => details.open = true)");
    browser.inspect("admin-numbers");
    browser.visit(&site.page("/admin/users"));
    browser.fill("Find by username or address", "person999");
    browser.press("Find");
    browser.sees("person9999");
    browser.does_not_see("person998");
    browser.inspect("admin-users-found");
    for (path, name) in [
        ("/admin/users/00000000-1", "admin-user"),
        ("/admin/users/00000000-100", "admin-user-disabled"),
        ("/admin/users/00000000-1/disable", "admin-user-disable"),
        ("/admin/users/00000000-1/delete", "admin-user-delete"),
        ("/admin/users?state=disabled", "admin-users-disabled"),
        ("/admin/users?q=nobody", "admin-users-none"),
        ("/admin/groups/g1", "admin-group"),
        ("/admin/groups/g2", "admin-group-small"),
        ("/admin/groups/admin", "admin-group-built-in"),
        ("/admin/groups/g1/delete", "admin-group-delete"),
        ("/admin/mails/m2/delete", "admin-mail-delete"),
        ("/admin/audit?person=nobody", "admin-audit-mistake"),
    ] {
        browser.visit(&site.page(path));
        browser.inspect(name);
    }
}

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn an_administrator_shuts_somebody_out_and_in_again_with_the_buttons_of_the_page() {
    let (site, browser) = open();
    let grace = Browser::open();
    site.sign_up(&grace, "grace");
    browser.visit(&site.page("/account"));
    browser.press("Users");
    browser.press("grace");
    browser.press("Disable account…");
    browser.sees("Disable grace?");
    browser.press("Disable this account");
    browser.sees("The account is disabled.");
    grace.visit(&site.page("/"));
    grace.does_not_see("Logged in");
    browser.press("Enable account");
    browser.sees("The account is enabled again.");
}
