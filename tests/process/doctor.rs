//! `latchkey doctor` against planted faults, each of which it names with a cure that works, and against sites that are well.

use crate::common::{
    Behaviour, Database, Fault, KEY, Process, Server, Signal, Smtp, Stage, free_port, latchkey, wait_until,
    with_file_limit,
};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

/// A site that is well, until a fault is planted.
struct Site {
    folder: TempDir,
    database: Database,
    settings: Vec<(&'static str, String)>,
}

/// What the doctor has said.
struct Visit {
    code: Option<i32>,
    lines: Vec<String>,
    errors: String,
}

impl Site {
    /// Whose database is made.
    fn new(settings: &[(&'static str, &str)]) -> Site {
        let site = Site::before_the_first_start(settings);
        start_once(&site);
        if !site.is_sqlite() {
            // Postgres finishes what a process that has ended had asked for.
            const CLIENTS: &str = "select count(*) from pg_stat_activity where datname = current_database() \
                                   and backend_type = 'client backend' and pid <> pg_backend_pid()";
            assert!(wait_until(30, || site.database.count(CLIENTS) == 0), "somebody still uses the database");
        }
        site
    }

    fn before_the_first_start(settings: &[(&'static str, &str)]) -> Site {
        let database = Database::new();
        let mut site = Site { folder: tempfile::tempdir().unwrap(), settings: Vec::new(), database };
        let url = site.database.url.clone();
        for (name, value) in [("DATABASE_URL", &*url), ("PORT", "0"), KEY].iter().chain(settings) {
            site.set(name, value);
        }
        site
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.to_string()));
    }

    fn get(&self, name: &str) -> &str {
        self.settings.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value)
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (*name, &**value)).collect();
        latchkey(self.folder.path(), arguments, &settings)
    }

    #[track_caller]
    fn doctor(&self) -> Visit {
        Visit::of(&mut self.command(&["doctor"]))
    }

    /// The path of its SQLite file.
    fn file(&self) -> PathBuf {
        self.get("DATABASE_URL").strip_prefix("sqlite:").unwrap().into()
    }

    fn is_sqlite(&self) -> bool {
        self.get("DATABASE_URL").starts_with("sqlite:")
    }
}

impl Visit {
    #[track_caller]
    fn of(command: &mut std::process::Command) -> Visit {
        let begun = Instant::now();
        let mut process = Process::start(command);
        let code = process.wait_for_exit(60).code();
        assert!(begun.elapsed().as_secs() < 45, "it takes too long:\n{process}");
        let lines = process.stdout().lines().map(String::from).collect();
        Visit { code, lines, errors: process.stderr() }
    }

    /// Every line has one of the three words, and the exit code fits them.
    #[track_caller]
    fn assert_consistent(&self) {
        let level = |line: &String| {
            let word = line.get(15..).and_then(|rest| rest.split(": ").next()).unwrap_or("");
            assert!(["ok", "warning", "wrong"].contains(&word), "{line:?} is not of the form:\n{self}");
            word == "wrong"
        };
        assert!(self.lines.iter().filter(|line| level(line)).count() == self.wrong(), "{self}");
        let wrong = self.wrong();
        assert_eq!((self.code, self.errors.is_empty()), (Some(i32::from(wrong > 0)), wrong == 0), "{self}");
        let secrets = ["tiger-lily", KEY.1];
        assert!(!self.lines.iter().any(|line| secrets.iter().any(|secret| line.contains(secret))), "{self}");
    }

    /// How many lines say that something is wrong.
    fn wrong(&self) -> usize {
        self.lines.iter().filter(|line| line.get(15..).is_some_and(|rest| rest.starts_with("wrong: "))).count()
    }

    #[track_caller]
    fn assert_well(&self) {
        self.assert_consistent();
        assert_eq!(self.code, Some(0), "{self}");
    }

    fn line(&self, start: &str, words: &str) -> Option<&String> {
        let fits = |line: &&String| {
            let (about, rest) = line.split_at(15.min(line.len()));
            format!("{} {rest}", about.trim_end()).starts_with(start) && line.contains(words)
        };
        self.lines.iter().find(fits)
    }
}

impl std::fmt::Display for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}\n{}", self.code, self.lines.join("\n"), self.errors)
    }
}

const DEVELOPMENT: &[(&str, &str)] = &[];

const PRODUCTION: &[(&str, &str)] = &[
    ("BASE_URL", "https://site.example"),
    ("TRUSTED_PROXIES", "10.0.0.0/8"),
    ("SMTP_URL", "none"),
    ("PASSWORD_ITERATIONS", "600000"),
];

/// Plants a fault, which the doctor names by a line that begins with `start` and contains `words`. After `cure`, which is what
/// the line says, the line is gone and nothing is wrong.
#[track_caller]
fn assert_found(
    site: &mut Site,
    (start, words): (&str, &str),
    plant: impl FnOnce(&mut Site),
    cure: impl FnOnce(&mut Site, &str),
) {
    site.doctor().assert_well();
    plant(site);
    let visit = site.doctor();
    visit.assert_consistent();
    let line = visit.line(start, words).unwrap_or_else(|| panic!("no line {start:?} with {words:?}:\n{visit}"));
    assert!(line.contains(": "), "no cure: {line}");
    println!("{line}");
    cure(site, line);
    let after = site.doctor();
    after.assert_well();
    assert_eq!(after.line(start, words), None, "the cure does not work:\n{after}");
}

/// Runs the statements after `run `.
fn run_statements(site: &Site, line: &str) {
    site.database.execute(line.split_once(": run ").unwrap().1);
}

fn start_once(site: &Site) {
    let mut server = Server::on(&site.database, &[KEY]);
    server.signal(Signal::TERM);
    server.wait_for_exit(20);
}

#[test]
fn a_fault_of_the_configuration_or_the_machine_is_named_and_its_cure_works() {
    for (settings, is_production) in [(DEVELOPMENT, false), (PRODUCTION, true)] {
        let site = &mut Site::new(settings);
        for (name, value, right) in [
            ("SESSION_IDLE", "soon", "7d"),
            ("PORT", "many", "0"),
            ("RUST_LOG", "latchkey=loud", "warn"),
            ("TWO_FACTOR_ATTEMPTS", "few", "5"),
        ] {
            let about = match name {
                "RUST_LOG" => "log wrong",
                "TWO_FACTOR_ATTEMPTS" => "features wrong",
                _ => "configuration wrong",
            };
            if name == "TWO_FACTOR_ATTEMPTS" && !site.doctor().lines.iter().any(|line| line.contains("two_factor")) {
                continue;
            }
            assert_found(site, (about, name), |site| site.set(name, value), |site, _| site.set(name, right));
        }
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port().to_string();
        let use_free_port = |site: &mut Site, _: &str| site.set("PORT", &free_port().to_string());
        assert_found(site, ("port wrong", "set PORT"), |site| site.set("PORT", &taken), use_free_port);
        assert_found(
            site,
            ("configuration warning", "set SITE_NAME"),
            |site| site.set("SITENAME", "Acme"),
            |site, _| site.settings.retain(|(name, _)| *name != "SITENAME"),
        );
        let (smtp, down) = (Smtp::start(), Smtp::behaving(Behaviour::Down));
        let silent = Smtp::behaving(Behaviour::Silent);
        for wrong in [&down, &silent].into_iter().take(if is_production { 1 } else { 2 }) {
            let wrong = wrong.url.replace("smtp://", "smtp://ada:tiger-lily@");
            site.set("SMTP_URL", &smtp.url);
            assert_found(
                site,
                ("mail server wrong", "SMTP_URL"),
                |site| site.set("SMTP_URL", &wrong),
                |site, _| site.set("SMTP_URL", &smtp.url),
            );
        }
        site.set("SMTP_URL", &smtp.url);
        let refusing = |_: &mut Site| {
            smtp.set_behaviour(Behaviour::Fails(Stage::Sender, Fault::Refuses("550 5.7.1 That is not your address")))
        };
        let cure = |_: &mut Site, _: &str| smtp.set_behaviour(Behaviour::Accepts);
        assert_found(site, ("mail server wrong", "550 5.7.1"), refusing, cure);
        if is_production {
            let cure = |site: &mut Site, _: &str| site.set("HOST", "0.0.0.0");
            assert_found(site, ("port wrong", "HOST=192.0.2.1"), |site| site.set("HOST", "192.0.2.1"), cure);
            let (none, proxies) = (
                |site: &mut Site| site.set("TRUSTED_PROXIES", "none"),
                |site: &mut Site, _: &str| site.set("TRUSTED_PROXIES", "10.0.0.0/8"),
            );
            assert_found(site, ("configuration warning", "TRUSTED_PROXIES"), none, proxies);
        }
    }
}

#[test]
fn a_fault_of_the_database_is_named_and_its_cure_works() {
    for settings in [DEVELOPMENT, PRODUCTION] {
        let site = &mut Site::new(settings);
        let execute = |sql: &'static str| move |site: &mut Site| site.database.execute(sql);
        for name in ["events_by_time", "addresses_confirmed"] {
            let sql = format!("drop index {name}");
            assert_found(
                site,
                ("schema wrong", name),
                |site| site.database.execute(&sql),
                |site, line| run_statements(site, line),
            );
        }
        let other = "drop index sessions_by_age; create index sessions_by_age on sessions (seen_at)";
        assert_found(site, ("schema wrong", "drop index sessions_by_age"), execute(other), |site, line| {
            run_statements(site, line)
        });
        let cure = |site: &mut Site, _: &str| {
            site.database.execute("alter table sessions add column stay bigint not null default 0")
        };
        assert_found(
            site,
            ("schema wrong", "sessions lacks stay"),
            execute("alter table sessions drop column stay"),
            cure,
        );
        let cure = |site: &mut Site, _: &str| {
            site.database.execute("create table salts (name text primary key, value bytea not null)")
        };
        assert_found(site, ("schema wrong", "the table salts is missing"), execute("drop table salts"), cure);
        let older = "drop index mails_due_to_users; drop index sessions_by_age; drop index sessions_by_use; drop index devices_by_use; \
                     drop index mails_given_up; delete from latchkey_migrations where version = 6";
        assert_found(site, ("schema warning", "section 6 of"), execute(older), |site, _| start_once(site));
        let forgotten = "create table kept as select * from latchkey_migrations where version = 2; \
                         delete from latchkey_migrations where version = 2";
        let restored = "insert into latchkey_migrations select * from kept; drop table kept";
        assert_found(site, ("schema wrong", "but devices exists"), execute(forgotten), |site, _| {
            site.database.execute(restored)
        });
        let taken =
            "drop index sessions_by_age; create table kept (id bigint); create index sessions_by_age on kept (id)";
        let cure = |site: &mut Site, line: &str| {
            assert!(!line.contains("drop index"), "{line}");
            site.database.execute("drop table kept");
            site.database.execute(line.split_once("then run ").unwrap().1);
        };
        assert_found(site, ("schema wrong", "something else has its name, sessions_by_age"), execute(taken), cure);
        let newer = "insert into latchkey_migrations (version, name, checksum, applied_at) \
                     select 9999, 'later', checksum, 0 from latchkey_migrations where version = 1";
        assert_found(site, ("schema warning", "9999"), execute(newer), |site, _| {
            site.database.execute("delete from latchkey_migrations where version = 9999")
        });
        let edit = "update latchkey_migrations set version = 8888 where version = 2; \
                    insert into latchkey_migrations (version, name, checksum, applied_at) \
                    select 2, name, checksum, 0 from latchkey_migrations where version = 1";
        assert_found(site, ("schema wrong", "section 2 of schema.sql"), execute(edit), |site, _| {
            site.database.execute(
                "delete from latchkey_migrations where version = 2; \
                 update latchkey_migrations set version = 2 where version = 8888",
            )
        });
        let mail = "insert into mails (id, kind, email, about, created_at, due_at, attempts, failed_at, error) values ";
        let given_up = format!("{mail} ('1', 'x', 'a@b.example', '', 1, 1, 9, 2, '550 no such user')");
        let forget = |site: &mut Site, _: &str| site.database.execute("delete from mails");
        assert_found(
            site,
            ("mails warning", "1 were given up (550 no such user)"),
            |site| site.database.execute(&given_up),
            forget,
        );
        let hostile = given_up.replace("no such", "\u{1b}[31mno\u{202e}such");
        let is_shown = |site: &mut Site| {
            site.database.execute(&hostile);
            assert!(!site.doctor().lines.iter().any(|line| line.contains(['\u{1b}', '\u{202e}'])));
        };
        assert_found(site, ("mails warning", "550 \u{fffd}[31mno\u{fffd}such user"), is_shown, forget);
        let waiting = format!("{mail} ('1', 'x', 'a@b.example', '', 1, 1, 9, null, '451 later')");
        assert_found(site, ("mails warning", "1 wait, the oldest for"), |site| site.database.execute(&waiting), forget);
    }
}

#[test]
fn a_database_that_is_not_there_or_does_not_answer_is_named() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = format!("postgres://ada:tiger-lily@127.0.0.1:{}/app", silent.local_addr().unwrap().port());
    let site = &mut Site::new(DEVELOPMENT);
    let well = site.settings.clone();
    let cure = |site: &mut Site, _: &str| site.settings.clone_from(&well);
    let away = "postgres://ada:tiger-lily@127.0.0.1:1/app";
    assert_found(site, ("database wrong", "DATABASE_URL"), |site| site.set("DATABASE_URL", away), cure);
    // All three are waited for at the same time, for half a minute.
    let smtp = Smtp::behaving(Behaviour::Silent);
    let silent_too = format!("{silent}?application_name=other");
    for (name, url) in [("DATABASE_URL", &silent), ("DATABASE_DIRECT_URL", &silent_too), ("SMTP_URL", &smtp.url)] {
        site.set(name, url);
    }
    let visit = site.doctor();
    visit.assert_consistent();
    assert!(visit.line("database wrong", "DATABASE_URL").is_some() && visit.wrong() == 3, "{visit}");
    cure(site, "");
    site.doctor().assert_well();
}

#[cfg(all(unix, feature = "sqlite"))]
#[test]
fn a_fault_of_the_sqlite_file_is_named_and_its_cure_works() {
    use std::os::unix::fs::PermissionsExt;
    let chmod = |_: &mut Site, line: &str| {
        let command = line.split_once(": run ").unwrap().1;
        assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{line}");
    };
    for (settings, level) in [(DEVELOPMENT, "files warning"), (PRODUCTION, "files wrong")] {
        let mut site = Site::before_the_first_start(settings);
        if !site.is_sqlite() {
            return;
        }
        // What a shell takes apart.
        site.database.url = format!("{}/its own 'data'/a p.db", site.database.url.rsplit_once('/').unwrap().0);
        site.set("DATABASE_URL", &site.database.url.clone());
        start_once(&site);
        let site = &mut site;
        let (file, folder) = (site.file(), site.file().parent().unwrap().to_path_buf());
        let open = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(&folder, 0o700);
        assert_found(site, (level, "chmod 600"), |_| open(&file, 0o644), chmod);
        assert_found(site, ("files warning", "chmod 700"), |_| open(&folder, 0o755), chmod);
        // As with a disk that has lost something.
        let whole = fs::read(&file).unwrap();
        let restore = |_: &mut Site, _: &str| fs::write(&file, &whole).unwrap();
        let mut damaged = whole.clone();
        damaged[8192..16384].fill(0x5a);
        assert_found(site, ("pages wrong", "the last backup"), |_| fs::write(&file, &damaged).unwrap(), restore);
        assert_found(site, ("database wrong", ""), |_| fs::write(&file, "no database at all").unwrap(), restore);
        assert_found(
            site,
            ("files warning", "mode=ro"),
            |site| site.set("DATABASE_URL", &format!("{}?mode=ro", site.database.url)),
            |site, _| site.set("DATABASE_URL", &site.database.url.clone()),
        );
        let away = folder.join("away.db");
        assert_found(
            site,
            ("database warning", "there is no file"),
            |_| fs::rename(&file, &away).unwrap(),
            |_, _| fs::rename(&away, &file).unwrap(),
        );
        // What the start could not make.
        let right = site.get("DATABASE_URL").to_string();
        let link = folder.join("link.db");
        std::os::unix::fs::symlink("gone/a.db", &link).unwrap();
        let other = |name: &str| format!("sqlite:{}/{name}", folder.display());
        for (wrong, why) in [
            (other("a p.db/b/c.db"), "is not a folder"),
            (other("link.db"), "is a link to a folder that does not exist"),
            (other("none.db?mode=rw"), "the mode in DATABASE_URL"),
            ("sqlite:/proc/none/a.db".to_string(), "this user may not write"),
        ] {
            if why.contains("this user") && rustix::process::geteuid().is_root() {
                continue;
            }
            assert_found(
                site,
                ("database wrong", why),
                |site| site.set("DATABASE_URL", &wrong),
                |site, _| site.set("DATABASE_URL", &right),
            );
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_file_that_is_whole_and_cannot_be_looked_at_is_not_called_damaged() {
    use sqlx::Connection as _;
    let site = &mut Site::new(DEVELOPMENT);
    if !site.is_sqlite() {
        return;
    }
    let one_line = |site: &Site, cure: &str| {
        let visit = site.doctor();
        visit.assert_consistent();
        let line = visit.line("database wrong", "could not be checked").unwrap_or_else(|| panic!("{visit}"));
        assert!(line.contains(cure) && !line.contains("damaged") && visit.wrong() == 1, "{visit}");
    };
    let lock = "pragma journal_mode = wal; pragma locking_mode = exclusive; begin immediate; commit";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    sqlx::any::install_default_drivers();
    let holder = runtime.block_on(async {
        let mut holder = sqlx::AnyConnection::connect(&site.database.url).await.unwrap();
        sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
        holder
    });
    one_line(site, "which other program has locked the file");
    runtime.block_on(holder.close()).unwrap();
    site.doctor().assert_well();
    let wal = PathBuf::from(format!("{}-wal", site.file().display()));
    fs::create_dir(&wal).unwrap();
    one_line(site, "give this user permission");
    fs::remove_dir(&wal).unwrap();
    site.doctor().assert_well();
}

/// The name of a role for this site alone.
fn role_of(site: &Site) -> String {
    format!("role_{}", url::Url::parse(&site.database.url).unwrap().path().trim_start_matches('/'))
}

fn address_with(address: &str, role: &str) -> String {
    let mut url = url::Url::parse(address).unwrap();
    url.set_username(role).unwrap();
    url.set_password(Some("tiger-lily")).unwrap();
    url.to_string()
}

#[test]
fn a_fault_of_the_postgres_server_is_named_and_its_cure_works() {
    for settings in [DEVELOPMENT, PRODUCTION] {
        let site = &mut Site::new(settings);
        if site.is_sqlite() {
            return;
        }
        let own = site.database.url.clone();
        let role = role_of(site);
        let run = |sql: String| move |site: &mut Site| site.database.execute(&sql.replace("ROLE", &role_of(site)));
        site.database.execute(&format!(
            "create role {role} login password 'tiger-lily'; grant select, insert, update, delete on all tables in schema public to {role}"
        ));
        site.set("DATABASE_URL", &address_with(&own, &role));
        let cure = |sql: &'static str| move |site: &mut Site, _: &str| run(sql.to_string())(site);
        assert_found(
            site,
            ("pool wrong", "the role allows 5: set DATABASE_POOL=4"),
            run("alter role ROLE connection limit 5".into()),
            |site, _| site.set("DATABASE_POOL", "4"),
        );
        assert_found(
            site,
            ("pool wrong", "the role allows 3: run alter role"),
            run("alter role ROLE connection limit 3".into()),
            cure("alter role ROLE connection limit -1"),
        );
        assert_found(
            site,
            ("rights wrong", "may not write to events"),
            run("revoke update on events from ROLE".into()),
            |site, line| run_statements(site, line),
        );
        assert_found(
            site,
            ("rights wrong", "may not read latchkey_migrations"),
            run("revoke select on latchkey_migrations from ROLE".into()),
            |site, line| run_statements(site, line),
        );
        site.database.execute("create table \"Of others\" (id bigint)");
        site.doctor().assert_well();
        assert_found(
            site,
            ("rights wrong", "may not use any schema of its search_path"),
            run("alter role ROLE set search_path = gone".into()),
            cure("alter role ROLE reset search_path"),
        );
        assert_found(
            site,
            ("rights wrong", "default_transaction_read_only"),
            run("alter role ROLE set default_transaction_read_only = on".into()),
            cure("alter role ROLE reset default_transaction_read_only"),
        );
        site.set("DATABASE_URL", &own);
        site.database.execute(&format!("drop owned by {role}; drop role {role}"));
    }
}

#[test]
fn a_role_that_may_not_make_tables_is_named_before_the_first_start() {
    let site = &mut Site::before_the_first_start(DEVELOPMENT);
    if site.is_sqlite() {
        return;
    }
    let own = site.database.url.clone();
    let role = role_of(site);
    site.database.execute(&format!(
        "create role {role} login password 'tiger-lily'; \
         alter default privileges in schema public grant select, insert, update, delete on tables to {role}"
    ));
    let with_role = address_with(&own, &role);
    let use_role = |site: &mut Site| site.set("DATABASE_URL", &with_role);
    assert_found(site, ("schema wrong", "may not create tables"), use_role, |site, _| {
        site.set("DATABASE_DIRECT_URL", &own);
        let settings = [("DATABASE_URL", &*with_role), ("DATABASE_DIRECT_URL", &*own), KEY];
        let mut server = Server::on(&site.database, &settings);
        server.signal(Signal::TERM);
        server.wait_for_exit(20);
    });
    site.database.execute(&format!("drop owned by {role}; drop role {role}"));
}

#[test]
fn a_database_of_another_encoding_or_of_another_program_is_named() {
    let site = &mut Site::before_the_first_start(DEVELOPMENT);
    if site.is_sqlite() {
        fs::File::create(site.file()).unwrap();
    }
    for (made, kind) in [("create table users (name text)", "table"), ("create view users as select 1 as id", "view")] {
        site.database.execute(made);
        let visit = site.doctor();
        visit.assert_consistent();
        assert!(visit.line("schema wrong", "belongs to another program, which has users").is_some(), "{visit}");
        site.database.execute(&format!("drop {kind} users"));
    }
    if site.is_sqlite() {
        return;
    }
    let mut url = url::Url::parse(&site.database.url).unwrap();
    let name = format!("{}_latin", url.path().trim_start_matches('/'));
    site.database.execute(&format!("create database {name} encoding latin1 locale 'C' template template0"));
    url.set_path(&name);
    site.set("DATABASE_URL", url.as_str());
    let visit = site.doctor();
    site.database.execute(&format!("drop database {name}"));
    visit.assert_consistent();
    assert!(visit.line("database wrong", "LATIN1").is_some(), "{visit}");
}

#[test]
#[cfg_attr(windows, ignore = "needs a limit of files")]
fn a_low_limit_of_files_is_named_with_the_number_that_it_takes() {
    let site = Site::new(DEVELOPMENT);
    let visit = |files: usize| Visit::of(&mut with_file_limit(files, &site.command(&["doctor"])));
    let low = visit(512);
    low.assert_well();
    let line = low.line("connections warning", "CONNECTIONS").unwrap_or_else(|| panic!("{low}"));
    let needed = line.split_once("LimitNOFILE) to ").unwrap().1.split(',').next().unwrap();
    assert!(needed.parse::<usize>().unwrap() > 10_000, "{line}");
    let connections = line.split_once("CONNECTIONS=").unwrap().1;
    let cured = Visit::of(with_file_limit(512, &site.command(&["doctor"])).env("CONNECTIONS", connections));
    assert!(cured.line("connections ok", connections).is_some(), "{cured}");
}

#[test]
fn a_site_that_is_well_is_found_well_and_is_not_changed() {
    let smtp = Smtp::start();
    let site_of = |settings: &[(&'static str, &str)]| Site::new(settings);
    let insecure = [
        ("BASE_URL", "http://site.example"),
        ("INSECURE_HTTP", "yes"),
        ("TRUSTED_PROXIES", "none"),
        ("SMTP_URL", "none"),
    ];
    let with_mail = [PRODUCTION, &[("MAIL_FROM", "Site <site@site.example>")]].concat();
    for mut site in [
        Site::before_the_first_start(DEVELOPMENT),
        Site::before_the_first_start(PRODUCTION),
        site_of(DEVELOPMENT),
        site_of(PRODUCTION),
        site_of(&insecure),
        site_of(&with_mail),
    ] {
        if !site.get("MAIL_FROM").is_empty() {
            site.set("SMTP_URL", &smtp.url);
        }
        let state = || {
            let files =
                |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
            let beside = if site.is_sqlite() { files(site.file().parent().unwrap().into()) } else { Vec::new() };
            let rows = if site.is_sqlite() && !site.file().exists() { Vec::new() } else { site.database.dump() };
            (files(site.folder.path().into()), beside, rows)
        };
        let before = state();
        site.doctor().assert_well();
        assert!(state() == before, "it has changed something");
    }
    assert!(smtp.mails().is_empty(), "{smtp}");
}

#[test]
fn two_addresses_that_lead_to_two_databases_are_named() {
    let (site, other) = (&mut Site::new(DEVELOPMENT), Site::new(DEVELOPMENT));
    let right = site.database.url.clone();
    assert_found(
        site,
        ("database wrong", "DATABASE_DIRECT_URL and DATABASE_URL are different databases"),
        |site| site.set("DATABASE_DIRECT_URL", &other.database.url),
        |site, _| site.set("DATABASE_DIRECT_URL", &right),
    );
}

#[test]
fn what_is_wrong_is_in_the_exit_code_when_nobody_reads_it_and_in_json_when_nothing_can_be_read() {
    let mut site = Site::before_the_first_start(DEVELOPMENT);
    site.set("PORT", "many");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(site.command(&["doctor"]).stdout(writer).status().unwrap().code(), Some(1));
    site.settings.clear();
    fs::write(site.folder.path().join(".env"), "SITE NAME\n").unwrap();
    let visit = Visit::of(&mut site.command(&["doctor", "--json"]));
    let findings: serde_json::Value = serde_json::from_str(&visit.lines.join("\n")).unwrap();
    let sentence = findings[0]["sentence"].as_str().unwrap();
    assert!(visit.code == Some(1) && sentence.starts_with("line 1 of the .env file"), "{visit}");
}

#[test]
fn the_port_of_the_running_site_is_no_fault() {
    let mut site = Site::new(DEVELOPMENT);
    let server = Server::on(&site.database, &[KEY]);
    site.set("PORT", &server.port.to_string());
    let visit = site.doctor();
    let has_health = server.browser().get("/healthz").status == 200;
    visit.assert_consistent();
    let start = if has_health { "port warning" } else { "port wrong" };
    assert!(visit.line(start, "is in use by").is_some(), "{visit}");
}

#[test]
fn programs_get_the_same_findings_as_json() {
    let site = Site::new(DEVELOPMENT);
    let words: Vec<serde_json::Value> = {
        let mut process = Process::start(&mut site.command(&["doctor", "--json"]));
        assert!(process.wait_for_exit(20).success(), "{process}");
        serde_json::from_str(&process.stdout()).unwrap()
    };
    let lines: Vec<String> = words
        .iter()
        .map(|finding| {
            let text = |field: &str| finding[field].as_str().unwrap().to_string();
            assert_eq!(finding.as_object().unwrap().len(), 3, "{finding}");
            format!("{:<14} {}: {}", text("about"), text("level"), text("sentence"))
        })
        .collect();
    assert_eq!(lines, site.doctor().lines);
}
