//! Deletes bootstrap tokens when their time has come. Reads and deletes Secrets of `kube-system`.

use super::{NAMESPACE, TYPE, is_token, time_left};
use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, ObjectKey, Optional, Selection};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::time::Duration;

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("token_cleaner");
    let secrets: Cache<Secret> =
        context.caches.select(Selection { namespace: NAMESPACE.into(), fields: format!("type={TYPE}"), ..Selection::default() });
    let add = queue.clone();
    secrets.on_change(move |d| add.add(d.key().clone()));
    secrets.synced().await;
    let reconcile = |key: ObjectKey| {
        let (context, secrets) = (&context, &secrets);
        async move {
            let Some(secret) = secrets.read(&key.namespace, &key.name)?.filter(is_token) else { return Ok(Next::Wait) };
            match time_left(&secret, Timestamp::now()) {
                None => Ok(Next::Wait),
                Some(left) if left > 0 => Ok(Next::After(Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)))),
                Some(_) => {
                    tracing::info!(secret = secret.name(), "a bootstrap token has run out");
                    let options = DeleteOptions::of_uid(secret.uid());
                    context.client.delete::<Secret>(secret.namespace(), secret.name(), &options).await.optional()?;
                    Ok(Next::Wait)
                }
            }
        }
    };
    controller::run::<_, Error, _, _>("token-cleaner", queue, 1, reconcile).await;
}
