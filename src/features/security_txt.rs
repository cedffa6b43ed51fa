//! `/.well-known/security.txt` (RFC 9116): whom to tell about a vulnerability in this site. It exists when
//! `SECURITY_CONTACT` is set.

use super::feature::Feature;
use crate::accounts::Email;
use crate::base::Env;
use crate::db::now;
use crate::web::format::rfc3339;
use crate::web::{Access, App, Routes};
use anyhow::Context;
use axum::extract::State;
use url::Url;

const PATH: &str = "/.well-known/security.txt";

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    let Some(text) = env.text("SECURITY_CONTACT")? else { return Ok(Feature::default()) };
    let contact = contact(text).with_context(|| {
        format!(
            "SECURITY_CONTACT={text:?} cannot be used: write an e-mail address, or a mailto:, https: or tel: address"
        )
    })?;
    let show = async move |State(app): State<App>| show(&app, &contact);
    Ok(Feature { routes: Routes::new().get(PATH, Access::Public, show), ..Feature::named("security_txt") })
}

/// The contact as a URI, if it is one by which people can be reached and stays within its line.
fn contact(text: &str) -> Option<String> {
    let uri = match Email::parse(text) {
        Ok(email) => format!("mailto:{}", email.as_str().replace('%', "%25")),
        Err(_) => text.to_string(),
    };
    let url = Url::parse(&uri).ok()?;
    let is_reachable = match url.scheme() {
        "https" => true,
        "mailto" => Email::parse(url.path()).is_ok(),
        "tel" => url.path().contains(|c: char| c.is_ascii_digit()),
        _ => false,
    };
    (is_reachable && uri.bytes().all(|byte| byte.is_ascii_graphic())).then_some(uri)
}

/// For how long the file can be relied on.
const DAYS: i64 = 180;

fn show(app: &App, contact: &str) -> String {
    let expires = rfc3339(now() + DAYS * 24 * 60 * 60);
    let canonical = app.config.origin() + PATH;
    format!("Contact: {contact}\nExpires: {expires}\nCanonical: {canonical}\nPreferred-Languages: en\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use ::cookie::time::OffsetDateTime;
    use ::cookie::time::format_description::well_known::Rfc3339;

    #[tokio::test]
    async fn it_names_the_contact_and_expires_in_half_a_year() {
        let app = TestApp::with_env(&[("SECURITY_CONTACT", "security@example.com")], Routes::new()).await;
        let before = now();
        let answer = app.visitor().get(PATH).await;
        answer.assert_status(200).assert_header("content-type", "text/plain; charset=utf-8");
        let text = answer.text();
        let lines: Vec<&str> = text.lines().collect();
        let [contact, expires, canonical, languages] = lines[..] else { panic!("{answer}") };
        assert_eq!(contact, "Contact: mailto:security@example.com");
        assert_eq!(canonical, "Canonical: http://localhost:8000/.well-known/security.txt");
        assert_eq!(languages, "Preferred-Languages: en");
        let expires = OffsetDateTime::parse(expires.strip_prefix("Expires: ").unwrap(), &Rfc3339).unwrap();
        assert!((before..=now()).contains(&(expires.unix_timestamp() - 180 * 86400)), "{answer}");
        app.visitor().post(PATH, &[]).await.assert_status(405);
    }

    #[tokio::test]
    async fn without_a_contact_there_is_none() {
        let app = TestApp::new().await;
        app.visitor().get(PATH).await.assert_status(404);
    }

    #[test]
    fn a_contact_is_an_email_address_a_page_or_a_telephone_on_one_line() {
        for (text, uri) in [
            ("security@example.com", "mailto:security@example.com"),
            ("50%off@example.com", "mailto:50%25off@example.com"),
            ("mailto:security%2Bsite@example.com", "mailto:security%2Bsite@example.com"),
            ("https://example.com/report?a=b", "https://example.com/report?a=b"),
            ("tel:+1-201-555-0123", "tel:+1-201-555-0123"),
        ] {
            assert_eq!(contact(text).as_deref(), Some(uri));
        }
        for wrong in [
            "security",
            "http://example.com/",
            "javascript:alert(1)",
            "https:",
            "mailto:",
            "mailto:nobody",
            "tel:",
            "a?b@example.com",
            "security@example.com\nContact: mailto:eve@example.com",
            "https://example.com/\r\nContact: mailto:eve@example.com",
            "https://example.com/\nExpires: never",
            "mailto:security@example.com\u{85}",
            "https://example.com/a b",
            " https://example.com/",
        ] {
            assert_eq!(contact(wrong), None, "{wrong:?}");
        }
        for (wrong, sentence) in [
            ("nobody", "SECURITY_CONTACT=\"nobody\" cannot be used"),
            ("nobody\nContact: x", "SECURITY_CONTACT must be one line"),
        ] {
            let env = [("SECURITY_CONTACT", wrong)].into_iter().collect();
            let refusal = feature(&env).err().unwrap().to_string();
            assert!(refusal.starts_with(sentence) && refusal.lines().count() == 1, "{refusal}");
        }
    }
}
