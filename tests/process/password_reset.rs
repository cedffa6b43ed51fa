//! The way back for people who forget their password and have neither an address nor recovery codes.
//! needs: home, login, password_reset, signup

use crate::common::{Database, NEW_PASSWORD, Server, command_error, command_output, password_fields};

#[test]
fn a_user_who_cannot_recover_gets_a_link_from_the_operator() {
    let database = Database::new();
    let server = Server::on(&database, &[]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let site = format!("http://localhost:{}", server.port);
    let settings = [("DATABASE_URL", &*database.url), ("BASE_URL", &site)];
    let link = command_output(&["user", "reset-link", "ada"], &settings, "");
    let path = link.trim().strip_prefix(&site).unwrap();
    server.browser().get(path).assert_status(200).assert_contains("ada");
    server.browser().post(path, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    ada.assert_logged_out();
    server.browser().log_in_with("ada", NEW_PASSWORD).assert_redirect("/");
    server.browser().get(path).assert_status(404);
    for (name, reason) in [("nobody", "called nobody"), ("not a name", "letters")] {
        let said = command_error(&["user", "reset-link", name], &settings, "");
        assert!(said.contains(reason), "{said}");
    }
}
