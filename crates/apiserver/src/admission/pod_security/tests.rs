//! The fixtures of the reference when they are there, and goldens of our own always.

use super::checks::violations;
use super::policy::{LATEST, Level, Policy};
use super::*;
use serde_json::json;
use std::path::Path;

fn refused(pod: &Value, level: Level, version: u32) -> String {
    told(&violations(&pod["metadata"], &pod["spec"], Policy { level, version }))
}

#[test]
fn the_fixtures_pass_and_fail_as_upstream() {
    let relative = "shared/reference/data/staging/src/k8s.io/pod-security-admission/test/testdata";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").join(relative);
    if !folder.exists() {
        println!("SKIP: ../{relative} is not there");
        return;
    }
    let mut checked = 0;
    for (name, level) in [("baseline", Level::Baseline), ("restricted", Level::Restricted)] {
        for version in [34, 35] {
            for (verdict, passes) in [("pass", true), ("fail", false)] {
                let cases = folder.join(name).join(format!("v1.{version}")).join(verdict);
                for file in std::fs::read_dir(cases).expect("a directory") {
                    let path = file.expect("an entry").path();
                    let pod: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).expect("readable")).expect("yaml");
                    let told = refused(&pod, level, version);
                    assert_eq!(told.is_empty(), passes, "{}: {told}", path.display());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 150, "{checked}");
    println!("{checked} fixtures");
}

#[test]
fn a_plain_pod_is_told_everything_that_restricted_wants() {
    let pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "web", "image": "nginx" }] } });
    assert_eq!(refused(&pod, Level::Baseline, LATEST), "");
    assert_eq!(
        refused(&pod, Level::Restricted, LATEST),
        "allowPrivilegeEscalation != false (container \"web\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"web\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"web\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"web\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
}

#[test]
fn baseline_names_what_it_forbids() {
    let cases = [
        (json!({ "hostNetwork": true, "hostPID": true }), "host namespaces (hostNetwork=true, hostPID=true)"),
        (json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }), "hostPath volumes (volume \"v\")"),
        (
            json!({ "containers": [{ "name": "c", "securityContext": { "privileged": true } }] }),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            json!({ "containers": [{ "name": "c", "ports": [{ "hostPort": 80 }] }, { "name": "d", "ports": [{ "hostPort": 81 }] }] }),
            "hostPort (containers \"c\", \"d\" use hostPorts 80, 81)",
        ),
        (
            json!({ "securityContext": { "seLinuxOptions": { "type": "foo", "user": "u" } }, "containers": [{ "name": "e", "securityContext": { "seLinuxOptions": { "type": "bar" } } }] }),
            "seLinuxOptions (pod and container \"e\" set forbidden securityContext.seLinuxOptions: types \"bar\", \"foo\"; user may not be set)",
        ),
        (json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }] } }), "forbidden sysctls (kernel.msgmax)"),
        (
            json!({ "containers": [{ "name": "c", "securityContext": { "capabilities": { "add": ["NET_RAW"] } } }] }),
            "non-default capabilities (container \"c\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(refused(&json!({ "metadata": {}, "spec": spec }), Level::Baseline, LATEST), expected);
    }
}

#[test]
fn versions_widen_and_narrow() {
    let with = |name: &str| json!({ "metadata": {}, "spec": { "securityContext": { "sysctls": [{ "name": name }] } } });
    assert_ne!(refused(&with("net.ipv4.tcp_rmem"), Level::Baseline, 31), "");
    assert_eq!(refused(&with("net.ipv4.tcp_rmem"), Level::Baseline, 32), "");
    let users = json!({ "metadata": {}, "spec": { "hostUsers": false, "securityContext": { "runAsUser": 0 } } });
    assert!(refused(&users, Level::Restricted, 34).contains("runAsUser=0"));
    assert!(!refused(&users, Level::Restricted, 35).contains("runAsUser=0"));
}
