use super::*;
use crate::objects::testing::Map;
use futures_util::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};

fn identity() -> Identity {
    Identity::new("node-1", "192.0.2.7:6443".parse().expect("an address"))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn lease(namespace: &str, name: &str, label: &str, spec: &Value) -> Value {
    json!({ "metadata": { "name": name, "namespace": namespace, "labels": { IDENTITY: label } }, "spec": spec })
}

#[test]
fn the_name_is_made_from_the_host_as_upstream_makes_it() {
    assert_eq!(identity().id, "apiserver-lgabes5ywnaqeagh5dny4zlzs4");
    assert_eq!(Identity::new("kind-control-plane", identity().address).id, "apiserver-c7uylvfxlbqccnk6myfkwetzze");
    let known = [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foob", "mzxw6yq"), ("fooba", "mzxw6ytb")];
    known.into_iter().for_each(|(plain, encoded)| assert_eq!(base32(plain.as_bytes()), encoded));
}

#[test]
fn a_new_lease_says_who_and_where_and_one_that_is_there_keeps_what_others_put_into_it() {
    let fresh = identity().renewed(None, at("2026-01-02T03:04:05Z"));
    let holder = fresh["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(holder.starts_with("apiserver-lgabes5ywnaqeagh5dny4zlzs4_"), "{holder}");
    assert_eq!(fresh["metadata"]["labels"], json!({ IDENTITY: "kube-apiserver", "kubernetes.io/hostname": "node-1" }));
    assert_eq!(fresh["metadata"]["annotations"], json!({ "kubernetes.io/peer-advertise-address": "192.0.2.7:6443" }));
    assert_eq!(fresh["spec"]["leaseDurationSeconds"], 3600);
    assert_eq!(fresh["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");

    let mut old = fresh.clone();
    old["metadata"]["labels"] = json!({ "mine": "yes", "kubernetes.io/hostname": "other" });
    old["metadata"].as_object_mut().expect("an object").remove("annotations");
    old["spec"]["leaseDurationSeconds"] = json!(5);
    let renewed = identity().renewed(Some(old), at("2026-01-02T04:00:00Z"));
    assert_eq!(renewed["metadata"]["labels"]["mine"], "yes");
    assert_eq!(renewed["metadata"]["labels"][HOSTNAME], "node-1");
    assert_eq!((&renewed["spec"]["holderIdentity"], &renewed["spec"]["leaseDurationSeconds"]), (&json!(holder), &json!(3600)));
    assert_eq!(renewed["spec"]["renewTime"], "2026-01-02T04:00:00.000000Z");
}

#[tokio::test]
async fn only_leases_of_servers_that_are_gone_are_removed() {
    let spec = |renewed: &str| json!({ "renewTime": renewed, "leaseDurationSeconds": 3600 });
    let (gone, alive) = (spec("2026-01-02T10:59:59.999999Z"), spec("2026-01-02T11:00:00.000000Z"));
    let map = Map::default();
    for (name, namespace, label, spec) in [
        ("gone", NAMESPACE, COMPONENT, &gone),
        ("without-a-duration", NAMESPACE, COMPONENT, &json!({ "renewTime": "2026-01-02T11:00:00.000000Z" })),
        ("never-renewed", NAMESPACE, COMPONENT, &json!({ "leaseDurationSeconds": 3600 })),
        ("own", NAMESPACE, COMPONENT, &gone),
        ("alive", NAMESPACE, COMPONENT, &alive),
        ("of-something-else", NAMESPACE, "other", &gone),
        ("elsewhere", "default", COMPONENT, &gone),
    ] {
        map.put(GROUP, RESOURCE, lease(namespace, name, label, spec));
    }
    collect(&map, &map, "own", || at("2026-01-02T12:00:00Z")).await;
    let left: Vec<_> = map.list(GROUP, RESOURCE, "").iter().map(|lease| lease.key.name.to_string()).collect();
    assert_eq!(left, ["elsewhere", "alive", "of-something-else", "own"]);
}

/// Answers the first writes with a refusal.
struct Refusing {
    map: Map,
    left: AtomicUsize,
    with: fn() -> Status,
}

impl Refusing {
    fn new(times: usize, with: fn() -> Status) -> Self {
        Refusing { map: Map::default(), left: AtomicUsize::new(times), with }
    }

    fn refuses(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Loopback for Refusing {
    fn create(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        if self.refuses() { Box::pin(std::future::ready(Err((self.with)()))) } else { self.map.create(target, object) }
    }

    fn update(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        self.create(target, object)
    }

    fn delete(&self, target: Target) -> BoxFuture<'_, Result<(), Status>> {
        self.map.delete(target)
    }
}

fn overtaken_by_another() -> Status {
    Status::conflict(GROUP, RESOURCE, "x", "the object has been modified")
}

#[tokio::test]
async fn who_was_overtaken_goes_on_from_what_is_there_now() {
    let own = Refusing::new(1, overtaken_by_another);
    let stored = identity().renewed(None, at("2026-01-02T03:04:05Z"));
    let mut stale = stored.clone();
    stale["metadata"]["labels"]["stale"] = json!("yes");
    own.map.put(GROUP, RESOURCE, stored);
    let written = renew(&own.map, &own, &identity(), Some(stale.clone())).await.expect("renewed");
    assert_eq!(written["metadata"]["labels"]["stale"], Value::Null, "{written}");

    let own = Refusing::new(1, || Status::not_found(GROUP, RESOURCE, "x"));
    let written = renew(&own.map, &own, &identity(), Some(stale)).await.expect("made again");
    assert_eq!(written["metadata"]["labels"]["stale"], Value::Null, "a new one: {written}");

    let own = Refusing::new(ATTEMPTS, overtaken_by_another);
    renew(&own.map, &own, &identity(), None).await.expect_err("not for ever at once");
    let own = Refusing::new(1, || Status::forbidden(GROUP, RESOURCE, "x", "no"));
    renew(&own.map, &own, &identity(), None).await.expect_err("that would not help");
    assert_eq!(own.map.writes.read().len(), 0);
}
