//! People, newest first, or found by how a username or an address begins.
//!
//! Every statement walks along an index from where the page begins, so a page costs the same however many people there are.
//! For the same reason the filters do not combine: those in a group are listed whatever their state.

use crate::accounts::{Email, Permission, group, group::Group};
use crate::base::{Error, Result};
use crate::db::{AFTER_ALL_IDS, Connection, DbRow};
use crate::web::{AccountGroup, AccountRow, App, List, ListQuery, ONE_MORE, Page, Query, RowState, Template, files};
use axum::extract::State;
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use sqlx::{FromRow, Row};
use std::collections::BTreeSet;

pub const PATH: &str = "/admin/users";

pub const MANAGE_USERS: Permission = Permission::named("users.manage", "See and change other people's accounts");

pub const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 2, "Users", PATH, |_, _| {
    RowState::fixed("Everybody with an account", "Manage")
})
.needing(MANAGE_USERS);

/// Somebody with an account.
#[derive(Serialize)]
pub struct Person {
    pub id: String,
    pub username: String,
    pub joined: i64,
    pub is_disabled: bool,
    /// The confirmed address, or the one that was found.
    email: Option<String>,
    /// Whether the address was found, and not the username.
    by_address: bool,
    /// Where the list goes on after this row.
    #[serde(skip)]
    position: String,
}

impl FromRow<'_, DbRow> for Person {
    fn from_row(row: &DbRow) -> sqlx::Result<Person> {
        let disabled_at: Option<i64> = row.try_get("disabled_at")?;
        Ok(Person {
            position: row.try_get("id")?,
            id: row.try_get("id")?,
            username: row.try_get("username")?,
            joined: row.try_get("created_at")?,
            is_disabled: disabled_at.is_some(),
            email: row.try_get("email")?,
            by_address: false,
        })
    }
}

/// # Errors
/// [`Error::NOT_FOUND`] when there is nobody with this id.
pub async fn find(db: &mut Connection, id: &str) -> Result<Person> {
    let sql = "select u.id, u.username, u.created_at, u.disabled_at, null as email from users u where u.id = $1";
    sqlx::query_as(sql).bind(id).fetch_optional(db).await?.ok_or(Error::NOT_FOUND)
}

#[derive(Serialize)]
struct UsersPage {
    people: List<Person>,
    groups: Vec<Group>,
    query: ListQuery,
}

impl Template for UsersPage {
    const FILE: &'static str = files::ADMIN_USERS_INDEX;
}

pub async fn index(State(app): State<App>, page: Page, Query(query): Query<ListQuery>) -> Result<Response> {
    let select = async |db: &mut Connection| {
        let people = match query.get("q") {
            Some(typed) => search(db, typed, &query).await?,
            None => newest(db, &query).await?,
        };
        Ok((people, group::all(db).await?))
    };
    let (people, groups) = app.db.read(select).await?;
    let mut people = List::new(people, &query, |person| &person.position);
    // Who is found by the name need not be listed again by the address.
    let found = people.rows.iter().filter(|person| !person.by_address).map(|person| person.id.clone());
    let found: BTreeSet<String> = found.collect();
    people.rows.retain(|person| !person.by_address || !found.contains(&person.id));
    page.render(&UsersPage { people, groups, query }).await
}

const ALL: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from users u left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where u.id < $1 order by u.id desc limit $2";
const ENABLED: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from users u left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where u.disabled_at is null and u.id < $1 order by u.id desc limit $2";
const DISABLED: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from users u left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where u.disabled_at is not null and u.id < $1 order by u.id desc limit $2";
const IN_GROUP: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from user_groups m join users u on u.id = m.user_id \
    left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where m.user_id < $1 and m.group_id = $3 order by m.user_id desc limit $2";

async fn newest(db: &mut Connection, query: &ListQuery) -> Result<Vec<Person>> {
    let (state, group) = (query.get("state"), query.get("group"));
    let sql = match state {
        _ if group.is_some() => IN_GROUP,
        Some("enabled") => ENABLED,
        Some("disabled") => DISABLED,
        _ => ALL,
    };
    let find = sqlx::query_as(sql).bind(query.after(AFTER_ALL_IDS)).bind(ONE_MORE);
    let find = if let Some(group) = group { find.bind(group) } else { find };
    Ok(find.fetch_all(db).await?)
}

/// Those whose name or address is the text `$1`, after the person `$2`.
const WITH_NAME: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from users u left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where u.username collate \"binary\" = $1 and u.id > $2 limit $3";
const WITH_ADDRESS: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from addresses a join users u on u.id = a.user_id \
    where a.email collate \"binary\" = $1 and a.user_id > $2 order by a.user_id limit $3";

/// Those whose name or address is after the text `$1` and before the text `$2`.
const WITH_LATER_NAME: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from users u left join addresses a on a.user_id = u.id and a.confirmed_at is not null \
    where u.username collate \"binary\" > $1 and u.username collate \"binary\" < $2 \
    order by u.username collate \"binary\" limit $3";
const WITH_LATER_ADDRESS: &str = "select u.id, u.username, u.created_at, u.disabled_at, a.email \
    from addresses a join users u on u.id = a.user_id \
    where a.email collate \"binary\" > $1 and a.email collate \"binary\" < $2 \
    order by a.email collate \"binary\", a.user_id limit $3";

/// Where a search goes on: after a name or an address, and the id of the person who is found by it.
fn position(text: &str, id: &str) -> String {
    BASE64URL_NOPAD.encode(format!("{text} {id}").as_bytes())
}

/// What [`position`] was made of, if it belongs to a search for this.
fn parse_position(encoded: &str, beginning: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?).ok()?;
    let (text, id) = decoded.split_once(' ').filter(|_| decoded.starts_with(beginning) && !decoded.contains('\0'))?;
    Some((text.into(), id.into()))
}

/// Those whose name begins like this, and after them those who have such an address, each in the order of that text.
async fn search(db: &mut Connection, typed: &str, query: &ListQuery) -> Result<Vec<Person>> {
    let typed = typed.trim();
    let beginning = Email::parse(typed).map_or_else(|_| typed.to_ascii_lowercase(), |email| email.as_str().into());
    let end = format!("{beginning}{}", char::MAX);
    let after = query.get("after").and_then(|after| parse_position(after, &beginning));
    let (text, id) = after.unwrap_or_else(|| (beginning.clone(), String::new()));
    let by_name = [(WITH_NAME, &text, &id), (WITH_LATER_NAME, &text, &end)];
    // Only addresses have an @, and names have come before them.
    let (by_name, text, id) = match text.contains('@') {
        true => (None, &text, &id),
        false => (Some(by_name), &beginning, &String::new()),
    };
    let mut found: Vec<Person> = Vec::new();
    for (sql, after, bound) in
        by_name.into_iter().flatten().chain([(WITH_ADDRESS, text, id), (WITH_LATER_ADDRESS, text, &end)])
    {
        let left = ONE_MORE - found.len() as i64;
        let mut people: Vec<Person> =
            sqlx::query_as(sql).bind(after).bind(bound).bind(left).fetch_all(&mut *db).await?;
        for person in &mut people {
            person.by_address = [WITH_ADDRESS, WITH_LATER_ADDRESS].contains(&sql);
            let text = person.email.as_ref().filter(|_| person.by_address).unwrap_or(&person.username);
            person.position = position(text, &person.id);
        }
        found.extend(people);
    }
    Ok(found)
}

/// Somebody on a page.
#[cfg(test)]
pub fn person(is_disabled: bool, by_address: bool) -> Person {
    let (id, username, email) = ("0190".into(), "ada".into(), by_address.then(|| "ada@example.com".into()));
    Person { id, username, joined: 1, is_disabled, email, by_address, position: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::is_sqlite;
    use crate::test::{Answer, TestApp, TestDatabase, Visitor, check};
    use crate::web::{Routes, form::parse_query};
    use sqlx::AssertSqlSafe;

    #[test]
    fn its_page_renders() {
        let page = |rows, query| {
            let people = List { rows, previous: Some("".into()), next: Some("?after=0190".into()) };
            let groups = vec![Group { id: "0191".into(), name: "staff".into() }];
            UsersPage { people, groups, query: parse_query(Some(query)) }
        };
        let people = || vec![person(true, false), person(false, true), person(false, false)];
        check(&[
            page(people(), ""),
            page(people(), "q=a%22%3Cb"),
            page(vec![], "q=ada&state=disabled&group=0191"),
            page(vec![], "state=disabled"),
            page(vec![], "state=enabled&group=0191"),
        ]);
    }

    /// Somebody who may see and change other people's accounts, and no more.
    async fn manager(app: &TestApp) -> Visitor {
        let manager = app.person("zoe").await;
        app.grant("zoe", "users.manage").await;
        manager
    }

    /// So many people, the oldest first: name0001 with the address address0001@example.com, and so on.
    async fn people(app: &TestApp, number: u32) {
        let sql = "with recursive n (i) as (select 1 union all select i + 1 from n where i < $1) \
                   insert into users (id, username, created_at) \
                   select '0' || substr(cast(10000 + i as text), 2), 'name' || substr(cast(10000 + i as text), 2), 1 from n";
        let sql_of_addresses = "insert into addresses (user_id, email, confirmed_at) \
                                select id, 'address' || substr(id, 2) || '@example.com', 1 from users where username like 'name%'";
        let insert = async |db: &mut Connection| {
            // SQLite returns no rows here, whatever it is asked.
            sqlx::query(sql).bind(i64::from(number)).execute(&mut *db).await?;
            sqlx::query(sql_of_addresses).execute(db).await?;
            Ok(())
        };
        app.app.db.write(insert).await.unwrap();
    }

    /// The texts of the links to people on a page, in their order.
    fn names(page: &Answer) -> Vec<String> {
        let text = page.assert_status(200).text();
        let links = text.split("<li><div><a href=\"/admin/users/").skip(1);
        links.map(|rest| rest.split(['>', '<']).nth(1).unwrap().to_string()).collect()
    }

    /// Those on all pages, one after the other.
    async fn all_names(visitor: &Visitor, path: &str) -> Vec<String> {
        let (mut found, mut path) = (Vec::new(), path.to_string());
        loop {
            let page = visitor.get(&path).await;
            let rows = names(&page);
            assert!(rows.len() <= 50);
            found.extend(rows);
            if !page.text().contains("rel=\"next\"") {
                return found;
            }
            path = page.link("next");
        }
    }

    #[tokio::test]
    async fn people_are_listed_newest_first_fifty_a_page() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        let page = zoe.get("/admin/users").await;
        assert_eq!(names(&page), ["zoe"]);
        people(&app, 120).await;
        app.execute("update users set disabled_at = 1 where username = 'name0120'").await;
        let page = zoe.get("/admin/users").await;
        assert_eq!(names(&page)[..3], ["zoe", "name0120", "name0119"].map(String::from));
        page.assert_contains("Disabled</span>").assert_contains("address0120@example.com");
        let all = all_names(&zoe, "/admin/users").await;
        assert_eq!((all.len(), &*all[119], &*all[120]), (121, "name0002", "name0001"));
    }

    #[tokio::test]
    async fn those_who_are_disabled_or_enabled_or_in_a_group_are_listed_alone() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        people(&app, 120).await;
        app.execute("update users set disabled_at = 1 where username < 'name0003'").await;
        app.execute("insert into groups (id, name, created_at) values ('s', 'staff', 1), ('n', 'none', 1)").await;
        app.execute(
            "insert into user_groups (user_id, group_id) select id, 's' from users where username < 'name0070'",
        )
        .await;
        assert_eq!(all_names(&zoe, "/admin/users?state=disabled").await, ["name0002", "name0001"]);
        assert_eq!(all_names(&zoe, "/admin/users?state=enabled").await.len(), 119);
        assert_eq!(all_names(&zoe, "/admin/users?state=all").await.len(), 121);
        let staff = all_names(&zoe, "/admin/users?group=s").await;
        assert_eq!((staff.len(), &*staff[0], &*staff[68]), (69, "name0069", "name0001"));
        zoe.get("/admin/users?group=n").await.assert_contains("Nobody here").assert_contains(">staff</a>");
        zoe.get("/admin/users?group=nonsense&state=nonsense").await.assert_contains("Nobody here");
    }

    #[tokio::test]
    async fn people_are_found_by_how_their_name_or_address_begins_names_first() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        for name in ["adam", "ada", "bob", "eve"] {
            app.person(name).await;
        }
        app.confirm_address("bob", "adalbert@example.com").await;
        app.confirm_address("adam", "adam@example.com").await;
        app.confirm_address("eve", "eve@xn--strae-oqa.de").await;
        app.execute(
            "insert into addresses (user_id, email) select id, 'aday@example.com' from users where username = 'eve'",
        )
        .await;
        app.disable("ada").await;
        let find = async |q: &str| names(&zoe.get(&format!("/admin/users?q={q}")).await);
        // Adam's address begins like this too, but he is listed already.
        assert_eq!(find("ada").await, ["ada", "adam", "adalbert@example.com", "aday@example.com"]);
        assert_eq!(find("+ADAM+").await, ["adam"]);
        assert_eq!(find("eve%40stra%C3%9Fe.de").await, ["eve@straße.de"]);
        assert_eq!(find("dam").await, [""; 0]);
        zoe.get("/admin/users?q=%3Cb%3E").await.assert_contains("begins with “&lt;b&gt;”");
        zoe.get("/admin/users?q=a%00").await.assert_status(404);
    }

    #[tokio::test]
    async fn percent_and_underscore_in_a_search_are_themselves() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        for (name, email) in [("ada", "a_b@example.com"), ("bob", "axb@example.com"), ("eve", "a%b@example.com")] {
            app.person(name).await;
            app.confirm_address(name, email).await;
        }
        for (q, found) in [("a_", "a_b@example.com"), ("a%25", "a%b@example.com")] {
            assert_eq!(names(&zoe.get(&format!("/admin/users?q={q}")).await), [found]);
        }
        for q in ["%25", "_", "%25b", "'", "\\"] {
            assert_eq!(names(&zoe.get(&format!("/admin/users?q={q}")).await), [""; 0], "{q}");
        }
    }

    #[tokio::test]
    async fn a_search_goes_on_from_page_to_page_and_finds_everybody() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        people(&app, 120).await;
        // Many may be waiting to confirm one and the same address.
        app.execute("insert into addresses (user_id, email) select id, 'name@example.com' from users where username like 'name%'")
            .await;
        let all = all_names(&zoe, "/admin/users?q=name").await;
        let (by_name, by_address) = all.split_at(120);
        assert!(by_name.is_sorted() && by_name[0] == "name0001" && by_name[119] == "name0120");
        // The page on which both are leaves out those who are on it already: twenty of the last names.
        assert!(by_address.iter().all(|email| email == "name@example.com"));
        let page = zoe.get("/admin/users?q=name").await;
        assert!(!page.link("next").contains("name0050"), "{page}");
        assert_eq!(all_names(&zoe, "/admin/users?q=address").await.len(), 120);
    }

    #[tokio::test]
    async fn a_place_in_a_search_that_no_page_has_named_is_its_beginning() {
        let app = TestApp::new().await;
        let zoe = manager(&app).await;
        people(&app, 3).await;
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        for after in ["", "x", "Zm9v", &encode("zoe 1"), &encode("name\0 1"), &encode("name1")] {
            assert_eq!(names(&zoe.get(&format!("/admin/users?q=name&after={after}")).await).len(), 3, "{after}");
        }
    }

    /// How the database finds the rows of a statement if it can help it. Of a few thousand rows, Postgres would rather read all.
    async fn plan(app: &TestApp, sql: &'static str) -> String {
        let sqlite = is_sqlite(&app.app.config.database_url);
        let explain = AssertSqlSafe(format!("explain {}{sql}", if sqlite { "query plan " } else { "" }));
        let texts: &[&str] = match sql {
            WITH_NAME | WITH_ADDRESS => &["name0100", ""],
            WITH_LATER_NAME | WITH_LATER_ADDRESS => &["a", "o"],
            _ => &["00100"],
        };
        let query = texts.iter().fold(sqlx::query(explain), |query, text| query.bind(*text)).bind(ONE_MORE);
        let query = if sql == IN_GROUP { query.bind("s") } else { query };
        let find = async |db: &mut Connection| {
            for way in ["seqscan", "bitmapscan", "hashjoin", "mergejoin"].into_iter().filter(|_| !sqlite) {
                sqlx::query(AssertSqlSafe(format!("set local enable_{way} = off"))).execute(&mut *db).await?;
            }
            Ok(query.fetch_all(db).await?)
        };
        let rows = app.app.db.write(find).await.unwrap();
        let column = if sqlite { "detail" } else { "QUERY PLAN" };
        rows.iter().map(|row| row.get::<String, _>(column)).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn no_statement_looks_at_everybody_or_sorts() {
        let app = TestApp::new().await;
        people(&app, 3000).await;
        app.execute("update users set disabled_at = 1 where id < '00010'").await;
        app.execute("insert into groups (id, name, created_at) values ('s', 'staff', 1)").await;
        app.execute("insert into user_groups (user_id, group_id) select id, 's' from users").await;
        app.execute("analyze").await;
        for (sql, index) in [
            (ALL, ""),
            (ENABLED, "users_enabled"),
            (DISABLED, "users_disabled"),
            (IN_GROUP, "user_groups_by_group"),
            // On SQLite, the index of the unique name is just as good.
            (WITH_NAME, "username"),
            (WITH_LATER_NAME, "username"),
            (WITH_ADDRESS, "addresses_by_"),
            (WITH_LATER_ADDRESS, "addresses_by_beginning"),
        ] {
            let plan = plan(&app, sql).await;
            let walks = plan.contains(index) && (plan.contains("Index") || plan.contains("INDEX"));
            let looks_at_all = ["SCAN", "Seq Scan", "Sort", "TEMP B-TREE"].iter().any(|word| plan.contains(word));
            let bounds = ["(username>? AND username<?)", "(email>? AND email<?)", "Index Cond"];
            let is_bounded = !sql.contains("> $1 and") || bounds.iter().any(|bound| plan.contains(bound));
            assert!(walks && is_bounded && !looks_at_all, "{sql}\n{plan}");
        }
    }

    #[tokio::test]
    async fn a_search_is_the_same_in_a_database_that_orders_text_as_people_do() {
        let Some(database) = TestDatabase::with_icu().await else { return };
        let app = TestApp::with_env(&[("DATABASE_URL", &database.url)], Routes::new()).await;
        let zoe = manager(&app).await;
        for (name, email) in [("ada", "a_b@x.com"), ("bob", "a.b@x.com"), ("eve", "ab@x.com"), ("kim", "a-b@x.com")] {
            app.person(name).await;
            app.confirm_address(name, email).await;
        }
        let find = async |q: &str| names(&zoe.get(&format!("/admin/users?q={q}")).await);
        assert_eq!(find("a_").await, ["a_b@x.com"]);
        assert_eq!(find("a-").await, ["a-b@x.com"]);
        app.execute("update users set username = 'zada' where username = 'ada'").await;
        assert_eq!(find("a").await, ["a-b@x.com", "a.b@x.com", "a_b@x.com", "ab@x.com"]);
        people(&app, 3000).await;
        app.execute("analyze").await;
        for (sql, index) in [(WITH_LATER_NAME, "users_by_name"), (WITH_LATER_ADDRESS, "addresses_by_beginning")] {
            let plan = plan(&app, sql).await;
            assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
        }
    }
}
