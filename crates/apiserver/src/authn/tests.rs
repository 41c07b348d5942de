//! Credentials, one by one, and what happens without.

use super::*;
use crate::objects::testing::Map;
use crate::tokens::TokenConfig;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use http::Request;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.self_signed(&key).expect("signed").pem();
    Ca { issuer: Issuer::from_ca_cert_pem(&pem, key).expect("a CA"), pem }
}

fn peer(ca: &Ca, name: &str, group: &str) -> PeerCertificates {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), "uid-7");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&KeyPair::generate().expect("a key"), &ca.issuer).expect("signed");
    PeerCertificates::new(vec![cert.der().clone()])
}

fn authenticator(config: AuthnConfig, objects: Arc<Map>) -> Authenticator {
    authenticator_with(config, objects, KeyPair::generate().expect("a key").serialize_pem())
}

pub(super) fn authenticator_with(config: AuthnConfig, objects: Arc<Map>, signing_key: String) -> Authenticator {
    let tokens = ServiceAccountTokens::new(TokenConfig {
        issuer: "https://us".into(),
        api_audiences: vec![],
        signing_key,
        verify_keys: vec![],
        extend_expiration: true,
        max_expiration_seconds: 0,
    });
    Authenticator::new(config, Arc::new(tokens.expect("usable")), objects).expect("usable")
}

pub(super) fn get(path: &str, headers: &[(&str, &str)]) -> http::request::Parts {
    let builder = headers.iter().fold(Request::get(path), |b, (k, v)| b.header(*k, *v));
    builder.body(()).expect("a request").into_parts().0
}

#[tokio::test]
async fn client_certificates_give_name_groups_and_uid() {
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    let authn = authenticator(AuthnConfig { client_ca: ours.pem.clone(), ..AuthnConfig::default() }, Arc::default());
    let parts = get("/api", &[]);
    let user = authn.authenticate(&parts, Some(&peer(&ours, "jane", "dev"))).await.expect("known");
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "uid-7"));
    assert_eq!(user.groups, ["dev", "system:authenticated"]);
    assert!(authn.authenticate(&parts, Some(&peer(&theirs, "jane", "dev"))).await.is_err());
    // A bad credential is refused even where none is needed.
    assert!(authn.authenticate(&get("/healthz", &[]), Some(&peer(&theirs, "jane", "dev"))).await.is_err());
}

#[tokio::test]
async fn nobody_sees_health_and_version_only() {
    let authn = authenticator(AuthnConfig::default(), Arc::default());
    for path in ["/healthz", "/livez", "/readyz?verbose", "/version", "/api/v1/namespaces/kube-public/configmaps/cluster-info"] {
        assert_eq!(authn.authenticate(&get(path, &[]), None).await.expect(path).name, ANONYMOUS);
    }
    for path in ["/api", "/metrics", "/", "/api/v1/namespaces/kube-public/configmaps/other"] {
        assert_eq!(authn.authenticate(&get(path, &[]), None).await.expect_err(path).code, 401);
    }
}

#[tokio::test]
async fn the_front_proxy_speaks_for_others_and_nobody_else_does() {
    let (clients, proxies) = (ca("clients"), ca("proxies"));
    let config = AuthnConfig {
        client_ca: clients.pem.clone(),
        front_proxy: Some(RequestHeaders::standard(proxies.pem.clone())),
        ..AuthnConfig::default()
    };
    let authn = authenticator(config, Arc::default());
    let parts =
        get("/api", &[("X-Remote-User", "jane"), ("X-Remote-Group", "a"), ("X-Remote-Group", "b"), ("X-Remote-Extra-Scopes%2fx", "s")]);
    let user = authn.authenticate(&parts, Some(&peer(&proxies, "front-proxy-client", "x"))).await.expect("a proxy");
    assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
    assert_eq!(user.extra["scopes/x"], ["s"]);
    let user = authn.authenticate(&parts, Some(&peer(&clients, "joe", "x"))).await.expect("a client");
    assert_eq!(user.name, "joe");
    assert!(authn.authenticate(&parts, Some(&peer(&proxies, "somebody", "x"))).await.is_err());
}

#[tokio::test]
async fn a_token_dies_with_its_pod() {
    let map = Arc::new(Map::default());
    map.put("", "serviceaccounts", json!({ "metadata": { "name": "web", "namespace": "default" } }));
    let pod = json!({ "metadata": { "name": "p", "namespace": "default" }, "spec": { "serviceAccountName": "web" } });
    map.put("", "pods", pod.clone());
    let authn = authenticator(AuthnConfig::default(), map.clone());
    let request = json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } } });
    let (answer, _) = authn.tokens().request(&*map, "default", "web", request, jiff::Timestamp::now()).expect("issued");
    let bearer = format!("Bearer {}", answer["status"]["token"].as_str().expect("a token"));
    let parts = get("/api", &[("authorization", &bearer)]);
    let user = authn.authenticate(&parts, None).await.expect("valid");
    assert_eq!(user.name, "system:serviceaccount:default:web");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    map.remove("", "pods", "default", "p");
    assert_eq!(authn.authenticate(&parts, None).await.expect_err("gone").code, 401);
    let mut again = pod;
    again["metadata"]["uid"] = json!("another");
    map.put("", "pods", again);
    assert!(authn.authenticate(&parts, None).await.is_err());
}

#[tokio::test]
async fn a_token_in_a_secret_lives_as_long_as_the_secret_holds_it() {
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let map = Arc::new(Map::default());
    map.put("", "serviceaccounts", json!({ "metadata": { "name": "web", "namespace": "default", "uid": "7" } }));
    let key = rcgen::KeyPair::generate().expect("a key");
    let tokens = ServiceAccountTokens::new(TokenConfig {
        issuer: "https://us".into(),
        api_audiences: vec![],
        signing_key: key.serialize_pem(),
        verify_keys: vec![],
        extend_expiration: false,
        max_expiration_seconds: 0,
    });
    let authn = Authenticator::new(AuthnConfig::default(), Arc::new(tokens.expect("usable")), map.clone()).expect("usable");
    let random = ring::rand::SystemRandom::new();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random).expect("a key");
    let token = |uid: &str| {
        let claims = json!({
            "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:web",
            "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": "web-token",
            "kubernetes.io/serviceaccount/service-account.name": "web", "kubernetes.io/serviceaccount/service-account.uid": uid,
        });
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = signer.sign(&random, message.as_bytes()).expect("signed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    };
    let ask = |token: &str| get("/api", &[("authorization", format!("Bearer {token}").as_str())]);
    let secret =
        |token: &str| json!({ "metadata": { "name": "web-token", "namespace": "default" }, "data": { "token": STANDARD.encode(token) } });
    let ours = token("7");
    assert!(authn.authenticate(&ask(&ours), None).await.is_err(), "no secret holds it yet");
    map.put("", "secrets", secret(&ours));
    let user = authn.authenticate(&ask(&ours), None).await.expect("valid");
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:default:web", "7"));
    let now = jiff::Timestamp::now().as_second();
    assert!(authn.review_token(&ours, &["vault".to_owned()], now).await.is_err(), "it is for the API server only");
    let used = std::collections::BTreeSet::from([("default".to_owned(), "web-token".to_owned())]);
    assert_eq!(authn.legacy_uses().take().now_or_never(), Some(used), "its use is to be written down");
    let mut labelled = secret(&ours);
    labelled["metadata"]["labels"] = json!({ "kubernetes.io/legacy-token-last-used": "9999-01-01" });
    map.put("", "secrets", labelled.clone());
    assert!(authn.authenticate(&ask(&ours), None).await.is_ok());
    assert_eq!(authn.legacy_uses().take().now_or_never(), None, "that day is written down");
    labelled["metadata"]["labels"] = json!({ "kubernetes.io/legacy-token-invalid-since": "2020-01-01" });
    map.put("", "secrets", labelled);
    assert!(authn.authenticate(&ask(&ours), None).await.is_err(), "it was marked");
    map.put("", "secrets", secret("another"));
    assert!(authn.authenticate(&ask(&ours), None).await.is_err(), "the secret holds another by now");
    let stranger = token("8");
    map.put("", "secrets", secret(&stranger));
    assert!(authn.authenticate(&ask(&stranger), None).await.is_err(), "the account is another by now");
}

#[tokio::test]
async fn websockets_may_carry_the_token_as_a_protocol() {
    let authn =
        authenticator(AuthnConfig { static_tokens: "secret,jane,1,\"dev,ops\"\n".into(), ..AuthnConfig::default() }, Arc::default());
    let protocol = format!("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode("secret"));
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", protocol.as_str())];
    let user = authn.authenticate(&get("/api", &headers), None).await.expect("known");
    assert_eq!((user.name.as_str(), user.groups.len()), ("jane", 3));
    assert!(authn.authenticate(&get("/api", &headers[2..]), None).await.is_err());
    assert!(authn.authenticate(&get("/api", &[("authorization", "Bearer wrong")]), None).await.is_err());
}

#[tokio::test]
async fn bootstrap_tokens_live_in_secrets() {
    let map = Arc::new(Map::default());
    let secret = |expiration: &str, secret: &str| {
        let data = |s: &str| STANDARD.encode(s);
        json!({
            "metadata": { "name": "bootstrap-token-abcdef", "namespace": "kube-system" }, "type": "bootstrap.kubernetes.io/token",
            "data": {
                "token-id": data("abcdef"), "token-secret": data(secret), "expiration": data(expiration),
                "usage-bootstrap-authentication": data("true"), "auth-extra-groups": data("system:bootstrappers:kubeadm:default-node-token"),
            },
        })
    };
    map.put("", "secrets", secret("2999-01-01T00:00:00Z", "0123456789abcdef"));
    let authn = authenticator(AuthnConfig { bootstrap_tokens: true, ..AuthnConfig::default() }, map.clone());
    let parts = get("/api", &[("authorization", "Bearer abcdef.0123456789abcdef")]);
    let user = authn.authenticate(&parts, None).await.expect("valid");
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]);
    map.put("", "secrets", secret("2020-01-01T00:00:00Z", "0123456789abcdef"));
    assert!(authn.authenticate(&parts, None).await.is_err());
    map.put("", "secrets", secret("2999-01-01T00:00:00Z", "fedcba9876543210"));
    assert!(authn.authenticate(&parts, None).await.is_err());
}

mod impersonating {
    //! Acting as somebody else needs a permission per part of the identity.

    use super::*;
    use crate::attributes::Attributes;
    use crate::authz::Authorizer;
    use http::HeaderMap;

    const RBAC: &str = "rbac.authorization.k8s.io";

    fn allow(map: &Map, user: &str, rules: serde_json::Value) {
        map.put(RBAC, "clusterroles", json!({ "metadata": { "name": user }, "rules": rules }));
        let subjects = json!([{ "kind": "User", "name": user }]);
        map.put(
            RBAC,
            "clusterrolebindings",
            json!({ "metadata": { "name": user }, "roleRef": { "kind": "ClusterRole", "name": user }, "subjects": subjects }),
        );
    }

    fn act(map: &Arc<Map>, user: &str, headers: &[(&'static str, &str)], verb: &str) -> Result<UserInfo, Status> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, value.parse().expect("a value"));
        }
        let requestor = UserInfo { name: user.into(), ..UserInfo::default() };
        let request = Attributes { verb: verb.into(), resource: "pods".into(), namespace: "dev".into(), ..Attributes::default() };
        let (authorizer, trail) = (Authorizer::new(map.clone()), crate::audit::Trail::default());
        let answer = impersonate(&authorizer, requestor, &all, &request, &trail);
        futures_util::FutureExt::now_or_never(answer).expect("nobody else is asked")
    }

    #[test]
    fn the_plain_verb_allows_an_identity_for_everything() {
        let map = Arc::new(Map::default());
        allow(
            &map,
            "proxy",
            json!([{ "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"], "resourceNames": ["jane", "dev"] }]),
        );
        let jane = act(&map, "proxy", &[("impersonate-user", "jane"), ("impersonate-group", "dev")], "delete").expect("allowed");
        assert_eq!((jane.name.as_str(), jane.groups), ("jane", vec!["dev".to_owned(), AUTHENTICATED.to_owned()]));
        let told = act(&map, "proxy", &[("impersonate-user", "root")], "get").expect_err("not allowed").message;
        assert_eq!(
            told,
            "users \"root\" is forbidden: User \"proxy\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
        assert!(act(&map, "proxy", &[("impersonate-user", "jane"), ("impersonate-group", "ops")], "get").is_err());
        assert!(act(&map, "proxy", &[("impersonate-user", "jane"), ("impersonate-uid", "7")], "get").is_err());
        assert_eq!(act(&map, "proxy", &[("impersonate-group", "dev")], "get").expect_err("no user").code, 500);
        assert_eq!(act(&map, "proxy", &[], "get").expect("itself").name, "proxy");
    }

    #[test]
    fn the_constrained_verbs_allow_an_identity_for_some_actions() {
        let map = Arc::new(Map::default());
        allow(
            &map,
            "viewer",
            json!([
                { "verbs": ["impersonate:serviceaccount"], "apiGroups": ["authentication.k8s.io"], "resources": ["serviceaccounts"] },
                { "verbs": ["impersonate-on:serviceaccount:get"], "apiGroups": [""], "resources": ["pods"] },
            ]),
        );
        let header = [("impersonate-user", "system:serviceaccount:dev:bot")];
        let bot = act(&map, "viewer", &header, "get").expect("allowed");
        assert_eq!(bot.groups, ["system:serviceaccounts", "system:serviceaccounts:dev", AUTHENTICATED]);
        assert!(act(&map, "viewer", &header, "delete").is_err());
    }
}
