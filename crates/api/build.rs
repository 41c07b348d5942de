//! Packs the prose that `kubectl explain` shows: the documentation of every type and field, out of the `k8s-openapi` crate.
//!
//! The repository holds no prose of Kubernetes, only facts. The crate is a dependency of the binary anyway, so cargo has its
//! source unpacked when this runs; only text is read, nothing of it is compiled here. Where it cannot be found, the API
//! description is served without descriptions and a warning says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const RELEASE: &str = "v1_36";

type Prose = BTreeMap<String, (String, BTreeMap<String, String>)>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    let mut prose = Prose::new();
    match source() {
        Some(source) => {
            println!("cargo:rerun-if-changed={}", source.display());
            walk(&source, &mut prose)?;
        }
        None => println!("cargo:warning=k8s-openapi is not in the registry cache: `kubectl explain` will have no descriptions"),
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut packed = flate2::write::DeflateEncoder::new(std::fs::File::create(out.join("prose.z"))?, flate2::Compression::best());
    packed.write_all(render(&prose).as_bytes())?;
    packed.finish()?;
    Ok(())
}

/// The generated sources of the release, in cargo's registry cache or a vendor folder.
fn source() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).join("../..");
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).ok()?;
    let (_, after) = lock.split_once("name = \"k8s-openapi\"\nversion = \"")?;
    let version = after.split('"').next()?;
    let home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().filter_map(|e| e.ok());
    let cached = registries.map(|r| r.path().join(format!("k8s-openapi-{version}")));
    let vendored = ["vendor/k8s-openapi".to_owned(), format!("vendor/k8s-openapi-{version}")].map(|p| root.join(p));
    cached.chain(vendored).map(|p| p.join("src").join(RELEASE)).find(|p| p.is_dir())
}

fn walk(folder: &Path, prose: &mut Prose) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, prose)?;
        } else {
            read(&std::fs::read_to_string(&path)?, prose);
        }
    }
    Ok(())
}

/// Reads one generated file: a header that names the definition, the struct with its comments, and the JSON names of its fields.
fn read(text: &str, prose: &mut Prose) {
    let Some((_, rest)) = text.split_once("// Generated from definition ") else { return };
    let mut lines = rest.lines();
    let name = lines.next().unwrap_or_default().trim().to_owned();
    let json: BTreeMap<&str, &str> = rest.lines().filter_map(json_name).collect();
    let (mut comment, mut about, mut fields) = (String::new(), None, BTreeMap::new());
    for line in lines {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            if !comment.is_empty() {
                comment.push('\n');
            }
            comment.push_str(&plain(text.trim()));
        } else if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
            about = Some(std::mem::take(&mut comment));
        } else if let (Some(field), true) = (line.strip_prefix("pub ").and_then(|l| l.split_once(':')), about.is_some()) {
            let said = std::mem::take(&mut comment);
            let name = json.get(field.0.trim_end_matches('_')).copied();
            fields.extend(name.filter(|_| !said.is_empty()).map(|n| (n.to_owned(), said)));
        } else if line == "}" {
            break;
        }
    }
    prose.insert(name, (about.unwrap_or_default(), fields));
}

/// `"hostIP" => Field::Key_host_ip,` → (`host_ip`, `hostIP`).
fn json_name(line: &str) -> Option<(&str, &str)> {
    let (name, key) = line.trim().strip_prefix('"')?.split_once("\" => Field::Key_")?;
    Some((key.trim_end_matches(',').trim_end_matches('_'), name))
}

/// Without the escapes that documentation comments need.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '\\' && characters.peek().is_some_and(|n| matches!(n, '[' | ']' | '<' | '>' | '\\' | '*' | '_' | '`')) {
            continue;
        }
        out.push(c);
    }
    out
}

/// `:type<tab>text`, then `field<tab>text` for each field; line breaks as `\n`.
fn render(prose: &Prose) -> String {
    let flat = |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', " ");
    let mut out = String::new();
    for (name, (about, fields)) in prose {
        let _ = writeln!(out, ":{name}\t{}", flat(about));
        for (field, text) in fields {
            let _ = writeln!(out, "{field}\t{}", flat(text));
        }
    }
    out
}
