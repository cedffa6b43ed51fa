//! The rules of `src/`: what a file may import, what stands in a `mod.rs`, and where events are listed. A failure names the
//! file, the line and what to do. Tests may import everything.

use super::TestApp;
use crate::web::assets;
use crate::web::templates::files;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// From the lowest to the highest: a layer imports only from itself and from lower ones. `main.rs` is above them all.
const LAYERS: [&str; 8] = ["base", "db", "mail", "accounts", "web", "features", "server", "cli"];

struct Line {
    /// The file and the number.
    place: String,
    /// `web::login` in `web/login.rs`, and `web` in `web/mod.rs`.
    module: Vec<String>,
    text: String,
}

/// All lines but those of tests, without `pub`. A `use` that takes several is joined to one.
fn lines() -> Vec<Line> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[])
}

fn read(path: &Path, parent: &[String]) -> Vec<Line> {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let own = (!matches!(name, "src" | "main" | "mod")).then(|| name.to_string());
    let module: Vec<String> = parent.iter().cloned().chain(own).collect();
    let is_for_tests = |parent| {
        let declared = fs::read_to_string(path.with_file_name(parent)).unwrap_or_default();
        declared.contains(&format!("#[cfg(test)]\nmod {name};"))
    };
    if is_for_tests("main.rs") || is_for_tests("mod.rs") {
        return Vec::new();
    }
    if path.is_dir() {
        let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return files.flat_map(|file| read(&file, &module)).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("mod tests {\n").next().unwrap();
    let (mut lines, mut numbered) = (Vec::new(), (1..).zip(text.lines()));
    while let Some((number, line)) = numbered.next() {
        let mut text = line.strip_prefix("pub ").unwrap_or(line).to_string();
        while text.starts_with("use ") && !text.contains(';') {
            text += numbered.next().unwrap().1.trim();
        }
        lines.push(Line { place: format!("{}:{number}", path.display()), module: module.clone(), text });
    }
    lines
}

fn assert_all(lines: &[Line], advice: impl Fn(&Line) -> Option<String>) {
    let wrong = lines.iter().filter_map(|line| Some(format!("\n{}: {}", line.place, advice(line)?)));
    let wrong: String = wrong.collect();
    assert!(wrong.is_empty(), "{wrong}");
}

/// What a line imports, as pairs of modules that stand beside each other: `web` and `db`, `web::login` and `web::factors`.
fn imports(Line { module, text, .. }: &Line) -> Vec<(String, String)> {
    let paths = text.strip_prefix("use ").map(|tree| expand(tree.trim_end_matches(';'))).unwrap_or_default();
    let pair = |path: &String| {
        let names = path.split("::").skip(1).chain(["*"]).map(String::from);
        let path: Vec<String> = match path.split("::").next()? {
            "crate" => names.collect(),
            "super" => module[..module.len() - 1].iter().cloned().chain(names).collect(),
            _ => return None,
        };
        let shared = module.iter().zip(&path).take_while(|(own, other)| own == other).count();
        // A `mod.rs` may name what is below it.
        (shared < module.len()).then(|| (module[..=shared].join("::"), path[..=shared].join("::")))
    };
    paths.iter().filter_map(pair).collect()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().into()];
    };
    let mut depth = 0;
    let parts = rest.trim_end_matches(['}', ',']).split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts.flat_map(expand).map(|part| prefix.trim().to_string() + &part).collect()
}

/// Whether imports lead from one module to another.
fn lead<'a>(all: &'a [(String, String)], from: &'a str, to: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let mut next = all.iter().filter(|(importer, _)| importer == from);
    from == to || (seen.insert(from) && next.any(|(_, imported)| lead(all, imported, to, seen)))
}

#[test]
fn imports_go_down_or_to_a_file_beside_and_never_in_a_circle() {
    let lines = lines();
    let all: Vec<_> = lines.iter().flat_map(imports).collect();
    let modules: BTreeSet<String> = lines.iter().map(|line| line.module.join("::")).collect();
    let height = |name: &str| LAYERS.iter().position(|layer| *layer == name).unwrap_or(LAYERS.len());
    let advice = |from: &str, to: &str| match from.split("::").collect::<Vec<_>>()[..] {
        [_] if height(to) >= height(from) => Some("not below it: move the code down, or pass it in"),
        [_] => None,
        _ if !modules.contains(to) => Some("no file beside it: import from the file that has the item"),
        ["features", _] if to != "features::feature" => Some("a feature: move what both need to a lower layer"),
        _ if lead(&all, to, from, &mut BTreeSet::new()) => Some("in a circle: move what both need to a third file"),
        _ => None,
    };
    assert_all(&lines, |line| {
        let mut imports = imports(line).into_iter();
        imports.find_map(|(from, to)| Some(format!("{from} imports {to}, {}", advice(&from, &to)?)))
    });
}

#[test]
fn crate_and_super_stand_in_use_lines_only() {
    assert_all(&lines(), |Line { text, .. }| {
        let code = text.split("//").next()?;
        let is_named = code.contains("crate::") || code.contains("super::");
        (is_named && !text.starts_with("use ")).then(|| "import this by `use` at the top of the file".into())
    });
}

#[test]
fn a_mod_rs_declares_and_exports_only() {
    const ITEMS: [&str; 9] = ["async", "const", "enum", "fn", "impl", "static", "struct", "trait", "type"];
    assert_all(&lines(), |Line { place, module, text }| {
        let is_offer =
            module.first()? == "features" && (text.starts_with("fn feature(") || text.starts_with("fn all("));
        let is_item = place.contains("/mod.rs:") && ITEMS.contains(&text.split(' ').next()?);
        (is_item && !is_offer).then(|| "move this to a file beside mod.rs".into())
    });
}

#[test]
fn every_event_is_in_one_list() {
    let lines = lines();
    let owner = |module: &[String]| match module {
        [layer, feature, ..] if layer == "features" => format!("features::{feature}::"),
        _ => "accounts::".to_string(),
    };
    let mut listed: Vec<(String, String)> = Vec::new();
    for module in lines.iter().map(|line| &line.module).collect::<BTreeSet<_>>() {
        let text: String = lines.iter().filter(|line| line.module == *module).map(|line| line.text.trim()).collect();
        for list in text.replace("EVENTS: &[Event] = &[", "events: &[").split("events: &[").skip(1) {
            let names = list.split(']').next().unwrap().split(',');
            listed.extend(names.map(|name| (owner(module), format!("::{}", name.trim()))));
        }
    }
    assert_all(&lines, |Line { module, text, .. }| {
        let name = text.strip_prefix("const ")?.split_once(": Event =")?.0;
        let (owner, event) = (owner(module), format!("{}::{name}", module.join("::")));
        let lists = listed.iter().filter(|(other, name)| *other == owner && event.ends_with(name)).count();
        let advice = "name it once, in accounts/core_events.rs or in the `events` of its feature";
        (lists != 1).then(|| format!("{name} is in {lists} lists: {advice}"))
    });
}

/// In a copy whose files have the line ends of Windows, as `.ci/run` makes one, build.rs has to change them.
#[tokio::test]
async fn what_is_compiled_in_has_the_same_line_ends_on_every_system() {
    let schema = include_str!(concat!(env!("OUT_DIR"), "/schema.sql"));
    let templates = files::ALL.iter().copied();
    for (name, text) in templates.chain([("schema.sql", schema)]) {
        assert!(!text.contains('\r'), "{name} has the line ends of Windows");
    }
    let app = TestApp::new().await;
    for asset in assets::ALL {
        let answer = app.visitor().get(asset.path).await;
        let text = !answer.header("content-type").starts_with("image/") || asset.path.ends_with(".svg");
        assert!(!(text && answer.bytes.contains(&b'\r')), "{} has the line ends of Windows", asset.path);
    }
}
