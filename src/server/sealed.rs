//! Warns at the start about sealed values that cannot be opened. Otherwise a lost key would only be noticed by the
//! users who are locked out.

use crate::base::{Result, Sealed, Seals};
use crate::db::{Connection, Database};
use crate::web::App;

/// Logs a line for each column with such values. It takes one statement per column, in the background.
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
