//! Builds and reads cookies: all of ours have the same name prefix and attributes. An answer sets one with
//! `redirect(path).cookie(…)`; `login.rs` sets those of sessions, `flash.rs` those of flashes.

use crate::base::{Config, Token, Tokens};
use axum::http::HeaderMap;
use axum::http::header::{COOKIE, SET_COOKIE};
use cookie::{Cookie, SameSite, time};
use std::time::Duration;

/// The name in headers: on https with the prefix that keeps other hosts from setting the cookie
/// (draft-ietf-httpbis-rfc6265bis, section 4.1.3.2).
fn full_name(config: &Config, name: &str) -> String {
    if config.https() { format!("__Host-{name}") } else { name.to_string() }
}

/// The values of the cookies of this name, over all `Cookie` headers. On https only the first, because there a browser has
/// no more than one; else another app on this host may have set the same name, and the caller takes the first value that
/// means something.
///
/// Read by hand: the cookie crate trims names as Unicode, and would take a name with a wide space before it, which any
/// host may set, for one with the prefix.
pub fn values(config: &Config, headers: &HeaderMap, name: &str) -> Vec<String> {
    if !headers.contains_key(COOKIE) {
        return Vec::new();
    }
    let name = full_name(config, name);
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    let values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let most = if config.https() { 1 } else { usize::MAX };
    values.take(most).filter_map(|value| String::from_utf8(value.to_vec()).ok()).collect()
}

/// Those values of the cookies of this name that are tokens.
pub fn tokens(config: &Config, headers: &HeaderMap, name: &str) -> Tokens {
    values(config, headers, name).iter().filter_map(|value| Token::parse(value)).collect()
}

/// The token that an answer sets in the cookie of this name.
pub fn token_set(config: &Config, answer: &HeaderMap, name: &str) -> Option<Token> {
    let start = full_name(config, name) + "=";
    let mut cookies = answer.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.find_map(|cookie| Token::parse(cookie.strip_prefix(&start)?.split(';').next()?))
}

/// A cookie with the attributes that all of ours have. Without `max_age` it ends with the browser.
pub fn build(config: &Config, name: &str, value: String, max_age: Option<Duration>) -> Cookie<'static> {
    let cookie = Cookie::build((full_name(config, name), value)).path("/").http_only(true);
    let mut cookie = cookie.secure(config.https()).same_site(SameSite::Lax).build();
    cookie.set_max_age(max_age.map(|age| time::Duration::seconds(age.as_secs() as i64)));
    cookie
}

/// Makes the browser delete the cookie of this name.
pub fn delete(config: &Config, name: &str) -> Cookie<'static> {
    build(config, name, String::new(), Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::test::{PRODUCTION, TestApp};
    use axum::http::{HeaderValue, Method};

    #[tokio::test]
    async fn the_cookie_is_found_wherever_it_stands() {
        let app = TestApp::new().await;
        let token = app.person("ada").await.cookie("session_token").unwrap();
        let visitor = app.visitor();
        let beside = format!("a=b; session_token={token}; c");
        for headers in [
            vec![("cookie", "first=1"), ("cookie", &beside)],
            vec![("cookie", "theme=dark; =; ;;"), ("cookie", &beside)],
        ] {
            visitor.send(Method::GET, "/whoami", &headers, "").await.assert_body("ada");
        }
    }

    #[test]
    fn a_cookie_with_a_space_of_any_kind_before_its_name_is_another_cookie() {
        let config = Config::from_env(&PRODUCTION.into_iter().collect()).unwrap();
        for space in ["\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{200b}"] {
            let cookies = format!("{space}__Host-session_token=planted; \t__Host-session_token=own");
            let cookies = HeaderValue::from_bytes(cookies.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(COOKIE, cookies)]);
            assert_eq!(values(&config, &headers, "session_token"), ["own"], "{space:?}");
        }
    }

    #[test]
    fn a_cookie_is_one_for_this_host_and_not_for_scripts() {
        let development = Config::from_env(&Env::default()).unwrap();
        let cookie = build(&development, "theme", "dark".into(), None).to_string();
        assert_eq!(cookie, "theme=dark; HttpOnly; SameSite=Lax; Path=/");
        let cookie = delete(&development, "theme").to_string();
        assert_eq!(cookie, "theme=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
    }
}
