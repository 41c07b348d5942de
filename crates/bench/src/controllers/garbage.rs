//! Objects whose owners never were: how soon the garbage collector has them away, and what stays as it should.

use super::requests::Requests;
use super::{NAMESPACE, Room, all};
use crate::connect::Call;
use crate::table::{self, Table};
use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use std::time::Instant;

/// Makes `count` objects with broken references beside one that has an owner, and waits until only that one is left.
pub(super) async fn measure(room: &Room, count: usize) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let map = |name: &str, owner: Option<(&str, &str)>| {
        let owners = owner.map(|(name, uid)| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}]));
        let metadata = json!({"name": name, "labels": {"garbage": "yes"}, "ownerReferences": owners});
        Call::new(Method::POST, path.as_str(), json!({"metadata": metadata, "data": {"some": "thing"}}).to_string())
    };
    let owner: Value = serde_json::from_slice(&room.server.ok(0, map("owner", None)).await?)?;
    let uid = owner["metadata"]["uid"].as_str().context("a uid")?;
    room.server.ok(0, map("owned", Some(("owner", uid)))).await?;
    let requests = Requests::read(&room.server).await?;
    let began = Instant::now();
    // Half of them name nobody, half somebody else of the same name.
    let broken = (0..count).map(|i| map(&format!("garbage-{i}"), Some((if i % 2 == 0 { "owner" } else { "nobody" }, "0000"))));
    all(&room.server, broken.collect()).await?;
    let made = began.elapsed();
    let list = format!("{path}?labelSelector=garbage");
    room.until("the garbage to go", async |room| {
        let body = room.server.ok(0, Call::get(list.as_str())).await?;
        let left: Value = serde_json::from_slice(&body)?;
        let names: Vec<&str> = left["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect();
        anyhow::ensure!(["owner", "owned"].iter().all(|kept| names.contains(kept)), "what has an owner went with the garbage");
        Ok((names.len() == 2).then_some(()))
    })
    .await?;
    let elapsed = began.elapsed();
    let rows = Table::new(&["broken owner references", "objects", "made in", "gone after", "objects/s", "requests"]);
    rows.row(vec![
        "half name nobody, half another one".to_owned(),
        count.to_string(),
        table::time(made),
        table::time(elapsed),
        table::rate(count, elapsed),
        Requests::read(&room.server).await?.since(&requests).spoken(),
    ]);
    Ok(())
}
