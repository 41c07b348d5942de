//! Admission policies, through a real server.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, MAPS, Reply};
use serde_json::{Value, json};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

fn constraints() -> Value {
    json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]})
}

async fn make(cluster: &Cluster, resource: &str, kind: &str, name: &str, spec: Value) -> Reply {
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let reply = cluster.post(&format!("{ADMISSION}/{resource}"), &object).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    reply
}

async fn policy(cluster: &Cluster, name: &str, mut spec: Value, mut binding: Value) {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = constraints();
    }
    make(cluster, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", name, spec).await;
    binding["policyName"] = json!(name);
    if binding["validationActions"].is_null() {
        binding["validationActions"] = json!(["Deny"]);
    }
    make(cluster, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", &format!("{name}-binding"), binding).await;
}

async fn mutation(cluster: &Cluster, name: &str, mut spec: Value) {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = constraints();
    }
    spec["reinvocationPolicy"] = json!("Never");
    make(cluster, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", name, spec).await;
    let binding = json!({"policyName": name});
    make(cluster, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", &format!("{name}-binding"), binding).await;
}

fn warnings(reply: &Reply) -> Vec<String> {
    reply.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_policy_refuses_what_its_expressions_do_not_allow() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "variables": [{"name": "data", "expression": "object.?data.orValue({})"}, {"name": "count", "expression": "variables.data.size()"}],
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
        "validations": [
            {"expression": "variables.count < 3", "messageExpression": "'too many keys: ' + string(variables.count)"},
            {"expression": "!('secret' in variables.data)", "reason": "Forbidden", "message": "no secrets here"},
            {"expression": "request.operation != 'UPDATE' || object.data == oldObject.data"},
            {"expression": "namespaceObject.metadata.name == 'default' && request.userInfo.username == 'kubernetes-admin'"},
            {"expression": "authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()"}]});
    policy(&cluster, "limits", spec, json!({})).await;
    let metrics = cluster.get("/metrics").await.text;
    let counted = "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"validate\"}";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("apiserver_admission_controller_admission_duration_seconds_bucket{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\",le=\"0.005\"}"));
    let made = cluster.config_map("a", &json!({"a": "1", "b": "2", "c": "3"})).await;
    assert_eq!(made.code, 422, "{}", made.text);
    assert_eq!(
        made.message(),
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'limits' with binding 'limits-binding' denied request: too many keys: 3"
    );
    assert_eq!(made.json["reason"], "Invalid");
    let made = cluster.config_map("a", &json!({"secret": "1"})).await;
    assert_eq!((made.code, made.json["reason"].as_str()), (403, Some("Forbidden")), "{}", made.text);
    assert_eq!(cluster.config_map("a", &json!({"a": "1"})).await.code, 201);
    assert_eq!(cluster.config_map("exempt", &json!({"secret": "1"})).await.code, 201);
    let changed = cluster.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"a": "2"}})).await;
    assert!(
        changed.message().ends_with("denied request: failed expression: request.operation != 'UPDATE' || object.data == oldObject.data"),
        "{}",
        changed.text
    );
    // A policy that goes is forgotten at once.
    cluster.delete(&format!("{ADMISSION}/validatingadmissionpolicies/limits"), &Value::Null).await;
    assert_eq!(cluster.config_map("b", &json!({"secret": "1"})).await.code, 201);
}

#[tokio::test]
async fn bindings_say_what_a_failure_means_and_give_parameters() {
    let cluster = Cluster::start().await;
    let limit = |name: &str, max: &str| json!({"metadata": {"name": name, "labels": {"limit": "yes"}}, "data": {"max": max}});
    assert_eq!(cluster.post(MAPS, &limit("limit", "2")).await.code, 201);
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.size() <= int(params.data.max)", "message": "too many"}]});
    policy(&cluster, "sized", spec.clone(), json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}})).await;
    assert_eq!(cluster.config_map("fits", &json!({"a": "1", "b": "2"})).await.code, 201);
    assert_eq!(cluster.config_map("large", &json!({"a": "1", "b": "2", "c": "3"})).await.code, 422);
    // Every parameter that is selected has its say.
    let small = cluster
        .patch(
            &format!("{ADMISSION}/validatingadmissionpolicybindings/sized-binding"),
            "merge-patch",
            &json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"limit": "yes"}}}}}),
        )
        .await;
    assert_eq!(small.code, 200, "{}", small.text);
    let one = cluster.post(MAPS, &json!({"metadata": {"name": "strict", "labels": {"limit": "yes"}}, "data": {"max": "1"}})).await;
    assert_eq!(one.code, 201, "{}", one.text);
    assert_eq!(cluster.config_map("two", &json!({"a": "1", "b": "2"})).await.code, 422);
    // Warnings do not refuse.
    let warn = json!({"spec": {"validationActions": ["Warn", "Audit"]}});
    cluster.patch(&format!("{ADMISSION}/validatingadmissionpolicybindings/sized-binding"), "merge-patch", &warn).await;
    let made = cluster.config_map("two", &json!({"a": "1", "b": "2"})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert!(
        warnings(&made)[0].contains("Validation failed for ValidatingAdmissionPolicy 'sized' with binding 'sized-binding': too many"),
        "{:?}",
        warnings(&made)
    );
    // Without a parameter the binding decides.
    let gone = json!({"spec": {"paramRef": {"selector": null, "name": "nowhere"}, "validationActions": ["Deny"]}});
    cluster.patch(&format!("{ADMISSION}/validatingadmissionpolicybindings/sized-binding"), "merge-patch", &gone).await;
    let refused = cluster.config_map("three", &json!({})).await;
    assert!(
        refused.message().ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{}",
        refused.text
    );
    let allow = json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}});
    cluster.patch(&format!("{ADMISSION}/validatingadmissionpolicybindings/sized-binding"), "merge-patch", &allow).await;
    assert_eq!(cluster.config_map("three", &json!({})).await.code, 201);
}

#[tokio::test]
async fn a_failure_of_evaluation_refuses_or_is_ignored_as_the_policy_says() {
    let cluster = Cluster::start().await;
    let spec = |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.data.nothing == 'x'"}]});
    policy(&cluster, "ignored", spec("Ignore"), json!({})).await;
    assert_eq!(cluster.config_map("a", &json!({"k": "v"})).await.code, 201);
    policy(&cluster, "failing", spec("Fail"), json!({})).await;
    let refused = cluster.config_map("b", &json!({"k": "v"})).await;
    assert!(
        refused.message().ends_with("denied request: expression 'object.data.nothing == 'x'' resulted in error: no such key: nothing"),
        "{}",
        refused.text
    );
    let text = cluster.get("/metrics").await.text;
    let check = |what: &str, policy: &str, action: &str| {
        format!(
            "apiserver_validating_admission_policy_check_{what}{{enforcement_action=\"{action}\",error_type=\"invalid_error\",policy=\"{policy}\",policy_binding=\"{policy}-binding\"}} "
        )
    };
    for line in [
        check("total", "ignored", "allow") + "2\n",
        check("total", "failing", "deny") + "1\n",
        check("duration_seconds_count", "failing", "deny") + "1\n",
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[tokio::test]
async fn an_annotation_that_cannot_be_made_refuses_whatever_the_binding_asks_for() {
    let cluster = Cluster::start().await;
    let spec = json!({"failurePolicy": "Fail", "auditAnnotations": [{"key": "k", "valueExpression": "object.data.nothing"}]});
    policy(&cluster, "notes", spec, json!({"validationActions": ["Warn"]})).await;
    let refused = cluster.config_map("a", &json!({"k": "v"})).await;
    assert!(refused.code == 422 && refused.message().contains("audit annotation"), "{}", refused.text);
}

#[tokio::test]
async fn expressions_that_do_not_compile_are_refused_when_they_are_written() {
    let cluster = Cluster::start().await;
    let object = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": constraints(),
        "validations": [{"expression": "object.a == params.b"}, {"expression": "1"},
            {"expression": "true", "messageExpression": "string(authorizer.path('/').check('get').allowed())"}], "variables": [{"name": "v", "expression": "request.nope"}]}});
    let refused = cluster.post(&format!("{ADMISSION}/validatingadmissionpolicies"), &object).await;
    let causes = refused.json["details"]["causes"].as_array().unwrap().clone();
    let shown: Vec<String> = causes
        .iter()
        .map(|c| format!("{}: {}", c["field"].as_str().unwrap(), c["message"].as_str().unwrap().lines().next().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            "spec.variables[0].expression: Invalid value: \"request.nope\": compilation failed: ERROR: <input>:1:8: undefined field 'nope'",
            "spec.validations[0].expression: Invalid value: \"object.a == params.b\": compilation failed: ERROR: <input>:1:13: undeclared reference to 'params' (in container '')",
            "spec.validations[1].expression: Invalid value: \"1\": compilation failed: must evaluate to bool",
            "spec.validations[2].messageExpression: Invalid value: \"string(authorizer.path('/').check('get').allowed())\": compilation failed: ERROR: <input>:1:8: undeclared reference to 'authorizer' (in container '')",
        ]
    );
}

#[tokio::test]
async fn mutations_lay_configurations_over_the_object_or_patch_it() {
    let cluster = Cluster::start().await;
    let apply = "Object{metadata: Object.metadata{labels: {'by': 'policy', 'size': string(object.?data.orValue({}).size())}}, data: {'added': 'yes'}}";
    mutation(
        &cluster,
        "a-labels",
        json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}}]}),
    )
    .await;
    let patch = "[JSONPatch{op: 'test', path: '/data/added', value: 'yes'}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('seen'), value: object.metadata.labels.by}]";
    let conditions = json!([{"name": "own", "expression": "object.metadata.name != 'plain'"}]);
    mutation(
        &cluster,
        "b-patch",
        json!({"matchConditions": conditions, "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]}),
    )
    .await;
    let made = cluster.config_map("m", &json!({"k": "v"})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.json["data"], json!({"k": "v", "added": "yes", "seen": "policy"}));
    assert_eq!(made.json["metadata"]["labels"], json!({"by": "policy", "size": "1"}));
    assert_eq!(cluster.config_map("plain", &json!({"k": "v"})).await.json["data"], json!({"k": "v", "added": "yes"}));
    let broken = "Object{data: Object.data{x: 1}}";
    mutation(
        &cluster,
        "c-broken",
        json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": broken}}]}),
    )
    .await;
    let refused = cluster.config_map("n", &json!({})).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert!(
        refused
            .message()
            .contains("MutatingAdmissionPolicy 'c-broken' with binding 'c-broken-binding' denied request: error applying patch: .data.x"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn a_json_patch_of_a_policy_makes_nothing_that_a_client_could_not_have_sent() {
    let cluster = Cluster::start().await;
    for (name, expression) in [
        ("gone", "[JSONPatch{op: 'remove', path: '/data/nothing'}]"),
        ("number", "[JSONPatch{op: 'add', path: '/data', value: 7}]"),
        ("unknown", "[JSONPatch{op: 'add', path: '/strange', value: 7}]"),
        ("test", "[JSONPatch{op: 'test', path: '/data/k', value: 'other'}, JSONPatch{op: 'remove', path: '/data/k'}]"),
    ] {
        let own = json!([{"name": "own", "expression": format!("object.metadata.name == '{name}'")}]);
        mutation(
            &cluster,
            name,
            json!({"matchConditions": own, "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}),
        )
        .await;
    }
    for (name, why) in [
        ("gone", "JSON Patch: error in remove for path: '/data/nothing': Unable to remove nonexistent key: nothing: missing value"),
        ("number", "json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string"),
    ] {
        let refused = cluster.config_map(name, &json!({"k": "v"})).await;
        assert!(refused.code == 403 && refused.message().ends_with(why), "{}", refused.text);
    }
    let made = cluster.config_map("unknown", &json!({"k": "v"})).await;
    assert_eq!((made.code, made.json.get("strange")), (201, None), "{}", made.text);
    let made = cluster.config_map("test", &json!({"k": "v"})).await;
    assert_eq!((made.code, &made.json["data"]), (201, &json!({"k": "v"})), "a test that does not hold leaves the object as it is");
}

#[tokio::test]
async fn a_policy_sees_requests_of_other_versions_in_the_version_that_its_rules_name() {
    let cluster = Cluster::start().await;
    let rules = |policy: &str| {
        let rule =
            json!({"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["horizontalpodautoscalers"]});
        json!({"matchPolicy": policy, "resourceRules": [rule]})
    };
    let only_v1 = "object.apiVersion == 'autoscaling/v1' && request.kind.version == 'v1' && request.requestKind.version == 'v2' && object.spec.?targetCPUUtilizationPercentage.orValue(50) < 90";
    let update = "oldObject == null || oldObject.spec.?targetCPUUtilizationPercentage.orValue(50) == object.spec.?targetCPUUtilizationPercentage.orValue(50)";
    let validations = json!([{"expression": only_v1}, {"expression": update, "message": "targets stay"}]);
    policy(&cluster, "equivalent", json!({"matchConstraints": rules("Equivalent"), "validations": validations}), json!({})).await;
    policy(&cluster, "exact", json!({"matchConstraints": rules("Exact"), "validations": [{"expression": "false"}]}), json!({})).await;
    let apply = "Object{spec: Object.spec{maxReplicas: object.spec.maxReplicas + 1, targetCPUUtilizationPercentage: 70}}";
    let conditions =
        json!([{"name": "new", "expression": "oldObject == null && object.spec.?targetCPUUtilizationPercentage.orValue(0) == 80"}]);
    mutation(
        &cluster,
        "target",
        json!({"matchConstraints": rules("Equivalent"), "matchConditions": conditions,
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}}]}),
    )
    .await;
    let autoscaler = |name: &str, target: Option<u64>| {
        let of = |target| json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "metrics": target.map(|t| vec![of(t)]).unwrap_or_default()}})
    };
    let at = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let refused = cluster.post(at, &autoscaler("a", Some(95))).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().contains("ValidatingAdmissionPolicy 'equivalent'"), "{}", refused.text);
    let made = cluster.post(at, &autoscaler("a", None)).await;
    assert_eq!((made.code, &made.json["apiVersion"]), (201, &json!("autoscaling/v2")), "{}", made.text);
    assert_eq!(made.json["spec"]["maxReplicas"], 3);
    assert_eq!(made.json["spec"]["metrics"][0]["resource"]["target"], json!({"type": "Utilization", "averageUtilization": 70}));
    let changed = cluster.patch(&format!("{at}/a"), "merge-patch", &json!({"spec": autoscaler("a", Some(60))["spec"]})).await;
    assert_eq!(changed.code, 422, "{}", changed.text);
    assert!(changed.message().ends_with("targets stay"), "{}", changed.text);
}

/// Nobody has the server read for them what they cannot read themselves.
#[tokio::test]
async fn parameters_are_named_by_those_who_may_read_them() {
    let cluster = Cluster::start().await;
    let rules = json!([
        {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    ]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "writer"}, "rules": rules});
    assert_eq!(cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.code, 201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "writer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    assert_eq!(cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.code, 201);
    let jane = || ferrokube_apiserver::attributes::UserInfo::component("jane", &["dev"]);
    let send = async |resource: &str, kind: &str, name: &str, spec: Value| {
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let (uri, body) = (format!("{ADMISSION}/{resource}"), object.to_string().into_bytes());
        common::reply(cluster.send(jane(), "POST", &uri, "application/json", "application/json", body).await).await
    };
    let policy = async |name: &str, kind: &str| {
        let spec = json!({"paramKind": {"apiVersion": "v1", "kind": kind}, "matchConstraints": constraints(), "validations": [{"expression": "true"}]});
        send("validatingadmissionpolicies", "ValidatingAdmissionPolicy", name, spec).await
    };
    let refused = policy("spy", "Secret").await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let why = "spec.paramKind: Forbidden: user &{jane  [dev system:authenticated] map[]} must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    assert!(refused.message().ends_with(why), "{}", refused.message());
    assert_eq!(policy("fine", "ConfigMap").await.code, 201);

    let bind = async |name: &str, policy: &str, reference: Value| {
        let mut reference = reference;
        reference["parameterNotFoundAction"] = json!("Deny");
        let spec = json!({"policyName": policy, "validationActions": ["Deny"], "paramRef": reference});
        send("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", name, spec).await
    };
    assert_eq!(bind("named", "fine", json!({"name": "a", "namespace": "default"})).await.code, 201);
    let refused = bind("all", "fine", json!({"selector": {}})).await;
    let why = "spec.paramRef: Forbidden: user &{jane  [dev system:authenticated] map[]} does not have \"list\" permission on the object referenced by paramRef";
    assert!(refused.message().ends_with(why), "{}", refused.message());
    let refused = bind("lost", "none", json!({"name": "a"})).await;
    assert!(refused.message().contains("unable to get policy none to determine minimum required permissions"), "{}", refused.message());
}
