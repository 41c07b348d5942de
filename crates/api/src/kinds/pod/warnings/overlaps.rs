//! Files of one volume that come to lie on each other: the later hides the earlier, or neither can be written.

use super::Out;
use crate::kinds::json::*;
use serde_json::Value;

/// Warns about the volumes of a pod.
pub fn warn(spec: &Value, out: &mut Out) {
    for volume in list(spec, "volumes") {
        let name = text(volume, "name");
        for (key, named) in [("configMap", "name"), ("secret", "secretName"), ("downwardAPI", "")] {
            if let Some(source) = get(volume, key) {
                among(&paths(source), &told(name, key, text(source, named), ""), out);
            }
        }
        if let Some(projected) = get(volume, "projected") {
            self::projected(name, projected, out);
        }
    }
}

fn paths(source: &Value) -> Vec<&str> {
    list(source, "items").iter().map(|item| text(item, "path")).collect()
}

fn told(volume: &str, key: &str, source: &str, projected: &str) -> String {
    let kind = match key {
        "configMap" => "ConfigMap",
        "secret" => "Secret",
        "downwardAPI" => "DownwardAPI",
        _ => "ServiceAccountToken",
    };
    let named = if matches!(key, "configMap" | "secret") { format!(" {source:?}") } else { String::new() };
    format!("volume {volume:?} ({projected}{kind}{named}): overlapping paths")
}

fn projected(volume: &str, projected: &Value, out: &mut Out) {
    let mut before: Vec<&str> = Vec::new();
    for source in list(projected, "sources") {
        if same(Some(source), None) {
            out.push(format!("volume {volume:?} (Projected) has no sources provided"));
            continue;
        }
        for key in ["configMap", "secret", "downwardAPI", "serviceAccountToken"] {
            let Some(what) = get(source, key) else { continue };
            let mut own = if key == "serviceAccountToken" { vec![text(what, "path")] } else { paths(what) };
            let message = told(volume, key, text(what, "name"), "Projected ");
            among(&own, &message, out);
            own.sort_unstable();
            own.dedup();
            let mut together = [own.clone(), before.clone()].concat();
            together.sort_unstable();
            if !own.is_empty() {
                among(&together, &message, out);
            }
            before.extend(own);
            before.sort_unstable();
            before.dedup();
        }
    }
}

fn among(paths: &[&str], message: &str, out: &mut Out) {
    let mut seen: Vec<&str> = Vec::new();
    for path in paths.iter().map(|p| p.trim_end_matches('/')) {
        if let Some(other) = seen.iter().find(|other| overlap(other, path)) {
            out.push(format!("{message}: {path:?} with {other:?}"));
        }
        seen.push(path);
    }
}

/// Whether a path is the other, or starts as the other does, which is how upstream tells them apart.
fn overlap(a: &str, b: &str) -> bool {
    let starts = |long: &str, short: &str| format!("{long}/").starts_with(short);
    !a.is_empty() && !b.is_empty() && (a == b || starts(a, b) || starts(b, a))
}
