//! Backups are made while people sign up, and restored: nothing that was acknowledged is lost.
//! needs: home, login, signup

use crate::common::{
    Database, KEY, Process, Server, Signal, command_error, command_output, latchkey, wait_until, wrong_use,
};
use std::fs::{self, create_dir, read, write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A site whose database is a SQLite file.
struct Site {
    database: Database,
    folder: TempDir,
}

impl Site {
    /// `None` where the tests run on Postgres.
    fn new() -> Option<Site> {
        Database::postgres().is_none().then(|| Site { database: Database::new(), folder: tempfile::tempdir().unwrap() })
    }

    fn server(&self) -> Server {
        Server::on(&self.database, &[KEY])
    }

    /// With this person, and stopped.
    fn of(name: &str) -> Option<Site> {
        let site = Site::new()?;
        let mut server = site.server();
        server.browser().sign_up(name).assert_redirect("/");
        server.signal(Signal::TERM);
        server.wait_for_exit(20);
        Some(site)
    }

    fn settings(&self) -> [(&str, &str); 2] {
        [("DATABASE_URL", &self.database.url), KEY]
    }

    fn file(&self) -> &Path {
        Path::new(self.database.url.strip_prefix("sqlite:").unwrap())
    }

    /// A place outside of the folder of the database.
    fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn backup(&self, name: &str) -> String {
        let place = self.place(name);
        command_output(&["backup", &place], &self.settings(), "");
        place
    }

    fn restore(&self, file: &str) -> String {
        command_output(&["restore", file, "--yes"], &self.settings(), "")
    }

    fn assert_has_only(&self, name: &str) {
        assert_eq!(self.database.count("select count(*) from users"), 1);
        self.server().browser().log_in(name).assert_redirect("/");
    }

    /// The files of the old databases that were kept.
    fn kept(&self) -> Vec<PathBuf> {
        let files = self.database.files().into_iter().filter(|name| name.contains(".before-restore-"));
        files.map(|name| self.file().with_file_name(name)).collect()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(unix)]
fn mode(file: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777
}

#[test]
fn a_backup_holds_everybody_who_had_signed_up_before_and_can_be_restored_elsewhere() {
    let Some(site) = Site::new() else { return };
    let server = site.server();
    let (acknowledged, done, begun) = (Mutex::new(Vec::new()), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        for writer in 0..3 {
            let (server, acknowledged, done) = (&server, &acknowledged, &done);
            scope.spawn(move || {
                let goes_on = || !done.load(SeqCst) && begun.elapsed() < Duration::from_secs(60);
                for number in (0..).take_while(|_| goes_on()) {
                    let name = format!("writer{writer}n{number}");
                    if server.browser().sign_up(&name).status == 303 {
                        acknowledged.lock().unwrap().push(name);
                    }
                }
            });
        }
        for round in 0..5 {
            let before = acknowledged.lock().unwrap().len();
            assert!(wait_until(20, || acknowledged.lock().unwrap().len() > before + 10), "{}", *server);
            let promised = acknowledged.lock().unwrap().clone();
            let file = site.backup(&format!("{round}.db"));
            #[cfg(unix)]
            assert_eq!(mode(Path::new(&file)), 0o600);
            let elsewhere = Database::new();
            let said = command_output(&["restore", &file], &[("DATABASE_URL", &elsewhere.url), KEY], "");
            assert!(!said.contains("old database"), "{said}");
            assert_eq!(elsewhere.count("select count(*) from pragma_integrity_check where integrity_check = 'ok'"), 1);
            for name in promised {
                let count = format!("select count(*) from users where username = '{name}'");
                assert_eq!(elsewhere.count(&count), 1, "{name} is not in backup {round}");
            }
        }
        done.store(true, SeqCst);
    });
    assert_eq!(names(site.folder.path()), [0, 1, 2, 3, 4].map(|round| format!("{round}.db")));
}

#[test]
fn a_restored_site_is_as_it_was_and_the_later_one_is_kept_beside_it() {
    let Some(site) = Site::of("ada") else { return };
    let backup = site.backup("ada.db");
    let settings = site.settings();
    site.database.execute("delete from users");
    site.server().browser().sign_up("bob").assert_redirect("/");
    // The site was killed, so what it wrote last is only in the log.
    assert!(wrong_use(&["restore", &backup], &settings).contains("--yes"));
    let said = site.restore(&backup);
    let [kept] = &site.kept()[..] else { panic!("{:?}", site.database.files()) };
    assert!(said.contains(&format!("The old database is {}", kept.display())), "{said}");
    #[cfg(unix)]
    assert_eq!((mode(site.file()), mode(kept)), (0o600, 0o600));
    site.assert_has_only("ada");
    // And back again. Another second, another name.
    thread::sleep(Duration::from_secs(1));
    let kept = kept.display().to_string();
    site.restore(&kept);
    site.assert_has_only("bob");
}

#[test]
fn nothing_is_restored_while_the_site_runs() {
    let Some(site) = Site::of("ada") else { return };
    let backup = site.backup("ada.db");
    let server = site.server();
    let said = command_error(&["restore", &backup, "--yes"], &site.settings(), "");
    assert!(said.contains("another program uses the database"), "{said}");
    server.browser().log_in("ada").assert_redirect("/");
    server.browser().sign_up("bob").assert_redirect("/");
    assert_eq!(site.kept().len(), 0);
}

#[test]
fn what_is_no_backup_of_this_site_is_not_restored() {
    let Some(site) = Site::of("ada") else { return };
    let (backup, settings) = (site.backup("ada.db"), site.settings());
    let changed = |name: &str, sql: &str| {
        let place = site.place(name);
        fs::copy(&backup, &place).unwrap();
        Database::at(&place).execute(sql);
        place
    };
    let whole = read(&backup).unwrap();
    let cut = site.place("cut.db");
    write(&cut, &whole[..whole.len() / 2]).unwrap();
    let text = site.place("text.db");
    write(&text, "SQLite format 2").unwrap();
    let empty = site.place("empty.db");
    write(&empty, "").unwrap();
    let files = site.database.contents();
    for (file, reason) in [
        (cut, "damaged"),
        (text, "not a SQLite database"),
        (empty, "not a SQLite database"),
        (site.place("nothing.db"), "cannot be read"),
        (changed("newer.db", "insert into latchkey_migrations values (9999, 'newer', x'00', 1)"), "section 9999"),
        (changed("other.db", "update latchkey_migrations set checksum = x'00' where version = 1"), "section 1 "),
        (changed("alien.db", "drop table latchkey_migrations"), "not the database of a site"),
    ] {
        let said = command_error(&["restore", &file, "--yes"], &settings, "");
        assert!(said.contains(reason), "{file}: {said}");
    }
    let folder = site.folder.path().display().to_string();
    let own = site.file().display().to_string();
    for (file, reason) in [(&folder, "not a regular file"), (&"/dev/null".into(), "not a"), (&own, "database itself")] {
        let said = wrong_use(&["restore", file, "--yes"], &settings);
        assert!(said.contains(reason), "{file}: {said}");
    }
    assert!(site.database.contents() == files, "{:?}", site.database.files());
    // Such a section may also be of a feature that was removed. Then the present database has it, too.
    site.database.execute("insert into latchkey_migrations values (9999, 'newer', x'00', 1)");
    site.restore(&site.place("newer.db"));
    site.assert_has_only("ada");
}

#[test]
fn a_database_to_which_a_site_was_moved_by_half_is_neither_backed_up_nor_restored() {
    let Some(site) = Site::of("ada") else { return };
    let (backup, settings) = (site.backup("ada.db"), site.settings());
    site.database.execute("create table latchkey_unfinished_move (begun_at bigint)");
    let said = command_error(&["backup", &site.place("half.db")], &settings, "");
    assert!(said.contains("a latchkey move that has not finished"), "{said}");
    fs::copy(site.file(), site.place("half.db")).unwrap();
    site.restore(&backup);
    let said = command_error(&["restore", &site.place("half.db"), "--yes"], &settings, "");
    assert!(said.contains("a latchkey move that has not finished"), "{said}");
    site.assert_has_only("ada");
}

#[test]
fn a_database_that_is_damaged_or_gone_is_restored() {
    let Some(site) = Site::of("ada") else { return };
    let backup = site.backup("ada.db");
    write(site.file(), "not a database any more").unwrap();
    site.restore(&backup);
    assert_eq!(read(&site.kept()[0]).unwrap(), b"not a database any more");
    site.assert_has_only("ada");
    fs::remove_file(site.file()).unwrap();
    site.restore(&backup);
    site.assert_has_only("ada");
}

#[test]
fn a_backup_replaces_nothing_by_mistake() {
    let Some(site) = Site::of("ada") else { return };
    let (backup, settings) = (site.backup("ada.db"), site.settings());
    let before = read(&backup).unwrap();
    assert!(wrong_use(&["backup", &backup], &settings).contains("exists. Replace it? Add --yes"));
    assert_eq!(read(&backup).unwrap(), before);
    site.database.execute("update users set created_at = 7");
    command_output(&["backup", &backup, "--yes"], &settings, "");
    assert!(read(&backup).unwrap() != before);
    create_dir(site.place("folder")).unwrap();
    let own = |suffix: &str| format!("{}{suffix}", site.file().display());
    for (file, reason) in [
        (site.place("folder"), "not a regular file"),
        ("/dev/null".into(), "not a regular file"),
        (site.place("missing/ada.db"), "there is no folder"),
        (own(""), "the database itself"),
        (own("-wal"), "the database itself"),
    ] {
        let said = wrong_use(&["backup", &file, "--yes"], &settings);
        assert!(said.contains(reason), "{file}: {said}");
    }
    #[cfg(unix)]
    {
        let link = site.place("link.db");
        std::os::unix::fs::symlink(site.file(), &link).unwrap();
        assert!(wrong_use(&["backup", &link, "--yes"], &settings).contains("not a regular file"));
    }
    // As left by a copy of the files of a running site. SQLite would apply it to the backup.
    for suffix in ["-wal", "-journal"] {
        write(site.place(&format!("old.db{suffix}")), "pages").unwrap();
        let said = wrong_use(&["backup", &site.place("old.db"), "--yes"], &settings);
        assert!(said.contains("which is of another copy"), "{said}");
        fs::remove_file(site.place(&format!("old.db{suffix}"))).unwrap();
    }
    write(site.place("other.db.partial"), "half").unwrap();
    let said = command_error(&["backup", &site.place("other.db")], &settings, "");
    assert!(said.contains("other.db.partial exists"), "{said}");
    site.assert_has_only("ada");
}

/// Stops or kills a command while it writes FILE.partial. Returns whether it was in time.
fn end_in_the_middle(site: &Site, arguments: &[&str], partial: &Path, signal: Signal) -> bool {
    let mut process = Process::start(&mut latchkey(site.folder.path(), arguments, &site.settings()));
    wait_until(20, || partial.exists() || process.has_ended());
    process.signal(signal);
    let status = process.wait_for_exit(20);
    assert!(signal == Signal::KILL || status.code() == Some(1) || status.success(), "{status}\n{process}");
    !status.success()
}

#[test]
#[cfg_attr(not(unix), ignore = "needs signals")]
fn a_command_that_is_stopped_or_killed_in_the_middle_leaves_what_was_there() {
    let Some(site) = Site::of("ada") else { return };
    // 60 MB.
    site.database.execute(
        "with recursive numbers (number) as (select 1 union all select number + 1 from numbers where number < 60000) \
         insert into events (id, kind, about, factors, created_at) \
         select number, 'example', hex(randomblob(500)), 1, 1 from numbers",
    );
    let backup = site.backup("ada.db");
    let before = site.database.contents();
    for (signal, left) in [(Signal::TERM, 1), (Signal::INT, 1), (Signal::KILL, 2)] {
        let other = site.place("other.db");
        let partial = PathBuf::from(format!("{other}.partial"));
        assert!(end_in_the_middle(&site, &["backup", &other], &partial, signal));
        let files = names(site.folder.path());
        let files: Vec<_> = files.iter().filter(|name| !name.ends_with("-journal")).collect();
        assert_eq!(files.len(), left, "{signal:?}: {files:?}");

        let partial = PathBuf::from(format!("{}.partial", site.file().display()));
        assert!(end_in_the_middle(&site, &["restore", &backup, "--yes"], &partial, signal));
        assert_eq!(partial.exists(), signal == Signal::KILL);
        for file in [partial.clone(), PathBuf::from(format!("{}-journal", partial.display()))] {
            let _ = fs::remove_file(file);
        }
        assert!(site.database.contents() == before, "{signal:?}: {:?}", site.database.files());
    }
    site.assert_has_only("ada");
}

#[test]
fn on_postgres_the_commands_say_what_to_run_there_and_repeat_no_password() {
    let url = "postgres://ada:swordfish@db.example:5433/app?sslmode=require";
    let database = "--dbname='host=db.example port=5433 user=ada dbname=app sslmode=require'";
    for (command, line) in [
        ("backup", format!("pg_dump --format=custom --file=app.dump {database}")),
        ("restore", format!("pg_restore --clean --if-exists --single-transaction {database} app.dump")),
    ] {
        let said = command_error(&[command, "app.dump"], &[("DATABASE_URL", url)], "");
        assert!(said.trim_end().ends_with(&line) && !said.contains("swordfish"), "{said}");
    }
}
