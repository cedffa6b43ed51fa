//! Lists that are read a page at a time.
//!
//! A page begins after the last row of the one before: `where id < $2 order by id desc limit $3`, with
//! `query.after(AFTER_ALL_IDS)` and [`ONE_MORE`]. Any order works that is unique and has an index.

use super::form::encode_query;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many rows a page shows.
pub const PER_PAGE: usize = 50;

/// How many rows to ask for: one more shows whether there is a next page.
pub const ONE_MORE: i64 = PER_PAGE as i64 + 1;

/// The query of a page with a list: `Query(query): Query<ListQuery>`. `after` is where the page begins, `newer` where the
/// pages before it do, the nearest last. All other parameters are kept for the links to both.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ListQuery(BTreeMap<String, String>);

impl ListQuery {
    /// Where this page begins; `start` for the first page.
    pub fn after<'a>(&'a self, start: &'a str) -> &'a str {
        self.get("after").unwrap_or(start)
    }

    /// The query of the next page, which begins after this row.
    fn older(&self, last: &str) -> String {
        let before = self.get("after").map(|after| self.newer().chain([after]).collect::<Vec<_>>());
        self.with(before.map(|before| before[before.len().saturating_sub(MOST_NEWER)..].join(",")), Some(last.into()))
    }

    /// The query of the page before this one, if it is not the first.
    fn previous(&self) -> Option<String> {
        self.get("after")?;
        let mut before: Vec<&str> = self.newer().collect();
        let after = before.pop().map(String::from);
        Some(self.with(Some(before.join(",")).filter(|before| !before.is_empty()), after))
    }

    fn newer(&self) -> impl Iterator<Item = &str> {
        self.get("newer").into_iter().flat_map(|newer| newer.split(','))
    }

    fn with(&self, newer: Option<String>, after: Option<String>) -> String {
        let mut parameters = self.0.clone();
        parameters.retain(|name, _| name != "after" && name != "newer");
        parameters.extend(after.map(|after| ("after".to_string(), after)));
        parameters.extend(newer.map(|newer| ("newer".to_string(), newer)));
        if parameters.is_empty() { String::new() } else { encode_query(&parameters) }
    }

    /// Another parameter, such as what to search for.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// How many pages back "Newer" leads one by one. From there it leads to the first.
const MOST_NEWER: usize = 20;

/// A page of a list. In a template: `list.rows`, and `{{ <pages path="/notes" list={list} /> }}`, which links the next page
/// and the previous one, if there are any.
#[derive(Debug, Serialize)]
pub struct List<T> {
    pub rows: Vec<T>,
    /// The query of the previous page, which may be empty.
    pub previous: Option<String>,
    /// The query of the next page.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page of the rows that were found, of which there may be [`ONE_MORE`]. `position` is where a row stands in the
    /// order of the list, such as its id.
    pub fn new(mut rows: Vec<T>, query: &ListQuery, position: impl Fn(&T) -> &str) -> List<T> {
        let has_next = rows.len() > PER_PAGE;
        rows.truncate(PER_PAGE);
        let last = rows.last().filter(|_| has_next).map(position);
        let (previous, next) = (query.previous(), last.map(|last| query.older(last)));
        List { rows, previous, next }
    }

    /// The same page with its rows in another form.
    pub fn map<U>(self, form: impl FnMut(T) -> U) -> List<U> {
        List { rows: self.rows.into_iter().map(form).collect(), previous: self.previous, next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::form::parse_query;

    /// The rows that a query for [`ONE_MORE`] finds of `number` rows.
    fn rows(number: usize) -> Vec<String> {
        (1..=number).take(ONE_MORE as usize).map(|id| format!("{id:03}")).collect()
    }

    fn list(number: usize, query: &str) -> List<String> {
        List::new(rows(number), &parse_query(Some(query)), |id| id)
    }

    #[test]
    fn a_page_has_fifty_rows_and_leads_to_the_next_if_there_are_more() {
        assert_eq!(list(0, "").next, None);
        let whole = list(50, "");
        assert_eq!((whole.rows.len(), whole.next), (50, None));
        let page = list(51, "");
        assert_eq!((page.rows.len(), page.next.as_deref()), (50, Some("?after=050")));
        let page = page.map(|id| id.len());
        assert_eq!((page.rows[0], page.next.as_deref()), (3, Some("?after=050")));
    }

    #[test]
    fn the_link_to_the_next_page_keeps_the_other_parameters() {
        let next = |query| list(51, query).next.unwrap();
        assert_eq!(next("q=ada"), "?after=050&q=ada");
        assert_eq!(next("q=a%26b+%C3%BC&after=007&sort=name"), "?after=050&newer=007&q=a%26b%20%C3%BC&sort=name");
        assert_eq!(next("q=ada&q=bob"), "?after=050");
    }

    #[test]
    fn who_has_gone_back_page_by_page_gets_to_the_newest_the_same_way() {
        let page = |query: &str| {
            let query = query.trim_start_matches('?');
            let List { previous, next, .. } = list(51, query);
            (previous, next.unwrap())
        };
        let (before, second) = page("q=ada");
        assert_eq!(before, None);
        let (first, third) = page(&second);
        assert_eq!(first.as_deref(), Some("?q=ada"));
        let third = third.replace("after=050", "after=100");
        assert_eq!(third, "?after=100&newer=050&q=ada");
        let (again, fourth) = page(&third);
        assert_eq!(again.as_deref(), Some(&*second));
        assert_eq!(page(&fourth.replace("after=050", "after=150")).0.as_deref(), Some(&*third));
        assert_eq!(list(1, "after=007").previous.as_deref(), Some(""), "the first page");
        let far = (0..100).fold(String::new(), |query, _| page(&query).1);
        assert_eq!(far.matches("050").count(), 21, "{far}");
    }

    #[test]
    fn a_page_begins_after_the_row_that_the_query_names() {
        let query = |text| parse_query::<ListQuery>(Some(text));
        assert_eq!(query("after=007&q=ada").after("start"), "007");
        assert_eq!(query("after=").after("start"), "start");
        assert_eq!(query("").after("start"), "start");
        assert_eq!(query("after=007&q=ada").get("q"), Some("ada"));
        assert_eq!(query("after=007&q=").get("q"), None);
    }
}
