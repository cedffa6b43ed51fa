//! The rules of `public/styles.css`.

use super::TestApp;

const STYLES: &str = include_str!("../../public/styles.css");

#[test]
fn no_rule_says_left_or_right_because_some_languages_run_the_other_way() {
    let physical = ["left", "right"];
    for (number, line) in (1..).zip(STYLES.lines()) {
        let mut words = line.split(|c: char| !c.is_ascii_alphabetic());
        let advice = "write inline-start, inline-end or block-start";
        assert!(!words.any(|word| physical.contains(&word)), "styles.css:{number}: {advice}: {line}");
    }
}

#[tokio::test]
async fn the_browser_around_a_page_has_the_colour_of_its_ground() {
    let app = TestApp::new().await;
    let ground = |number| {
        let value = STYLES.split("--ground: ").nth(number).unwrap().split(';').next().unwrap();
        format!("<meta name=\"theme-color\" content=\"{value}\"")
    };
    let (light, dark) = (ground(1), ground(2));
    let page = async |theme: &str| app.visitor().with_cookie("theme", theme).get("/nowhere").await;
    page("light").await.assert_contains(&format!("{light}>")).assert_lacks(&dark);
    page("dark").await.assert_contains(&format!("{dark}>")).assert_lacks(&light);
    let system = page("system").await;
    system.assert_contains(&format!("{dark} media=\"(prefers-color-scheme: dark)\">\n{light}>"));
}

#[tokio::test]
async fn browsers_find_the_icons_where_they_look_for_them_unasked() {
    let app = TestApp::new().await;
    for (path, kind, bytes) in
        [("/favicon.ico", "image/x-icon", &b"\0\0\x01\0"[..]), ("/apple-touch-icon.png", "image/png", &b"\x89PNG"[..])]
    {
        let icon = app.visitor().get(path).await;
        icon.assert_status(200).assert_header("content-type", kind);
        assert!(icon.bytes.starts_with(bytes), "{path} is no icon");
    }
}
