//! Webhook configurations, admission policies and flow control: what is refused of them, and in which words.

use crate::validation::{status, told};
use crate::{merge, object, row, update};
use ferrokube_api::kinds;
use serde_json::{Value, json};

fn policy(kind: &str, rest: Value) -> Vec<String> {
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
    let own = match kind {
        "ValidatingAdmissionPolicy" => json!({"validations": [{"expression": "true"}]}),
        _ => json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}),
    };
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule]}});
    merge(&mut spec, own);
    merge(&mut spec, rest);
    told(kind, json!({ "spec": spec }))
}

#[test]
fn validating_policies_are_checked_line_by_line() {
    let rule = |rule: Value| {
        let mut whole = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        merge(&mut whole, rule);
        json!({"matchConstraints": {"resourceRules": [whole]}})
    };
    let validation = |v: Value| {
        let mut whole = json!({"expression": "true"});
        merge(&mut whole, v);
        json!({ "validations": [whole] })
    };
    let nothing = "Required value: validations or auditAnnotations must contain at least one item";
    let rules = "spec.matchConstraints.resourceRules[0]";
    let cases: &[(Value, &[&str])] = &[
        (json!({}), &[]),
        (json!({"validations": []}), &[&format!("spec.validations: {nothing}"), &format!("spec.auditAnnotations: {nothing}")]),
        (json!({"paramKind": {}}), &["spec.paramKind.apiVersion: Required value", "spec.paramKind.kind: Required value"]),
        (
            json!({"paramKind": {"apiVersion": "a/b/c", "kind": "A"}}),
            &["spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"],
        ),
        (
            json!({"paramKind": {"apiVersion": "a.b/", "kind": "A"}}),
            &["spec.paramKind.apiVersion: Invalid value: \"a.b/\": version must be specified"],
        ),
        (
            json!({"matchConstraints": {"matchPolicy": "Some"}}),
            &["spec.matchConstraints.matchPolicy: Unsupported value: \"Some\": supported values: \"Equivalent\", \"Exact\""],
        ),
        (
            json!({"matchConstraints": {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}}),
            &["spec.matchConstraints.objectSelector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator"],
        ),
        (
            rule(json!({"resourceNames": ["a/b", "c", "c"]})),
            &[
                &format!("{rules}.resourceNames[0]: Invalid value: \"a/b\": may not contain '/'"),
                &format!("{rules}.resourceNames[2]: Duplicate value: \"c\""),
            ],
        ),
        (
            rule(json!({"operations": ["*", "CREATE", "PATCH"], "apiVersions": [""]})),
            &[
                &format!(
                    "{rules}.operations: Invalid value: [\"*\",\"CREATE\",\"PATCH\"]: if '*' is present, must not specify other operations"
                ),
                &format!(
                    "{rules}.operations[2]: Unsupported value: \"PATCH\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\""
                ),
                &format!("{rules}.apiVersions[0]: Required value"),
            ],
        ),
        (
            json!({"variables": [{"name": "not-one", "expression": " "}, {"name": "in", "expression": "1"}]}),
            &[
                "spec.variables[0].name: Invalid value: \"not-one\": must be a valid CEL identifier",
                "spec.variables[0].expression: Required value: expression is not specified",
                "spec.variables[1].name: Invalid value: \"in\": must be a valid CEL identifier",
            ],
        ),
        (
            validation(json!({"message": "a\nb", "messageExpression": " ", "reason": "NotFound"})),
            &[
                "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"NotFound\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "'a'"}, {"key": "k"}]}),
            &[
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
            ],
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "x".repeat(5121)}]}),
            &["spec.auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length"],
        ),
        (
            json!({"matchConditions": [{"expression": "true"}, {"expression": "true"}]}),
            &["spec.matchConditions[0].name: Required value", "spec.matchConditions[1].name: Required value"],
        ),
    ];
    for (rest, want) in cases {
        assert_eq!(policy("ValidatingAdmissionPolicy", rest.clone()), *want, "{rest}");
    }
    let many: Vec<Value> = (0..21).map(|i| json!({"key": format!("k{i}"), "valueExpression": "'a'"})).collect();
    let why = policy("ValidatingAdmissionPolicy", json!({ "auditAnnotations": many }));
    assert!(why[0].starts_with("spec.auditAnnotations: Invalid value: [{\"Key\":\"k0\",\"ValueExpression\":\"'a'\"},"), "{why:?}");
    assert!(why[0].ends_with("must not have more than 20 auditAnnotations"), "{why:?}");
    let warnings = json!({"typeChecking": {"expressionWarnings": [{"fieldRef": " "}]}, "conditions": [{"type": "a", "status": "Maybe", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    assert_eq!(
        status("ValidatingAdmissionPolicy", warnings),
        [
            "status.typeChecking.expressionWarnings[0].warning: Required value",
            "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
        ]
    );
}

#[test]
fn mutating_policies_say_how_they_change_things() {
    let mutation = |m: Value| json!({ "mutations": [m] });
    let at = "spec.mutations[0]";
    let cases: &[(Value, &[&str])] = &[
        (json!({}), &[]),
        (json!({"reinvocationPolicy": null}), &["spec.reinvocationPolicy: Required value"]),
        (
            json!({"reinvocationPolicy": "Twice"}),
            &["spec.reinvocationPolicy: Unsupported value: \"Twice\": supported values: \"IfNeeded\", \"Never\""],
        ),
        (json!({"mutations": []}), &["spec.mutations: Required value: mutations must contain at least one item"]),
        (mutation(json!({})), &[&format!("{at}.patchType: Required value")]),
        (
            mutation(json!({"patchType": "Merge"})),
            &[&format!("{at}.patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"")],
        ),
        (
            mutation(json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}})),
            &[
                &format!("{at}.jsonPatch: Required value: must be specified when patchType is JSONPatch"),
                &format!(
                    "{at}.applyConfiguration: Invalid value: \"{{applyConfiguration}}\": must not be specified when patchType is JSONPatch"
                ),
            ],
        ),
        (
            mutation(json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": " "}})),
            &[&format!("{at}.applyConfiguration.expression: Required value")],
        ),
        (
            json!({"matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}}),
            &[
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ],
        ),
    ];
    for (rest, want) in cases {
        assert_eq!(policy("MutatingAdmissionPolicy", rest.clone()), *want, "{rest}");
    }
}

#[test]
fn bindings_of_policies_name_their_parameters() {
    let with = |rest: Value| {
        let mut o = json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}});
        merge(&mut o, json!({ "spec": rest }));
        told("ValidatingAdmissionPolicyBinding", o)
    };
    let param = |p: Value| with(json!({ "paramRef": p }));
    assert_eq!(with(json!({})), Vec::<String>::new());
    assert_eq!(param(json!({"name": "a"})), ["spec.paramRef.parameterNotFoundAction: Required value"]);
    assert_eq!(
        param(json!({"parameterNotFoundAction": "Wait"})),
        [
            "spec.paramRef: Required value: one of name or selector must be specified",
            "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Wait\": supported values: \"Deny\", \"Allow\""
        ]
    );
    assert_eq!(
        param(json!({"name": "a/b", "selector": {}, "parameterNotFoundAction": "Deny"})),
        [
            "spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'",
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive"
        ]
    );
    assert_eq!(
        with(json!({"validationActions": ["Deny", "Warn", "Deny"]})),
        [
            "spec.validationActions[2]: Duplicate value: \"Deny\"",
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"
        ]
    );
    assert_eq!(
        with(json!({"validationActions": []})),
        ["spec.validationActions: Required value: at least one validation action is required"]
    );
    assert_eq!(
        with(json!({"matchResources": {"matchPolicy": "Some"}})),
        ["spec.matchResources.matchPolicy: Unsupported value: \"Some\": supported values: \"Equivalent\", \"Exact\""]
    );
    let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    assert_eq!(
        told("MutatingAdmissionPolicyBinding", json!({"spec": {"policyName": "p", "matchResources": {"resourceRules": [rule]}}})),
        [
            "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
        ]
    );
}

#[test]
fn webhooks_keep_what_they_broke_before() {
    let hook = |rest: Value| {
        let mut hook =
            json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://host"}});
        merge(&mut hook, rest);
        hook
    };
    let kind = "ValidatingWebhookConfiguration";
    let hooks = |hooks: &[Value]| told(kind, json!({ "webhooks": hooks }));
    assert_eq!(
        hooks(&[hook(json!({"admissionReviewVersions": ["v2", "v2", "2v"]}))]),
        [
            "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
            "webhooks[0].admissionReviewVersions[2]: Invalid value: \"2v\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\",\"v2\",\"2v\"]: must include at least one of v1, v1beta1"
        ]
    );
    assert_eq!(hooks(&[hook(json!({})), hook(json!({}))]), ["webhooks[1].name: Duplicate value: \"a.b.c\""]);
    let of = |hooks: &[Value]| object(kind, json!({ "webhooks": hooks }));
    let broken = hook(json!({"sideEffects": "Some", "admissionReviewVersions": ["v2"], "matchConditions": [{"expression": "true"}],
        "objectSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["?"]}]}}));
    let old = of(&[broken.clone(), broken.clone()]);
    let mut new = old.clone();
    merge(&mut new, json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(update(row(kind), &mut new, &old), Vec::<String>::new());
    let mut strange = of(&[hook(json!({"sideEffects": "Any"}))]);
    assert_eq!(
        update(row(kind), &mut strange, &old),
        ["webhooks[0].sideEffects: Unsupported value: \"Any\": supported values: \"None\", \"NoneOnDryRun\", \"Some\", \"Unknown\""]
    );
}

#[test]
fn flow_control_keeps_what_must_exist() {
    let level = |name: &str, spec: Value| told("PriorityLevelConfiguration", json!({"metadata": {"name": name}, "spec": spec}));
    let queue = |queuing: Value| {
        let mut whole = json!({"queues": 64, "handSize": 8, "queueLengthLimit": 50});
        merge(&mut whole, queuing);
        level("mine", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": whole}}}))
    };
    let at = "spec.limited.limitResponse.queuing";
    for (given, want) in [
        (json!({}), vec![]),
        (
            json!({"queues": 512}),
            vec![format!(
                "{at}.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"
            )],
        ),
        (json!({"queues": 7}), vec![format!("{at}.handSize: Invalid value: 8: should not be greater than queues (7)")]),
        (
            json!({"queues": 2_147_483_647, "handSize": 3}),
            vec![
                format!("{at}.queues: Invalid value: 2147483647: must not be greater than 10000000"),
                format!(
                    "{at}.handSize: Invalid value: 3: required entropy bits of deckSize 2147483647 and handSize 3 should not be greater than 60"
                ),
            ],
        ),
        (
            json!({"queueLengthLimit": -1, "queues": -1, "handSize": -1}),
            ["queueLengthLimit", "queues", "handSize"].map(|key| format!("{at}.{key}: Invalid value: -1: must be positive")).to_vec(),
        ),
    ] {
        assert_eq!(queue(given.clone()), want, "{given}");
    }
    let only = "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'";
    assert_eq!(level("mine", json!({"type": "Exempt"})), [only]);
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 10, "lendablePercent": 10}});
    assert_eq!(level("exempt", exempt), Vec::<String>::new());
    let both = level("exempt", json!({"type": "Exempt", "exempt": {"lendablePercent": 101}, "limited": {}}));
    assert_eq!(both[0], "spec.limited: Forbidden: must be nil if the type is not Limited");
    assert_eq!(both[1], "spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive");
    assert!(both[2].ends_with("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"), "{both:?}");
    let last = |shares: i64| level("catch-all", json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares}}));
    assert_eq!(last(5), Vec::<String>::new());
    assert!(last(6)[0].ends_with("spec of 'catch-all' must equal the fixed value"));

    let schema = |name: &str, spec: Value| told("FlowSchema", json!({"metadata": {"name": name}, "spec": spec}));
    for name in ["exempt", "catch-all"] {
        let mut spec = kinds::mandatory_schema(name).unwrap();
        assert_eq!(schema(name, spec.clone()), Vec::<String>::new());
        spec["rules"][0]["nonResourceRules"][0]["nonResourceURLs"] = json!(["/"]);
        let why = schema(name, spec);
        assert!(why[0].ends_with(&format!("spec of '{name}' must equal the fixed value")), "{why:?}");
    }
    assert_eq!(
        schema("mine", json!({"priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByMood"}})),
        ["spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"ByMood\"}: supported values: \"ByNamespace\", \"ByUser\""]
    );
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "u"}}], "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["A"]}]});
    let why = schema("mine", json!({"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}));
    assert!(why[0].contains("each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label"), "{why:?}");
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        assert_eq!(
            status(kind, json!({"conditions": [{"type": ""}, {"type": ""}]})),
            [
                "status.conditions[0].type: Required value: must not be empty",
                "status.conditions[1].type: Duplicate value: \"\"",
                "status.conditions[1].type: Required value: must not be empty"
            ]
        );
    }
}
