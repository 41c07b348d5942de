//! Endpoints and their slices: what is refused of them, and in which words.

use crate::validation::told;
use serde_json::{Value, json};

fn slice(family: &str, endpoint: Value) -> Vec<String> {
    told("EndpointSlice", json!({ "addressType": family, "endpoints": [endpoint] }))
}

#[test]
fn addresses_of_slices_fit_their_family() {
    let none = "must be a valid IP address";
    for (family, address, want) in [
        ("IPv4", "10.0.0.1", vec![]),
        ("IPv4", "::ffff:10.0.0.1", vec![]),
        ("IPv4", "fd00::1", vec!["Invalid value: \"fd00::1\": must be a valid IPv4 address".to_owned()]),
        ("IPv6", "10.0.0.1", vec!["Invalid value: \"10.0.0.1\": must be a valid IPv6 address".to_owned()]),
        ("IPv4", "x", vec!["Invalid value: \"x\": must be a valid IPv4 address".to_owned(), format!("Invalid value: \"x\": {none}")]),
        ("IPv4", "127.0.0.1", vec!["Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()]),
        ("FQDN", "a.example.", vec![]),
        ("FQDN", "", vec!["Required value".to_owned()]),
        ("FQDN", "a.", vec!["Invalid value: \"a\": should be a domain with at least two segments separated by dots".to_owned()]),
    ] {
        let told = slice(family, json!({"addresses": [address]}));
        let want: Vec<String> = want.iter().map(|line| format!("endpoints[0].addresses[0]: {line}")).collect();
        assert_eq!(told, want, "{family} {address}");
    }
}

#[test]
fn endpoints_of_slices_are_checked_in_their_order() {
    let bad = json!({"addresses": ["10.0.0.1"], "nodeName": "", "hostname": "A", "hints": {
        "forZones": [{"name": ""}, {"name": "a b"}],
        "forNodes": [{"name": "n"}, {"name": "n"}],
    }});
    let told = slice("IPv4", bad);
    let paths: Vec<&str> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
    let want =
        ["endpoints[0].nodeName", "endpoints[0].hostname", "endpoints[0].hints.forZones[1].name", "endpoints[0].hints.forNodes[1].name"];
    assert_eq!(paths, want, "{told:?}");

    // Too many of something are not looked at one by one.
    let zones: Vec<Value> = (0..9).map(|_| json!({"name": "a b"})).collect();
    let told = slice("IPv4", json!({"addresses": ["10.0.0.1"], "hints": {"forZones": zones}}));
    assert_eq!(told, ["endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"]);
    let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": []})).collect();
    let told = crate::validation::told("EndpointSlice", json!({"addressType": "IPv4", "endpoints": many}));
    assert_eq!(told, ["endpoints: Too many: 1001: must have at most 1000 items"]);
}

#[test]
fn no_address_is_refused_twice_over() {
    let told = told("Endpoints", json!({"subsets": [{"addresses": [{"ip": "x"}]}]}));
    let path = "subsets[0].addresses[0].ip: Invalid value: \"x\"";
    assert_eq!(
        told,
        [format!("{path}: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"), format!("{path}: must be a valid IP address"),]
    );
}
