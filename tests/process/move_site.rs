//! A site that moves to another database and back: everything is there, and nobody notices.
//! needs: account, confirm, delete_account, home, login, passkeys, password_reset, recovery_codes, signup, two_factor
#![cfg(all(feature = "sqlite", feature = "passkeys"))]

use crate::common::{Database, KEY, Process, Server, latchkey};
use crate::two_factor::{LOG_IN, Phone, enter_password, send};
use std::time::Instant;

/// So many users, each with a session, a passkey and an app, and the session's token is the hash of a number.
fn seed(users: usize) -> [String; 5] {
    let numbers = format!(
        "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {users}), \
         seeds (n, id) as (select n, printf('0199%08x', n) from numbers) insert into"
    );
    [
        format!("{numbers} users (id, username, created_at) select id, 'seed' || n, n from seeds"),
        format!(
            "{numbers} passwords (user_id, hash) select id, '$pbkdf2-sha256$i=1,l=32$' || hex(randomblob(32)) from seeds"
        ),
        format!(
            "{numbers} sessions (id, token_hash, user_id, created_at, seen_at, confirmed_at, stay, address, device, \
             device_id, factors, confirmed_factors) select id, randomblob(32), id, unixepoch(), unixepoch(), n, 0, \
             '127.0.0.1', 'Firefox on Linux', '', 1, 1 from seeds"
        ),
        format!(
            "{numbers} passkeys (id, user_id, credential_id, name, credential, created_at) \
             select id, id, randomblob(20), 'Ünlocked \"phone\" ' || n, '{{\"cred\":\"' || hex(randomblob(200)) || '\"}}', n from seeds"
        ),
        format!(
            "{numbers} totp (user_id, secret, created_at, confirmed_at, last_step) select id, randomblob(52), n, null, 0 from seeds"
        ),
    ]
}

/// What no form lets through, and what is hard to copy: quotes, invisible characters, the smallest and the largest number.
const ODD: &str = "insert into events (id, kind, about, factors, created_at, address, device) values \
    ('odd1', 'odd', '\"\\ '' [], {}' || char(1, 8, 9, 10, 13, 127, 133, 8232, 65279, 128273) || ' é', -9223372036854775808, 9223372036854775807, '', null), \
    ('odd2', 'null', null, 0, 0, 'null', '\\x00'); \
    insert into idempotency_keys (key_hash, answer, expires_at) values (x'', null, 0), (x'00ff5c78', x'', 1)";

#[track_caller]
fn move_site(from: &Database, to: &Database) -> String {
    let (folder, settings) = (tempfile::tempdir().unwrap(), [("DATABASE_URL", &*from.url), KEY]);
    let mut moving = Process::start(&mut latchkey(folder.path(), &["move", "--to", &to.url], &settings));
    assert!(moving.wait_for_exit(300).success(), "{moving}");
    moving.stdout()
}

/// All values, but for when the schema was applied.
fn rows(database: &Database) -> Vec<(String, String)> {
    let mut rows = database.dump();
    rows.retain(|(column, _)| !column.starts_with("latchkey_migrations"));
    rows.sort();
    rows
}

#[test]
fn a_site_moves_there_and_back_with_every_row_and_nobody_is_logged_out() {
    let [home, there, back] = [Database::sqlite(), Database::new(), Database::sqlite()];
    let server = Server::on(&home, &[KEY]);
    let mut ada = server.browser();
    ada.sign_up("ada").assert_redirect("/");
    let phone = Phone::set_up(&mut ada);
    drop(server);
    seed(2000).iter().for_each(|sql| home.execute(sql));
    home.execute(ODD);
    let before = rows(&home);

    let said = move_site(&home, &there);
    assert!(said.contains("were copied and compared") && said.contains("the same SECRET_KEY"), "{said}");
    assert!(!said.contains("stays behind"), "{said}");
    assert!(rows(&there) == before, "the rows differ");
    let server = Server::on(&there, &[KEY]);
    ada = ada.also_at(server.port);
    ada.assert_logged_in("ada");
    send(&mut enter_password(&server), LOG_IN, &phone.code()).assert_redirect("/");
    server.browser().sign_up("bob").assert_redirect("/");
    drop(server);

    let before = rows(&there);
    move_site(&there, &back);
    assert!(rows(&back) == before, "the rows differ");
    let server = Server::on(&back, &[KEY]);
    ada.also_at(server.port).assert_logged_in("ada");
    send(&mut enter_password(&server), LOG_IN, &phone.recovery_codes[0]).assert_redirect("/");
    server.browser().log_in("bob").assert_redirect("/");
}

/// `MOVED_USERS=100000 cargo test --release --test process how_fast -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn how_fast_many_users_move() {
    let users = std::env::var("MOVED_USERS").map_or(20_000, |users| users.parse().unwrap());
    let [home, there, back] = [Database::sqlite(), Database::new(), Database::sqlite()];
    drop(Server::on(&home, &[KEY]));
    seed(users).iter().for_each(|sql| home.execute(sql));
    for (from, to) in [(&home, &there), (&there, &back)] {
        let started = Instant::now();
        println!("{}{:?}", move_site(from, to), started.elapsed());
    }
}
