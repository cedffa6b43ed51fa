//! `latchkey import` makes the accounts of another system, and their passwords work.
//! needs: home, login

use crate::common::{Database, Process, command_error, command_output, latchkey};

/// A password, and its hashes by `PBKDF2PasswordHasher` of Django 5.2.19, by `password_hash` of PHP 8.2.36, which is what
/// Laravel calls, and by `PasswordHasher` of argon2-cffi 25.1.0. They are cheap, so that the test is quick.
#[cfg(feature = "imported_hashes")]
const USERS: [(&str, [&str; 3]); 3] = [
    (
        "violet lantern",
        [
            "pbkdf2_sha256$1000$YLXmzjL1rnWXRAidbqsYPI$kcUVN0qrDV5j3+ElCAJwj+h10qDl4cSfjp22fDe6XZ0=",
            "$2y$04$59DxHlKoKRCuV0hjIH.P.uWey1BR/mFLF8x7fYYnYCKtcyOCZ8cRm",
            "$argon2id$v=19$m=1024,t=1,p=1$2xsjZwp8zrOK1B71lpB/HQ$r8XAMqgtOMKXW6qyIzX6Tq0yklfZB66ziLoqcLV3Aw0",
        ],
    ),
    (
        "quiet harbour lamp",
        [
            "pbkdf2_sha256$1000$jxpxxFztN9CJLtqNzK1QhY$VmYXaKM7crrePEp3UvVGJ5S6yM/iCQQHs2HUTXf2WBg=",
            "$2y$04$uYRpx4MYmlnJSC8zraz1oeK.b7E0DiSbetgQfmiZhbJUMrhdAZcvu",
            "$argon2id$v=19$m=1024,t=1,p=1$n9+NHUAv0oENw+qTGhRWuA$BEpZcAl2te5Au5KRBSuxYWNlJtWNWLYarxDUpUozn5c",
        ],
    ),
    (
        "cafè noir à deux",
        [
            "pbkdf2_sha256$1000$YkWeo1LCK8PAsVxwsOpJeE$tyYt0IO5O/vBv4hK7wGJCJOTRAlmQgi30/E1QH+pHd8=",
            "$2y$04$GvEiVNtXgbEJLqARgz8FE.QnuPoD2vcu29L12RHRdeyA32PT4sAHK",
            "$argon2id$v=19$m=1024,t=1,p=1$jSBqH0WGlM/GKUiNnq01uA$ISpZB0G0MSBZ5xvPwdPfZ2rCsCV3g6KhwVdIZhTIXq4",
        ],
    ),
];

fn settings(database: &Database) -> [(&str, &str); 1] {
    [("DATABASE_URL", &*database.url)]
}

fn outcome(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap()
}

#[cfg(feature = "imported_hashes")]
#[test]
fn ten_thousand_users_of_three_systems_are_imported_and_log_in_with_their_passwords() {
    use crate::common::Server;
    use std::fmt::Write;
    use std::time::Instant;
    let database = Database::of_a_site();
    let mut file = String::from("username,email,confirmed,hash\n");
    for number in 0..10_000 {
        let hash = USERS[number / 3 % 3].1[number % 3];
        writeln!(file, "user{number},user{number}@example.com,yes,\"{hash}\"").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.csv"), file).unwrap();
    let begun = Instant::now();
    let mut import =
        Process::start(&mut latchkey(folder.path(), &["import", "users.csv", "--yes"], &settings(&database)));
    assert!(import.wait_for_exit(200).success(), "{import}");
    eprintln!("10,000 users took {:?}", begun.elapsed());
    assert!(import.stdout().contains("10000 users can be imported: 10000 with a password"), "{import}");
    assert_eq!(database.count("select count(*) from users"), 10_000);

    let server = Server::on(&database, &[]);
    for system in 0..3 {
        for number in (system..).step_by(3).step_by(111).take(10) {
            let (name, password) = (format!("user{number}"), USERS[number / 3 % 3].0);
            let mut browser = server.browser();
            browser.log_in_with(&name, USERS[(number / 3 + 1) % 3].0).assert_status(422);
            browser.log_in_with(&format!("{name}@example.com"), password).assert_redirect("/");
            browser.assert_logged_in(&name);
        }
    }
    assert_eq!(database.count("select count(*) from passwords where hash like '$pbkdf2-sha256$i=%'"), 30);
    assert_eq!(database.count("select count(*) from mails"), 0);
}

#[test]
fn without_yes_an_import_says_what_it_would_do_and_changes_nothing() {
    let database = Database::of_a_site();
    let settings = &settings(&database);
    let file = "{\"username\":\"ada\",\"email\":\"ada@example.com\",\"confirmed\":true}\n{\"username\":\"bob\"}\n";
    let said = command_output(&["import", "-"], settings, file);
    let plan = "2 users can be imported: 0 with a password, 1 with a confirmed address, 1 with neither.\n";
    assert_eq!(said, format!("{plan}Nothing was changed. Use --yes to import them.\n"));
    let json = outcome(&command_output(&["import", "-", "--json"], settings, file));
    assert_eq!((json["imported"].as_bool(), json["users"].as_u64()), (Some(false), Some(2)));
    assert_eq!(database.count("select count(*) from users"), 0);
    let said = command_output(&["import", "-", "--yes"], settings, file);
    assert_eq!(said, format!("{plan}They were imported.\n"));
    assert_eq!(database.count("select count(*) from users"), 2);
    assert_eq!(database.count("select count(*) from addresses where confirmed_at is not null"), 1);
    let json = outcome(&command_output(&["import", "-", "--yes", "--json"], settings, "username\ncarol\n"));
    assert_eq!((json["imported"].as_bool(), json["with_neither"].as_u64()), (Some(true), Some(1)));
    assert_eq!(database.count("select count(*) from users"), 3);
}

#[test]
#[cfg(unix)]
fn users_are_imported_whether_or_not_anybody_reads_the_output() {
    let database = Database::of_a_site();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.csv"), "username\nada\n").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut import = latchkey(folder.path(), &["import", "users.csv", "--yes"], &settings(&database));
    assert!(import.stdout(writer).status().unwrap().success());
    assert_eq!(database.count("select count(*) from users"), 1);
}

#[test]
fn a_file_with_mistakes_is_refused_whole_and_each_line_with_its_reason() {
    let database = Database::of_a_site();
    let settings = &settings(&database);
    command_output(&["import", "-", "--yes"], settings, "username\nada\n");
    let import = |file: &str, arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let arguments = [&["import", "-", "--yes"], arguments].concat();
        let mut process = Process::start_with(&mut latchkey(folder.path(), &arguments, settings), file);
        let status = process.wait_for_exit(20);
        assert_eq!(status.code(), Some(1), "{process}");
        assert_eq!(database.count("select count(*) from users"), 1, "{process}");
        process
    };
    let said = import("username,hash\nbob,\nada,\nno name,\ncarol,$1$salt$hash\nbob,\n", &[]);
    let lines = [
        "line 3: The name ada is taken. Please choose another.",
        "line 4: username: A username can only have letters from a to z and digits, without spaces.",
        "line 5: hash: This is not a hash of a known kind.",
        "line 6: The name bob is on line 2 too.",
    ];
    assert_eq!(said.stdout().lines().collect::<Vec<_>>(), lines);
    assert_eq!(said.stderr(), "latchkey: nothing was imported, because of 4 lines\n");
    // Only so many are printed.
    let many = format!("username\nbob\n{}", "?\n".repeat(112));
    let said = import(&many, &[]);
    assert_eq!(said.stdout().lines().count(), 101);
    assert!(said.stdout().ends_with("\nand 12 more\n") && said.stderr().contains("112 lines"), "{said}");
    let json = outcome(&import(&many, &["--json"]).stdout());
    assert_eq!((json["refused_lines"].as_u64(), json["refused"].as_array().unwrap().len()), (Some(112), 100));
    assert_eq!((json["refused"][0]["line"].as_u64(), json["imported"].as_bool()), (Some(3), Some(false)));

    for (file, reason) in [
        ("", "the file is empty"),
        ("username\n", "no users in the file"),
        ("name,mail\nada,ada@example.com\n", "line 1: There is no column \"name\""),
    ] {
        let said = command_error(&["import", "-", "--yes"], settings, file);
        assert!(said.contains(reason), "{said}");
    }
    let said = command_error(&["import", "nowhere.csv"], settings, "");
    assert!(said.contains("nowhere.csv cannot be opened"), "{said}");
}

/// Those of docs/operations.md.
#[test]
fn the_files_that_the_documents_show_can_be_imported() {
    for language in ["csv", "json"] {
        let database = Database::of_a_site();
        let (_, rest) = include_str!("../../docs/operations.md").split_once(&format!("```{language}\n")).unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let said = command_output(&["import", "-", "--yes"], &settings(&database), example);
        assert!(said.ends_with("They were imported.\n"), "{said}");
        assert_eq!(database.count("select count(*) from users where username in ('ada', 'bob', 'carol')"), 3);
    }
}
