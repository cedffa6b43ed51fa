//! `latchkey invite`.
//! needs: home, invitations, login, signup

use crate::common::{Database, Server, command_error, command_output, sign_up_fields, wrong_use};

const INVITE: (&str, &str) = ("SIGNUPS", "invite");

#[test]
fn a_link_that_the_command_prints_lets_people_sign_up_into_a_group() {
    let database = Database::of_a_site();
    let settings = [("DATABASE_URL", &*database.url), INVITE];
    let output = command_output(&["invite", "--group", "admin", "--uses", "2", "--for", "1d"], &settings, "");
    let link = output.trim().strip_prefix("http://localhost:8000").unwrap_or_else(|| panic!("no link: {output}"));
    let token = link.strip_prefix("/invite/").unwrap_or_else(|| panic!("another link: {output}"));
    let server = Server::on(&database, &[INVITE]);
    for (name, status) in [("ada", 303), ("bob", 303), ("eve", 404)] {
        let mut browser = server.browser();
        browser.get(link).assert_status(if status == 303 { 200 } else { 404 });
        let fields = [&sign_up_fields(name)[..], &[("invite", token)]].concat();
        browser.post("/signup", &fields).assert_status(status);
    }
    assert_eq!(database.count("select count(*) from users"), 2);
    assert_eq!(database.count("select count(*) from user_groups where group_id = 'admin'"), 2);
    assert_eq!(database.count("select count(*) from events where kind = 'group_joined' and actor_id is null"), 2);
}

#[test]
fn a_link_for_an_address_is_mailed_and_not_printed() {
    let database = Database::of_a_site();
    let settings = [("DATABASE_URL", &*database.url)];
    let output = command_output(&["invite", "--email", "Ada@example.com"], &settings, "");
    assert!(output.contains("ada@example.com") && !output.contains("/invite/"), "{output}");
    let mails = "select count(*) from mails where kind = 'invitation' and email = 'ada@example.com'";
    assert_eq!(database.count(mails), 1);
    assert_eq!(database.count("select count(*) from invitations where token_hash is not null"), 0);
    let no_mail = [&settings[..], &[("SMTP_URL", "none")]].concat();
    let said = command_error(&["invite", "--email", "ada@example.com"], &no_mail, "");
    assert!(said.contains("sends no mail"), "{said}");
}

#[test]
fn an_invitation_that_could_not_work_is_not_made() {
    let database = Database::of_a_site();
    let settings = [("DATABASE_URL", &*database.url)];
    for (arguments, reason) in [
        (["--for", "91d"], "at most 90d"),
        (["--for", "a week"], "such as 7d"),
        (["--uses", "0"], "a number from 1 to 1000"),
        (["--uses", "1001"], "a number from 1 to 1000"),
        (["--group", "nowhere"], "no group called nowhere"),
    ] {
        let said = wrong_use(&[&["invite"][..], &arguments].concat(), &settings);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    let said = command_error(&["invite", "--email", "ada"], &settings, "");
    assert!(said.contains("does not look like"), "{said}");
    let said = command_error(&["invite"], &[&settings[..], &[("SIGNUPS", "closed")]].concat(), "");
    assert!(said.contains("SIGNUPS=closed"), "{said}");
    assert_eq!(database.count("select count(*) from invitations"), 0);
}
