//! Copies a SQLite database into a file.

use super::partial::Partial;
use super::progress::Progress;
use super::stop::Stop;
use crate::db::engine::DbConnection;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::time::sleep;

/// The time between two looks at how much is written.
const PAUSE: Duration = Duration::from_millis(100);

/// Copies what is committed when it begins. `vacuum into` reads it in one transaction, so the site can write meanwhile.
/// SQLite's backup interface would need unsafe code, and begins anew whenever another process writes.
///
/// # Errors
/// One sentence, also when the process is asked to stop.
pub async fn copy(db: &mut DbConnection, to: &Path) -> Result<Partial> {
    let mut stop = Stop::new()?;
    let partial = Partial::of(to)?;
    let pages: i64 = sqlx::query_scalar("pragma page_count").fetch_one(&mut *db).await?;
    let page_size: i64 = sqlx::query_scalar("pragma page_size").fetch_one(&mut *db).await?;
    // SQLite takes a relative path that begins with `file:` for an address.
    let path = partial.path().canonicalize()?;
    let path = path.to_str().context("the name of the file must be UTF-8")?;
    let mut copying = pin!(sqlx::query("vacuum into $1").bind(path).execute(db));
    let (progress, mut written) = (Progress::new("pages", Some(pages.unsigned_abs())), 0);
    loop {
        tokio::select! {
            copied = &mut copying => {
                progress.finish();
                return copied.map(|_| partial).with_context(|| format!("{path} cannot be written"));
            }
            // Before that, SQLite might create the file anew after it has been removed.
            () = stop.asked(), if written > 0 => bail!("stopped"),
            () = sleep(PAUSE) => {
                let now = partial.path().metadata()?.len() / page_size.unsigned_abs().max(1);
                progress.advance(now.saturating_sub(written));
                written = now;
            }
        }
    }
}
