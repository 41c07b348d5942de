//! An API server that answers by a function of the path.

use bytes::Bytes;
use ferrokube_client::{Change, Selection, Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

type Answers = dyn Fn(&str, usize) -> (u16, Value) + Send + Sync;

/// Code 0 is no answer, ever.
pub struct World {
    answers: Box<Answers>,
    asked: Mutex<Vec<String>>,
    times: Mutex<HashMap<String, usize>>,
}

impl World {
    /// `answers` gets the path and how often it was asked for, this time included.
    pub fn new(answers: impl Fn(&str, usize) -> (u16, Value) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(World { answers: Box::new(answers), asked: Mutex::default(), times: Mutex::default() })
    }

    /// What was asked for since the last time, with its query.
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Transport for World {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        self.asked.lock().push(request.uri().to_string());
        let path = request.uri().path();
        let nth = *self.times.lock().entry(path.to_owned()).and_modify(|n| *n += 1).or_insert(1);
        match (self.answers)(path, nth) {
            (0, _) => std::future::pending().boxed(),
            (code, value) => {
                let answer = Response::builder().status(code).body(Bytes::from(value.to_string()));
                async move { answer.map_err(TransportError::new) }.boxed()
            }
        }
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        stream::pending().boxed()
    }
}

/// The code and the JSON of an answer.
pub async fn body(answer: Response<Full<Bytes>>) -> (u16, Value) {
    let code = answer.status().as_u16();
    let Ok(bytes) = answer.into_body().collect().await;
    (code, serde_json::from_slice(&bytes.to_bytes()).expect("JSON"))
}
