//! Copies the rows of a table, and compares tables.

use super::plan::Table;
use crate::cli::progress::Progress;
use crate::db::engine::DbConnection;
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;

/// Bytes of the rows that are written at once.
const BATCH: usize = 1 << 19;

/// The rows of a table, in whatever order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    pub rows: u64,
    sum: u128,
}

impl Checksum {
    fn add(&mut self, row: &str) {
        let hash = Sha256::digest(row);
        let first = hash.iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte));
        self.sum = self.sum.wrapping_add(first);
        self.rows += 1;
    }
}

/// Returns what was read.
///
/// # Errors
/// When the rows cannot be read or written.
pub async fn copy(
    table: &Table,
    source: &mut DbConnection,
    target: &mut DbConnection,
    progress: &Progress,
) -> Result<Checksum> {
    let (mut checksum, mut batch, mut written) = (Checksum::default(), String::new(), 0);
    let mut rows = sqlx::query_scalar(AssertSqlSafe(table.read_source.clone())).fetch(source);
    loop {
        let row: Option<String> = rows.try_next().await.with_context(|| unread(table))?;
        if let Some(row) = &row {
            let row = canonical(row)?;
            checksum.add(&row);
            batch.push(if batch.is_empty() { '[' } else { ',' });
            batch += &row;
        }
        if batch.len() >= BATCH || (row.is_none() && !batch.is_empty()) {
            let rows = std::mem::take(&mut batch) + "]";
            let write = sqlx::query(AssertSqlSafe(table.write.clone())).bind(rows).execute(&mut *target).await;
            write.with_context(|| format!("the rows of {} could not be written to the new database", table.name))?;
            progress.advance(checksum.rows - written);
            written = checksum.rows;
        }
        if row.is_none() {
            return Ok(checksum);
        }
    }
}

/// What is in the new database.
///
/// # Errors
/// When the rows cannot be read.
pub async fn checksum(table: &Table, target: &mut DbConnection, progress: &Progress) -> Result<Checksum> {
    let mut checksum = Checksum::default();
    let mut rows = sqlx::query_scalar(AssertSqlSafe(table.read_target.clone())).fetch(target);
    while let Some(row) = rows.try_next().await.with_context(|| unread(table))? {
        let row: String = row;
        checksum.add(&canonical(&row)?);
        progress.advance(1);
    }
    Ok(checksum)
}

fn unread(table: &Table) -> String {
    format!("the rows of {} could not be read", table.name)
}

/// The engines differ in spaces and in how they escape characters.
fn canonical(row: &str) -> Result<String> {
    let texts: Vec<Option<String>> = serde_json::from_str(row)?;
    Ok(serde_json::to_string(&texts)?)
}
