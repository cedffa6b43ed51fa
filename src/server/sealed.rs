//! Looks at the start for sealed values that cannot be opened. Otherwise a wrong or lost key would only be noticed by the
//! users who are locked out.

use crate::base::{Result, Sealed, Seals};
use crate::db::{Connection, Database};
use crate::web::App;
use anyhow::ensure;

/// Looks at the first hundred values of each column, which takes the same time however many there are.
///
/// # Errors
/// One sentence when the key of one of them is missing, unless `SECRET_KEY_LOST` says that this is known.
pub async fn check_keys(app: &App) -> anyhow::Result<()> {
    for column in app.features.sealed.iter().filter(|_| !app.config.secret_key_lost) {
        let first = async |db: &mut Connection| Ok(sqlx::query_as(column.select).bind("").fetch_all(db).await?);
        let first: Vec<(String, Vec<u8>)> = app.db.read(first).await?;
        if first.iter().all(|(_, value)| app.seals.has_key_of(value)) {
            continue;
        }
        // Those that are not in use yet do not count.
        let count = count_unopened(&app.db, &app.seals, column).await?;
        ensure!(
            count == 0,
            "{}; or, if that key is lost for good, set SECRET_KEY_LOST=yes",
            app.seals.describe_unopened(column, count)
        );
    }
    Ok(())
}

/// Logs a line for each column with values whose key is missing. It takes one statement per column, in the background.
pub async fn warn_of_missing_keys(app: App) {
    for column in &app.features.sealed {
        match count_unopened(&app.db, &app.seals, column).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!("{}", app.seals.describe_unopened(column, count)),
            Err(error) => {
                let cause = anyhow::Error::from(error);
                tracing::warn!("it is not known whether {} can be opened: {cause:#}", column.table);
            }
        }
    }
}

/// How many values of this column are sealed with a missing key.
async fn count_unopened(db: &Database, seals: &Seals, column: &Sealed) -> Result<i64> {
    let count = async |db: &mut Connection| Ok(sqlx::query_as(column.count_by_key).fetch_all(db).await?);
    Ok(seals.count_unopened(&db.read(count).await?))
}
