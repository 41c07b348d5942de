//! Holds the table of who may use whom (ARCHITECTURE.md): the edge that is missing matters most.

use std::collections::{BTreeMap, BTreeSet};

/// Crate (without its prefix) and the workspace crates it may depend on.
const TABLE: [(&str, &[&str]); 19] = [
    ("api", &[]),
    ("store", &[]),
    ("cri", &[]),
    ("kms", &[]),
    ("cel", &["api"]),
    ("apiserver", &["api", "store", "kms", "cel"]),
    ("client", &["api"]),
    ("controllers", &["api", "client", "cel"]),
    ("cloud", &["client"]),
    ("provisioner", &["client"]),
    ("scheduler", &["api", "client", "cel"]),
    ("kubelet", &["api", "client", "cri"]),
    ("network", &["api", "client"]),
    ("dns", &["api", "client"]),
    ("metrics", &["api", "client"]),
    ("runtime", &["cri"]),
    ("bench", &["api", "client", "scheduler"]),
    (
        "ferrokube",
        &[
            "api",
            "store",
            "cel",
            "cri",
            "apiserver",
            "client",
            "controllers",
            "cloud",
            "provisioner",
            "scheduler",
            "kubelet",
            "network",
            "dns",
            "metrics",
            "runtime",
            "bench",
        ],
    ),
    ("testkit", &[]),
];

/// Normal and build dependencies between workspace crates, as cargo sees them. Dev-dependencies are free, except
/// that nothing but tests may use `testkit`.
fn actual() -> BTreeMap<String, BTreeSet<String>> {
    let output = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(ferrokube_testkit::tools::workspace())
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let short = |name: &serde_json::Value| name.as_str().unwrap_or_default().trim_start_matches("ferrokube-").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<_> = packages.iter().map(|package| short(&package["name"])).collect();
    let dependencies = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        let used = all.filter(|dependency| dependency["kind"] != "dev").filter(|dependency| dependency["path"].is_string());
        used.map(|dependency| short(&dependency["name"])).filter(|name| names.contains(name)).collect()
    };
    packages.iter().map(|package| (short(&package["name"]), dependencies(package))).collect()
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = TABLE.into_iter().collect();
    let actual = actual();
    let known: BTreeSet<_> = actual.keys().map(String::as_str).collect();
    assert_eq!(known, table.keys().copied().collect(), "the table names every crate of the workspace");
    for (name, used) in actual {
        let allowed = table[name.as_str()];
        let forbidden: Vec<_> = used.iter().filter(|dependency| !allowed.contains(&dependency.as_str())).collect();
        assert!(forbidden.is_empty(), "{name} must not depend on {forbidden:?}; it may use {allowed:?}");
    }
}
