//! The log says what happened, and contains no secret.
//! needs: home, login, signup

use crate::common::{PASSWORD, Server, routes};
use rustix::process::Signal;

#[test]
fn the_log_tells_what_happened_and_no_secret() {
    let mut server = Server::start(&[("RUST_LOG", "debug,latchkey=trace")]);
    let mut ada = server.browser();
    let mut secrets = vec![PASSWORD.to_string(), "a wrong guess".into(), "$pbkdf2".into()];
    secrets.extend(["pathtoken", "querytoken", "unknowntoken"].map(String::from));
    ada.sign_up("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    ada.assert_logged_in("ada");
    ada.post("/logout", &[]).assert_redirect("/");
    ada.log_in_with("ada", "a wrong guess").assert_status(422);
    // People do type their password into the wrong field.
    ada.log_in(PASSWORD).assert_status(422);
    ada.log_in("ada").assert_redirect("/");
    secrets.extend(ada.cookies().values().cloned());
    for route in routes().iter().filter(|route| route.method == "GET" && route.path.contains('{')) {
        let (before, rest) = route.path.split_once('{').unwrap();
        let (_, after) = rest.split_once('}').unwrap();
        let answer = ada.get(&format!("{before}pathtoken{after}"));
        assert!(answer.status < 500, "{answer}");
    }
    ada.get("/nowhere/unknowntoken").assert_status(404);
    ada.post("/logout", &[]).assert_redirect("/");
    ada.get("/login?next=/querytoken").assert_status(200);
    assert!(secrets.len() >= 8, "no cookies were seen: {secrets:?}");

    server.signal(Signal::TERM);
    server.wait_for_exit(10);
    let log = server.stdout() + &server.stderr();
    for shown in ["/login", "status=422", "status=303", "insert into users"] {
        assert!(log.contains(shown), "{shown} is not in the log:\n{log}");
    }
    let form_encoded = |secret: &str| secret.replace(' ', "+");
    for secret in secrets {
        let told = log.lines().find(|line| line.contains(&secret) || line.contains(&form_encoded(&secret)));
        assert_eq!(told, None, "{secret} is in the log");
    }
}
