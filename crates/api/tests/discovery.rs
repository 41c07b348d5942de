//! The table of kinds says what a 1.36 API server serves by default.
//!
//! Held against a golden of the project always, and against the upstream discovery documents when they stand beside
//! the workspace. Renew the golden with `UPDATE_GOLDEN=1`.
#![allow(clippy::unwrap_used, missing_docs)]

use ferrokube_api::kinds::{self, GROUP_VERSIONS, Kind, Verbs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/discovery.txt")
}

fn reference() -> Option<PathBuf> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/api/discovery");
    at.exists().then_some(at)
}

fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.as_ref().to_owned()).collect::<Vec<_>>().join(",")
}

fn verbs(v: Verbs) -> String {
    if v == Verbs::ALL { "ALL".into() } else { list(v.names()) }
}

/// A row as text: everything but columns and hooks.
fn show(kind: &Kind) -> String {
    let mut out = format!("{}\n", kind.resource);
    let scope = if kind.namespaced() { "namespaced" } else { "cluster" };
    writeln!(out, "    {} ({}) {scope} {}", kind.kind, kind.singular, verbs(kind.verbs)).unwrap();
    if !kind.short_names.is_empty() || !kind.categories.is_empty() {
        writeln!(out, "    short {} categories {}", list(kind.short_names.iter()), list(kind.categories.iter())).unwrap();
    }
    writeln!(out, "    type {} stored {}", kind.schema, kind.storage_prefix.as_deref().unwrap_or("-")).unwrap();
    if let Some((g, v)) = &kind.stored_as {
        writeln!(out, "    stored as {g}/{v}").unwrap();
    }
    for s in kind.subresources.iter() {
        let other = s.kind.as_ref().map(|(g, v, k)| format!(" {g}/{v} {k}")).unwrap_or_default();
        writeln!(out, "    /{} {:?} {}{other}", s.name, s.behaviour, verbs(s.verbs)).unwrap();
    }
    if !kind.fields.is_empty() {
        writeln!(out, "    fields {}", list(kind.fields.iter().map(|f| &f.label))).unwrap();
    }
    if !kind.columns.is_empty() {
        let name = |c: &kinds::Column| format!("{}{}", c.name, if c.priority > 0 { "*" } else { "" });
        writeln!(out, "    columns {}", list(kind.columns.iter().map(name))).unwrap();
    }
    out
}

#[test]
fn rows_are_those_of_the_golden() {
    let mut text = String::new();
    for gv in GROUP_VERSIONS {
        writeln!(text, "# {}/{} {} {}", gv.group, gv.version, gv.group_priority, gv.version_priority).unwrap();
        for kind in kinds::builtin().iter().filter(|k| k.group == gv.group && k.version == gv.version) {
            text.push_str(&show(kind));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(), &text).unwrap();
    }
    let wanted = std::fs::read_to_string(golden()).unwrap();
    assert!(text == wanted, "rows differ from {}; renew with UPDATE_GOLDEN=1\n{text}", golden().display());
}

#[test]
fn counts_are_those_of_a_default_server() {
    let rows = kinds::builtin();
    assert_eq!(rows.len(), 68);
    assert_eq!(rows.iter().map(|k| k.subresources.len()).sum::<usize>(), 45);
    let mut versions: Vec<_> = rows.iter().map(|k| (&k.group, &k.version)).collect();
    versions.sort();
    versions.dedup();
    assert_eq!((versions.len(), GROUP_VERSIONS.len()), (22, 22));
}

#[test]
fn every_row_is_found() {
    for kind in kinds::known() {
        let found = kinds::lookup(&kind.group, &kind.version, &kind.resource).unwrap();
        assert!(std::ptr::eq(kind, found));
        assert_eq!(kinds::lookup_kind(&kind.group, &kind.version, &kind.kind).unwrap().resource, kind.resource);
    }
    assert!(kinds::lookup("", "v1", "podz").is_none());
}

/// A discovery document as lines that compare: name, singular, kind, scope, verbs, short names, categories, other group/version.
fn upstream(document: &Value) -> BTreeMap<String, String> {
    let strings = |r: &Value, k: &str| list(r[k].as_array().into_iter().flatten().map(|s| s.as_str().unwrap()));
    let line = |r: &Value| {
        let text = |k: &str| r[k].as_str().unwrap_or_default().to_owned();
        let facts = [text("singularName"), text("kind"), r["namespaced"].to_string(), strings(r, "verbs")];
        let more = [strings(r, "shortNames"), strings(r, "categories"), text("group"), text("version")];
        (text("name"), facts.into_iter().chain(more).collect::<Vec<_>>().join(" | "))
    };
    document["resources"].as_array().unwrap().iter().map(line).collect()
}

fn ours(group: &str, version: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for k in kinds::known().filter(|k| k.group == group && k.version == version) {
        let facts = [k.singular.to_string(), k.kind.to_string(), k.namespaced().to_string(), list(k.verbs.names())];
        let more = [list(k.short_names.iter()), list(k.categories.iter()), String::new(), String::new()];
        out.insert(k.resource.to_string(), facts.into_iter().chain(more).collect::<Vec<_>>().join(" | "));
        for s in k.subresources.iter() {
            let own = (k.group.clone(), k.version.clone(), k.kind.clone());
            let (g, v, kind) = s.kind.as_ref().unwrap_or(&own);
            let other = if *g == k.group && *v == k.version { ("", "") } else { (g.as_ref(), v.as_ref()) };
            let facts = [String::new(), kind.to_string(), k.namespaced().to_string(), list(s.verbs.names())];
            let more = [String::new(), String::new(), other.0.to_owned(), other.1.to_owned()];
            out.insert(format!("{}/{}", k.resource, s.name), facts.into_iter().chain(more).collect::<Vec<_>>().join(" | "));
        }
    }
    out
}

#[test]
fn rows_are_those_of_upstream_discovery() {
    let Some(reference) = reference() else {
        eprintln!("SKIP: no ../shared/reference beside the workspace; upstream discovery documents were not compared");
        return;
    };
    for gv in kinds::group_versions() {
        let file = if gv.group.is_empty() { "api__v1.json".to_owned() } else { format!("apis__{}__{}.json", gv.group, gv.version) };
        let document: Value = serde_json::from_slice(&std::fs::read(reference.join(file)).unwrap()).unwrap();
        assert_eq!(ours(gv.group, gv.version), upstream(&document), "{}/{}", gv.group, gv.version);
    }
}
