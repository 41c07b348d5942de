//! A load that the controllers can measure, and what they make of it: which process has read what and when, and which size it
//! asked for. It works when nothing else does, so that what was read is known. And when controllers asked for the end of a pod,
//! which may come to pass much later.

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use ferrokube_client::{Transport, TransportError};
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::BoxStream;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// Where the load is read.
const LOAD: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/load";

/// What a process did.
#[derive(Clone, Debug)]
pub struct Act {
    pub process: usize,
    pub at: Instant,
    /// The load that it read, or the size that it asked for.
    pub number: u64,
    /// Of a size: the revision of the object that was to get it, as it was known.
    pub revision: String,
}

#[derive(Default)]
pub struct Meter {
    pub load: AtomicU64,
    pub reads: Mutex<Vec<Act>>,
    pub scales: Mutex<Vec<Act>>,
    /// UIDs of pods that were to be deleted, and since when.
    pub deletions: Mutex<Vec<(String, Instant)>>,
}

impl Meter {
    /// Whether a controller had asked for the end of a pod by then.
    pub fn is_unwanted(&self, uid: &str, by: Instant) -> bool {
        self.deletions.lock().iter().any(|(pod, at)| pod == uid && *at <= by)
    }
}

/// A transport on which the load can be read.
pub struct Metered {
    pub inner: Arc<dyn Transport>,
    pub meter: Arc<Meter>,
    pub process: usize,
}

impl Transport for Metered {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let path = request.uri().path();
        let act = |number, revision: &Value| Act {
            process: self.process,
            at: Instant::now(),
            number,
            revision: revision.as_str().unwrap_or_default().to_owned(),
        };
        if path == LOAD {
            let load = self.meter.load.load(Ordering::Relaxed);
            self.meter.reads.lock().push(act(load, &Value::Null));
            let item = json!({"metricName": "load", "timestamp": "2026-01-01T00:00:00Z", "value": load.to_string()});
            let list = json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "items": [item]});
            return ready(Ok(Response::new(Bytes::from(list.to_string())))).boxed();
        }
        if path.ends_with("/scale") && *request.method() == Method::PUT {
            let wanted: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let size = wanted["spec"]["replicas"].as_u64().unwrap_or(0);
            self.meter.scales.lock().push(act(size, &wanted["metadata"]["resourceVersion"]));
        }
        if path.contains("/pods/") && *request.method() == Method::DELETE {
            let options: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let uid = options["preconditions"]["uid"].as_str().unwrap_or_default();
            self.meter.deletions.lock().push((uid.to_owned(), Instant::now()));
        }
        self.inner.send(request)
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        self.inner.subscribe(selection)
    }
}
