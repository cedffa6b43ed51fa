//! Logging in with an authenticator app, at two processes: a code works once, and wrong codes count together.
//! needs: account, confirm, delete_account, home, login, password_reset, recovery_codes, signup, two_factor

use crate::common::{
    Answer, Browser, Database, KEY, NEW_PASSWORD, PASSWORD, Process, Server, Signal, command_error, command_output,
    form, latchkey, password_fields, run_alone, send_at_once, wait_until,
};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret, Totp};

/// A setting: a key that is missing is not looked for.
const LOST: (&str, &str) = ("SECRET_KEY_LOST", "yes");

fn pair(database: &Database) -> [Server; 2] {
    Server::pair(database, &[KEY])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Waits until the current step of 30 s lasts long enough for a test to use its code and the one before.
fn wait_for_step() {
    while now() % 30 > 20 {
        sleep(Duration::from_millis(100));
    }
}

/// An authenticator app, and the recovery codes that came with it.
pub struct Phone {
    key: String,
    totp: Totp,
    pub recovery_codes: Vec<String>,
}

impl Phone {
    /// Turns two-factor log-in on with the code of the step before, so that the current code is still unused.
    #[track_caller]
    pub fn set_up(browser: &mut Browser) -> Phone {
        wait_for_step();
        let key = begin_set_up(browser);
        let totp = Builder::new().with_secret(Secret::try_from_base32(&key).unwrap()).build().unwrap();
        let code = totp.generate(now() - 30).to_string();
        send(browser, CONFIRM, &code).assert_redirect("/account/recovery-codes");
        Phone { key, totp, recovery_codes: browser.get("/account/recovery-codes").recovery_codes() }
    }

    pub fn code(&self) -> String {
        self.totp.generate(now()).to_string()
    }

    /// Six digits that are no code at about this time.
    fn wrong(&self) -> String {
        let right: Vec<_> = (0..10).map(|step| self.totp.generate(now() - 150 + 30 * step).to_string()).collect();
        (0..).map(|number| format!("{number:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

const CONFIRM: &str = "/account/two-factor/confirm";

/// Returns the key that the page shows for typing.
#[track_caller]
fn begin_set_up(browser: &mut Browser) -> String {
    browser.post("/account/two-factor/start", &[]).assert_redirect(CONFIRM);
    let page = browser.get(CONFIRM);
    let (_, rest) = page.body.split_once("<code id=\"totp-key\">").unwrap_or_else(|| panic!("no key: {page}"));
    rest.split('<').next().unwrap().replace(' ', "")
}

pub fn send(browser: &mut Browser, path: &str, code: &str) -> Answer {
    browser.post(path, &[("code", code)])
}

/// A browser in which Ada has entered her password but no code.
#[track_caller]
pub fn enter_password(server: &Server) -> Browser {
    let mut browser = server.browser();
    browser.log_in("ada").assert_redirect(LOG_IN);
    assert!(!browser.cookies().contains_key("session_token"));
    browser
}

pub const LOG_IN: &str = "/login/two-factor";

#[test]
fn a_log_in_begun_at_one_process_is_completed_at_the_other_and_until_then_one_is_nobody() {
    let database = Database::new();
    let [first, second] = pair(&database);
    let mut ada = first.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    for code in [&phone.code(), &phone.recovery_codes[0]] {
        let mut browser = enter_password(&first).also_at(second.port);
        browser.get("/account").assert_redirect("/login?next=%2Faccount");
        browser.post("/account/two-factor/off", &[("code", code)]).assert_redirect("/login?next=%2F");
        browser.get(LOG_IN).assert_status(200).assert_contains("log in as <strong>ada</strong>");
        send(&mut browser, LOG_IN, code).assert_redirect("/");
        browser.get("/account").assert_status(200);
        browser.get(LOG_IN).assert_redirect("/login");
    }
}

#[test]
fn of_fifty_log_ins_with_one_code_at_two_processes_one_is_completed() {
    let database = Database::new();
    let servers = pair(&database);
    let mut ada = servers[0].browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    let sessions = || database.count("select count(*) from sessions");
    for (done, code) in (1..).zip([&phone.code(), &phone.recovery_codes[0], &phone.recovery_codes[1]]) {
        let request = |number: usize| {
            let server = &servers[number % 2];
            let cookie = enter_password(server).cookies()["login"].clone();
            (server.port, form(LOG_IN, &format!("Cookie: login={cookie}\r\n"), &[("code", code)]))
        };
        let requests: Vec<_> = (0..50).map(request).collect();
        let answers = {
            let _alone = run_alone();
            send_at_once(&requests)
        };
        let entered = answers.iter().filter(|answer| answer.header("location") == Some("/")).count();
        assert_eq!((entered, sessions()), (1, 1 + done), "{}\n{}", *servers[0], *servers[1]);
        for answer in &answers {
            assert!([303, 422, 429, 503].contains(&answer.status), "{answer}");
        }
        database.execute("delete from limits");
    }
}

#[test]
fn ten_wrong_codes_wherever_they_are_sent_lock_all_codes_everywhere_and_nobody_elses() {
    let database = Database::new();
    let servers = pair(&database);
    let [mut ada, mut eve] = ["ada", "eve"].map(|name| {
        let mut browser = servers[0].browser();
        browser.sign_up(name).assert_redirect("/");
        browser
    });
    let (phone, eves) = (Phone::set_up(&mut ada), Phone::set_up(&mut eve));
    let places = [LOG_IN, "/confirm", "/delete", "/account/two-factor/off"];
    let send_to = |ada: &Browser, number: usize, code: &str| {
        let (server, path) = (&servers[number % 2], places[number % 4]);
        let mut browser = if path == LOG_IN { enter_password(server) } else { ada.also_at(server.port) };
        send(&mut browser, path, code)
    };
    for number in 0..10 {
        send_to(&ada, number, &phone.wrong()).assert_status(422);
    }
    for number in 0..8 {
        for code in [&phone.code(), &phone.recovery_codes[0], &phone.wrong()] {
            send_to(&ada, number, code).assert_must_wait(800..=900);
        }
    }
    let told = "select count(*) from events where kind = 'codes_locked'";
    assert_eq!(database.count(told), 1);
    // Her password still works, and so do the codes of others.
    ada.post("/confirm", &[("password", PASSWORD)]).assert_redirect("/");
    send(&mut eve, "/confirm", &eves.code()).assert_redirect("/");
    send(&mut eve, "/delete", &eves.recovery_codes[0]).assert_redirect("/");
}

#[test]
fn a_site_that_asks_everybody_for_two_factors_is_content_with_an_app() {
    let server = Server::start(&[("REQUIRE_TWO_FACTOR", "all")]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    for path in ["/account", "/delete", "/account/recovery-codes"] {
        let answer = ada.get(path);
        let to = answer.assert_status(303).header("location").unwrap();
        // If another second factor is offered first, its page links to this one.
        let page = ada.get(to);
        page.assert_status(200);
        assert!(to == "/account/two-factor" || page.body.contains("href=\"/account/two-factor\""), "{page}");
    }
    Phone::set_up(&mut ada);
    ada.get("/account").assert_status(200);
}

#[test]
fn secrets_and_codes_are_in_no_table_and_no_log() {
    let database = Database::new();
    let mut server = Server::on(&database, &[KEY, ("RUST_LOG", "trace")]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    let codes = [phone.code(), phone.wrong()];
    for code in codes.iter().chain(&phone.recovery_codes[..1]) {
        send(&mut enter_password(&server), LOG_IN, code);
    }
    server.signal(Signal::TERM);
    server.wait_for_exit(10);

    let secret = phone.totp.secret().to_string();
    let places = database.dump();
    assert!(places.iter().any(|(place, _)| place == "totp.secret"), "nothing was kept");
    assert!(places.iter().any(|(_, value)| value == "two_factor_on"), "nothing was recorded");
    let log = server.stdout() + &server.stderr();
    assert!(log.contains(LOG_IN), "the log is empty");
    let mut secrets = vec![phone.key.to_lowercase(), secret];
    secrets.extend(phone.recovery_codes.iter().flat_map(|code| [code.clone(), code.replace('-', "")]));
    for secret in secrets {
        let kept = places.iter().find(|(_, value)| value.to_lowercase().contains(&secret));
        assert_eq!(kept, None);
        let line = log.lines().find(|line| line.to_lowercase().contains(&secret));
        assert_eq!(line, None);
    }
    // Elsewhere six digits may be part of random bytes or of a time.
    for code in codes {
        let about = |place: &str| ["events.about", "mails.about"].contains(&place);
        let kept = places.iter().find(|(place, value)| about(place) && value.contains(&code));
        assert_eq!(kept, None);
        let line = log.lines().find(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == code));
        assert_eq!(line, None);
    }
    assert!(!log.contains("code="), "a form was logged");
}

#[test]
fn a_new_key_seals_what_an_old_one_has_and_the_app_goes_on_with_it() {
    let database = Database::new();
    let new = "another key for tests alone with 32 bytes or more";
    let server = Server::on(&database, &[KEY]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    drop(server);

    let (both, folder) = (format!("{new},{}", KEY.1), tempfile::tempdir().unwrap());
    let settings = [("DATABASE_URL", &*database.url), ("SECRET_KEY", &both)];
    let mut reseal = Process::start(&mut latchkey(folder.path(), &["reseal"], &settings));
    assert!(reseal.wait_for_exit(20).success(), "{reseal}");

    let server = Server::on(&database, &[("SECRET_KEY", new)]);
    ada.also_at(server.port).assert_logged_in("ada");
    send(&mut enter_password(&server), LOG_IN, &phone.code()).assert_redirect("/");
}

/// The lines of its log about values that do not open, once the start has looked for them.
fn lines_about_keys(server: &Server) -> Vec<String> {
    let lines = || server.lines_with("add the missing key");
    wait_until(10, || !lines().is_empty());
    lines()
}

#[test]
fn when_the_key_is_lost_the_log_says_so_and_people_are_told_what_helps_and_are_not_locked_out() {
    const COUNTED: &str = "select count(*) from limits where count > 0";
    let database = Database::new();
    let server = Server::on(&database, &[KEY]);
    let (mut ada, mut bob, mut eve) = (server.browser(), server.browser(), server.browser());
    ada.sign_up("ada").assert_redirect("/");
    bob.sign_up("bob").assert_redirect("/");
    eve.sign_up("eve").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    let (bobs, unfinished) = (Phone::set_up(&mut bob), begin_set_up(&mut eve));
    let limits = database.count(COUNTED);
    drop(server);

    let new = ("SECRET_KEY", "another key for tests alone with 32 bytes or more");
    let refused = command_error(&["serve"], &[("DATABASE_URL", &*database.url), ("PORT", "0"), new], "");
    assert!(refused.ends_with("; or, if that key is lost for good, set SECRET_KEY_LOST=yes\n"), "{refused}");
    let server = Server::on(&database, &[new, LOST]);
    let lines = lines_about_keys(&server);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("WARN"), "{line}");
    for words in ["2 authenticator apps", "only by a recovery code", "add the missing key at the end of SECRET_KEY"] {
        assert!(line.contains(words) && refused.contains(words), "{words:?} is missing: {line}\n{refused}");
    }
    let (mut browser, mut ada) = (enter_password(&server), ada.also_at(server.port));
    for path in [LOG_IN, "/account/two-factor/off", "/confirm"].repeat(7) {
        let browser = if path == LOG_IN { &mut browser } else { &mut ada };
        let answer = send(browser, path, &phone.code());
        answer.assert_status(422).assert_contains("cannot check codes from your app").assert_contains("recovery code");
    }
    assert_eq!(database.count("select count(*) from events where kind in ('wrong_code', 'codes_locked')"), 0);
    assert_eq!(database.count(COUNTED), limits);
    assert_eq!(server.lines_with("add the missing key").len(), 2, "{}", *server);

    // Recovery codes work at once, also to turn it off; then an app can be set up again.
    send(&mut browser, LOG_IN, &phone.recovery_codes[0]).assert_redirect("/");
    send(&mut browser, "/account/two-factor/off", &phone.recovery_codes[1]).assert_redirect("/account/two-factor");
    let phone = Phone::set_up(&mut browser);
    send(&mut enter_password(&server), LOG_IN, &phone.code()).assert_redirect("/");
    // What was begun before is begun again.
    let mut eve = eve.also_at(server.port);
    eve.get(CONFIRM).assert_redirect("/account/two-factor");
    send(&mut eve, CONFIRM, "123456").assert_redirect("/account/two-factor");
    assert_ne!(begin_set_up(&mut eve), unfinished);
    Phone::set_up(&mut eve);
    drop(server);

    // With both keys everybody's app works.
    let both = format!("{},{}", new.1, KEY.1);
    let server = Server::on(&database, &[("SECRET_KEY", &both)]);
    let mut browser = server.browser();
    browser.log_in("bob").assert_redirect(LOG_IN);
    send(&mut browser, LOG_IN, &bobs.code()).assert_redirect("/");
    assert!(server.lines_with("the missing key").is_empty(), "{}", *server);
}

#[test]
fn sealing_again_leaves_what_no_key_opens_as_it_is_and_fails() {
    let database = Database::new();
    let [lost, old, new] =
        [KEY.1, "the second key for tests alone of 32 bytes", "the third key for tests alone of 32 bytes"];
    let mut phones = Vec::new();
    for (name, key) in [("ada", lost), ("bob", old), ("eve", new)] {
        let server = Server::on(&database, &[("SECRET_KEY", key), LOST]);
        let mut browser = server.browser();
        browser.sign_up(name).assert_redirect("/");
        phones.push(Phone::set_up(&mut browser));
    }
    let reseal = |keys: &str| {
        let (settings, folder) =
            ([("DATABASE_URL", &*database.url), ("SECRET_KEY", keys)], tempfile::tempdir().unwrap());
        let mut reseal = Process::start(&mut latchkey(folder.path(), &["reseal"], &settings));
        (reseal.wait_for_exit(20).code(), reseal.stdout(), reseal.stderr())
    };
    let doctor = |keys: &str| {
        let (settings, folder) =
            ([("DATABASE_URL", &*database.url), ("SECRET_KEY", keys), ("PORT", "0")], tempfile::tempdir().unwrap());
        let mut doctor = Process::start(&mut latchkey(folder.path(), &["doctor"], &settings));
        (doctor.wait_for_exit(20).code(), doctor.lines_with("secrets ").join("\n"))
    };
    let (code, said) = doctor(&format!("{new},{old}"));
    assert!(
        code == Some(1) && said.contains("wrong: the secret of 1 authenticator app cannot be opened with SECRET_KEY"),
        "{said}"
    );
    assert!(said.contains("warning: 1 of totp are sealed with an older key: run latchkey reseal"), "{said}");
    for sealed_again in [1, 0] {
        let (code, said, complaint) = reseal(&format!("{new},{old}"));
        assert_eq!((code, said.trim()), (Some(1), &*format!("totp: {sealed_again} sealed again")), "{complaint}");
        let words = "the secret of 1 authenticator app cannot be opened with SECRET_KEY";
        assert!(complaint.contains(words) && complaint.lines().count() == 1, "{complaint}");
    }
    let (code, said) = doctor(&format!("{new},{old}"));
    assert!(code == Some(1) && said.contains("1 authenticator app ") && !said.contains("reseal"), "{said}");
    // It says what to do, and that works.
    assert!(said.contains(": add the missing key at the end of SECRET_KEY, after a comma"), "{said}");
    let (code, said) = doctor(&format!("{new},{lost}"));
    assert!(code == Some(0) && said.ends_with("run latchkey reseal"), "{said}");
    let (code, said, complaint) = reseal(&format!("{new},{lost}"));
    assert_eq!((code, &*complaint), (Some(0), ""), "{said}");
    let name = |name: &str| format!("(select id from users where username = '{name}')");
    database.execute(&format!("create table kept as select secret from totp where user_id = {}", name("ada")));
    database.execute(&format!(
        "update totp set secret = (select secret from totp where user_id = {}) where user_id = {}",
        name("bob"),
        name("ada")
    ));
    let (code, said) = doctor(new);
    let words = "1 of totp were changed or moved after they were sealed";
    assert!(code == Some(1) && said.contains(words) && !said.contains("SECRET_KEY"), "{said}");
    let (code, _, complaint) = reseal(new);
    assert!(code == Some(1) && complaint.contains(words) && !complaint.contains("SECRET_KEY"), "{complaint}");
    database.execute(&format!(
        "update totp set secret = (select secret from kept) where user_id = {}; drop table kept",
        name("ada")
    ));
    // Whoever has not finished a set-up is not locked out.
    database
        .execute("update totp set confirmed_at = null where user_id in (select id from users where username = 'eve')");
    let (code, said) = doctor("a fourth key for tests alone of 32 bytes");
    assert!(code == Some(1) && said.contains("the secrets of 2 authenticator apps"), "{said}");
    database.execute("update totp set confirmed_at = created_at where confirmed_at is null");
    let (code, said) = doctor(new);
    assert!(code == Some(0) && said.ends_with("ok: all 3 of totp are sealed with the newest key"), "{said}");
    let server = Server::on(&database, &[("SECRET_KEY", new)]);
    for (name, phone) in ["ada", "bob", "eve"].into_iter().zip(&phones) {
        let mut browser = server.browser();
        browser.log_in(name).assert_redirect(LOG_IN);
        send(&mut browser, LOG_IN, &phone.code()).assert_redirect("/");
    }
}

#[test]
fn a_new_password_is_no_way_around_the_second_factor() {
    let server = Server::start(&[KEY]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    let mut browser = server.browser();
    let answer = browser.post("/recovery", &[("username", "ada"), ("code", &phone.recovery_codes[0])]);
    let link = answer.assert_status(303).header("location").unwrap().to_string();
    browser.post(&link, &password_fields(NEW_PASSWORD)).assert_redirect("/login?username=ada");
    browser.log_in_with("ada", NEW_PASSWORD).assert_redirect(LOG_IN);
    browser.assert_logged_out();
    // The recovery code that led to the new password is spent.
    send(&mut browser, LOG_IN, &phone.recovery_codes[0]).assert_status(422);
    send(&mut browser, LOG_IN, &phone.code()).assert_redirect("/");
    browser.assert_logged_in("ada");
}

#[test]
fn a_thief_of_a_session_and_the_password_gets_no_codes_to_turn_it_off_with() {
    let database = Database::new();
    let server = Server::on(&database, &[KEY]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    database.execute("update sessions set confirmed_at = confirmed_at - 600");
    ada.post("/confirm", &[("password", PASSWORD)]).assert_redirect("/");
    let to_confirm = "/confirm?second=yes&next=%2Faccount";
    ada.post("/account/recovery-codes", &[]).assert_redirect(to_confirm);
    ada.get(to_confirm).assert_contains("A password is not enough");
    send(&mut ada, "/confirm", &phone.code()).assert_redirect("/");
    assert_eq!(ada.make_recovery_codes().len(), 10);
}

/// The code that Debian's oathtool shows at this time.
#[track_caller]
fn oathtool(key: &str, time: &str) -> String {
    let output = Command::new("oathtool").args(["--totp", "-b", "--now", time, key]).output();
    let output = output.expect("oathtool is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

#[test]
#[ignore = "needs oathtool; .ci/run runs it"]
fn another_authenticator_shows_the_codes_that_are_asked_for() {
    let database = Database::new();
    let [first, second] = pair(&database);
    let mut ada = first.browser();
    ada.sign_up("ada").assert_redirect("/");
    wait_for_step();
    let key = begin_set_up(&mut ada);
    for time in ["60 seconds ago", "30 seconds"] {
        send(&mut ada, CONFIRM, &oathtool(&key, time)).assert_status(422);
    }
    send(&mut ada, CONFIRM, &oathtool(&key, "30 seconds ago")).assert_redirect("/account/recovery-codes");
    let (mut browser, code) = (enter_password(&first), oathtool(&key, "now"));
    send(&mut browser, LOG_IN, &oathtool(&key, "30 seconds ago")).assert_status(422);
    send(&mut browser.also_at(second.port), LOG_IN, &code).assert_redirect("/");
    send(&mut enter_password(&second), LOG_IN, &code).assert_status(422);
}

#[test]
fn a_backup_whose_secrets_no_key_opens_is_restored_with_a_warning() {
    if Database::postgres().is_some() {
        return;
    }
    let database = Database::new();
    let server = Server::on(&database, &[KEY]);
    server.browser().sign_up("ada").assert_redirect("/");
    database.execute(
        "insert into totp (user_id, secret, created_at, confirmed_at, last_step) select id, x'0102030405', 1, 1, 0 from users",
    );
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), Database::new());
    let backup = folder.path().join("ada.db").display().to_string();
    command_output(&["backup", &backup], &[("DATABASE_URL", &database.url)], "");
    let settings = [("DATABASE_URL", &*elsewhere.url), KEY];
    let mut process = Process::start(&mut latchkey(folder.path(), &["restore", &backup], &settings));
    let status = process.wait_for_exit(20);
    assert!(
        status.success() && process.stderr().contains("warning: the secret of 1 authenticator app cannot be opened"),
        "{process}"
    );
}
