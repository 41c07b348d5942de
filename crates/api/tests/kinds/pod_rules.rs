//! Rules of a pod spec, each with the words and the place of upstream.

use crate::{create, merge, object, row};
use serde_json::{Value, json};

fn refused(spec: Value) -> Vec<String> {
    let mut pod = object("Pod", json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}));
    merge(&mut pod, json!({ "spec": spec }));
    create(row("Pod"), &mut pod)
}

/// A spec whose container has this.
fn c(rest: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    merge(&mut c, rest);
    json!({"containers": [c]})
}

/// A spec with an init container that has this.
fn init(rest: Value) -> Value {
    let mut c = json!({"name": "i", "image": "i"});
    merge(&mut c, rest);
    json!({"initContainers": [c]})
}

/// A spec with a volume that has this source.
fn volume(key: &str, source: Value) -> Value {
    json!({"volumes": [{"name": "v", key: source}]})
}

fn both(mut a: Value, b: Value) -> Value {
    merge(&mut a, b);
    a
}

fn hold(rules: Vec<(Value, &str)>) {
    for (spec, want) in rules {
        assert_eq!(refused(spec.clone()), [want], "{spec}");
    }
}

#[test]
fn containers_are_told_what_they_may_not_have() {
    hold(vec![
        (
            c(json!({"restartPolicy": "Maybe"})),
            "spec.containers[0].restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            c(json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]})),
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            c(json!({"restartPolicy": "Never", "restartPolicyRules": [{"exitCodes": {"operator": "In", "values": [1]}}]})),
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"\": supported values: \"Restart\", \"RestartAllContainers\"",
        ),
        (
            c(json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]})),
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
        (
            init(json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]})),
            "spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers",
        ),
        (
            both(
                json!({"restartPolicy": "Never"}),
                c(json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]})),
            ),
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'",
        ),
        (
            c(json!({"resizePolicy": [{"resourceName": "ephemeral-storage", "restartPolicy": "NotRequired"}]})),
            "spec.containers[0].resizePolicy: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"memory\"",
        ),
        (init(json!({"name": "c"})), "spec.initContainers[0].name: Duplicate value: \"c\""),
        (
            c(json!({"terminationMessagePolicy": "Shout"})),
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Shout\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ),
        (
            c(json!({"readinessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 1}})),
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ),
        (
            c(json!({"livenessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 0}})),
            "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            c(json!({"startupProbe": {"exec": {"command": ["x"]}, "initialDelaySeconds": -1}})),
            "spec.containers[0].startupProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            c(json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}})),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (c(json!({"livenessProbe": {"exec": {}}})), "spec.containers[0].livenessProbe.exec.command: Required value"),
        (
            c(json!({"livenessProbe": {"httpGet": {"port": 80, "scheme": "FTP"}}})),
            "spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
        ),
    ]);
}

#[test]
fn a_sidecar_may_have_rules_for_its_restarts() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]);
    assert_eq!(refused(init(json!({"restartPolicy": "Always", "restartPolicyRules": rules}))), Vec::<String>::new());
}

#[test]
fn variables_are_read_from_where_something_is() {
    let from = |source: Value| c(json!({"env": [{"name": "A", "valueFrom": source}]}));
    let path = "spec.containers[0].env[0].valueFrom";
    let fields = "\"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"";
    let owned = [
        (
            from(json!({"fieldRef": {"fieldPath": "status.phase"}})),
            format!("{path}.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: {fields}"),
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "metadata.labels"}})),
            format!("{path}.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: {fields}"),
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "spec.containers['x']"}})),
            format!(
                "{path}.fieldRef.fieldPath: Invalid value: \"spec.containers['x']\": error converting fieldPath: field label does not support subscript: spec.containers['x']"
            ),
        ),
        (
            from(json!({"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}})),
            format!("{path}.fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod version: v2"),
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
            format!(
                "{path}.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            ),
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "cpu"}})),
            format!(
                "{path}.resourceFieldRef.resource: Unsupported value: \"cpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\""
            ),
        ),
        (
            from(json!({})),
            format!(
                "{path}: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            ),
        ),
        (
            both(from(json!({"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}})), volume("hostPath", json!({"path": "/x"}))),
            format!("{path}.fileKeyRef.volumeName: Invalid value: \"v\": referenced volume must be of type emptyDir"),
        ),
        (
            from(json!({"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}})),
            format!("{path}.fileKeyRef.volumeName: Not found: \"v\""),
        ),
    ];
    hold(owned.iter().map(|(spec, want)| (spec.clone(), want.as_str())).collect());
}

#[test]
fn resources_fit_their_kind() {
    let res = |r: Value| c(json!({"resources": r}));
    hold(vec![
        (
            res(json!({"limits": {"cpu": "1"}, "requests": {"example.com/x": "1"}})),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            res(json!({"limits": {"example.com/x": "2"}, "requests": {"example.com/x": "1"}})),
            "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/x limit of 2",
        ),
        (
            res(json!({"limits": {"hugepages-2Mi": "2Mi"}, "requests": {"hugepages-2Mi": "2Mi"}})),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (res(json!({"claims": [{}]})), "spec.containers[0].resources.claims[0]: Required value"),
        (
            res(json!({"claims": [{"name": "x"}]})),
            "spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
        ),
        (
            both(
                json!({"resourceClaims": [{"name": "b", "resourceClaimName": "b"}, {"name": "a", "resourceClaimName": "a"}]}),
                res(json!({"claims": [{"name": "x"}]})),
            ),
            "spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims: a, b",
        ),
        (
            both(
                json!({"resourceClaims": [{"name": "a", "resourceClaimName": "a"}]}),
                res(json!({"claims": [{"name": "a", "request": "r"}, {"name": "a", "request": "r"}]})),
            ),
            "spec.containers[0].resources.claims[1]: Duplicate value: \"a/r\"",
        ),
        (
            both(
                json!({"resourceClaims": [{"name": "a", "resourceClaimName": "a"}]}),
                res(json!({"claims": [{"name": "a", "request": "r"}, {"name": "a"}]})),
            ),
            "spec.containers[0].resources.claims[1]: Duplicate value: \"a\"",
        ),
        (json!({"resources": {"claims": []}}), "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"),
        (
            json!({"resources": {"limits": {"ephemeral-storage": "1"}}}),
            "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
        ),
        (
            json!({"os": {"name": "windows"}, "resources": {"limits": {"cpu": "1"}}}),
            "spec.resources: Forbidden: may not be set for a windows pod",
        ),
        (
            both(json!({"resources": {"requests": {"cpu": "1"}}}), res(json!({"requests": {"cpu": "2"}}))),
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ),
        (
            both(
                json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}),
                res(json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})),
            ),
            "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
        ),
    ]);
    let huge = refused(res(json!({"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}})));
    let says = |list: &str| {
        format!(
            "spec.containers[0].resources.{list}[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi"
        )
    };
    assert_eq!(huge, [says("limits"), says("requests")]);
}

#[test]
fn a_pod_has_the_huge_pages_of_its_containers() {
    let pages = json!({"limits": {"hugepages-2Mi": "4Mi", "cpu": "1"}});
    let mut pod = object(
        "Pod",
        json!({"spec": {"resources": {"requests": {"cpu": "2"}}, "containers": [{"name": "c", "image": "i", "resources": pages}]}}),
    );
    assert_eq!(create(row("Pod"), &mut pod), Vec::<String>::new());
    assert_eq!(pod["spec"]["resources"], json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}}));
}

#[test]
fn every_source_of_volumes_has_its_rules() {
    let file = |source: Value| volume("projected", json!({ "sources": [source] }));
    hold(vec![
        (
            volume("emptyDir", json!({"sizeLimit": "-1"})),
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
        ),
        (
            volume("hostPath", json!({"path": "/a/../b"})),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            volume("hostPath", json!({"path": "/", "type": "Door"})),
            "spec.volumes[0].hostPath.type: Unsupported value: \"Door\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ),
        (
            volume("gitRepo", json!({"repository": "r", "directory": "/d"})),
            "spec.volumes[0].gitRepo.directory: Invalid value: \"/d\": must be a relative path",
        ),
        (volume("gcePersistentDisk", json!({})), "spec.volumes[0].persistentDisk.pdName: Required value"),
        (
            volume("awsElasticBlockStore", json!({"volumeID": "v", "partition": 256})),
            "spec.volumes[0].awsElasticBlockStore.partition: Invalid value: 256: must be between 1 and 255, inclusive",
        ),
        (
            volume("secret", json!({"secretName": "s", "defaultMode": 512})),
            "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            volume("configMap", json!({"name": "m", "items": [{"key": "k", "path": "..x"}]})),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"..x\": must not start with '..'",
        ),
        (volume("nfs", json!({"server": "s", "path": "p"})), "spec.volumes[0].nfs.path: Invalid value: \"p\": must be an absolute path"),
        (
            volume("iscsi", json!({"targetPortal": "p", "iqn": "iqn.2026-1.a:b", "lun": 0})),
            "spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.2026-1.a:b\": must be valid format",
        ),
        (
            volume("iscsi", json!({"targetPortal": "p", "iqn": "x", "lun": 0})),
            "spec.volumes[0].iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
        ),
        (
            volume("iscsi", json!({"targetPortal": "p", "iqn": "eui.0123456789abcdef", "lun": 0, "initiatorName": "x"})),
            "spec.volumes[0].iscsi.initiatorname: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
        ),
        (volume("flocker", json!({})), "spec.volumes[0].flocker: Required value: one of datasetName and datasetUUID is required"),
        (volume("rbd", json!({"image": "i"})), "spec.volumes[0].rbd.monitors: Required value"),
        (volume("cephfs", json!({})), "spec.volumes[0].cephfs.monitors: Required value"),
        (volume("cinder", json!({"volumeID": "v", "secretRef": {}})), "spec.volumes[0].cinder.secretRef.name: Required value"),
        (
            volume("quobyte", json!({"registry": "host", "volume": "v"})),
            "spec.volumes[0].quobyte.registry: Invalid value: \"host\": must be a host:port pair or multiple pairs separated by commas",
        ),
        (volume("fc", json!({"targetWWNs": ["a"]})), "spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified"),
        (volume("fc", json!({})), "spec.volumes[0].fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"),
        (
            volume("flexVolume", json!({"driver": "d", "options": {"x.k8s.io/y": "z"}})),
            "spec.volumes[0].flexVolume.options[x.k8s.io/y]: Invalid value: \"x.k8s.io/y\": kubernetes.io and k8s.io namespaces are reserved",
        ),
        (
            volume("azureDisk", json!({"diskName": "d", "diskURI": "u"})),
            "spec.volumes[0].azureDisk.diskURI: Unsupported value: \"u\": supported values: \"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd\"",
        ),
        (volume("storageos", json!({})), "spec.volumes[0].storageos.volumeName: Required value"),
        (volume("csi", json!({})), "spec.volumes[0].csi.driver: Required value"),
        (
            volume("csi", json!({"driver": "d", "nodePublishSecretRef": {}})),
            "spec.volumes[0].csi.nodePublishSecretRef.name: Required value",
        ),
        (volume("image", json!({})), "spec.volumes[0].image.reference: Required value"),
        (
            both(json!({"serviceAccountName": "s"}), file(json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 599}}))),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            file(json!({"secret": {"name": "s", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p"}]}})),
            "spec.volumes[0].projected: Invalid value: \"s\": conflicting duplicate paths",
        ),
        (
            file(json!({"secret": {"name": "s"}, "configMap": {"name": "m"}})),
            "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
        ),
        (
            volume("downwardAPI", json!({"items": [{"path": "p"}]})),
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            volume("downwardAPI", json!({"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]})),
            "spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "cephfs": {}}]}),
            "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
        ),
        (json!({"volumes": [{"name": "v"}, {"name": "v"}]}), "spec.volumes[1].name: Duplicate value: \"v\""),
        (
            json!({"volumes": [{"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}},
                {"name": "p", "persistentVolumeClaim": {"claimName": "a-e"}}]}),
            "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"a-e\": must not reference a PVC that gets created for an ephemeral volume",
        ),
        (
            json!({"volumes": [{"name": "e", "ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "n"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}}]}),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
        ),
    ]);
}

#[test]
fn mounts_and_devices_do_not_meet() {
    let claim = volume("persistentVolumeClaim", json!({"claimName": "p"}));
    let with = |rest: Value| both(c(rest), claim.clone());
    let mount = |rest: Value| with(json!({"volumeMounts": [both(json!({"name": "v", "mountPath": "/m"}), rest)]}));
    hold(vec![
        (mount(json!({"subPath": "/x"})), "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path"),
        (
            mount(json!({"subPath": "x", "subPathExpr": "y"})),
            "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"y\": subPathExpr and subPath are mutually exclusive",
        ),
        (
            mount(json!({"mountPropagation": "Bidirectional"})),
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            mount(json!({"recursiveReadOnly": "Enabled"})),
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            with(json!({"volumeDevices": [{"name": "v", "devicePath": "/a/../b"}]})),
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/a/../b\": can not contain backsteps ('..')",
        ),
        (
            both(c(json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]})), volume("emptyDir", json!({}))),
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
        ),
        (
            both(json!({"hostUsers": false}), with(json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}))),
            "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
        ),
    ]);
    let errors =
        refused(with(json!({"volumeMounts": [{"name": "v", "mountPath": "/m"}], "volumeDevices": [{"name": "v", "devicePath": "/d"}]})));
    assert_eq!(
        errors,
        [
            "spec.containers[0].volumeMounts[0].name: Invalid value: \"v\": must not already exist in volumeDevices",
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"v\": must not already exist in volumeMounts",
        ]
    );
}

#[test]
fn security_contexts_say_what_goes_together() {
    let context = |rest: Value| c(json!({"securityContext": rest}));
    hold(vec![
        (
            context(json!({"runAsUser": -1})),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            context(json!({"procMount": "Open"})),
            "spec.containers[0].securityContext.procMount: Unsupported value: \"Open\": supported values: \"Default\", \"Unmasked\"",
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            context(json!({"seccompProfile": {}})),
            "spec.containers[0].securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
        ),
        (
            context(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}})),
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            context(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}})),
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with whitespace",
        ),
        (
            context(json!({"windowsOptions": {"runAsUserName": "a\\b\\c"}})),
            "spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
        ),
        (
            context(json!({"windowsOptions": {"runAsUserName": "NT AUTHORITY\\"}})),
            "spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: \"NT AUTHORITY\\\\\": runAsUserName's User cannot be empty",
        ),
        (
            context(json!({"windowsOptions": {"runAsUserName": "a@b"}})),
            "spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: \"a@b\": runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ),
        (
            context(json!({"windowsOptions": {"gmsaCredentialSpec": ""}})),
            "spec.containers[0].securityContext.windowsOptions.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string",
        ),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (json!({"hostUsers": false, "hostPID": true}), "spec.HostPID: Forbidden: when `hostUsers` is false"),
        (
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
        ),
        (json!({"os": {"name": "plan9"}}), "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""),
        (
            json!({"os": {"name": "windows"}, "securityContext": {"runAsUser": 1}}),
            "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ),
        (
            json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {"runAsUserName": "a"}}}),
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
    ]);
}

#[test]
fn placement_is_told_in_the_places_of_upstream() {
    let spread = |rest: Value| json!({"topologySpreadConstraints": [both(json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}), rest)]});
    let at = "spec.topologySpreadConstraints[0]";
    let owned = [
        (
            spread(json!({"whenUnsatisfiable": null})),
            format!("{at}.whenUnsatisfiable: Unsupported value: \"\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\""),
        ),
        (
            spread(json!({"whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2})),
            format!("{at}.minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"),
        ),
        (spread(json!({"matchLabelKeys": ["a"]})), format!("{at}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set")),
        (
            spread(json!({"nodeTaintsPolicy": "Maybe"})),
            format!("{at}.nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\""),
        ),
        (
            json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"},
                {"maxSkew": 2, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"},
            ]}),
            format!("{at}.{{topologyKey, whenUnsatisfiable}}: Duplicate value: \"{{z, DoNotSchedule}}\""),
        ),
        (
            json!({"tolerations": [{"key": "k", "operator": "Gt", "value": "1"}]}),
            "spec.tolerations[0].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\"".to_owned(),
        ),
        (
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "z", "labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}]}}}),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys".to_owned(),
        ),
    ];
    hold(owned.iter().map(|(spec, want)| (spec.clone(), want.as_str())).collect());
    let mut pod = object(
        "Pod",
        json!({"metadata": {"labels": {"app": "a"}}, "spec": both(c(json!({})), spread(json!({"labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["app"]})))}),
    );
    assert_eq!(create(row("Pod"), &mut pod), [format!("{at}[0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector")]);
}

#[test]
fn names_and_addresses_have_a_form() {
    hold(vec![
        (
            json!({"runtimeClassName": ""}),
            "spec.runtimeClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (json!({"preemptionPolicy": ""}), "spec.preemptionPolicy: Required value"),
        (
            json!({"hostnameOverride": "a", "hostNetwork": true, "setHostnameAsFQDN": false}),
            "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
        ),
        (json!({"hostAliases": [{"ip": "010.0.0.1"}]}), "spec.hostAliases[0].ip: Invalid value: \"010.0.0.1\": must not have leading 0s"),
        (
            json!({"hostAliases": [{"ip": "10.0.0"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"10.0.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["::ffff:1.2.3.4"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address",
        ),
        (json!({"dnsConfig": {"options": [{}]}}), "spec.dnsConfig.options[0]: Required value: must not be empty"),
        (json!({"activeDeadlineSeconds": 0}), "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"),
        (json!({"schedulingGates": [{"name": "g"}, {"name": "g"}]}), "spec.schedulingGates[1]: Duplicate value: \"g\""),
        (
            json!({"resourceClaims": [{"name": "a"}]}),
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        ),
    ]);
}

#[test]
fn annotations_that_mean_something_are_checked() {
    let noted = |key: &str, value: &str, spec: Value| {
        let mut pod = object("Pod", json!({"metadata": {"annotations": {key: value}}, "spec": both(c(json!({})), spec)}));
        create(row("Pod"), &mut pod)
    };
    let key = "container.apparmor.security.beta.kubernetes.io/x";
    assert_eq!(noted(key, "unconfined", json!({})), [format!("metadata.annotations[{key}]: Invalid value: \"x\": container not found")]);
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    assert_eq!(
        noted(key, "bad", json!({})),
        [format!("metadata.annotations[{key}]: Invalid value: \"bad\": invalid AppArmor profile name: \"bad\"")]
    );
    let other = json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}});
    let mut spec = c(other);
    assert_eq!(
        noted(key, "runtime/default", spec.clone()),
        ["spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"]
    );
    spec["containers"][0]["securityContext"] = json!({"seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(
        noted("container.seccomp.security.alpha.kubernetes.io/c", "unconfined", spec),
        ["spec.containers[0].securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"]
    );
    let key = "seccomp.security.alpha.kubernetes.io/pod";
    assert_eq!(noted(key, "x", json!({})), [format!("metadata.annotations.{key}: Invalid value: \"x\": must be a valid seccomp profile")]);
    let key = "controller.kubernetes.io/pod-deletion-cost";
    assert_eq!(noted(key, "+1", json!({})), [format!("metadata.annotations[{key}]: Invalid value: \"+1\": must be a 32bit integer")]);
    let key = "kubernetes.io/config.mirror";
    let claims = json!({"nodeName": "n", "resourceClaims": [{"name": "a", "resourceClaimName": "b"}]});
    assert_eq!(noted(key, "x", claims), ["Forbidden: static pods do not support resource claims"]);
}

#[test]
fn a_profile_of_an_annotation_becomes_the_field() {
    let notes = json!({"container.apparmor.security.beta.kubernetes.io/c": "localhost/p", "pod.beta.kubernetes.io/init-containers": "[]"});
    let mut pod = object("Pod", json!({"metadata": {"annotations": notes}, "spec": c(json!({}))}));
    assert_eq!(create(row("Pod"), &mut pod), Vec::<String>::new());
    let profile = &pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
    assert_eq!(profile, &json!({"type": "Localhost", "localhostProfile": "p"}));
    assert_eq!(pod["metadata"]["annotations"].as_object().unwrap().len(), 1);
}

#[test]
fn fields_of_features_that_are_off_are_dropped() {
    let mut pod = object(
        "Pod",
        json!({"spec": both(c(json!({"lifecycle": {"stopSignal": "SIGINT"}})), json!({
            "schedulingGroup": {"podGroupName": "g"},
            "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}, {"podCertificate": {}}]}}],
        }))}),
    );
    assert_eq!(create(row("Pod"), &mut pod), Vec::<String>::new());
    let spec = &pod["spec"];
    assert_eq!((spec["containers"][0].get("lifecycle"), spec.get("schedulingGroup")), (None, None));
    assert_eq!(spec["volumes"][0]["projected"]["sources"], json!([{}, {}]));
}
