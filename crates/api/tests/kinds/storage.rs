//! The kinds of `storage.k8s.io`: what is refused of them, in the words and in the order of upstream.

use crate::validation::{made, status, told};
use crate::{merge, row, update};
use serde_json::{Value, json};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What an update of `old` by `change` is told.
fn changed(kind: &str, old: &Value, change: Value) -> Vec<String> {
    let mut new = old.clone();
    merge(&mut new, change);
    update(row(kind), &mut new, old)
}

fn check(kind: &str, cases: Vec<(Value, Vec<&str>)>) {
    for (rest, want) in cases {
        assert_eq!(told(kind, rest.clone()), want, "{kind} {rest}");
    }
}

fn many(count: usize) -> Value {
    (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn storage_classes() {
    let term = |expressions: Value| json!({"provisioner": "p", "allowedTopologies": [{ "matchLabelExpressions": expressions }]});
    let zone = json!({"key": "zone", "values": ["a", "b"]});
    let enaz = json!({"key": "zone", "values": ["b", "a"]});
    check(
        "StorageClass",
        vec![
            (json!({"provisioner": "Example.com/P", "reclaimPolicy": ""}), vec![]),
            (json!({}), vec!["provisioner: Required value"]),
            (
                json!({"provisioner": "a/b/c"}),
                vec![
                    "provisioner: Invalid value: \"a/b/c\": a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                ],
            ),
            (
                json!({"provisioner": "p", "reclaimPolicy": "Recycle", "volumeBindingMode": ""}),
                vec![
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                    "volumeBindingMode: Unsupported value: \"\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                ],
            ),
            (json!({"provisioner": "p", "parameters": many(513)}), vec!["parameters: Too long: may not be more than 512 bytes"]),
            (
                json!({"provisioner": "p", "parameters": {"k": "v".repeat(256 << 10)}}),
                vec!["parameters: Too long: may not be more than 262144 bytes"],
            ),
            (
                term(json!([{"key": "zone", "values": ["a", "a"]}, {"key": "zone"}, {"key": "-", "values": ["a"]}])),
                vec![
                    "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                    "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
                    "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
                    &format!("allowedTopologies[0].matchLabelExpressions[2].key: Invalid value: \"-\": {QUALIFIED}"),
                ],
            ),
            (
                json!({"provisioner": "p", "allowedTopologies": [{ "matchLabelExpressions": [zone] }, { "matchLabelExpressions": [enaz] }]}),
                vec!["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""],
            ),
            // An empty term is the same as each of the empty ones that upstream begins with.
            (
                json!({"provisioner": "p", "allowedTopologies": [{ "matchLabelExpressions": [zone] }, {}]}),
                vec![
                    "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
                    "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
                ],
            ),
        ],
    );
    let class = made("StorageClass", json!({"provisioner": "p", "parameters": {"a": "b"}}));
    let other =
        json!({"provisioner": "q", "parameters": {"a": "c"}, "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"});
    assert_eq!(
        changed("StorageClass", &class, other),
        [
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ]
    );
    assert_eq!(changed("StorageClass", &class, json!({"allowVolumeExpansion": true, "mountOptions": ["ro"]})), Vec::<String>::new());
}

#[test]
fn volume_attributes_classes() {
    check(
        "VolumeAttributesClass",
        vec![
            (json!({"driverName": "d", "parameters": {"iops": "1"}}), vec![]),
            (json!({}), vec!["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"]),
            (json!({"driverName": "d", "parameters": many(513)}), vec!["parameters: Too long: may not be more than 512 bytes"]),
        ],
    );
    let class = made("VolumeAttributesClass", json!({"driverName": "d", "parameters": {"iops": "1"}}));
    let empty = "parameters: Required value: must contain at least one key/value pair";
    let mut new = class.clone();
    merge(&mut new, json!({"driverName": "e", "parameters": null}));
    assert_eq!(
        update(row("VolumeAttributesClass"), &mut new, &class),
        [
            empty,
            "driverName: Forbidden: updates to driverName are forbidden.",
            "parameters: Forbidden: updates to parameters are forbidden.",
            empty,
        ]
    );
}

#[test]
fn volume_attachments() {
    let attachment =
        |attacher: &str, source: Value, node: &str| json!({"spec": {"attacher": attacher, "nodeName": node, "source": source}});
    let volume = || json!({"persistentVolumeName": "v"});
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let inline = |rest: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}});
        merge(&mut spec, rest);
        attachment("a", json!({ "inlineVolumeSpec": spec }), "n")
    };
    let own = "spec.source.inlineVolumeSpec";
    let not_here = "may not be specified in the context of inline volumes";
    check(
        "VolumeAttachment",
        vec![
            (attachment("a.example", volume(), "n"), vec![]),
            (
                attachment("", json!({}), ""),
                vec![
                    "spec.attacher: Required value",
                    &format!("spec.source: Required value: {one}"),
                    &format!("spec.nodeName: Invalid value: \"\": {SUBDOMAIN}"),
                    "spec.attacher: Required value",
                ],
            ),
            (
                attachment("a", json!({"persistentVolumeName": "v", "inlineVolumeSpec": {}}), "n"),
                vec![&format!("spec.source: Forbidden: {one}")],
            ),
            (
                attachment("a", json!({"persistentVolumeName": ""}), "n"),
                vec![
                    "spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName",
                    &format!("spec.source.persistentVolumeName: Invalid value: \"\": {SUBDOMAIN}"),
                ],
            ),
            (
                attachment("a b", json!({"persistentVolumeName": "V"}), "n"),
                vec![
                    &format!("spec.attacher: Invalid value: \"a b\": {SUBDOMAIN}"),
                    &format!("spec.source.persistentVolumeName: Invalid value: \"V\": {SUBDOMAIN}"),
                ],
            ),
            (inline(json!({})), vec![]),
            (inline(json!({"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"})), vec![]),
            (
                inline(json!({
                    "claimRef": {"name": "c"}, "capacity": {"storage": "1"}, "csi": null, "accessModes": null, "nodeAffinity": {},
                    "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "s", "volumeMode": "Block"
                })),
                vec![
                    &format!("{own}.claimRef: Forbidden: {not_here}"),
                    &format!("{own}.capacity: Forbidden: {not_here}"),
                    &format!("{own}.csi: Required value: has to be specified in the context of inline volumes"),
                    &format!("{own}.accessModes: Required value"),
                    &format!("{own}.persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes"),
                    &format!("{own}.nodeAffinity: Forbidden: {not_here}"),
                    &format!("{own}: Required value: must specify a volume type"),
                    &format!("{own}.storageClassName: Forbidden: {not_here}"),
                    &format!(
                        "{own}.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes"
                    ),
                ],
            ),
            (inline(json!({"hostPath": {"path": "/p"}})), vec![&format!("{own}.csi: Forbidden: may not specify more than 1 volume type")]),
        ],
    );
    let disk = made("VolumeAttachment", inline(json!({"azureDisk": null})));
    assert_eq!(disk["status"], json!({"attached": false}));
    let host = json!({"source": {"inlineVolumeSpec": {"hostPath": {"path": "/p"}}}});
    let mut filled = json!({ "spec": host });
    row("VolumeAttachment").hooks.default.expect("defaults")(&mut filled);
    assert_eq!(filled["spec"]["source"]["inlineVolumeSpec"]["hostPath"]["type"], "");

    let old = made("VolumeAttachment", attachment("a", volume(), "n"));
    let shown = "{\"attacher\":\"b\",\"nodeName\":\"n\",\"source\":{\"persistentVolumeName\":\"v\"}}";
    assert_eq!(
        changed("VolumeAttachment", &old, json!({"spec": {"attacher": "b"}})),
        [format!("spec: Invalid value: {shown}: field is immutable")]
    );

    let long = "m".repeat(1025);
    let metadata = json!({"attachmentMetadata": {"k": "v".repeat(256 << 10)}, "detachError": {"message": long, "errorCode": -1}});
    let once = [
        "status.attachmentMetadata: Too long: may not be more than 262144 bytes",
        "status.detachError.message: Too long: may not be more than 262144 bytes",
        "status.detachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
    ];
    assert_eq!(status("VolumeAttachment", metadata), [once, once].concat());
    assert_eq!(
        status("VolumeAttachment", json!({"attached": true, "attachError": {"message": "m".repeat(1024), "errorCode": 8}})),
        Vec::<String>::new()
    );
}

#[test]
fn csi_drivers() {
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    check(
        "CSIDriver",
        vec![
            (named(&"n".repeat(100), json!({})), vec![]),
            (named("Upper", json!({})), vec![&format!("metadata.name: Invalid value: \"Upper\": {SUBDOMAIN}")]),
            (
                named(
                    "d",
                    json!({
                        "fsGroupPolicy": "Some", "volumeLifecycleModes": ["Eternal"], "nodeAllocatableUpdatePeriodSeconds": 9,
                        "tokenRequests": [
                            {"audience": "a"}, {"audience": "a", "expirationSeconds": 1}, {"audience": "b", "expirationSeconds": 599},
                            {"audience": "", "expirationSeconds": 4_294_967_297_i64}
                        ]
                    }),
                ),
                vec![
                    "spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                    "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                    "spec.tokenRequests[2].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                    "spec.tokenRequests[3].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                    "spec.volumeLifecycleModes: Unsupported value: \"Eternal\": supported values: \"Persistent\", \"Ephemeral\"",
                    "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
                ],
            ),
        ],
    );
    let driver = made("CSIDriver", named("d", json!({})));
    assert_eq!(
        changed("CSIDriver", &driver, json!({"spec": {"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}})),
        [
            "spec.attachedRequired: Invalid value: false: field is immutable",
            "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable",
        ]
    );
    let free = json!({"spec": {"podInfoOnMount": true, "fsGroupPolicy": "File", "storageCapacity": true, "requiresRepublish": true}});
    assert_eq!(changed("CSIDriver", &driver, free), Vec::<String>::new());
}

#[test]
fn csi_nodes() {
    let nodes = |drivers: Value| json!({"spec": { "drivers": drivers }});
    let long = "i".repeat(257);
    check(
        "CSINode",
        vec![
            (nodes(json!([{"name": "D.Example", "nodeID": "i".repeat(256), "topologyKeys": ["example.com/zone"]}])), vec![]),
            (
                nodes(json!([
                    {"name": "", "nodeID": "", "allocatable": {"count": -1}},
                    {"name": "d", "nodeID": long},
                    {"name": "d", "nodeID": "i", "topologyKeys": ["a", "a"]}
                ])),
                vec![
                    "spec.drivers[0].name: Required value",
                    "spec.drivers[0].nodeID: Required value",
                    "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                    &format!("spec.drivers[1].nodeID: Invalid value: \"{long}\": must be 256 characters or less"),
                    "spec.drivers[2].name: Duplicate value: \"d\"",
                    "spec.drivers[2]: Duplicate value: \"a\"",
                ],
            ),
        ],
    );
}

#[test]
fn csi_storage_capacities() {
    let class = |rest: Value| {
        let mut o = json!({"storageClassName": "c"});
        merge(&mut o, rest);
        o
    };
    check(
        "CSIStorageCapacity",
        vec![
            (class(json!({"capacity": "1Gi", "maximumVolumeSize": "-1"})), vec![]),
            (
                json!({"capacity": "-1", "nodeTopology": {"matchExpressions": [{"key": "k", "operator": "In"}]}}),
                vec![
                    "nodeTopology.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                    &format!("storageClassName: Invalid value: \"\": {SUBDOMAIN}"),
                    "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                ],
            ),
        ],
    );
    let old = made("CSIStorageCapacity", class(json!({"nodeTopology": {"matchLabels": {"a": "b"}}})));
    assert_eq!(
        changed("CSIStorageCapacity", &old, json!({"storageClassName": "d", "nodeTopology": {"matchLabels": {"a": "c"}}})),
        [
            "nodeTopology: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable",
            "storageClassName: Invalid value: \"d\": field is immutable",
        ]
    );
    let mut lax = old.clone();
    lax["nodeTopology"] = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": ["a b"]}]});
    assert_eq!(changed("CSIStorageCapacity", &lax, json!({"capacity": "2Gi"})), Vec::<String>::new(), "what stands has been accepted");
}
