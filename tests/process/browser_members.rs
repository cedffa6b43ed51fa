//! In a real browser: the list of members, and the page of one.
//! needs: home, login, members, signup

use crate::webdriver::Browser;
use crate::webdriver::site::Site;

#[test]
#[ignore = "needs chromium and chromedriver; .ci/run runs them"]
fn the_pages_of_members_are_fit_for_everyone() {
    let (site, browser) = (Site::open(), Browser::open());
    site.sign_up(&browser, "ada");
    for (id, name) in ["babbage", "grace", "wwwwwwwwwwwwwwwwwwww", "linus", "joan"].iter().enumerate() {
        let row = format!("('00000000-{id}', '{name}', {})", 1_790_000_000 - id * 3_000_000);
        site.execute(&format!("insert into users (id, username, created_at) values {row}"));
    }
    browser.visit(&site.page("/users"));
    browser.sees("wwwwwwwwwwwwwwwwwwww");
    browser.inspect("members");
    browser.visit(&site.page("/me"));
    browser.is_at("/user/ada");
    browser.inspect("member");
    browser.visit(&site.page("/user/wwwwwwwwwwwwwwwwwwww"));
    browser.inspect("member-long");
}
