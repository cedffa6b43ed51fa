//! [`SiteMap`]: which pages the site has. A redirect leads to nothing else, because a browser would get 405.

/// The pages of this site, by the patterns of their paths.
#[derive(Default)]
pub struct SiteMap {
    pages: Vec<Page>,
    /// What is posted there needs a recent log-in.
    risky: Vec<&'static str>,
    /// Only users with a permission may know of them.
    hidden: Vec<&'static str>,
}

struct Page {
    pattern: &'static str,
    needs_recent: bool,
}

impl SiteMap {
    /// Adds a path that answers GET.
    pub fn add_page(&mut self, pattern: &'static str, needs_recent: bool) {
        self.pages.push(Page { pattern, needs_recent });
    }

    /// Adds a path whose POST needs a recent log-in.
    pub fn add_risky(&mut self, pattern: &'static str) {
        self.risky.push(pattern);
    }

    /// Adds a path that only users with a permission may know of.
    pub fn add_hidden(&mut self, pattern: &'static str) {
        self.hidden.push(pattern);
    }

    /// Whether only users with a permission may know of this path.
    pub fn is_hidden(&self, path: &str) -> bool {
        self.hidden.iter().any(|pattern| matches(pattern, path))
    }

    /// Whether a page answers at this path, which may have a query.
    pub fn has(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// The pattern of its page.
    pub fn pattern(&self, path: &str) -> Option<&'static str> {
        self.find(path).map(|page| page.pattern)
    }

    /// Whether its page opens without a recent log-in.
    pub fn opens_unconfirmed(&self, path: &str) -> bool {
        self.find(path).is_some_and(|page| !page.needs_recent)
    }

    /// Whether the page with this pattern has a form or a button that needs a recent log-in: one that posts to its own path,
    /// or to one below it that has no page nearer.
    pub fn has_risky_form(&self, pattern: &str) -> bool {
        self.risky.iter().any(|posted| {
            let above = self.pages.iter().map(|page| page.pattern).filter(|page| is_at_or_below(posted, page));
            above.max_by_key(|page| page.len()) == Some(pattern)
        })
    }

    /// Of several patterns that match, the one that the router takes: with the fewest parameters.
    fn find(&self, path: &str) -> Option<&Page> {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let found = self.pages.iter().filter(|page| matches(page.pattern, path));
        found.min_by_key(|page| page.pattern.matches('{').count())
    }
}

fn is_at_or_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path without a query is one of this pattern.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            // It takes all that is left.
            (Some(pattern), Some(part)) if pattern.starts_with("{*") => return !part.is_empty(),
            (Some(pattern), Some(part)) if pattern.starts_with('{') && !part.is_empty() => {}
            (Some(pattern), Some(part)) if pattern == part => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> SiteMap {
        let mut map = SiteMap::default();
        for (pattern, needs_recent) in [
            ("/", false),
            ("/notes", false),
            ("/notes/{id}", false),
            ("/files/{*path}", false),
            ("/{section}/secret", true),
            ("/open/secret", false),
            ("/account", false),
            ("/account/sessions", false),
            ("/account/email", false),
        ] {
            map.add_page(pattern, needs_recent);
        }
        for pattern in ["/account/sessions/{id}/revoke", "/account/email", "/account/emails", "/elsewhere"] {
            map.add_risky(pattern);
        }
        map
    }

    #[test]
    fn a_path_has_a_page_if_a_pattern_matches_all_of_it() {
        for path in ["/", "/?a=b", "/notes", "/notes/1", "/notes/1?a=/b#c", "/files/a/b", "/any/secret"] {
            assert!(map().has(path), "{path}");
        }
        for path in ["", "/nowhere", "/notes/", "/notes/1/delete", "/files", "/files/", "//secret", "/any/secret/"] {
            assert!(!map().has(path), "{path}");
        }
    }

    #[test]
    fn of_two_patterns_the_one_without_a_parameter_counts() {
        assert!(map().opens_unconfirmed("/open/secret"));
        assert!(!map().opens_unconfirmed("/any/secret"));
        assert!(!map().opens_unconfirmed("/nowhere"));
    }

    #[test]
    fn a_form_belongs_to_the_nearest_page_at_or_above_its_path_and_never_to_the_home_page() {
        for (pattern, has) in [
            ("/account/sessions", true),
            ("/account/email", true),
            // Of /account/emails, which has no page of its own.
            ("/account", true),
            ("/", false),
            ("/notes", false),
        ] {
            assert_eq!(map().has_risky_form(pattern), has, "{pattern}");
        }
    }
}
