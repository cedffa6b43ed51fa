//! Checks whether sealed values can be opened with the present keys.

use super::report::Report;
use crate::base::{Config, Sealed, Seals, explain};
use crate::db::engine::DbConnection;
use crate::features::Feature;
use anyhow::Result;
use std::time::{Duration, Instant};

/// How long opening all values may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn look(report: &mut Report, db: &mut DbConnection, config: &Config, features: &[Feature]) -> Result<()> {
    let sealed: Vec<_> = features.iter().flat_map(|feature| feature.sealed).collect();
    let seals = match Seals::load_if_made(config, features.iter().any(Feature::seals)) {
        Ok(seals) => seals,
        Err(error) => return report.wrong("secrets", explain(&error)),
    };
    for column in sealed {
        look_at(report, db, &seals, column).await?;
    }
    Ok(())
}

async fn look_at(report: &mut Report, db: &mut DbConnection, seals: &Seals, column: &Sealed) -> Result<()> {
    let (table, started) = (column.table, Instant::now());
    let (mut current, mut older, mut damaged, mut after) = (0, 0, 0, String::new());
    while started.elapsed() < PATIENCE {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(column.select).bind(&*after).fetch_all(&mut *db).await?;
        for (user_id, value) in &rows {
            match seals.open(table, user_id, value) {
                Err(_) => damaged += i64::from(seals.has_key_of(value)),
                Ok(_) if seals.is_current(value) => current += 1,
                Ok(_) => older += 1,
            }
        }
        let Some((last, _)) = rows.last() else {
            after.clear();
            break;
        };
        after.clone_from(last);
    }
    let unopened = seals.count_unopened(&sqlx::query_as(column.count_by_key).fetch_all(db).await?);
    if damaged > 0 {
        report.wrong("secrets", Seals::describe_damaged(column, damaged))?;
    }
    if unopened > 0 {
        report.wrong("secrets", seals.describe_unopened(column, unopened))?;
    }
    if older > 0 {
        report.warning("secrets", format!("{older} of {table} are sealed with an older key: run latchkey reseal"))?;
    }
    if !after.is_empty() {
        let sentence =
            format!("{} of {table} were checked within {PATIENCE:?}, and not the rest", current + older + damaged);
        return report.warning("secrets", sentence);
    }
    if unopened + older + damaged == 0 {
        report.ok("secrets", format!("all {current} of {table} are sealed with the newest key"))?;
    }
    Ok(())
}
