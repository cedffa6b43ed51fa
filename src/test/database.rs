//! A database for each test.

use sqlx::{AssertSqlSafe, ConnectOptions};

/// A database for one test, which is deleted with it.
pub struct TestDatabase {
    pub url: String,
    _folder: Option<tempfile::TempDir>,
    server: Option<String>,
}

impl TestDatabase {
    pub async fn new() -> TestDatabase {
        sqlx::any::install_default_drivers();
        match std::env::var("TEST_DATABASE_URL") {
            Ok(server) => TestDatabase::on(server, "").await,
            Err(_) if cfg!(feature = "sqlite") => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}/test.db", folder.path().display());
                TestDatabase { url, _folder: Some(folder), server: None }
            }
            Err(_) => panic!("set TEST_DATABASE_URL to a Postgres server: this build has no other engine"),
        }
    }

    /// One on Postgres that orders text by the rules of a language. `None` where tests run on SQLite, which has no such rules.
    pub async fn with_icu() -> Option<TestDatabase> {
        sqlx::any::install_default_drivers();
        let server = std::env::var("TEST_DATABASE_URL").ok()?;
        Some(
            TestDatabase::on(
                server,
                "locale_provider icu icu_locale 'de' locale 'C' encoding 'UTF8' template template0",
            )
            .await,
        )
    }

    async fn on(server: String, options: &str) -> TestDatabase {
        let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
        run_on(&server, format!("create database {name} {options}")).await;
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        TestDatabase { url: url.to_string(), _folder: None, server: Some(server) }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let name = url::Url::parse(&self.url).unwrap().path()[1..].to_string();
        let drop_it = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, format!("drop database if exists {name} with (force)")));
        };
        let _ = std::thread::spawn(drop_it).join();
    }
}

async fn run_on(server: &str, sql: String) {
    let options: sqlx::any::AnyConnectOptions = server.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}
