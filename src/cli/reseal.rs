//! `latchkey reseal`: encrypts stored secrets with the newest key of `SECRET_KEY`, so that older keys can be removed.

use super::output::say;
use crate::base::{Config, Env, Sealed, Seals};
use crate::db::{Connection, Database};
use crate::features;
use crate::server::site::Site;
use anyhow::Result;

pub async fn run(env: &Env) -> Result<()> {
    let site = Site::open(Config::from_env(env)?, features::all(env)?).await?;
    let app = &site.app;
    for column in &app.features.sealed {
        let resealed = reseal(&app.seals, &app.db, column).await?;
        say(format!("{}: {resealed} sealed again", column.table))?;
    }
    app.db.close().await;
    say("Everything is sealed with the first key of SECRET_KEY; the others can be removed.")
}

/// Seals the values of this column again that are sealed with older keys, and returns how many they were.
async fn reseal(seals: &Seals, db: &Database, column: &Sealed) -> Result<u64> {
    let reseal_one = async |user_id: &str, old: &[u8]| {
        let new = seals.seal(column.table, user_id, &seals.open(column.table, user_id, old)?)?;
        let replace = async |db: &mut Connection| {
            let query = sqlx::query(column.update).bind(new).bind(user_id).bind(old);
            Ok(query.execute(db).await?.rows_affected())
        };
        Ok(db.write(replace).await?)
    };
    for_outdated(seals, db, column, reseal_one).await
}

/// How many values of this column are sealed with older keys.
pub async fn count_outdated(seals: &Seals, db: &Database, column: &Sealed) -> Result<u64> {
    for_outdated(seals, db, column, async |_, _| Ok(1)).await
}

/// Calls `act` with each value of this column that is sealed with an older key, and its user's id. Returns the sum of
/// what `act` returns.
async fn for_outdated(
    seals: &Seals,
    db: &Database,
    column: &Sealed,
    act: impl AsyncFn(&str, &[u8]) -> Result<u64>,
) -> Result<u64> {
    let (mut sum, mut after) = (0, String::new());
    loop {
        let rows = next_rows(db, column, &after).await?;
        let Some((last, _)) = rows.last() else { return Ok(sum) };
        for (user_id, sealed) in rows.iter().filter(|(_, sealed)| !seals.is_current(sealed)) {
            sum += act(user_id, sealed).await?;
        }
        after.clone_from(last);
    }
}

async fn next_rows(db: &Database, column: &Sealed, after: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let next = async |db: &mut Connection| Ok(sqlx::query_as(column.select).bind(after).fetch_all(db).await?);
    Ok(db.read(next).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;

    const OLD: &str = "the key that was there before the other one";
    const NEW: &str = "the key that is to take the place of the old";

    /// A column like those of features, in a table that every app has.
    const SALTS: Sealed = Sealed {
        table: "salts",
        select: "select name, value from salts where name > $1 and name like 'sealed%' order by name limit 100",
        update: "update salts set value = $1 where name = $2 and value = $3",
    };

    fn seals(keys: &str) -> Seals {
        let env: Env = [("SECRET_KEY", keys)].into_iter().collect();
        Seals::load(&Config::from_env(&env).unwrap(), true).unwrap()
    }

    #[tokio::test]
    async fn what_is_sealed_with_an_old_key_is_counted_and_sealed_again() {
        let app = TestApp::new().await;
        let db = &app.app.db;
        let (old, both) = (seals(OLD), seals(&format!("{NEW},{OLD}")));
        for number in 0..250 {
            let name = format!("sealed{number:03}");
            let seals = if number < 120 { &old } else { &both };
            let sealed = seals.seal("salts", &name, name.as_bytes()).unwrap();
            let insert = async |db: &mut Connection| {
                let query = sqlx::query("insert into salts (name, value) values ($1, $2)");
                Ok(query.bind(&*name).bind(sealed.clone()).execute(db).await?)
            };
            db.write(insert).await.unwrap();
        }
        assert_eq!(count_outdated(&both, db, &SALTS).await.unwrap(), 120);
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), 120);
        assert_eq!(count_outdated(&both, db, &SALTS).await.unwrap(), 0);
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), 0);
        // Now the old key can be removed.
        assert_eq!(count_outdated(&seals(NEW), db, &SALTS).await.unwrap(), 0);
        let rows = next_rows(db, &SALTS, "").await.unwrap();
        let (name, sealed) = &rows[7];
        assert_eq!(seals(NEW).open("salts", name, sealed).unwrap(), name.as_bytes());
        // Without the key nothing is lost, and the command fails.
        assert!(reseal(&seals(OLD), db, &SALTS).await.is_err());
    }
}
