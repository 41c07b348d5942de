//! Our own client, as components of other processes have it, with more watches than a connection carries.

use crate::hollow::transport;
use crate::plane::{PATIENCE, scenario};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ferrokube_client::Transport as _;
use http::Request;
use http_body_util::BodyExt as _;

fn get(path: &str) -> Result<Request<Bytes>> {
    Ok(Request::get(path).body(Bytes::new())?)
}

#[tokio::test]
async fn more_watches_than_a_connection_carries_leave_room_for_requests() {
    scenario(
        "more_watches_than_a_connection_carries_leave_room_for_requests",
        || Ok(()),
        async |plane, ()| {
            let transport = transport(plane)?;
            let mut watches = Vec::new();
            for _ in 0..230 {
                let path = "/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Ddefault";
                let watch = tokio::time::timeout(PATIENCE, transport.open(get(path)?)).await.context("a watch finds room")??;
                ensure!(watch.status() == 200, "{}", watch.status());
                watches.push(watch.into_body());
            }
            let answer = tokio::time::timeout(PATIENCE, transport.send(get("/version")?)).await.context("a request finds room")??;
            ensure!(answer.status() == 200);
            for watch in &mut watches {
                let first = tokio::time::timeout(PATIENCE, watch.frame()).await?.context("every watch is told of what exists")??;
                ensure!(first.data_ref().is_some_and(|data| data.starts_with(b"{\"type\":\"ADDED\"")));
            }
            Ok(())
        },
    )
    .await;
}
