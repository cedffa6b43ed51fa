//! For monitors and load balancers: is the process alive, and does its database answer?

use super::feature::Feature;
use crate::base::{Env, Result};
use crate::web::{Access, App, Routes};
use axum::extract::State;

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    let routes = Routes::new().get(ALIVE, Access::Public, alive).get(READY, Access::Public, ready);
    Ok(Feature { routes, any_host: &[ALIVE, READY], ..Feature::named("health") })
}

const ALIVE: &str = "/healthz";
const READY: &str = "/readyz";

async fn alive() -> &'static str {
    "alive\n"
}

async fn ready(State(app): State<App>) -> Result<&'static str> {
    app.db.read(async |db| Ok(sqlx::query("select 1").execute(db).await?)).await?;
    Ok(if app.db.can_write() { "ready\n" } else { "degraded: cannot write\n" })
}

#[cfg(test)]
mod tests {
    use crate::test::TestApp;

    #[tokio::test]
    async fn without_its_database_the_process_is_alive_but_not_ready() {
        let app = TestApp::new().await;
        app.visitor().get("/readyz").await.assert_status(200).assert_body("ready\n");
        app.lose_database().await;
        app.visitor().get("/healthz").await.assert_status(200).assert_body("alive\n");
        app.visitor().get("/readyz").await.assert_status(503).assert_header("retry-after", "2");
    }
}
