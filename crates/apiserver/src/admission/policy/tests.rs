//! Compiled sets follow what stands in the caches.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::objects::testing::Map;
use serde_json::json;

#[test]
fn a_set_is_compiled_again_only_when_something_changed() {
    let map = Map::default();
    let kept = Kept::default();
    let get = || kept.current(&map, GROUP, &VALIDATING, |_| build(&map, VALIDATING));
    assert!(get().policies.is_empty());
    map.put(GROUP, "validatingadmissionpolicies", json!({"metadata": {"name": "p"}, "spec": {"validations": [{"expression": "true"}]}}));
    assert!(get().policies.is_empty(), "a policy without a binding does nothing");
    map.put(GROUP, "validatingadmissionpolicybindings", json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}}));
    let first = get();
    assert_eq!((first.policies.len(), first.policies[0].1.len()), (1, 1));
    assert!(std::sync::Arc::ptr_eq(&first, &get()));
}
