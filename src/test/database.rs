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
            Ok(server) => {
                let name = format!("latchkey_{}", uuid::Uuid::now_v7().simple());
                run_on(&server, format!("create database {name}")).await;
                let mut url = url::Url::parse(&server).unwrap();
                url.set_path(&name);
                TestDatabase { url: url.to_string(), _folder: None, server: Some(server) }
            }
            Err(_) if cfg!(feature = "sqlite") => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}/test.db", folder.path().display());
                TestDatabase { url, _folder: Some(folder), server: None }
            }
            Err(_) => panic!("set TEST_DATABASE_URL to a Postgres server: this build has no other engine"),
        }
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
