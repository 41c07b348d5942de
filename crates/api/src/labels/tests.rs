//! Selection by labels and fields.
#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::json;
use std::sync::Arc;

fn object(labels: Value) -> Object {
    let text = json!({"metadata": {"name": "a", "namespace": "ns", "labels": labels}}).to_string();
    Object::from_json(text.into()).unwrap()
}

#[test]
fn selectors_select() {
    let o = object(json!({"app": "web", "tier": "1", "empty": ""}));
    for (text, want) in [
        ("", true),
        ("app=web", true),
        ("app==web,tier=1", true),
        ("app!=web", false),
        ("missing!=x", true),
        ("app in (web, db)", true),
        ("app notin (web)", false),
        ("missing notin (web)", true),
        ("app", true),
        ("!app", false),
        ("! missing", true),
        ("tier>0", true),
        ("tier<1", false),
        ("app>0", false),
        ("empty=", true),
        ("empty in (,x)", true),
        ("in in (in)", false),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches(&o), want, "{text}");
    }
}

#[test]
fn bad_selectors_get_the_words_of_apimachinery() {
    for (text, want) in [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in ()", "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err(), want, "{text}");
    }
    assert!(Selector::parse("-a=b").unwrap_err().starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"));
}

#[test]
fn label_selector_objects_select() {
    let parse = |v: Value| Selector::from_label_selector(Some(&v));
    let o = object(json!({"app": "web"}));
    assert!(Selector::from_label_selector(None).unwrap().is_nothing());
    assert!(parse(json!({})).unwrap().matches(&o));
    assert!(
        parse(json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]})).unwrap().matches(&o)
    );
    assert!(!parse(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})).unwrap().matches(&o));
    assert_eq!(
        parse(json!({"matchExpressions": [{"key": "a", "operator": "Near"}]})).unwrap_err(),
        "\"Near\" is not a valid label selector operator"
    );
}

#[test]
fn selectors_print_what_they_were() {
    for text in ["a=b", "a in (b,c)", "!a", "a", "a!=b", "a notin (b,c)", "a>1"] {
        assert_eq!(Selector::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn field_selectors_select() {
    let pods = crate::kinds::lookup("", "v1", "pods").unwrap();
    let pod = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
    let mut o = Object::from_json(pod.to_string().into()).unwrap();
    o.fields = field_values(pods, &pod).into_iter().map(Arc::from).collect();
    for (text, want) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.namespace!=ns", false),
        ("spec.nodeName=n1,status.phase=Running", true),
        ("spec.nodeName=", false),
        ("status.phase!=Running", false),
        ("spec.hostNetwork=false", true),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap().resolve(pods).unwrap().matches(&o), want, "{text}");
    }
    let wrong = |t: &str| FieldSelector::parse(t).and_then(|s| s.resolve(pods)).unwrap_err();
    assert_eq!(wrong("a"), "invalid selector: 'a'; can't understand 'a'");
    assert_eq!(wrong("spec.x=1"), "field label not supported: spec.x");
    assert_eq!(wrong("a=b=c"), "invalid field selector: unescaped character in value: 61");
}
