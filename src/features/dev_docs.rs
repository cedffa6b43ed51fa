//! The tutorial and the guides of `docs/` as pages, in development. They are read from the source, which is there then.
//!
//! It knows as much of Markdown as these documents use: headings, paragraphs, flat lists, tables, blocks of code, and in a
//! line `code`, **strong**, *emphasis* and links.

use super::feature::Feature;
use crate::base::{Config, Env, Error, Result};
use crate::web::{Access, Page, Routes, Template, files};
use axum::extract::Path;
use axum::response::Response;
use serde::Serialize;
use std::iter::Peekable;
use std::path::{Path as File, PathBuf};

pub fn feature(env: &Env) -> anyhow::Result<Feature> {
    if !Config::from_env(env)?.development() || !root().join("docs").exists() {
        return Ok(Feature::default());
    }
    Ok(Feature { routes: Routes::new().get("/dev/docs/{name}", Access::Public, show), ..Feature::named("dev_docs") })
}

/// The folder of the source.
fn root() -> PathBuf {
    File::new(files::FOLDER).with_file_name("")
}

#[derive(Serialize)]
struct GuidePage {
    title: String,
    blocks: Vec<Block>,
}

impl Template for GuidePage {
    const FILE: &'static str = files::DEV_DOCS_SHOW;
}

async fn show(page: Page, Path(name): Path<String>) -> Result<Response> {
    let text = read(&name).ok_or(Error::NOT_FOUND)?;
    let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(&name).to_string();
    page.render(&GuidePage { title, blocks: blocks(&text) }).await
}

/// A document of `docs/`, or one that stands beside it, such as CONTRIBUTING.md.
fn read(name: &str) -> Option<String> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let files = [root().join(format!("docs/{name}.md")), root().join(format!("{name}.md"))];
    files.iter().find_map(|file| std::fs::read_to_string(file).ok())
}

type Text = Vec<Span>;

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Block {
    Heading { level: usize, id: String, text: Text },
    Paragraph { text: Text },
    List { tag: &'static str, items: Vec<Text> },
    Table { head: Vec<Text>, rows: Vec<Vec<Text>> },
    Code { text: String },
}

#[derive(Serialize, Clone, Default)]
struct Span {
    text: String,
    code: bool,
    strong: bool,
    em: bool,
    href: Option<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut lines = text.lines().peekable();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push(Block::Code { text: code.join("\n") });
            continue;
        }
        let line = without_comment(line);
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if level > 0 {
            let title = line[level..].trim();
            blocks.push(Block::Heading { level, id: anchor(title), text: spans(title) });
        } else if line.starts_with('|') {
            let more = std::iter::from_fn(|| lines.next_if(|line| line.starts_with('|')));
            let rows = more.skip(1).map(|line| cells(without_comment(line))).collect();
            blocks.push(Block::Table { head: cells(line), rows });
        } else if let Some((tag, item)) = item(line) {
            let text = spans(&joined(item, &mut lines));
            match blocks.last_mut() {
                Some(Block::List { tag: last, items }) if *last == tag => items.push(text),
                _ => blocks.push(Block::List { tag, items: vec![text] }),
            }
        } else if !line.is_empty() {
            blocks.push(Block::Paragraph { text: spans(&joined(line, &mut lines)) });
        }
    }
    blocks
}

/// Features are marked by comments, for `scripts/remove`.
fn without_comment(line: &str) -> &str {
    line.find("<!--").map_or(line, |start| &line[..start]).trim_end()
}

/// As GitHub names a heading.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

fn cells(row: &str) -> Vec<Text> {
    row.trim_matches('|').split(" | ").map(|cell| spans(cell.trim())).collect()
}

/// The tag of a list and the text of an item of it.
fn item(line: &str) -> Option<(&'static str, &str)> {
    let (mark, text) = line.split_once(' ')?;
    let is_number = mark.strip_suffix('.').is_some_and(|number| number.parse::<u32>().is_ok());
    if mark == "-" { Some(("ul", text)) } else { is_number.then_some(("ol", text)) }
}

/// A line with those that go on with it.
fn joined<'a>(first: &str, lines: &mut Peekable<impl Iterator<Item = &'a str>>) -> String {
    let goes_on = |line: &&str| {
        let begins = ["```", "|", "#", "<!--"].iter().any(|mark| line.starts_with(mark));
        !line.is_empty() && !begins && item(line).is_none()
    };
    let more = std::iter::from_fn(|| lines.next_if(goes_on));
    more.fold(first.to_string(), |text, line| text + " " + without_comment(line).trim_start())
}

fn spans(mut rest: &str) -> Text {
    let (mut spans, mut style) = (Vec::new(), Span::default());
    while let Some(at) = rest.find(['`', '*', '[', '<']) {
        let mut add = |text: &str, code, href| {
            spans.push(Span { text: text.into(), code, href, ..style.clone() });
        };
        add(&rest[..at], false, None);
        rest = &rest[at..];
        if let Some((code, after)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
            add(code, true, None);
            rest = after;
        } else if let Some((text, target, after)) = link(rest) {
            add(text, false, address(target));
            rest = after;
        } else if let Some(after) = rest.strip_prefix("**") {
            style.strong = !style.strong;
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            style.em = !style.em;
            rest = after;
        } else {
            let after = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
            add(&rest[..after], false, None);
            rest = &rest[after..];
        }
    }
    spans.push(Span { text: rest.into(), ..style });
    spans.retain(|span| !span.text.is_empty());
    spans
}

/// `[text](target)` or `<target>`: the text, the target, and what follows.
fn link(rest: &str) -> Option<(&str, &str, &str)> {
    if let Some((target, after)) = rest.strip_prefix("<http").and_then(|rest| rest.split_once('>')) {
        let target = &rest[1..target.len() + 5];
        return Some((target, target, after));
    }
    let (text, rest) = rest.strip_prefix('[')?.split_once("](")?;
    let (target, after) = rest.split_once(')')?;
    (!text.contains(']')).then_some((text, target, after))
}

/// Where a link leads that stands in one of the documents. Other files of the source have no page.
fn address(target: &str) -> Option<String> {
    if target.starts_with('#') || target.starts_with("http") {
        return Some(target.into());
    }
    let (file, anchor) = target.split_once('#').map_or((target, String::new()), |(file, id)| (file, format!("#{id}")));
    let name = file.rsplit('/').next()?.strip_suffix(".md")?;
    Some(format!("/dev/docs/{name}{anchor}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{PRODUCTION, TestApp, check};
    use crate::web::{Theme, templates::PageContext};

    const SAMPLE: &str = "# A **guide**, `v2`\n\nOne *line* <!-- notes -->\nand [more](deploy.md#build).\n\n- a\n  b\n- c\n\n1. d\n\n\
                          | A | B |\n| --- | --- |\n| `a|b` | <http://a/> | <!-- x -->\n<!-- /notes -->\n\n```sh\n# no heading <!-- kept -->\n```\n";

    #[test]
    fn its_page_renders() {
        check(&[GuidePage { title: "A guide".into(), blocks: blocks(SAMPLE) }]);
    }

    #[tokio::test]
    async fn what_is_written_in_markdown_is_a_page() {
        let app = TestApp::new().await;
        let page = GuidePage { title: "A guide".into(), blocks: blocks(SAMPLE) };
        let html = app.app.templates.render(&page, PageContext::for_visitors(Theme::SYSTEM)).unwrap().replace('\n', "");
        for part in [
            "<h1 id=\"a-guide-v2\">A <strong>guide</strong>, <code>v2</code></h1>",
            "<p>One <em>line</em> and <a href=\"/dev/docs/deploy#build\">more</a>.</p>",
            "<ul><li>a b</li><li>c</li></ul><ol><li>d</li></ol>",
            "<tr><th scope=\"col\">A</th><th scope=\"col\">B</th></tr>",
            "<tr><td><code>a|b</code></td><td><a href=\"http://a/\">http://a/</a></td></tr></table>",
            "<pre tabindex=\"0\"># no heading &lt;!-- kept --&gt;</pre>",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert!(!html.contains("notes"), "{html}");
    }

    #[tokio::test]
    async fn every_document_is_a_page_and_every_link_between_them_leads_to_its_heading() {
        let app = TestApp::new().await;
        let documents = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = documents
            .filter(|file| file.extension().is_some_and(|kind| kind == "md"))
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_string())
            .collect();
        names.push("CONTRIBUTING".into());
        assert!(names.len() > 3);
        for name in names {
            let path = format!("/dev/docs/{name}");
            let page = app.visitor().get(&path).await.assert_status(200).text();
            for link in page
                .split("<main")
                .nth(1)
                .unwrap()
                .split(" href=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap())
            {
                let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
                if target.starts_with("http") {
                    continue;
                }
                let target = if target.is_empty() { &path } else { target };
                let target = app.visitor().get(target).await.assert_status(200).text();
                assert!(anchor.is_empty() || target.contains(&format!(" id=\"{anchor}\"")), "{link} of {name}");
            }
        }
    }

    #[tokio::test]
    async fn no_other_file_is_shown_and_in_production_none() {
        let app = TestApp::new().await;
        for name in ["nowhere", "Cargo.toml", "..%2FREADME", "..%2Fdocs%2Fdeploy", "deploy.md", "screenshots"] {
            app.visitor().get(&format!("/dev/docs/{name}")).await.assert_status(404);
        }
        let app = TestApp::with_env(&PRODUCTION, Routes::new()).await;
        app.visitor().get("/dev/docs/deploy").await.assert_status(404);
    }
}
