//! `latchkey user`: accounts are shown and changed from the command line.
//! needs: home, login, signup

use crate::common::{Database, PASSWORD, Server, command_error, command_output, wrong_use};
use serde_json::Value;

/// A site with these people.
fn site_of(names: &[&str]) -> Database {
    let database = Database::of_a_site();
    let settings = [("DATABASE_URL", &*database.url), ("PASSWORD_ITERATIONS", "1")];
    for name in names {
        let address = format!("{name}@example.com");
        command_output(&["user", "add", name, "--email", &address], &settings, &format!("{PASSWORD}\n"));
    }
    database
}

#[track_caller]
fn user(database: &Database, arguments: &[&str]) -> String {
    command_output(&[&["user"][..], arguments].concat(), &[("DATABASE_URL", &*database.url)], "")
}

#[track_caller]
fn assert_fails(database: &Database, arguments: &[&str], reason: &str) {
    let said = command_error(&[&["user"][..], arguments].concat(), &[("DATABASE_URL", &*database.url)], "");
    assert!(said.contains(reason), "{arguments:?}: {said}");
}

#[track_caller]
fn shown(database: &Database, name: &str) -> Value {
    serde_json::from_str(&user(database, &["show", name, "--json"])).unwrap()
}

#[test]
fn an_account_is_shown_for_people_and_for_programs() {
    let database = site_of(&["ada"]);
    let server = Server::on(&database, &[]);
    server.browser().log_in("ada").assert_redirect("/");
    user(&database, &["grant", "ada", "admin"]);
    let text = user(&database, &["show", "ada"]);
    for line in [
        "username     ada",
        "state        enabled",
        "addresses    ada@example.com (not confirmed)",
        "factors      password (1)",
        "groups       admin",
        "permissions  all",
        "sessions     1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing:\n{text}");
    }
    let json = shown(&database, "ada");
    assert_eq!((&json["username"], &json["sessions"]), (&"ada".into(), &1.into()), "{json}");
    assert_eq!(json["groups"], serde_json::json!(["admin"]), "{json}");
    assert_eq!(json["factors"]["password"], 1, "{json}");
    assert_eq!(json["addresses"][0]["email"], "ada@example.com", "{json}");
    let list = user(&database, &["list", "--json"]);
    let listed: Value = serde_json::from_str(list.trim()).unwrap();
    assert_eq!((&listed["id"], &listed["disabled_at"]), (&json["id"], &Value::Null), "{list}");
    assert_fails(&database, &["show", "nobody"], "No user is called nobody.");
    assert!(!text.contains("pbkdf2") && !json.to_string().contains("pbkdf2"), "{text}");
}

#[test]
fn groups_and_permissions_are_granted_and_revoked_and_the_last_administrator_stays() {
    let database = site_of(&["ada", "bob"]);
    for said in ["was granted", "had been granted before"] {
        assert!(user(&database, &["grant", "ada", "admin"]).contains(said));
    }
    for command in [&["revoke", "ada", "admin"][..], &["disable", "ada"], &["delete", "ada", "--yes"]] {
        assert_fails(&database, command, "the site would be left without an administrator");
    }
    user(&database, &["grant", "bob", "admin"]);
    for said in ["was revoked", "had not been granted"] {
        assert!(user(&database, &["revoke", "ada", "admin"]).contains(said));
    }
    assert_eq!(shown(&database, "ada")["groups"], serde_json::json!([]));
    for command in ["grant", "revoke"] {
        let said = wrong_use(&["user", command, "ada", "everything"], &[("DATABASE_URL", &*database.url)]);
        assert!(said.contains("everything is neither a group of this site nor one of the permissions"), "{said}");
        assert_fails(&database, &[command, "nobody", "admin"], "No user is called nobody.");
    }
    // A permission of a feature that is gone can still be taken.
    database.execute("insert into user_permissions (user_id, permission) select id, 'gone.see' from users");
    user(&database, &["revoke", "ada", "gone.see"]);
    assert_eq!(database.count("select count(*) from user_permissions"), 1);
    let events = "select count(*) from events where kind in ('group_joined', 'group_left', 'permission_revoked')";
    assert_eq!(database.count(events), 4);
}

#[test]
fn a_disabled_user_is_logged_out_and_can_log_in_only_when_enabled_again() {
    let database = site_of(&["ada"]);
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.log_in("ada").assert_redirect("/");
    for said in ["is now disabled", "was already disabled"] {
        assert!(user(&database, &["disable", "ada"]).contains(said));
    }
    ada.assert_logged_out();
    server.browser().log_in("ada").assert_status(422);
    assert!(user(&database, &["list"]).trim_end().ends_with("ada  disabled"));
    assert!(user(&database, &["show", "ada"]).contains("disabled since "));
    for said in ["is now enabled", "was already enabled"] {
        assert!(user(&database, &["enable", "ada"]).contains(said));
    }
    ada.assert_logged_out();
    server.browser().log_in("ada").assert_redirect("/");
}

#[test]
fn an_account_is_deleted_only_by_somebody_who_says_yes() {
    let database = site_of(&["ada", "bob"]);
    let said = wrong_use(&["user", "delete", "ada"], &[("DATABASE_URL", &*database.url)]);
    assert!(said.contains("everything in the account") && said.contains("--yes"), "{said}");
    assert_eq!(database.count("select count(*) from users"), 2);
    user(&database, &["disable", "ada"]);
    assert!(user(&database, &["delete", "ada", "--yes"]).contains("ada is deleted."));
    assert_fails(&database, &["delete", "ada", "--yes"], "No user is called ada.");
    assert_eq!(database.count("select count(*) from users"), 1);
    assert_eq!(database.count("select count(*) from events where kind = 'deleted_by_admin' and actor_id is null"), 1);
    // The name is reserved.
    let settings = [("DATABASE_URL", &*database.url), ("PASSWORD_ITERATIONS", "1")];
    command_error(&["user", "add", "ada"], &settings, &format!("{PASSWORD}\n"));
}
