//! Compiles `templates/` and `public/` into the binary, with a constant for every file, so that `cargo build` fails if a
//! file is used that was renamed or removed.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    // This file also builds the crate in deploy/shuttle.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package.ancestors().find(|folder| folder.join("build.rs").exists()).expect("this file is there");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for watched in ["build.rs", "templates", "public", "schema.sql"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }

    fs::write(out.join("schema.sql"), contents(&root.join("schema.sql"))).expect("OUT_DIR is writable");
    let templates = templates(&root.join("templates"), &out);
    fs::write(out.join("templates.rs"), templates).expect("OUT_DIR is writable");
    let assets = assets(&root.join("public"), &out);
    fs::write(out.join("assets.rs"), assets).expect("OUT_DIR is writable");
}

/// `templates/notes/edit.html` becomes `NOTES_EDIT`, its name for Tera; `ALL` pairs names with texts.
fn templates(folder: &Path, out: &Path) -> String {
    let mut constants = format!("pub const FOLDER: &str = {folder:?};\n");
    let mut all = String::from("pub const ALL: &[(&str, &str)] = &[\n");
    for (name, path) in files(folder) {
        let constant = constant(name.strip_suffix(".html").unwrap_or(&name));
        // Tera escapes only what ends in .html, .htm or .xml; anything else here is a mail's text part.
        assert!(
            name.ends_with(".html") || name.ends_with(".txt"),
            "templates/{name}: only .html is escaped, and only .html and .txt belong here"
        );
        let copy = out.join(format!("{constant}.template"));
        fs::write(&copy, contents(&path)).expect("OUT_DIR is writable");
        writeln!(constants, "pub const {constant}: &str = {name:?};").unwrap();
        writeln!(all, "    ({constant}, include_str!({copy:?})),").unwrap();
    }
    constants + &all + "];\n"
}

/// `public/styles.css` becomes `STYLES_CSS`, an `Asset` with its hash and its compressed form.
fn assets(folder: &Path, out: &Path) -> String {
    let mut constants = String::new();
    let mut all = String::from("pub const ALL: &[&Asset] = &[\n");
    for (name, path) in files(folder) {
        let constant = constant(&name);
        let bytes = contents(&path);
        let hash = hex(&Sha256::digest(&bytes)[..8]);
        let plain = out.join(format!("{constant}.plain"));
        let gzip = out.join(format!("{constant}.gz"));
        fs::write(&plain, &bytes).expect("OUT_DIR is writable");
        fs::write(&gzip, gzipped(&bytes)).expect("OUT_DIR is writable");
        writeln!(
            constants,
            "pub static {constant}: Asset = Asset {{ path: {:?}, url: {:?}, hash: {hash:?}, content_type: {:?}, \
             plain: include_bytes!({plain:?}), gzip: include_bytes!({gzip:?}) }};",
            format!("/{name}"),
            format!("/{name}?v={hash}"),
            content_type(&name),
        )
        .unwrap();
        writeln!(all, "    &{constant},").unwrap();
    }
    constants + &all + "];\n"
}

/// Every file below `folder`, as (path relative to it with `/`, absolute path), in order of name.
fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.expect("a folder just opened can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").to_str();
                let name = name.unwrap_or_else(|| panic!("{}: a name that is not UTF-8", path.display()));
                found.push((name.replace('\\', "/"), path.clone()));
            }
        }
    }
    found.sort();
    found
}

/// The contents of a file. Text gets Unix line endings, so that checksums of migrations and hashes of assets are the same
/// wherever they are built.
fn contents(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.replace("\r\n", "\n").into_bytes(),
        Ok(binary) => binary.into_bytes(),
        Err(binary) => binary.into_bytes(),
    }
}

fn constant(name: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(word).collect()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        other => panic!("public/{name}: build.rs knows no content type for .{other}; add it there"),
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
