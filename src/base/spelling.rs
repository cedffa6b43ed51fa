//! Recognises misspelt names of variables: `SMPT_URL`, `DATABASEURL`, `trusted_proxy`.

/// How many letters of `given` are wrong if `ours` was meant, or `None` if it is another name. Case, underscores,
/// plurals and the app's name as a prefix are ignored. A short word may have one mistake, because two make it another
/// word: `DATABASE_PORT` is not `DATABASE_POOL`.
pub fn mistakes(given: &str, ours: &str) -> Option<usize> {
    if ours.len() <= SHORT {
        return mistakes_in_short_name(given, ours);
    }
    let (given, ours) = (words(given), words(ours));
    let given = given.strip_prefix(&*words(env!("CARGO_PKG_NAME"))).unwrap_or(&given);
    let in_singular = mistakes_in_words(&singular(given), &singular(&ours));
    mistakes_in_words(given, &ours).into_iter().chain(in_singular).min()
}

fn mistakes_in_words(given: &[String], ours: &[String]) -> Option<usize> {
    let joined = distance(&given.concat(), &ours.concat());
    if joined == 0 || given.len() != ours.len() {
        let most = if ours.concat().len() < 12 { 1 } else { 2 };
        return Some(joined).filter(|&joined| joined <= most);
    }
    given.iter().zip(ours).try_fold(0, |sum, (given, ours)| {
        let wrong = distance(given, ours);
        let most = if ours.len() < 7 { 1 } else { 2 };
        Some(sum + wrong).filter(|&sum| wrong <= most && sum <= 2)
    })
}

/// Up to this length, a name with one letter changed is often another word: `HOST` and `HOSTS`, `PORT` and `SORT`.
const SHORT: usize = 4;

/// Here only the case may differ, or two letters be swapped.
fn mistakes_in_short_name(given: &str, ours: &str) -> Option<usize> {
    let given = given.to_ascii_uppercase();
    let sorted = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    let wrong = distance(&given, ours);
    (wrong <= 1 && sorted(&given) == sorted(ours)).then_some(wrong)
}

/// Its words, in capitals.
fn words(name: &str) -> Vec<String> {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_uppercase).collect()
}

fn singular(words: &[String]) -> Vec<String> {
    let singular = |word: &String| match word.strip_suffix("IES") {
        Some(stem) => format!("{stem}Y"),
        None => word.trim_end_matches('S').to_string(),
    };
    words.iter().map(singular).collect()
}

/// How many letters must be added, removed, changed or swapped with the next to turn one into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of every form that ours have.
    const OURS: &[&str] = &[
        "HOST",
        "PORT",
        "BASE_URL",
        "SMTP_URL",
        "MAIL_FROM",
        "RUST_LOG",
        "SITE_NAME",
        "HASH_WAIT",
        "HASH_JOBS",
        "RENAMES",
        "NAME_REST",
        "SECRET_KEY",
        "LOG_FORMAT",
        "BODY_LIMIT",
        "CONNECTIONS",
        "SESSION_IDLE",
        "DATABASE_URL",
        "DATABASE_POOL",
        "MAILS_PER_DAY",
        "SESSION_LIFETIME",
        "DATABASE_DIRECT_URL",
        "TRUSTED_PROXIES",
        "REQUIRE_TWO_FACTOR",
        "MAILS_PER_ADDRESS",
        "PASSWORD_ATTEMPTS_PER_ADDRESS",
    ];

    fn meant(given: &str) -> Option<&'static str> {
        OURS.iter().filter_map(|ours| Some((mistakes(given, ours)?, *ours))).min().map(|(_, ours)| ours)
    }

    #[test]
    fn a_misspelt_name_is_known_for_what_it_is() {
        for (given, ours) in [
            ("REQUIRE_TWOFACTOR", "REQUIRE_TWO_FACTOR"),
            ("REQIRE_TWOFACTR", "REQUIRE_TWO_FACTOR"),
            ("Require-Two-Factors", "REQUIRE_TWO_FACTOR"),
            ("SMPT_URL", "SMTP_URL"),
            ("SMTP_URI", "SMTP_URL"),
            ("SMPTURL", "SMTP_URL"),
            ("Smtp_Url", "SMTP_URL"),
            ("MSTP_ULR", "SMTP_URL"),
            ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
            ("TRUSTEDPROXY", "TRUSTED_PROXIES"),
            ("TRUSTED_PROXYS", "TRUSTED_PROXIES"),
            ("TRUSTET_PROXEIS", "TRUSTED_PROXIES"),
            ("DATABASEURL", "DATABASE_URL"),
            ("DATA_BASE_URL", "DATABASE_URL"),
            ("DATABSE_URLS", "DATABASE_URL"),
            ("DATABASE__URL_", "DATABASE_URL"),
            ("database.url", "DATABASE_URL"),
            ("DTABASE_POL", "DATABASE_POOL"),
            ("DATABASE_DIRCET_URL", "DATABASE_DIRECT_URL"),
            ("LATCHKEY_BASE_URL", "BASE_URL"),
            ("LATCHKEY_BASEURL", "BASE_URL"),
            ("BASE_UR", "BASE_URL"),
            ("EMAIL_FROM", "MAIL_FROM"),
            ("MAILFORM", "MAIL_FROM"),
            ("SECRET_KEYS", "SECRET_KEY"),
            ("SERCET_KEY", "SECRET_KEY"),
            ("CONECTION", "CONNECTIONS"),
            ("RENAME", "RENAMES"),
            ("SESSION_LIFE_TIME", "SESSION_LIFETIME"),
            ("MAIL_PER_DAY", "MAILS_PER_DAY"),
            ("PASSWORD_ATTEMPT_PER_ADRESS", "PASSWORD_ATTEMPTS_PER_ADDRESS"),
            ("Host", "HOST"),
            ("HSOT", "HOST"),
            ("port", "PORT"),
            ("PROT", "PORT"),
        ] {
            assert_eq!(meant(given), Some(ours), "{given}");
        }
    }

    #[test]
    fn every_single_slip_in_a_long_name_is_recognised() {
        for ours in OURS.iter().filter(|ours| ours.len() > SHORT) {
            for at in 0..ours.len() {
                let letters: Vec<char> = ours.chars().collect();
                let mut slips = vec![[&letters[..at], &letters[at + 1..]].concat()];
                slips.push([&letters[..at], &['Q'], &letters[at + 1..]].concat());
                slips.push([&letters[..at], &['Q'], &letters[at..]].concat());
                if at > 0 {
                    slips.push([&letters[..at - 1], &[letters[at], letters[at - 1]], &letters[at + 1..]].concat());
                }
                for slip in slips.iter().map(|slip| slip.iter().collect::<String>()) {
                    assert!(mistakes(&slip, ours).is_some(), "{slip} for {ours}");
                }
            }
        }
    }

    /// Names that systems, platforms and other programs set.
    const OF_OTHERS: &str = "
        # Debian, macOS, shells
        HOSTNAME HOSTTYPE HOME PATH PWD OLDPWD USER LOGNAME MAIL SHELL SHLVL TERM TERMCAP TZ LANG LANGUAGE LC_ALL EDITOR
        VISUAL PAGER LS_COLORS DISPLAY XDG_SESSION_ID XDG_SESSION_TYPE XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS
        DESKTOP_SESSION SESSION_MANAGER SSH_CONNECTION SSH_CLIENT SSH_TTY SUDO_USER PS1 IFS BASH_ENV HISTSIZE MAILCHECK
        MAILPATH COLUMNS LINES POSTS HOSTS PORTS SORT POST VENDOR OSTYPE MACHTYPE TMPDIR TMP TEMP __CF_USER_TEXT_ENCODING
        COMMAND_MODE SECURITYSESSIONID TERM_PROGRAM TERM_SESSION_ID XPC_SERVICE_NAME http_proxy HTTPS_PROXY no_proxy
        ALL_PROXY SSL_CERT_FILE SSL_CERT_DIR DEBIAN_FRONTEND
        # systemd
        INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES MAINPID MANAGERPID WATCHDOG_USEC
        SYSTEMD_EXEC_PID STATE_DIRECTORY RUNTIME_DIRECTORY CONFIGURATION_DIRECTORY CREDENTIALS_DIRECTORY MEMORY_PRESSURE_WATCH
        # Docker, Kubernetes
        container KUBERNETES_PORT KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT KUBERNETES_SERVICE_PORT_HTTPS
        KUBERNETES_PORT_443_TCP KUBERNETES_PORT_443_TCP_ADDR LATCHKEY_PORT LATCHKEY_SERVICE_HOST LATCHKEY_SERVICE_PORT
        LATCHKEY_PORT_8000_TCP_PROTO LATCHKEY_NAME DATABASE_PORT DATABASE_HOST DATABASE_NAME DATABASE_USER
        DATABASE_PASSWORD DATABASE_SERVICE_HOST DATABASE_SERVICE_PORT SMTP_PORT SMTP_HOST SMTP_USER SMTP_SSL SMTP_TLS
        SMTP_SERVICE_HOST MAIL_PORT MAIL_HOST MAIL_SERVICE_HOST SITE_PORT SITE_URL BASE_PORT DB_PORT REDIS_URL CACHE_URL
        POD_NAME POD_IP NODE_NAME NAMESPACE
        # Fly, Heroku, Render, Railway, GitHub and GitLab
        FLY_APP_NAME FLY_REGION FLY_ALLOC_ID FLY_PUBLIC_IP PRIMARY_REGION DYNO HEROKU_APP_NAME HEROKU_SLUG_COMMIT
        DATABASE_CONNECTION_POOL_URL HEROKU_POSTGRESQL_BLUE_URL WEB_CONCURRENCY SOURCE_VERSION STACK RENDER
        RENDER_EXTERNAL_URL RENDER_EXTERNAL_HOSTNAME RENDER_SERVICE_NAME IS_PULL_REQUEST RAILWAY_STATIC_URL
        RAILWAY_PUBLIC_DOMAIN RAILWAY_SERVICE_NAME RAILWAY_TCP_PROXY_PORT DATABASE_PUBLIC_URL DATABASE_PRIVATE_URL
        DIRECT_URL CI GITHUB_ACTIONS GITHUB_BASE_REF GITHUB_SERVER_URL GITHUB_API_URL GITHUB_TOKEN RUNNER_NAME RUNNER_OS
        ACTIONS_CACHE_URL JOB_NAME BUILD_URL CI_JOB_URL CI_PROJECT_URL CODESPACES CODESPACE_NAME SHUTTLE
        # Rust, and other programs in one .env file
        RUST_BACKTRACE RUST_LIB_BACKTRACE RUSTFLAGS RUSTUP_HOME CARGO_HOME CARGO CARGO_PKG_NAME CARGO_MANIFEST_DIR
        TOKIO_WORKER_THREADS SQLX_OFFLINE SQLX_LOG PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE POSTGRES_URL
        POSTGRES_PASSWORD POSTGRES_HOST_AUTH_METHOD TEST_DATABASE_URL SHADOW_DATABASE_URL SECRET_KEY_BASE APP_KEY APP_NAME
        APP_URL LOG_LEVEL LOG_CHANNEL MAIL_DRIVER MAIL_FROM_NAME MAIL_FROM_ADDRESS SESSION_DRIVER SESSION_ID SESSION_FILE
        SENTRY_DSN AWS_SECRET_ACCESS_KEY AWS_REGION NODE_ENV NODE_PORT NEXT_PUBLIC_BASE_URL VITE_BASE_URL JAVA_HOME
        PYTHONHASHSEED PYTHONPATH GOPATH HASH_SALT PAGE_URL IMAGE_URL BASE_DIR NPM_CONFIG_CACHE VIRTUAL_HOST VHOST
        # Windows
        ALLUSERSPROFILE APPDATA ComSpec CommonProgramFiles COMPUTERNAME DriverData HOMEDRIVE HOMEPATH LOCALAPPDATA
        LOGONSERVER NUMBER_OF_PROCESSORS OS Path PATHEXT PROCESSOR_ARCHITECTURE PROCESSOR_LEVEL ProgramData ProgramFiles
        PROMPT PSModulePath PUBLIC SESSIONNAME SystemDrive SystemRoot USERDOMAIN USERNAME USERPROFILE windir";

    #[test]
    fn a_name_of_another_program_is_not_taken_for_one_of_ours() {
        let lines = OF_OTHERS.lines().filter(|line| !line.trim_start().starts_with('#'));
        for name in lines.flat_map(str::split_whitespace) {
            assert_eq!(meant(name), None, "{name}");
        }
    }
}
