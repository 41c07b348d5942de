use super::*;
use bytes::Bytes;
use ferrokube_client::{Change, Transport, TransportError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Objects by path: enough of an API server to get, apply and delete them.
#[derive(Default)]
struct Objects {
    all: Mutex<BTreeMap<String, Value>>,
    writes: Mutex<usize>,
}

impl Objects {
    fn answer(&self, request: &Request<Bytes>) -> (u16, Value) {
        let (path, mut all) = (request.uri().path().to_owned(), self.all.lock());
        if *request.method() != Method::GET {
            *self.writes.lock() += 1;
        }
        let found = match *request.method() {
            Method::PATCH => {
                let mut object: Value = serde_json::from_slice(request.body()).expect("JSON");
                object["metadata"]["uid"] = "u".into();
                all.insert(path, object.clone());
                Some(object)
            }
            Method::DELETE => all.remove(&path),
            _ => all.get(&path).cloned(),
        };
        found.map_or((404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})), |object| (200, object))
    }

    fn writes(&self) -> usize {
        std::mem::take(&mut *self.writes.lock())
    }

    fn put(&self, target: &Target, object: Value) {
        self.all.lock().insert(target.path(), object);
    }

    fn get(&self, target: &Target) -> Option<Value> {
        self.all.lock().get(&target.path()).cloned()
    }
}

impl Transport for Objects {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, std::result::Result<Response<Bytes>, TransportError>> {
        let (code, value) = self.answer(&request);
        let answer = Response::builder().status(code).body(Bytes::from(value.to_string()));
        async move { answer.map_err(TransportError::new) }.boxed()
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        stream::pending().boxed()
    }
}

fn registration(port: u16) -> Registration {
    Registration { server: SocketAddr::from(([10, 0, 0, 7], port)), certificate: "PEM".into(), node_name: "n1".into() }
}

#[tokio::test]
async fn the_objects_are_written_at_the_start_and_then_only_put_back() {
    let objects = Arc::new(Objects::default());
    let client = Client::new(objects.clone(), "test");
    assert_eq!(ensure(&client, &registration(4000), Over::Anything).await.expect("written"), None);
    assert_eq!(objects.writes(), 3);
    let slice = objects.get(&slice_target()).expect("a slice");
    assert_eq!((&slice["ports"][0]["port"], &slice["endpoints"][0]["addresses"]), (&json!(4000), &json!(["10.0.0.7"])));
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(objects.get(&api_service_target()).expect("an APIService")["spec"]["caBundle"], "UEVN");

    // Nothing to do; then another server of the cluster has taken over; then somebody removed one of them.
    ensure(&client, &registration(4000), Over::Anything).await.expect("the same");
    ensure(&client, &registration(5000), Over::Nothing).await.expect("left");
    assert_eq!(objects.writes(), 0);
    objects.all.lock().remove(&api_service_target().path());
    ensure(&client, &registration(4000), Over::Nothing).await.expect("put back");
    assert_eq!(objects.writes(), 1);
    // The next start has another port.
    ensure(&client, &registration(5000), Over::Anything).await.expect("written");
    assert_eq!((objects.writes(), objects.get(&slice_target()).expect("a slice")["ports"][0]["port"].clone()), (1, json!(5000)));

    withdraw(&client).await.expect("taken back");
    assert!(objects.all.lock().is_empty());
    withdraw(&client).await.expect("nothing to take back");
}

#[tokio::test]
async fn what_somebody_else_made_is_left_alone() {
    let theirs = json!({"metadata": {"name": "x", "labels": {"k8s-app": "metrics-server"}}, "spec": {}});
    let mut with_selector = service();
    with_selector["spec"]["selector"] = json!({"k8s-app": "metrics-server"});
    for (target, object) in [(api_service_target(), theirs.clone()), (service_target(), theirs), (service_target(), with_selector)] {
        let objects = Arc::new(Objects::default());
        objects.put(&target, object.clone());
        let client = Client::new(objects.clone(), "test");
        let other = ensure(&client, &registration(4000), Over::Anything).await.expect("looked");
        assert!(other.is_some_and(|what| what.contains("Service")));
        withdraw(&client).await.expect("looked");
        assert_eq!((objects.writes(), objects.get(&target)), (0, Some(object)));
    }
}

#[test]
fn what_the_server_adds_does_not_make_an_object_another_one() {
    let want = json!({"a": {"b": [{"c": 1}]}});
    assert!(says(&json!({"a": {"b": [{"c": 1, "d": 2}], "e": 3}}), &want));
    for other in [json!({"a": {"b": [{"c": 2}]}}), json!({"a": {"b": [{"c": 1}, {}]}}), json!({"a": {}}), json!(null)] {
        assert!(!says(&other, &want), "{other}");
    }
}
