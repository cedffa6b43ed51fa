//! What lets people into an account or keeps them out, no matter who added it: what features store, recovery codes
//! and the password.

use super::app::{AddedCredentials, App};
use crate::accounts::{password::table, recovery_code, session};
use crate::base::Result;
use crate::db::{Connection, rate_limit};

/// What has been added to an account besides its password, each in words.
pub async fn list(app: &App, db: &mut Connection, user_id: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for AddedCredentials { list, .. } in &app.features.credentials {
        words.extend(list(db, user_id).await?);
    }
    match recovery_code::count(db, user_id).await? {
        0 => {}
        1 => words.push("A recovery code".into()),
        count => words.push(format!("{count} recovery codes")),
    }
    Ok(words)
}

/// Removes all of it and the password too, and logs everybody out. After that only a link to choose a password lets anybody
/// in. The user's row is locked by [`crate::accounts::user::lock`].
pub async fn remove_all(app: &App, db: &mut Connection, user_id: &str) -> Result<()> {
    for AddedCredentials { remove, .. } in &app.features.credentials {
        sqlx::query(*remove).bind(user_id).execute(&mut *db).await?;
    }
    recovery_code::delete_all(db, user_id).await?;
    table::remove(db, user_id).await?;
    session::lifecycle::revoke_all(db, user_id).await?;
    rate_limit::reset_user(db, user_id).await
}
