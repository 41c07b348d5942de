//! `/version`.

use serde_json::json;

/// What clients compare their own version with.
pub const GIT_VERSION: &str = concat!("v1.36.2+ferrokube.", env!("CARGO_PKG_VERSION"));

const GIT_TREE_STATE: &str = "clean";
const BUILD_DATE: &str = "1970-01-01T00:00:00Z";
const COMPILER: &str = "rustc";

/// The document.
pub fn document() -> String {
    let version = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": GIT_TREE_STATE, "buildDate": BUILD_DATE,
        "goVersion": "", "compiler": COMPILER, "platform": format!("linux/{}", arch()),
    });
    format!("{version:#}")
}

/// The same as the labels of `kubernetes_build_info`.
pub fn labels() -> String {
    format!(
        "build_date=\"{BUILD_DATE}\",compiler=\"{COMPILER}\",git_commit=\"\",git_tree_state=\"{GIT_TREE_STATE}\",git_version=\"{GIT_VERSION}\",go_version=\"\",major=\"1\",minor=\"36\",platform=\"linux/{}\"",
        arch()
    )
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
