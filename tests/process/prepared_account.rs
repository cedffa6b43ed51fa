//! Somebody signs up with another person's address, and prepares the account to get back into it.
//! needs: email, home, login, password_reset, recovery_codes, signup

use crate::common::{NEW_PASSWORD, PASSWORD, password_fields, site_with_mail};

#[test]
fn nothing_that_was_prepared_opens_the_account_once_the_owner_of_the_address_has_removed_it() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut mallory = server.browser();
    mallory.sign_up_with_address("ada").assert_redirect("/");
    let codes = mallory.make_recovery_codes();
    let mut pending = server.browser();
    let answer = pending.post("/recovery", &[("username", "ada"), ("code", &codes[0])]);
    let opened = answer.assert_status(303).header("location").unwrap().to_string();
    server.browser().get(&opened).assert_status(200);

    let link = smtp.take_mail("ada@example.com", "/email/").link("/email/");
    let mut ada = server.browser();
    ada.get(&link).assert_contains("9 recovery codes");
    // Nobody who has not decided confirms anything, and who has no password cannot keep it.
    ada.post(&link, &[]).assert_redirect(&link);
    ada.post(&link, &[("keep", "yes")]).assert_status(303);
    assert_eq!(database.count("select count(*) from addresses where confirmed_at is not null"), 0);
    // What the address does not open yet: a reset is mailed to confirmed ones only.
    ada.post("/password-reset", &[("email", "ada@example.com")]).assert_redirect("/password-reset");

    let answer = ada.post(&link, &[("remove", "yes")]);
    let choose = answer.assert_status(303).header("location").unwrap().to_string();
    mallory.assert_logged_out();
    for path in [&opened, &link] {
        server.browser().get(path).assert_status(404);
        server.browser().post(path, &password_fields("violet lantern thief")).assert_status(404);
    }
    for code in &codes {
        server.browser().post("/recovery", &[("username", "ada"), ("code", code)]).assert_status(422);
    }
    mallory.log_in_with("ada", PASSWORD).assert_status(422);
    ada.post(&choose, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    mallory.log_in_with("ada", PASSWORD).assert_status(422);
    ada.log_in_with("ada@example.com", NEW_PASSWORD).assert_redirect("/");
    ada.assert_logged_in("ada");
}

#[test]
fn a_reset_takes_nothing_from_an_account_whose_address_was_proven_before() {
    let (database, smtp, server) = site_with_mail(&[]);
    let mut ada = smtp.person(&server, "ada");
    ada.make_recovery_codes();
    server.browser().post("/password-reset", &[("email", "ada@example.com")]).assert_redirect("/password-reset");
    let link = smtp.take_mail("ada@example.com", "/password-reset/").link("/password-reset/");
    server.browser().post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    ada.assert_logged_out();
    assert_eq!(database.count("select count(*) from recovery_codes"), 10);
}
