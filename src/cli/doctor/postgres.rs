//! Checks what the Postgres server and the role allow.

use super::report::Report;
use super::schema::{MIGRATIONS, tables};
use crate::base::Config;
use crate::db::engine::DbConnection;
use anyhow::Result;
use sqlx::Row;

/// Returns whether the role has a schema, so that the rest can be checked.
pub async fn look(report: &mut Report, db: &mut DbConnection, config: &Config) -> Result<bool> {
    let version: String = sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut *db).await?;
    let encoding: String = sqlx::query_scalar("select current_setting('server_encoding')").fetch_one(&mut *db).await?;
    report.ok("database", format!("Postgres {version}, {encoding}"))?;
    let of_role = "select cast(current_schema() as text), current_setting('search_path'), \
                   cast(quote_ident(current_user) as text)";
    let (schema, path, role): (Option<String>, String, String) = sqlx::query_as(of_role).fetch_one(&mut *db).await?;
    if schema.is_none() {
        let sentence = format!(
            "the role may not use any schema of its search_path, {path}: run grant usage on schema public to {role}; \
             or set search_path to the schema with the tables"
        );
        return report.wrong("rights", sentence).map(|()| false);
    }
    look_at_writes(report, db, &role).await?;
    look_at_limits(report, db, config).await.map(|()| true)
}

async fn look_at_writes(report: &mut Report, db: &mut DbConnection, role: &str) -> Result<()> {
    // The settings of this connection say nothing about those of the site.
    let sql = "select case when pg_is_in_recovery() then 'standby' else reset_val end from pg_settings \
               where name = 'default_transaction_read_only'";
    let read_only: String = sqlx::query_scalar(sql).fetch_one(&mut *db).await?;
    match &*read_only {
        "standby" => {
            report.wrong("rights", "the server is a standby, which is read-only: set DATABASE_URL to the primary")?
        }
        "on" => {
            let sentence = "default_transaction_read_only is on, so nothing can be written: reset it for the role, the database or the server";
            report.wrong("rights", sentence)?;
        }
        _ => {}
    }
    let sql = "select cast(c.relname as text) as name, cast(quote_ident(c.relname) as text) as quoted from pg_class c \
               where c.relkind in ('r', 'p') and pg_table_is_visible(c.oid) \
               and not (has_table_privilege(c.oid, 'select') and (c.relname = $1 or has_table_privilege(c.oid, 'insert') \
               and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))) order by 1";
    let refused: Vec<(String, String)> = sqlx::query_as(sql).bind(MIGRATIONS).fetch_all(&mut *db).await?;
    let ours = tables()?;
    let of_site = |names: &&(String, String)| ours.contains_key(&names.0);
    let tables: Vec<_> = refused.iter().filter(of_site).map(|(_, quoted)| &**quoted).collect();
    let may_read = !refused.iter().any(|(name, _)| name == MIGRATIONS);
    if !tables.is_empty() {
        let names = tables.join(", ");
        let sentence = format!(
            "the role may not write to {names}: run grant select, insert, update, delete on {names} to \
                     {role};"
        );
        report.wrong("rights", sentence)?;
    }
    if !may_read {
        let cure = format!("run grant select on {MIGRATIONS} to {role};");
        report.wrong("rights", format!("the role may not read {MIGRATIONS}: {cure}"))?;
    }
    if read_only == "off" && tables.is_empty() && may_read {
        report.ok("rights", "the role may write to every table")?;
    }
    Ok(())
}

async fn look_at_limits(report: &mut Report, db: &mut DbConnection, config: &Config) -> Result<()> {
    // -1 means no limit. Connections of the same role may belong to the running site.
    let sql = "select cast(current_user as text) as role_name, cast(current_database() as text) as database_name, \
               cast(case when r.rolsuper then -1 else r.rolconnlimit end as bigint) as of_role, \
               cast(case when r.rolsuper then -1 else d.datconnlimit end as bigint) as of_database, \
               cast(current_setting('max_connections') as bigint) \
               - cast(current_setting('superuser_reserved_connections') as bigint) \
               - (select count(*) from pg_stat_activity where usename <> current_user) as of_server \
               from pg_roles r, pg_database d where r.rolname = current_user and d.datname = current_database()";
    let row = sqlx::query(sql).fetch_one(db).await?;
    let (role, database): (String, String) = (row.try_get("role_name")?, row.try_get("database_name")?);
    let limits: [(i64, _, _); 3] = [
        (row.try_get("of_role")?, "the role", format!("run alter role \"{role}\" connection limit -1")),
        (row.try_get("of_database")?, "the database", format!("run alter database \"{database}\" connection limit -1")),
        (row.try_get("of_server")?, "the server, not counting other users,", "raise its max_connections".into()),
    ];
    // One more while the site starts.
    let needed = i64::from(config.database_pool) + 1;
    let narrow = limits.iter().filter(|(allows, ..)| (0..needed).contains(allows)).min_by_key(|(allows, ..)| *allows);
    let Some((allows, what, raise)) = narrow else {
        return report.ok("pool", format!("{needed} connections are allowed"));
    };
    let smaller = if *allows > 3 { format!("set DATABASE_POOL={}, or ", allows - 1) } else { String::new() };
    report.wrong("pool", format!("the site needs {needed} connections, and {what} allows {allows}: {smaller}{raise}"))
}
