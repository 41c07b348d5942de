//! What a cluster's clients do all day, mixed: each worker makes an object, reads, changes, finds and deletes it, again and again.

use crate::api::Room;
use crate::connect::Call;
use crate::load::{self, Until};
use crate::objects::Subject;
use crate::table::Table;
use anyhow::Context;
use bytes::Bytes;
use http::Method;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One request of an object's life.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Get,
    Find,
    Update,
    Patch,
    Apply,
    Delete,
}

/// An object's life: half of the requests read.
const LIFE: [Step; 12] = [
    Step::Create,
    Step::Get,
    Step::Find,
    Step::Update,
    Step::Get,
    Step::Patch,
    Step::Get,
    Step::Apply,
    Step::Get,
    Step::Patch,
    Step::Get,
    Step::Delete,
];

/// Where a worker is: how many requests it has made, and what the last write answered.
#[derive(Default)]
struct Worker {
    step: AtomicUsize,
    last: Mutex<Bytes>,
}

/// Measures with so many workers.
pub(crate) async fn measure(room: &Room, rows: &Table, workers: usize, time: Duration) -> anyhow::Result<()> {
    let states: Arc<Vec<Worker>> = Arc::new((0..workers).map(|_| Worker::default()).collect());
    let operation = {
        let room = room.clone();
        move |worker: usize, _| {
            let (room, states) = (room.clone(), states.clone());
            async move {
                let state = &states[worker];
                let number = state.step.fetch_add(1, Ordering::Relaxed);
                let (step, life) = (LIFE[number % LIFE.len()], number / LIFE.len());
                let read = state.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let call = request(&room.namespace, step, &format!("churn-{worker}-{life}"), &read, number)?;
                let answer = room.server.ok(worker, call).await?;
                let len = answer.len();
                if matches!(step, Step::Create | Step::Get) {
                    *state.last.lock().unwrap_or_else(PoisonError::into_inner) = answer;
                }
                Ok(len)
            }
        }
    };
    load::run(workers, Until::Elapsed(time), &room.meter, operation).await.show(rows, "churn, mixed (half reads)", workers);
    Ok(())
}

fn request(namespace: &str, step: Step, name: &str, read: &Bytes, mark: usize) -> anyhow::Result<Call> {
    let subject = Subject::ConfigMap;
    let collection = subject.path(namespace);
    let object = format!("{collection}/{name}");
    Ok(match step {
        Step::Create => Call::new(Method::POST, collection, subject.body(namespace, name, "", mark)),
        Step::Get => Call::get(object),
        Step::Find => Call::get(format!("{collection}?labelSelector=mark%3Dm{}", mark - 2)),
        Step::Update => {
            let body = subject.changed(namespace, name, read, mark).context("an answer without resourceVersion")?;
            Call::new(Method::PUT, object, body)
        }
        Step::Patch => Call { content_type: "application/merge-patch+json", ..Call::new(Method::PATCH, object, subject.patch(mark)) },
        Step::Apply => {
            let body = subject.body(namespace, name, "", mark);
            let path = object + "?fieldManager=ferrokube-bench&force=true";
            Call { content_type: "application/apply-patch+yaml", ..Call::new(Method::PATCH, path, body) }
        }
        Step::Delete => Call::new(Method::DELETE, object, Bytes::new()),
    })
}
