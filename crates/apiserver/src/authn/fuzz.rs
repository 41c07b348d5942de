//! Credentials at random: nobody is anybody without having shown the whole of a credential that was given out. Long runs:
//! see `ferrokube_testkit::fuzz`.

use super::tests::{authenticator_with, get};
use super::*;
use crate::objects::testing::Map;
use crate::tokens::Signer;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ferrokube_testkit::fuzz::{Random, change, damage, run, text};
use futures_util::FutureExt;
use rcgen::KeyPair;
use serde_json::{Value, json};

const ACCOUNT: &str = "system:serviceaccount:default:web";
const BOOTSTRAP: &str = "abcdef.0123456789abcdef";

fn objects() -> Arc<Map> {
    let map = Arc::new(Map::default());
    map.put("", "serviceaccounts", json!({"metadata": {"name": "web", "namespace": "default"}}));
    map.put("", "pods", json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"serviceAccountName": "web"}}));
    let data = |s: &str| STANDARD.encode(s);
    map.put(
        "",
        "secrets",
        json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "data": {"token-id": data("abcdef"), "token-secret": data("0123456789abcdef"), "usage-bootstrap-authentication": data("true")}}),
    );
    map
}

fn claims(now: i64) -> Value {
    json!({"iss": "https://us", "sub": ACCOUNT, "aud": ["https://us"], "exp": now + 1_000_000, "iat": now, "nbf": now, "jti": "x",
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "web", "uid": "uid-web"}, "pod": {"name": "p", "uid": "uid-p"}}})
}

/// What the claims of an accepted token have to say, in the words of the documentation.
fn vouches(claims: &Value, now: i64) -> bool {
    let kubernetes = &claims["kubernetes.io"];
    let gone =
        |kind: &str| !kubernetes[kind].is_null() && (&kubernetes[kind]["name"], &kubernetes[kind]["uid"]) != (&json!("p"), &json!("uid-p"));
    let audience = claims["aud"] == "https://us" || claims["aud"].as_array().is_some_and(|a| a.contains(&json!("https://us")));
    claims["iss"] == "https://us"
        && claims["sub"] == ACCOUNT
        && audience
        && claims["exp"].as_i64().is_some_and(|end| now <= end)
        && kubernetes["namespace"] == "default"
        && kubernetes["serviceaccount"]["name"] == "web"
        && kubernetes["serviceaccount"]["uid"] == "uid-web"
        && !gone("pod")
}

/// The header that carries a token, in one of the ways that clients have and some that they should not.
fn carried(random: &mut Random, token: &str) -> Vec<(&'static str, String)> {
    let scheme = *random.one(&["Bearer ", "Bearer ", "Bearer ", "bearer ", "BEARER ", " Bearer ", "Bearer  ", "Basic ", "Bearer", ""]);
    if random.chance(75) {
        return vec![("authorization", format!("{scheme}{token}"))];
    }
    let encoded = URL_SAFE_NO_PAD.encode(token);
    let padding = *random.one(&["", "", "=", "=="]);
    let protocol = format!("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}{padding}");
    let upgrade = *random.one(&["websocket", "websocket", "h2c", "WebSocket"]);
    vec![("connection", "keep-alive, Upgrade".to_owned()), ("upgrade", upgrade.to_owned()), ("sec-websocket-protocol", protocol)]
}

#[test]
fn nobody_is_anybody_who_did_not_show_the_whole_of_a_credential() {
    let pem = KeyPair::generate().expect("a key").serialize_pem();
    let signers = [Signer::new(&pem).expect("a key"), Signer::new(&KeyPair::generate().expect("a key").serialize_pem()).expect("a key")];
    let config = AuthnConfig { static_tokens: "secret,jane,1\n".into(), bootstrap_tokens: true, ..AuthnConfig::default() };
    let authn = authenticator_with(config, objects(), pem);
    let now = jiff::Timestamp::now().as_second();
    run("tokens", 400, |random| {
        let (mut said, ours) = (claims(now), random.chance(85));
        (0..random.below(3)).for_each(|_| change(random, &mut said));
        let signed = signers[usize::from(!ours)].sign(&said);
        let whole = *random.one(&[signed.as_str(), &signed, &signed, "secret", BOOTSTRAP]);
        let mut bytes = whole.as_bytes().to_vec();
        if random.chance(40) {
            damage(random, &mut bytes);
        }
        if random.chance(5) {
            bytes = text(random).into_bytes();
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let headers = carried(random, &shown);
        if headers.iter().any(|(_, v)| http::HeaderValue::from_str(v).is_err()) {
            return;
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let parts = get("/api", &headers);
        let user = authn.authenticate(&parts, None).now_or_never().expect("nobody else is asked");
        let credential = match user.as_ref().map(|u| u.name.as_str()) {
            Ok(ACCOUNT) => {
                assert!(ours && vouches(&said, now), "{said:#}");
                signed.as_str()
            }
            Ok("jane") => "secret",
            Ok("system:bootstrap:abcdef") => BOOTSTRAP,
            Ok(other) => panic!("{other} by {headers:?}"),
            // What is whole, and carried as it should be, is known.
            Err(status) => {
                let well = ["Bearer ", "bearer "]
                    .iter()
                    .any(|scheme| parts.headers.get("authorization").is_some_and(|v| v == &format!("{scheme}{whole}")));
                assert!(!well || (whole == signed && (!ours || !vouches(&said, now) || said != claims(now))), "{headers:?} {said:#}");
                assert_eq!(status.code, 401);
                return;
            }
        };
        assert!(shown.contains(credential), "{credential} by {headers:?}");
    });
}
