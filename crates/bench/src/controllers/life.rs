//! A Deployment through its life: made, rolled, scaled down, deleted.

use super::requests::Requests;
use super::{NAMESPACE, Room};
use crate::connect::Call;
use crate::table::{self, Table};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Instant;

const NAME: &str = "life";

/// What every pod of the measurement is.
pub(super) fn pod(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "registry.invalid/pause",
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}}]}})
}

/// A Deployment of such pods.
pub(super) fn deployment(name: &str, replicas: usize) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod(&labels)}})
}

fn collection() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

fn patch(body: &Value) -> Call {
    let call = Call::new(Method::PATCH, format!("{}/{NAME}", collection()), body.to_string());
    Call { content_type: "application/merge-patch+json", ..call }
}

/// Measures, and leaves nothing.
pub(super) async fn measure(room: &Room, replicas: usize) -> anyhow::Result<()> {
    let rows = Table::new(&["a Deployment on hollow nodes", "time", "pods/s", "requests", "CPU", "which"]);
    let fewer = replicas / 10;
    let made = Call::new(Method::POST, collection(), deployment(NAME, replicas).to_string());
    phase(room, &rows, &format!("{replicas} replicas made"), replicas, made, async |room| is(room, replicas).await).await?;
    let roll = patch(&json!({"spec": {"template": {"metadata": {"annotations": {"rolled": "yes"}}}}}));
    phase(room, &rows, "rolled (25 % surge, 25 % unavailable)", replicas, roll, async |room| is(room, replicas).await).await?;
    let scaled = patch(&json!({"spec": {"replicas": fewer}}));
    phase(room, &rows, &format!("scaled to {fewer}"), replicas - fewer, scaled, async |room| {
        Ok(is(room, fewer).await? && pods(room).await? == fewer)
    })
    .await?;
    let deleted = Call::new(
        Method::DELETE,
        format!("{}/{NAME}", collection()),
        r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#,
    );
    phase(room, &rows, "deleted, to the last pod", fewer, deleted, async |room| Ok(pods(room).await? == 0)).await
}

async fn phase(
    room: &Room,
    rows: &Table,
    name: &str,
    count: usize,
    call: Call,
    done: impl AsyncFn(&Room) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let (requests, usage) = (Requests::read(&room.server).await?, room.meter.read());
    let began = Instant::now();
    room.server.ok(0, call).await?;
    let mut looks = 0;
    room.until(name, async |room| {
        looks += 1;
        Ok(done(room).await?.then_some(()))
    })
    .await?;
    let elapsed = began.elapsed();
    let cpu = usage.zip(room.meter.read()).map(|(a, b)| b.cpu.saturating_sub(a.cpu));
    let requests = Requests::read(&room.server).await?.since(&requests);
    rows.row(vec![
        name.to_owned(),
        table::time(elapsed),
        table::rate(count, elapsed),
        requests.total().to_string(),
        table::known(cpu.map(table::time)),
        format!("{} ({looks} looks of ours among them)", requests.spoken()),
    ]);
    Ok(())
}

/// Whether all replicas are there, of the newest template, available, and no others.
async fn is(room: &Room, replicas: usize) -> anyhow::Result<bool> {
    let found: Value = serde_json::from_slice(&room.server.ok(0, Call::get(format!("{}/{NAME}", collection()))).await?)?;
    let status = &found["status"];
    let all = |field: &str| status[field].as_u64().unwrap_or(0) == replicas as u64;
    let seen = status["observedGeneration"] == found["metadata"]["generation"];
    Ok(seen && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].into_iter().all(all))
}

/// Pods that are there.
async fn pods(room: &Room) -> anyhow::Result<usize> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?limit=1&resourceVersion=");
    let (status, body) = room.server.call(0, Call::get(path)).await?;
    if status == StatusCode::NOT_FOUND {
        return Ok(0);
    }
    let list: Value = serde_json::from_slice(&body)?;
    let first = list["items"].as_array().map_or(0, Vec::len);
    Ok(first + list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize)
}
