//! Which address families a service is served over: `initIPFamilyFields` of `pkg/registry/core/service/storage/alloc.go`.

use super::{SPEC, has_address, is_headless, validate};
use crate::field::Errors;
use crate::kinds::json::*;
use crate::names;
use serde_json::{Value, json};

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn policy(spec: &Value) -> &str {
    text(spec, "ipFamilyPolicy")
}

/// Settles `ipFamilyPolicy` and `ipFamilies` of a new or changed service on a cluster that has these families, its default first.
/// When something does not fit together, `e` says so and the rest is left as it is.
pub fn settle(new: &mut Value, old: Option<&Value>, cluster: &[&str], e: &mut Errors) {
    let (new, old) = (object(new, "spec"), old.map(spec));
    if !has_address(new) || old.is_some_and(|old| prefers_as_before(new, old)) {
        return;
    }
    if !has(new, "ipFamilyPolicy") {
        let headless_without_selector = is_headless(new) && same(new.get("selector"), None);
        let fresh = if headless_without_selector { "RequireDualStack" } else { "SingleStack" };
        let policy = old.map(policy).filter(|p| !p.is_empty()).unwrap_or(fresh).to_owned();
        set(new, "ipFamilyPolicy", policy);
    }
    if let Some(old) = old {
        trim_to_single(new, old);
    }
    let before = e.len();
    validate::address_fields(new, old, e);
    if e.len() == before {
        infer(new, cluster, e);
    }
    if e.len() == before {
        complete(new, cluster, e);
    }
}

/// A service that prefers two families is not upgraded or downgraded because the cluster has changed.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let alike = |key: &str| same(new.get(key), old.get(key));
    policy(old) == "PreferDualStack" && ["ipFamilyPolicy", "clusterIPs", "ipFamilies"].into_iter().all(alike)
}

/// Who goes back to one family need not take away the second address and family himself.
fn trim_to_single(new: &mut Value, old: &Value) {
    if policy(new) != "SingleStack" || policy(old) == "SingleStack" {
        return;
    }
    for key in ["clusterIPs", "ipFamilies"] {
        if list(new, key).len() > 1 && same(new.get(key), old.get(key)) {
            set(new, key, json!([list(new, key)[0]]));
        }
    }
}

/// Addresses that the client names tell their families.
fn infer(new: &mut Value, cluster: &[&str], e: &mut Errors) {
    let ips: Vec<String> = texts(new, "clusterIPs").map(str::to_owned).collect();
    for (i, ip) in ips.iter().enumerate() {
        let Some(parsed) = names::parse_ip(ip) else { break };
        if i < list(new, "ipFamilies").len() {
            continue;
        }
        let family = if parsed.is_ipv4() { "IPv4" } else { "IPv6" };
        if !cluster.contains(&family) {
            let path = SPEC.child("clusterIPs");
            e.invalid(&path.index(i), &json!(ips), &format!("{family} is not configured on this cluster"));
        } else {
            push_family(new, family);
        }
    }
}

fn push_family(spec: &mut Value, family: &str) {
    fill(spec, "ipFamilies", Vec::<Value>::new());
    if let Some(families) = spec["ipFamilies"].as_array_mut() {
        families.push(family.into());
    }
}

fn complete(new: &mut Value, cluster: &[&str], e: &mut Errors) {
    let default = cluster.first().copied().unwrap_or("IPv4");
    let selectorless = is_headless(new) && same(new.get("selector"), None);
    if !selectorless {
        configured(new, cluster, e);
    }
    if !e.is_empty() {
        return;
    }
    if list(new, "ipFamilies").is_empty() {
        set(new, "ipFamilies", json!([default]));
    }
    // Without selector nobody looks whether the cluster has both.
    let both = selectorless || cluster.len() > 1;
    if policy(new) != "SingleStack" && list(new, "ipFamilies").len() == 1 && both {
        let second = other(new["ipFamilies"][0].as_str().unwrap_or(default));
        push_family(new, second);
    }
}

/// What is asked for must be there.
fn configured(new: &Value, cluster: &[&str], e: &mut Errors) {
    if policy(new) == "RequireDualStack" && cluster.len() < 2 {
        e.invalid(&SPEC.child("ipFamilyPolicy"), &policy(new).into(), "this cluster is not configured for dual-stack services");
    }
    let path = SPEC.child("ipFamilies");
    for (i, family) in texts(new, "ipFamilies").enumerate().filter(|(_, f)| !cluster.contains(f)) {
        e.invalid(&path.index(i), &family.into(), "not configured on this cluster");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &[&str] = &["IPv4"];
    const DUAL: &[&str] = &["IPv4", "IPv6"];

    fn settled(new: Value, old: Option<Value>, cluster: &[&str]) -> Result<(String, String), String> {
        let mut new = json!({ "spec": new });
        let mut e = Errors::default();
        let old = old.map(|old| json!({ "spec": old }));
        settle(&mut new, old.as_ref(), cluster, &mut e);
        match e.into_causes().first() {
            Some(cause) => Err(format!("{}: {}", cause.field, cause.message)),
            None => {
                let families = texts(spec(&new), "ipFamilies").collect::<Vec<_>>().join(",");
                Ok((policy(spec(&new)).to_owned(), families))
            }
        }
    }

    #[test]
    fn families_follow_policy_addresses_and_cluster() {
        let ok = |policy: &str, families: &str| Ok((policy.to_owned(), families.to_owned()));
        let err = |why: &str| Err(why.to_owned());
        let web = json!({"a": "b"});
        for (spec, cluster, want) in [
            (json!({}), SINGLE, ok("SingleStack", "IPv4")),
            (json!({}), DUAL, ok("SingleStack", "IPv4")),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), SINGLE, ok("PreferDualStack", "IPv4")),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), DUAL, ok("PreferDualStack", "IPv4,IPv6")),
            (json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}), DUAL, ok("RequireDualStack", "IPv6,IPv4")),
            (json!({"ipFamilies": ["IPv6"]}), DUAL, ok("SingleStack", "IPv6")),
            (json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), DUAL, ok("SingleStack", "IPv6")),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), SINGLE, ok("RequireDualStack", "IPv4,IPv6")),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": web}), DUAL, ok("SingleStack", "IPv4")),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                SINGLE,
                err("spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"),
            ),
            (json!({"ipFamilies": ["IPv6"]}), SINGLE, err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster")),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                SINGLE,
                err("spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"),
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
                DUAL,
                err("spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"),
            ),
        ] {
            assert_eq!(settled(spec.clone(), None, cluster), want, "{spec} on {cluster:?}");
        }
    }

    #[test]
    fn changes_of_the_policy_upgrade_and_downgrade() {
        let both = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        let mut single = both.clone();
        set(&mut single, "ipFamilyPolicy", "SingleStack");
        assert_eq!(settled(single, Some(both), DUAL).map(|s| s.1).as_deref(), Ok("IPv4"));
        let one = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let mut prefers = one.clone();
        set(&mut prefers, "ipFamilyPolicy", "PreferDualStack");
        assert_eq!(settled(prefers.clone(), Some(one), DUAL).map(|s| s.1).as_deref(), Ok("IPv4,IPv6"));
        // Once preferred and served over one family it stays so, also when the cluster gets a second one.
        assert_eq!(settled(prefers.clone(), Some(prefers), DUAL).map(|s| s.1).as_deref(), Ok("IPv4"));
    }
}
