//! The file of SQLite is removed, moved or replaced while the site runs.
//! needs: health, home, login, signup

use crate::common::{Browser, Database, Server, Signal, wait_until};
use std::fs::{copy, create_dir, remove_dir_all, remove_file, rename, write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const SAID: &str = "was removed, moved or replaced while the site is running";

/// What somebody does to the folder of the database, and how it is undone.
type Change = (&'static str, fn(&Path), Option<fn(&Path)>);

fn swap(folder: &Path, name: &str) {
    let (file, other, aside) = (folder.join(name), folder.join("other"), folder.join("aside"));
    rename(&file, &aside).unwrap();
    rename(&other, &file).unwrap();
    rename(&aside, &other).unwrap();
}

const CHANGES: &[Change] = &[
    ("the file is removed", |folder| remove_file(folder.join("test.db")).unwrap(), None),
    (
        "the file is moved away and back",
        |folder| rename(folder.join("test.db"), folder.join("moved")).unwrap(),
        Some(|folder| rename(folder.join("moved"), folder.join("test.db")).unwrap()),
    ),
    (
        "a copy takes its place",
        |folder| {
            copy(folder.join("test.db"), folder.join("other")).unwrap();
            swap(folder, "test.db");
        },
        Some(|folder| swap(folder, "test.db")),
    ),
    (
        "anything takes its place",
        |folder| {
            write(folder.join("other"), "").unwrap();
            swap(folder, "test.db");
        },
        Some(|folder| swap(folder, "test.db")),
    ),
    ("the folder is removed", |folder| remove_dir_all(folder).unwrap(), None),
    (
        "the folder is moved away and back",
        |folder| rename(folder, folder.with_extension("moved")).unwrap(),
        Some(|folder| rename(folder.with_extension("moved"), folder).unwrap()),
    ),
    (
        "a backup is put in place of the folder",
        |folder| {
            let backup = folder.with_extension("backup");
            create_dir(&backup).unwrap();
            copy(folder.join("test.db"), backup.join("test.db")).unwrap();
            rename(folder, folder.with_extension("moved")).unwrap();
            rename(backup, folder).unwrap();
        },
        Some(|folder| {
            remove_dir_all(folder).unwrap();
            rename(folder.with_extension("moved"), folder).unwrap();
        }),
    ),
    ("the log is removed", |folder| remove_file(folder.join("test.db-wal")).unwrap(), None),
    (
        "the log is moved away and back",
        |folder| rename(folder.join("test.db-wal"), folder.join("moved")).unwrap(),
        Some(|folder| rename(folder.join("moved"), folder.join("test.db-wal")).unwrap()),
    ),
    ("the shared memory is removed", |folder| remove_file(folder.join("test.db-shm")).unwrap(), None),
];

fn is_ready(server: &Server) -> bool {
    server.browser().get("/readyz").status == 200
}

/// Nothing is read or written, and what needs no database is there.
#[track_caller]
fn assert_nothing_goes(server: &Server, ada: &mut Browser, what: &str) {
    for _ in 0..3 {
        let login = server.browser().log_in("ada").status;
        let sign_up = server.browser().sign_up("eve").status;
        assert_eq!((ada.get("/").status, login, sign_up), (503, 503, 503), "{what}:\n{}", **server);
        server.browser().get("/healthz").assert_status(200);
        server.browser().get("/styles.css").assert_status(200);
    }
    assert_eq!(server.lines_with(SAID).len(), 1, "{what}:\n{}", **server);
}

#[test]
#[cfg_attr(not(unix), ignore = "Windows lets nobody remove an open file")]
fn while_the_file_is_not_the_one_that_is_open_nothing_is_read_or_written_and_once_it_is_back_all_is_there() {
    if Database::postgres().is_some() {
        return;
    }
    for (what, change, undo) in CHANGES {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("data");
        let url = format!("sqlite://{}/test.db", folder.display());
        let mut server = Server::start(&[("DATABASE_URL", &url)]);
        let mut ada = server.browser();
        ada.sign_up("ada").assert_redirect("/");
        let acknowledged = AtomicUsize::new(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                // People sign up all the time. Once the site has noticed, nobody is told that it was done.
                let begun = Instant::now();
                for number in (0..).take_while(|_| begun.elapsed() < Duration::from_secs(20)) {
                    let has_noticed = !is_ready(&server);
                    let answer = server.browser().sign_up(&format!("bob{number}"));
                    assert!(!has_noticed || answer.status == 503, "{what}: {answer}");
                    match answer.status {
                        303 => acknowledged.fetch_add(1, SeqCst),
                        _ if has_noticed => return,
                        _ => 0,
                    };
                }
            });
            assert!(wait_until(10, || acknowledged.load(SeqCst) > 3), "{what}:\n{}", *server);
            change(&folder);
            assert!(wait_until(10, || !is_ready(&server)), "{what}:\n{}", *server);
        });
        assert_nothing_goes(&server, &mut ada, what);
        let Some(undo) = undo else { continue };
        undo(&folder);
        assert!(wait_until(10, || is_ready(&server)), "{what}:\n{}", *server);
        ada.assert_logged_in("ada");
        server.browser().sign_up("zoe").assert_redirect("/");
        assert!(server.lines_with(SAID).len() == 1 && server.lines_with("are back").len() == 1, "{what}:\n{}", *server);

        server.signal(Signal::TERM);
        server.wait_for_exit(10);
        let restarted = Server::start(&[("DATABASE_URL", &url)]);
        restarted.browser().log_in("zoe").assert_redirect("/");
        for number in 0..acknowledged.load(SeqCst) - 1 {
            restarted.browser().log_in(&format!("bob{number}")).assert_redirect("/");
        }
    }
}
