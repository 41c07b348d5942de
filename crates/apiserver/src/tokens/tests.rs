//! Tokens: what is issued is accepted, and nothing else.

use super::*;
use crate::objects::testing::Map;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn tokens() -> ServiceAccountTokens {
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    ServiceAccountTokens::new(TokenConfig {
        issuer: ISSUER.into(),
        api_audiences: vec![],
        signing_key: key,
        verify_keys: vec![],
        extend_expiration: true,
        max_expiration_seconds: 0,
    })
    .expect("usable keys")
}

fn claims() -> Claims {
    Claims {
        aud: vec![ISSUER.into()],
        exp: 1000,
        nbf: 10,
        sub: "system:serviceaccount:default:web".into(),
        kubernetes: Kubernetes {
            namespace: "default".into(),
            serviceaccount: Reference { name: "web".into(), uid: "1".into() },
            ..Kubernetes::default()
        },
        ..Claims::default()
    }
}

#[test]
fn a_token_is_accepted_between_nbf_and_exp_for_its_audience() {
    let tokens = tokens();
    let token = tokens.sign(claims());
    assert_eq!(tokens.verify(&token, &[], 500).expect("valid").audiences, vec![ISSUER.to_owned()]);
    assert_eq!(tokens.verify(&token, &[], 1000).expect_err("too late"), TokenError::Expired);
    assert_eq!(tokens.verify(&token, &[], 9).expect_err("too early"), TokenError::NotYet);
    assert!(matches!(tokens.verify(&token, &["vault".into()], 500), Err(TokenError::Audience { .. })));
}

#[test]
fn every_changed_character_is_noticed() {
    let tokens = tokens();
    let token = tokens.sign(claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ascii");
        assert!(changed == token || tokens.verify(&changed, &[], 500).is_err(), "character {at}");
    }
}

#[test]
fn keys_of_others_and_the_algorithm_none_are_refused() {
    let ours = tokens();
    let theirs = tokens();
    assert_eq!(ours.verify(&theirs.sign(claims()), &[], 500).expect_err("foreign"), TokenError::BadSignature);
    let token = ours.sign(claims());
    let body = token.split('.').nth(1).expect("three parts");
    for header in [json!({ "alg": "none" }), json!({ "alg": "HS256" })] {
        let forged = format!("{}.{body}.", B64.encode(header.to_string()));
        assert_eq!(ours.verify(&forged, &[], 500).expect_err("forged"), TokenError::BadSignature);
    }
}

#[test]
fn a_public_key_in_pem_verifies_and_its_id_is_that_of_the_published_key() {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let make = |signing: String, verify: Vec<String>| {
        ServiceAccountTokens::new(TokenConfig {
            issuer: ISSUER.into(),
            api_audiences: vec![],
            signing_key: signing,
            verify_keys: verify,
            extend_expiration: false,
            max_expiration_seconds: 0,
        })
    };
    let signer = make(pair.serialize_pem(), vec![]).expect("usable");
    let other = rcgen::KeyPair::generate().expect("a key");
    let verifier = make(other.serialize_pem(), vec![pair.public_key_pem()]).expect("usable");
    let token = signer.sign(claims());
    assert!(verifier.verify(&token, &[], 500).is_ok());
    let jwks: Value = serde_json::from_str(&verifier.jwks()).expect("json");
    let header: Value = serde_json::from_slice(&B64.decode(token.split('.').next().expect("a header")).expect("base64")).expect("json");
    assert!(jwks["keys"].as_array().expect("a list").iter().any(|k| k["kid"] == header["kid"] && k["crv"] == "P-256"));
}

#[test]
fn a_kubeadm_rsa_key_signs_and_verifies() {
    // Made by `openssl genrsa 2048`; used nowhere else.
    let pem = include_str!("testdata/rsa.key");
    let tokens = ServiceAccountTokens::new(TokenConfig {
        issuer: ISSUER.into(),
        api_audiences: vec![],
        signing_key: pem.into(),
        verify_keys: vec![],
        extend_expiration: false,
        max_expiration_seconds: 0,
    })
    .expect("usable");
    let token = tokens.sign(claims());
    assert!(tokens.verify(&token, &[], 500).is_ok());
    assert!(tokens.openid_configuration("https://x/openid/v1/jwks").contains("RS256"));
}

fn world() -> Map {
    let map = Map::default();
    map.put("", "serviceaccounts", json!({ "metadata": { "name": "web", "namespace": "default" } }));
    map.put("", "nodes", json!({ "metadata": { "name": "n1" } }));
    map.put(
        "",
        "pods",
        json!({ "metadata": { "name": "p", "namespace": "default" }, "spec": { "serviceAccountName": "web", "nodeName": "n1" } }),
    );
    map
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_700_000_000).expect("a time")
}

#[test]
fn a_token_request_binds_to_pod_and_node() {
    let (tokens, map) = (tokens(), world());
    let request = json!({ "spec": { "audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } } });
    let (answer, _) = tokens.request(&map, "default", "web", request, now()).expect("issued");
    let verified =
        tokens.verify(answer["status"]["token"].as_str().expect("a token"), &["vault".into()], now().as_second()).expect("valid");
    let k = verified.claims.kubernetes;
    assert_eq!(k.pod.expect("bound").uid, "uid-p");
    assert_eq!(k.node.expect("bound").name, "n1");
    assert_eq!(verified.claims.exp, now().as_second() + 600);
    assert_eq!(answer["status"]["expirationTimestamp"], "2023-11-14T22:23:20Z");
}

#[test]
fn old_clients_get_a_year_and_a_warning_time() {
    let (tokens, map) = (tokens(), world());
    let request = json!({ "spec": { "expirationSeconds": 3607, "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } } });
    let (answer, _) = tokens.request(&map, "default", "web", request, now()).expect("issued");
    let verified = tokens.verify(answer["status"]["token"].as_str().expect("a token"), &[], now().as_second()).expect("valid");
    assert_eq!(verified.claims.exp, now().as_second() + 365 * 24 * 3600);
    assert_eq!(verified.claims.kubernetes.warnafter, Some(now().as_second() + 3607));
}

#[test]
fn requests_that_make_no_sense_are_refused_as_upstream() {
    let (tokens, map) = (tokens(), world());
    map.put("", "serviceaccounts", json!({ "metadata": { "name": "other", "namespace": "default" } }));
    let bound =
        |name: &str, uid: &str| json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid } } });
    let cases = [
        ("web", json!({ "spec": { "expirationSeconds": 10 } }), 422, "may not specify a duration less than 10 minutes"),
        ("nobody", json!({}), 404, "serviceaccounts \"nobody\" not found"),
        ("web", bound("gone", ""), 404, "pods \"gone\" not found"),
        ("web", bound("p", "stale"), 409, "does not match the UID in record"),
        ("other", bound("p", ""), 400, "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name."),
    ];
    for (account, request, code, text) in cases {
        let status = tokens.request(&map, "default", account, request, now()).expect_err(text);
        assert_eq!(status.code, code, "{status}");
        assert!(status.message.contains(text), "{status}");
    }
}
