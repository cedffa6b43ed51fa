//! Times in words, and text in URLs.

use crate::db::now;
use cookie::time::OffsetDateTime;
use cookie::time::format_description::well_known::Rfc3339;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

/// A time such as 21 November 2026, 18:05 UTC, from seconds since 1970.
pub fn date_time(seconds: i64) -> String {
    let time = utc(seconds);
    format!("{}, {:02}:{:02} UTC", date(seconds), time.hour(), time.minute())
}

/// A day such as 21 November 2026, from seconds since 1970.
pub fn date(seconds: i64) -> String {
    let date = utc(seconds);
    format!("{} {} {}", date.day(), date.month(), date.year())
}

/// When a day such as 2026-11-21 begins, in seconds since 1970, UTC. `None` if there is no such day.
pub fn parse_date(text: &str) -> Option<i64> {
    OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// A time such as 2026-11-21T18:05:00Z (RFC 3339), from seconds since 1970.
pub fn rfc3339(seconds: i64) -> String {
    utc(seconds).format(&Rfc3339).unwrap_or_default()
}

/// How long ago a time was, in seconds since 1970, such as 3 minutes ago; after a week the day.
pub fn time_ago(seconds: i64) -> String {
    let ago = |number: i64, unit: &str| format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" });
    match now() - seconds {
        // A clock of another replica may be ahead.
        ..60 => "just now".into(),
        past @ ..3_600 => ago(past / 60, "minute"),
        past @ ..86_400 => ago(past / 3_600, "hour"),
        past @ ..604_800 => ago(past / 86_400, "day"),
        _ => date(seconds),
    }
}

fn utc(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A duration such as 15 minutes or 24 hours.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")];
    let fits = |&(length, _): &(u64, _)| seconds.is_multiple_of(length) && seconds / length > 1;
    let (length, unit) = units.into_iter().find(fits).unwrap_or((1, "seconds"));
    format!("{} {unit}", seconds / length)
}

/// A time so many seconds from now, in whole minutes, hours or days.
pub fn from_now(seconds: u64) -> String {
    if seconds <= 5 {
        return "in a few seconds".into();
    }
    match seconds.div_ceil(60) {
        0 | 1 => "in a minute".into(),
        minutes @ ..=120 => format!("in {minutes} minutes"),
        minutes @ ..=2880 => format!("in {} hours", minutes.div_ceil(60)),
        minutes => format!("in {} days", minutes.div_ceil(1440)),
    }
}

/// Text as a value in a query.
pub fn url_encode(text: &str) -> String {
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(date_time(1_795_284_300), "21 November 2026, 18:05 UTC");
        assert_eq!(date(1_795_284_300), "21 November 2026");
        assert_eq!(date_time(0), "1 January 1970, 00:00 UTC");
        assert_eq!(date_time(i64::MAX), "1 January 1970, 00:00 UTC");
    }

    #[test]
    fn a_day_that_was_chosen_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(parse_date("2026-11-21").map(rfc3339).as_deref(), Some("2026-11-21T00:00:00Z"));
        assert_eq!(parse_date("1970-01-01"), Some(0));
        for text in ["", "today", "2026-02-30", "21.11.2026", "2026-11-21T00:00:00Z", "2026-11-21 ", "12026-11-21"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    #[test]
    fn what_happened_within_a_week_is_so_long_ago_and_before_that_has_a_day() {
        for (seconds, words) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3_599, "59 minutes ago"),
            (3_600, "1 hour ago"),
            (86_399, "23 hours ago"),
            (86_400, "1 day ago"),
            (604_799, "6 days ago"),
        ] {
            assert_eq!(time_ago(now() - seconds), words);
        }
        let a_week_ago = now() - 604_800;
        assert_eq!(time_ago(a_week_ago), date(a_week_ago));
    }

    #[test]
    fn durations_are_in_the_largest_unit_that_fits_and_is_more_than_one() {
        for (seconds, words) in [
            (30 * 86_400, "30 days"),
            (86_400, "24 hours"),
            (3_600, "60 minutes"),
            (900, "15 minutes"),
            (90, "90 seconds"),
            (1, "1 seconds"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn a_wait_is_never_shown_shorter_than_it_is() {
        for (seconds, words) in [
            (0, "in a few seconds"),
            (5, "in a few seconds"),
            (6, "in a minute"),
            (60, "in a minute"),
            (61, "in 2 minutes"),
            (7_200, "in 120 minutes"),
            (7_201, "in 3 hours"),
            (2 * 86_400, "in 48 hours"),
            (2 * 86_400 + 1, "in 3 days"),
            (10 * 86_400, "in 10 days"),
        ] {
            assert_eq!(from_now(seconds), words);
        }
    }

    #[test]
    fn a_value_in_a_query_keeps_only_unreserved_characters() {
        assert_eq!(url_encode("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(url_encode("/notes?a=b&c=ü +%"), "%2Fnotes%3Fa%3Db%26c%3D%C3%BC%20%2B%25");
    }
}
