//! Kinds that few clients write: what is refused of them, and in which words.

use crate::{create, lines, merge, object, row, update};
use ferrokube_api::field::Errors;
use ferrokube_api::kinds;
use serde_json::{Value, json};

pub fn told(kind: &str, rest: Value) -> Vec<String> {
    create(row(kind), &mut object(kind, rest))
}

pub fn made(kind: &str, rest: Value) -> Value {
    let mut o = object(kind, rest);
    assert_eq!(create(row(kind), &mut o), Vec::<String>::new(), "{kind}");
    o
}

/// What a write of `change` to the status of an object is told.
pub fn status(kind: &str, change: Value) -> Vec<String> {
    let old = object(kind, json!({"spec": {}}));
    let mut new = old.clone();
    merge(&mut new, json!({ "status": change }));
    let mut e = Errors::default();
    row(kind).hooks.validate_status.expect("a rule")(&new, &old, &mut e);
    lines(e)
}

fn job(spec: Value) -> Value {
    let mut o = json!({"metadata": {"uid": "u"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    merge(&mut o, json!({ "spec": spec }));
    o
}

#[test]
fn jobs_are_checked_as_a_whole() {
    for (spec, want) in [
        (json!({"completionMode": "Indexed", "parallelism": 1}), "spec.completions: Required value: when completion mode is Indexed"),
        (json!({"maxFailedIndexes": 1}), "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"),
        (json!({"backoffLimitPerIndex": 1}), "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
        (
            json!({"completionMode": "Indexed", "completions": 200_000, "backoffLimitPerIndex": 1}),
            "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "Ignore"}]}}),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}}),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}}),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered",
        ),
        (
            json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "5"}]}}),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"5\": error parsing succeededIndexes: too large index: \"5\"",
        ),
        (
            json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"}),
            "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
        ),
        (json!({"managedBy": "me"}), "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")"),
    ] {
        assert_eq!(told("Job", job(spec.clone())).first().map(String::as_str), Some(want), "{spec}");
    }
}

#[test]
fn a_suspended_job_may_still_be_placed() {
    let old = made("Job", job(json!({"suspend": true})));
    let mut placed = old.clone();
    merge(&mut placed, json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}, "metadata": {"labels": {"x": "y"}}}}}));
    merge(&mut placed, json!({"spec": {"template": {"spec": {"affinity": {"nodeAffinity": {}}}}}}));
    assert_eq!(update(row("Job"), &mut placed.clone(), &old), Vec::<String>::new());
    let mut running = old.clone();
    running["spec"]["suspend"] = json!(false);
    assert!(update(row("Job"), &mut placed, &running)[0].starts_with("spec.template: Invalid value"));
    let indexed = made("Job", job(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2})));
    let mut grown = indexed.clone();
    merge(&mut grown, json!({"spec": {"completions": 3}}));
    let errors = update(row("Job"), &mut grown.clone(), &indexed);
    assert_eq!(errors, ["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"]);
    merge(&mut grown, json!({"spec": {"parallelism": 3}}));
    assert_eq!(update(row("Job"), &mut grown, &indexed), Vec::<String>::new());
}

#[test]
fn autoscalers_name_what_their_metrics_lack() {
    let metric = |metric: Value| json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "metrics": [metric]}});
    for (rest, want) in [
        (metric(json!({})), "spec.metrics[0].type: Required value: must specify a metric source type"),
        (metric(json!({"type": "Pods"})), "spec.metrics[0].pods: Required value: must populate information for the given metric source"),
        (
            metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
        ),
        (
            metric(
                json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1", "averageValue": "1"}}}),
            ),
            "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
        ),
        (
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "D", "name": "d"}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 4000}}}}),
            "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
        ),
    ] {
        let v2 = kinds::lookup("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        let mut o = object("HorizontalPodAutoscaler", rest.clone());
        assert_eq!(create(v2, &mut o).first().map(String::as_str), Some(want), "{rest}");
    }
}

#[test]
fn rare_kinds_get_the_words_of_1_36() {
    let request = |exactly: Value| json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}});
    let flow = |rule: Value| json!({"spec": {"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}});
    let slice = |rest: Value| {
        let mut o = json!({"spec": {"driver": "d.example", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}}});
        merge(&mut o, rest);
        o
    };
    let hook = |client: Value| json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": client}]});
    for (kind, rest, want) in [
        ("ResourceClaim", request(json!({})), "spec.devices.requests[0].exactly.deviceClassName: Required value"),
        (
            "ResourceClaim",
            request(json!({"deviceClassName": "c", "allocationMode": "All", "count": 2})),
            "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
        ),
        (
            "ResourceClaim",
            json!({"spec": {"devices": {"constraints": [{"requests": ["x"], "matchAttribute": "d.example/a"}]}}}),
            "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ),
        ("DeviceClass", json!({"spec": {"selectors": [{}]}}), "spec.selectors[0].cel: Required value"),
        (
            "ResourceSlice",
            slice(json!({"spec": {"allNodes": true}})),
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ),
        (
            "ResourceSlice",
            slice(json!({"spec": {"devices": [{"name": "g", "attributes": {"v": {"version": "1"}}}]}})),
            "spec.devices[0].attributes[v].version: Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
        ),
        (
            "FlowSchema",
            flow(json!({"subjects": [{"kind": "User"}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})),
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
        ),
        (
            "FlowSchema",
            flow(
                json!({"subjects": [{"kind": "User", "user": {"name": "u"}}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["a"]}]}),
            ),
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
        ),
        (
            "ServiceCIDR",
            json!({"spec": {"cidrs": ["10.0.0.0/24", "10.1.0.0/24"]}}),
            "spec.cidrs: Invalid value: {\"CIDRs\":[\"10.0.0.0/24\",\"10.1.0.0/24\"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
        (
            "ResourceQuota",
            json!({"spec": {"hard": {"services": "1"}, "scopes": ["BestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ),
        (
            "ResourceQuota",
            json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}}),
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        (
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Magic"}]}}),
            "spec.limits[0].type: Invalid value: \"Magic\": must be a standard limit type or fully qualified",
        ),
        (
            "CSIStorageCapacity",
            json!({"storageClassName": "c", "capacity": "-1"}),
            "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            "StorageClass",
            json!({"provisioner": "p", "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": []}]}]}),
            "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
        ),
        (
            "Ingress",
            json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"ingressClassName": "b", "defaultBackend": {"service": {"name": "s", "port": {"number": 1}}}}}),
            "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified",
        ),
        (
            "ValidatingWebhookConfiguration",
            hook(json!({"url": "https://user@host/x?y"})),
            "webhooks[0].clientConfig.url: Invalid value: \"user\": user information is not permitted in the URL",
        ),
        (
            "ValidatingWebhookConfiguration",
            hook(json!({"service": {"name": "s", "namespace": "n", "path": "a"}})),
            "webhooks[0].clientConfig.service.path: Invalid value: \"a\": must start with a '/'",
        ),
        (
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}]}),
            "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
        ),
    ] {
        let errors = told(kind, rest.clone());
        assert_eq!(errors.first().map(String::as_str), Some(want), "{kind} {rest}: {errors:?}");
    }
}

#[test]
fn statuses_are_checked_too() {
    for (kind, change, want) in [
        (
            "Deployment",
            json!({"replicas": 1, "readyReplicas": 2}),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ),
        ("DaemonSet", json!({"numberReady": -1}), "status.numberReady: Invalid value: -1: must be greater than or equal to 0"),
        (
            "PodDisruptionBudget",
            json!({"conditions": [{"type": "DisruptionAllowed", "status": "True", "reason": "x"}]}),
            "status.conditions[0].lastTransitionTime: Required value: must be set",
        ),
        (
            "ResourceClaim",
            json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}),
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ),
        (
            "Service",
            json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}),
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is LoadBalancer",
        ),
        (
            "Ingress",
            json!({"loadBalancer": {"ingress": [{"hostname": "10.0.0.1"}]}}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ),
    ] {
        let errors = status(kind, change.clone());
        assert_eq!(errors.first().map(String::as_str), Some(want), "{kind} {change}: {errors:?}");
    }
}

#[test]
fn what_belongs_together_stays_together() {
    let cidr = made("ServiceCIDR", json!({"spec": {"cidrs": ["10.0.0.0/24"]}}));
    let mut dual = cidr.clone();
    dual["spec"]["cidrs"] = json!(["10.0.0.0/24", "fd00::/112"]);
    assert_eq!(update(row("ServiceCIDR"), &mut dual, &cidr), Vec::<String>::new());
    assert_eq!(update(row("ServiceCIDR"), &mut cidr.clone(), &dual).len(), 1);

    let driver = json!({"name": "d.example", "nodeID": "n"});
    let node = made("CSINode", json!({ "spec": { "drivers": [driver] } }));
    let mut more = node.clone();
    more["spec"]["drivers"][0]["allocatable"] = json!({"count": 5});
    assert_eq!(update(row("CSINode"), &mut more, &node), Vec::<String>::new());
    let mut other = node.clone();
    other["spec"]["drivers"][0]["nodeID"] = json!("m");
    assert!(update(row("CSINode"), &mut other, &node)[0].contains("field is immutable"));

    let zoned = made("CronJob", json!({"spec": {"schedule": "* * * * *", "jobTemplate": job(json!({}))}}));
    let mut old = zoned.clone();
    old["spec"]["schedule"] = json!("CRON_TZ=UTC * * * * *");
    assert_eq!(update(row("CronJob"), &mut old.clone(), &old), Vec::<String>::new());
    assert!(update(row("CronJob"), &mut old, &zoned)[0].contains("cannot use TZ or CRON_TZ in schedule"));
}

fn definition(rest: Value) -> Value {
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
    let mut o = json!({"metadata": {"name": "as.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"}, "versions": [version]}});
    merge(&mut o, rest);
    o
}

#[test]
fn definitions_and_services_of_the_api_are_checked() {
    let with = |key: &str, value: Value| {
        let mut o = definition(json!({}));
        o["spec"]["versions"][0][key] = value;
        o
    };
    for (rest, want) in [
        (
            with("additionalPrinterColumns", json!([{"name": "n", "type": "text", "jsonPath": ".a"}])),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            with("subresources", json!({"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": ".status.n"}})),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
        ),
        (
            with("deprecationWarning", json!("old")),
            "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions",
        ),
        (
            with("selectableFields", json!([{"jsonPath": ".metadata.name"}])),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".metadata.name\": must not point to fields in metadata",
        ),
        (
            definition(json!({"spec": {"conversion": {"strategy": "Webhook"}}})),
            "spec.conversion.webhook: Required value: required when strategy is set to Webhook",
        ),
        (
            definition(json!({"spec": {"preserveUnknownFields": true}})),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
    ] {
        let errors = told("CustomResourceDefinition", rest.clone());
        assert_eq!(errors.first().map(String::as_str), Some(want), "{rest}: {errors:?}");
    }
    let mut old = made("CustomResourceDefinition", definition(json!({})));
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut wide = old.clone();
    wide["spec"]["scope"] = json!("Cluster");
    assert_eq!(update(row("CustomResourceDefinition"), &mut wide, &old), ["spec.scope: Invalid value: \"Cluster\": field is immutable"]);
    let mut renamed = old.clone();
    renamed["spec"]["versions"][0]["name"] = json!("v2");
    assert!(
        update(row("CustomResourceDefinition"), &mut renamed, &old)[0]
            .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions")
    );
    let service = json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "caBundle": "YWI="}});
    assert_eq!(told("APIService", service), ["spec.caBundle: Invalid value: \"2 bytes\": local APIServices may not have a caBundle"]);
}

#[test]
fn a_certificate_is_signed_once_and_with_certificates() {
    let request = || {
        let pem = "-----BEGIN CERTIFICATE REQUEST-----\n";
        let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        json!({"spec": {"request": request, "signerName": "a.b/c", "usages": ["any"]}})
    };
    let status = |_: &str, change: Value| {
        let old = object("CertificateSigningRequest", request());
        let mut new = old.clone();
        merge(&mut new, json!({ "status": change }));
        let mut e = Errors::default();
        row("CertificateSigningRequest").hooks.validate_status.expect("a rule")(&new, &old, &mut e);
        lines(e)
    };
    let pem = |kind: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("-----BEGIN {kind}-----\n"));
    let certificate = |text: String| json!({ "certificate": text });
    assert_eq!(status("CertificateSigningRequest", certificate(pem("CERTIFICATE"))), Vec::<String>::new());
    assert_eq!(
        status("CertificateSigningRequest", certificate(pem("RSA PRIVATE KEY"))),
        ["status.certificate: Invalid value: \"<certificate data>\": only CERTIFICATE PEM blocks are allowed, found \"RSA PRIVATE KEY\""]
    );
}

#[test]
fn a_job_copied_from_another_does_not_keep_its_selector() {
    let copied = json!({"selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "other"}},
        "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "other"}}}});
    let errors = told("Job", job(copied));
    assert!(errors[0].starts_with("spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: Invalid value: {"), "{errors:?}");
    assert!(errors[0].ends_with(": must be 'u'"), "{errors:?}");
    assert!(
        errors[1].starts_with("spec.selector: Invalid value: {") && errors[1].ends_with(": `selector` not auto-generated"),
        "{errors:?}"
    );
    let own = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}});
    assert_eq!(told("Job", job(own)), Vec::<String>::new());
}

#[test]
fn the_status_of_a_job_goes_one_way() {
    let on = |kinds: &[&str]| Value::from(kinds.iter().map(|k| json!({"type": k, "status": "True"})).collect::<Vec<_>>());
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    let indexed = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    let plain = json!({"completions": 4, "parallelism": 2});
    let running = json!({"startTime": start, "active": 2, "failed": 1, "succeeded": 1});
    let cases: &[(&Value, Value, Value, &[&str])] = &[
        (&plain, running.clone(), json!({"startTime": start, "active": 1, "failed": 1, "succeeded": 2}), &[]),
        (
            &plain,
            running.clone(),
            json!({"startTime": start, "failed": 1, "succeeded": 4, "completionTime": end, "conditions": on(&["SuccessCriteriaMet", "Complete"])}),
            &[],
        ),
        (
            &plain,
            running.clone(),
            json!({"active": 1, "failed": 1, "succeeded": 4, "conditions": on(&["Complete"])}),
            &[
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.startTime: Invalid value: \"null\": field is immutable for unsuspended job once set",
            ],
        ),
        (
            &plain,
            running.clone(),
            json!({"startTime": start, "succeeded": 0, "ready": 1, "uncountedTerminatedPods": {"succeeded": ["x"], "failed": ["x", ""]}}),
            &[
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"x\"",
                "status.uncountedTerminatedPods.failed[1]: Invalid value: \"\": must not be empty",
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
                "status.failed: Invalid value: 0: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            ],
        ),
        (
            &plain,
            json!({"conditions": on(&["FailureTarget"])}),
            json!({"conditions": on(&["SuccessCriteriaMet"])}),
            &["status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition"],
        ),
        (
            &plain,
            json!({}),
            json!({"completedIndexes": "1", "failedIndexes": "2"}),
            &[
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode",
                "status.failedIndexes: Invalid value: \"2\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ],
        ),
        (
            &indexed,
            json!({}),
            json!({"completedIndexes": "0-2", "failedIndexes": "2,5"}),
            &[
                "status.failedIndexes: Invalid value: \"2,5\": error parsing failedIndexes: too large index: \"5\"",
                "status.failedIndexes: Invalid value: \"2,5\": failedIndexes and completedIndexes overlap at index: 2",
            ],
        ),
    ];
    for (spec, old, new, want) in cases {
        let of = |status: &Value| object("Job", json!({"spec": spec, "status": status}));
        let mut e = Errors::default();
        row("Job").hooks.validate_status.expect("a rule")(&of(new), &of(old), &mut e);
        assert_eq!(lines(e), *want, "{new}");
    }
}

#[test]
fn schedules_say_when_and_not_where() {
    let spec = |schedule: &str, zone: Value| {
        json!({"spec": {"schedule": schedule, "timeZone": zone,
            "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}})
    };
    let tz = "CRON_TZ=UTC 0 0 * * *";
    let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
    assert_eq!(told("CronJob", spec(tz, Value::Null)), [format!("spec.schedule: Invalid value: {tz:?}: {why}")]);
    let old = object("CronJob", spec(tz, Value::Null));
    assert_eq!(update(row("CronJob"), &mut old.clone(), &old), Vec::<String>::new());
    let mut both = object("CronJob", spec(tz, json!("UTC")));
    let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
    assert_eq!(update(row("CronJob"), &mut both, &old), [format!("spec.schedule: Invalid value: {tz:?}: {why}")]);
}

#[test]
fn nodes_and_services_are_told_in_the_places_of_upstream() {
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    let twice = told("Node", json!({"spec": {"taints": [taint, taint]}}));
    let shown = "{\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}";
    assert_eq!(twice, [format!("metadata.taints[1]: Duplicate value: {shown}: taints must be unique by key and effect pair")]);
    let broken = told("Node", json!({"status": {"capacity": {"example.com/gpu": "1500m"}, "declaredFeatures": ["B", "A", "a"]}}));
    assert_eq!(broken[0], "status.capacity.example.com/gpu: Invalid value: \"1500m\": must be an integer");
    assert_eq!(broken[1], "status.allocatable.example.com/gpu: Invalid value: \"1500m\": must be an integer");
    assert_eq!(broken[2], "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically");
    assert!(broken[3].starts_with("status.declaredFeatures[2]: Invalid value: \"a\": invalid feature name \"a\": must start with"));
    let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
    let why = status("Node", json!({"addresses": [address, address]}));
    assert_eq!(why, ["status.addresses[1]: Duplicate value: {\"Type\":\"InternalIP\",\"Address\":\"10.0.0.1\"}"]);

    let port = json!({"name": "a", "port": 80});
    let mut other = port.clone();
    other["name"] = json!("b");
    let shown = "{\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}";
    assert_eq!(told("Service", json!({"spec": {"ports": [port, other]}})), [format!("spec.ports[1]: Duplicate value: {shown}")]);
    let ranges = json!({"metadata": {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, here"}}, "spec": {"ports": [port]}});
    let told = told("Service", ranges);
    let path = "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]";
    assert_eq!(told[0], format!("{path}: Forbidden: may only be used when `type` is 'LoadBalancer'"));
    assert!(told[1].starts_with(&format!("{path}: Invalid value: \"here\": ")), "{told:?}");
}

#[test]
fn amounts_of_limit_ranges_and_quotas_are_named_and_ordered() {
    let range = |item: Value| told("LimitRange", json!({"spec": {"limits": [item]}}));
    assert_eq!(
        range(json!({"type": "Container", "max": {"storage": "1"}})),
        [
            "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            "spec.limits[0].default[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            "spec.limits[0].defaultRequest[storage]: Invalid value: \"storage\": must be a standard resource for containers"
        ]
    );
    assert_eq!(
        range(json!({"type": "Container", "min": {"cpu": "2"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}})),
        [
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1"
        ]
    );
    assert_eq!(
        range(json!({"type": "Container", "default": {"a.b/c": "2"}, "defaultRequest": {"a.b/c": "1"}})),
        ["spec.limits[0].defaultRequest[a.b/c]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in a.b/c"]
    );
    assert_eq!(
        told("ResourceQuota", json!({"spec": {"hard": {"nonsense": "1"}}})),
        [
            "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource type or fully qualified",
            "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota"
        ]
    );
}

#[test]
fn ways_into_the_network_are_checked_in_the_words_of_upstream() {
    let rule = |path: Value| json!({"spec": {"rules": [{"http": {"paths": [path]}}]}});
    let at = "spec.rules[0].http.paths[0]";
    for (path, want) in [
        (json!({"path": "/", "backend": {}}), "pathType: Required value: pathType must be specified"),
        (
            json!({"path": "/", "pathType": "Any", "backend": {"service": {"name": "s", "port": {"number": 1}}}}),
            "pathType: Unsupported value: \"Any\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ),
        (json!({"path": "/", "pathType": "Exact", "backend": {}}), "backend: Invalid value: \"\": resource or service backend is required"),
        (
            json!({"path": "/", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"number": 1, "name": "a"}}}}),
            "backend: Invalid value: \"\": cannot set both port name & port number",
        ),
        (
            json!({"path": "/", "pathType": "Exact", "backend": {"resource": {"apiGroup": "a.b", "name": "n"}}}),
            "backend.resource.kind: Required value: kind is required",
        ),
    ] {
        assert_eq!(told("Ingress", rule(path.clone())), [format!("{at}.{want}")], "{path}");
    }
    let empty = "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified";
    assert_eq!(told("Ingress", json!({"spec": {}})), [empty]);
    let policy = |ingress: Value| told("NetworkPolicy", json!({"spec": {"podSelector": {}, "ingress": [ingress]}}));
    assert_eq!(
        policy(json!({"ports": [{"endPort": 5}]})),
        ["spec.ingress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified"]
    );
    assert_eq!(
        policy(json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]})),
        [
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"
        ]
    );
    let old = made("RoleBinding", json!({"roleRef": {"kind": "Role", "name": "a"}}));
    let mut new = old.clone();
    new["roleRef"]["name"] = json!("b");
    assert_eq!(
        update(row("RoleBinding"), &mut new, &old),
        ["roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"b\"}: cannot change roleRef"]
    );
}

#[test]
fn claims_change_only_where_they_may() {
    let claim = |rest: Value| {
        let mut o = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}, "limits": {"storage": "4Gi"}}}});
        merge(&mut o, rest);
        o
    };
    assert_eq!(
        told("PersistentVolumeClaim", claim(json!({"spec": {"resources": {"requests": {"storage": "0"}}}}))),
        ["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"]
    );
    let source = json!({"spec": {"dataSource": {"apiGroup": "Bad_Group", "kind": "Any", "name": "a"}, "dataSourceRef": null}});
    let why = told("PersistentVolumeClaim", claim(source));
    assert!(why[0].starts_with("spec.dataSource.apiGroup: Invalid value: \"Bad_Group\": "), "{why:?}");

    let mut old = made("PersistentVolumeClaim", claim(json!({})));
    old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    old["spec"]["volumeName"] = json!("v");
    let changed = |change: Value| {
        let mut new = old.clone();
        merge(&mut new, change);
        update(row("PersistentVolumeClaim"), &mut new, &old)
    };
    let fixed =
        "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    assert_eq!(changed(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})), Vec::<String>::new());
    assert_eq!(changed(json!({"spec": {"storageClassName": "given"}})), Vec::<String>::new(), "none was chosen yet");
    assert_eq!(changed(json!({"spec": {"resources": {"limits": {"storage": "9Gi"}}}})), [fixed]);
    assert_eq!(
        changed(json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}})),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    assert_eq!(
        changed(json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "x"}}})),
        ["metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"x\": field is immutable"]
    );
    assert_eq!(
        status("PersistentVolumeClaim", json!({"allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "Nonsense"}})),
        [
            "status.allocatedResourceStatus: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\""
        ]
    );
}

#[test]
fn small_kinds_are_told_in_the_words_of_upstream() {
    assert_eq!(
        told("Namespace", json!({"spec": {"finalizers": ["mine"]}})),
        ["spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"]
    );
    assert_eq!(
        status("Namespace", json!({"phase": "Terminating"})),
        ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
    );
    let endpoints = |ip: &str| json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80, "appProtocol": "a b"}]}]});
    assert_eq!(told("Endpoints", endpoints("239.1.1.1")).len(), 1, "multicast beyond the link is an address");
    assert_eq!(
        told("Endpoints", endpoints("224.0.0.5"))[0],
        "subsets[0].addresses[0].ip: Invalid value: \"224.0.0.5\": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    );
    let mut old = object("Endpoints", endpoints("224.0.0.5"));
    create(row("Endpoints"), &mut old);
    let mut labelled = old.clone();
    merge(&mut labelled, json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(update(row("Endpoints"), &mut labelled, &old), Vec::<String>::new(), "what stands has been accepted");
    assert_eq!(
        told("ResourceQuota", json!({"spec": {"hard": {"count/jobs.batch": "500m"}}})),
        ["spec.hard[count/jobs.batch]: Invalid value: \"500m\": must be an integer"]
    );
    let node = |id: &str, key: &str| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "topologyKeys": [key]}]}});
    assert_eq!(told("CSINode", node("i", "")).first().map(String::as_str), Some("spec.drivers[0]: Required value"));
    let old = made("CSINode", node("i", "k"));
    let mut moved = old.clone();
    merge(&mut moved, node("j", "k"));
    let shown = "{\"Name\":\"d\",\"NodeID\":\"j\",\"TopologyKeys\":[\"k\"],\"Allocatable\":null}";
    assert_eq!(update(row("CSINode"), &mut moved, &old), [format!("spec.drivers: Invalid value: {shown}: field is immutable")]);
    assert_eq!(
        told("VolumeAttributesClass", json!({"driverName": "d", "parameters": {"": "x"}})),
        ["parameters: Invalid value: \"\": field can not be empty."]
    );
}

#[test]
fn volumes_have_one_source_and_keep_it() {
    let volume = |rest: Value| {
        let mut o = json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
        merge(&mut o, json!({ "spec": rest }));
        o
    };
    let told = |rest: Value| told("PersistentVolume", volume(rest));
    let csi = |rest: Value| {
        let mut source = json!({"driver": "d.example", "volumeHandle": "h"});
        merge(&mut source, rest);
        json!({ "csi": source })
    };
    let affinity = |key: &str| json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["z"]}]}]}}});
    for (rest, want) in [
        (csi(json!({})), vec![]),
        (
            csi(json!({"controllerExpandSecretRef": {"name": "A"}, "nodeExpandSecretRef": {"namespace": "n"}})),
            vec![
                "spec.csi.controllerExpandSecretRef.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.csi.controllerExpandSecretRef.namespace: Required value",
                "spec.csi.nodeExpandSecretRef.name: Required value",
            ],
        ),
        (
            json!({"capacity": null, "hostPath": {"path": "/a"}}),
            vec!["spec.capacity: Required value", "spec.capacity: Unsupported value: null: supported values: \"storage\""],
        ),
        (
            json!({"capacity": {"storage": "0", "cpu": "1"}, "hostPath": {"path": "/a"}}),
            vec![
                "spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"0\"}: supported values: \"storage\"",
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ],
        ),
        (
            json!({"cephfs": {}, "hostPath": {"path": "/a"}, "local": {}}),
            vec![
                "spec.cephFS: Forbidden: may not specify more than 1 volume type",
                "spec.local: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (
            json!({"local": {"path": "/a/../b"}}),
            vec![
                "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ],
        ),
        (
            json!({"azureFile": {"secretName": "s", "shareName": "n", "secretNamespace": ""}}),
            vec!["spec.azureFile.secretNamespace: Required value"],
        ),
        (json!({"storageos": {"volumeName": "v", "secretRef": {"name": "s"}}}), vec!["spec.storageos.secretRef.namespace: Required value"]),
    ] {
        assert_eq!(told(rest.clone()), want, "{rest}");
    }
    let mut placed = csi(json!({}));
    merge(&mut placed, affinity("failure-domain.beta.kubernetes.io/zone"));
    let old = made("PersistentVolume", volume(placed));
    let changed = |change: Value| {
        let mut new = old.clone();
        merge(&mut new, json!({ "spec": change }));
        update(row("PersistentVolume"), &mut new, &old)
    };
    assert_eq!(changed(csi(json!({"controllerExpandSecretRef": {"name": "a", "namespace": "n"}}))), Vec::<String>::new());
    assert_eq!(changed(affinity("topology.kubernetes.io/zone")), Vec::<String>::new(), "a label that is no longer beta");
    assert!(changed(affinity("other"))[0].starts_with("nodeAffinity: Invalid value: "));
    assert_eq!(changed(json!({"volumeMode": "Block"})), ["volumeMode: Invalid value: \"Block\": field is immutable"]);
    assert_eq!(
        changed(csi(json!({"volumeHandle": "other"}))),
        ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
    );
}
