//! Bodies and what a Go API server makes of them.

use super::*;
use serde_json::json;

fn schema(name: &str) -> Schema {
    Schema::builtin(name).expect("a built-in type")
}

fn pod(strictness: Strictness, body: &str) -> Result<Decoded, Status> {
    decode(body.as_bytes(), ContentType::Json, &schema("io.k8s.api.core.v1.Pod"), strictness)
}

fn refused(body: &str) -> String {
    pod(Strictness::Strict, body).expect_err("must be refused").message
}

#[test]
fn a_pod_reads_back_as_go_writes_it() {
    let body = r#"{"metadata":{"name":"a","creationTimestamp":null},"spec":{"containers":[{"name":"c","tty":false,"args":[],"env":[{"name":"E","value":""}],
        "resources":{"limits":{"cpu":"1000m","memory":1073741824}},"ports":[{"containerPort":80}]}],"hostNetwork":false,"terminationGracePeriodSeconds":0,
        "nodeSelector":{},"volumes":[{"name":"v","emptyDir":{}}]}}"#;
    let decoded = pod(Strictness::Strict, body).expect("valid");
    assert_eq!(decoded.value, json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {},
        "spec": {"containers": [{"name": "c", "env": [{"name": "E"}], "resources": {"limits": {"cpu": "1", "memory": "1073741824"}},
                                 "ports": [{"containerPort": 80}]}],
                 "terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "emptyDir": {}}]}
    }));
}

#[test]
fn unknown_and_duplicate_fields_are_named_with_their_path() {
    let body = r#"{"kind":"Pod","apiVersion":"v1","spec":{"foo":1,"containers":[{"name":"a","name":"b","Image":"x"}]},"spec2":{}}"#;
    assert_eq!(
        refused(body),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\", \
         duplicate field \"spec.containers[0].name\", unknown field \"spec.containers[0].Image\", unknown field \"spec2\""
    );
    let warned = pod(Strictness::Warn, body).expect("only warned");
    assert_eq!(warned.warnings[0], "unknown field \"spec.foo\"");
    assert_eq!(warned.value["spec"], json!({"containers": [{"name": "b", "resources": {}}]}));
    assert!(pod(Strictness::Ignore, body).expect("ignored").warnings.is_empty());
}

#[test]
fn wrong_types_are_told_as_go_tells_them() {
    let cases = [
        (r#"{"spec":{"containers":"x"}}"#, "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"),
        (r#"{"spec":{"priority":"1"}}"#, "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32"),
        (r#"{"spec":{"priority":4294967296}}"#, "json: cannot unmarshal number 4294967296 into Go struct field PodSpec.spec.priority of type int32"),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"),
        (r#"{"spec":{"containers":[{"env":[{"value":true}]}]}}"#, "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string"),
        (r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
    ];
    for (body, why) in cases {
        assert_eq!(refused(body), format!("Pod in version \"v1\" cannot be handled as a Pod: {why}"));
    }
}

#[test]
fn scalars_with_code_behind_them_are_checked() {
    assert!(refused(r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#).contains("quantit"));
    assert_eq!(
        refused(r#"{"metadata":{"deletionTimestamp":"soon"}}"#),
        "Pod in version \"v1\" cannot be handled as a Pod: parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\""
    );
    let secret = |body: &str| decode(body.as_bytes(), ContentType::Json, &schema("io.k8s.api.core.v1.Secret"), Strictness::Strict);
    assert!(secret(r#"{"data":{"a":"%%%%"}}"#).expect_err("bad").message.ends_with("illegal base64 data at input byte 0"));
    assert_eq!(secret(r#"{"data":{"a":"YQ=="}}"#).expect("good").value["data"], json!({"a": "YQ=="}));
}

#[test]
fn times_come_out_in_utc_and_whole_seconds() {
    let body = r#"{"metadata":{"creationTimestamp":"2026-01-02T04:05:06.789+02:00"}}"#;
    assert_eq!(pod(Strictness::Strict, body).expect("valid").value["metadata"]["creationTimestamp"], "2026-01-02T02:05:06Z");
    let lease = decode(br#"{"spec":{"renewTime":"2026-01-02T04:05:06.123456Z"}}"#, ContentType::Json, &schema("io.k8s.api.coordination.v1.Lease"), Strictness::Strict);
    assert_eq!(lease.expect("valid").value["spec"]["renewTime"], "2026-01-02T04:05:06.123456Z");
}

#[test]
fn syntax_errors_are_those_of_gos_scanner() {
    assert_eq!(
        refused("{\"a\":}"),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
         invalid character '}' looking for beginning of value ({\"a\":})"
    );
    assert!(refused("{\"a\":1").contains("unexpected end of JSON input"));
    assert!(refused("nope").ends_with("json parse error: invalid character 'o' in literal null (expecting 'u') (6e6f7065)"));
}

#[test]
fn another_kind_is_refused() {
    assert_eq!(
        refused(r#"{"kind":"Service","apiVersion":"v1"}"#),
        "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"
    );
    assert!(refused(r#"{"kind":"Pod","apiVersion":"v9"}"#).contains("no kind \"Pod\" is registered for version \"v9\""));
}

#[test]
fn yaml_is_read_as_yaml_1_1() {
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\nimmutable: yes\ndata:\n  a: \"yes\"\n  b: |\n    two\n    lines\n";
    let map = decode(body.as_bytes(), ContentType::Yaml, &schema("io.k8s.api.core.v1.ConfigMap"), Strictness::Strict).expect("valid");
    assert_eq!(map.value["immutable"], true);
    assert_eq!(map.value["data"], json!({"a": "yes", "b": "two\nlines\n"}));
    let mode = "spec:\n  volumes:\n  - name: v\n    configMap: {name: x, defaultMode: 0644}\n";
    let decoded = decode(mode.as_bytes(), ContentType::Yaml, &schema("io.k8s.api.core.v1.Pod"), Strictness::Strict).expect("valid");
    assert_eq!(decoded.value["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
}

#[test]
fn a_yaml_key_that_stands_twice_is_found() {
    let body = "metadata:\n  name: a\n  name: b\n";
    let error = decode(body.as_bytes(), ContentType::Yaml, &schema("io.k8s.api.core.v1.Pod"), Strictness::Strict).expect_err("duplicate");
    assert!(error.message.ends_with("strict decoding error: yaml: unmarshal errors:\n  line 3: key \"name\" already set in map"), "{}", error.message);
    let warned = decode(body.as_bytes(), ContentType::Yaml, &schema("io.k8s.api.core.v1.Pod"), Strictness::Warn).expect("warned");
    assert_eq!(warned.value["metadata"]["name"], "b");
}

#[test]
fn custom_objects_keep_what_their_schema_keeps() {
    let gvk = Gvk { group: "example.com".into(), version: "v1".into(), kind: "Widget".into() };
    let openapi = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let schema = Schema::custom(gvk, Some(&openapi)).expect("structural");
    let body = br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","labels":null},"spec":{"size":"big","raw":{"a":null},"gone":1}}"#;
    let decoded = decode(body, ContentType::Json, &schema, Strictness::Warn).expect("types are validation's business");
    assert_eq!(decoded.warnings, ["unknown field \"spec.gone\""]);
    assert_eq!(decoded.value["spec"], json!({"size": "big", "raw": {"a": null}}));
    assert_eq!(decoded.value["metadata"], json!({"name": "w"}));
}

#[test]
fn a_patched_value_takes_the_same_form() {
    let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [null], "x": 1}});
    let decoded = normalize(value, &schema("io.k8s.api.core.v1.Pod"), Strictness::Warn).expect("valid");
    assert_eq!(decoded.value["spec"]["containers"], json!([{"name": "", "resources": {}}]));
    assert_eq!(decoded.warnings, ["unknown field \"spec.x\""]);
}
