//! Authentication and authorization by others: issuers of OpenID, token webhooks, authorization webhooks; and their
//! configuration files, which may change while the server runs.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use common::hook::Hook;
use common::pki::Pki;
use common::{Cluster, Reply, reply};
use ferrokube_apiserver::authn::TokenWebhookConfig;
use ferrokube_apiserver::authz::{AuthzConfig, AuthzWebhookConfig};
use ferrokube_apiserver::{ConfigFile, UserInfo};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NOW: Option<Duration> = Some(Duration::from_millis(20));

/// What a TokenReview says of a token.
async fn review(cluster: &Cluster, token: &str) -> Value {
    let review = json!({"spec": {"token": token}});
    cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.json["status"].clone()
}

async fn get_as(cluster: &Cluster, user: &str, uri: &str) -> Reply {
    let user = UserInfo::component(user, &[]);
    reply(cluster.send(user, "GET", uri, "", "application/json", Vec::new()).await).await
}

fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// An issuer's key.
struct Signer(EcdsaKeyPair, String);

impl Signer {
    fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Signer(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap(), id.to_owned())
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": self.1, "use": "sig", "alg": "ES256", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..])})
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.1});
        let message = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", B64.encode(signature.as_ref()))
    }
}

#[tokio::test]
async fn tokens_of_an_issuer_are_believed_as_far_as_its_keys_and_the_configuration_go() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make().unwrap();
    let (old, new) = (Arc::new(Signer::new("one")), Arc::new(Signer::new("two")));
    let keys = Arc::new(parking_lot::Mutex::new(vec![old.jwk(), json!({"kty": "OKP", "kid": "other"})]));
    let (served, address) = (keys.clone(), Arc::new(parking_lot::Mutex::new(String::new())));
    let own = address.clone();
    let issuer = Hook::start_tls(&pki.server, move |path, _| {
        let url = own.lock().clone();
        match path {
            "/.well-known/openid-configuration" => (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
            "/keys" => (200, json!({"keys": *served.lock()})),
            _ => (404, Value::Null),
        }
    })
    .await;
    let url = format!("https://localhost:{}", issuer.address.port());
    address.lock().clone_from(&url);
    let path = folder.path().join("authn.yaml");
    let configure = |prefix: &str| {
        let ca = pki.ca.lines().map(|l| format!("      {l}\n")).collect::<String>();
        replace(
            &path,
            &format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {url}\n    audiences: [cluster]\n    certificateAuthority: |\n{ca}  claimValidationRules: [{{claim: hd, requiredValue: example.com}}]\n  claimMappings:\n    username: {{claim: sub, prefix: '{prefix}'}}\n    groups: {{expression: \"claims.groups.map(g, 'oidc:' + g)\"}}\n  userValidationRules: [{{expression: \"!user.username.contains('system:')\", message: reserved}}]\nanonymous: {{enabled: false}}\n"
            ),
        );
    };
    configure("a:");
    let file = ConfigFile { path: path.clone(), reload: NOW };
    let cluster = Cluster::with(|config| config.authn.file = Some(file)).await;
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({"iss": url, "aud": "cluster", "sub": "jane", "groups": ["dev"], "hd": "example.com", "exp": now + 600});
    let status = review(&cluster, &old.token(&claims)).await;
    assert_eq!((&status["authenticated"], &status["user"]["username"]), (&json!(true), &json!("a:jane")), "{status}");
    assert_eq!(status["user"]["groups"], json!(["oidc:dev", "system:authenticated"]));

    let with = |change: Value| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    };
    for wrong in [
        json!({"exp": now - 1}),
        json!({"aud": ["other"]}),
        json!({"hd": "example.org"}),
        json!({"nbf": now + 900}),
        json!({"sub": 1}),
        json!({"sub": "system:x"}),
        json!({"groups": 7}),
    ] {
        let status = review(&cluster, &old.token(&with(wrong.clone()))).await;
        assert!(status["authenticated"].is_null() && status["error"].is_string(), "{wrong}: {status}");
    }
    let forged = Signer::new("one").token(&claims);
    assert!(review(&cluster, &forged).await["authenticated"].is_null(), "another key under the same name");

    keys.lock().push(new.jwk());
    let fresh = new.token(&with(json!({"sub": "joe"})));
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while review(&cluster, &fresh).await["authenticated"] != true {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("a key that appears later is found");

    configure("b:");
    let later = old.token(&with(json!({"sub": "jim"})));
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while review(&cluster, &later).await["user"]["username"] != "b:jim" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the new configuration counts");
}

/// A token signed with P-521, and the key to check it with.
fn es512(claims: &Value) -> (String, Value) {
    use p521::ecdsa::signature::Signer as _;
    let key = p521::ecdsa::SigningKey::from_slice(&[1; 66]).unwrap();
    let message = format!("{}.{}", B64.encode(json!({"alg": "ES512", "kid": "large"}).to_string()), B64.encode(claims.to_string()));
    let signature: p521::ecdsa::Signature = key.sign(message.as_bytes());
    let point = p521::ecdsa::VerifyingKey::from(&key).to_encoded_point(false);
    let (x, y) = (B64.encode(point.x().unwrap()), B64.encode(point.y().unwrap()));
    let jwk = json!({"kty": "EC", "crv": "P-521", "kid": "large", "use": "sig", "alg": "ES512", "x": x, "y": y});
    (format!("{message}.{}", B64.encode(signature.to_bytes())), jwk)
}

#[tokio::test]
async fn groups_that_a_token_does_not_hold_are_had_from_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make().unwrap();
    let signer = Arc::new(Signer::new("one"));
    // The same server is the issuer, another issuer below `/other`, and the one who knows the groups.
    let known = Arc::new(parking_lot::Mutex::new((String::new(), String::new(), vec![signer.jwk()])));
    let (own, other) = (known.clone(), signer.clone());
    let issuer = Hook::start_tls(&pki.server, move |path, _| {
        let (url, groups, keys) = own.lock().clone();
        match path {
            "/.well-known/openid-configuration" => (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
            "/other/.well-known/openid-configuration" => {
                (200, json!({"issuer": format!("{url}/other"), "jwks_uri": format!("{url}/other/keys")}))
            }
            "/keys" => (200, json!({"keys": keys})),
            "/other/keys" => (200, json!({"keys": [other.jwk()]})),
            "/groups" => (200, json!(groups)),
            _ => (404, Value::Null),
        }
    })
    .await;
    let url = format!("https://localhost:{}", issuer.address.port());
    let now = jiff::Timestamp::now().as_second();
    let theirs = json!({"iss": format!("{url}/other"), "aud": "cluster", "groups": ["far"], "exp": now + 600});
    let claims = json!({"iss": url, "aud": "cluster", "sub": "jane", "exp": now + 600,
        "_claim_names": {"groups": "src"}, "_claim_sources": {"src": {"endpoint": format!("{url}/groups"), "access_token": "t"}}});
    let (large, jwk) = es512(&json!({"iss": url, "aud": "cluster", "sub": "joe", "groups": ["near"], "exp": now + 600}));
    *known.lock() = (url.clone(), signer.token(&theirs), vec![signer.jwk(), jwk]);
    let ca = pki.ca.lines().map(|l| format!("      {l}\n")).collect::<String>();
    let path = folder.path().join("authn.yaml");
    replace(
        &path,
        &format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {url}\n    audiences: [cluster]\n    certificateAuthority: |\n{ca}  claimMappings:\n    username: {{claim: sub, prefix: 'u:'}}\n    groups: {{claim: groups, prefix: 'g:'}}\n"
        ),
    );
    let cluster = Cluster::with(|config| config.authn.file = Some(ConfigFile { path, reload: None })).await;
    // Issuers are discovered in the background.
    let accepted = async |token: &str| {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let status = review(&cluster, token).await;
                if status["authenticated"] == true {
                    return status["user"].clone();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        waited.await.expect("the token is accepted")
    };
    assert_eq!(accepted(&signer.token(&claims)).await["groups"], json!(["g:far", "system:authenticated"]));
    let joe = accepted(&large).await;
    assert_eq!((&joe["username"], &joe["groups"]), (&json!("u:joe"), &json!(["g:near", "system:authenticated"])), "{joe}");
    let (head, signature) = large.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", B64.encode(vec![1; B64.decode(signature).unwrap().len()]));
    assert!(review(&cluster, &forged).await["authenticated"].is_null(), "another signature");

    // What the source says is believed only as its issuer signed it, and for this audience.
    let wrong = json!({"iss": format!("{url}/other"), "aud": "elsewhere", "groups": ["far"], "exp": now + 600});
    known.lock().1 = signer.token(&wrong);
    let mut later = claims.clone();
    later["sub"] = json!("jim");
    let status = review(&cluster, &signer.token(&later)).await;
    assert!(status["authenticated"].is_null(), "{status}");
    known.lock().1 = Signer::new("one").token(&theirs);
    assert!(review(&cluster, &signer.token(&later)).await["authenticated"].is_null(), "signed by another key");
}

#[tokio::test]
async fn a_token_webhook_is_asked_once_per_token() {
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::start(|_, asked| match asked["spec"]["token"].as_str() {
        Some("good") => (
            200,
            json!({"status": {"authenticated": true, "user": {"username": "remote", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}}}),
        ),
        Some("broken") => (400, json!({})),
        _ => (200, json!({"status": {"authenticated": false, "error": "who?"}})),
    })
    .await;
    let webhook = TokenWebhookConfig { kubeconfig: hook.kubeconfig(folder.path()), version: "v1".into(), cache: Duration::from_secs(60) };
    let cluster = Cluster::with(|config| config.authn.webhook = Some(webhook)).await;
    for _ in 0..2 {
        let status = review(&cluster, "good").await;
        assert_eq!(
            status["user"],
            json!({"username": "remote", "uid": "7", "groups": ["g", "system:authenticated"], "extra": {"k": ["v"]}})
        );
        assert!(review(&cluster, "bad").await["error"].as_str().unwrap().contains("who?"));
    }
    assert_eq!(hook.seen().len(), 2, "answers are remembered, refusals too");
    assert_eq!(hook.seen()[0]["spec"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    for _ in 0..2 {
        assert!(review(&cluster, "broken").await["authenticated"].is_null());
    }
    assert_eq!(hook.seen().len(), 4, "failures are not");
}

#[tokio::test]
async fn an_authorization_webhook_has_its_say_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::start(|_, asked| {
        let spec = &asked["spec"];
        match (spec["user"].as_str(), spec["resourceAttributes"]["resource"].as_str()) {
            (Some("jane"), Some("configmaps")) => (200, json!({"status": {"allowed": true, "reason": "because"}})),
            (Some("mallory"), _) => (200, json!({"status": {"allowed": false, "denied": true, "reason": "never"}})),
            (Some("both"), _) => (200, json!({"status": {"allowed": true, "denied": true}})),
            _ => (200, json!({"status": {"allowed": false}})),
        }
    })
    .await;
    let authz = AuthzConfig {
        modes: ["Webhook", "Node", "RBAC"].map(str::to_owned).to_vec(),
        webhook: Some(AuthzWebhookConfig {
            kubeconfig: hook.kubeconfig(folder.path()),
            version: "v1".into(),
            authorized_ttl: Duration::from_secs(60),
            unauthorized_ttl: Duration::ZERO,
        }),
        ..AuthzConfig::default()
    };
    let cluster = Cluster::with(|config| config.authz = authz).await;
    let maps = "/api/v1/namespaces/default/configmaps?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx";
    let asked_of_jane = || hook.seen().into_iter().filter(|q| q["spec"]["user"] == "jane").collect::<Vec<_>>();
    assert_eq!(get_as(&cluster, "jane", maps).await.code, 200);
    assert_eq!(get_as(&cluster, "jane", maps).await.code, 200);
    let asked = asked_of_jane();
    assert_eq!(asked.len(), 1, "a yes is remembered");
    assert_eq!((&asked[0]["kind"], &asked[0]["apiVersion"]), (&json!("SubjectAccessReview"), &json!("authorization.k8s.io/v1")));
    let wanted = json!({
        "namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps", "name": "x",
        "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]},
        "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]},
    });
    assert_eq!(asked[0]["spec"]["resourceAttributes"], wanted);
    assert_eq!(get_as(&cluster, "jane", "/api/v1/namespaces/default/secrets").await.code, 403);
    assert_eq!(get_as(&cluster, "jane", "/api").await.code, 200, "what it has no opinion on, RBAC may allow");

    let binding = json!({
        "metadata": {"name": "m"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}, {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "both"}],
    });
    assert_eq!(cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.code, 201);
    assert_eq!(get_as(&cluster, "mallory", "/api/v1/pods").await.code, 403, "its no counts, whatever RBAC says");
    assert_eq!(get_as(&cluster, "both", "/api/v1/pods").await.code, 200, "nonsense is no opinion");
    let review = json!({"spec": {"user": "mallory", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let status = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.json["status"].clone();
    assert_eq!(status, json!({"allowed": false, "denied": true, "reason": "never"}));
}

#[tokio::test]
async fn expressions_and_plugins_of_admission_ask_authorization_webhooks_too() {
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::start(|_, asked| {
        let (spec, resource) = (&asked["spec"], &asked["spec"]["resourceAttributes"]);
        let allowed = match (spec["user"].as_str(), resource["verb"].as_str()) {
            (Some("jane"), Some("create")) => true,
            (Some("jane"), Some("paint")) => resource["name"] == "green",
            (Some("jane"), Some("mix")) => true,
            (Some("jane"), Some("delete")) => resource["name"] == "mine",
            (Some("jane"), Some("patch" | "get")) => true,
            _ => false,
        };
        (200, json!({"status": {"allowed": allowed}}))
    })
    .await;
    let authz = AuthzConfig {
        modes: ["Webhook", "RBAC"].map(str::to_owned).to_vec(),
        webhook: Some(AuthzWebhookConfig {
            kubeconfig: hook.kubeconfig(folder.path()),
            version: "v1".into(),
            authorized_ttl: Duration::ZERO,
            unauthorized_ttl: Duration::ZERO,
        }),
        ..AuthzConfig::default()
    };
    let cluster = Cluster::with(|config| {
        config.authz = authz;
        config.admission.enable = vec!["OwnerReferencesPermissionEnforcement".into()];
    })
    .await;
    let registration = "/apis/admissionregistration.k8s.io/v1";
    // The second question is only asked when the first was answered by yes.
    let may = "authorizer.group('').resource('colours').name(object.metadata.name).check('paint').allowed() && authorizer.group('').resource('colours').check('mix').allowed()";
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "matchConditions": [{"name": "jane", "expression": "request.userInfo.username == 'jane' && object.metadata.name != 'mine'"}],
        "validations": [{"expression": may, "message": "not your colour"}]});
    let made =
        cluster.post(&format!("{registration}/validatingadmissionpolicies"), &json!({"metadata": {"name": "p"}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    assert_eq!(cluster.post(&format!("{registration}/validatingadmissionpolicybindings"), &binding).await.code, 201);
    let maps = "/api/v1/namespaces/default/configmaps";
    let make = async |name: &str| {
        let (user, map) = (UserInfo::component("jane", &[]), json!({"metadata": {"name": name}}));
        reply(cluster.send(user, "POST", maps, "", "application/json", serde_json::to_vec(&map).unwrap()).await).await
    };
    let refused = make("red").await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().ends_with("not your colour"), "{}", refused.text);
    let made = make("green").await;
    assert_eq!(made.code, 201, "{}", made.text);
    // Who may not delete an object gives it no owner.
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1"}]}});
    let own = async |name: &str| {
        let user = UserInfo::component("jane", &[]);
        let body = serde_json::to_vec(&owner).unwrap();
        reply(cluster.send(user, "PATCH", &format!("{maps}/{name}"), "application/merge-patch+json", "application/json", body).await).await
    };
    assert_eq!(make("mine").await.code, 201);
    let owned = own("mine").await;
    assert_eq!(owned.code, 200, "{}", owned.text);
    assert_eq!(own("green").await.code, 403);
}

#[tokio::test]
async fn the_list_of_authorizers_may_change_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authz.yaml");
    let configure = |authorizers: &str| {
        replace(
            &path,
            &format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{authorizers}]\n"),
        );
    };
    configure("{type: Node, name: node}, {type: RBAC, name: rbac}");
    let file = ConfigFile { path: path.clone(), reload: NOW };
    let cluster = Cluster::with(|config| config.authz.file = Some(file)).await;
    assert_eq!(get_as(&cluster, "jane", "/api/v1/pods").await.code, 403);
    configure("{type: Nonsense, name: x}");
    configure("{type: AlwaysAllow, name: all}");
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while get_as(&cluster, "jane", "/api/v1/pods").await.code != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the new list counts");
    let metrics = cluster.get("/metrics").await.text;
    assert!(metrics.contains("apiserver_authorization_config_controller_automatic_reloads_total{status=\"success\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn the_last_use_of_a_token_in_a_secret_is_written_down() {
    let cluster = Cluster::start().await;
    let since = cluster.get("/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking").await;
    assert_eq!(since.json["data"]["since"].as_str().map(str::len), Some("2026-01-01".len()), "{}", since.text);
    let key = rcgen::KeyPair::from_pem(&cluster.pki.token_key).unwrap().serialize_der();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &SystemRandom::new()).unwrap();
    let account = cluster.get("/api/v1/namespaces/default/serviceaccounts/default").await.json;
    let token = Signer(signer, String::new()).token(&json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:default",
        "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": "old",
        "kubernetes.io/serviceaccount/service-account.name": "default",
        "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"],
    }));
    let secret = json!({"metadata": {"name": "old", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token", "data": {"token": base64::engine::general_purpose::STANDARD.encode(&token)}});
    let secrets = "/api/v1/namespaces/default/secrets";
    let made = cluster.post(secrets, &secret).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut watch = cluster.watch(&format!("{secrets}?watch=1&labelSelector=kubernetes.io%2Flegacy-token-last-used")).await;
    assert_eq!(review(&cluster, &token).await["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(watch.told().await, common::pair("ADDED", "old"));
    let invalid = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}}});
    assert_eq!(cluster.patch(&format!("{secrets}/old"), "merge-patch", &invalid).await.code, 200);
    assert_eq!(review(&cluster, &token).await.get("authenticated"), None);
}
