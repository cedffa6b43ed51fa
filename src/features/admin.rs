//! The first page of administration: how the site is used, day by day.
//!
//! Days that are over are counted once, in the background, and stay in `daily_counts` when their events have been deleted.
//! Only today is counted for the page. Days are those of UTC.

use super::feature::Feature;
use crate::accounts::Permission;
use crate::base::{Env, Result, explain};
use crate::db::{Connection, Database, DbRow, ago, first_id_at, now};
use crate::web::{Access, AccountGroup, AccountRow, App, Page, Routes, RowState, Template, files, format};
use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::sleep;

const SEE: Permission = Permission::named("statistics.see", "See how the site is used");

const PATH: &str = "/admin";

pub fn feature(_: &Env) -> anyhow::Result<Feature> {
    Ok(Feature {
        routes: Routes::new().get(PATH, Access::Can(SEE), show),
        permissions: &[SEE],
        account_row: Some(ROW),
        background: Some(count_days),
        settings: Some(Box::new(Cache::default())),
        ..Feature::named("admin")
    })
}

const ROW: AccountRow = AccountRow::new(AccountGroup::Administration, 1, "Statistics", PATH, |_, _| {
    RowState::fixed("How the site is used", "View")
})
.needing(SEE);

/// Something that is counted.
struct Series {
    /// The name in the table, and that of the column of [`COUNT`].
    kind: &'static str,
    title: &'static str,
    words: &'static str,
}

impl Series {
    const fn new(kind: &'static str, title: &'static str, words: &'static str) -> Series {
        Series { kind, title, words }
    }
}

const SERIES: [Series; 5] = [
    Series::new("signed_up", "Sign-ups", "New accounts."),
    Series::new("logged_in", "Log-ins", "All log-ins, including several by the same person."),
    Series::new("log_in_failed", "Failed log-ins", "Wrong passwords, including those for usernames that do not exist."),
    Series::new(
        "active",
        "Active people",
        "People who logged in that day, each counted once. Those who were still logged in from an earlier day are not \
         included, because visits are not recorded.",
    ),
    Series::new("mails_given_up", "Mails given up", "Mails that could not be delivered."),
];

/// A number for each of [`SERIES`].
type Counts = [i64; SERIES.len()];

const DAY: i64 = 24 * 60 * 60;

/// How many days the page shows, today among them.
const DAYS: i64 = 30;

fn midnight(seconds: i64) -> i64 {
    seconds - seconds.rem_euclid(DAY)
}

#[derive(Serialize)]
struct AdminPage {
    charts: Vec<Chart>,
}

impl Template for AdminPage {
    const FILE: &'static str = files::ADMIN_INDEX;
}

#[derive(Serialize)]
struct Chart {
    title: &'static str,
    words: &'static str,
    /// On the busiest day.
    most: i64,
    today: i64,
    /// From the oldest to today.
    days: Vec<ShownDay>,
}

#[derive(Serialize)]
struct ShownDay {
    date: String,
    /// `None` if the day was never counted.
    count: Option<i64>,
    /// In percent of the highest.
    height: i64,
}

impl Chart {
    fn new(series: &Series, days: Vec<(i64, Option<i64>)>) -> Chart {
        let counts = || days.iter().filter_map(|(_, count)| *count);
        let (most, today) = (counts().max().unwrap_or(0), counts().next_back().unwrap_or(0));
        // Whatever is not zero can be seen.
        let height = |count: i64| (count * 100 + most - 1) / most.max(1);
        let shown = |(day, count): &(i64, Option<i64>)| ShownDay {
            date: format::date(*day),
            count: *count,
            height: count.map_or(0, height),
        };
        Chart { title: series.title, words: series.words, most, today, days: days.iter().map(shown).collect() }
    }
}

async fn show(State(app): State<App>, page: Page) -> Result<Response> {
    let today = midnight(now());
    let counted = app.db.read(async |db| counted_since(db, today - (DAYS - 1) * DAY).await).await?;
    let counts_today = count_today(&app).await?;
    let charts = SERIES.iter().zip(counts_today).map(|(series, count_today)| {
        let past = (1..DAYS).rev().map(|back| today - back * DAY);
        let past = past.map(|day| (day, counted.get(&(day, series.kind.into())).copied()));
        Chart::new(series, past.chain([(today, Some(count_today))]).collect())
    });
    page.render(&AdminPage { charts: charts.collect() }).await
}

/// A row of the table.
struct DailyCount {
    day: i64,
    kind: String,
    count: i64,
}

impl FromRow<'_, DbRow> for DailyCount {
    fn from_row(row: &DbRow) -> sqlx::Result<DailyCount> {
        Ok(DailyCount { day: row.try_get("day")?, kind: row.try_get("kind")?, count: row.try_get("count")? })
    }
}

async fn counted_since(db: &mut Connection, day: i64) -> Result<BTreeMap<(i64, String), i64>> {
    let sql = "select day, kind, count from daily_counts where day >= $1";
    let rows: Vec<DailyCount> = sqlx::query_as(sql).bind(day).fetch_all(db).await?;
    Ok(rows.into_iter().map(|row| ((row.day, row.kind), row.count)).collect())
}

/// What has been counted of today.
#[derive(Default)]
struct Today {
    day: i64,
    counts: Counts,
    /// When that was.
    at: i64,
    /// What happened before `settled_until`, which is not counted again.
    settled: Counts,
    settled_until: i64,
}

type Cache = Mutex<Today>;

/// How old the numbers of today may get, in seconds.
const FRESH: i64 = 10;

/// After so many seconds, the events of a moment no longer change: slow transactions have committed, also those of
/// replicas whose clocks are behind, and events that can be taken back have been.
const SETTLED: i64 = 120;

/// The numbers of today, which whoever asks at the same time shares.
async fn count_today(app: &App) -> Result<Counts> {
    let (mut today, now) = (app.settings::<Cache>().lock().await, now());
    if today.day != midnight(now) {
        *today = Today { day: midnight(now), settled_until: midnight(now), ..Today::default() };
    } else if (today.at..today.at + FRESH).contains(&now) {
        return Ok(today.counts);
    }
    let settled_until = today.settled_until.max(now - SETTLED);
    let newly_settled = count(&app.db, today.settled_until, settled_until).await?;
    (today.settled, today.settled_until) = (add(today.settled, newly_settled), settled_until);
    let latest = count(&app.db, settled_until, today.day + DAY).await?;
    (today.counts, today.at) = (add(today.settled, latest), now);
    Ok(today.counts)
}

fn add(one: Counts, other: Counts) -> Counts {
    std::array::from_fn(|series| one[series] + other[series])
}

/// Counts from `$1` until `$2`. Of the log-ins of a person on one day, the first counts as an active person: `$3` is when the
/// day began, and `$4` the first id that it can have.
const COUNT: &str = "select count(case when kind = 'signed_up' then 1 end) as signed_up, \
                     count(case when kind = 'logged_in' then 1 end) as logged_in, \
                     count(case when kind = 'log_in_failed' then 1 end) as log_in_failed, \
                     count(case when kind = 'logged_in' and not exists (select 1 from events earlier \
                     where earlier.user_id = e.user_id and earlier.id >= $4 and earlier.id < e.id \
                     and earlier.kind || '' = 'logged_in' and earlier.created_at >= $3) then 1 end) as active, \
                     (select count(*) from mails where failed_at >= $1 and failed_at < $2) as mails_given_up \
                     from events e where created_at >= $1 and created_at < $2";

/// Counts what happened from one time until another of the same day. Each step takes some ten thousand events, or those of
/// one second if there are more, so that it is done in time.
async fn count(db: &Database, mut from: i64, until: i64) -> Result<Counts> {
    let (mut counts, day) = (Counts::default(), midnight(from));
    while from < until {
        let step = async |db: &mut Connection| {
            let sql = "select created_at from events where created_at >= $1 and created_at < $2 \
                       order by created_at limit 1 offset 10000";
            let end: Option<i64> = sqlx::query_scalar(sql).bind(from).bind(until).fetch_optional(&mut *db).await?;
            let end = end.map_or(until, |end| end.max(from + 1));
            let query = sqlx::query(COUNT).bind(from).bind(end).bind(day).bind(first_id_at(day));
            let row = query.fetch_one(db).await?;
            let mut counted = Counts::default();
            for (series, counted) in SERIES.iter().zip(&mut counted) {
                *counted = row.try_get(series.kind)?;
            }
            Ok((counted, end))
        };
        let (counted, end) = db.read(step).await?;
        (counts, from) = (add(counts, counted), end);
    }
    Ok(counts)
}

/// How often to check whether a day is over.
const PAUSE: Duration = Duration::from_secs(60);

fn count_days(app: App) -> BoxFuture<'static, ()> {
    let count = async move {
        loop {
            if let Err(error) = count_missing_days(&app).await {
                let error = anyhow::Error::from(error);
                tracing::warn!("how the site is used could not be counted: {}", explain(&error));
            }
            sleep(PAUSE).await;
        }
    };
    count.boxed()
}

/// Writes the days that are over and not in the table, unless some of their events may have been deleted, and counts today, so
/// that nobody waits for it. Replicas may do so at once: they write the same.
async fn count_missing_days(app: &App) -> Result<()> {
    let (today, kept) = (midnight(now()), ago(app.config.events_kept));
    let counted = app.db.read(async |db| counted_since(db, today - DAYS * DAY).await).await?;
    for day in (1..DAYS).map(|back| today - back * DAY) {
        let is_written = counted.contains_key(&(day, SERIES[0].kind.into()));
        if is_written || day < kept || now() < day + DAY + SETTLED {
            continue;
        }
        let counts = count(&app.db, day, day + DAY).await?;
        app.db.write_relaxed(async |db| write(db, day, counts).await).await?;
    }
    count_today(app).await.map(drop)
}

async fn write(db: &mut Connection, day: i64, counts: Counts) -> Result<()> {
    let sql = "insert into daily_counts (day, kind, count) values ($1, $2, $3) on conflict do nothing";
    for (series, count) in SERIES.iter().zip(counts) {
        sqlx::query(sql).bind(day).bind(series.kind).bind(count).execute(&mut *db).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Client;
    use crate::accounts::event::{self, Event};
    use crate::accounts::session::lifecycle::LOGGED_IN;
    use crate::test::{Answer, TestApp, Visitor, check};

    #[test]
    fn its_page_renders() {
        let days = || (0..30).map(|day| (day * DAY, (day > 2).then_some(day % 7))).collect();
        let charts = SERIES.iter().map(|series| Chart::new(series, days())).collect();
        let none = SERIES.iter().map(|series| Chart::new(series, Vec::from([(0, Some(0))]))).collect();
        check(&[AdminPage { charts }, AdminPage { charts: none }]);
    }

    /// Somebody who may see the page.
    async fn reader(app: &TestApp) -> Visitor {
        let reader = app.person("reader").await;
        app.grant("reader", SEE.name).await;
        reader
    }

    /// What the table below this heading says, from today back.
    fn numbers(page: &Answer, title: &str) -> Vec<String> {
        let text = page.assert_status(200).text();
        let section = text.split(&format!("<h2>{title}</h2>")).nth(1).unwrap().split("</section>").next().unwrap();
        section.split("</td><td>").skip(1).map(|cell| cell.split('<').next().unwrap().to_string()).collect()
    }

    /// Moves everything that has happened so many days back.
    async fn a_day_passes(app: &TestApp) {
        app.execute("update events set created_at = created_at - 86400").await;
        app.execute("update mails set failed_at = failed_at - 86400").await;
    }

    async fn log_in_at(app: &TestApp, name: &str, event: Event) {
        let (id, client) = (app.user(name).await, Client::local("a browser"));
        app.app.db.write(async |db| event::record(db, &*id, event.by(&client)).await).await.unwrap();
    }

    #[tokio::test]
    async fn people_who_may_see_how_the_site_is_used_see_today_at_once() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        let login = app.login().await;
        assert!(app.app.passwords.verify(login.source(), "nobody", "not the password").await.unwrap().is_none());
        app.browser_of("reader").await;
        app.person("ada").await;
        app.execute(
            "insert into mails (id, kind, email, about, created_at, due_at, attempts, failed_at) \
             select 'x', 'test', 'ada@example.com', '', created_at, 1, 9, created_at from users where username = 'ada'",
        )
        .await;
        let page = reader.get("/admin").await;
        for (title, number) in [
            ("Sign-ups", "2"),
            ("Log-ins", "3"),
            ("Failed log-ins", "1"),
            // The reader has logged in twice.
            ("Active people", "2"),
            ("Mails given up", "1"),
        ] {
            let numbers = numbers(&page, title);
            assert_eq!((numbers.len(), &*numbers[0], &*numbers[1]), (30, number, "not counted"), "{title}: {page}");
        }
        page.assert_contains("<svg")
            .assert_contains("M291 100v-100h8v100z")
            .assert_contains("3 today so far, 3 on the busiest day");
    }

    #[tokio::test]
    async fn where_nothing_has_happened_the_page_says_so() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        app.execute("delete from events").await;
        reader.get("/admin").await.assert_status(200).assert_contains("None so far").assert_lacks("role=\"img\"");
    }

    #[tokio::test]
    async fn the_numbers_of_today_are_ten_seconds_old_at_most_and_never_lag_or_count_twice() {
        let app = TestApp::new().await;
        let reader = reader(&app).await;
        let log_ins = async || numbers(&reader.get("/admin").await, "Log-ins")[0].clone();
        assert_eq!(log_ins().await, "1");
        log_in_at(&app, "reader", LOGGED_IN).await;
        assert_eq!(log_ins().await, "1");
        for (ahead, number) in [(11, "2"), (22, "2"), (200, "2"), (220, "2"), (400, "3"), (420, "3")] {
            app.set_clock_ahead(ahead);
            if ahead == 400 {
                log_in_at(&app, "reader", LOGGED_IN).await;
            }
            assert_eq!(log_ins().await, number, "after {ahead} s");
        }
    }

    #[tokio::test]
    async fn a_day_that_is_over_is_counted_once_and_stays_when_its_events_are_deleted() {
        let app = TestApp::with_env(&[("EVENTS_KEPT", "10d")], Routes::new()).await;
        let reader = reader(&app).await;
        a_day_passes(&app).await;
        log_in_at(&app, "reader", LOGGED_IN).await;
        app.execute("update events set created_at = created_at - 86400").await;
        // Replicas at once.
        let (one, other) = tokio::join!(count_missing_days(&app.app), count_missing_days(&app.app));
        one.and(other).unwrap();
        app.execute("delete from events").await;
        count_missing_days(&app.app).await.unwrap();
        app.set_clock_ahead(11);
        let page = reader.get("/admin").await;
        assert_eq!(numbers(&page, "Log-ins")[..4], ["0", "1", "1", "0"]);
        assert_eq!(numbers(&page, "Active people")[..4], ["0", "1", "1", "0"]);
        assert_eq!(numbers(&page, "Sign-ups")[..4], ["0", "0", "1", "0"]);
        // Of older days some events may be gone, so they are not counted.
        let sign_ups = numbers(&page, "Sign-ups");
        assert_eq!(sign_ups.iter().filter(|number| *number == "not counted").count(), 30 - 10, "{sign_ups:?}");
        assert_eq!(app.count("select count(*) from daily_counts").await, 9 * 5);
    }

    #[tokio::test]
    async fn a_day_with_many_events_is_counted_in_steps_and_exactly() {
        let app = TestApp::new().await;
        let _reader = reader(&app).await;
        a_day_passes(&app).await;
        // 10,500 in one second, and 2,500 more.
        for _ in 0..5 {
            app.execute(
                "insert into events (id, user_id, kind, factors, created_at) \
                 with recursive numbers (number) as (select 1 union all select number + 1 from numbers where number < 2600) \
                 select 'f' || (select count(*) from events) || '-' || number, id, 'logged_in', 1, \
                 (created_at - 86400) / 86400 * 86400 + case when number <= 2100 then 50 else number end \
                 from numbers, users",
            )
            .await;
        }
        let yesterday = midnight(now()) - DAY;
        let counted = count(&app.app.db, yesterday, yesterday + DAY).await.unwrap();
        assert_eq!(counted, [1, 13_001, 0, 1, 0]);
    }

    #[tokio::test]
    async fn without_the_permission_there_are_no_statistics() {
        let app = TestApp::new().await;
        let (_reader, eve) = (reader(&app).await, app.person("eve").await);
        let nowhere = eve.get("/nowhere").await;
        assert_eq!(eve.get("/admin").await.assert_status(404).text(), nowhere.text());
        app.grant("eve", "users.manage").await;
        assert_eq!(eve.get("/admin").await.assert_status(404).text(), nowhere.text());
        eve.get("/test/account").await.assert_lacks("Statistics");
        app.visitor().get("/admin").await.assert_redirect("/login?next=%2Fadmin");
        app.grant("eve", SEE.name).await;
        eve.get("/test/account").await.assert_contains("Statistics · How the site is used · View\n");
        eve.get("/admin").await.assert_status(200).assert_contains("<a href=\"/admin\" aria-current=\"page\">");
    }
}
