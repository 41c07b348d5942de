//! `/version`.

use serde_json::json;

/// What clients compare their own version with.
pub const GIT_VERSION: &str = concat!("v1.36.2+ferrokube.", env!("CARGO_PKG_VERSION"));

/// The document.
pub fn document() -> String {
    let version = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", arch()),
    });
    format!("{version:#}")
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
