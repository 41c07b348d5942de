//! Claims, classes and slices of devices: what is refused and in which words.

use crate::validation::{made, told};
use crate::{create, lines, merge, object, row, update};
use ferrokube_api::field::Errors;
use serde_json::{Value, json};

const NAMED: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

fn label(value: &str) -> String {
    let form = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    format!("Invalid value: {value:?}: {form}")
}

fn claim(devices: Value) -> Value {
    json!({ "spec": { "devices": devices } })
}

#[test]
fn claims_are_told_what_their_requests_lack() {
    let one = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
    let with = |more: Value| {
        let mut devices = json!({"requests": [one]});
        merge(&mut devices, more);
        claim(devices)
    };
    let toleration = |t: Value| json!({"name": "r", "exactly": {"deviceClassName": "c", "tolerations": [t]}});
    let at = "spec.devices";
    for (rest, want) in [
        (claim(json!({"requests": [{"exactly": {"deviceClassName": "c"}}]})), vec![format!("{at}.requests[0].name: {}", label(""))]),
        (claim(json!({"requests": [one, one]})), vec![format!("{at}.requests[1]: Duplicate value: \"r\"")]),
        (claim(json!({"requests": vec![one.clone(); 33]})), vec![format!("{at}.requests: Too many: 33: must have at most 32 items")]),
        (
            claim(json!({"requests": [toleration(json!({"operator": "Exists", "effect": "Evict"}))]})),
            vec![format!(
                "{at}.requests[0].exactly.tolerations[0].effect: Unsupported value: \"Evict\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""
            )],
        ),
        (claim(json!({"requests": [toleration(json!({"effect": "None"}))]})), vec![]),
        (
            with(json!({"constraints": [{"requests": ["r", "r"]}]})),
            vec![
                format!("{at}.constraints[0].requests[1]: Duplicate value: \"r\""),
                format!(
                    "{at}.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"
                ),
            ],
        ),
        (
            with(json!({"constraints": [{"matchAttribute": "model"}]})),
            vec![format!(
                "{at}.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash"
            )],
        ),
        (
            with(json!({"config": [{"requests": ["a/b/c", "R"], "opaque": {"driver": "d.example", "parameters": []}}]})),
            vec![
                format!("{at}.config[0].requests[0]: Invalid value: \"a/b/c\": {NAMED}"),
                format!("{at}.config[0].requests[1]: {}", label("R")),
                format!("{at}.config[0].requests[1]: Invalid value: \"R\": {NAMED}"),
                format!("{at}.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"),
            ],
        ),
    ] {
        assert_eq!(told("ResourceClaim", rest.clone()), want, "{rest}");
    }
    let template = json!({"spec": {"metadata": {"name": "n"}, "spec": {}}});
    assert_eq!(told("ResourceClaimTemplate", template), ["spec.metadata.name: Forbidden: cannot be set"]);
}

#[test]
fn parameters_of_a_class_may_stay_as_large_as_they_were() {
    let class = |text: String, more: Value| {
        let mut rest = json!({"spec": {"config": [{"opaque": {"driver": "d.example", "parameters": {"text": text}}}]}});
        merge(&mut rest, more);
        object("DeviceClass", rest)
    };
    let large = class("x".repeat(11 << 10), json!({}));
    let why = "spec.config[0].opaque.parameters: Too long: may not be more than 10240 bytes";
    assert_eq!(create(row("DeviceClass"), &mut large.clone()), [why]);
    let mut changed = class("x".repeat(11 << 10), json!({"spec": {"extendedResourceName": "a.b/c"}}));
    assert_eq!(update(row("DeviceClass"), &mut changed, &large), Vec::<String>::new());
    assert_eq!(update(row("DeviceClass"), &mut class("y".repeat(11 << 10), json!({})), &large), [why]);
}

fn slice(spec: Value) -> Value {
    let mut o = json!({"spec": {"driver": "d.example", "pool": {"name": "p", "resourceSliceCount": 1}}});
    merge(&mut o, json!({ "spec": spec }));
    o
}

#[test]
fn slices_are_told_of_each_device() {
    let device = |rest: Value| {
        let mut device = json!({"name": "g"});
        merge(&mut device, rest);
        slice(json!({"allNodes": true, "devices": [device]}))
    };
    let shared =
        |policy: Value| device(json!({"allowMultipleAllocations": true, "capacity": {"memory": {"value": "8", "requestPolicy": policy}}}));
    let at = "spec.devices[0]";
    let policy = format!("{at}.capacity[memory].requestPolicy");
    let one_place = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    for (rest, want) in [
        (
            slice(json!({"nodeName": ""})),
            vec![
                "spec.nodeName: Invalid value: \"\": must be either unset or set to a non-empty string".to_owned(),
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
                    .to_owned(),
            ],
        ),
        (
            slice(json!({"allNodes": true, "devices": [{"name": "g"}], "sharedCounters": [{"name": "c"}]})),
            vec![
                "spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed".to_owned(),
                "spec.sharedCounters[0].counters: Required value".to_owned(),
            ],
        ),
        (
            device(json!({"attributes": {"a": {}, "b": {"int": 1, "bool": true}}})),
            vec![
                format!("{at}.attributes[a]: Invalid value: \"\": exactly one value must be specified"),
                format!(
                    "{at}.attributes[b]: Invalid value: {{\"IntValue\":1,\"BoolValue\":true,\"StringValue\":null,\"VersionValue\":null}}: exactly one value must be specified"
                ),
            ],
        ),
        (
            device(json!({"nodeName": "n"})),
            vec![format!(
                "{at}: Invalid value: \"null\": `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
            )],
        ),
        (slice(json!({"perDeviceNodeSelection": true, "devices": [{"name": "g"}]})), vec![format!("{at}: Required value: {one_place}")]),
        (
            device(json!({"bindingConditions": ["ready", "ready"], "bindingFailureConditions": ["ready"]})),
            vec![
                format!("{at}.bindingConditions[1]: Duplicate value: \"ready\""),
                format!(
                    "{at}.bindingFailureConditions[0]: Invalid value: \"ready\": bindingFailureConditions must not overlap with bindingConditions"
                ),
            ],
        ),
        (
            device(json!({"bindingConditions": ["ready"]})),
            vec![format!(
                "{at}.bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions"
            )],
        ),
        (
            device(json!({"consumesCounters": [{"counterSet": "c", "counters": {"m": {"value": "1"}}}, {"counterSet": "c"}]})),
            vec![format!("{at}.consumesCounters[1].counters: Required value"), format!("{at}.consumesCounters[1]: Duplicate value: \"c\"")],
        ),
        (
            device(json!({"capacity": {"memory": {"value": "8", "requestPolicy": {"default": "1"}}}})),
            vec![format!("{policy}: Forbidden: allowMultipleAllocations must be true")],
        ),
        (
            shared(json!({"default": "3", "validValues": ["2", "1", "9"]})),
            vec![
                format!("{policy}.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order"),
                format!("{policy}.validValues[2]: Invalid value: \"9\": option is larger than capacity value: 8"),
                format!("{policy}.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy"),
            ],
        ),
        (
            shared(json!({"default": "3", "validRange": {"min": "2", "step": "2", "max": "10"}})),
            vec![
                format!("{policy}.validRange.max: Invalid value: \"10\": max is larger than capacity value: 8"),
                format!("{policy}.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (2) from (2)"),
            ],
        ),
        (shared(json!({"validRange": {}})), vec![format!("{policy}.default: Required value: required when validRange is defined")]),
    ] {
        assert_eq!(told("ResourceSlice", rest.clone()), want, "{rest}");
    }
}

#[test]
fn taints_of_devices_have_their_time_and_stay_as_they_were() {
    let made =
        made("ResourceSlice", slice(json!({"allNodes": true, "devices": [{"name": "g", "taints": [{"key": "k", "effect": "None"}]}]})));
    assert_eq!(made["spec"]["devices"][0]["taints"][0]["timeAdded"], "2026-06-01T12:00:00Z");
    let mut old = made.clone();
    old["spec"]["devices"][0]["taints"][0]["effect"] = json!("Odd");
    assert_eq!(update(row("ResourceSlice"), &mut old.clone(), &old), Vec::<String>::new());
    let mut moved = made.clone();
    merge(&mut moved, json!({"spec": {"pool": {"name": "q"}, "driver": "e.example"}}));
    assert_eq!(
        update(row("ResourceSlice"), &mut moved, &made),
        ["spec.pool.name: Invalid value: \"q\": field is immutable", "spec.driver: Invalid value: \"e.example\": field is immutable"]
    );
}

/// A claim for which a device was allocated.
fn allocated() -> Value {
    let mut o = object("ResourceClaim", claim(json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]})));
    let result = json!({"request": "r", "driver": "d.example", "pool": "p", "device": "g"});
    merge(&mut o, json!({"status": {"allocation": {"devices": {"results": [result]}}}}));
    o
}

fn status(change: Value, old: &Value) -> (Vec<String>, Value) {
    let mut new = old.clone();
    merge(&mut new, json!({ "status": change }));
    let hooks = &row("ResourceClaim").hooks;
    hooks.prepare_status.unwrap()(&mut new, old, &crate::context());
    let mut e = Errors::default();
    hooks.validate_status.unwrap()(&new, old, &mut e);
    (lines(e), new)
}

#[test]
fn drivers_speak_of_devices_that_are_allocated() {
    let old = allocated();
    let said = |rest: Value| {
        let mut device = json!({"driver": "d.example", "pool": "p", "device": "g"});
        merge(&mut device, rest);
        status(json!({"devices": [device]}), &old).0
    };
    assert_eq!(said(json!({})), Vec::<String>::new());
    let strange = "status.devices[0]: Invalid value: d.example/p/h: must be an allocated device in the claim";
    assert_eq!(said(json!({"device": "h"})), [strange]);
    assert_eq!(
        said(json!({"networkData": {"ips": ["10.0.0.1", "10.0.0.01/24"]}})),
        [
            "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
            "status.devices[0].networkData.ips[1]: Invalid value: \"10.0.0.01/24\": must be in canonical form (\"10.0.0.1/24\")"
        ]
    );
    let shared = said(json!({"shareID": "x"}));
    assert_eq!(shared[0], "status.devices[0].shareID: Invalid value: \"x\": error validating uid: invalid UUID length: 1");
    let result = |rest: Value| {
        let mut fresh = old.clone();
        fresh.as_object_mut().unwrap().remove("status");
        status(json!({"allocation": {"devices": {"results": [rest]}}}), &fresh).0
    };
    assert_eq!(
        result(json!({"request": "q", "driver": "d.example", "pool": "p", "device": "g"})),
        [format!("status.allocation.devices.results[0].request: Invalid value: \"q\": {NAMED}")]
    );
}

#[test]
fn what_was_said_of_released_devices_is_forgotten() {
    let mut old = allocated();
    merge(&mut old, json!({"status": {"devices": [{"driver": "d.example", "pool": "p", "device": "g"}]}}));
    let (errors, new) = status(json!({"allocation": null}), &old);
    assert_eq!((errors, new["status"].get("devices")), (Vec::new(), None));
    let mut deleted = old.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-06-01T12:00:00Z");
    assert_eq!(
        status(json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}), &deleted).0,
        ["status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"]
    );
}
