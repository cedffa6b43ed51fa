//! `latchkey reseal`: encrypts stored secrets with the newest key of `SECRET_KEY`, so that older keys can be removed.

use super::output::say;
use crate::base::{Config, Env, Sealed, Seals};
use crate::db::{Connection, Database};
use crate::features;
use anyhow::{Result, ensure};

/// # Errors
/// When there are values that none of the keys can open. They are not changed.
pub async fn run(env: &Env) -> Result<()> {
    let config = Config::from_env(env)?;
    let sealed: Vec<_> = features::all(env)?.iter().flat_map(|feature| feature.sealed).collect();
    let db = Database::open_existing(&config).await?;
    let seals = Seals::load_existing(&config, !sealed.is_empty())?;
    let mut left = Vec::new();
    for column in sealed {
        let counts = reseal(&seals, &db, column).await?;
        say(format!("{}: {} sealed again", column.table, counts.older))?;
        let count = async |db: &mut Connection| Ok(sqlx::query_as(column.count_by_key).fetch_all(db).await?);
        match seals.count_unopened(&db.read(count).await?) {
            0 => {}
            unopened => left.push(seals.describe_unopened(column, unopened)),
        }
        if counts.damaged > 0 {
            left.push(Seals::describe_damaged(column, counts.damaged));
        }
    }
    db.close().await;
    ensure!(left.is_empty(), "{}; then run latchkey reseal again", left.join("; "));
    say("Everything is sealed with the first key of SECRET_KEY; the others can be removed.")
}

/// How many values of a column are sealed with the newest key, with an older one, and with a known key that cannot open
/// them.
#[derive(Debug, Default, PartialEq, Eq)]
struct SealCounts {
    current: i64,
    older: i64,
    damaged: i64,
}

/// Opens every value of this column, and seals those again that were sealed with older keys.
async fn reseal(seals: &Seals, db: &Database, column: &Sealed) -> Result<SealCounts> {
    let (mut counts, mut after) = (SealCounts::default(), String::new());
    loop {
        let rows = next_rows(db, column, &after).await?;
        let Some((last, _)) = rows.last() else { return Ok(counts) };
        for (user_id, old) in &rows {
            match seals.open(column.table, user_id, old) {
                Err(_) => counts.damaged += i64::from(seals.has_key_of(old)),
                Ok(_) if seals.is_current(old) => counts.current += 1,
                Ok(value) => {
                    let new = seals.seal(column.table, user_id, &value)?;
                    let replace = async |db: &mut Connection| {
                        Ok(sqlx::query(column.update).bind(new).bind(user_id).bind(old).execute(db).await?)
                    };
                    db.write(replace).await?;
                    counts.older += 1;
                }
            }
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
        names: ["salt", "salts"],
        select: "select name, value from salts where name > $1 and name like 'sealed%' order by name limit 100",
        update: "update salts set value = $1 where name = $2 and value = $3",
        if_unopened: "nobody misses them",
        count_by_key: "select substr(value, 1, 4) as key_id, count(*) as salts from salts group by 1",
    };

    fn seals(keys: &str) -> Seals {
        let env: Env = [("SECRET_KEY", keys)].into_iter().collect();
        Seals::load(&Config::from_env(&env).unwrap(), true).unwrap()
    }

    async fn insert(db: &Database, name: &str, sealed: &[u8]) {
        let insert = async |db: &mut Connection| {
            let query = sqlx::query("insert into salts (name, value) values ($1, $2)");
            Ok(query.bind(name).bind(sealed).execute(db).await?)
        };
        db.write(insert).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_sealed_with_an_old_key_is_counted_and_sealed_again() {
        let app = TestApp::new().await;
        let db = &app.app.db;
        let (old, both) = (seals(OLD), seals(&format!("{NEW},{OLD}")));
        for number in 0..250 {
            let name = format!("sealed{number:03}");
            let seals = if number < 120 { &old } else { &both };
            insert(db, &name, &seals.seal("salts", &name, name.as_bytes()).unwrap()).await;
        }
        let counts = |current, older, damaged| SealCounts { current, older, damaged };
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), counts(130, 120, 0));
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), counts(250, 0, 0));
        // Now the old key can be removed.
        assert_eq!(reseal(&seals(NEW), db, &SALTS).await.unwrap(), counts(250, 0, 0));
        let rows = next_rows(db, &SALTS, "").await.unwrap();
        let (name, sealed) = &rows[7];
        assert_eq!(seals(NEW).open("salts", name, sealed).unwrap(), name.as_bytes());
    }

    #[tokio::test]
    async fn what_no_key_opens_is_counted_and_left_as_it_is_while_the_rest_is_sealed_again() {
        let app = TestApp::new().await;
        let db = &app.app.db;
        let (lost, old, both) =
            (seals("a key that is lost and that nobody will find"), seals(OLD), seals(&format!("{NEW},{OLD}")));
        insert(db, "sealed1", &lost.seal("salts", "sealed1", b"lost").unwrap()).await;
        insert(db, "sealed2", &old.seal("salts", "sealed2", b"old").unwrap()).await;
        insert(db, "sealed3", &both.seal("salts", "sealed3", b"new").unwrap()).await;
        // The key is there, and the value belongs to another row.
        insert(db, "sealed4", &both.seal("salts", "sealed3", b"new").unwrap()).await;
        insert(db, "sealed5", b"").await;
        let before = next_rows(db, &SALTS, "").await.unwrap();
        let counts = |current, older, damaged| SealCounts { current, older, damaged };
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), counts(1, 1, 2));
        assert_eq!(reseal(&both, db, &SALTS).await.unwrap(), counts(2, 0, 2));
        let after = next_rows(db, &SALTS, "").await.unwrap();
        assert_eq!(seals(NEW).open("salts", "sealed2", &after[1].1).unwrap(), b"old");
        assert!([0, 2, 3, 4].iter().all(|&row| before[row] == after[row]));
    }
}
