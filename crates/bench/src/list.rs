//! Lists of many pods in every form that clients ask for, and their deletion at once.

use crate::api::{Room, fill};
use crate::connect::{Call, JSON};
use crate::load::{self, Until};
use crate::objects::{Subject, string_field};
use crate::table::{self, Table};
use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::time::{Duration, Instant};

/// How the same list can be asked for.
const FORMS: [(&str, &str, bool); 4] = [
    ("JSON", JSON, false),
    ("protobuf", "application/vnd.kubernetes.protobuf", false),
    ("Table", "application/json;as=Table;v=v1;g=meta.k8s.io", false),
    ("JSON gzip", JSON, true),
];

/// Selectors: how a row calls them, and how they are asked for.
const SELECTIONS: [(&str, &str); 2] =
    [("one in 100 by label", "labelSelector=mark%3Dm7"), ("one by field", "fieldSelector=metadata.name%3Do-7")];

/// Measures with `count` pods.
pub(crate) async fn measure(room: &Room, rows: &Table, count: usize, time: Duration) -> anyhow::Result<()> {
    fill(room, Subject::Pod, count).await?.show(rows, &format!("create {count} Pods to list"), 64);
    let path = Subject::Pod.path(&room.namespace);
    for (form, accept, gzip) in FORMS {
        let call = Call { accept, gzip, ..Call::get(path.as_str()) };
        let (status, _) = room.server.call(0, call.clone()).await?;
        if status == StatusCode::NOT_ACCEPTABLE {
            eprintln!("list {form}: the server does not offer it");
            continue;
        }
        repeat(room, rows, time, call, &format!("list {count} Pods, {form}")).await;
    }
    for (name, query) in SELECTIONS {
        repeat(room, rows, time, Call::get(format!("{path}?{query}")), &format!("list of {count} Pods {name}")).await;
    }
    let operation = {
        let (room, path) = (room.clone(), path.clone());
        move |_, _| {
            let (room, path) = (room.clone(), path.clone());
            async move { pages(&room, &path, count).await }
        }
    };
    load::run(1, Until::Elapsed(time), &room.meter, operation).await.show(rows, &format!("list {count} Pods, pages of 500"), 1);
    delete_all(room, rows, count).await
}

/// The same list again and again, by one and by eight.
async fn repeat(room: &Room, rows: &Table, time: Duration, call: Call, name: &str) {
    for workers in [1, 8] {
        let (server, call) = (room.server.clone(), call.clone());
        let operation = move |worker, _| {
            let (server, call) = (server.clone(), call.clone());
            async move { server.ok(worker, call).await.map(|body| body.len()) }
        };
        load::run(workers, Until::Elapsed(time), &room.meter, operation).await.show(rows, name, workers);
    }
}

/// Reads all pages; returns the bytes of all.
pub(crate) async fn pages(room: &Room, path: &str, count: usize) -> anyhow::Result<usize> {
    let (mut bytes, mut seen, mut token) = (0, 0, String::new());
    loop {
        let page = room.server.ok(0, Call::get(format!("{path}?limit=500&continue={token}"))).await?;
        bytes += page.len();
        seen += 500;
        match continuation(&page) {
            Some(next) => token = next,
            None if seen >= count => return Ok(bytes),
            None => anyhow::bail!("the list ends after {seen} objects"),
        }
    }
}

/// The continue token of a page, percent-encoded. It stands in the list's metadata, in front of the items or behind them.
fn continuation(page: &[u8]) -> Option<String> {
    let ends = [&page[..page.len().min(600)], &page[page.len().saturating_sub(600)..]];
    let token = ends.iter().find_map(|part| string_field(part, "continue"))?;
    Some(token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")).filter(|t| !t.is_empty())
}

async fn delete_all(room: &Room, rows: &Table, count: usize) -> anyhow::Result<()> {
    let before = room.meter.read();
    let at = Instant::now();
    let path = Subject::Pod.path(&room.namespace);
    room.server.ok(0, Call::new(Method::DELETE, path, Bytes::new())).await.context("deletecollection")?;
    let elapsed = at.elapsed();
    let usage = before.zip(room.meter.read());
    let mut outcome = load::Outcome { took: vec![elapsed], elapsed, ..load::Outcome::default() };
    outcome.cost = usage.map(|(a, b)| crate::process::Usage { cpu: b.cpu.saturating_sub(a.cpu), ..b });
    outcome.show(rows, &format!("deletecollection of {count} Pods ({} each)", table::time(elapsed / count.max(1) as u32)), 1);
    room.clear(Subject::Pod).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_is_found_at_either_end() {
        let filling = "x".repeat(2000);
        let front = format!(r#"{{"metadata":{{"resourceVersion":"1","continue":"ab=+"}},"items":["{filling}"]}}"#);
        let back = format!(r#"{{"items":["{filling}"],"metadata":{{"continue":"ab=+"}}}}"#);
        for page in [front, back] {
            assert_eq!(continuation(page.as_bytes()).as_deref(), Some("ab%3D%2B"));
        }
        assert_eq!(continuation(br#"{"metadata":{"continue":""},"items":[]}"#), None);
        assert_eq!(continuation(br#"{"metadata":{},"items":[]}"#), None);
    }
}
