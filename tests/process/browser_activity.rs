//! In a real browser: recent activity.
//! needs: activity, home, login, signup

use crate::common::PASSWORD;
use crate::webdriver::site::Site;
use crate::webdriver::{Browser, PHONE};

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_page_of_recent_activity_is_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "wwwwwwwwwwwwwwwwwwww");
    let program = "Some program of our own, which tells a long story about itself";
    for (user_agent, password) in [(PHONE, PASSWORD), (&*"x".repeat(200), PASSWORD), (program, "not the password")] {
        site.post(user_agent, "/login", &[("username", "wwwwwwwwwwwwwwwwwwww"), ("password", password)]);
    }
    site.execute("update events set address = '2001:db8:1234:5678:9abc:def0:1234:5678'");
    browser.visit(&site.page("/account/activity"));
    browser.sees("2001:db8:1234");
    browser.inspect("activity");
}
