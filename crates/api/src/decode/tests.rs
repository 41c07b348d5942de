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
fn null_is_an_object_without_anything() {
    let slice = schema("io.k8s.api.resource.v1.ResourceSlice");
    let read = |body: &str, content| decode(body.as_bytes(), content, &slice, Strictness::Strict).expect("nothing is wrong").value;
    let empty = read("{}", ContentType::Json);
    assert_eq!((read("null", ContentType::Json), read("# nothing", ContentType::Yaml)), (empty.clone(), empty));
}

#[test]
fn a_pod_reads_back_as_go_writes_it() {
    let body = r#"{"metadata":{"name":"a","creationTimestamp":null},"spec":{"containers":[{"name":"c","tty":false,"args":[],"env":[{"name":"E","value":""}],
        "resources":{"limits":{"cpu":"1000m","memory":1073741824}},"ports":[{"containerPort":80}]}],"hostNetwork":false,"terminationGracePeriodSeconds":0,
        "nodeSelector":{},"volumes":[{"name":"v","emptyDir":{}}]}}"#;
    let decoded = pod(Strictness::Strict, body).expect("valid");
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {},
            "spec": {"containers": [{"name": "c", "env": [{"name": "E"}], "resources": {"limits": {"cpu": "1", "memory": "1073741824"}},
                                     "ports": [{"containerPort": 80}]}],
                     "terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "emptyDir": {}}]}
        })
    );
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
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (r#"{"spec":{"priority":"1"}}"#, "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32"),
        (
            r#"{"spec":{"priority":4294967296}}"#,
            "json: cannot unmarshal number 4294967296 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"containers":[{"env":[{"value":true}]}]}}"#,
            "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
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
    let lease = decode(
        br#"{"spec":{"renewTime":"2026-01-02T04:05:06.123456Z"}}"#,
        ContentType::Json,
        &schema("io.k8s.api.coordination.v1.Lease"),
        Strictness::Strict,
    );
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
fn what_is_no_object_names_no_kind() {
    let message = refused("[1]");
    assert!(message.contains("json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:"), "{message}");
    assert!(refused("").ends_with("unexpected end of JSON input (<empty>)"));
}

#[test]
fn options_are_accepted_in_any_group() {
    let options = schema("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    for body in [
        r#"{"kind":"DeleteOptions","apiVersion":"apps/v1","gracePeriodSeconds":0}"#,
        r#"{"gracePeriodSeconds":0}"#,
        r#"{"kind":"DeleteOptions","apiVersion":"stable.example.com/v1","gracePeriodSeconds":0}"#,
    ] {
        let decoded = decode(body.as_bytes(), ContentType::Json, &options, Strictness::Strict).expect("accepted");
        assert_eq!(decoded.value["gracePeriodSeconds"], 0);
    }
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
    assert!(
        error.message.ends_with("strict decoding error: yaml: unmarshal errors:\n  line 3: key \"name\" already set in map"),
        "{}",
        error.message
    );
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

#[test]
fn a_patched_object_that_does_not_fit_is_invalid_with_the_patch_shown() {
    let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"x": 1}});
    let pod = schema("io.k8s.api.core.v1.Pod");
    let error =
        patched(value.clone(), &pod, Strictness::Strict, &|| "{\"spec\":{\"x\":1}}".to_owned(), vec!["duplicate field \"spec\"".into()])
            .expect_err("unknown field");
    assert_eq!(error.code, 422);
    assert_eq!(
        error.message,
        " \"\" is invalid: patch: Invalid value: \"{\\\"spec\\\":{\\\"x\\\":1}}\": strict decoding error: duplicate field \"spec\", unknown field \"spec.x\""
    );
    let warned = patched(value, &pod, Strictness::Warn, &String::new, vec!["duplicate field \"spec\"".into()]).expect("only warned");
    assert_eq!(warned.warnings, ["duplicate field \"spec\"", "unknown field \"spec.x\""]);
    let error = patched(json!({"spec": []}), &pod, Strictness::Warn, &|| "p".to_owned(), Vec::new()).expect_err("wrong type");
    assert!(error.message.ends_with("json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"), "{}", error.message);
}

/// The published round-trip fixtures: one object per kind with every field set, as JSON and as YAML.
#[test]
fn every_published_object_reads_back_as_it_is() {
    let folder =
        std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/staging/src/k8s.io/api/testdata/HEAD");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("SKIP: no ../shared/reference beside the checkout with the round-trip fixtures");
        return;
    };
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let json = std::fs::read(&path).expect("a fixture");
        let value: Value = serde_json::from_slice(&json).expect("JSON");
        let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(name) = Types::builtin().name_of(group, version, kind) else { continue };
        let expected = Gvk { group: group.to_owned().into(), version: version.to_owned().into(), kind: kind.to_owned().into() };
        let yaml = std::fs::read(path.with_extension("yaml")).expect("its twin");
        for (bytes, content) in [(json, ContentType::Json), (yaml, ContentType::Yaml)] {
            match decode_as(&bytes, content, &schema(name), &expected, Strictness::Strict) {
                Ok(decoded) if decoded.value == value => seen += 1,
                Ok(decoded) => wrong.push(format!("{name} {content:?}: {}", first_difference(&decoded.value, &value, ""))),
                Err(error) => wrong.push(format!("{name} {content:?}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 150, "only {seen} fixtures were compared");
}

fn first_difference(ours: &Value, theirs: &Value, path: &str) -> String {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let (x, y) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                if a.get(key) != b.get(key) {
                    return first_difference(x, y, &format!("{path}.{key}"));
                }
            }
            path.to_owned()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let at = a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0);
            first_difference(&a[at], &b[at], &format!("{path}[{at}]"))
        }
        _ => format!("{path}: {ours} instead of {theirs}"),
    }
}

#[test]
fn schemas_of_several_forms_are_read_as_go_reads_them() {
    let schema = schema("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition");
    let read = |properties: &str| {
        let body = format!(
            r#"{{"spec":{{"versions":[{{"name":"v1","schema":{{"openAPIV3Schema":{{"type":"object","properties":{{"a":{properties}}}}}}}}}]}}}}"#
        );
        let decoded = decode(body.as_bytes(), ContentType::Json, &schema, Strictness::Strict);
        decoded.map(|d| d.value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"].clone()).map_err(|s| s.message)
    };
    assert_eq!(read(r#"{"additionalProperties":true}"#), Ok(json!({"additionalProperties": true})));
    // A schema below is read without looking for fields that nobody knows, and they are gone.
    let nested = read(r#"{"additionalProperties":{"type":"string","unheard":1},"items":{"type":"string","unheard":1}}"#);
    assert_eq!(nested, Ok(json!({"additionalProperties": {"type": "string"}, "items": {"type": "string"}})));
    assert_eq!(read(r#"{"items":[{"type":"string","unheard":1}]}"#), Ok(json!({"items": [{"type": "string"}]})));
    assert_eq!(read(r#"{"items":"x"}"#), Ok(json!({})), "what is neither is forgotten");
    assert_eq!(read(r#"{"dependencies":{"b":["c"]}}"#), Ok(json!({"dependencies": {"b": ["c"]}})));
    for wrong in [r#"{"additionalProperties":"x"}"#, r#"{"additionalProperties":1}"#, r#"{"additionalProperties":[]}"#] {
        let why = read(wrong).expect_err("refused");
        assert!(why.contains("boolean or JSON schema expected"), "{why}");
    }
    let why = read(r#"{"additionalProperties":{"type":1}}"#).expect_err("refused");
    assert!(why.contains("json: cannot unmarshal number into Go struct field JSONSchemaProps.type of type string"), "{why}");
}
